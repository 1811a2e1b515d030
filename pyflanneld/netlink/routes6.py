"""IPv6 routes as values from rtnetlink messages, which pyroute2 decodes. Pure.

What differs from IPv4, besides the length of addresses: the kernel gives a route without a metric 1024; it adds
``RTA_CACHEINFO`` and ``RTA_PREF`` to every route that it reports; a blackhole is reported to go through the loopback.
"""

from ipaddress import IPv6Address, IPv6Network
from socket import AF_INET6
from typing import Any

from pyroute2.netlink.rtnl import rt_type
from pyroute2.netlink.rtnl.rtmsg import RTNH_F_ONLINK, RTNH_F_PERVASIVE, rtmsg

from pyflanneld.core.routes import KernelRoute
from pyflanneld.netlink.messages import RTM_F_CLONED, Decoded
from pyflanneld.netlink.route_template import MAIN_TABLE
from pyflanneld.netlink.routes import PUT_ATTRIBUTES

_AS_PUT = PUT_ATTRIBUTES | {"RTA_CACHEINFO", "RTA_PREF"}


def decode_route6(body: bytes) -> KernelRoute | None:
    """Return the route in an ``RTM_NEWROUTE`` or ``RTM_DELROUTE``; ``None`` if it is none of ours to look at.

    That is: not IPv6, not in the main table, cloned, or neither unicast nor blackhole. Raises ``ValueError``.
    """
    route = Decoded(rtmsg, body, "RTA_TABLE", "RTA_DST", "RTA_GATEWAY", "RTA_OIF", "RTA_PRIORITY", "RTA_MULTIPATH")
    fields = route.fields
    if fields["family"] != AF_INET6 or fields["flags"] & RTM_F_CLONED:
        return None
    if fields["type"] not in (rt_type["unicast"], rt_type["blackhole"]):
        return None
    if (fields["table"] if route["RTA_TABLE"] is None else route["RTA_TABLE"]) != MAIN_TABLE:
        return None
    blackhole, gateway = fields["type"] == rt_type["blackhole"], route["RTA_GATEWAY"]
    return KernelRoute(
        dst=IPv6Network((IPv6Address(route["RTA_DST"] or "::"), fields["dst_len"])),
        gateway=None if gateway is None or blackhole else IPv6Address(gateway),
        link_index=0 if blackhole else route["RTA_OIF"] or 0,
        protocol=fields["proto"],
        metric=route["RTA_PRIORITY"] or 0,
        plain=(gateway is not None or blackhole)
        and route.names <= _AS_PUT
        and (fields["tos"], fields["src_len"], fields["flags"] & RTNH_F_PERVASIVE) == (0, 0, 0),
        blackhole=blackhole,
        tos=fields["tos"],
        hops=tuple(map(_hop, route["RTA_MULTIPATH"] or ())),
        onlink=bool(fields["flags"] & RTNH_F_ONLINK),
    )


def _hop(hop: Any) -> tuple[IPv6Address, int]:
    return IPv6Address(hop.get_attr("RTA_GATEWAY") or "::"), hop["oif"]
