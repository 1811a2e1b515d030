"""The peers' leases: raw records folded into one validated view.

Theory of operation. ``PeerTable.apply`` takes snapshots and single changes alike and keeps, for each key, its newest
reading and the last good one. ``PeerTable.view`` judges them against the ground: our network, subnet and link. What
cannot be trusted is quarantined with its reason and changes nothing else:

* a bad value for a known peer keeps the last good one; absence (``Gone``, or a complete snapshot without the key) and
  a valid lease of another backend are the only things that take a peer away;
* a bad value for a key that we never understood neither adds a route nor removes one that an earlier run of ours
  has put there: its subnet is *frozen*;
* of two leases that overlap, the older one (lowest create revision, then name) counts, on every node the same.

A dual-stack lease has two halves, an IPv4 and an IPv6 subnet with a gateway each. Each half is judged on its own side
of the ground, by the same rules; an IPv4-only node has no IPv6 side and uses the other half.

A look costs what has changed, not what there is. On a ground that is still the same, ``view`` judges anew the keys that
were touched since the last look, those that lost to an older one, and the peers that either of them overlap. That is
enough: peers never overlap each other, so whatever is left out has nothing to do with any of these.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import assert_never

from pyflanneld.core.etcd_types import Gone, PeerEvent, Put, Record, Snapshot
from pyflanneld.core.families import Address, Network
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import LeaseAttrs, SubnetKey, parse_key_name, parse_value
from pyflanneld.core.peers.validation import Half, Quarantine, ValidationContext, Validator, address_range

_VALUE_REASONS = frozenset({"too_large", "not_json", "not_an_object", "bad_value", "bad_gateway", "gateway_off_link"})


@dataclass(frozen=True, slots=True)
class View:
    """What the records amount to.

    Attributes:
        peers: subnet to gateway, for every half of a peer's lease that is believed. A window on the table: it goes on
            to show what the latest look has found, as long as the ground is the same.
        quarantined: by key name.
        frozen: subnets whose routes must stay as they are until their key can be read again.
        foreign_backends: keys that are well formed and belong to another backend.
        changed: no other subnets than these are peers or frozen in another way than at the look before; ``None``: all
            may be, for the ground is a new one.
    """

    peers: Mapping[Network, Address]
    quarantined: Mapping[bytes, Quarantine]
    frozen: frozenset[Network]
    foreign_backends: frozenset[bytes]
    changed: frozenset[Network] | None = field(default=None, compare=False)


@dataclass(slots=True)
class _Entry:
    """A key: what its name says (``None``: nothing), what its value says, and its last good halves by family."""

    record: Record
    key: SubnetKey | None
    latest: LeaseAttrs | Quarantine
    good: dict[int, Half] = field(default_factory=dict)


class PeerTable:
    """Every key below ``subnets/`` but our own, as far as it can be read."""

    def __init__(self, own_name: bytes) -> None:
        self._own_name = own_name
        self._entries: dict[bytes, _Entry] = {}
        self._listed = 0
        self._gone: dict[bytes, int] = {}  # deletions since the last list, by revision
        self._touched: dict[bytes, SubnetKey | None] = {}  # since the last look; what is gone as well
        self._ground: ValidationContext | None = None
        self._sides: tuple[_Believed, ...] = ()
        self._foreign: set[bytes] = set()
        self._peers: dict[Network, Address] = {}

    def apply(self, event: PeerEvent) -> bool:
        """Fold one event in; say whether anything changed.

        A snapshot is the whole truth. A single change that is older than what is known of its key (a list without it
        and its deletion are knowledge too) is dropped: etcd 3.4 can repeat events and travel back in time.
        """
        match event:
            case Snapshot(records=records, revision=revision):
                self._listed = revision
                self._gone.clear()
                return self._replace(records)
            case Put(record=record):
                return record.mod_revision > self._known_at(record.name) and self._put(record)
            case Gone(name=name, revision=revision):
                if revision <= self._known_at(name):
                    return False
                self._gone[name] = revision
                return self._remove(name)
            case _:
                assert_never(event)

    def _known_at(self, name: bytes) -> int:
        """Return the revision up to which all is known of a key."""
        known = self._entries.get(name)
        changed = known.record.mod_revision if known is not None else self._gone.get(name, 0)
        return max(self._listed, changed)

    def _replace(self, records: Iterable[Record]) -> bool:
        current = {record.name: record for record in records}
        lost = [self._remove(name) for name in sorted(self._entries.keys() - current.keys())]
        changed = [self._put(record) for record in current.values()]
        return bool(lost) or any(changed)

    def _remove(self, name: bytes) -> bool:
        entry = self._entries.pop(name, None)
        if entry is None:
            return False
        self._touched[name] = entry.key
        return True

    def _put(self, record: Record) -> bool:
        known = self._entries.get(record.name)
        if record.name == self._own_name:
            return False
        if known is None:
            known = self._entries[record.name] = _read(record)
        elif _says_the_same(known.record, record):  # a flanneld renews its lease by putting it again
            known.record = record
            return False
        else:
            known.record, known.latest = record, _read(record).latest
        self._touched[record.name] = known.key
        return True

    def records(self) -> tuple[Record, ...]:
        """Return every key as it was last seen."""
        return tuple(entry.record for entry in self._entries.values())

    def view(self, ground: ValidationContext) -> View:
        """Validate on *ground* what may have changed. Remembers, for each key, the last lease that was good."""
        same = ground == self._ground
        if not same:
            self._begin(ground)
        for name in self._touched:
            self._sort_out(name, ground.backend_type)
        changed: set[Network] = set()
        for side in self._sides:
            changed |= side.settle(self._touched, self._entries, self._foreign)
        self._touched = {}
        return View(
            peers=MappingProxyType(self._peers),
            quarantined={name: why for side in reversed(self._sides) for name, why in side.quarantined.items()},
            frozen=frozenset(subnet for side in self._sides for subnet in side.frozen.values()),
            foreign_backends=frozenset(self._foreign),
            changed=frozenset(changed) if same else None,
        )

    def _begin(self, ground: ValidationContext) -> None:
        """Forget every judgement: all keys stand on new ground."""
        self._ground = ground
        self._peers, self._foreign = {}, set()
        judges = (Validator(side, gateways_on_link=ground.gateways_on_link) for side in ground.sides)
        self._sides = tuple(_Believed(judge, self._peers) for judge in judges)
        self._touched = {name: entry.key for name, entry in self._entries.items()}

    def _sort_out(self, name: bytes, backend_type: str) -> None:
        """Say whether this is a lease of our network and of another backend; a subnet that is none comes first."""
        self._foreign.discard(name)
        entry = self._entries.get(name)
        if entry is None or isinstance(entry.latest, Quarantine) or entry.latest.backend_type == backend_type:
            return
        if any(side.serves(entry.key) for side in self._sides):
            entry.good.clear()
            self._foreign.add(name)


def _read(record: Record) -> _Entry:
    key = None
    try:
        key = parse_key_name(record.name)
        return _Entry(record, key, parse_value(record.value))
    except Invalid as error:
        return _Entry(record, key, Quarantine(error.reason, str(error)))


def _says_the_same(one: Record, other: Record) -> bool:
    return one.value == other.value and one.create_revision == other.create_revision


def _age(item: tuple[bytes, _Entry]) -> tuple[int, bytes]:
    return item[1].record.create_revision, item[0]


class _Believed:
    """What is believed on one side of the ground.

    ``at`` are the peers' keys by the first address of their subnets, ``starts`` these addresses in order.
    """

    def __init__(self, judge: Validator, peers: dict[Network, Address]) -> None:
        self.quarantined: dict[bytes, Quarantine] = {}
        self.frozen: dict[bytes, Network] = {}
        self._judge = judge
        self._version = judge.side.network.version
        self._peers = peers
        self._at: dict[int, tuple[bytes, Network]] = {}
        self._starts: list[int] = []
        self._losers: dict[bytes, SubnetKey | None] = {}  # those that overlap an older one

    def serves(self, key: SubnetKey | None) -> bool:
        """Say whether *key* has a half on this side that may be leased."""
        subnet = None if key is None else key.half(self._version)
        return subnet is not None and self._judge.subnet(subnet) is None

    def settle(
        self, touched: Mapping[bytes, SubnetKey | None], entries: Mapping[bytes, _Entry], foreign: set[bytes]
    ) -> set[Network]:
        """Validate anew what *touched* may have changed; return the subnets concerned."""
        if not touched:
            return set()
        names = {**self._losers, **touched}
        subnets = {half for key in names.values() if key is not None and (half := key.half(self._version)) is not None}
        beside = dict(self._at[start] for subnet in subnets if self._at for start in self._overlapping(subnet))
        subnets.update(beside.values())
        names |= {name: entries[name].key for name in beside if name not in names}
        for name, key in names.items():
            self._forget(name, key)
        known = [(name, entries[name]) for name in names.keys() - foreign if name in entries]
        for name, entry in sorted(known, key=_age):
            self._fold(name, entry)
        return subnets

    def _forget(self, name: bytes, key: SubnetKey | None) -> None:
        """Take back all that a key has contributed."""
        self.quarantined.pop(name, None)
        self.frozen.pop(name, None)
        self._losers.pop(name, None)
        subnet = None if key is None else key.half(self._version)
        if subnet is not None and self._at.get(start := int(subnet.network_address)) == (name, subnet):
            del self._at[start], self._peers[subnet], self._starts[bisect_left(self._starts, start)]

    def _fold(self, name: bytes, entry: _Entry) -> None:
        """Add what a key contributes: its half, its last good one, or a frozen subnet."""
        subnet = None if entry.key is None else entry.key.half(self._version)
        if isinstance(entry.latest, Quarantine):
            trouble: Quarantine | None = entry.latest
        elif subnet is None:
            return
        else:
            half = Half(subnet, entry.latest.gateway(self._version))
            trouble = self._judge.half(half)
            if trouble is None:
                entry.good[self._version] = half
        good = entry.good.get(self._version)
        if trouble is not None:
            self.quarantined[name] = trouble
            if good is None or self._judge.half(good) is not None:
                self._freeze(name, subnet, trouble)
                return
        if good is not None:
            self._admit(name, entry.key, good)

    def _freeze(self, name: bytes, subnet: Network | None, trouble: Quarantine) -> None:
        """Freeze the subnet of a key whose value is unusable while its name is sound."""
        if subnet is not None and trouble.reason in _VALUE_REASONS and self._judge.subnet(subnet) is None:
            self.frozen[name] = subnet

    def _admit(self, name: bytes, key: SubnetKey | None, half: Half) -> None:
        """Add *half* to the peers, unless one of them overlaps it: that one is older."""
        rivals = self._overlapping(half.subnet)
        if rivals:
            _, rival = self._at[rivals[-1]]
            self._losers[name] = key
            self.quarantined[name] = Quarantine("overlaps_older", f"{half.subnet} overlaps {rival}, which is older")
        elif half.gateway is not None:
            self._peers[half.subnet] = half.gateway
            start = int(half.subnet.network_address)
            insort(self._starts, start)
            self._at[start] = name, half.subnet

    def _overlapping(self, subnet: Network) -> list[int]:
        """Return where the peers begin that overlap *subnet*; they are disjoint, so one may reach in from before it."""
        low, high = address_range(subnet)
        first = bisect_left(self._starts, low)
        if first and address_range(self._at[self._starts[first - 1]][1])[1] >= low:
            first -= 1
        return self._starts[first : bisect_right(self._starts, high)]
