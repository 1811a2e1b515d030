"""The backend vxlan: a whole daemon on fakes, in virtual time."""

import asyncio
from dataclasses import replace
from errno import EADDRINUSE, ENOBUFS
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface

import pytest

from pyflanneld.core.lease.codec import LeaseAttrs, encode_value
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.link.vxlan import Vxlan
from pyflanneld.core.objects.plan import Drop
from pyflanneld.core.routes import BOOT, KernelRoute, Route
from pyflanneld.core.vxlan.forwardings import KernelForwarding
from pyflanneld.errors import RegistryUnavailable
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, MemoryState, lan
from tests.support.fakes.registry import FakeEtcd, FakeRegistry
from tests.support.fakes.virtual_time import run, until

VXLAN = b'{"Network":"172.7.0.0/16","Backend":{"Type":"VxLAN"}}'
DIRECT = b'{"Network":"172.7.0.0/16","Backend":{"Type":"VxLAN","Directrouting":true}}'
OURS = "7e:00:00:00:00:21"
MAC22, MAC23 = "02:00:00:00:00:22", "02:00:00:00:00:23"
NEXT = 3  # the index that the next link gets


def lease(mac: str | None, address: str = "192.168.14.22", more: str = '"VNI":1,') -> bytes:
    data = f'{{{more}"VtepMAC":"{mac}"}}' if mac is not None else ""
    return encode_value(LeaseAttrs(IPv4Address(address), "vxlan", data=data))


def cluster(config: bytes = VXLAN, **leases: bytes) -> FakeEtcd:
    etcd = FakeEtcd()
    etcd.put_config(config)
    for third, value in leases.items():
        etcd.put(f"172.7.{third[1:]}.0-24".encode(), value)
    return etcd


def node_on(etcd: FakeEtcd) -> FakeNode:
    return FakeNode(etcd, env="FLANNEL_SUBNET=172.7.21.1/24\n")


def device(node: FakeNode) -> Link:
    return next(link for link in node.kernel.table_of_links() if link.vxlan is not None)


def objects(node: FakeNode) -> tuple[dict[str, str | None], dict[str, str], dict[str, str]]:
    """Return the neighbours, the forwarding entries and the routes."""
    index = next((link.index for link in node.kernel.table_of_links() if link.vxlan is not None), 0)
    neighbours = {str(one.address): one.mac for one in node.kernel.neighbours_of(index) if one.state == "permanent"}
    return neighbours, node.kernel.forwardings_of(index), node.kernel.gateways()


WHOLE = {"172.7.22.0": MAC22}, {MAC22: "192.168.14.22"}, {"172.7.22.0/24": "172.7.22.0"}
NONE: tuple[dict[str, str], ...] = ({}, {}, {})


def test_the_device_its_lease_and_a_peer() -> None:
    """The device comes with its address, the lease says its MAC address, and a peer has all three objects."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            there = device(node)
            assert there.vxlan is not None
            assert (there.name, there.mtu, there.addresses) == ("flannel.1", 1450, (IPv4Interface("172.7.21.0/32"),))
            mac = there.vxlan.mac
            assert there.vxlan == Vxlan(mac, 1, 8472, 2, IPv4Address("192.168.14.21"))
            own = next(record for record in etcd.records() if record.name == b"172.7.21.0-24")
            assert own.value == (
                b'{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"vxlan",'
                b'"BackendData":{"VNI":1,"VtepMAC":"%s"}}' % mac.encode()
            )
            assert "FLANNEL_MTU=1450\n" in (node.file.text or "")
            applied = len(node.kernel.applied)
            await asyncio.sleep(3600)
            assert len(node.kernel.applied) == applied, "nothing to do is nothing done"

    run(scenario())


def test_the_order_in_which_objects_come_and_go() -> None:
    """A route comes last and goes first: a packet never finds half of its way."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22), s23=lease(MAC23, "192.168.14.23"))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: len(objects(node)[2]) == 2, 1)
            names = [type(change.object).__name__ for change in node.kernel.applied]
            assert names == ["Device", "LinkAddress", *(["Entry"] * 2), *(["Forwarding"] * 2), *(["Route"] * 2)]
            done = len(node.kernel.applied)
            etcd.delete(b"172.7.22.0-24")
            await until(lambda: len(objects(node)[2]) == 1, 1)
            gone = node.kernel.applied[done:]
            names = [type(change.object).__name__ for change in gone]
            assert names == ["KernelRoute", "KernelForwarding", "KernelEntry"]
            assert all(isinstance(change, Drop) for change in gone)

    run(scenario())


