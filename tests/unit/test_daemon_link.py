"""The choice of the link at work: what is said at start, and what happens when links come and go."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from pyflanneld.config import go_regex
from pyflanneld.core.link.selection import Link
from pyflanneld.core.routes import KernelRoute
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, lan, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

NOWHERE = IPv4Network("0.0.0.0/0")
PEER = b"172.7.22.0-24"
GATEWAY = IPv4Address("192.168.99.1")


def wan(*, index: int = 3, host: int = 7) -> Link:
    return Link(index, "eth2", 1500, True, (IPv4Interface(f"192.168.99.{host}/24"),))


def cluster() -> FakeEtcd:
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    etcd.put(PEER, value("192.168.14.22"), lease_id=etcd.grant(86400))
    return etcd


def node_of(etcd: FakeEtcd, **wanted: object) -> FakeNode:
    """Return a node with eth1 (192.168.14.21), eth2 (192.168.99.7) and the default route over eth1."""
    node = FakeNode(etcd)
    node.configure(**{"iface": (), **wanted})
    node.kernel.set_link(wan())
    node.kernel.add_foreign(KernelRoute(NOWHERE, IPv4Address("192.168.14.1"), 2, 4, 0, plain=True))
    return node


def said(node: FakeNode) -> dict[str, object]:
    (fields,) = [fields for _, event, fields in node.log.events if event == "link.chosen"]
    return dict(fields)


def own_values(etcd: FakeEtcd) -> list[bytes]:
    return [record.value for record in etcd.records() if record.name != PEER]


@pytest.mark.parametrize(
    ("wanted", "address", "why"),
    [
        ({}, "192.168.14.21", "has the default route"),
        ({"iface_can_reach": GATEWAY}, "192.168.99.7", f"is on the kernel's route to --iface-can-reach={GATEWAY}"),
        ({"iface_regex": (go_regex.parse_go_regex("99"),)}, "192.168.99.7", "first match of --iface-regex=99"),
        ({"public_ip": IPv4Address("192.168.99.7")}, "192.168.99.7", "carries --public-ip=192.168.99.7"),
    ],
)
def test_the_log_says_why(wanted: dict[str, object], address: str, why: str) -> None:
    """The link, its address, its MTU and what made it the one are logged once at start."""

    async def scenario() -> None:
        node = node_of(cluster(), **wanted)
        async with node.running():
            fields = said(node)
        assert (fields["address"], fields["mtu"], fields["why"]) == (address, 1500, why)

    run(scenario())


def test_the_address_of_the_choice_is_published() -> None:
    """With --iface=ADDRESS it is that address that the lease carries, not the first of the link."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, iface=("192.168.14.121",))
        second = (*lan(21).addresses, IPv4Interface("192.168.14.121/24"))
        node.kernel.set_link(replace(lan(21), addresses=second))
        async with node.running():
            assert [b"192.168.14.121" in text for text in own_values(etcd)] == [True]

    run(scenario())


def test_routes_that_move_do_not_move_the_node() -> None:
    """The default route goes to another link and the way with it; the node stays where it is, without a word."""

    async def scenario() -> None:
        for wanted in ({}, {"iface_can_reach": IPv4Address("1.1.1.1")}):
            node = node_of(cluster(), **wanted)
            async with node.running():
                node.kernel.add_foreign(KernelRoute(NOWHERE, GATEWAY, 3, 4, 0, plain=True))
                node.kernel.wake()
                await until(lambda node=node: node.kernel.calls["links"] > 3, 60)
                assert node.kernel.gateways(PROTOCOL) == {"172.7.22.0/24": "192.168.14.22"}
                assert node.log.count("link.changed") == 0

    run(scenario())


def test_a_link_chosen_by_the_way_is_found_again() -> None:
    """Deleted and made anew, it has another index; the routes are put on that one."""

    async def scenario() -> None:
        node = node_of(cluster(), iface_can_reach=IPv4Address("1.1.1.1"))
        async with node.running():
            node.kernel.remove_link("eth1")
            await until(lambda: not node.ready, 5)
            assert "routes cannot be placed: there is no interface eth1; this host has: eth2" in node.why_not
            node.kernel.set_link(lan(21, index=9))
            await until(lambda: node.ready, 5)
            assert {route.link_index for route in node.kernel.table() if route.protocol == PROTOCOL} == {9}

    run(scenario())


def test_an_address_that_changes_is_published_anew() -> None:
    """The link that matches gets another address: that is logged with the reason, and the lease says so."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, iface_regex=(go_regex.parse_go_regex("^eth1$"),))
        async with node.running():
            node.kernel.set_link(lan(31))
            await until(lambda: b"192.168.14.31" in own_values(etcd)[0], 5)
        (fields,) = [fields for _, event, fields in node.log.events if event == "link.changed"]
        assert (fields["was"], fields["address"]) == ("192.168.14.21", "192.168.14.31")
        assert fields["why"] == "first match of --iface-regex=^eth1$"

    run(scenario())
