"""Neighbours and forwarding entries, both of which are ``ndmsg``, by the thousand. Pure.

There are four shapes of a permanent entry: of either family, and of either kind. What is read carries clocks, which are
cut off: without them the list of a quiet device is the same each time, and need not be decoded again. The kernel does
not say who has changed a forwarding entry or removed a neighbour, so our own changes are known by what they say.
"""

import struct
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from socket import AF_BRIDGE, AF_INET, AF_INET6

from pyroute2.netlink.rtnl import RTM_DELNEIGH, RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import NTF_SELF, NUD_PERMANENT, ndmsg

from pyflanneld.core.families import Address
from pyflanneld.core.neighbours import KernelEntry
from pyflanneld.core.objects.plan import Drop, KernelChange
from pyflanneld.core.vxlan.forwardings import Forwarding, KernelForwarding
from pyflanneld.netlink.message_template import MessageTemplate
from pyflanneld.netlink.messages import encode

_HEADER_BYTES = len(encode(ndmsg, {}))
_ATTRIBUTE = struct.Struct("=HH")  # netlink(7): length and type of each attribute, which begins at a multiple of four
_NAMES = [name for name, *_ in ndmsg.nla_map]
_DST, _MAC = map(_NAMES.index, ("NDA_DST", "NDA_LLADDR"))
_LINK = slice(4, 8)  # ``ndm_ifindex`` of ``struct ndmsg``
_CLOCKS = frozenset(map(_NAMES.index, ("NDA_PROBES", "NDA_CACHEINFO")))


def put_entry(address: Address, mac: str, link_index: int, *, forwarding: bool) -> bytes:
    """Return the body of the message that puts a permanent neighbour, or a *forwarding* entry to *address*."""
    return _template(address.version, forwarding=forwarding).filled(
        ifindex=link_index.to_bytes(4, sys.byteorder), NDA_DST=address.packed, NDA_LLADDR=_packed(mac)
    )


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


@cache
def _template(version: int, *, forwarding: bool) -> MessageTemplate:
    none, all_ones = ("0.0.0.0", "255.255.255.255") if version == 4 else ("::", ":".join(["ffff"] * 8))  # noqa: S104

    def encoded(values: Mapping[str, object]) -> bytes:
        fields = {"ifindex": int(str(values["ifindex"])), "state": NUD_PERMANENT}
        address, mac = (("NDA_DST", values["NDA_DST"]), ("NDA_LLADDR", values["NDA_LLADDR"]))
        if forwarding:
            return encode(ndmsg, fields | {"family": AF_BRIDGE, "flags": NTF_SELF}, [mac, address])
        return encode(ndmsg, fields | {"family": AF_INET if version == 4 else AF_INET6}, [address, mac])

    return MessageTemplate(
        encoded, ifindex=(0, -1), NDA_DST=(none, all_ones), NDA_LLADDR=("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff")
    )


def without_clocks(body: bytes) -> bytes:
    """Return the message up to what changes by itself."""
    end = _HEADER_BYTES
    for kind, start, length in _attributes(body):
        if kind in _CLOCKS:
            break
        end = start + length + 3 & ~3
    return body[:end]


def _attributes(body: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield type, place and length of each attribute."""
    offset = _HEADER_BYTES
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind, offset, length
        offset += length + 3 & ~3


Told = tuple[int, bytes, bytes, bytes]
"""What a message says of an entry: its own type, the link, the MAC address of a forwarding entry, the IP address."""


def told(kind: int, body: bytes) -> Told:
    """Return what a notification of this type says."""
    values = {name: body[start + _ATTRIBUTE.size : start + length] for name, start, length in _attributes(body)}
    mac = values.get(_MAC, b"") if body[0] == AF_BRIDGE else b""  # a neighbour that goes has lost its own before
    return kind, body[_LINK], mac, values.get(_DST, b"")


def will_be_told(change: KernelChange) -> Told | None:
    """Return what the kernel is going to say of *change* without naming us; ``None``: nothing."""
    one = change.object
    if isinstance(one, KernelEntry):
        return RTM_DELNEIGH, one.link_index.to_bytes(4, sys.byteorder), b"", one.address.packed
    if not isinstance(one, Forwarding | KernelForwarding):
        return None
    kind = RTM_DELNEIGH if isinstance(change, Drop) else RTM_NEWNEIGH
    destination = one.destination.packed if one.destination is not None else b""
    return kind, one.link_index.to_bytes(4, sys.byteorder), _packed(one.mac), destination