def test_a_peer_that_moves() -> None:
    """Another host moves the entry in one step; another MAC address takes the old entry away."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            etcd.put(b"172.7.22.0-24", lease(MAC22, "192.168.14.99"))
            await until(lambda: objects(node)[1] == {MAC22: "192.168.14.99"}, 1)
            etcd.put(b"172.7.22.0-24", lease(MAC23))
            moved = {"172.7.22.0": MAC23}, {MAC23: "192.168.14.22"}, {"172.7.22.0/24": "172.7.22.0"}
            await until(lambda: objects(node) == moved, 1)

    run(scenario())


@pytest.mark.parametrize(
    "what", ["device", "down", "address", "mac", "mtu", "local", "neighbour", "forwarding", "route"]
)
def test_what_others_take_is_put_again(what: str) -> None:
    """Whatever is deleted or changed: all is as it was, with the same MAC address, and the lease is not written."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            there, written = device(node), etcd.records()
            break_(node, there, what)
            assert device_or_none(node) != there or objects(node) != WHOLE
            await until(lambda: objects(node) == WHOLE and same(device(node), there), 11)
            assert etcd.records() == written
            await until(lambda: node.ready, 5)

    run(scenario())


def device_or_none(node: FakeNode) -> Link | None:
    return next((link for link in node.kernel.table_of_links() if link.vxlan is not None), None)


def same(one: Link, other: Link) -> bool:
    return replace(one, index=0) == replace(other, index=0)


def break_(node: FakeNode, there: Link, what: str) -> None:
    kernel, vxlan = node.kernel, there.vxlan
    assert vxlan is not None
    match what:
        case "device":
            kernel.remove_link(there.name)
        case "down":
            kernel.link_down(there.name)
        case "address":
            kernel.set_link(replace(there, addresses=()))
        case "mac":
            kernel.set_link(replace(there, vxlan=replace(vxlan, mac="02:00:00:00:00:99")))
        case "mtu":
            kernel.set_link(replace(there, mtu=1300))
        case "local":
            kernel.set_link(replace(there, vxlan=replace(vxlan, local=IPv4Address("192.168.14.77"))))
        case "neighbour":
            kernel.forget(there.index, IPv4Address("172.7.22.0"))
        case "forwarding":
            kernel.lose_forwarding(there.index, MAC22)
        case _:
            kernel.delete_route(IPv4Network("172.7.22.0/24"))


def test_a_takeover_from_the_go_daemon_changes_nothing() -> None:
    """Its device, address and entries are ours as they are; its routes get our number; what it has left over goes."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22))
        node = node_on(etcd)
        parameters = Vxlan(OURS, 1, 8472, 2, IPv4Address("192.168.14.21"))
        own = (IPv4Interface("172.7.21.0/32"),)
        node.kernel.set_link(Link(NEXT, "flannel.1", 1450, True, own, vxlan=parameters))
        for third, mac in ((22, MAC22), (88, "02:00:00:00:00:88")):
            address = IPv4Address(f"172.7.{third}.0")
            node.kernel.meet(NEXT, Neighbour(address, "permanent", mac))
            node.kernel.forward(KernelForwarding(NEXT, mac, IPv4Address(f"192.168.14.{third}"), permanent=True))
            dst = IPv4Network((address, 24))
            node.kernel.add_foreign(KernelRoute(dst, address, NEXT, BOOT, 0, plain=True, onlink=True))
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            puts = [change.object for change in node.kernel.applied if not isinstance(change, Drop)]
            assert puts == [Route(IPv4Network("172.7.22.0/24"), IPv4Address("172.7.22.0"), NEXT, onlink=True)]
            record = next(one for one in etcd.records() if one.name == b"172.7.21.0-24")
            assert OURS.encode() in record.value

    run(scenario())


def test_two_peers_with_one_mac_address() -> None:
    """The older lease has it; the other one is quarantined, and gets its objects once the older one is gone."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22), s23=lease(MAC22, "192.168.14.23"))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            await asyncio.sleep(30)
            assert objects(node) == WHOLE
            assert node.log.count("peer.quarantined") == 1
            etcd.delete(b"172.7.22.0-24")
            other = {"172.7.23.0": MAC22}, {MAC22: "192.168.14.23"}, {"172.7.23.0/24": "172.7.23.0"}
            await until(lambda: objects(node) == other, 1)

    run(scenario())


