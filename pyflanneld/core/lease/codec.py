"""One lease on the wire: the key below ``<prefix>/subnets/`` and its JSON value.

Wire format: flannel ``pkg/subnet/subnet.go`` and ``pkg/lease/lease.go`` (v0.28.9). flannel's own key pattern is not
anchored and takes what it finds; ours takes the canonical spelling only (rules V1, V2 and V7
of docs/dev/architecture.md).
"""

import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

from pyflanneld.core.families import Address, Network
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.strict_json import parse_object

MAX_NAME_BYTES = 128
TTL_S = 24 * 3600
"""How long a lease lives without renewal, in seconds: flannel's constant."""

_A = TypeVar("_A", IPv4Address, IPv6Address)
_OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rb"(" + _OCTET + rb"(?:\." + _OCTET + rb"){3})"  # there is no other spelling of it
_NAME = re.compile(_IPV4 + rb"-([12]?\d|3[0-2])(?:&([0-9a-f:]+)-(\d{1,3}))?")
_AS_WRITTEN = re.compile(
    rb'\{"PublicIP":"' + _IPV4 + rb'",(?:"PublicIPv6":null,)?"BackendType":"([A-Za-z0-9-]{1,64})"'
    rb'(?:,"BackendData":(\{(?:"VNI":(?:0|[1-9]\d{0,7}),)?"VtepMAC":"[0-9a-f:]{17}"\}))?\}'
)


@dataclass(frozen=True, slots=True)
class SubnetKey:
    """What a key's name says: an IPv4 subnet and, in a dual-stack lease, an IPv6 one."""

    ipv4: IPv4Network
    ipv6: IPv6Network | None = None

    def __str__(self) -> str:
        return f"{self.ipv4} and {self.ipv6}" if self.ipv6 else str(self.ipv4)

    def subnet(self, version: int) -> Network | None:
        """Return the subnet of one family."""
        return self.ipv4 if version == 4 else self.ipv6

    @property
    def subnets(self) -> tuple[Network, ...]:
        """The subnet of each family that it has."""
        return (self.ipv4,) if self.ipv6 is None else (self.ipv4, self.ipv6)

    def overlaps(self, other: "SubnetKey") -> bool:
        """Return whether the two share an address of either family."""
        both = self.ipv6 is not None and other.ipv6 is not None and self.ipv6.overlaps(other.ipv6)
        return both or self.ipv4.overlaps(other.ipv4)


@dataclass(frozen=True, slots=True)
class LeaseAttrs:
    """What a lease's value says.

    Attributes:
        public_ip: where the peers send this subnet's packets.
        backend_type: ``"host-gw"``; empty for a lease without a backend (``alloc``).
        data: what it says for the backend and the IPv4 subnet, as JSON; empty: nothing.
        data6: the same for the IPv6 subnet.
    """

    public_ip: IPv4Address
    backend_type: str
    public_ipv6: IPv6Address | None = None
    data: str = ""
    data6: str = ""

    def gateway(self, version: int) -> Address | None:
        """Return where the peers send the packets of one family."""
        return self.public_ip if version == 4 else self.public_ipv6

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The address of each family that it publishes."""
        return (self.public_ip,) if self.public_ipv6 is None else (self.public_ip, self.public_ipv6)

    def backend_data(self, version: int) -> str:
        """Return what it says for the backend and the subnet of one family."""
        return self.data if version == 4 else self.data6


def encode_name(ipv4: IPv4Network, ipv6: IPv6Network | None = None) -> bytes:
    """Return the key's name for a subnet: ``b"a.b.c.d-len"``, in a dual-stack network ``b"a.b.c.d-len&a:b::-len"``."""
    name = f"{ipv4.network_address}-{ipv4.prefixlen}"
    return (name if ipv6 is None else f"{name}&{ipv6.network_address}-{ipv6.prefixlen}").encode()


