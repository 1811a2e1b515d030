"""Which subnet a node leases: the one that it holds already, the one of an earlier run, or a free one.

The order is flannel's (``pkg/subnet/etcd/local_manager.go``, v0.28.9), with its rule for a remembered subnet that
another node holds: leave it alone.

In a dual-stack network the free subnets are chosen in *pairs*: the first IPv4 subnet of the range goes with the first
IPv6 one, and so on. Where one is remembered, or no pair is free, each is chosen for itself. So hosts that choose by the
same list know what the others may create, and two pairs that are not the same do not overlap.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import chain, islice
from random import Random
from typing import Generic, TypeVar

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import Network, inside, overlap
from pyflanneld.core.lease.codec import SubnetKey
from pyflanneld.core.network.config import SubnetRange, fits

CHOICES = 100

_N = TypeVar("_N", IPv4Network, IPv6Network)


@dataclass(frozen=True, slots=True)
class SubnetRequest(Generic[_N]):
    """The subnet of one address family that a node asks for.

    Attributes:
        subnet_range: where leases come from.
        previous: the subnet of an earlier run.
        underlay: networks that no lease may overlap, because our own traffic runs there.
        around: wider networks of our link. A lease may be a part of one where nothing else is free, or if it was
            remembered: it then cuts off from this host what else is at its addresses.
    """

    subnet_range: SubnetRange[_N]
    previous: _N | None = None
    underlay: tuple[_N, ...] = ()
    around: tuple[_N, ...] = ()


@dataclass(frozen=True, slots=True)
class Reuse:
    """A lease that already carries our address; hold it again."""

    record: Record
    subnet: IPv4Network
    ipv6: IPv6Network | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    """A lease that carries our address but does not fit the network any more; delete it and choose again.

    Attributes:
        keep: its IPv4 subnet where that still fits: only an IPv6 subnet is missing, or one too many.
    """

    record: Record
    keep: IPv4Network | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A free subnet to create a lease for.

    Attributes:
        previous_refused: why the remembered subnet was not taken; ``None`` if it was, or there was none.
        choices: in a dual-stack network, what all choose from that have the same list.
    """

    subnet: IPv4Network
    previous_refused: str | None
    ipv6: IPv6Network | None = None
    choices: tuple[SubnetKey, ...] = field(default=(), compare=False)

    @property
    def key(self) -> SubnetKey:
        """What to create."""
        return SubnetKey(self.subnet, self.ipv6)


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Every subnet of the range is taken."""


Choice = Reuse | Discard | Claim | Exhausted


def choose(
    records: Sequence[Record],
    public_ip: IPv4Address,
    ipv4: SubnetRequest[IPv4Network],
    ipv6: SubnetRequest[IPv6Network] | None,
    rng: Random,
    *,
    lost: Sequence[SubnetKey] = (),
    width: int = CHOICES,
) -> Choice:
    """Decide what to do about a lease.

    Args:
        records: every record below ``subnets/`` at one revision.
        public_ip: the address that we publish, by which our own leases are known.
        ipv4: the subnet to request.
        ipv6: the other one in a dual-stack network.
        rng: spreads simultaneous starts over *width* free subnets.
        lost: what others have taken since.
    """
    own = _own(records, public_ip, ipv4, ipv6)
    if own is not None:
        return own
    keys = [*_keys(records), *lost]
    pairs = () if ipv6 is None else first_pairs(records, ipv4, ipv6)
    left = [pair for pair in pairs if not any(pair.overlaps(key) for key in lost)]
    subnet, refused = _pick(ipv4, _claimed(ipv4, records, keys), rng, width, [pair.ipv4 for pair in left])
    if subnet is None:
        return Exhausted()
    if ipv6 is None:
        return Claim(subnet, refused)
    partner = [pair.ipv6 for pair in left if pair.ipv4 == subnet and pair.ipv6 is not None]
    subnet6, refused6 = _pick(ipv6, _claimed(ipv6, records, keys), rng, width, partner)
    if subnet6 is None:
        return Exhausted()
    return Claim(subnet, refused or (f"IPv6: {refused6}" if refused6 else None), subnet6, pairs)


def _claimed(request: SubnetRequest[_N], records: Iterable[Record], keys: Iterable[SubnetKey]) -> list[Network]:
    """Return what the keys claim of one family, and the hosts' own addresses where a lease must spare them."""
    version = request.subnet_range.network.version
    halves: list[Network] = [half for key in keys if (half := key.subnet(version)) is not None]
    return [*halves, *_hosts(records, request)]


def first_pairs(
    records: Sequence[Record], ipv4: SubnetRequest[IPv4Network], ipv6: SubnetRequest[IPv6Network]
) -> tuple[SubnetKey, ...]:
    """Return the first pairs that the records leave free, outside of the link's wider networks."""
    keys = _keys(records)
    taken = _taken(_claimed(ipv4, records, keys), ipv4.subnet_range.network, [*ipv4.underlay, *ipv4.around])
    taken6 = _taken(_claimed(ipv6, records, keys), ipv6.subnet_range.network, [*ipv6.underlay, *ipv6.around])
    return tuple(islice(free_pairs(ipv4.subnet_range, taken, ipv6.subnet_range, taken6), CHOICES))