@pytest.mark.parametrize(
    "value",
    [lease(None), lease("ff:ff:ff:ff:ff:ff"), lease("01:00:00:00:00:01"), lease("00:00:00:00:00:00"), lease("zz"),
     lease("02:00:00:00:00:00:00:22"), lease("own")],
    ids=["none", "broadcast", "multicast", "zero", "text", "eight", "own"],
)  # fmt: skip
def test_data_that_leads_nowhere_harms_nobody(value: bytes) -> None:
    """A new peer without a usable MAC address gets nothing; one that was good keeps what it has."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            vxlan = device(node).vxlan
            assert vxlan is not None
            bad = value.replace(b'"own"', f'"{vxlan.mac}"'.encode())
            etcd.put(b"172.7.24.0-24", bad)
            etcd.put(b"172.7.22.0-24", bad)
            await until(lambda: node.log.count("peer.quarantined") == 2, 1)
            await asyncio.sleep(30)
            assert objects(node) == WHOLE

    run(scenario())


@pytest.mark.parametrize("mac", ["02-00-00-00-00-22", "0200.0000.0022", "02:00:00:00:00:22".upper()])
def test_every_spelling_that_go_reads(mac: str) -> None:
    """Hyphens, dots, capitals, and no VNI as v0.11.0 writes it."""

    async def scenario() -> None:
        node = node_on(cluster(s22=lease(mac, more="")))
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)

    run(scenario())


def test_a_peer_with_another_vni_is_told() -> None:
    """It drops what it gets; it is told until it has that of the network. v0.11.0 says none."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22, more='"VNI":7,'), s23=lease(MAC23, "192.168.14.23", more=""))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: node.log.count("peer.other_vni") == 1, 1)
            assert "172.7.22.0/24 drops what this host sends: its lease says VNI 7" in str(node.log.events)
            etcd.put(b"172.7.22.0-24", lease(MAC22))
            await until(lambda: node.log.count("condition.resolved") == 1, 1)
            assert node.ready

    run(scenario())


def test_direct_routing() -> None:
    """A peer on our link has a plain route and nothing else; one behind a router has all three objects."""

    async def scenario() -> None:
        etcd = cluster(DIRECT, s22=lease(MAC22), s33=lease(MAC23, "192.168.33.33"))
        node = node_on(etcd)
        async with node.running():
            routes = {"172.7.22.0/24": "192.168.14.22", "172.7.33.0/24": "172.7.33.0"}
            await until(lambda: objects(node)[2] == routes, 1)
            assert objects(node)[:2] == ({"172.7.33.0": MAC23}, {MAC23: "192.168.33.33"})
            wider = replace(lan(21), addresses=(IPv4Interface("192.168.14.21/16"),))
            node.kernel.set_link(wider)
            routes["172.7.33.0/24"] = "192.168.33.33"
            await until(lambda: objects(node) == ({}, {}, routes), 2)
            node.kernel.set_link(lan(21))
            routes["172.7.33.0/24"] = "172.7.33.0"
            await until(lambda: objects(node) == ({"172.7.33.0": MAC23}, {MAC23: "192.168.33.33"}, routes), 2)

    run(scenario())


def test_direct_is_whom_the_kernel_reaches_on_the_link() -> None:
    """By a link route too, as long as it is there; behind a router is not direct."""

    async def scenario() -> None:
        etcd = cluster(DIRECT, s33=lease(MAC23, "192.168.33.33"))
        node = node_on(etcd)
        link_route = KernelRoute(IPv4Network("192.168.33.0/24"), None, 2, 4, 0, plain=False)
        tunnel = {"172.7.33.0": MAC23}, {MAC23: "192.168.33.33"}, {"172.7.33.0/24": "172.7.33.0"}
        async with node.running():
            await until(lambda: objects(node) == tunnel, 1)
            node.kernel.add_foreign(link_route)
            plain = {"172.7.33.0/24": "192.168.33.33"}
            await until(lambda: objects(node) == ({}, {}, plain), 12)
            etcd.put(b"172.7.34.0-24", lease(MAC22, "192.168.33.34"))
            await until(lambda: objects(node)[2] == plain | {"172.7.34.0/24": "192.168.33.34"}, 1)
            node.kernel.delete(link_route)
            await until(lambda: len(objects(node)[1]) == 2, 12)

    run(scenario())


