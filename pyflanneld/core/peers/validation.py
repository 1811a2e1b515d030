"""What peers' leases are validated against, and the rules: the IPv4 or the IPv6 part of a lease at a time. Pure.

There may be thousands of leases, so the rules compare whole numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pyflanneld.core.families import Address, Interface, Network

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
        own_addresses: every address of this host's links.
        loopback: those on its loopback: no gateway, but no route takes them away.
        connected: networks that are directly connected here, except that of this host's own subnet.
        protected: addresses that no peer's route may capture: etcd's, the default gateway.
    """

    network: Network
    own_subnet: Network
    link_addresses: tuple[Interface, ...]
    own_addresses: frozenset[Address] = frozenset()
    connected: tuple[Network, ...] = ()
    protected: frozenset[Address] = frozenset()
    loopback: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class ValidationContext:
    """What peers' leases are validated against on this host.

    Attributes:
        backend_type: what leases of our backend carry, for example ``"host-gw"``.
        ipv4: the IPv4 part.
        ipv6: the IPv6 part, in a dual-stack network.
        gateways_on_link: whether the backend needs every peer on the common link.
    """

    backend_type: str
    ipv4: FamilyContext
    ipv6: FamilyContext | None = None
    gateways_on_link: bool = True

    @property
    def families(self) -> tuple[FamilyContext, ...]:
        """The families that this node uses."""
        return (self.ipv4,) if self.ipv6 is None else (self.ipv4, self.ipv6)


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

    def __init__(self, context: FamilyContext, *, gateways_on_link: bool) -> None:
        self._context = context
        self._gateways_on_link = gateways_on_link
        self._published = {int(own.ip) for own in context.link_addresses}  # one of these, where none is given
        self._own = {int(address) for address in (*context.own_addresses, *context.loopback)} | self._published
        self._own_subnet = [address_range(context.own_subnet)]
        self._neighbours = [_hosts(own.network) for own in context.link_addresses]
        self._first, self._last = address_range(context.network)
        # What lies outside the network cannot overlap a subnet that lies inside it.
        self._occupied = [one for one in _occupied(context) if one[0] <= self._last and self._first <= one[1]]

    def check_subnet(self, subnet: Network) -> Quarantine | None:
        """Return what is wrong with *subnet*, whatever its gateway."""
        first, last = address_range(subnet)
        network = self._context.network
        if first < self._first or last > self._last or subnet.prefixlen <= network.prefixlen:
            return Quarantine("outside_network", f"{subnet} is not a part of {network}")
        if subnet.prefixlen > LONGEST_SUBNET[subnet.version]:
            return Quarantine("bad_length", f"{subnet} is longer than /{LONGEST_SUBNET[subnet.version]}")
        for low, high, reason, conflict in self._occupied:
            if low <= last and first <= high:
                return Quarantine(reason, f"{subnet} {conflict}")
        return None

    def check(self, subnet: Network, gateway: Address | None) -> Quarantine | None:
        """Return what is wrong with a lease of *subnet*; *gateway* is ``None`` where its value names none."""
        return self.check_subnet(subnet) or self._check_gateway(subnet, gateway)

    def _check_gateway(self, subnet: Network, gateway: Address | None) -> Quarantine | None:
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
        if self._gateways_on_link and not _within(number, self._neighbours):
            near = ", ".join(str(own.network) for own in self._context.link_addresses)
            why = f"is no neighbour on the link ({near}): nothing for {subnet} can be sent to it"
            return Quarantine("gateway_off_link", f"{field} {gateway} {why}; host-gw needs a common LAN")
        return None


def _occupied(context: FamilyContext) -> Iterable[tuple[int, int, str, str]]:
    """Yield what no peer's subnet may overlap: first and last address, the reason, and what to call the conflict."""
    own_subnet = context.own_subnet
    yield *address_range(own_subnet), "overlaps_own", f"overlaps our own {own_subnet}"
    for address in sorted({*context.own_addresses, *context.protected}, key=int):
        yield int(address), int(address), "captures_address", f"contains {address}, which this host needs"
    for network in (*context.connected, *(own.network for own in context.link_addresses)):
        yield *address_range(network), "captures_network", f"overlaps {network}, which is connected to this host"


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
