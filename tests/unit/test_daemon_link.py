"""The choice of the link at work: what is said at start, and what happens when links come and go."""

import asyncio
import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from pyflanneld.config import go_regex
from pyflanneld.core.link.selection import Link
from pyflanneld.core.routes import KernelRoute
from pyflanneld.ports import Change
from pyflanneld.tasks.link import next_hops
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


OWN, VIP = "192.168.14.21/24", "192.168.14.100/24"
WAYS_TO_CHOOSE = {
    "name": {"iface": ("eth1",)},
    "default route": {},
    "pattern for names": {"iface_regex": (go_regex.parse_go_regex("^eth1$"),)},
    "pattern for addresses": {"iface_regex": (go_regex.parse_go_regex(r"^192\.168\.14\."),)},
    "way": {"iface_can_reach": IPv4Address("1.1.1.1")},
}


def give(node: FakeNode, *addresses: str, deprecated: str = "", index: int = 2) -> None:
    """Let eth1 have *addresses*, the best first."""
    old = frozenset(map(IPv4Address, deprecated.split()))
    own = tuple(map(IPv4Interface, addresses))
    node.kernel.set_link(replace(lan(21, index=index), addresses=own, deprecated=old))


def unmoved(node: FakeNode) -> bool:
    return node.log.count("link.changed") == node.registry.reconnects == 0


def published(etcd: FakeEtcd) -> str:
    (text,) = own_values(etcd)
    return str(json.loads(text)["PublicIP"])


@pytest.mark.parametrize("wanted", WAYS_TO_CHOOSE.values(), ids=WAYS_TO_CHOOSE)
def test_a_vip_changes_nothing(wanted: dict[str, object]) -> None:
    """It comes beside the address, before it in the kernel's order, as the better one, and goes: not a word of it."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, **wanted)
        async with node.running():
            revision = etcd.state.revision
            for there in ((OWN, VIP), (VIP, OWN), (VIP, OWN, "10.0.0.9/32"), (OWN,)):
                give(node, *there)
                await asyncio.sleep(100)
                assert (node.ready, published(etcd)) == (True, "192.168.14.21")
            assert unmoved(node)
            assert node.log.count("link.address_gone") == 0
            assert etcd.state.revision == revision

    run(scenario())


@pytest.mark.parametrize("wanted", WAYS_TO_CHOOSE.values(), ids=WAYS_TO_CHOOSE)
def test_the_own_address_is_waited_for(wanted: dict[str, object]) -> None:
    """Gone for half a minute while a VIP stays, it is told and stays published; the routes stay too."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, **wanted)
        async with node.running():
            give(node, OWN, VIP)
            await asyncio.sleep(20)
            give(node, VIP)
            await until(lambda: not node.ready, 1)
            assert node.why_not == (
                "the address 192.168.14.21 that this host publishes is gone from eth1; "
                "waiting 60 s for it, before 192.168.14.100 is published"
            )
            assert node.conditions.open()["link"].event == "link.address_gone"
            await asyncio.sleep(30)
            assert published(etcd) == "192.168.14.21"
            assert node.kernel.gateways(PROTOCOL) == {"172.7.22.0/24": "192.168.14.22"}
            give(node, VIP, OWN)
            await until(lambda: node.ready, 1)
            await asyncio.sleep(100)
            assert published(etcd) == "192.168.14.21"
            assert unmoved(node)

    run(scenario())


def test_after_the_wait_the_other_is_published_and_given_up_again() -> None:
    """A minute is waited, no more; and when the address of the start is back, it takes its place at once."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, iface=("eth1",))
        async with node.running():
            give(node, OWN, VIP)
            await asyncio.sleep(20)
            give(node, VIP)
            took_s = await until(lambda: published(etcd) == "192.168.14.100", 70)
            assert 59 < took_s < 62
            await until(lambda: node.ready, 5)
            give(node, VIP, OWN)
            await until(lambda: published(etcd) == "192.168.14.21", 2)
        changes = [fields for _, event, fields in node.log.events if event == "link.changed"]
        assert [(one["was"], one["address"]) for one in changes] == [
            ("192.168.14.21", "192.168.14.100"), ("192.168.14.100", "192.168.14.21"),
        ]

    run(scenario())


def test_a_lease_of_dhcp_that_is_lost_and_found() -> None:
    """The address is gone for half a minute, and meanwhile a VIP comes to the bare link: it is not published."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, iface=("eth1",))
        async with node.running():
            give(node)
            await until(lambda: not node.ready, 1)
            assert "eth1 has none" in node.why_not
            await asyncio.sleep(20)
            give(node, VIP)
            await asyncio.sleep(10)
            assert "waiting 60 s for it" in node.why_not
            give(node, OWN, VIP)
            await until(lambda: node.ready, 2)
            assert (published(etcd), node.log.count("link.changed")) == ("192.168.14.21", 0)

    run(scenario())