def test_the_guard_holds_nothing_of_peers_that_stay() -> None:
    """Five peers that are on our link again keep their routes; what they had on the device goes at once."""

    async def scenario() -> None:
        etcd = cluster(DIRECT)
        for third in range(31, 36):
            etcd.put(f"172.7.{third}.0-24".encode(), lease(f"02:00:00:00:00:{third}", f"192.168.14.{third}"))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: len(objects(node)[2]) == 5, 1)
            assert objects(node)[:2] == ({}, {})
            node.kernel.set_link(replace(lan(21), addresses=(IPv4Interface("192.168.14.21/32"),)))
            await until(lambda: len(objects(node)[0]) == len(objects(node)[1]) == 5, 2)
            node.kernel.set_link(lan(21))
            await until(lambda: objects(node)[:2] == ({}, {}) and len(objects(node)[2]) == 5, 2)
            assert node.ready, node.why_not
            assert node.log.count("guard.holding") == 0

    run(scenario())


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (Link(NEXT, "flannel.1", 1500, True, ()), "flannel.1 is no vxlan device"),
        (Link(NEXT, "flannel.1", 1500, True, (), vxlan=Vxlan(OURS, 7, 8472, 2, None)), "with the VNI 7"),
        (Link(NEXT, "other", 1500, True, (), vxlan=Vxlan(OURS, 1, 8472, 2, None)), "other has the VNI 1 on port 8472"),
    ],
    ids=["bridge", "vni", "taken"],
)
def test_a_device_of_somebody_else_is_left_alone_and_waited_for(there: Link, told: str) -> None:
    """It is named, the daemon is not ready, and goes on by itself once it is gone."""

    async def scenario() -> None:
        node = node_on(cluster(s22=lease(MAC22)))
        node.kernel.set_link(there)
        async with node.running(ready=False):
            await until(lambda: node.log.count("device.failed") == 1, 5)
            assert any(told in str(line) for line in node.log.events)
            await asyncio.sleep(60)
            assert there in node.kernel.table_of_links()
            assert not node.ready
            node.kernel.remove_link(there.name)
            await until(lambda: objects(node) == WHOLE and node.ready, 2)

    run(scenario())


def test_another_port_makes_the_device_anew_with_its_mac_address() -> None:
    """Linux cannot change the port of a device; the peers have nothing to learn."""

    async def scenario() -> None:
        config = b'{"Network":"172.7.0.0/16","Backend":{"Type":"vxlan","Port":4789}}'
        node = node_on(cluster(config, s22=lease(MAC22)))
        old = Vxlan(OURS, 1, 8472, 2, IPv4Address("192.168.14.21"))
        node.kernel.set_link(Link(NEXT, "flannel.1", 1450, True, (IPv4Interface("172.7.21.0/32"),), vxlan=old))
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            assert device(node).vxlan == replace(old, port=4789)

    run(scenario())


def test_ours_and_a_foreign_route_protocol() -> None:
    """Routes bear our number, so that they are swept and told from others'."""

    async def scenario() -> None:
        node = node_on(cluster(s22=lease(MAC22)))
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            protocols = {route.protocol for route in node.kernel.table() if route.gateway is not None}
            assert protocols == {PROTOCOL}

    run(scenario())


def test_who_is_direct_needs_no_device() -> None:
    """While the device cannot be had, those on our link are reached; a refused entry is named as people write it."""

    async def scenario() -> None:
        etcd = cluster(DIRECT, s22=lease(MAC22), s33=lease(MAC23, "192.168.33.33"))
        node = node_on(etcd)
        node.kernel.refuse("flannel.1", EADDRINUSE, times=2)
        node.kernel.refuse((NEXT, IPv4Address("172.7.33.0")), ENOBUFS, times=2)
        async with node.running(ready=False):
            await until(lambda: objects(node)[2] == {"172.7.22.0/24": "192.168.14.22"}, 1)
            await until(lambda: node.log.count("neighbour.failed") == 1, 10)
            assert "the kernel refuses neighbours: 172.7.33.0: ENOBUFS" in str(node.log.events)
            await until(lambda: len(objects(node)[2]) == 2 and node.ready, 10)

    run(scenario())


