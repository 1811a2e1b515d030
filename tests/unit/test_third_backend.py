"""A backend that nothing outside its own file knows: reconciled, repaired and swept like the others."""

import asyncio
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from pyflanneld.backends import BACKENDS, Host, Peers
from pyflanneld.core.lease.codec import LeaseAttrs, encode_value
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.neighbours import Entry, KernelEntry
from pyflanneld.core.routes import KernelRoute, Route
from tests.support.bridge_backend import BACKEND, BRIDGE, BridgeNeighbours, mac_of
from tests.support.fakes.node import PROTOCOL, FakeNode
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

CONFIG = b'{"Network":"172.7.0.0/16","Backend":{"Type":"bridge-neighbours"}}'
KEY, FIRST = b"172.7.22.0-24", IPv4Address("172.7.22.1")
INDEX = 7


class EntriesAndRoutes(BridgeNeighbours):
    """Wants routes as well, which are to come behind the entries."""

    def wanted(self, peers: Peers, host: Host) -> Iterable[Any]:
        routes = (Route(subnet, gateway, host.link.index) for subnet, gateway in peers.gateways.items())
        return [*routes, *BridgeNeighbours.wanted(self, peers, host)]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, BACKEND.name, BACKEND)


def lease(mac: str, address: str = "192.168.14.22") -> bytes:
    return encode_value(LeaseAttrs(IPv4Address(address), BACKEND.lease_type, data=f'{{"Mac":"{mac}"}}'))


def cluster(**leases: str) -> FakeEtcd:
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    for third, mac in leases.items():
        etcd.put(f"172.7.{third[1:]}.0-24".encode(), lease(mac))
    return etcd


def node_on(etcd: FakeEtcd, index: int = INDEX) -> FakeNode:
    node = FakeNode(etcd, env="FLANNEL_SUBNET=172.7.21.1/24\n")
    node.kernel.set_link(Link(index, BRIDGE, 1500, True, (IPv4Interface("172.7.21.1/16"),)))
    return node


def entries(node: FakeNode, index: int = INDEX) -> dict[str, str | None]:
    return {str(one.address): one.mac for one in node.kernel.neighbours_of(index) if one.state == "permanent"}


def test_what_it_says_and_what_it_wants() -> None:
    """The lease has its type and data, the file its MTU, the bridge an entry for each peer; there are no routes."""

    async def scenario() -> None:
        etcd = cluster(s22="aa:bb:cc:00:00:22", s23="aa:bb:cc:00:00:23")
        node = node_on(etcd)
        async with node.running():
            await until(lambda: len(entries(node)) == 2, 1)
            assert entries(node) == {"172.7.22.1": "aa:bb:cc:00:00:22", "172.7.23.1": "aa:bb:cc:00:00:23"}
            own = next(record for record in etcd.records() if record.name == b"172.7.21.0-24")
            assert own.value == (
                b'{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"bridge-neighbours",'
                b'"BackendData":{"Mac":"02:00:c0:a8:0e:15"}}'
            )
            assert "FLANNEL_MTU=1450\n" in (node.file.text or "")
            assert node.kernel.gateways() == {}
            assert node.counters.changes["neighbour"].total() == 2
            applied = len(node.kernel.applied)
            await asyncio.sleep(3600)
            assert len(node.kernel.applied) == applied, "nothing to do is nothing done"

    run(scenario())


def test_it_follows_the_peers() -> None:
    """Another MAC address replaces the entry, a peer that leaves takes it away, a lease without data has none."""

    async def scenario() -> None:
        etcd = cluster(s22="aa:bb:cc:00:00:22")
        node = node_on(etcd)
        async with node.running():
            etcd.put(KEY, lease("aa:bb:cc:00:00:99"))
            await until(lambda: entries(node) == {"172.7.22.1": "aa:bb:cc:00:00:99"}, 1)
            etcd.put(b"172.7.24.0-24", encode_value(LeaseAttrs(IPv4Address("192.168.14.24"), BACKEND.lease_type)))
            etcd.delete(KEY)
            await until(lambda: entries(node) == {}, 1)
            assert node.ready

    run(scenario())


