"""A network configuration that changes under a daemon that runs: row F44."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface

import pytest

from pyflanneld.config.settings import Settings
from pyflanneld.core.host import ServedNetwork
from pyflanneld.core.link.selection import Link
from pyflanneld.errors import AlreadyRunning, RegistryUnavailable
from tests.support.fakes.node import CONFIG, FakeNode, lan, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until
from tests.support.network.rule_writers import OurDaemon

UNFIT = {
    "network": CONFIG.replace(b"172.7.", b"10.7."),
    "backend": CONFIG.replace(b"host-gw", b"alloc"),
    "length": CONFIG.replace(b"{", b'{"SubnetLen":25,', 1),
    "bounds": CONFIG.replace(b"{", b'{"SubnetMin":"172.7.100.0",', 1),
    "family": CONFIG.replace(b"{", b'{"EnableIPv6":true,"IPv6Network":"fd00::/48",', 1),
    "broken": b"{",
}
FITS = {
    "bounds": CONFIG.replace(b"{", b'{"SubnetMax":"172.7.250.0",', 1),
    "spelling": b' {"network":"172.7.0.0/16", "Backend":{"type":"host-gw"}}',
    "firewall": CONFIG.replace(b"{", b'{"EnableNFTables":true,', 1),
}


def a_node() -> tuple[FakeEtcd, FakeNode]:
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    return etcd, FakeNode(etcd, env="FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\n")


@pytest.mark.parametrize("changed", [*UNFIT.values(), None], ids=[*UNFIT, "gone"])
def test_what_does_not_fit_is_told_and_held_out(changed: bytes | None) -> None:
    """Within seconds; the node keeps what it has, and is ready when the configuration fits again."""

    async def scenario() -> None:
        etcd, node = a_node()
        async with node.running():
            held, text = etcd.records(), node.file.text
            etcd.delete_key(b"config") if changed is None else etcd.put_config(changed)
            await until(lambda: not node.ready, 5)
            assert "does not fit this node any more" in node.why_not
            assert node.daemon is not None
            assert node.daemon.health().live
            assert (etcd.records(), node.file.text) == (held, text)
            etcd.put_config(CONFIG)
            await until(lambda: node.ready, 5)

    run(scenario())


@pytest.mark.parametrize("changed", FITS.values(), ids=FITS)
def test_what_fits_disturbs_nobody(changed: bytes) -> None:
    """It is taken note of."""

    async def scenario() -> None:
        etcd, node = a_node()
        async with node.running():
            etcd.put_config(changed)
            await until(lambda: any(event == "config.fits" for _, event, _ in node.log.events), 5)
            assert node.ready

    run(scenario())


def test_a_network_that_has_grown_is_taken_up() -> None:
    """Peers in its new part get routes that are repaired at once, rules and file name it, and the lease stays; the node
    is ready throughout."""

    async def scenario() -> None:
        etcd, node = a_node()
        node.configure(ip_masq=True)
        beyond = etcd.put(b"172.6.9.0-24", value("192.168.14.22"))
        async with node.running():
            held = etcd.records()
            assert not node.kernel.gateways()
            etcd.put_config(CONFIG.replace(b"172.7.0.0/16", b"172.6.0.0/15"))
            await until(lambda: node.kernel.gateways() == {"172.6.9.0/24": "192.168.14.22"} or not node.ready, 5)
            await until(lambda: "FLANNEL_NETWORK=172.6.0.0/15" in (node.file.text or "") or not node.ready, 5)
            rules = [node.firewall.rules(*chain) for chain in (("nat", "FLANNEL-POSTRTG"), ("filter", "FLANNEL-FWD"))]
            assert all("172.6.0.0/15" in str(some) and "172.7.0.0/16" not in str(some) for some in rules)
            assert etcd.records() == held
            assert beyond in held
            assert node.ready
            node.kernel.delete_route(IPv4Network("172.6.9.0/24"))
            await until(lambda: node.kernel.gateways() == {"172.6.9.0/24": "192.168.14.22"}, 2)
            etcd.put_config(CONFIG)
            await until(lambda: "Network: 172.6.0.0/15 -> 172.7.0.0/16" in node.why_not, 5)

    run(scenario())


def test_a_network_does_not_grow_into_that_of_another_daemon() -> None:
    """It names both networks and the other daemon, and the node goes on in its own."""

    async def scenario() -> None:
        etcd, node = a_node()
        node.host_networks.served = [ServedNetwork(IPv4Network("172.6.0.0/16"), 77)]
        etcd.put(b"172.6.9.0-24", value("192.168.14.22"))
        async with node.running():
            assert node.host_networks.claimed == (IPv4Network("172.7.0.0/16"),)
            etcd.put_config(CONFIG.replace(b"172.7.0.0/16", b"172.6.0.0/15"))
            await until(lambda: not node.ready, 5)
            assert "172.6.0.0/15 overlaps 172.6.0.0/16, which another pyflanneld (pid 77) serves" in node.why_not
            assert not node.kernel.gateways()
            assert node.host_networks.claimed == (IPv4Network("172.7.0.0/16"),)
            etcd.put_config(CONFIG)
            await until(lambda: node.ready, 5)

    run(scenario())


def test_a_network_that_another_daemon_of_the_host_serves_is_refused() -> None:
    """The start ends with 73, names both networks and the other daemon, and leaves nothing; one that ends in time is
    waited for."""

    async def scenario() -> None:
        etcd, node = a_node()
        node.host_networks.served = [ServedNetwork(IPv4Network("172.0.0.0/12"), 77)]
        with pytest.raises(ExceptionGroup) as caught:
            await node.build().run()
        [error] = caught.value.exceptions
        assert isinstance(error, AlreadyRunning)
        assert error.exit_code == 73
        assert "172.7.0.0/16 overlaps 172.0.0.0/12, which another pyflanneld (pid 77) serves" in str(error)
        assert not etcd.records()
        asyncio.get_running_loop().call_later(1.0, node.host_networks.served.clear)
        async with node.running():
            assert node.host_networks.claimed == (IPv4Network("172.7.0.0/16"),)

    run(scenario())


def test_rules_of_a_network_that_another_daemon_serves_by_now_stay() -> None:
    """The subnet file names the network of a former run: its rules are the other daemon's."""

    async def scenario(served: list[ServedNetwork]) -> bool:
        _, node = a_node()
        node.file.text = "FLANNEL_NETWORK=172.6.0.0/16\nFLANNEL_SUBNET=172.6.21.1/24\n"
        other = OurDaemon(node.firewall_programs, "iptables", IPv4Network("172.6.0.0/16"), IPv4Network("172.6.21.0/24"))
        await other.check()
        node.host_networks.served = served
        node.configure(ip_masq=True)
        async with node.running():
            await until(lambda: node.log.count("daemon.ready") == 1, 5)
            return not await other.check()

    assert run(scenario([ServedNetwork(IPv4Network("172.6.0.0/16"), 77)]))
    assert not run(scenario([]))


