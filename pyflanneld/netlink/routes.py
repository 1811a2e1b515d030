"""IPv4 routes as values to and from rtnetlink messages; the writing of IPv6 ones too. Pure.

pyroute2 encodes and decodes them, in some 100 µs each. Thousands of plain routes are written and read in one go on the
event loop, so those go through templates (``route_template.py``), which pyroute2 has encoded as well.
"""

from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from socket import AF_INET, AF_INET6

from pyroute2.netlink import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE, rt_type
from pyroute2.netlink.rtnl.rtmsg import (
    RT_SCOPE_NOWHERE,
    RT_SCOPE_SITE,
    RT_SCOPE_UNIVERSE,
    RTNH_F_ONLINK,
    RTNH_F_PERVASIVE,
    rtmsg,
)

from pyflanneld.core.families import Network, inside
from pyflanneld.core.objects.plan import Append, Create, Drop, KernelChange, Replace
from pyflanneld.core.routes import BLACKHOLE_METRIC, Blackhole, KernelRoute, Route
from pyflanneld.netlink.frames import NetlinkRequest, pack
from pyflanneld.netlink.messages import RTM_F_CLONED, Decoded, encode
from pyflanneld.netlink.route_template import MAIN_TABLE, AsReported, put_route, reported_destination

PUT_ATTRIBUTES = frozenset({"RTA_DST", "RTA_OIF", "RTA_GATEWAY", "RTA_PRIORITY", "RTA_TABLE"})
_ANY_TYPE = 0
_FAMILIES = {4: AF_INET, 6: AF_INET6}


def routes_request(protocol: int | None, version: int = 4) -> NetlinkRequest:
    """Ask for the routes of the main table, of one protocol or of all (older kernels send every table)."""
    fields = {"family": _FAMILIES[version], "table": MAIN_TABLE, "proto": protocol or 0}
    return NetlinkRequest(RTM_GETROUTE, 0, encode(rtmsg, fields, [("RTA_TABLE", MAIN_TABLE)]))


def change_message(change: KernelChange, protocol: int, scope: int, flags: int, sequence: int) -> bytes:
    """Return the message that asks for *change*.

    Args:
        protocol: marks what it puts.
        scope: of what it puts, below ``RT_SCOPE_SITE``; IPv6 knows no scopes.
        flags: of the message, beside those that the change needs.
    """
    match change:
        case Create(Blackhole(dst)):
            request = NetlinkRequest(RTM_NEWROUTE, flags | NLM_F_CREATE | NLM_F_EXCL, _blackhole(dst, protocol))
        case Create(route):
            request = NetlinkRequest(RTM_NEWROUTE, flags | NLM_F_CREATE | NLM_F_EXCL, _route(route, protocol, scope))
        case Replace(route):
            request = NetlinkRequest(RTM_NEWROUTE, flags | NLM_F_CREATE | NLM_F_REPLACE, _route(route, protocol, scope))
        case Append(route):
            request = NetlinkRequest(RTM_NEWROUTE, flags | NLM_F_CREATE | NLM_F_APPEND, _route(route, protocol, scope))
        case Drop(held):
            request = NetlinkRequest(RTM_DELROUTE, flags, _held(held))
    return pack(request, sequence)


def _route(route: Route, protocol: int, scope: int) -> bytes:
    if isinstance(route.dst, IPv4Network):
        return put_route(route, protocol, scope)
    fields = _fields(route.dst, protocol, RT_SCOPE_UNIVERSE, rt_type["unicast"])
    fields["flags"] = RTNH_F_ONLINK * route.onlink
    gateway, link = ("RTA_GATEWAY", str(route.gateway)), ("RTA_OIF", route.link_index)
    return encode(rtmsg, fields, [_dst(route.dst), gateway, link, ("RTA_TABLE", MAIN_TABLE)])


def _fields(dst: Network, protocol: int, scope: int, kind: int) -> dict[str, int]:
    return {
        "family": _FAMILIES[dst.version], "dst_len": dst.prefixlen, "table": MAIN_TABLE, "proto": protocol,
        "scope": scope, "type": kind,
    }  # fmt: skip


def _dst(dst: Network) -> tuple[str, object]:
    return "RTA_DST", str(dst.network_address)


def _blackhole(dst: Network, protocol: int) -> bytes:
    fields = _fields(dst, protocol, RT_SCOPE_UNIVERSE, rt_type["blackhole"])
    return encode(rtmsg, fields, [_dst(dst), ("RTA_PRIORITY", BLACKHOLE_METRIC), ("RTA_TABLE", MAIN_TABLE)])


def _held(held: KernelRoute) -> bytes:
    """Name everything that is known, so that the kernel finds this route or none.

    ``KernelRoute`` does not say the scope, nor the type of what is not plain: those stay open. The kernel does not
    distinguish metric 0 from "any metric".
    """
    kind = _ANY_TYPE
    if held.plain:
        kind = rt_type["blackhole" if held.blackhole else "unicast"]
    attributes = [_dst(held.dst)]
    if held.gateway is not None:
        attributes.append(("RTA_GATEWAY", str(held.gateway)))
    if held.link_index:
        attributes.append(("RTA_OIF", held.link_index))
    if held.metric:
        attributes.append(("RTA_PRIORITY", held.metric))
    attributes.append(("RTA_TABLE", MAIN_TABLE))
    return encode(rtmsg, _fields(held.dst, held.protocol, RT_SCOPE_NOWHERE, kind) | {"tos": held.tos}, attributes)


