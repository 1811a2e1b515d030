"""What only a real kernel can show: odd routes, links that come and go, rights, atomic replacement, lost events."""

import asyncio
import errno
import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

import pyflanneld
from pyflanneld.core.link.selection import Link
from pyflanneld.core.neighbours import Entry, EntryListing
from pyflanneld.core.objects.plan import Create, Drop, Replace
from pyflanneld.core.routes import KernelRoute, Route, Way, default_links
from pyflanneld.core.vxlan.forwardings import Forwarding, KernelForwarding
from pyflanneld.errors import KernelError
from pyflanneld.netlink import frames, links, routes
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.netlink.links import addresses_request, links_request
from pyflanneld.netlink.monitor import GROUPS, Monitor
from pyflanneld.netlink.socket import RequestSocket, open_socket
from pyflanneld.ports import Change
from tests.support.network.namespaces import Namespace, namespace, until_up

pytestmark = pytest.mark.netns
OURS = 103
NETWORK = IPv4Network("10.5.0.0/16")
GATEWAY = IPv4Address("192.168.77.2")


class Bed(NamedTuple):
    namespace: Namespace
    kernel: NetlinkKernel
    link: Link

    def route(self, dst: str, gateway: IPv4Address = GATEWAY) -> Route:
        return Route(IPv4Network(dst), gateway, self.link.index)


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    with namespace() as made, made.inside():
        made.veth("eth0", "192.168.77.1/24", peer="peer0")
        kernel = NetlinkKernel(protocol=OURS)
        yield Bed(made, kernel, await link_named(kernel, "eth0"))
        await kernel.close()


async def link_named(kernel: NetlinkKernel, name: str) -> Link:
    return next(link for link in await kernel.links() if link.name == name)


async def test_untouched_namespace() -> None:
    """A namespace in which nothing was ever configured has no routes, which is no error."""
    with namespace() as made, made.inside():
        made.ip("link set lo down")
        kernel = NetlinkKernel(protocol=OURS)
        assert await kernel.routes() == ()
        assert await kernel.routes(protocol=OURS) == ()
        assert await kernel.links() == ()
        await kernel.close()


@pytest.mark.parametrize(
    ("command", "gateway", "on_link", "metric", "plain"),
    [
        ("10.5.1.0/24 via 192.168.77.2", "192.168.77.2", True, 0, True),
        ("10.5.1.0/24 via 192.168.77.2 metric 7", "192.168.77.2", True, 7, True),
        ("0.0.0.0/0 via 192.168.77.2", "192.168.77.2", True, 0, True),
        ("10.5.1.9/32 via 192.168.77.2", "192.168.77.2", True, 0, True),
        ("10.5.1.0/24 via 192.168.77.2 dev eth0 onlink", "192.168.77.2", True, 0, True),
        ("10.5.1.0/24 via 192.168.77.2 tos 0x10", "192.168.77.2", True, 0, False),
        ("10.5.1.0/24 via 192.168.77.2 mtu 1400", "192.168.77.2", True, 0, False),
        ("10.5.1.0/24 via 192.168.77.2 src 192.168.77.1", "192.168.77.2", True, 0, False),
        ("10.5.1.0/24 via inet6 fe80::1 dev eth0", None, True, 0, False),
        ("10.5.1.0/24 dev eth0", None, True, 0, False),
        ("blackhole 10.5.1.0/24", None, False, 0, True),
        ("unreachable 10.5.1.0/24 metric 9", None, False, 9, False),
        ("10.5.1.0/24 nexthop via 192.168.77.2 nexthop via 192.168.77.3", None, False, 0, False),
    ],
)
async def test_odd_routes(bed: Bed, command: str, gateway: str | None, on_link: bool, metric: int, plain: bool) -> None:
    """Only what could be a host-gw route, or a blackhole, counts as plain; every other kind is read without error."""
    dst = next(word for word in command.split() if "/" in word)
    bed.namespace.ip(f"route add {command.replace(dst, f'{dst} proto static')}")
    expected = KernelRoute(
        dst=IPv4Network(dst),
        gateway=IPv4Address(gateway) if gateway else None,
        link_index=bed.link.index if on_link else 0,
        protocol=4,
        metric=metric,
        plain=plain,
        blackhole="blackhole" in command,
        tos=0x10 if "tos" in command else 0,
        multipath=(bed.link.index,) * command.count("nexthop"),
        onlink="onlink" in command,
    )
    assert await bed.kernel.routes(protocol=4) == (expected,)