def test_a_bridge_in_the_network_of_another_daemon_is_no_complaint() -> None:
    """Unless the flag names it: by default Docker's bridge is one network's, and the other daemons are silent."""

    async def scenario(**asked: str) -> bool:
        _, node = a_node()
        node.host_networks.served = [ServedNetwork(IPv4Network("172.8.0.0/16"), 77)]
        node.settings = Settings(iface=("eth1",), **asked)
        node.kernel.set_link(Link(3, "docker0", 1500, True, (IPv4Interface("172.8.21.1/24"),)))
        async with node.running():
            return node.log.count("docker.bridge_differs") > 0

    assert not run(scenario())
    assert run(scenario(docker_bridge="docker0"))


def test_each_family_can_grow() -> None:
    """A peer whose IPv6 half is in the new part gets its IPv6 route too."""
    dual = CONFIG.replace(b"{", b'{"EnableIPv6":true,"IPv6Network":"2001:cafe:42::/56",', 1)

    async def scenario() -> None:
        etcd, node = a_node()
        etcd.put_config(dual)
        node.kernel.set_link(replace(lan(21), addresses6=(IPv6Interface("2001:db8::21/64"),)))
        text = b'{"PublicIP":"192.168.14.22","PublicIPv6":"2001:db8::22","BackendType":"host-gw"}'
        etcd.put(b"172.7.22.0-24&2001:cafe:42:100::-64", text)
        async with node.running():
            assert "2001:cafe:42:100::/64" not in node.kernel.gateways()
            etcd.put_config(dual.replace(b"42::/56", b"42::/55"))
            both = {"172.7.22.0/24": "192.168.14.22", "2001:cafe:42:100::/64": "2001:db8::22"}
            await until(lambda: node.kernel.gateways() == both or not node.ready, 5)
            assert node.ready

    run(scenario())


def test_a_change_during_an_outage_is_found_after_it() -> None:
    """And the outage itself says nothing about the configuration."""

    async def scenario() -> None:
        etcd, node = a_node()
        async with node.running():
            node.registry.down = RegistryUnavailable("etcd is away")
            etcd.put_config(UNFIT["backend"])
            await until(lambda: "etcd:peers" in node.conditions.open(), 60)
            assert "config_change" not in node.conditions.open()
            node.registry.down = None
            await until(lambda: "Backend: host-gw -> alloc" in node.why_not, 60)

    run(scenario())
