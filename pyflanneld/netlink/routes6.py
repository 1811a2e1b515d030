"""IPv6 routes as values to and from rtnetlink messages. Pure.

What differs from IPv4, besides the length of addresses: the kernel gives a route without a metric 1024; it adds
``RTA_CACHEINFO`` and ``RTA_PREF`` to every route that it reports; a blackhole is reported to go through the loopback.

Wire format: rtnetlink(7), include/uapi/linux/rtnetlink.h.
"""

import struct
from ipaddress import IPv6Address, IPv6Network
from socket import AF_INET6

from pyflanneld.core.routes.plan import KernelRoute
from pyflanneld.netlink.frames import Malformed, attributes

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY = 1, 4, 5, 6
RTA_CACHEINFO, RTA_TABLE, RTA_PREF = 12, 15, 20

_RTMSG = struct.Struct("=BBBBBBBBI")
_AS_CREATED_ATTRIBUTES = frozenset(
    {RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_CACHEINFO, RTA_TABLE, RTA_PREF}
)  # fmt: skip
_RT_TABLE_MAIN = 254
_RTN_UNICAST, _RTN_BLACKHOLE = 1, 6
_RTM_F_CLONED = 0x200
_RTNH_F_ASKED_FOR = 0x02 | 0x04


def decode_route6(body: bytes) -> KernelRoute | None:
    """Return the route in an ``RTM_NEWROUTE`` or ``RTM_DELROUTE``; ``None`` if it is none of ours to look at.

    That is: not IPv6, not in the main table, cloned, or neither unicast nor blackhole. Raises ``ValueError``.
    """
    if len(body) < _RTMSG.size:
        raise Malformed(f"route message of {len(body)} bytes")
    family, length, source, tos, table, protocol, _, kind, flags = _RTMSG.unpack_from(body)
    if family != AF_INET6 or flags & _RTM_F_CLONED or kind not in (_RTN_UNICAST, _RTN_BLACKHOLE):
        return None
    found = attributes(body, _RTMSG.size)
    if _number(found.get(RTA_TABLE), table) != _RT_TABLE_MAIN:
        return None
    blackhole = kind == _RTN_BLACKHOLE
    gateway = found.get(RTA_GATEWAY)
    return KernelRoute(
        dst=IPv6Network((_address(found.get(RTA_DST, bytes(16))), length)),
        gateway=None if gateway is None or blackhole else _address(gateway),
        link_index=0 if blackhole else _number(found.get(RTA_OIF), 0),
        protocol=protocol,
        metric=_number(found.get(RTA_PRIORITY), 0),
        plain=(gateway is not None or blackhole)
        and found.keys() <= _AS_CREATED_ATTRIBUTES
        and (tos, source, flags & _RTNH_F_ASKED_FOR) == (0, 0, 0),
        blackhole=blackhole,
    )


def _number(data: bytes | None, default: int) -> int:
    if data is None:
        return default
    if len(data) != 4:
        raise Malformed(f"number of {len(data)} bytes")
    return int(struct.unpack("=I", data)[0])


def _address(data: bytes) -> IPv6Address:
    if len(data) != 16:
        raise Malformed(f"IPv6 address of {len(data)} bytes")
    return IPv6Address(data)
