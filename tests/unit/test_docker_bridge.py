"""Docker's bridge beside a running daemon: said when it sits elsewhere, forgotten when it is right."""

import asyncio
from ipaddress import IPv4Interface, IPv4Network

import pytest

from pyflanneld.config.load import load
from pyflanneld.core.docker import bridge_complaint
from pyflanneld.core.host import ServedNetwork
from pyflanneld.core.link.selection import Link
from pyflanneld.errors import UsageError
from tests.support.fakes.node import CONFIG, FakeNode, lan
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

SUBNET = IPv4Network("172.7.21.0/24")
PINNED = "FLANNEL_SUBNET=172.7.21.1/24\n"


def bridge(*addresses: str, name: str = "docker0", up: bool = False) -> Link:
    return Link(7, name, 1500, up, tuple(map(IPv4Interface, addresses)))


@pytest.mark.parametrize(
    ("addresses", "fits"),
    [
        (("172.7.21.1/24",), True),
        (("172.7.21.9/24",), True),
        (("172.17.0.1/16", "172.7.21.1/24"), True),
        ((), True),
        (("172.17.0.1/16",), False),
        (("172.7.21.1/16",), False),
        (("172.7.21.1/25",), False),
        (("172.7.22.1/24",), False),
    ],
)
def test_the_network_of_the_bridge_is_the_leased_subnet(addresses: tuple[str, ...], fits: bool) -> None:
    """One of its addresses has to be in a network that is exactly the subnet; one without addresses is not done yet."""
    assert (bridge_complaint([lan(21), bridge(*addresses)], "docker0", SUBNET) is None) is fits


def test_only_the_named_bridge_is_looked_at() -> None:
    """Another name, none at all, or no such link: nothing to say."""
    links = [lan(21), bridge("172.17.0.1/16")]
    for name in ("br0", ""):
        assert bridge_complaint(links, name, SUBNET) is None
    assert bridge_complaint([lan(21)], "docker0", SUBNET) is None


def test_a_bridge_elsewhere_is_reported_until_it_is_right() -> None:
    """A warning with what to do, no obstacle to readiness, and an end when Docker was started again."""

    async def scenario() -> None:
        etcd = FakeEtcd()
        etcd.put_config(CONFIG)
        node = FakeNode(etcd, env=PINNED)
        node.kernel.set_link(bridge("172.17.0.1/16"))
        async with node.running():
            await until(lambda: node.log.count("docker.bridge_differs"), 5)
            assert node.ready
            (fields,) = [fields for _, event, fields in node.log.events if event == "docker.bridge_differs"]
            assert "docker0 has 172.17.0.1/16, but the leased subnet is 172.7.21.0/24" in str(fields["condition"])
            assert "--bip=172.7.21.1/24" in str(fields["condition"])
            node.kernel.set_link(bridge("172.7.21.1/24"))
            await until(lambda: node.log.count("condition.resolved"), 5)
            node.kernel.set_link(bridge("172.7.21.1/24", up=True))
            node.kernel.remove_link("docker0")
            node.kernel.wake()
            await until(lambda: node.kernel.calls["links"] > 5, 60)
        assert node.log.count("docker.bridge_differs") == node.log.count("condition.resolved") == 1

    run(scenario())


def test_other_daemons_are_asked_once_a_minute() -> None:
    """While the bridge is theirs nothing is said; whoever comes later is noticed, and so is another bridge at once."""

    async def scenario() -> None:
        etcd = FakeEtcd()
        etcd.put_config(CONFIG)
        node = FakeNode(etcd, env=PINNED)
        node.kernel.set_link(bridge("172.8.3.1/24"))
        others = [ServedNetwork(IPv4Network("172.8.0.0/16"), 77)]
        asked_at = []

        def ask() -> list[ServedNetwork]:
            asked_at.append(node.clock.now_s())
            return others

        node.host_networks.others = ask  # type: ignore[method-assign]
        async with node.running():
            began_s = node.clock.now_s()
            await asyncio.sleep(300)
            assert node.log.count("docker.bridge_differs") == 0
            assert 4 <= len([at_s for at_s in asked_at if at_s > began_s]) <= 6
            node.kernel.set_link(bridge("172.17.0.1/16"))
            await until(lambda: node.log.count("docker.bridge_differs"), 1)
            others.append(ServedNetwork(IPv4Network("172.17.0.0/16"), 78))
            await until(lambda: node.log.count("condition.resolved"), 75)

    run(scenario())


def test_it_is_read_with_the_links_that_are_read_anyway() -> None:
    """Without a name nothing is said; with one, not a single question more is put to the kernel."""

    async def scenario() -> None:
        calls = []
        for name in ("docker0", ""):
            etcd = FakeEtcd()
            etcd.put_config(CONFIG)
            node = FakeNode(etcd, env=PINNED)
            node.configure(docker_bridge=name)
            node.kernel.set_link(bridge("172.17.0.1/16"))
            async with node.running():
                pass
            calls.append(dict(node.kernel.calls))
            assert node.log.count("docker.bridge_differs") == bool(name)
        assert calls[0] == calls[1]

    run(scenario())


def test_the_flag() -> None:
    """docker0 unless said otherwise; empty on the command line is none; a name is checked."""
    assert load([], {}).docker_bridge == load([], {"FLANNELD_DOCKER_BRIDGE": ""}).docker_bridge == "docker0"
    assert load(["--docker-bridge="], {"FLANNELD_DOCKER_BRIDGE": "br0"}).docker_bridge == ""
    with pytest.raises(UsageError, match="--docker-bridge: 'a b' is not usable: the name of a bridge"):
        load(["--docker-bridge=a b"], {})