def decode_route(body: bytes) -> KernelRoute | None:
    """Return the route in an ``RTM_NEWROUTE`` or ``RTM_DELROUTE``; ``None`` if it is not IPv4, not in the main table,
    or cloned.

    A route counts as plain when it has nothing that ``Create`` would not have put: no preferred source, metrics,
    encapsulation or next-hop object either. Raises ``ValueError``.
    """
    if (known := AsReported.of(body)) is not None and known.scope < RT_SCOPE_SITE:
        return KernelRoute(
            known.dst, known.gateway, known.link_index, known.protocol, 0, plain=True, onlink=known.onlink
        )
    route = Decoded(rtmsg, body, "RTA_TABLE", "RTA_DST", "RTA_GATEWAY", "RTA_OIF", "RTA_PRIORITY", "RTA_MULTIPATH")
    fields = route.fields
    table = fields["table"] if route["RTA_TABLE"] is None else route["RTA_TABLE"]
    if fields["family"] != AF_INET or table != MAIN_TABLE or fields["flags"] & RTM_F_CLONED:
        return None
    as_created = (
        fields["type"] in (rt_type["unicast"], rt_type["blackhole"])
        and fields["scope"] < RT_SCOPE_SITE
        and (fields["tos"], fields["src_len"], fields["flags"] & RTNH_F_PERVASIVE) == (0, 0, 0)
    )  # the other flags report a state, or are told
    gateway = route["RTA_GATEWAY"]
    return KernelRoute(
        dst=IPv4Network((IPv4Address(route["RTA_DST"] or "0.0.0.0"), fields["dst_len"])),  # noqa: S104 - the default route
        gateway=None if gateway is None else IPv4Address(gateway),
        link_index=route["RTA_OIF"] or 0,
        protocol=fields["proto"],
        metric=route["RTA_PRIORITY"] or 0,
        plain=as_created and route.names <= PUT_ATTRIBUTES,
        blackhole=fields["type"] == rt_type["blackhole"],
        tos=fields["tos"],
        multipath=tuple(hop["oif"] for hop in route["RTA_MULTIPATH"] or ()),
        onlink=bool(fields["flags"] & RTNH_F_ONLINK),
    )


class Within:
    """Decodes only the routes to a part of some networks.

    In IPv4 the destination is looked at first, as numbers, which is cheap: there may be a full Internet table beside.

    Args:
        networks: these.
        decode: reads the message of a route.
        known: what messages say that were read before.
    """

    def __init__(
        self, networks: Sequence[Network], decode: Callable[[bytes], KernelRoute | None],
        known: Mapping[bytes, KernelRoute | None],
    ) -> None:
        self._networks, self._decode, self._known = networks, decode, known
        ipv4 = [network for network in networks if isinstance(network, IPv4Network)]
        self._spans = [(int(net.network_address), int(net.broadcast_address), net.prefixlen) for net in ipv4]

    def __call__(self, body: bytes) -> KernelRoute | None:
        """Return the route in *body* if it is such a one."""
        route = self._known.get(body) or self._decode(body)
        return route if route is not None and any(inside(route.dst, one) for one in self._networks) else None

    def may_want(self, body: bytes) -> bool:
        """Return whether *body* may be the message of such a route."""
        if (there := reported_destination(body)) is None:
            return True
        _, address, length = there
        for first, last, least in self._spans:  # noqa: SIM110 - any() would take twice as long
            if first <= address <= last and length >= least:
                return True
        return False


class Over:
    """Decodes only the routes over a gateway in some networks.

    The bytes of a gateway are looked for first, which is cheap: others may have a full Internet table over a few.
    """

    def __init__(self, networks: Sequence[Network], decode: Callable[[bytes], KernelRoute | None]) -> None:
        self._networks, self._decode = networks, decode
        self._spans = [
            (_gateway_mark(net), net.max_prefixlen // 8, int(net.network_address), int(net.broadcast_address))
            for net in networks
        ]

    def __call__(self, body: bytes) -> KernelRoute | None:
        """Return the route in *body* if it is such a one."""
        route = self._decode(body)
        gateway = None if route is None else route.gateway
        return route if gateway is not None and any(gateway in one for one in self._networks) else None

    def may_want(self, body: bytes) -> bool:
        """Return whether *body* may be the message of such a route."""
        for mark, size, first, last in self._spans:
            at = body.find(mark)
            while at >= 0:
                begin = at + len(mark)
                if first <= int.from_bytes(body[begin : begin + size]) <= last:
                    return True
                at = body.find(mark, at + 1)  # the same bytes may be an address
        return False


def _gateway_mark(network: Network) -> bytes:
    """Return the bytes that come before a gateway of the family of *network*."""
    fields = {"family": _FAMILIES[network.version]}
    whole, bare = (encode(rtmsg, fields, of) for of in ([("RTA_GATEWAY", str(network.network_address))], []))
    return whole[len(bare) : -network.max_prefixlen // 8]