def test_an_interface_made_again_with_a_vip_first() -> None:
    """Down and up, or deleted and made again: whatever is there first, the own address is waited for."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd)
        async with node.running():
            give(node, OWN, VIP)
            node.kernel.link_down("eth1")
            await asyncio.sleep(5)
            node.kernel.remove_link("eth1")
            await asyncio.sleep(5)
            give(node, VIP, index=9)
            await asyncio.sleep(30)
            assert published(etcd) == "192.168.14.21"
            give(node, VIP, OWN, index=9)
            await until(lambda: node.ready, 5)
            assert published(etcd) == "192.168.14.21"
            assert {route.link_index for route in node.kernel.table() if route.protocol == PROTOCOL} == {9}

    run(scenario())


def test_another_link_takes_over_after_the_wait() -> None:
    """With two names the routes stay on the first link while its address is waited for, and move when it is not."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, iface=("eth1", "eth2"))
        async with node.running():
            give(node)
            await until(lambda: not node.ready, 1)
            assert "is gone from eth1; waiting 60 s for it, before 192.168.99.7 is published" in node.why_not
            await asyncio.sleep(50)
            assert (published(etcd), node.log.count("link.changed")) == ("192.168.14.21", 0)
            await until(lambda: published(etcd) == "192.168.99.7", 15)
            give(node, OWN)
            await until(lambda: published(etcd) == "192.168.14.21" and node.ready, 5)
            assert node.kernel.gateways(PROTOCOL) == {"172.7.22.0/24": "192.168.14.22"}

    run(scenario())


def test_a_link_that_was_named_first_and_came_late_is_waited_for() -> None:
    """It is moved to as soon as it is there; when it blips later, the address of the start does not come back."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, iface=("eth1", "eth2"))
        node.kernel.remove_link("eth1")
        async with node.running():
            assert published(etcd) == "192.168.99.7"
            give(node, OWN)
            await until(lambda: published(etcd) == "192.168.14.21" and node.ready, 5)
            give(node)
            await until(lambda: not node.ready, 1)
            await asyncio.sleep(50)
            assert (published(etcd), node.log.count("link.changed")) == ("192.168.14.21", 1)
            give(node, OWN)
            await until(lambda: node.ready, 5)
            assert (published(etcd), node.log.count("link.changed")) == ("192.168.14.21", 1)

    run(scenario())


def test_a_storm_of_route_events_does_not_put_off_the_other_address() -> None:
    """The links are read when the wait is over, although nothing but routes is reported all the time."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, iface=("eth1", "eth2"))
        objects = node.kernel.objects

        async def stormy(listing: object, *, patient: bool = False) -> tuple[Any, ...]:
            node.kernel.wake(Change.ROUTES)
            return await objects(listing, patient=patient)

        async with node.running():
            give(node)
            await until(lambda: not node.ready, 1)
            node.kernel.objects = stormy  # type: ignore[method-assign]
            await until(lambda: published(etcd) == "192.168.99.7", 65)

    run(scenario())