async def test_next_hop_object(bed: Bed) -> None:
    """A route through a next-hop object is not plain, and a drop that cannot hit it says so."""
    bed.namespace.ip("nexthop add id 7 via 192.168.77.2 dev eth0")
    bed.namespace.ip(f"route add 10.5.1.0/24 nhid 7 proto {OURS}")
    (held,) = await bed.kernel.routes(protocol=OURS)
    assert (held.gateway, held.plain) == (GATEWAY, False)
    assert await bed.kernel.apply([Drop(held)]) == {Drop(held): errno.ESRCH}


async def test_other_tables(bed: Bed) -> None:
    """Routes of other tables are neither listed nor told of, and local ones not told of."""
    before = await bed.kernel.routes()
    async with bed.kernel.changes(IPv4Network("0.0.0.0/0")) as events:
        bed.namespace.ip("route add 10.5.1.0/24 via 192.168.77.2 table 99")
        bed.namespace.ip("route add 10.5.1.0/24 via 192.168.77.2 table 9999")
        bed.namespace.ip("route add local 10.5.2.0/24 dev lo table local")
        bed.namespace.ip("route add local 10.5.3.0/24 dev lo table main")
        bed.namespace.ip("route delete local 10.5.3.0/24 dev lo table main")
        bed.namespace.ip("link set eth0 mtu 1400")
        async with asyncio.timeout(5):
            assert await anext(events) == Change.LINKS
    assert await bed.kernel.routes() == before


async def test_bridge_affairs(bed: Bed) -> None:
    """What a bridge tells of its ports is not a change of links."""
    bed.namespace.ip("link add name sw0 type bridge")
    bed.namespace.ip("link add name port0 type veth peer name port1")
    bed.namespace.ip("link set port0 master sw0")
    async with bed.kernel.changes(NETWORK) as events:
        bed.namespace.run("bridge", "link", "set", "dev", "port0", "cost", "10")
        bed.namespace.ip("route add 10.5.1.0/24 via 192.168.77.2")
        async with asyncio.timeout(5):
            assert await anext(events) == Change.ROUTES


async def test_forwarding_entries_by_others(bed: Bed) -> None:
    """The kernel does not say who has changed an entry; our own changes are no news, and those of others are."""
    bed.namespace.ip("link add vx0 up type vxlan id 7 dev eth0 dstport 8472 nolearning")
    device, subnet = await link_named(bed.kernel, "vx0"), IPv4Network("10.5.1.0/24")
    ours = Forwarding(subnet, device.index, "02:00:0a:05:01:00", GATEWAY)
    there = KernelForwarding(device.index, ours.mac, GATEWAY, permanent=True)
    async with bed.kernel.changes(NETWORK, entries=True) as events:
        for change in (Create(ours), Replace(replace(ours, destination=GATEWAY + 1)), Replace(ours), Drop(there)):
            assert await bed.kernel.apply([change]) == {}
            await quiet(events)
        for words in (
            f"add {ours.mac} dev vx0 dst {GATEWAY}", f"replace {ours.mac} dev vx0 dst {GATEWAY + 1}",
            f"delete {ours.mac} dev vx0",
        ):  # fmt: skip
            bed.namespace.run("bridge", "fdb", *words.split())
            async with asyncio.timeout(5):
                assert await anext(events) == Change.ROUTES


async def test_neighbours_by_others(bed: Bed) -> None:
    """The kernel does not say who has removed one; our own doing is no news, and another MAC address by others is."""
    bed.namespace.ip("link add vx0 up type vxlan id 7 dev eth0 dstport 8472 nolearning")
    device, address = await link_named(bed.kernel, "vx0"), IPv4Address("10.5.1.0")
    ours = Entry(IPv4Network("10.5.1.0/24"), device.index, address, "02:00:0a:05:01:00")
    async with bed.kernel.changes(NETWORK, entries=True) as events:
        for _ in range(2):
            assert await bed.kernel.apply([Create(ours)]) == {}
            (there,) = [one for one in await bed.kernel.objects(EntryListing(device.index)) if one.address == address]
            assert await bed.kernel.apply([Drop(there)]) == {}
            await quiet(events)
        assert await bed.kernel.apply([Create(ours)]) == {}
        for words in (f"replace {address} lladdr 02:00:00:00:00:01 nud permanent", f"delete {address}"):
            bed.namespace.ip(f"neigh {words} dev vx0")
            async with asyncio.timeout(5):
                assert await anext(events) == Change.ROUTES


