"""Netlink messages as bytes: against pyroute2, and against nonsense."""

import contextlib
import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_BRIDGE, AF_INET, AF_INET6

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyroute2 import IPBatch
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.rtnl.ndmsg import NTF_SELF, NUD_PERMANENT, ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from pyflanneld.core.families import Address
from pyflanneld.core.objects.plan import Create, Drop, KernelChange, Replace
from pyflanneld.core.routes import Blackhole, KernelRoute, Route
from pyflanneld.netlink import entries, frames, links, route_lookup, route_template, routes6
from pyflanneld.netlink import routes as encoding
from pyflanneld.netlink.frames import KernelRefusal, Malformed
from pyflanneld.netlink.messages import Decoded, encode, kernel_verdict

OURS = 103
networks = st.builds(
    lambda number, length: IPv4Network((number & -(1 << 32 - length) & 0xFFFFFFFF, length)),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 32),
)
gateways = st.builds(IPv4Address, st.integers(1, 0xFFFFFFFE))
routes = st.builds(Route, networks, gateways, st.integers(1, 0x7FFFFFFF), st.booleans())


def packed(change: KernelChange, scope: int = 0) -> bytes:
    return encoding.change_message(change, OURS, scope, NLM_F_REQUEST | NLM_F_ACK, 0)


def body(change: KernelChange, scope: int = 0) -> bytes:
    return packed(change, scope)[frames.HEADER.size :]


def by_pyroute2(command: str, **route: object) -> bytes:
    with IPBatch() as batch:
        batch.route(command, **route)
        data = bytearray(batch.batch)
    data[8:16] = bytes(8)  # sequence number and port
    return bytes(data)


@pytest.mark.parametrize(("command", "make"), [("add", Create), ("replace", Replace)])
def test_same_bytes_as_pyroute2(command: str, make: type[Create | Replace]) -> None:
    """A created or replaced route is, byte for byte, what pyroute2 sends for it, in whatever scope."""
    route = Route(IPv4Network("10.5.34.0/24"), IPv4Address("192.168.1.11"), 7)
    for scope in (0, 37, 199):
        theirs = by_pyroute2(
            command, dst="10.5.34.0/24", gateway="192.168.1.11", oif=7, table=254, proto=OURS, type=1, scope=scope
        )
        assert packed(make(route), scope) == theirs


@given(route=routes, protocol=st.integers(1, 255), scope=st.integers(0, 199))
def test_the_template_is_what_pyroute2_encodes(route: Route, protocol: int, scope: int) -> None:
    """Every plain route that is put has the bytes of pyroute2's own message for it."""
    fields = {
        "family": AF_INET, "dst_len": route.dst.prefixlen, "table": 254, "proto": protocol, "scope": scope, "type": 1,
        "flags": 4 * route.onlink,
    }  # fmt: skip
    attributes = [
        ("RTA_DST", str(route.dst.network_address)), ("RTA_GATEWAY", str(route.gateway)),
        ("RTA_OIF", route.link_index), ("RTA_TABLE", 254),
    ]  # fmt: skip
    assert route_template.put_route(route, protocol, scope) == encode(rtmsg, fields, attributes)


@given(
    route=routes, protocol=st.integers(1, 255), scope=st.integers(0, 255), flags=st.sampled_from([0, 1, 4, 5, 16, 64])
)
def test_the_template_reads_what_pyroute2_reads(route: Route, protocol: int, scope: int, flags: int) -> None:
    """A plain route in the kernel's form, with any flag that reports a state, is read as pyroute2 reads it."""
    fields = {
        "family": AF_INET, "dst_len": route.dst.prefixlen, "table": 254, "proto": protocol, "scope": scope, "type": 1,
        "flags": flags,
    }  # fmt: skip
    told = encode(rtmsg, fields, [
        ("RTA_TABLE", 254), ("RTA_DST", str(route.dst.network_address)), ("RTA_GATEWAY", str(route.gateway)),
        ("RTA_OIF", route.link_index),
    ])  # fmt: skip
    read = route_template.AsReported.of(told)
    assert read == (route.dst, route.gateway, route.link_index, protocol, scope, bool(flags & 4))
    by_pyroute2 = Decoded(rtmsg, told, "RTA_DST", "RTA_GATEWAY", "RTA_OIF")
    assert (str(read.dst.network_address), str(read.gateway), read.link_index) == tuple(
        by_pyroute2[name] for name in ("RTA_DST", "RTA_GATEWAY", "RTA_OIF")
    )
    assert route_template.reported_destination(told) == (1, int(route.dst.network_address), route.dst.prefixlen)


