"""The neighbour tables (ARP, NDP) from and to rtnetlink messages, which pyroute2 decodes and encodes. Pure.

A kernel that does not know the filter by link sends all links' entries, so the caller filters again.
"""

from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT, NUD_VALUES, ndmsg

from pyflanneld.core.link.selection import Neighbour
from pyflanneld.core.neighbours import Entry, KernelEntry
from pyflanneld.core.objects.plan import Create, Drop, KernelChange
from pyflanneld.netlink.entries import put_entry
from pyflanneld.netlink.frames import Malformed, NetlinkRequest, pack
from pyflanneld.netlink.messages import Decoded, encode


def neighbours_request(link_index: int) -> NetlinkRequest:
    """Return the request for the neighbours of one link, both families."""
    # With strict checks the kernel takes the link as an attribute only.
    return NetlinkRequest(RTM_GETNEIGH, 0, encode(ndmsg, {}, [("NDA_IFINDEX", link_index)]))


def change_message(change: KernelChange, flags: int, sequence: int) -> bytes:
    """Return the message that asks for *change* of an entry; *flags* are those of the message, beside its own."""
    entry: Entry | KernelEntry = change.object
    if isinstance(change, Drop):
        family = AF_INET if entry.address.version == 4 else AF_INET6
        fields = {"family": family, "ifindex": entry.link_index, "state": NUD_PERMANENT}
        body = encode(ndmsg, fields, [("NDA_DST", str(entry.address))])
        return pack(NetlinkRequest(RTM_DELNEIGH, flags, body), sequence)
    flags |= NLM_F_CREATE | (NLM_F_EXCL if isinstance(change, Create) else NLM_F_REPLACE)
    body = put_entry(entry.address, entry.mac or "", entry.link_index, forwarding=False)
    return pack(NetlinkRequest(RTM_NEWNEIGH, flags, body), sequence)


def decode_entry(body: bytes) -> KernelEntry | None:
    """Return the entry in an ``RTM_NEWNEIGH``; ``None`` without an IP address. Raises ``Malformed``."""
    found = decode_neighbour(body)
    return KernelEntry.of(*found) if found is not None else None


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
