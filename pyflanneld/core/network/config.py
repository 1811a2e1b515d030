"""The network configuration, ``<prefix>/config``: flannel's rules, defaults and bounds.

Wire format: flannel ``pkg/subnet/config.go`` (v0.28.9), which reads v0.11.0's documents too. Stricter than flannel in
three places, each listed in docs/compatibility.md: types are exact, SubnetMin must not lie above SubnetMax, and a
Network must be unicast and no larger than a /8.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Generic, TypeVar

from pyflanneld.core.families import Address, Network
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.strict_json import parse_members
from pyflanneld.core.vxlan.options import parse_options

_N = TypeVar("_N", IPv4Network, IPv6Network)
_LEFT_BY_NULL = frozenset(
    ("subnetlen", "ipv6subnetlen", "enableipv4", "enableipv6", "enablenftables")
)  # the fields in which Go's null leaves the value that the same name had before
DEFAULT_BACKEND = "udp"  # what flannel's code takes when Backend is absent; its documentation says vxlan


@dataclass(frozen=True, slots=True)
class SubnetRange(Generic[_N]):
    """Where the subnets of one address family are leased from.

    Attributes:
        network: the whole of it.
        subnet_len: prefix length of one lease.
        subnet_min: the first subnet that may be leased, as its network address.
        subnet_max: the last one, inclusive.
    """

    network: _N
    subnet_len: int
    subnet_min: Address
    subnet_max: Address

    def admits(self, subnet: _N) -> bool:
        """Return whether *subnet* may be leased here."""
        first = int(subnet.network_address)
        return subnet.prefixlen == self.subnet_len and int(self.subnet_min) <= first <= int(self.subnet_max)

    def starts(self) -> range:
        """Return the first address of every subnet that may be leased, as numbers, from the lowest."""
        step = 1 << (self.network.max_prefixlen - self.subnet_len)
        return range(int(self.subnet_min), int(self.subnet_max) + 1, step)

    def subnet(self, start: int) -> _N:
        """Return the subnet that begins at *start*."""
        return type(self.network)((start, self.subnet_len))

    def subnets(self) -> Iterator[_N]:
        """Yield every subnet that may be leased, from the lowest."""
        return map(self.subnet, self.starts())


def fits(subnet_range: SubnetRange[_N] | None, subnet: _N | None) -> bool:
    """Return whether *subnet* may be leased from *subnet_range*; where there is no range, there must be no subnet."""
    if subnet_range is None or subnet is None:
        return subnet_range is None and subnet is None
    return subnet_range.admits(subnet)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A valid network configuration.

    Attributes:
        ipv4: ``None`` when ``EnableIPv4`` is false.
        ipv6: ``None`` unless ``EnableIPv6`` is true.
        backend_type: lower case, for example ``"host-gw"``.
        backend_options: the other members of ``Backend``, as they came.
        document: the text that all of this was read from.
    """

    ipv4: SubnetRange[IPv4Network] | None
    ipv6: SubnetRange[IPv6Network] | None
    backend_type: str
    backend_options: Mapping[str, object] = field(hash=False)
    nftables: bool
    document: bytes = field(default=b"", compare=False)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The cluster's network, of each family in use."""
        return tuple(subnet_range.network for subnet_range in (self.ipv4, self.ipv6) if subnet_range is not None)

    @property
    def firewall_program(self) -> str:
        """The name of the firewall program that holds the rules."""
        return "nft" if self.nftables else "iptables"

    def admits(self, ipv4: IPv4Network, ipv6: IPv6Network | None) -> bool:
        """Return whether a lease of these two subnets fits: an IPv6 one where the network has IPv6, and only there."""
        return self.ipv4 is not None and fits(self.ipv4, ipv4) and fits(self.ipv6, ipv6)


@dataclass(frozen=True, slots=True)
class _Family(Generic[_N]):
    """What differs between the two address families; the rules are the same."""

    prefix: str
    network: type[_N]
    address: type[IPv4Address] | type[IPv6Address]
    cidr: re.Pattern[str]
    expected: str
    longest_network: int
    longest_subnet: int
    usual_subnet: int


_V4 = _Family(
    "", IPv4Network, IPv4Address, re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})/(\d{1,2})", re.ASCII),
    'an IPv4 network such as "172.7.0.0/16"', longest_network=28, longest_subnet=30, usual_subnet=24,
)  # fmt: skip
_V6 = _Family(
    "IPv6", IPv6Network, IPv6Address, re.compile(r"([0-9A-Fa-f:.]+)/(\d{1,3})", re.ASCII),
    'an IPv6 network such as "2001:db8:42::/56"', longest_network=124, longest_subnet=126, usual_subnet=64,
)  # fmt: skip


def parse_config(data: bytes) -> NetworkConfig:
    """Read a configuration document.

    Raises:
        Invalid: the document or one of its fields is not usable; names the field, the value and what would be right.
    """
    document = _document(data)
    backend_type, options = _backend(document)
    config = NetworkConfig(
        ipv4=_range(document, _V4) if _boolean(document, "EnableIPv4", True) else None,
        ipv6=_range(document, _V6) if _boolean(document, "EnableIPv6", False) else None,
        backend_type=backend_type,
        backend_options=options,
        nftables=_boolean(document, "EnableNFTables", False),
        document=data,
    )
    if backend_type == "vxlan":
        parse_options(options, ipv6=config.ipv6 is not None)
    return config


