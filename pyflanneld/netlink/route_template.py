"""Plain IPv4 routes by template: pyroute2 encodes one message per shape, and what differs is put into its bytes. Pure.

There are four shapes: how we put a route, and how the kernel reports it, without a tunnel and through one. Where in a
message a field is, two encodings show that differ in it alone; nothing of the layout is written down here. The tests
compare with pyroute2.
"""

import sys
from collections.abc import Mapping, Sequence
from copy import copy
from ipaddress import IPv4Address, IPv4Network
from socket import AF_INET
from typing import NamedTuple, Self

from pyroute2.netlink.rtnl import rt_type
from pyroute2.netlink.rtnl.rtmsg import RTNH_F_ONLINK, RTNH_F_PERVASIVE, rtmsg

from pyflanneld.core.routes import Route
from pyflanneld.netlink.messages import RTM_F_CLONED, encode

MAIN_TABLE = 254  # pyroute2.iproute.linux.DEFAULT_TABLE, whose import takes 0.03 s; a test compares
_STATE_FLAGS = 0xFFFFFFFF & ~(RTM_F_CLONED | RTNH_F_PERVASIVE | RTNH_F_ONLINK)  # what a plain route may have or not
_ZERO, _ONES = "0.0.0.0", "255.255.255.255"  # noqa: S104 - bytes of an address
_VARIABLE = {
    "dst_len": 0xFF, "proto": 0xFF, "scope": 0xFF, "flags": _STATE_FLAGS,
    "RTA_DST": _ONES, "RTA_GATEWAY": _ONES, "RTA_OIF": 0xFFFFFFFF,
}  # fmt: skip


def _encoded(order: Sequence[str], changed: Mapping[str, object]) -> bytes:
    """Return the message with zero in each variable field but the *changed* ones, its attributes in this *order*."""
    fields = {"family": AF_INET, "table": MAIN_TABLE, "type": rt_type["unicast"]}
    fields |= {name: value for name, value in changed.items() if isinstance(value, int) and not name.startswith("RTA_")}
    values = {"RTA_TABLE": MAIN_TABLE, "RTA_DST": _ZERO, "RTA_GATEWAY": _ZERO, "RTA_OIF": 0} | dict(changed)
    return encode(rtmsg, fields, [(name, values[name]) for name in order])


class _Template:
    """One shape of a plain route.

    Attributes:
        order: that of its attributes.
        blank: the message with zero in all variable fields.
        at: where each variable field begins and ends, and the type.
        parts: the same of prefix length, protocol, scope, destination, gateway and link, in this order.
        fixed_bits: a mask of what never differs, as one number.
    """

    def __init__(self, *order: str) -> None:
        self.order = order
        self.blank = _encoded(order, {})
        self.at: dict[str, slice] = {}
        self.fixed_bits = (1 << 8 * len(self.blank)) - 1
        for name, value in _VARIABLE.items():
            other = _encoded(order, {name: value})
            self.at[name] = self._differing(other)
            self.fixed_bits ^= int.from_bytes(other) ^ int.from_bytes(self.blank)
        self.at["type"] = self._differing(_encoded(order, {"type": rt_type["local"]}))
        self.parts = [self.at[name] for name in _VARIABLE if name != "flags"]
        self.fixed = int.from_bytes(self.blank)

    def onlink(self) -> Self:
        """Return the same shape with the flag ``onlink``."""
        other = copy(self)
        other.blank = _encoded(self.order, {"flags": RTNH_F_ONLINK})
        other.fixed = int.from_bytes(other.blank)
        return other

    def _differing(self, other: bytes) -> slice:
        places = [place for place, byte in enumerate(other) if byte != self.blank[place]]
        return slice(places[0], places[-1] + 1)

    def fits(self, body: bytes) -> bool:
        """Return whether *body* differs from the template in variable fields only."""
        return len(body) == len(self.blank) and int.from_bytes(body) & self.fixed_bits == self.fixed


_PUT = _Template("RTA_DST", "RTA_GATEWAY", "RTA_OIF", "RTA_TABLE")
_PUT_ONLINK = _PUT.onlink()
_REPORTED = _Template("RTA_TABLE", "RTA_DST", "RTA_GATEWAY", "RTA_OIF")
_REPORTED_ONLINK = _REPORTED.onlink()


def put_route(route: Route, protocol: int, scope: int) -> bytes:
    """Return the body of the message that puts *route*, an IPv4 one."""
    template = _PUT_ONLINK if route.onlink else _PUT
    body = bytearray(template.blank)
    length_at, protocol_at, scope_at, dst_at, gateway_at, link_at = template.parts
    body[length_at.start] = route.dst.prefixlen
    body[protocol_at.start] = protocol
    body[scope_at.start] = scope
    body[dst_at] = route.dst.network_address.packed
    body[gateway_at] = route.gateway.packed
    body[link_at] = route.link_index.to_bytes(4, sys.byteorder)
    return bytes(body)


class AsReported(NamedTuple):
    """A plain route in the kernel's own form; *scope* may still be one that we never put."""

    dst: IPv4Network
    gateway: IPv4Address
    link_index: int
    protocol: int
    scope: int
    onlink: bool

    @classmethod
    def of(cls, body: bytes) -> Self | None:
        """Return the route in *body*, ``None`` if it has another form. Raises ``ValueError``."""
        onlink = not _REPORTED.fits(body)
        if onlink and not _REPORTED_ONLINK.fits(body):
            return None
        length_at, protocol_at, scope_at, dst_at, gateway_at, link_at = _REPORTED.parts
        return cls(
            IPv4Network((body[dst_at], body[length_at.start])), IPv4Address(body[gateway_at]),
            int.from_bytes(body[link_at], sys.byteorder), body[protocol_at.start], body[scope_at.start], onlink,
        )  # fmt: skip


def reported_destination(body: bytes) -> tuple[int, int, int] | None:
    """Return type, address and prefix length of a route of the main table, if its message begins as ``AsReported``'s.

    That is cheap: other programs may change a million routes that do not concern us.
    """
    at, blank = _REPORTED.at, _REPORTED.blank
    between = slice(at["flags"].stop, at["RTA_DST"].start)
    if body[:1] != blank[:1] or body[between] != blank[between] or len(body) < at["RTA_DST"].stop:
        return None
    return body[at["type"].start], int.from_bytes(body[at["RTA_DST"]]), body[at["dst_len"].start]