def count_free(
    records: Sequence[Record], subnet_range: SubnetRange[IPv4Network], underlay: Iterable[IPv4Network]
) -> int:
    """Return how many subnets ``choose`` could take."""
    taken = _taken((key.ipv4 for key in _keys(records)), subnet_range.network, underlay)
    return sum(1 for _ in free_subnets(subnet_range, taken))


def _pick(
    request: SubnetRequest[_N], claimed: Iterable[Network], rng: Random, width: int, offered: Sequence[_N]
) -> tuple[_N | None, str | None]:
    """Return the remembered subnet, or a free one and why not the remembered one; ``None``: there is none.

    Where any are *offered*, which are free, it is one of them.
    """
    subnet_range, previous, refused = request.subnet_range, request.previous, None
    taken = _taken(claimed, subnet_range.network, request.underlay)
    if previous is not None:
        refused = _why_not(previous, subnet_range.admits(previous), subnet_range.network, taken)
        if refused is None:
            return previous, None
    free = list(offered) or list(islice(free_subnets(subnet_range, chain(taken, request.around)), width))
    free = free or list(islice(free_subnets(subnet_range, taken), width))
    return (rng.choice(free) if free else None), refused


def _hosts(records: Iterable[Record], request: SubnetRequest[_N]) -> Iterator[_N]:
    """Yield the addresses of the other hosts, where a lease may be a part of their network."""
    network = request.subnet_range.network
    for record in records if request.around else ():
        attrs = record.lease.attrs
        address = attrs.gateway(network.version) if attrs is not None else None
        if address is not None:
            yield type(network)((int(address), network.max_prefixlen))


def _own(
    records: Sequence[Record],
    public_ip: IPv4Address,
    ipv4: SubnetRequest[IPv4Network],
    ipv6: SubnetRequest[IPv6Network] | None,
) -> Reuse | Discard | None:
    """Return what to do with a lease of ours: the remembered one if there are several, else the oldest.

    After a change between IPv4 and dual stack the key has the wrong form: its IPv4 subnet is kept under another key.
    """
    found: list[tuple[bool, int, Reuse]] = []
    stale: list[Discard] = []
    range6 = None if ipv6 is None else ipv6.subnet_range
    for record in records:
        key, attrs = record.lease.key, record.lease.attrs
        if key is None or attrs is None or attrs.public_ip != public_ip:
            continue
        keep = key.ipv4 if ipv4.subnet_range.admits(key.ipv4) else None
        if keep is not None and fits(range6, key.ipv6):
            found.append((keep != ipv4.previous, record.create_revision, Reuse(record, keep, key.ipv6)))
        elif record.lease_id:  # a reservation is the operator's to remove
            stale.append(Discard(record, keep))
    if found:
        return min(found, key=lambda entry: entry[:2])[2]
    return stale[0] if stale else None


def _keys(records: Iterable[Record]) -> list[SubnetKey]:
    """Return the subnets in the names, whatever the values say: a broken value does not free a subnet."""
    return [key for record in records if (key := record.lease.key) is not None]


def _taken(claimed: Iterable[Network], network: Network, underlay: Iterable[Network]) -> list[Network]:
    """Return what cannot be chosen.

    A key that claims all of *network* is nobody's lease (every node rejects it, see ``peers``); one such key must not
    keep every new node out.
    """
    return [net for net in claimed if not inside(network, net)] + list(underlay)


def _why_not(previous: Network, admitted: bool, network: Network, taken: Iterable[Network]) -> str | None:
    if not admitted:
        return f"it is not one of the subnets of {network} that may be leased"
    holder = next((net for net in taken if overlap(net, previous)), None)
    return f"it overlaps {holder}, which is taken" if holder else None


def free_subnets(subnet_range: SubnetRange[_N], taken: Iterable[Network]) -> Iterator[_N]:
    """Yield the subnets of *subnet_range* that overlap nothing in *taken*, from the lowest."""
    starts = subnet_range.starts()
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in taken)
    blocked_to, position = -1, 0
    for start in starts:
        while position < len(spans) and spans[position][0] < start + starts.step:
            blocked_to = max(blocked_to, spans[position][1])
            position += 1
        if blocked_to < start:
            yield subnet_range.subnet(start)


def free_pairs(
    range4: SubnetRange[IPv4Network],
    taken4: Iterable[Network],
    range6: SubnetRange[IPv6Network],
    taken6: Iterable[Network],
) -> Iterator[SubnetKey]:
    """Yield the subnets with the same number in both ranges of which both are free, from the lowest."""
    starts4, starts6 = range4.starts(), range6.starts()
    free6, six = free_subnets(range6, taken6), None
    for four in free_subnets(range4, taken4):
        number = (int(four.network_address) - starts4.start) // starts4.step
        start = starts6.start + number * starts6.step
        while six is None or int(six.network_address) < start:
            six = next(free6, None)
            if six is None:
                return
        if int(six.network_address) == start:
            yield SubnetKey(four, six)
