"""What peers' leases are validated against, and the rules: the IPv4 or the IPv6 part of a lease at a time. Pure.

There may be thousands of leases, so the rules compare whole numbers.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from pyflanneld.core.families import Address, Interface, Network, in_order, inside, overlap
from pyflanneld.core.invalid import Invalid

T = TypeVar("T")
_NOTHING: Mapping[Address, Any] = MappingProxyType({})
LONGEST_SUBNET = {4: 30, 6: 126}
_UNICAST = {  # without the unspecified address, loopback, multicast, and what the IETF reserves; mapped IPv4 too
    4: ((1, (127 << 24) - 1), (128 << 24, (224 << 24) - 1)),
    6: tuple((a << 112, (b << 112) - 1) for a, b in ((0x2000, 0x4000), (0xFC00, 0xFE00), (0xFE80, 0xFF00))),
}
_Span = tuple[int, int]
"""The first and the last address, both included."""


@dataclass(frozen=True, slots=True)
class FamilyContext:
    """What the leases of one address family are validated against.

    Attributes:
        network: the cluster's network.
        own_subnet: the subnet that this host leases.
        link_addresses: addresses, with prefix lengths, of the link that carries the routes.
        published: what this host publishes; counts as one of these.
        own_addresses: every address of this host's links, and the one that it publishes, be that gone for a moment.
        loopback: those on its loopback: no gateway, but no route takes them away.
        connected: networks that are directly connected here, on whatever link.
        protected: addresses that no peer's route may take away: etcd's.
        next_hops: addresses that routes lead over, with the revision since when: a lease that is older may contain one
            all the same. Needed only where anything is ``shared``.
        ways: how the kernel sends packets to gateways outside the link's networks: ``ON_LINK``, or words.
    """

    network: Network
    own_subnet: Network
    link_addresses: tuple[Interface, ...]
    own_addresses: frozenset[Address] = frozenset()
    connected: tuple[Network, ...] = ()
    protected: frozenset[Address] = frozenset()
    loopback: frozenset[Address] = frozenset()
    next_hops: Mapping[Address, int] = field(default_factory=dict)
    ways: Mapping[Address, str] = field(default_factory=dict)
    published: Address | None = None

    @property
    def all_connected(self) -> frozenset[Network]:
        """The connected networks, that of the link among them."""
        return frozenset((*self.connected, *(own.network for own in self.link_addresses)))

    @property
    def shared(self) -> tuple[Network, ...]:
        """The connected networks that share addresses with the cluster's, but for what this host's own subnet holds."""
        near = [there for there in self.all_connected if overlap(there, self.network)]
        return tuple(in_order(there for there in near if not inside(there, self.own_subnet)))


class DataRules(Protocol):
    """What a backend demands of the data in a lease; a value."""

    def claim(self, subnet: Network, data: str) -> str:
        """Return what no other peer's *data* for a subnet of this family may say. Raises ``Invalid``."""
        ...

    def remark(self, data: str) -> str:
        """Return what is odd about *data* that can be used; empty: nothing."""
        ...


@dataclass(frozen=True, slots=True)
class ValidationContext:
    """What peers' leases are validated against on this host.

    Attributes:
        backend_type: what leases of our backend carry, for example ``"host-gw"``.
        ipv4: the IPv4 part.
        ipv6: the IPv6 part, in a dual-stack network.
        gateways_on_link: whether the backend needs every peer on the common link.
        data_rules: what it demands of the data in their leases; ``None``: nothing.
        kin_type: what leases of the backend carry whose hosts are reached by a plain route, as they reach this one,
            where both are on one link; empty: there is none.
    """

    backend_type: str
    ipv4: FamilyContext
    ipv6: FamilyContext | None = None
    gateways_on_link: bool = True
    data_rules: DataRules | None = None
    kin_type: str = ""

    @property
    def families(self) -> tuple[FamilyContext, ...]:
        """The families that this node uses."""
        return (self.ipv4,) if self.ipv6 is None else (self.ipv4, self.ipv6)

    @property
    def shared(self) -> tuple[Network, ...]:
        """As ``FamilyContext.shared``, of both families."""
        return tuple(network for family in self.families for network in family.shared)

    def with_lookups(
        self, *, next_hops: Mapping[Address, int] = _NOTHING, ways: Mapping[Address, str] = _NOTHING
    ) -> "ValidationContext":
        """Return it with these attributes of ``FamilyContext``, of either family."""
        ipv4, *ipv6 = (
            replace(family, next_hops=_of(family, next_hops), ways=_of(family, ways)) for family in self.families
        )
        return replace(self, ipv4=ipv4, ipv6=ipv6[0] if ipv6 else None)