def test_same_deletion_as_pyroute2() -> None:
    """A dropped route is, byte for byte, what pyroute2 sends for it."""
    held = KernelRoute(IPv4Network("10.5.34.0/24"), IPv4Address("192.168.1.11"), 7, 3, 50, plain=True)
    theirs = by_pyroute2(
        "del", dst="10.5.34.0/24", gateway="192.168.1.11", oif=7, priority=50, table=254, proto=3, type=1, scope=255
    )
    assert packed(Drop(held)) == theirs


def test_same_blackhole_as_pyroute2() -> None:
    """A blackhole is put and dropped, byte for byte, as pyroute2 does it."""
    dst = IPv4Network("10.5.34.0/24")
    named = {"dst": str(dst), "priority": 1_000_000, "table": 254, "proto": OURS, "type": 6, "scope": 0}
    assert packed(Create(Blackhole(dst))) == by_pyroute2("add", **named)
    held = KernelRoute(dst, None, 0, OURS, 1_000_000, plain=True, blackhole=True)
    assert packed(Drop(held)) == by_pyroute2("del", **(named | {"scope": 255}))


@given(route=routes, scope=st.integers(0, 199), rotated=st.integers(0, 3))
def test_decode_what_was_encoded(route: Route, scope: int, rotated: int) -> None:
    """A route that was put reads back as the same route, ours and plain, however its attributes are ordered."""
    data = body(Create(route), scope)
    attributes = [data[at : at + 8] for at in range(12, 44, 8)]
    table_last = attributes[:3] + attributes[3:]
    ordered = b"".join(table_last[rotated:] + table_last[:rotated])
    held = encoding.decode_route(data[:12] + ordered)
    same = (route.dst, route.gateway, route.link_index, OURS)
    assert held == KernelRoute(*same, metric=0, plain=True, onlink=route.onlink)


@given(route=routes, scope=st.integers(200, 255), flags=st.sampled_from([0, 2]), tos=st.sampled_from([0, 8]))
def test_more_than_was_put(route: Route, scope: int, flags: int, tos: int) -> None:
    """As the kernel orders it, a route with a narrower scope, a flag or a type of service is read, and is not plain."""
    data = bytearray(body(Create(route), scope if not flags and not tos else 0))
    data[12:] = data[36:44] + data[12:36]
    data[3], data[8] = tos, flags
    held = encoding.decode_route(bytes(data))
    assert held == KernelRoute(route.dst, route.gateway, route.link_index, OURS, metric=0, plain=False, tos=tos)


def test_same_ipv6_bytes_as_pyroute2() -> None:
    """An IPv6 route is put and dropped, byte for byte, as pyroute2 does it."""
    dst, gateway = IPv6Network("2001:cafe:42:7::/64"), IPv6Address("2001:db8::11")
    named = {"family": AF_INET6, "dst": str(dst), "gateway": str(gateway), "oif": 7}
    marks = {"table": 254, "proto": OURS, "type": 1, "scope": 0}
    assert packed(Create(Route(dst, gateway, 7))) == by_pyroute2("add", **named, **marks)
    held = KernelRoute(dst, gateway, 7, OURS, 1024, plain=True)
    assert packed(Drop(held)) == by_pyroute2("del", **named, priority=1024, **(marks | {"scope": 255}))