def test_the_next_hops_that_a_subnet_may_contain() -> None:
    """Those in the network, each since the oldest lease that publishes it, or for ever where a route leads over it."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd)
        first, second = (etcd.put(b"172.7.%d.0-24" % number, value("172.7.99.9")) for number in (40, 30))
        assert first.create_revision < second.create_revision
        async with node.running():
            assert node.daemon is not None
            state = node.daemon._node
            assert state is not None
            foreign = IPv4Address("172.7.5.5")
            hops = next_hops(state, [foreign])
            assert hops == {IPv4Address("172.7.99.9"): first.create_revision, foreign: 0}
            assert next_hops(state, hops) == dict.fromkeys(hops, 0)

    run(scenario())


def test_what_public_ip_names_is_published_whatever_comes() -> None:
    """With --public-ip no other address makes a connection or a line of the log; its own end is told."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, iface=("eth1",), public_ip=IPv4Address("192.168.14.21"))
        async with node.running():
            for there in ((OWN, VIP), (VIP, OWN), ("10.0.0.9/8", OWN)):
                give(node, *there)
                await asyncio.sleep(100)
                assert node.ready
            give(node, VIP)
            await until(lambda: not node.ready, 1)
            assert node.why_not == "--public-ip=192.168.14.21 is no longer an address of eth1"
            await asyncio.sleep(1000)
            give(node, OWN)
            await until(lambda: node.ready, 1)
            assert published(etcd) == "192.168.14.21"
            assert unmoved(node)

    run(scenario())


@pytest.mark.parametrize(
    "wanted",
    [
        {"iface": ("192.168.14.21",)},
        {"public_ip": IPv4Address("192.168.14.21")},
        {"iface": ("eth1",), "public_ip": IPv4Address("192.168.14.21")},
    ],
    ids=["--iface=ADDRESS", "--public-ip", "--iface --public-ip"],
)
def test_a_deprecated_address_that_is_named_counts(wanted: dict[str, object]) -> None:
    """At the start as the only one of its link, and while the daemon runs."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, **wanted)
        give(node, OWN, deprecated="192.168.14.21")
        async with node.running():
            assert said(node)["address"] == "192.168.14.21"
            give(node, OWN)
            await asyncio.sleep(20)
            give(node, VIP, OWN, deprecated="192.168.14.21")
            await asyncio.sleep(100)
            assert (node.ready, published(etcd), node.log.count("link.changed")) == (True, "192.168.14.21", 0)

    run(scenario())


def test_an_address_that_becomes_deprecated_stays_published() -> None:
    """It is there, and peers reach it."""

    async def scenario() -> None:
        etcd = cluster()
        for wanted in WAYS_TO_CHOOSE.values():
            node = node_of(etcd, **wanted)
            async with node.running():
                give(node, VIP, OWN, deprecated="192.168.14.21")
                await asyncio.sleep(100)
                assert (node.ready, published(etcd)) == (True, "192.168.14.21")

    run(scenario())


def default_over(*indexes: int) -> KernelRoute:
    """Return a default route with a next hop through each link."""
    return KernelRoute(NOWHERE, None, 0, 4, 0, plain=False, multipath=indexes)


def test_a_default_route_with_several_next_hops() -> None:
    """Through one link it is like any other; through several the first counts, and that is told."""

    async def scenario() -> None:
        for route, link, told in (
            (default_over(3, 3), "eth2", []),
            (default_over(3, 2), "eth2", ["the default route goes through eth1 as well; choose one with --iface"]),
            (default_over(9, 2), "eth1", []),
        ):
            node = node_of(cluster())
            node.kernel.add_foreign(route)
            async with node.running():
                assert (said(node)["link"], said(node)["why"]) == (link, "has the default route")
                shared = [fields["warning"] for _, event, fields in node.log.events if event.endswith("route_shared")]
                assert shared == told

    run(scenario())


def test_the_own_address_is_no_gateway_while_it_is_waited_for() -> None:
    """An old lease of this host is not taken for a peer's, though no link has its address at that moment."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_of(etcd, iface=("eth1",))
        async with node.running():
            give(node, OWN, VIP)
            await asyncio.sleep(20)
            give(node, VIP)
            await until(lambda: not node.ready, 1)
            etcd.put(b"172.7.77.0-24", value("192.168.14.21"), lease_id=etcd.grant(86400))
            await until(lambda: node.log.count("peer.quarantined"), 5)
            await asyncio.sleep(20)
            assert node.kernel.gateways(PROTOCOL) == {"172.7.22.0/24": "192.168.14.22"}

    run(scenario())