def test_nothing_goes_for_want_of_a_device() -> None:
    """A direct route that has become one of the tunnel's stays until the device can be had."""

    async def scenario() -> None:
        node = node_on(cluster(DIRECT, s22=lease(MAC22)))
        async with node.running():
            plain = {"172.7.22.0/24": "192.168.14.22"}
            await until(lambda: objects(node)[2] == plain, 1)
            node.kernel.remove_link("flannel.1")
            node.kernel.set_link(Link(9, "flannel.1", 1500, True, ()))
            await until(lambda: node.log.count("device.failed") == 1, 2)
            node.kernel.set_link(replace(lan(21), addresses=(IPv4Interface("192.168.14.21/32"),)))
            await asyncio.sleep(30)
            assert node.kernel.gateways() == plain
            node.kernel.remove_link("flannel.1")
            await until(lambda: objects(node) == WHOLE and node.ready, 3)

    run(scenario())


def test_a_refused_device_is_tried_again_every_two_seconds() -> None:
    """Nobody tells when a UDP port is free; a try makes and unmakes a device, so it is not made at every event."""

    async def scenario() -> None:
        node = node_on(cluster(s22=lease(MAC22)))
        node.kernel.refuse("flannel.1", EADDRINUSE, times=20)
        async with node.running(ready=False):
            for _ in range(50):
                node.kernel.wake()
                await asyncio.sleep(0.1)
            assert 20 - node.kernel.refusals_left("flannel.1") in (3, 4)
            node.kernel.no_more_refusals()
            assert node.log.count("device.failed") == 1
            await until(lambda: objects(node) == WHOLE and node.ready, 5)

    run(scenario())


def test_another_address_is_another_lease_with_another_mac_address() -> None:
    """The old lease may live for a day: no peer would accept a second one with its MAC address."""

    async def scenario() -> None:
        etcd = cluster()
        node = node_on(etcd)
        async with node.running():
            before = device(node).vxlan
        node.kernel.set_link(lan(77))
        async with node.running():
            await until(lambda: device(node).vxlan != before, 5)
            now = device(node).vxlan
            assert before is not None
            assert now is not None
            assert now.local == IPv4Address("192.168.14.77")
            assert now.mac != before.mac
            said = [record.value for record in etcd.records()]
            assert [sum(mac.encode() in one for one in said) for mac in (before.mac, now.mac)] == [1, 1]

    run(scenario())


def test_entries_are_looked_at_on_a_device_that_came_late() -> None:
    """With all peers on our link nothing is put on the device; what others put there goes all the same."""

    async def scenario() -> None:
        node = node_on(cluster(DIRECT, s22=lease(MAC22)))
        node.kernel.refuse("flannel.1", EADDRINUSE, times=3)
        async with node.running(ready=False):
            await until(lambda: node.ready, 10)
            index = device(node).index
            node.kernel.meet(index, Neighbour(IPv4Address("172.7.99.0"), "permanent", MAC23))
            node.kernel.forward(KernelForwarding(index, MAC23, IPv4Address("192.168.14.99"), permanent=True))
            await until(lambda: objects(node)[:2] == ({}, {}), 11)

    run(scenario())


# Both families

DUAL = (
    b'{"Network":"172.7.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:7::/48",'
    b'"Backend":{"Type":"vxlan","DirectRouting":%s}}'
)
ENV6 = "FLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_IPV6_SUBNET=fd00:7:0:21::1/64\n"
MAC6 = "02:00:00:00:06:22"
KEY6 = b"172.7.22.0-24&fd00:7:0:22::-64"


def dual_lease(address6: str = "fd14::22") -> bytes:
    data, data6 = (f'{{"VNI":1,"VtepMAC":"{mac}"}}' for mac in (MAC22, MAC6))
    attrs = LeaseAttrs(IPv4Address("192.168.14.22"), "vxlan", IPv6Address(address6), data, data6)
    return encode_value(attrs)


def dual_node(*, direct: bool = False, address6: str = "fd14::22") -> tuple[FakeEtcd, FakeNode]:
    etcd = cluster(DUAL % str(direct).lower().encode())
    etcd.put(KEY6, dual_lease(address6))
    node = FakeNode(etcd, env=ENV6)
    node.kernel.set_link(replace(lan(21), addresses6=(IPv6Interface("fd14::21/64"),)))
    return etcd, node