@given(number=st.integers(0, 2**64 - 1), host=st.integers(1, 2**64 - 1), link=st.integers(1, 0x7FFFFFFF))
def test_decode_what_was_encoded_for_ipv6(number: int, host: int, link: int) -> None:
    """An IPv6 route that was put reads back as the same route; the kernel adds the metric."""
    route = Route(IPv6Network((number << 64, 64)), IPv6Address(host), link)
    held = routes6.decode_route6(body(Create(route)))
    assert held == KernelRoute(route.dst, route.gateway, link, OURS, metric=0, plain=True)


@given(dst=networks, gateway=gateways, over=networks, metric=st.sampled_from([0, 20]))
@example(IPv4Network("8.0.5.0/24"), IPv4Address("10.5.0.1"), IPv4Network("10.5.0.0/24"), 20)
def test_only_what_leads_over_a_network_is_decoded(
    dst: IPv4Network, gateway: IPv4Address, over: IPv4Network, metric: int
) -> None:
    """Of a full Internet table beside, that is next to nothing, whatever else a route has."""
    attributes = [("RTA_TABLE", 254), ("RTA_DST", str(dst.network_address)), ("RTA_PRIORITY", metric)]
    attributes += [("RTA_GATEWAY", str(gateway)), ("RTA_OIF", 7)]
    fields = {"family": AF_INET, "dst_len": dst.prefixlen, "table": 254, "proto": 186, "type": 1}
    told = encode(rtmsg, fields, attributes)
    among = encoding.Over([IPv6Network("fd00::/48"), over], encoding.decode_route)
    assert among.may_want(told) == (gateway in over)
    assert (among(told) is not None) == (gateway in over)
    assert encoding.Over([IPv4Network("0.0.0.0/0")], encoding.decode_route).may_want(told)


def test_ipv6_routes_over_a_network() -> None:
    """The same by their own addresses; a route without a gateway leads over none."""
    route = Route(IPv6Network("2001:cafe:42:7::/64"), IPv6Address("fd00:0:0:7::11"), 7)
    for network, wanted in (("fd00:0:0:7::/64", True), ("fd00:0:0:8::/64", False)):
        among = encoding.Over([IPv6Network(network)], routes6.decode_route6)
        assert among.may_want(body(Create(route))) == wanted
        assert not among.may_want(body(Create(Blackhole(route.dst))))
        assert (among(body(Create(route))) is not None) == wanted


@given(at=st.integers(0, 200), noise=st.integers(1, 255))
def test_flipped_bits_are_no_crash_for_ipv6(at: int, noise: int) -> None:
    """A damaged IPv6 route message is refused or read as another route; nothing else is raised."""
    data = bytearray(packed(Create(Route(IPv6Network("fd00:5::/64"), IPv6Address("fd00::1"), 7))))
    data[at % len(data)] ^= noise
    try:
        for *_, told in frames.frames(bytes(data)):
            routes6.decode_route6(told)
    except ValueError:
        pass


def test_cached_routes_are_left_out() -> None:
    """An entry of the route cache is no route, nor is one of another family."""
    data = bytearray(body(Create(Route(IPv4Network("10.5.1.0/24"), IPv4Address("192.168.1.2"), 7))))
    for order in (data, data[:12] + data[36:44] + data[12:36]):  # as it was put, as the kernel tells it
        struct.pack_into("=I", order, 8, 0x200)  # RTM_F_CLONED
        assert encoding.decode_route(bytes(order)) is None
        struct.pack_into("=B7xI", order, 0, 10, 0)
        assert encoding.decode_route(bytes(order)) is None


@given(data=st.binary(max_size=200))
def test_nonsense_is_malformed(data: bytes) -> None:
    """Bytes that are no netlink messages are refused as such, or read as some message; nothing else is raised."""
    try:
        for *_, told in frames.frames(data):
            kernel_verdict(told)
    except ValueError:
        pass
    for read in (
        encoding.decode_route, routes6.decode_route6, route_lookup.decode_lookup,
        links.decode_link, links.decode_address, kernel_verdict,
    ):
        with contextlib.suppress(ValueError):
            read(data)


