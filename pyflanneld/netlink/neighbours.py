"""The neighbour tables (ARP, NDP) from rtnetlink messages. Pure.

Wire format: include/uapi/linux/neighbour.h. A kernel that does not know the filter by link sends all links' entries, so
the caller filters again.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

from pyflanneld.core.families import Address
from pyflanneld.core.link.selection import Neighbour
from pyflanneld.netlink.frames import Malformed, NetlinkRequest, attributes

RTM_GETNEIGH = 30
NDA_DST, NDA_LLADDR, NDA_IFINDEX = 1, 2, 8

_NDMSG = struct.Struct("=BBHiHBB")  # family, padding, link, state, flags, type
_INDEX_ATTRIBUTE = struct.Struct("=HHI")
_STATES = {
    0x00: "none", 0x01: "incomplete", 0x02: "reachable", 0x04: "stale", 0x08: "delay", 0x10: "probe", 0x20: "failed",
    0x40: "noarp", 0x80: "permanent",
}  # fmt: skip
_ADDRESSES: dict[int, type[IPv4Address] | type[IPv6Address]] = {4: IPv4Address, 16: IPv6Address}


def neighbours_request(link_index: int) -> NetlinkRequest:
    """Return the request for the neighbours of one link, both families."""
    header = _NDMSG.pack(0, 0, 0, 0, 0, 0, 0)  # with strict checks the kernel takes the link as an attribute only
    return NetlinkRequest(
        RTM_GETNEIGH, 0, header + _INDEX_ATTRIBUTE.pack(_INDEX_ATTRIBUTE.size, NDA_IFINDEX, link_index)
    )


def decode_neighbour(body: bytes) -> tuple[int, Neighbour] | None:
    """Return link index and entry of an ``RTM_NEWNEIGH``; ``None`` without an IP address. Raises ``Malformed``."""
    if len(body) < _NDMSG.size:
        raise Malformed(f"neighbour message of {len(body)} bytes")
    _, _, _, link_index, state, _, _ = _NDMSG.unpack_from(body)
    found = attributes(body, _NDMSG.size)
    kind = _ADDRESSES.get(len(found.get(NDA_DST, b"")))
    if kind is None:
        return None
    address: Address = kind(found[NDA_DST])
    mac = found.get(NDA_LLADDR, b"")
    return link_index, Neighbour(address, _STATES.get(state, "none"), mac.hex(":") or None)
