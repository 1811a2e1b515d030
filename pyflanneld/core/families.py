"""The two address families as one: unions of their types, and comparisons that a mixture cannot break."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


def inside(inner: Network, outer: Network) -> bool:
    """Say whether *inner* is a part of *outer*, or all of it."""
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def overlap(one: Network, other: Network) -> bool:
    """Say whether the two share an address."""
    return inside(one, other) or inside(other, one)


def in_order(networks: Iterable[Network]) -> list[Network]:
    """Return *networks* sorted, IPv4 first."""
    return sorted(networks, key=lambda net: (net.version, int(net.network_address), net.prefixlen))
