"""Links and addresses as values from rtnetlink messages. Pure.

Of the many attributes of a link two are needed, and of an address three, so ``struct`` reads them: importing pyroute2
would take a quarter of a second of every start, and its reading half a millisecond for each container's cable. The
tests compare with pyroute2.

Wire format: rtnetlink(7), include/uapi/linux/if_link.h, if_addr.h. Addresses are in network byte order, everything
else in the host's.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from socket import AF_INET, AF_INET6, AF_UNSPEC

from pyflanneld.core.link.selection import Link
from pyflanneld.netlink.frames import ATTRIBUTE, Malformed, NetlinkRequest, attributes

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_NUMBER = struct.Struct("=I")

_IFLA_IFNAME, _IFLA_MTU, _IFLA_EXT_MASK = 3, 4, 29
_RTEXT_FILTER_SKIP_STATS = 8
_IFF_UP, _IFF_LOOPBACK, _IFF_LOWER_UP = 0x1, 0x8, 0x10000

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_SECONDARY, _IFA_F_DEPRECATED, _IFA_F_PERMANENT = 0x01, 0x20, 0x80
_IFA_F_UNFIT_IPV6 = 0x01 | 0x08 | 0x20 | 0x40  # temporary, duplicate on the link, deprecated, tentative
_RT_SCOPE_UNIVERSE = 0
_ADDRESS_BYTES = {AF_INET: 4, AF_INET6: 16}


@dataclass(frozen=True, slots=True)
class Address:
    """An address of the link *link_index*; lower *rank* is the better one to publish."""

    link_index: int
    deprecated: bool
    rank: tuple[bool, bool, int, bool]
    interface: IPv4Interface | IPv6Interface


def links_request() -> NetlinkRequest:
    """Ask for all links, without their counters."""
    mask = ATTRIBUTE.pack(ATTRIBUTE.size + _NUMBER.size, _IFLA_EXT_MASK) + _NUMBER.pack(_RTEXT_FILTER_SKIP_STATS)
    return NetlinkRequest(RTM_GETLINK, 0, _IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + mask)


def addresses_request() -> NetlinkRequest:
    """Ask for the addresses of all links, of both families."""
    return NetlinkRequest(RTM_GETADDR, 0, _IFADDRMSG.pack(AF_UNSPEC, 0, 0, 0, 0))


def decode_link(body: bytes) -> Link | None:
    """Return the link in an ``RTM_NEWLINK``, without addresses; ``None`` for a loopback. Raises ``ValueError``."""
    if len(body) < _IFINFOMSG.size:
        raise Malformed(f"link message of {len(body)} bytes")
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    if flags & _IFF_LOOPBACK:
        return None
    found = attributes(body, _IFINFOMSG.size)
    name = found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    if not name or _IFLA_MTU not in found:
        raise Malformed(f"link {index} without a name or an MTU")
    up = bool(flags & _IFF_UP and flags & _IFF_LOWER_UP)
    return Link(index, name, mtu=_number(found[_IFLA_MTU]), up=up, addresses=())


def decode_address(body: bytes) -> Address | None:
    """Return the address in an ``RTM_NEWADDR``; ``None`` if it is none to publish. Raises ``ValueError``.

    Of IPv6 only the global ones count, unless they are temporary, deprecated, tentative or in use by somebody else.
    On a point-to-point link it is the near end; the prefix length would be the far end's, so it counts as a /32.
    """
    if len(body) < _IFADDRMSG.size:
        raise Malformed(f"address message of {len(body)} bytes")
    family, length, header_flags, scope, index = _IFADDRMSG.unpack_from(body)
    if family not in _ADDRESS_BYTES:
        return None
    found = attributes(body, _IFADDRMSG.size)
    flags = _number(found[_IFA_FLAGS]) if _IFA_FLAGS in found else header_flags
    remote = found.get(_IFA_ADDRESS, b"")
    local = found.get(_IFA_LOCAL) or remote
    if len(local) != _ADDRESS_BYTES[family]:
        raise Malformed(f"address of {len(local)} bytes")
    if remote not in (b"", local):
        length = 8 * len(local)
    if family == AF_INET6:
        if scope != _RT_SCOPE_UNIVERSE or flags & _IFA_F_UNFIT_IPV6:
            return None
        return Address(index, False, (False, False, 0, False), IPv6Interface((IPv6Address(local), length)))
    deprecated, permanent = bool(flags & _IFA_F_DEPRECATED), bool(flags & _IFA_F_PERMANENT)
    rank = (deprecated, not permanent, scope, bool(flags & _IFA_F_SECONDARY))
    return Address(index, deprecated, rank, IPv4Interface((IPv4Address(local), length)))


def with_addresses(links: Iterable[Link], addresses: Iterable[Address]) -> tuple[Link, ...]:
    """Return *links* in index order, each with its *addresses*: the better ones first, else in the kernel's order."""
    of_link: dict[int, list[Address]] = {}
    for address in sorted(addresses, key=lambda address: address.rank):
        of_link.setdefault(address.link_index, []).append(address)
    in_order = sorted(links, key=lambda link: link.index)
    return tuple(_with_addresses(link, of_link.get(link.index, ())) for link in in_order)


def _with_addresses(link: Link, found: Sequence[Address]) -> Link:
    ipv4 = [(own.interface, own.deprecated) for own in found if isinstance(own.interface, IPv4Interface)]
    return replace(
        link,
        addresses=tuple(interface for interface, _ in ipv4),
        addresses6=tuple(own.interface for own in found if isinstance(own.interface, IPv6Interface)),
        deprecated=frozenset(interface.ip for interface, deprecated in ipv4 if deprecated),
    )


def _number(data: bytes) -> int:
    if len(data) != _NUMBER.size:
        raise Malformed(f"number of {len(data)} bytes")
    return int(_NUMBER.unpack(data)[0])
