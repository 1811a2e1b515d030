"""Which subnet a node should hold: its own one again, the one its file remembers, or a free one.

The order is flannel's (``pkg/subnet/etcd/local_manager.go``, v0.28.9), with its rule for a remembered subnet that
somebody else holds: leave it alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import islice
from random import Random

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import Network, inside, overlap
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import SubnetKey, parse_key_name, parse_value
from pyflanneld.core.network.config import SubnetRange, SubnetRange6

CHOICES = 100


@dataclass(frozen=True, slots=True)
class Demand6:
    """The IPv6 half of what a node wants in a dual-stack network; attributes as the arguments of ``choose``."""

    subnet_range: SubnetRange6
    previous: IPv6Network | None = None
    underlay: tuple[IPv6Network, ...] = ()


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
        keep: its IPv4 subnet where that still fits: only the other half is missing, or one too many.
    """

    record: Record
    keep: IPv4Network | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A free subnet to create a lease for.

    Attributes:
        previous_refused: why the remembered subnet was not taken; ``None`` if it was, or there was none.
    """

    subnet: IPv4Network
    previous_refused: str | None
    ipv6: IPv6Network | None = None


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Every subnet of the range is taken."""


Choice = Reuse | Discard | Claim | Exhausted


def choose(
    records: Sequence[Record],
    subnet_range: SubnetRange,
    public_ip: IPv4Address,
    *,
    previous: IPv4Network | None,
    underlay: Iterable[IPv4Network],
    rng: Random,
    ipv6: Demand6 | None = None,
) -> Choice:
    """Decide what to do about a lease.

    Args:
        records: every record below ``subnets/`` at one revision.
        subnet_range: where leases come from.
        public_ip: the address that we publish, by which our own leases are known.
        previous: the subnet that the subnet file remembers.
        underlay: networks that no lease may overlap, because our own traffic runs there.
        rng: spreads simultaneous starts over ``CHOICES`` subnets.
        ipv6: what else is wanted in a dual-stack network.
    """
    own = _own(records, subnet_range, public_ip, previous, ipv6)
    if own is not None:
        return own
    keys = _keys(records)
    subnet, refused = _pick(
        subnet_range, previous, _taken((key.ipv4 for key in keys), subnet_range.network, underlay), rng
    )
    if subnet is None:
        return Exhausted()
    if ipv6 is None:
        return Claim(subnet, refused)
    taken6 = _taken((key.ipv6 for key in keys if key.ipv6 is not None), ipv6.subnet_range.network, ipv6.underlay)
    subnet6, refused6 = _pick6(ipv6.subnet_range, ipv6.previous, taken6, rng)
    if subnet6 is None:
        return Exhausted()
    return Claim(subnet, refused or (f"IPv6: {refused6}" if refused6 else None), subnet6)


def count_free(records: Sequence[Record], subnet_range: SubnetRange, underlay: Iterable[IPv4Network]) -> int:
    """Return how many subnets ``choose`` could take."""
    taken = _taken((key.ipv4 for key in _keys(records)), subnet_range.network, underlay)
    return sum(1 for _ in free_subnets(subnet_range, taken))


def _pick(
    subnet_range: SubnetRange, previous: IPv4Network | None, taken: Sequence[Network], rng: Random
) -> tuple[IPv4Network | None, str | None]:
    """Return the remembered subnet, or a free one and why not the remembered one; ``None``: there is none."""
    refused = None
    if previous is not None:
        refused = _why_not(previous, subnet_range.admits(previous), subnet_range.network, taken)
        if refused is None:
            return previous, None
    free = list(islice(free_subnets(subnet_range, taken), CHOICES))
    return (rng.choice(free) if free else None), refused


def _pick6(
    subnet_range: SubnetRange6, previous: IPv6Network | None, taken: Sequence[Network], rng: Random
) -> tuple[IPv6Network | None, str | None]:
    """Do for IPv6 what ``_pick`` does for IPv4; the two halves are chosen independently."""
    refused = None
    if previous is not None:
        refused = _why_not(previous, subnet_range.admits(previous), subnet_range.network, taken)
        if refused is None:
            return previous, None
    starts = _free_starts(
        int(subnet_range.subnet_min), int(subnet_range.subnet_max), 1 << (128 - subnet_range.subnet_len), taken
    )
    free = [IPv6Network((start, subnet_range.subnet_len)) for start in islice(starts, CHOICES)]
    return (rng.choice(free) if free else None), refused


def _own(
    records: Sequence[Record],
    subnet_range: SubnetRange,
    public_ip: IPv4Address,
    previous: IPv4Network | None,
    ipv6: Demand6 | None,
) -> Reuse | Discard | None:
    """Return what to do with a lease of ours: the remembered one if there are several, else the oldest.

    After a change between IPv4 and dual stack the key has the wrong form: its IPv4 half is kept under another key.
    """
    found: list[tuple[bool, int, Reuse]] = []
    stale: list[Discard] = []
    for record in records:
        try:
            if parse_value(record.value).public_ip != public_ip:
                continue
            key = parse_key_name(record.name)
        except Invalid:
            continue
        if subnet_range.admits(key.ipv4) and _admits6(ipv6, key):
            found.append((key.ipv4 != previous, record.create_revision, Reuse(record, key.ipv4, key.ipv6)))
        elif record.lease_id:  # a reservation is the operator's to remove
            stale.append(Discard(record, key.ipv4 if subnet_range.admits(key.ipv4) else None))
    if found:
        return min(found, key=lambda entry: entry[:2])[2]
    return stale[0] if stale else None


def _admits6(ipv6: Demand6 | None, key: SubnetKey) -> bool:
    if ipv6 is None or key.ipv6 is None:
        return ipv6 is None and key.ipv6 is None
    return ipv6.subnet_range.admits(key.ipv6)


def _keys(records: Iterable[Record]) -> list[SubnetKey]:
    """Return what the names claim, whatever the values say: a broken value does not free a subnet."""
    found = []
    for record in records:
        try:
            found.append(parse_key_name(record.name))
        except Invalid:
            continue
    return found


def _taken(claimed: Iterable[Network], network: Network, underlay: Iterable[Network]) -> list[Network]:
    """Return what cannot be chosen.

    A key that claims all of *network* is nobody's lease (no node believes it, see ``peers``); one such key must not
    keep every new node out.
    """
    return [net for net in claimed if not inside(network, net)] + list(underlay)


def _why_not(previous: Network, admitted: bool, network: Network, taken: Iterable[Network]) -> str | None:
    if not admitted:
        return f"it is not one of the subnets of {network} that may be leased"
    holder = next((net for net in taken if overlap(net, previous)), None)
    return f"it overlaps {holder}, which is taken" if holder else None


def free_subnets(subnet_range: SubnetRange, taken: Iterable[Network]) -> Iterable[IPv4Network]:
    """Yield the subnets of *subnet_range* that overlap nothing in *taken*, from the lowest."""
    size = 1 << (32 - subnet_range.subnet_len)
    for start in _free_starts(int(subnet_range.subnet_min), int(subnet_range.subnet_max), size, taken):
        yield IPv4Network((start, subnet_range.subnet_len))


def _free_starts(low: int, high: int, size: int, taken: Iterable[Network]) -> Iterator[int]:
    """Yield the first addresses, from *low* to *high* in steps of *size*, of what overlaps nothing in *taken*."""
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in taken)
    blocked_to, position = -1, 0
    for start in range(low, high + 1, size):
        while position < len(spans) and spans[position][0] < start + size:
            blocked_to = max(blocked_to, spans[position][1])
            position += 1
        if blocked_to < start:
            yield start
