"""The neighbour tables (ARP, NDP) from rtnetlink messages, which pyroute2 decodes. Pure.

A kernel that does not know the filter by link sends all links' entries, so the caller filters again.
"""

from ipaddress import ip_address

from pyroute2.netlink.rtnl import RTM_GETNEIGH
from pyroute2.netlink.rtnl.ndmsg import NUD_VALUES, ndmsg

from pyflanneld.core.link.selection import Neighbour
from pyflanneld.netlink.frames import Malformed, NetlinkRequest
from pyflanneld.netlink.messages import Decoded, encode


def neighbours_request(link_index: int) -> NetlinkRequest:
    """Return the request for the neighbours of one link, both families."""
    # With strict checks the kernel takes the link as an attribute only.
    return NetlinkRequest(RTM_GETNEIGH, 0, encode(ndmsg, {}, [("NDA_IFINDEX", link_index)]))


def decode_neighbour(body: bytes) -> tuple[int, Neighbour] | None:
    """Return link index and entry of an ``RTM_NEWNEIGH``; ``None`` without an IP address. Raises ``Malformed``."""
    entry = Decoded(ndmsg, body, "NDA_DST", "NDA_LLADDR")
    if not entry["NDA_DST"]:
        return None
    state = NUD_VALUES.get(entry.fields["state"], "NUD_NONE").removeprefix("NUD_").lower()
    try:
        address = ip_address(entry["NDA_DST"])
    except ValueError as error:
        raise Malformed(f"neighbour of {entry['NDA_DST']!r}") from error
    return entry.fields["ifindex"], Neighbour(address, state, entry["NDA_LLADDR"] or None)
