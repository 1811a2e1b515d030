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
"""

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

from pyflanneld.core.families import Address, Network, overlap
from pyflanneld.core.ground import Ground, Half, Quarantine, Side, judge, judge_subnet
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease import parse_name, parse_value
from pyflanneld.core.records import Gone, PeerEvent, Put, Record, Snapshot

_VALUE_REASONS = frozenset({"too_large", "not_json", "not_an_object", "bad_value", "bad_gateway", "gateway_off_link"})


@dataclass(frozen=True, slots=True)
class View:
    """What the records amount to.

    Attributes:
        peers: subnet to gateway, for every half of a peer's lease that is believed.
        quarantined: by key name.
        frozen: subnets whose routes must stay as they are until their key can be read again.
        foreign_backends: keys that are well formed and belong to another backend.
    """

    peers: Mapping[Network, Address]
    quarantined: Mapping[bytes, Quarantine]
    frozen: frozenset[Network]
    foreign_backends: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class _Lease:
    """A key and value that could be read; *halves* by the version of their family."""

    halves: Mapping[int, Half]
    backend_type: str


@dataclass(slots=True)
class _Entry:
    record: Record
    latest: _Lease | Quarantine
    good: dict[int, Half] = field(default_factory=dict)


@dataclass(slots=True)
class _Draft:
    """One side of a view in the making.

    ``starts`` are the peers' first addresses in order, ``at`` the peers by them.
    """

    side: Side
    gateways_on_link: bool
    peers: dict[Network, Address] = field(default_factory=dict)
    quarantined: dict[bytes, Quarantine] = field(default_factory=dict)
    frozen: set[Network] = field(default_factory=set)
    starts: list[int] = field(default_factory=list)
    at: dict[int, Network] = field(default_factory=dict)

    def judge(self, half: Half) -> Quarantine | None:
        return judge(half, self.side, gateways_on_link=self.gateways_on_link)


class PeerTable:
    """Every key below ``subnets/`` but our own, as far as it can be read."""

    def __init__(self, own_name: bytes) -> None:
        self._own_name = own_name
        self._entries: dict[bytes, _Entry] = {}
        self._listed = 0
        self._gone: dict[bytes, int] = {}  # deletions since the last list, by revision

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
                return self._entries.pop(name, None) is not None
            case _:
                assert_never(event)

    def _known_at(self, name: bytes) -> int:
        """Return the revision up to which all is known of a key."""
        known = self._entries.get(name)
        changed = known.record.mod_revision if known is not None else self._gone.get(name, 0)
        return max(self._listed, changed)

    def _replace(self, records: Iterable[Record]) -> bool:
        current = {record.name: record for record in records}
        lost = [name for name in self._entries if name not in current]
        for name in lost:
            del self._entries[name]
        changed = [self._put(record) for record in current.values()]
        return bool(lost) or any(changed)

    def _put(self, record: Record) -> bool:
        known = self._entries.get(record.name)
        if record.name == self._own_name or (known is not None and known.record == record):
            return False
        if known is None:
            self._entries[record.name] = _Entry(record, _read(record))
        else:
            known.record, known.latest = record, _read(record)
        return True

    def records(self) -> tuple[Record, ...]:
        """Return every key as it was last seen."""
        return tuple(entry.record for entry in self._entries.values())

    def view(self, ground: Ground) -> View:
        """Judge every entry on *ground*. Remembers, for each key, the last lease that was good."""
        drafts = [_Draft(side, ground.gateways_on_link) for side in ground.sides]
        foreign: set[bytes] = set()
        for name, entry in sorted(self._entries.items(), key=lambda item: (item[1].record.create_revision, item[0])):
            if _is_foreign(entry.latest, drafts, ground.backend_type):
                entry.good.clear()
                foreign.add(name)
                continue
            for draft in drafts:
                _fold(draft, name, entry)
        return View(
            peers={subnet: gateway for draft in drafts for subnet, gateway in draft.peers.items()},
            quarantined={name: why for draft in reversed(drafts) for name, why in draft.quarantined.items()},
            frozen=frozenset(subnet for draft in drafts for subnet in draft.frozen),
            foreign_backends=frozenset(foreign),
        )


def _read(record: Record) -> _Lease | Quarantine:
    try:
        key, attrs = parse_name(record.name), parse_value(record.value)
    except Invalid as error:
        return Quarantine(error.reason, str(error))
    halves = {4: Half(key.ipv4, attrs.public_ip)}
    if key.ipv6 is not None:
        halves[6] = Half(key.ipv6, attrs.public_ipv6)
    return _Lease(halves, attrs.backend_type)


def _is_foreign(lease: _Lease | Quarantine, drafts: Iterable[_Draft], backend_type: str) -> bool:
    """Say whether this is a lease of our network and of another backend; a subnet that is none comes first."""
    if isinstance(lease, Quarantine) or lease.backend_type == backend_type:
        return False
    return any(
        judge_subnet(half.subnet, draft.side) is None
        for draft in drafts if (half := lease.halves.get(draft.side.network.version)) is not None
    )  # fmt: skip


def _fold(draft: _Draft, name: bytes, entry: _Entry) -> None:
    """Add what this entry contributes to one side: its half, its last good one, or a frozen subnet."""
    version = draft.side.network.version
    if isinstance(entry.latest, Quarantine):
        trouble: Quarantine | None = entry.latest
    else:
        half = entry.latest.halves.get(version)
        if half is None:
            return
        trouble = draft.judge(half)
        if trouble is None:
            entry.good[version] = half
    if trouble is not None:
        draft.quarantined[name] = trouble
    _admit(draft, name, entry.good.get(version), trouble)


def _admit(draft: _Draft, name: bytes, half: Half | None, trouble: Quarantine | None) -> None:
    """Add *half*, the last good one, to the peers; or freeze the subnet."""
    if trouble is not None and (half is None or draft.judge(half) is not None):
        half = None
        _freeze(draft, name, trouble)
    if half is None or half.gateway is None:
        return
    rival = _overlapping(draft, half.subnet)
    if rival is not None:
        draft.quarantined[name] = Quarantine("overlaps_older", f"{half.subnet} overlaps {rival}, which is older")
        return
    draft.peers[half.subnet] = half.gateway
    start = int(half.subnet.network_address)
    insort(draft.starts, start)
    draft.at[start] = half.subnet


def _freeze(draft: _Draft, name: bytes, trouble: Quarantine) -> None:
    """Freeze the subnet of a key whose value is unusable while its name is sound."""
    if trouble.reason not in _VALUE_REASONS:
        return
    key = parse_name(name)
    subnet = key.ipv4 if draft.side.network.version == 4 else key.ipv6
    if subnet is not None and judge_subnet(subnet, draft.side) is None:
        draft.frozen.add(subnet)


def _overlapping(draft: _Draft, subnet: Network) -> Network | None:
    """Return an accepted peer that overlaps *subnet*; as they are disjoint, the last that begins before its end."""
    position = bisect_right(draft.starts, int(subnet.broadcast_address))
    nearest = draft.at[draft.starts[position - 1]] if position else None
    return nearest if nearest is not None and overlap(nearest, subnet) else None
