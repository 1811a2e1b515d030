"""IPv4 and IPv6 together: unions of their types, and comparisons that work on a mixture."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network


def unmapped(address: Address) -> Address:
    """Return the IPv4 address that ``::ffff:a.b.c.d`` stands for, as Go's ``net.IP`` does; any other one as it is."""
    return (address.ipv4_mapped if address.version == 6 else None) or address


def inside(inner: Network, outer: Network) -> bool:
    """Return whether *inner* is a part of *outer*, or all of it."""
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    differing = int(inner.network_address) ^ int(outer.network_address)
    return not differing >> (outer.max_prefixlen - outer.prefixlen)


def overlap(one: Network, other: Network) -> bool:
    """Return whether the two share an address."""
    return inside(one, other) or inside(other, one)


def in_order(networks: Iterable[Network]) -> list[Network]:
    """Return *networks* sorted, IPv4 first."""
    return sorted(networks, key=network_order)


def host_port(ip: Address, port: int) -> str:
    """Return an address with a port as it is written: ``10.0.0.1:2401``, ``[::1]:2401``."""
    return f"{ip}:{port}" if ip.version == 4 else f"[{ip}]:{port}"


def first_of(networks: Iterable[Network]) -> Network:
    """Return the first of *networks* in that order; there must be one."""
    return min(networks, key=network_order)


def network_order(network: Network) -> tuple[int, int, int]:
    """Return by what *network* is sorted."""
    return network.version, int(network.network_address), network.prefixlen