def parse_key_name(name: bytes) -> SubnetKey:
    """Read a key's name, canonical spelling only.

    Raises:
        Invalid: reason ``"bad_key"``.
    """
    match = _NAME.fullmatch(name) if len(name) <= MAX_NAME_BYTES else None
    try:
        if match is None:
            raise ValueError("no match")
        ipv4 = IPv4Network((_packed(match[1]), int(match[2])))
        ipv6 = IPv6Network((match[3].decode(), int(match[4]))) if match[3] else None
    except ValueError as error:
        raise Invalid("bad_key", "key", name, 'a subnet such as "172.7.21.0-24"') from error
    if ipv6 is not None and (canonical := encode_name(ipv4, ipv6)) != name:
        raise Invalid("bad_key", "key", name, f"its canonical spelling {canonical.decode()!r}")
    return SubnetKey(ipv4, ipv6)


def is_key_name(name: bytes) -> bool:
    """Return whether a key's name may be that of a subnet."""
    return len(name) <= MAX_NAME_BYTES and _NAME.fullmatch(name) is not None


def _packed(ipv4: bytes) -> bytes:
    return bytes(map(int, ipv4.split(b".")))


def encode_value(attrs: LeaseAttrs, api: int = 3) -> bytes:
    """Return the value as flannel writes it, field order kept.

    Args:
        attrs: what it says.
        api: the etcd API that it is written to. Current flannel (3) always writes ``PublicIPv6``; v0.11.0 (2) has no
            such field, so there it is left out unless it says something.
    """
    document: dict[str, object] = {"PublicIP": str(attrs.public_ip)}
    if api >= 3 or attrs.public_ipv6 is not None:
        document["PublicIPv6"] = str(attrs.public_ipv6) if attrs.public_ipv6 else None
    if attrs.backend_type:
        document["BackendType"] = attrs.backend_type
    for name, data in (("BackendData", attrs.data), ("BackendV6Data", attrs.data6)):
        if data:
            document[name] = json.loads(data)
    return json.dumps(document, separators=(",", ":")).encode()


def parse_value(value: bytes) -> LeaseAttrs:
    """Read a lease's value, of any flannel version and backend; fields that we do not know are ignored.

    Nearly all of them are IPv4 leases exactly as flannel writes them: those need no parser.

    Raises:
        Invalid: reasons ``"too_large"``, ``"not_json"``, ``"not_an_object"``, ``"bad_value"``.
    """
    written = _AS_WRITTEN.fullmatch(value)
    if written is not None:
        return LeaseAttrs(IPv4Address(_packed(written[1])), written[2].decode(), data=(written[3] or b"").decode())
    document = parse_object(value, "lease")
    public_ip = document.get("publicip")
    public_ipv6 = document.get("publicipv6")
    backend_type = document.get("backendtype", "")
    if not isinstance(backend_type, str):
        raise Invalid("bad_value", "BackendType", backend_type, 'text such as "host-gw"')
    return LeaseAttrs(
        public_ip=_address(IPv4Address, "PublicIP", public_ip),
        backend_type=backend_type,
        public_ipv6=None if public_ipv6 is None else _address(IPv6Address, "PublicIPv6", public_ipv6),
        data=data_text(document.get("backenddata")),
        data6=data_text(document.get("backendv6data")),
    )


def data_text(value: object) -> str:
    """Return what a lease says for its backend as ``LeaseAttrs`` has it: only the backend knows what is right there."""
    return json.dumps(value, separators=(",", ":")) if value else ""


def _address(kind: type[_A], field: str, value: object) -> _A:
    expected = f"an {kind.__name__[:4]} address in quotes"
    if not isinstance(value, str) or "%" in value:  # Python takes any text after fe80::1%, Go takes none
        raise Invalid("bad_value", field, value, expected)
    try:
        return kind(value)
    except ValueError as error:
        raise Invalid("bad_value", field, value, expected) from error


@dataclass(frozen=True, slots=True)
class ParsedLease:
    """A lease as far as it can be parsed.

    Attributes:
        key: what the name says; ``None``: nothing that could be a subnet.
        attrs: what the value says; ``None`` where name or value cannot be parsed.
        reason: why that is so, as ``Invalid`` has it, *problem* in words; empty when both can.
    """

    key: SubnetKey | None
    attrs: LeaseAttrs | None
    reason: str = ""
    problem: str = ""


def parse_lease(name: bytes, value: bytes) -> ParsedLease:
    """Parse name and value as far as possible."""
    key = None
    try:
        key = parse_key_name(name)
        return ParsedLease(key, parse_value(value))
    except Invalid as error:
        return ParsedLease(key, None, error.reason, str(error))