async def quiet(events: AsyncIterator[Change]) -> None:
    """See that nothing is told."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await anext(events)


async def bodies(request: frames.NetlinkRequest) -> list[bytes]:
    async def whole(found: list[bytes]) -> list[bytes]:
        return found

    requests = RequestSocket()
    found = await requests.dump(request, whole)
    await requests.close()
    return found


def by_pyroute2(message_class: type[nlmsg], body: bytes) -> Any:
    theirs = message_class(frames.pack(frames.NetlinkRequest(0, 0, body), 0))
    theirs.decode()
    return theirs


async def test_reads_routes_as_pyroute2_does(bed: Bed) -> None:
    """What pyroute2 reads from the kernel's messages is what this program reads from them."""
    bed.namespace.ip("route add 10.5.1.0/24 via 192.168.77.2 metric 7 proto static")
    bed.namespace.ip("route add 0.0.0.0/0 via 192.168.77.3")
    bed.namespace.ip("route add blackhole 10.5.2.0/24")
    bed.namespace.ip("route add 10.5.3.0/24 via 192.168.77.2 scope 37")
    messages = await bodies(routes.routes_request(None))
    assert len(messages) == 5
    for message in messages:
        ours, theirs = routes.decode_route(message), by_pyroute2(rtmsg, message)
        assert ours is not None
        assert str(ours.dst) == str(IPv4Network((theirs.get("dst") or 0, theirs["dst_len"])))
        assert (str(ours.gateway) if ours.gateway else None) == theirs.get("gateway")
        assert ours.link_index == (theirs.get("oif") or 0)
        assert (ours.protocol, ours.metric) == (theirs["proto"], theirs.get("priority") or 0)


async def test_reads_links_as_pyroute2_does(bed: Bed) -> None:
    """Links of every sort have the names, MTUs and states that pyroute2 finds in the same messages."""
    for words in ("sw0 type bridge", "v0 type veth peer name v1", "i0 type ifb"):
        bed.namespace.ip(f"link add {words}")
    bed.namespace.ip("tuntap add t0 mode tun")
    bed.namespace.ip("link set i0 up")
    bed.namespace.ip("link set sw0 up mtu 1400")
    bed.namespace.ip("link set v0 master sw0")
    found = [(links.decode_link(message), by_pyroute2(ifinfmsg, message)) for message in await bodies(links_request())]
    assert [theirs.get("ifname") for ours, theirs in found if ours is None] == ["lo"]
    told = {ours.name: ours for ours, _ in found if ours is not None}
    assert told.keys() == {"eth0", "peer0", "sw0", "v0", "v1", "i0", "t0"}
    for ours, theirs in found:
        if ours is not None:
            assert (ours.index, ours.name, ours.mtu) == (theirs["index"], theirs.get("ifname"), theirs.get("mtu"))
            assert ours.up == (theirs["flags"] & 0x10001 == 0x10001)


async def test_reads_addresses_as_pyroute2_does(bed: Bed) -> None:
    """Addresses of both families are those that pyroute2 finds in the same messages, with their prefix lengths."""
    for address in (
        "10.8.0.1 peer 10.8.0.2/32", "10.7.0.1/24 label eth0:1", "10.6.0.1/24 preferred_lft 900 valid_lft 1000",
        "fd00:77::1/64 nodad", "fd00:88::1 peer fd00:88::2/128 nodad",
        "fd00:99::1/64 preferred_lft 0 valid_lft 1000 nodad",
    ):  # fmt: skip
        bed.namespace.ip(f"address add {address} dev eth0")
    seen = []
    for message in await bodies(addresses_request()):
        ours, theirs = links.decode_address(message), by_pyroute2(ifaddrmsg, message)
        if ours is None:
            assert theirs["scope"] != 0
            continue
        near, far = theirs.get("local") or theirs.get("address"), theirs.get("address")
        length = theirs["prefixlen"] if near == far else ours.interface.max_prefixlen
        assert (ours.link_index, str(ours.interface)) == (theirs["index"], f"{near}/{length}")
        assert ours.deprecated == bool(theirs.get("flags") & 0x20)
        seen.append(str(ours.interface))
    expected = {"127.0.0.1/8", "192.168.77.1/24", "10.8.0.1/32", "10.7.0.1/24", "10.6.0.1/24", "fd00:77::1/64"}
    assert set(seen) == expected | {"fd00:88::1/128", "fd00:99::1/64"}