def test_kinds_come_in_order_and_go_in_the_reverse_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet that a route sends to the bridge finds the entry there, from the first one to the last."""
    monkeypatch.setitem(BACKENDS, BACKEND.name, EntriesAndRoutes())

    async def scenario() -> None:
        etcd = cluster(s22="aa:bb:cc:00:00:22", s23="aa:bb:cc:00:00:23")
        node = node_on(etcd)
        async with node.running():
            await until(lambda: len(node.kernel.applied) == 4, 1)
            assert [type(change.object) for change in node.kernel.applied] == [Entry, Entry, Route, Route]
            etcd.delete(KEY)
            await until(lambda: len(node.kernel.applied) == 6, 1)
            assert [type(change.object) for change in node.kernel.applied[4:]] == [KernelRoute, KernelEntry]

    run(scenario())


def test_it_is_repaired() -> None:
    """What somebody deletes or changes is put right with the next read, and said."""

    async def scenario() -> None:
        node = node_on(cluster(s22="aa:bb:cc:00:00:22"))
        async with node.running():
            await until(lambda: len(entries(node)) == 1, 1)
            node.kernel.forget(INDEX, FIRST)
            await until(lambda: entries(node) == {"172.7.22.1": "aa:bb:cc:00:00:22"}, 11)
            assert node.log.count("neighbours.changed_by_others") == 1
            node.kernel.forget(INDEX, FIRST)
            node.kernel.meet(INDEX, Neighbour(FIRST, "permanent", "de:ad:be:ef:00:00"))
            await until(lambda: entries(node) == {"172.7.22.1": "aa:bb:cc:00:00:22"}, 11)

    run(scenario())


def test_a_learned_entry_is_adopted() -> None:
    """One that the kernel has learned stands in the way of a creation, and is replaced."""

    async def scenario() -> None:
        node = node_on(cluster(s22="aa:bb:cc:00:00:22"))
        node.kernel.meet(INDEX, Neighbour(FIRST, "stale", "de:ad:be:ef:00:00"))
        async with node.running():
            await until(lambda: entries(node) == {"172.7.22.1": "aa:bb:cc:00:00:22"}, 1)
            assert node.log.count("neighbour.adopted") == 1

    run(scenario())


def test_leftovers_are_swept() -> None:
    """Entries and routes of ours that nothing wants go; those outside the network and on other links stay."""

    async def scenario() -> None:
        node = node_on(cluster())
        node.kernel.meet(INDEX, Neighbour(IPv4Address("172.7.99.1"), "permanent", mac_of(FIRST)))
        node.kernel.meet(INDEX, Neighbour(IPv4Address("10.0.0.1"), "permanent", mac_of(FIRST)))
        node.kernel.meet(2, Neighbour(FIRST, "permanent", mac_of(FIRST)))
        left = KernelRoute(IPv4Network("172.7.88.0/24"), IPv4Address("192.168.14.88"), 2, PROTOCOL, 0, plain=True)
        node.kernel.add_foreign(left)
        async with node.running():
            await until(lambda: len(node.kernel.applied) == 2, 1)
            assert entries(node).keys() == {"10.0.0.1"}
            assert entries(node, 2).keys() == {"172.7.22.1"}
            assert node.kernel.gateways() == {}

    run(scenario())


def test_another_bridge_gets_them_all() -> None:
    """When the bridge is made anew its index is another one, and every entry is put there."""

    async def scenario() -> None:
        node = node_on(cluster(s22="aa:bb:cc:00:00:22"))
        async with node.running():
            node.kernel.remove_link(BRIDGE)
            await asyncio.sleep(1)
            node.kernel.set_link(Link(9, BRIDGE, 1500, True, (IPv4Interface("172.7.21.1/16"),)))
            await until(lambda: entries(node, 9) == {"172.7.22.1": "aa:bb:cc:00:00:22"}, 2)
            await until(lambda: node.ready, 2)

    run(scenario())


def test_a_refusal_is_a_condition_of_its_kind() -> None:
    """It is named as what it is, blocks readiness, and goes when the kernel accepts the entry."""

    async def scenario() -> None:
        node = node_on(cluster(s22="aa:bb:cc:00:00:22"))
        node.kernel.refuse((INDEX, FIRST), 12, times=3)
        async with node.running(ready=False):
            await until(lambda: node.log.count("neighbour.failed") == 1, 5)
            await until(lambda: node.ready, 10)
            assert entries(node) == {"172.7.22.1": "aa:bb:cc:00:00:22"}

    run(scenario())
