"""What the Go daemons cannot read in a network configuration that this one takes. Pure.

A Go daemon that cannot decode the document waits for ever. ``encoding/json`` decodes each field of its ``Config``,
whether or not the field is in use, and each mention of it, not only the last one. Its addresses are read from the text
between the quotes as it stands, so that no escape is resolved, and null is no address.

Fields and rules: flannel ``subnet/config.go`` and ``pkg/ip`` of v0.11.0, ``pkg/subnet/config.go`` and ``pkg/ip`` of
v0.28.9. Their further rules, of lengths and bounds, are those of ``parse_config``, which has taken the document before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from pyflanneld.core.families import unmapped
from pyflanneld.core.printable import printable
from pyflanneld.core.strict_json import Member, parse_members

_RAW_CHARS = 80
_U64 = 2**64


class Refusal(NamedTuple):
    """A value that some Go daemons cannot read.

    Attributes:
        field: its name as flannel writes it.
        raw: the value as it stands in the document.
        expected: what would be right.
        versions: the releases, ``("v0.28.9",)``.
    """

    field: str
    raw: str
    expected: str
    versions: tuple[str, ...]

    @property
    def text(self) -> str:
        """One sentence for an operator."""
        who, raw = " and ".join(self.versions), printable(self.raw, _RAW_CHARS)
        return f"flanneld {who} cannot read {self.field}: {raw} should be {self.expected}"


class _Kind(NamedTuple):
    """How Go reads the fields of one type: *reads* says whether it takes a value, of which it gets the text."""

    expected: str
    reads: Callable[[str], bool]


def _is_network(raw: str) -> bool:
    network = _network(raw)
    return network is not None and unmapped(network.network_address).version == 4


def _is_network6(raw: str) -> bool:
    return _network(raw) is not None  # of either family


def _is_address(raw: str) -> bool:
    address = _address(raw.strip('"'))
    return address is not None and unmapped(address).version == 4


def _is_address6(raw: str) -> bool:
    return raw == "null" or _address(raw.strip('"')) is not None


def _is_uint(raw: str) -> bool:
    return raw in ("null", "0") or (_is_number(raw) and raw[0] != "0" and int(raw) < _U64)


def _is_bool(raw: str) -> bool:
    return raw in ("true", "false", "null")


def _is_backend(raw: str) -> bool:
    if not raw.startswith("{"):
        return raw == "null"
    types = (one.value for one in parse_members(raw.encode(), "Backend") if one.name == "type")
    return all(kind is None or isinstance(kind, str) for kind in types)


def _network(raw: str) -> IPv4Network | IPv6Network | None:
    text, _, written = raw.strip('"').partition("/")
    address, length = _address(text), written.lstrip("0") or written[:1]
    if address is None or not _is_number(length) or len(length) > 3 or int(length) > address.max_prefixlen:
        return None
    if isinstance(address, IPv4Address):
        return IPv4Network((address, int(length)), strict=False)
    return IPv6Network((address, int(length)), strict=False)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return None if "%" in text else ip_address(text)  # Go knows no zones here
    except ValueError:
        return None


_NETWORK = _Kind('a network such as "172.7.0.0/16", without escapes', _is_network)
_NETWORK6 = _Kind('a network such as "2001:db8:42::/56", without escapes, or left out', _is_network6)
_ADDRESS = _Kind('an address such as "172.7.1.0", without escapes, or left out', _is_address)
_ADDRESS6 = _Kind('an address such as "2001:db8:42:1::", without escapes, or left out', _is_address6)
_UINT_KIND = _Kind("a whole number without quotes, such as 24, or left out", _is_uint)
_BOOL = _Kind("true or false, or left out", _is_bool)
_BACKEND = _Kind('an object such as {"Type":"host-gw"}', _is_backend)
_OLD = {
    "Network": _NETWORK, "SubnetMin": _ADDRESS, "SubnetMax": _ADDRESS, "SubnetLen": _UINT_KIND, "Backend": _BACKEND,
}  # fmt: skip
FIELDS: Mapping[str, Mapping[str, _Kind]] = {
    "v0.11.0": _OLD,
    "v0.28.9": _OLD | {
        "EnableIPv4": _BOOL, "EnableIPv6": _BOOL, "EnableNFTables": _BOOL, "IPv6Network": _NETWORK6,
        "IPv6SubnetMin": _ADDRESS6, "IPv6SubnetMax": _ADDRESS6, "IPv6SubnetLen": _UINT_KIND,
    },
}  # fmt: skip
"""The fields of each release. Others, of which v0.11.0 has more, are passed over unread."""


def refusals(document: bytes) -> tuple[Refusal, ...]:
    """Return what flanneld v0.11.0 or v0.28.9 cannot read in *document*, which ``parse_config`` takes."""
    members = parse_members(document, "network configuration")
    found: dict[tuple[str, str, str], list[str]] = {}
    for version, fields in FIELDS.items():
        for field, kind, raw in _unread(members, fields):
            found.setdefault((field, raw, kind.expected), []).append(version)
    return tuple(Refusal(*what, tuple(versions)) for what, versions in found.items())


def _unread(members: Sequence[Member], fields: Mapping[str, _Kind]) -> Iterator[tuple[str, _Kind, str]]:
    known = {name.lower(): (name, kind) for name, kind in fields.items()}
    last_backend = [one for one in members if one.name == "backend"][-1:]  # it is decoded after all others, once
    for one in [*(member for member in members if member.name != "backend"), *last_backend]:
        field, kind = known.get(one.name, ("", None))
        if kind is not None and not kind.reads(one.raw):
            yield field, kind, one.raw
