"""What peers are judged against, and the judgement: one half of a lease on one side of the ground. Pure.

``validate`` and ``validate_subnet`` are the rules, each with its reason. Nearly every lease is a good one, and there
may be thousands: ``Validator`` tells those by comparing whole numbers, and leaves what it cannot clear to the rules.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from pyflanneld.core.families import Address, Interface, Network, inside, overlap

LONGEST_SUBNET = {4: 30, 6: 126}


@dataclass(frozen=True, slots=True)
class Half:
    """What a lease says of one family; *gateway* is ``None`` where the value has none for it."""

    subnet: Network
    gateway: Address | None


@dataclass(frozen=True, slots=True)
class ValidationContext6:
    """The IPv6 side of the ground of a dual-stack node; attributes as in ``ValidationContext``."""

    network: IPv6Network
    own_subnet: IPv6Network
    link_addresses: tuple[IPv6Interface, ...]
    own_addresses: frozenset[IPv6Address] = frozenset()
    connected: tuple[IPv6Network, ...] = ()
    protected: frozenset[IPv6Address] = frozenset()

    @property
    def near(self) -> tuple[IPv6Network, ...]:
        """Every directly connected network, the link's own among them, as in ``ValidationContext``."""
        return (*self.connected, *(own.network for own in self.link_addresses))


@dataclass(frozen=True, slots=True)
class ValidationContext:
    """What peers are judged against.

    Attributes:
        network: the cluster's network.
        backend_type: ours, for example ``"host-gw"``.
        own_subnet: the subnet that we lease.
        link_addresses: addresses, with prefix lengths, of the link that carries the routes.
        own_addresses: every IPv4 address of this host.
        connected: networks that are directly connected here, besides the own subnet's bridge.
        protected: addresses that no peer's route may capture: etcd's, the default gateway.
        gateways_on_link: whether the backend has use only for peers on the common link.
        ipv6: the other side, in a dual-stack network.
    """

    network: IPv4Network
    backend_type: str
    own_subnet: IPv4Network
    link_addresses: tuple[IPv4Interface, ...]
    own_addresses: frozenset[IPv4Address] = frozenset()
    connected: tuple[IPv4Network, ...] = ()
    protected: frozenset[IPv4Address] = frozenset()
    gateways_on_link: bool = True
    ipv6: ValidationContext6 | None = None

    @property
    def near(self) -> tuple[IPv4Network, ...]:
        """Every directly connected network, the link's own among them: no gateway can lie in a peer's subnet then."""
        return (*self.connected, *(own.network for own in self.link_addresses))

    @property
    def sides(self) -> "tuple[Side, ...]":
        """The families that this node uses."""
        return (self,) if self.ipv6 is None else (self, self.ipv6)