def _of(family: FamilyContext, values: Mapping[Address, T]) -> dict[Address, T]:
    return {address: one for address, one in values.items() if address.version == family.network.version}


ON_LINK = ""
"""The way to an address that the link reaches without a router."""

CAPTURES_NETWORK = "captures_network"
"""The reason for a subnet that is, to the bit, a connected network: the kernel can use one of two routes."""

OWN_ELSEWHERE = "own_elsewhere"
"""The reason for a lease with our own address: an old one of this host, or a reservation for its next start."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a key is rejected.

    Attributes:
        reason: a short constant, fit for a metric label.
        detail: one printable line for an operator.
    """

    reason: str
    detail: str


class Validator:
    """The rules for one address family."""

    def __init__(
        self, context: FamilyContext, *, gateways_on_link: bool, data_rules: DataRules | None = None
    ) -> None:
        self._context = context
        self._data_rules = data_rules
        self._gateways_on_link = gateways_on_link
        self._published = {int(own.ip) for own in context.link_addresses}  # one of these, where none is given
        self._published |= {int(context.published)} if context.published is not None else set()
        self._own = {int(address) for address in (*context.own_addresses, *context.loopback)} | self._published
        self._own_subnet = [address_range(context.own_subnet)]
        self._neighbours = [_hosts(own.network) for own in context.link_addresses]
        self._first, self._last = address_range(context.network)
        self._connected = context.all_connected
        self._needed = self._with_cover({*context.own_addresses, *context.protected})
        self._hops = self._with_cover(context.next_hops)

    def check_subnet(self, subnet: Network) -> Quarantine | None:
        """Return what is wrong with *subnet*, whatever its gateway."""
        first, last = address_range(subnet)
        network = self._context.network
        if first < self._first or last > self._last or subnet.prefixlen <= network.prefixlen:
            return Quarantine("outside_network", f"{subnet} is not a part of {network}")
        if subnet.prefixlen > LONGEST_SUBNET[subnet.version]:
            return Quarantine("bad_length", f"{subnet} is longer than /{LONGEST_SUBNET[subnet.version]}")
        if _within(first, self._own_subnet) or first <= self._own_subnet[0][0] <= last:
            return Quarantine("overlaps_own", f"{subnet} overlaps our own {self._context.own_subnet}")
        if subnet in self._connected:
            return Quarantine(CAPTURES_NETWORK, f"{subnet} is a network that is connected to this host")
        return _capture(subnet, self._within_subnet(subnet, self._needed))

    def claim(self, subnet: Network, data: str | None) -> str:
        """Return what of *data* no other peer may say. Raises ``Invalid`` for data that cannot be used."""
        return self._data_rules.claim(subnet, data) if self._data_rules is not None and data is not None else ""

    def is_neighbour(self, gateway: Address | None) -> bool:
        """Return whether *gateway* can be a host in a network of the link."""
        return gateway is not None and _within(int(gateway), self._neighbours)

    def check(
        self, subnet: Network, gateway: Address | None, created: int, data: str | None = None
    ) -> Quarantine | None:  # fmt: skip
        """Return what is wrong with a lease of *subnet*.

        Args:
            subnet: of one family.
            gateway: ``None`` where the value names none.
            created: the key's create revision.
            data: what it says for the backend; ``None``: that does not matter, a plain route leads to its host.
        """
        on_link = self._gateways_on_link or data is None
        wrong = self.check_subnet(subnet) or self._check_gateway(subnet, gateway, on_link=on_link)
        wrong = wrong or self._check_data(subnet, data)
        if wrong is not None or not self._hops:
            return wrong
        since = self._context.next_hops
        hops = [one for one in self._within_subnet(subnet, self._hops) if one != gateway and since[one] < created]
        return _capture(subnet, hops)

    def _with_cover(self, addresses: Iterable[Address]) -> list[tuple[int, int]]:
        """Return, in order, those of *addresses* that a subnet can contain, each with its longest connected prefix."""
        numbers = sorted({int(address) for address in addresses})
        nets = [(*address_range(net), net.prefixlen) for net in self._connected]
        return [
            (number, max((length for low, high, length in nets if low <= number <= high), default=-1))
            for number in numbers
            if self._first <= number <= self._last
        ]

    def _within_subnet(self, subnet: Network, needed: Sequence[tuple[int, int]]) -> list[Address]:
        """Return which of the *needed* addresses *subnet* takes away: no longer connected prefix protects these."""
        first, last = address_range(subnet)
        inside_it = needed[bisect_left(needed, (first, -1)) : bisect_left(needed, (last + 1, -1))]
        return [type(subnet.network_address)(number) for number, cover in inside_it if cover <= subnet.prefixlen]

    def _check_gateway(self, subnet: Network, gateway: Address | None, *, on_link: bool) -> Quarantine | None:
        field = "PublicIP" if subnet.version == 4 else "PublicIPv6"
        if gateway is None:
            return Quarantine("bad_gateway", f"the lease has no {field} for {subnet}")
        number = int(gateway)
        if not _within(number, _UNICAST[subnet.version]):
            return Quarantine("bad_gateway", f"{field} {gateway} is no address of a host")
        if number in self._published:
            return Quarantine(OWN_ELSEWHERE, f"{field} {gateway} is our own address, and {subnet} is not our subnet")
        if number in self._own:
            return Quarantine("bad_gateway", f"{field} {gateway} is our own address")
        if _within(number, self._own_subnet):
            return Quarantine("bad_gateway", f"{field} {gateway} is inside our own {self._context.own_subnet}")
        if on_link and not _within(number, self._neighbours):
            return self._off_link(subnet, gateway, field)
        return None

    def _check_data(self, subnet: Network, data: str | None) -> Quarantine | None:
        try:
            self.claim(subnet, data)
        except Invalid as error:
            return Quarantine(error.reason, str(error))
        return None

    def _off_link(self, subnet: Network, gateway: Address, field: str) -> Quarantine | None:
        """Return what is wrong with a gateway outside the link's networks, unless the kernel has it on the link."""
        way = self._context.ways.get(gateway)
        edge = any(gateway in own.network for own in self._context.link_addresses)  # its first or last address
        if way == ON_LINK and not edge:
            return None
        near = ", ".join(str(own.network) for own in self._context.link_addresses)
        told = f", the kernel sends packets to it {way}" if way is not None else ""
        why = f"is no neighbour on the link ({near}){told}: nothing for {subnet} can be sent to it"
        return Quarantine("gateway_off_link", f"{field} {gateway} {why}; host-gw needs a common LAN")


def _capture(subnet: Network, needed: Sequence[Address]) -> Quarantine | None:
    if not needed:
        return None
    return Quarantine("captures_address", f"{subnet} contains {needed[0]}, which this host needs")


def _within(number: int, spans: Iterable[_Span]) -> bool:
    for first, last in spans:  # noqa: SIM110 - any() would take three times as long
        if first <= number <= last:
            return True
    return False


def address_range(network: Network) -> _Span:
    """Return the first and the last address of *network* as numbers."""
    first = int(network.network_address)
    return first, first | (1 << (network.max_prefixlen - network.prefixlen)) - 1


def _hosts(network: Network) -> _Span:
    """Return the first and the last address that a neighbour on *network* can have.

    IPv6 has no broadcast, and the first address of a network is that of any router.
    """
    first, last = address_range(network)
    edges = network.prefixlen < network.max_prefixlen - 1
    return first + edges, last - (edges and network.version == 4)