@pytest.mark.parametrize("by", ["several next hops", "a group of next hops", "a next hop"])
async def test_the_links_of_a_default_route(bed: Bed, by: str) -> None:
    """The kernel names a link for each next hop, whether they are the route's own or objects; the first come first."""
    bed.namespace.veth("eth1", "192.168.78.1/24", peer="peer1")
    second = await link_named(bed.kernel, "eth1")
    bed.namespace.ip("nexthop add id 1 via 192.168.78.2 dev eth1")
    bed.namespace.ip("nexthop add id 2 via 192.168.77.2 dev eth0")
    bed.namespace.ip("nexthop add id 10 group 1/2")
    how, found = {
        "several next hops": ("nexthop via 192.168.77.3 nexthop via 192.168.77.2", (bed.link.index,)),
        "a group of next hops": ("nhid 10", (second.index, bed.link.index)),
        "a next hop": ("nhid 1", (second.index,)),
    }[by]
    bed.namespace.ip(f"route add default {how}")
    bed.namespace.ip("route add default via 192.168.77.9 metric 7")
    assert default_links(await bed.kernel.routes()) == found


async def test_four_thousand(bed: Bed) -> None:
    """4000 routes with a gateway each are put and read back exactly, and not one more is dropped than asked."""
    bed.namespace.ip("address add 172.16.0.1/16 dev eth0")
    first_gateway, first_subnet = IPv4Address("172.16.1.1"), int(IPv4Address("10.0.0.0"))
    wanted = [
        Route(IPv4Network((first_subnet + number * 256, 24)), first_gateway + number, bed.link.index)
        for number in range(4000)
    ]
    assert await bed.kernel.apply([Create(route) for route in wanted]) == {}
    held = await bed.kernel.routes(protocol=OURS)
    assert [Route(route.dst, route.gateway or GATEWAY, route.link_index) for route in held] == wanted
    assert all(route.plain and route.metric == 0 for route in held)
    assert await bed.kernel.apply([Drop(route) for route in held[1:]]) == {}
    assert await bed.kernel.routes(protocol=OURS) == held[:1]


async def test_routes_beyond_a_thousand(bed: Bed) -> None:
    """They differ in their scope only, which nothing but ``ip route`` shows; ``ip`` deletes and flushes them as any."""
    bed.namespace.ip("address add 172.16.0.1/16 dev eth0")
    gateway, subnet = IPv4Address("172.16.1.1"), int(IPv4Address("10.0.0.0"))
    wanted = [bed.route(str(IPv4Network((subnet + number * 256, 24))), gateway + number) for number in range(1200)]
    assert await bed.kernel.apply([Create(route) for route in wanted]) == {}
    lines = [line.strip() for line in bed.namespace.ip(f"route show proto {OURS}").splitlines()]
    assert lines[0] == "10.0.0.0/24 via 172.16.1.1 dev eth0"
    assert not any("scope" in line for line in lines[:1000])
    assert re.fullmatch(r"10\.4\.175\.0/24 via 172\.16\.5\.176 dev eth0 scope [0-9]{1,3}", lines[-1])
    held = await bed.kernel.routes(protocol=OURS)
    assert held == tuple(KernelRoute(r.dst, r.gateway, r.link_index, OURS, 0, plain=True) for r in wanted)
    again = NetlinkKernel(protocol=OURS)
    assert await again.routes(protocol=OURS) == held, "a new process finds what it would want"
    assert await again.apply([Replace(wanted[0]), Drop(held[1]), Drop(held[1100])]) == {}
    added = Create(bed.route("10.9.0.0/24"))
    assert await again.apply([added]) == {}
    assert "scope" in bed.namespace.ip(f"route show {added.object.dst}"), "which are many already"
    assert await again.apply([Drop(replace(held[0], dst=added.object.dst, gateway=GATEWAY))]) == {}
    await again.close()
    assert await bed.kernel.routes(protocol=OURS) == (held[0], *held[2:1100], *held[1101:])
    bed.namespace.ip(f"route delete {held[1199].dst}")
    bed.namespace.ip(f"route delete {held[1198].dst} via {held[1198].gateway}")
    assert len(await bed.kernel.routes(protocol=OURS)) == 1196
    bed.namespace.ip(f"route flush proto {OURS}")
    assert await bed.kernel.routes(protocol=OURS) == ()


