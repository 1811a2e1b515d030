"""Netlink messages as bytes: putting them together, taking datagrams apart, reading the kernel's verdict. Pure.

Wire format: netlink(7), include/uapi/linux/netlink.h. Host byte order; everything is padded to four bytes.
"""

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pyroute2.netlink import NLM_F_ACK_TLVS, NLM_F_CAPPED, NLMSG_DONE, NLMSG_ERROR

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr, struct rtattr: length, type
_VERDICT = struct.Struct("=i")  # struct nlmsgerr: 0 or a negative errno, then the header of what it is about
_ATTR_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_NLMSGERR_ATTR_MSG = 1


class Malformed(ValueError):
    """A datagram that is not what the kernel sends."""


class NetlinkRequest(NamedTuple):
    """A message to the kernel, without length and sequence number."""

    kind: int
    flags: int
    body: bytes


Frame = tuple[int, int, int, int, bytes]
"""A message from the kernel: kind, flags, sequence number, port, and what follows its header."""


class KernelRefusal(NamedTuple):
    """Why the kernel refused: the errno, and its own words where it has any (else an empty string)."""

    errno: int
    reason: str

    def __str__(self) -> str:
        text = os.strerror(self.errno)
        return f"{text}: {self.reason}" if self.reason else text


def pack(request: NetlinkRequest, sequence: int) -> bytes:
    """Return *request* as the kernel wants it; bodies are multiples of four bytes long."""
    return HEADER.pack(HEADER.size + len(request.body), request.kind, request.flags, sequence, 0) + request.body


def frames(datagram: bytes) -> Iterator[Frame]:
    """Yield the messages of *datagram*. Raises ``Malformed``."""
    at, end = 0, len(datagram)
    unpack, size = HEADER.unpack_from, HEADER.size  # thousands at a time: this saves a third
    while at < end:
        if end - at < size:
            raise Malformed(f"{end - at} bytes after the last netlink message")
        length, kind, flags, sequence, port = unpack(datagram, at)
        if not size <= length <= end - at:
            raise Malformed(f"netlink message of {length} bytes in a rest of {end - at}")
        yield kind, flags, sequence, port, datagram[at + size : at + length]
        at += (length + 3) & ~3


def attributes(body: bytes, start: int) -> dict[int, bytes]:
    """Return the attributes from *start* to the end of *body* by type, the last of each. Raises ``Malformed``."""
    found: dict[int, bytes] = {}
    at, end = start, len(body)
    while at + ATTRIBUTE.size <= end:
        length, kind = ATTRIBUTE.unpack_from(body, at)
        if not ATTRIBUTE.size <= length <= end - at:
            raise Malformed(f"netlink attribute of {length} bytes in a rest of {end - at}")
        found[kind & _ATTR_TYPE_MASK] = body[at + ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def kernel_verdict(kind: int, flags: int, body: bytes) -> KernelRefusal | None:
    """Return what an ``NLMSG_ERROR`` or ``NLMSG_DONE`` says; ``None`` is success. Raises ``Malformed``."""
    if len(body) < _VERDICT.size:
        if kind == NLMSG_DONE:
            return None
        raise Malformed("an error message without a number")
    (number,) = _VERDICT.unpack_from(body)
    if number >= 0:
        return None
    return KernelRefusal(-number, _reason(kind, flags, body))


def _reason(kind: int, flags: int, body: bytes) -> str:
    if not flags & NLM_F_ACK_TLVS:
        return ""
    start = _VERDICT.size
    if kind == NLMSG_ERROR:
        if len(body) < start + HEADER.size:
            return ""
        quoted_length = HEADER.unpack_from(body, start)[0]
        start += HEADER.size if flags & NLM_F_CAPPED else _aligned(quoted_length)
    words = attributes(body, start).get(_NLMSGERR_ATTR_MSG, b"")
    return words.rstrip(b"\0").decode("ascii", "replace")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