def _document(data: bytes) -> Mapping[str, object]:
    """Return the members by their names in lower case, with the values that Go ends up with."""
    members = parse_members(data, "network configuration")
    return {one.name: one.value for one in members if one.value is not None or one.name not in _LEFT_BY_NULL}


def _range(document: Mapping[str, object], family: _Family[_N]) -> SubnetRange[_N]:
    name = f"{family.prefix}Network"
    text = _text(document, name)
    match = family.cidr.fullmatch(text or "")
    try:
        network = family.network((match[1], int(match[2])), strict=False) if match else None
    except ValueError:
        network = None
    if network is None:
        raise Invalid("bad_config", name, text, family.expected)
    if network.prefixlen < 8 or not _is_unicast(network.network_address):
        raise Invalid("bad_config", name, text, "a unicast network of /8 or longer")
    length, low, high = _bounds(document, family, network)
    return SubnetRange(network, length, family.address(low), family.address(high))


def _is_unicast(first: Address) -> bool:
    """Return whether a network may begin at *first*. RFC 1122: 0.0.0.0/8 is nobody's; ::/8 is reserved."""
    link_local = first.version == 6 and first.is_link_local
    return not (first.packed[0] == 0 or first.is_multicast or first.is_loopback or link_local)


def _bounds(document: Mapping[str, object], family: _Family[_N], network: _N) -> tuple[int, int, int]:
    """Return subnet length, first and last subnet (as integers) of *network*."""
    length = _subnet_len(document, family, network.prefixlen)
    size, start = 1 << (network.max_prefixlen - length), int(network.network_address)
    end = int(network.broadcast_address) + 1
    low = _edge(document, family, "SubnetMin", start, end, size, default=start + size)  # never the first by default
    high = _edge(document, family, "SubnetMax", start, end, size, default=end - size)
    if low > high:
        raise _crossed(document, family, family.address(low))
    return length, low, high


def _crossed(document: Mapping[str, object], family: _Family[_N], low: Address) -> Invalid:
    """Return the error for a first subnet *low* above the last one; it names what the document gives."""
    least, most = f"{family.prefix}SubnetMin", f"{family.prefix}SubnetMax"
    if (text := _text(document, least)) is not None and family.address(text) == low:
        return Invalid("bad_config", least, text, f"an address not above {most}")
    return Invalid("bad_config", most, _text(document, most), f"an address not below {low}, the default of {least}")


def _subnet_len(document: Mapping[str, object], family: _Family[_N], prefixlen: int) -> int:
    name = f"{family.prefix}SubnetLen"
    value = document.get(name.lower())
    if value is None:
        value = 0
    if type(value) is not int or value < 0:
        raise Invalid("bad_config", name, value, "a whole number such as 24")
    shortest = prefixlen + 2
    if value == 0:
        if prefixlen > family.longest_network:
            raise Invalid(
                "bad_config", f"{family.prefix}Network", f"/{prefixlen}",
                f"network is too small. Minimum useful network prefix is /{family.longest_network}",
            )
        return max(family.usual_subnet, shortest)
    if value > family.longest_subnet:
        raise Invalid("bad_config", name, value, f"{name} must be less than /{family.longest_subnet + 1}")
    if value < shortest:
        four = "network must be able to accommodate at least four subnets"
        if prefixlen > family.longest_network:  # no length would do
            network, needed = f"{family.prefix}Network", f"/{family.longest_network} or shorter"
            raise Invalid("bad_config", network, f"/{prefixlen}", f"{four}: {needed}")
        raise Invalid("bad_config", name, value, f"{four}: /{shortest} or longer")
    return value


def _edge(
    document: Mapping[str, object], family: _Family[_N], kind: str, start: int, end: int, size: int, *, default: int
) -> int:
    name = family.prefix + kind
    text = _text(document, name)
    if text is None:
        return default
    try:
        if "%" in text:
            raise ValueError("a zone")  # Python takes any text after fe80::1%, Go takes none
        edge = int(family.address(text))
    except ValueError as error:
        raise Invalid("bad_config", name, text, "the network address of a subnet, as text") from error
    if edge == 0:  # Go cannot tell a zero address from an absent one
        return default
    if not start <= edge < end:
        raise Invalid("bad_config", name, text, f"{name} is not in the range of the {family.prefix}Network")
    if edge % size:
        raise Invalid("bad_config", name, text, f"{name} is not on a {family.prefix}SubnetLen boundary: {text}")
    return edge


def _backend(document: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
    if "backend" not in document:
        return DEFAULT_BACKEND, {}
    backend = document["backend"]
    if not isinstance(backend, dict):
        raise Invalid("bad_config", "Backend", backend, 'an object such as {"Type":"host-gw"}')
    options = {name.lower(): value for name, value in backend.items()}
    kind = options.pop("type", "")
    if not isinstance(kind, str):
        raise Invalid("bad_config", "Backend.Type", kind, 'text such as "host-gw"')
    return kind.lower(), options


def _text(document: Mapping[str, object], name: str) -> str | None:
    value = document.get(name.lower())
    if value is not None and not isinstance(value, str):
        raise Invalid("bad_config", name, value, "text in quotes")
    return value


def _boolean(document: Mapping[str, object], name: str, default: bool) -> bool:
    value = document.get(name.lower())
    if value is None:
        return default
    if not isinstance(value, bool):
        raise Invalid("bad_config", name, value, "true or false")
    return value