async def test_scopes_make_no_difference(bed: Bed) -> None:
    """A packet of this host, or one to forward, goes the same way with the same source in every scope below 200."""
    for number, address in enumerate(("192.168.77.8/32", "10.9.0.1/24 scope site", "169.254.7.7/16 scope link")):
        bed.namespace.ip(f"address add {address} dev eth0 label eth0:{number}")
    bed.namespace.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    ways: dict[str, set[int]] = {}
    for scope in (0, 1, 77, 199):
        bed.namespace.ip(f"route replace 10.5.1.0/24 via 192.168.77.2 proto {OURS} scope {scope}")
        way = [bed.namespace.ip(f"route get 10.5.1.9 {more}") for more in ("", "from 192.168.77.50 iif eth0", "mark 7")]
        ways.setdefault("".join(way), set()).add(scope)
    ((way_of_all, scopes),) = ways.items()
    assert "10.5.1.9 via 192.168.77.2 dev eth0 src 192.168.77.1" in way_of_all
    assert scopes == {0, 1, 77, 199}


async def test_addresses_in_order(bed: Bed) -> None:
    """Addresses come best first: lasting, wide scope, primary; deprecated ones last, and told; the near end counts."""
    for address in (
        "169.254.7.7/16 scope link",
        "192.168.77.9/24",
        "10.9.0.1/24 preferred_lft 0 valid_lft 1000",
        "10.8.0.1 peer 10.8.0.2/32",
        "10.7.0.1/24 label eth0:1",
        "10.6.0.1/24 preferred_lft 900 valid_lft 1000",
    ):
        bed.namespace.ip(f"address add {address} dev eth0")
    lasting = ("192.168.77.1/24", "10.8.0.1/32", "10.7.0.1/24", "192.168.77.9/24", "169.254.7.7/16")
    link = await link_named(bed.kernel, "eth0")
    assert link.addresses == tuple(map(IPv4Interface, (*lasting, "10.6.0.1/24", "10.9.0.1/24")))
    assert link.deprecated == {IPv4Address("10.9.0.1")}
    assert [str(address) for address in link.publishable[-2:]] == ["10.6.0.1", "169.254.7.7"]
    assert link.carries(IPv4Address("192.168.77.9"))


async def test_the_way_is_the_kernels(bed: Bed) -> None:
    """Rules, tables and preferred sources decide on the way as they do for packets; a forbidding route is none."""
    bed.namespace.ip("address add 192.168.78.1/24 dev eth0")
    bed.namespace.ip("route add 10.5.0.0/16 via 192.168.77.2 src 192.168.78.1")
    bed.namespace.ip("route add default via 192.168.78.2 table 99")
    bed.namespace.ip("rule add to 10.6.0.0/16 lookup 99")
    for kind, network in (("blackhole", "10.7"), ("unreachable", "10.8"), ("prohibit", "10.9"), ("throw", "10.10")):
        bed.namespace.ip(f"route add {kind} {network}.0.0/16")
    ways = {dst: await bed.kernel.route_to(IPv4Address(dst)) for dst in ("10.5.0.1", "10.6.0.1", "192.168.77.255")}
    source, vias = IPv4Address("192.168.78.1"), {"10.5.0.1": "192.168.77.2", "10.6.0.1": "192.168.78.2"}
    expected = {dst: Way(bed.link.index, source, IPv4Address(via)) for dst, via in vias.items()}
    assert ways == expected | {"192.168.77.255": None}
    for dst in ("10.7.0.1", "10.8.0.1", "10.9.0.1", "10.10.0.1", "127.0.0.1"):
        assert await bed.kernel.route_to(IPv4Address(dst)) is None