Side = ValidationContext | ValidationContext6


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a key is not believed.

    Attributes:
        reason: a short constant, fit for a metric label.
        detail: one printable line for an operator.
    """

    reason: str
    detail: str


def validate(half: Half, side: Side, *, gateways_on_link: bool) -> Quarantine | None:
    """Say what is wrong with *half* on this side, if anything."""
    return validate_subnet(half.subnet, side) or _judge_gateway(half, side, gateways_on_link)


def validate_subnet(subnet: Network, side: Side) -> Quarantine | None:
    """Say what is wrong with *subnet* alone."""
    network, longest = side.network, LONGEST_SUBNET[subnet.version]
    if not inside(subnet, network) or subnet.prefixlen <= network.prefixlen:
        return Quarantine("outside_network", f"{subnet} is not a part of {network}")
    if subnet.prefixlen > longest:
        return Quarantine("bad_length", f"{subnet} is longer than /{longest}")
    if overlap(subnet, side.own_subnet):
        return Quarantine("overlaps_own", f"{subnet} overlaps our own {side.own_subnet}")
    captured = _first([*side.own_addresses, *side.protected], subnet)
    if captured is not None:
        return Quarantine("captures_address", f"{subnet} contains {captured}, which this host needs")
    covered = next((net for net in side.near if overlap(net, subnet)), None)
    if covered is not None:
        return Quarantine("captures_network", f"{subnet} overlaps {covered}, which is connected to this host")
    return None


def _first(addresses: Iterable[Address], subnet: Network) -> Address | None:
    return min((address for address in addresses if address in subnet), default=None, key=int)


def _judge_gateway(half: Half, side: Side, on_link: bool) -> Quarantine | None:
    gateway, field_name = half.gateway, "PublicIP" if half.subnet.version == 4 else "PublicIPv6"
    if gateway is None:
        return Quarantine("bad_gateway", f"the lease has no {field_name} for {half.subnet}")
    if gateway.is_unspecified or gateway.is_loopback or gateway.is_multicast or gateway.is_reserved:
        return Quarantine("bad_gateway", f"{field_name} {gateway} is no address of a host")
    if gateway in side.own_addresses or any(own.ip == gateway for own in side.link_addresses):
        return Quarantine("bad_gateway", f"{field_name} {gateway} is our own address")
    if gateway in side.own_subnet:
        return Quarantine("bad_gateway", f"{field_name} {gateway} is inside our own {side.own_subnet}")
    if on_link and not any(_reaches(own, gateway) for own in side.link_addresses):
        near = ", ".join(str(own.network) for own in side.link_addresses)
        why = f"is no neighbour on the link ({near}): nothing for {half.subnet} can be sent to it"
        return Quarantine("gateway_off_link", f"{field_name} {gateway} {why}; host-gw needs a common LAN")
    return None


def _reaches(own: Interface, gateway: Address) -> bool:
    """Say whether *gateway* can be a neighbour on the network of *own*."""
    network = own.network
    edges: tuple[Address, ...] = ()
    if network.prefixlen < network.max_prefixlen - 1:
        # IPv6 has no broadcast, and the first address is any router's.
        edges = (network.network_address, *((network.broadcast_address,) if network.version == 4 else ()))
    return gateway in network and gateway not in edges


class Validator:
    """The validation of many leases on one side: the result of ``validate`` and ``validate_subnet``, but fast."""

    def __init__(self, side: Side, *, gateways_on_link: bool) -> None:
        network = side.network
        self.side = side
        self._gateways_on_link = gateways_on_link
        self._lengths = range(network.prefixlen + 1, LONGEST_SUBNET[network.version] + 1)
        self._low, self._high = address_range(network)
        self._own = {int(address) for address in (*side.own_addresses, *(own.ip for own in side.link_addresses))}
        needed = {(int(address), int(address)) for address in (*side.own_addresses, *side.protected)}
        taken = _merged([*needed, address_range(side.own_subnet), *map(address_range, side.near)])
        self._taken_from, self._taken_to = [low for low, _ in taken], [high for _, high in taken]
        self._neighbours = [
            _hosts(own.network)
            for own in side.link_addresses
            if not overlap(own.network, side.own_subnet) and _is_ordinary(own.network)
        ]

    def subnet(self, subnet: Network) -> Quarantine | None:
        """Say what is wrong with *subnet* alone."""
        low, high = address_range(subnet)
        if subnet.prefixlen in self._lengths and self._low <= low and high <= self._high:
            nearest = bisect_left(self._taken_to, low)
            if nearest == len(self._taken_from) or high < self._taken_from[nearest]:
                return None
        return validate_subnet(subnet, self.side)

    def half(self, half: Half) -> Quarantine | None:
        """Say what is wrong with *half*."""
        trouble = self.subnet(half.subnet)
        if trouble is None and half.gateway is not None:
            gateway = int(half.gateway)
            if gateway not in self._own and any(low <= gateway <= high for low, high in self._neighbours):
                return None
        return trouble or _judge_gateway(half, self.side, self._gateways_on_link)


def address_range(network: Network) -> tuple[int, int]:
    """Return the first and the last address of *network* as numbers."""
    low = int(network.network_address)
    return low, low | (1 << (network.max_prefixlen - network.prefixlen)) - 1


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return *spans* in order, those that overlap as one."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if found and low <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], high)
        else:
            found.append((low, high))
    return found


def _hosts(network: Network) -> tuple[int, int]:
    """Return the first and the last address that a neighbour on *network* can have, as ``_reaches`` has it."""
    low, high = address_range(network)
    edges = network.prefixlen < network.max_prefixlen - 1
    return low + edges, high - (edges and network.version == 4)


_ORDINARY = {  # the first and last addresses of ranges without any unspecified, loopback, multicast or reserved one
    4: ((1 << 24, (127 << 24) - 1), (128 << 24, (224 << 24) - 1)),
    6: (address_range(IPv6Network("2000::/3")), address_range(IPv6Network("fc00::/7"))),
}


def _is_ordinary(network: Network) -> bool:
    low, high = address_range(network)
    return any(first <= low and high <= last for first, last in _ORDINARY[network.version])