def test_both_families_have_a_device_each() -> None:
    """Each peer has its objects on the device of each family; the MTU is that of the smaller one."""

    async def scenario() -> None:
        etcd, node = dual_node()
        async with node.running():
            routes = {"172.7.22.0/24": "172.7.22.0", "fd00:7:0:22::/64": "fd00:7:0:22::"}
            await until(lambda: node.kernel.gateways() == routes, 1)
            four, six = (link for link in node.kernel.table_of_links() if link.vxlan is not None)
            assert (four.name, four.mtu, six.name, six.mtu) == ("flannel.1", 1450, "flannel-v6.1", 1430)
            assert six.addresses6 == (IPv6Interface("fd00:7:0:21::/128"),)
            assert node.kernel.forwardings_of(four.index) == {MAC22: "192.168.14.22"}
            assert node.kernel.forwardings_of(six.index) == {MAC6: "fd14::22"}
            assert "FLANNEL_MTU=1430\n" in (node.file.text or "")
            own = next(one.value for one in etcd.records() if one.name.startswith(b"172.7.21.0-24&"))
            assert four.vxlan is not None
            assert six.vxlan is not None
            assert own == (
                b'{"PublicIP":"192.168.14.21","PublicIPv6":"fd14::21","BackendType":"vxlan",'
                b'"BackendData":{"VNI":1,"VtepMAC":"%s"},"BackendV6Data":{"VNI":1,"VtepMAC":"%s"}}'
            ) % (four.vxlan.mac.encode(), six.vxlan.mac.encode())
            etcd.delete(KEY6)
            await until(lambda: node.kernel.gateways() == {}, 1)
            assert node.kernel.forwardings_of(six.index) == {}

    run(scenario())


def test_a_bad_half_costs_only_itself() -> None:
    """A peer whose IPv6 data cannot be used is reached by IPv4, and the other way round."""

    async def scenario() -> None:
        etcd, node = dual_node()
        etcd.put(KEY6, dual_lease().replace(MAC6.encode(), b"ff:ff:ff:ff:ff:ff"))
        async with node.running():
            await until(lambda: node.kernel.gateways() == {"172.7.22.0/24": "172.7.22.0"}, 1)
            etcd.put(KEY6, dual_lease().replace(MAC22.encode(), b"zz"))
            routes = {"172.7.22.0/24": "172.7.22.0", "fd00:7:0:22::/64": "fd00:7:0:22::"}
            await until(lambda: node.kernel.gateways() == routes, 1)

    run(scenario())


def test_an_ipv6_peer_between_its_plain_route_and_the_tunnel() -> None:
    """Linux refuses to replace the one by the other; both directions work all the same, and all is told once."""

    async def scenario() -> None:
        etcd, node = dual_node(direct=True)
        async with node.running():
            plain = {"172.7.22.0/24": "192.168.14.22", "fd00:7:0:22::/64": "fd14::22"}
            await until(lambda: node.kernel.gateways() == plain, 1)
            etcd.put(KEY6, dual_lease("fd33::22"))
            tunnel = plain | {"fd00:7:0:22::/64": "fd00:7:0:22::"}
            await until(lambda: node.kernel.gateways() == tunnel, 1)
            etcd.put(KEY6, dual_lease())
            await until(lambda: node.kernel.gateways() == plain, 1)
            assert node.log.count("route.failed") == 0
            ours = [one for one in node.kernel.applied if str(one.object.identity).startswith("fd00")]
            assert [type(one).__name__ for one in ours] == ["Create", "Drop", "Replace", "Replace"]

    run(scenario())


# What a reboot finds