async def test_the_way_in_ipv6_and_over_a_gateway_of_the_other_family(bed: Bed) -> None:
    """Both families are asked alike, and an IPv6 gateway of an IPv4 route is a router too."""
    bed.namespace.ip("address add fd00:77::1/64 dev eth0 nodad")
    bed.namespace.ip("-6 route add fd00:78::/64 dev eth0")
    bed.namespace.ip("-6 route add fd00:79::/64 via fd00:77::9")
    bed.namespace.ip("route add 10.5.0.0/16 via inet6 fd00:77::9 dev eth0")
    source = IPv6Address("fd00:77::1")
    for dst, via in (("fd00:77::5", None), ("fd00:78::5", None), ("fd00:79::5", IPv6Address("fd00:77::9"))):
        assert await bed.kernel.route_to(IPv6Address(dst)) == Way(bed.link.index, source, via)
    way = await bed.kernel.route_to(IPv4Address("10.5.0.1"))
    assert way is not None
    assert way.gateway == IPv6Address("fd00:77::9")
    assert await bed.kernel.route_to(IPv6Address("fd00:80::1")) is None


async def test_recreated_link(bed: Bed) -> None:
    """A link deleted and made anew has a new index, takes routes at it, and both are told."""
    await bed.kernel.apply([Create(bed.route("10.5.1.0/24"))])
    async with bed.kernel.changes(NETWORK) as events:
        bed.namespace.ip("link delete eth0")
        async with asyncio.timeout(5):
            assert await anext(events) == Change.LINKS
        assert await bed.kernel.links() == ()
        assert await bed.kernel.routes() == ()
        bed.namespace.veth("eth0", "192.168.77.1/24", peer="peer0")
        async with asyncio.timeout(5):
            assert await anext(events) == Change.LINKS
    link = await link_named(bed.kernel, "eth0")
    assert link.index != bed.link.index
    old, new = Create(bed.route("10.5.1.0/24")), Create(replace(bed.route("10.5.1.0/24"), link_index=link.index))
    assert await bed.kernel.apply([old, new]) == {old: errno.ENETUNREACH}


async def test_renamed_link(bed: Bed) -> None:
    """A renamed link keeps its index and routes, and the new name is told."""
    await bed.kernel.apply([Create(bed.route("10.5.1.0/24"))])
    async with bed.kernel.changes(NETWORK) as events:
        bed.namespace.ip("link set eth0 name wan0")
        async with asyncio.timeout(5):
            assert await anext(events) == Change.LINKS
    assert (await link_named(bed.kernel, "wan0")).index == bed.link.index
    assert len(await bed.kernel.routes(protocol=OURS)) == 1


async def test_back_after_flap(bed: Bed) -> None:
    """After down and up the link takes the routes again; every step is told."""
    create = Create(bed.route("10.5.1.0/24"))
    async with bed.kernel.changes(NETWORK) as events:
        for _ in range(3):
            assert await bed.kernel.apply([create]) == {}
            bed.namespace.ip("link set eth0 down")
            async with asyncio.timeout(5):
                assert await anext(events) == Change.LINKS
            bed.namespace.ip("link set eth0 up")
            until_up(bed.namespace, "eth0")
            async with asyncio.timeout(5):
                while not (await link_named(bed.kernel, "eth0")).up:
                    await anext(events)


async def test_replace_is_atomic(bed: Bed) -> None:
    """A replacement is one step: nobody sees the destination without a route."""
    await bed.kernel.apply([Create(bed.route("10.5.1.0/24"))])
    async with bed.namespace.process("ip", "monitor", "route") as monitor:
        assert monitor.stdout is not None
        line = partial(asyncio.wait_for, timeout=5)
        listening = asyncio.create_task(monitor.stdout.readline())
        while not listening.done():  # the first marker that it sees says that it listens
            bed.namespace.ip("route add 10.6.0.0/24 via 192.168.77.2")
            bed.namespace.ip("route delete 10.6.0.0/24")
            await asyncio.wait([listening], timeout=0.01)
        for gateway in range(3, 23):
            assert await bed.kernel.apply([Replace(bed.route("10.5.1.0/24", GATEWAY + gateway))]) == {}
        bed.namespace.ip("route add 10.7.0.0/24 via 192.168.77.2")
        seen = []
        while not (told := (await line(monitor.stdout.readline())).decode()).startswith("10.7.0.0/24"):
            seen.append(told)
    ours = [told for told in seen if "10.5.1.0/24" in told]
    assert len(ours) == 20
    assert not any("Deleted" in told for told in ours)