@given(route=routes, at=st.integers(0, 200), noise=st.integers(1, 255))
def test_flipped_bits_are_no_crash(route: Route, at: int, noise: int) -> None:
    """A damaged route message is refused or read as another route; nothing else is raised."""
    data = bytearray(packed(Create(route)))
    data[at % len(data)] ^= noise
    try:
        for *_, told in frames.frames(bytes(data)):
            encoding.decode_route(told)
    except ValueError:
        pass


def test_lengths_that_lie() -> None:
    """A message that claims to be longer than the datagram, or shorter than its header, is malformed."""
    for length in (0, 15, 17, 1 << 31):
        with pytest.raises(Malformed):
            list(frames.frames(struct.pack("=IHHII", length, 24, 0, 1, 0)))


def test_several_messages() -> None:
    """The messages of a datagram come out one by one, padding left aside."""
    odd = frames.HEADER.pack(17, 24, 0, 1, 9) + b"x" + bytes(3)
    even = frames.HEADER.pack(20, 25, 2, 2, 0) + b"abcd"
    assert list(frames.frames(odd + even)) == [(24, 0, 1, 9, b"x"), (25, 2, 2, 0, b"abcd")]


def test_verdicts() -> None:
    """An acknowledgement is no refusal; a refusal, or a list that ends early, has its errno and, where the kernel says
    more, its words."""
    acknowledged, refused = struct.pack("=i", 0), struct.pack("=i", -17)
    header, words = frames.HEADER.pack(60, 24, 5, 1, 0), struct.pack("=HH", 4 + 5, 1) + b"Why?\0" + bytes(3)
    assert kernel_verdict(acknowledged + header) is None
    assert kernel_verdict(acknowledged) is None
    assert kernel_verdict(refused + header) == KernelRefusal(17, "")
    assert kernel_verdict(refused + header + bytes(44)) == KernelRefusal(17, "")
    assert kernel_verdict(refused + header + bytes(44) + words) == KernelRefusal(17, "Why?")
    assert kernel_verdict(refused) == KernelRefusal(17, "")
    assert kernel_verdict(refused + words) == KernelRefusal(17, "Why?")
    assert str(KernelRefusal(17, "Why?")) == "File exists: Why?"


macs = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))
addresses = st.ip_addresses()


@given(address=addresses, mac=macs, index=st.integers(1, 0x7FFFFFFF), forwarding=st.booleans())
def test_an_entry_has_the_bytes_of_pyroute2(address: Address, mac: str, index: int, forwarding: bool) -> None:
    """Neighbours and forwarding entries of both families."""
    fields = {"ifindex": index, "state": NUD_PERMANENT}
    dst, lladdr = ("NDA_DST", str(address)), ("NDA_LLADDR", mac)
    if forwarding:
        theirs = encode(ndmsg, fields | {"family": AF_BRIDGE, "flags": NTF_SELF}, [lladdr, dst])
    else:
        theirs = encode(ndmsg, fields | {"family": AF_INET if address.version == 4 else AF_INET6}, [dst, lladdr])
    assert entries.put_entry(address, mac, index, forwarding=forwarding) == theirs


@given(address=addresses, mac=macs, clocks=st.lists(st.integers(0, 0xFFFFFFFF), min_size=4, max_size=4))
def test_an_entry_is_read_without_its_clocks(address: Address, mac: str, clocks: list[int]) -> None:
    """What the kernel counts does not matter; everything before it is kept, however short the message is."""
    body_ = entries.put_entry(address, mac, 7, forwarding=False)
    names = ("ndm_confirmed", "ndm_used", "ndm_updated", "ndm_refcnt")
    counted = ("NDA_CACHEINFO", dict(zip(names, clocks, strict=True)))
    told = body_ + encode(ndmsg, {}, [("NDA_PROBES", clocks[0]), counted])[12:]
    assert entries.without_clocks(told) == body_
    assert entries.without_clocks(body_) == body_
    for length in range(12):
        assert len(entries.without_clocks(told[:length])) == length
