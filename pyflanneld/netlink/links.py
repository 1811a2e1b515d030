"""Links and addresses as values from rtnetlink messages, which pyroute2 decodes. Pure.

It takes half a millisecond for each container's link; ``dump_cache`` remembers what has been decoded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from socket import AF_INET, AF_INET6, AF_UNSPEC

from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK
from pyroute2.netlink.rtnl.ifaddrmsg import (
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_PERMANENT,
    IFA_F_SECONDARY,
    IFA_F_TEMPORARY,
    IFA_F_TENTATIVE,
    ifaddrmsg,
)
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOOPBACK, IFF_LOWER_UP, IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import RT_SCOPE_UNIVERSE

from pyflanneld.core.link.selection import Link
from pyflanneld.netlink.frames import Malformed, NetlinkRequest
from pyflanneld.netlink.messages import RTEXT_FILTER_SKIP_STATS, Decoded, encode
from pyflanneld.netlink.vxlan_devices import decode_vxlan

_UNFIT_IPV6 = IFA_F_TEMPORARY | IFA_F_DADFAILED | IFA_F_TENTATIVE


@dataclass(frozen=True, slots=True)
class Address:
    """An address of the link *link_index*; lower *rank* is the better one to publish."""

    link_index: int
    deprecated: bool
    rank: tuple[bool, bool, int, bool]
    interface: IPv4Interface | IPv6Interface


def links_request() -> NetlinkRequest:
    """Ask for all links, without their counters."""
    body = encode(ifinfmsg, {"family": AF_UNSPEC}, [("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)])
    return NetlinkRequest(RTM_GETLINK, 0, body)


def addresses_request() -> NetlinkRequest:
    """Ask for the addresses of all links, of both families."""
    return NetlinkRequest(RTM_GETADDR, 0, encode(ifaddrmsg, {"family": AF_UNSPEC}))


def decode_link(body: bytes) -> Link | None:
    """Return the link in an ``RTM_NEWLINK``, without addresses; ``None`` for a loopback. Raises ``Malformed``."""
    more = ("IFLA_LINKINFO", "IFLA_ADDRESS") if b"vxlan\0" in body else ()  # takes long, and few links are one
    link = Decoded(ifinfmsg, body, "IFLA_IFNAME", "IFLA_MTU", *more)
    index, flags = link.fields["index"], link.fields["flags"]
    if flags & IFF_LOOPBACK:
        return None
    if not link["IFLA_IFNAME"] or link["IFLA_MTU"] is None:
        raise Malformed(f"link {index} without a name or an MTU")
    up = bool(flags & IFF_UP and flags & IFF_LOWER_UP)
    vxlan = decode_vxlan(link["IFLA_LINKINFO"], link["IFLA_ADDRESS"]) if more else None
    return Link(index, str(link["IFLA_IFNAME"]), mtu=int(link["IFLA_MTU"]), up=up, addresses=(), vxlan=vxlan)


def decode_address(body: bytes) -> Address | None:
    """Return the address in an ``RTM_NEWADDR``; ``None`` if it is none to publish. Raises ``ValueError``.

    Of IPv6 only the global ones count, unless they are temporary, tentative or in use by somebody else.
    On a point-to-point link it is the near end; the prefix length would be the far end's, so it counts as a /32.
    """
    address = Decoded(ifaddrmsg, body, "IFA_ADDRESS", "IFA_LOCAL", "IFA_FLAGS")
    family, scope, index = (address.fields[name] for name in ("family", "scope", "index"))
    if family not in (AF_INET, AF_INET6):
        return None
    flags = address.fields["flags"] if address["IFA_FLAGS"] is None else address["IFA_FLAGS"]
    remote = address["IFA_ADDRESS"]
    local = address["IFA_LOCAL"] or remote
    if local is None:
        raise Malformed(f"address of link {index} without an address")
    far_end, deprecated = remote not in (None, local), bool(flags & IFA_F_DEPRECATED)
    if family == AF_INET6:
        if scope != RT_SCOPE_UNIVERSE or flags & _UNFIT_IPV6:
            return None
        own6 = IPv6Interface((IPv6Address(local), 128 if far_end else address.fields["prefixlen"]))
        return Address(index, deprecated, (deprecated, False, 0, False), own6)
    permanent = bool(flags & IFA_F_PERMANENT)
    rank = (deprecated, not permanent, scope, bool(flags & IFA_F_SECONDARY))
    own = IPv4Interface((IPv4Address(local), 32 if far_end else address.fields["prefixlen"]))
    return Address(index, deprecated, rank, own)


def with_addresses(links: Iterable[Link], addresses: Iterable[Address]) -> tuple[Link, ...]:
    """Return *links* in index order, each with its *addresses*: the better ones first, else in the kernel's order."""
    of_link: dict[int, list[Address]] = {}
    for address in sorted(addresses, key=lambda address: address.rank):
        of_link.setdefault(address.link_index, []).append(address)
    in_order = sorted(links, key=lambda link: link.index)
    return tuple(_with_addresses(link, of_link.get(link.index, ())) for link in in_order)


def _with_addresses(link: Link, found: Sequence[Address]) -> Link:
    return replace(
        link,
        addresses=tuple(own.interface for own in found if isinstance(own.interface, IPv4Interface)),
        addresses6=tuple(own.interface for own in found if isinstance(own.interface, IPv6Interface)),
        deprecated=frozenset(own.interface.ip for own in found if own.deprecated),
    )