async def test_addresses_of_the_loopback(bed: Bed) -> None:
    """Those that somebody has put there, of both families; not the loopback's own."""
    assert bed.kernel.loopback == frozenset()
    bed.namespace.ip("link set lo up")
    bed.namespace.ip("address add 192.168.77.99/32 dev lo")
    bed.namespace.ip("address add fd00:77::99/128 dev lo nodad")
    await bed.kernel.links()
    assert {str(one) for one in bed.kernel.loopback} == {"192.168.77.99", "fd00:77::99"}


async def test_without_rights(bed: Bed) -> None:
    """Without CAP_NET_ADMIN reading and listening work, and every change fails with EPERM."""
    program = f"""
import asyncio
from ipaddress import IPv4Address, IPv4Network
from pyflanneld.core.objects.plan import Create
from pyflanneld.core.routes import Route
from pyflanneld.netlink.kernel import NetlinkKernel

async def main():
    kernel = NetlinkKernel(protocol={OURS})
    async with kernel.changes(IPv4Network("10.5.0.0/16")):
        assert len(await kernel.routes()) == 1
        route = Route(IPv4Network("10.5.1.0/24"), IPv4Address("{GATEWAY}"), {bed.link.index})
        failed = await kernel.apply([Create(route), Create(route)])
    print(*failed.values())

asyncio.run(main())
"""
    root = str(Path(pyflanneld.__file__).parent.parent)
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "env", f"PYTHONPATH={root}")
    told = bed.namespace.run(*without, sys.executable, "-W", "error", "-c", program)
    assert told.split()[-1] == str(errno.EPERM)


class TestOverrun:
    def small(self) -> Monitor:
        opened = partial(open_socket, groups=GROUPS, receive_buffer=4096)
        return Monitor(NETWORK, own_port=lambda: None, open_=opened)

    async def test_lost_events(self, bed: Bed) -> None:
        """More events than the socket holds are an error, not silence; listening anew works."""
        churn = [
            f"route {verb} 10.5.{number}.0/24 via 192.168.77.2" for verb in ("add", "delete") for number in range(200)
        ]
        async with self.small() as events:
            bed.namespace.ip_batch(churn)
            with pytest.raises(KernelError, match="No buffer space"):
                await anext(events)
            with pytest.raises(KernelError, match="No buffer space"):
                await anext(events)
        async with bed.kernel.changes(NETWORK) as events:
            bed.namespace.ip_batch(churn)
            assert await anext(events) == Change.ROUTES

    async def test_storm(self, bed: Bed) -> None:
        """A storm of foreign changes is one bit, however slow the consumer; nothing is lost or piled up."""
        storm = (
            f"route {verb} 10.5.{number}.0/24 via 192.168.77.2"
            for _ in range(20)
            for verb in ("add", "delete")
            for number in range(250)
        )
        async with bed.kernel.changes(NETWORK) as events:
            await asyncio.to_thread(bed.namespace.ip_batch, storm)
            bed.namespace.ip("link set eth0 mtu 1400")
            deliveries = [await anext(events)]
            while Change.LINKS not in deliveries[-1]:
                deliveries.append(await anext(events))
        assert Change.ROUTES in deliveries[0]
        assert len(deliveries) <= 2 + 10_000 // 256  # one for each turn in which the socket is read

    async def test_closed(self, bed: Bed) -> None:
        """Leaving the block ends an iteration that is still waiting."""
        context = bed.kernel.changes(NETWORK)
        events = await context.__aenter__()
        waiting = asyncio.create_task(anext(events, None))
        await asyncio.sleep(0)
        await context.__aexit__(None, None, None)
        assert await asyncio.wait_for(waiting, 5) is None


async def test_no_descriptors_left(bed: Bed) -> None:
    """Sockets are closed: by close, by the end of listening, and after errors."""

    def count() -> int:
        return len(list(Path(f"/proc/{os.getpid()}/fd").iterdir()))

    await bed.kernel.close()
    before = count()
    for _ in range(10):
        async with bed.kernel.changes(NETWORK):
            await bed.kernel.routes()
        await bed.kernel.close()
    assert count() == before