def test_a_reboot_has_the_same_mac_address() -> None:
    """The device is gone, and is made with the MAC address that the peers know; the lease is not written."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            before, written = device(node), etcd.records()
        node.kernel.remove_link(before.name)
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            assert device(node).vxlan == before.vxlan
            assert etcd.records() == written

    run(scenario())


def test_a_boot_without_etcd_has_the_mac_address_of_the_saved_lease() -> None:
    """Also where the Go daemon once chose it: the peers go on sending to it while etcd is away."""

    async def scenario() -> None:
        etcd = cluster(s22=lease(MAC22))
        node = node_on(etcd)
        node.state = MemoryState()
        parameters = Vxlan(OURS, 1, 8472, 2, IPv4Address("192.168.14.21"))
        node.kernel.set_link(Link(NEXT, "flannel.1", 1450, True, (), vxlan=parameters))
        async with node.running():
            await until(lambda: node.state is not None and node.state.data is not None, 60)
        node.kernel.remove_link("flannel.1")
        node.registry.down = RegistryUnavailable("down")
        async with node.running(ready=False):
            await until(lambda: objects(node) == WHOLE, 10)
            vxlan = device(node).vxlan
            assert vxlan is not None
            assert vxlan.mac == OURS
            node.registry.down = None
            await until(lambda: node.ready, 60)
            assert device(node).vxlan == vxlan

    run(scenario())


# A cluster that changes its backend


def host_gw(address: str) -> bytes:
    return encode_value(LeaseAttrs(IPv4Address(address), "host-gw"))


@pytest.mark.parametrize("config", [VXLAN, DIRECT])
def test_a_host_of_host_gw_on_our_link_has_a_plain_route(config: bytes) -> None:
    """It is still, or already, one of host-gw; behind a router nothing leads to it, which is told."""

    async def scenario() -> None:
        etcd = cluster(config, s22=host_gw("192.168.14.22"), s33=host_gw("192.168.33.33"))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: objects(node) == ({}, {}, {"172.7.22.0/24": "192.168.14.22"}), 1)
            assert node.log.count("peer.other_backend") == 1
            etcd.put(b"172.7.33.0-24", lease(MAC23, "192.168.33.33"))
            await until(lambda: objects(node)[1] == {MAC23: "192.168.33.33"}, 1)
            etcd.put(b"172.7.22.0-24", lease(MAC22))
            way = "172.7.22.0" if config == VXLAN else "192.168.14.22"
            await until(lambda: objects(node)[2] == {"172.7.22.0/24": way, "172.7.33.0/24": "172.7.33.0"}, 1)

    run(scenario())


def test_a_node_of_host_gw_routes_to_a_host_of_vxlan_on_its_link() -> None:
    """And not to one behind a router; whatever its lease says for vxlan does not matter."""

    async def scenario() -> None:
        etcd = cluster(CONFIG, s22=lease(MAC22), s23=lease("zz", "192.168.14.23"), s33=lease(MAC23, "192.168.33.33"))
        node = node_on(etcd)
        async with node.running():
            await until(lambda: len(objects(node)[2]) == 2, 1)
            assert objects(node)[2] == {"172.7.22.0/24": "192.168.14.22", "172.7.23.0/24": "192.168.14.23"}
            assert node.log.count("peer.quarantined") == 0

    run(scenario())


def test_a_change_of_the_backend_can_wait_for_its_turn() -> None:
    """Between host-gw and vxlan the node stays ready and says what a restart will bring; any other is not ready."""

    async def scenario() -> None:
        etcd = cluster(CONFIG, s22=host_gw("192.168.14.22"))
        node = node_on(etcd)
        async with node.running():
            etcd.put_config(DIRECT)
            await until(lambda: node.log.count("config.changed") == 1, 5)
            assert node.ready
            etcd.put_config(DIRECT.replace(b"172.7.0.0/16", b"172.9.0.0/16"))
            await until(lambda: not node.ready, 5)

    run(scenario())


# The API that v0.11.0 uses


def test_the_lease_of_v0_11(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte, without VNI; and a peer's of that version is understood."""

    async def scenario() -> None:
        value = b'{"PublicIP":"192.168.14.22","BackendType":"vxlan","BackendData":{"VtepMAC":"%s"}}' % MAC22.encode()
        etcd = cluster(s22=value)
        node = node_on(etcd)
        monkeypatch.setattr(FakeRegistry, "api", 2)
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            vxlan, written = device(node).vxlan, etcd.records()
            assert vxlan is not None
            own = next(one.value for one in written if one.name == b"172.7.21.0-24")
            data = b'"BackendData":{"VtepMAC":"%s"}' % vxlan.mac.encode()
            assert own == b'{"PublicIP":"192.168.14.21","BackendType":"vxlan",%s}' % data
            await asyncio.sleep(3600)
            assert etcd.records() == written, "it is what it should be"

    run(scenario())
