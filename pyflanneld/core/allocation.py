"""Which subnet a node should hold: its own one again, the one its file remembers, or a free one.

The order is flannel's (``pkg/subnet/etcd/local_manager.go``, v0.28.9), with its rule for a remembered subnet that
somebody else holds: leave it alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from random import Random

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease import parse_name, parse_value
from pyflanneld.core.netconf import SubnetRange
from pyflanneld.core.records import Record

CHOICES = 100


@dataclass(frozen=True, slots=True)
class Reuse:
    """A lease that already carries our address; hold it again."""

    record: Record
    subnet: IPv4Network


@dataclass(frozen=True, slots=True)
class Discard:
    """A lease that carries our address but does not fit the network any more; delete it and choose again."""

    record: Record


@dataclass(frozen=True, slots=True)
class Claim:
    """A free subnet to create a lease for.

    Attributes:
        previous_refused: why the remembered subnet was not taken; ``None`` if it was, or there was none.
    """

    subnet: IPv4Network
    previous_refused: str | None


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Every subnet of the range is taken."""


Choice = Reuse | Discard | Claim | Exhausted


def choose(
    records: Sequence[Record],
    among: SubnetRange,
    public_ip: IPv4Address,
    *,
    previous: IPv4Network | None,
    underlay: Iterable[IPv4Network],
    rng: Random,
) -> Choice:
    """Decide what to do about a lease.

    Args:
        records: every record below ``subnets/`` at one revision.
        among: where leases come from.
        public_ip: the address that we publish, by which our own leases are known.
        previous: the subnet that the subnet file remembers.
        underlay: networks that no lease may overlap, because our own traffic runs there.
        rng: spreads simultaneous starts over ``CHOICES`` subnets.
    """
    own = _own(records, among, public_ip, previous)
    if own is not None:
        return own
    taken = _taken(records, among.network) + list(underlay)
    refused = _why_not(previous, among, taken) if previous is not None else None
    if previous is not None and refused is None:
        return Claim(previous, None)
    free = list(islice(free_subnets(among, taken), CHOICES))
    return Claim(rng.choice(free), refused) if free else Exhausted()


def _own(
    records: Sequence[Record], among: SubnetRange, public_ip: IPv4Address, previous: IPv4Network | None
) -> Reuse | Discard | None:
    """Return what to do with a lease of ours: the remembered one if there are several, else the oldest."""
    found: list[tuple[bool, int, Reuse]] = []
    stale: list[Record] = []
    for record in records:
        try:
            key, attrs = parse_name(record.name), parse_value(record.value)
        except Invalid:
            continue
        if attrs.public_ip != public_ip or key.ipv6 is not None:
            continue
        if among.admits(key.ipv4):
            found.append((key.ipv4 != previous, record.create_revision, Reuse(record, key.ipv4)))
        elif record.lease_id:  # a reservation is the operator's to remove
            stale.append(record)
    if found:
        return min(found, key=lambda entry: entry[:2])[2]
    return Discard(stale[0]) if stale else None


def _taken(records: Iterable[Record], network: IPv4Network) -> list[IPv4Network]:
    """Return every subnet that a key claims, whatever its value says: a broken value does not free it.

    A key that claims all of *network* is nobody's lease (no node believes it, see ``peers``); one such key must not
    keep every new node out.
    """
    taken = []
    for record in records:
        try:
            subnet = parse_name(record.name).ipv4
        except Invalid:
            continue
        if not network.subnet_of(subnet):
            taken.append(subnet)
    return taken


def _why_not(previous: IPv4Network, among: SubnetRange, taken: Iterable[IPv4Network]) -> str | None:
    if not among.admits(previous):
        return f"it is not one of the subnets of {among.network} that may be leased"
    holder = next((net for net in taken if net.overlaps(previous)), None)
    return f"it overlaps {holder}, which is taken" if holder else None


def free_subnets(among: SubnetRange, taken: Iterable[IPv4Network]) -> Iterable[IPv4Network]:
    """Yield the subnets of *among* that overlap nothing in *taken*, from the lowest."""
    spans = sorted((int(net.network_address), int(net.broadcast_address)) for net in taken)
    size = 1 << (32 - among.subnet_len)
    blocked_to, position = -1, 0
    for start in range(int(among.subnet_min), int(among.subnet_max) + 1, size):
        while position < len(spans) and spans[position][0] < start + size:
            blocked_to = max(blocked_to, spans[position][1])
            position += 1
        if blocked_to < start:
            yield IPv4Network((start, among.subnet_len))
