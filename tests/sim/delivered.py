"""What etcd has delivered to one daemon, and what the daemon may do with it: written naively, key by key.

A daemon gets lists and events. Whatever the way to etcd did to them, that is all that it can know; so what it does
to its routes is checked by these (I9), and not by what etcd holds. An event that is older than what was delivered of
its key before says nothing. A value that cannot be read leaves the last good one standing, or, where there never was
one, whatever route there is.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyflanneld.core.etcd_types import Gone, Position, Put, Record, Snapshot
from tests.sim.spec import LAN, VXLAN, Host, Key, Net, Said, overlap, read_name, read_value, wanted

LISTS_KEPT = 8
APART_S = 9.9
"""How far apart two lists are that prove something together: ten seconds, and a little for rounding."""


@dataclass
class Seen:
    """A key as it was told of last; *good* is all that its readable values have said in this daemon's life."""

    created: int
    revision: int
    value: bytes
    good: set[Said] = field(default_factory=set)


@dataclass(frozen=True)
class Verdict:
    """What may be done.

    Attributes:
        may: peers to which may be routed, subnet to what their leases may have said.
        keep: destinations whose routes must not be dropped.
        sure: destinations of *may* that have to be put, for their value is a good one and nothing is in their way.
    """

    may: dict[Net, set[Said]]
    keep: set[Net]
    sure: set[Net] = field(default_factory=set)

    def next_hops(self, subnet: Net, host: Host) -> set[int]:
        """Return over what a route to *subnet* may lead."""
        return {host.next_hop(subnet, said) for said in self.may.get(subnet, ())}

    def tunnels(self, host: Host) -> dict[Net, Said]:
        """Return the peers that certainly are behind the device, and what their leases say."""
        known = {subnet: next(iter(self.may[subnet])) for subnet in self.sure if len(self.may[subnet]) == 1}
        return {subnet: said for subnet, said in known.items() if host.tunnels_to(said)}


@dataclass(frozen=True)
class Listed:
    """A complete list: when it came, what it held, and whether it was from an older history than what came before."""

    at_s: float
    keys: tuple[Key, ...]
    older: bool


def _unusable(keys: Iterable[Key], subnet: Net, host: Host) -> bool:
    """Return whether a key stands for *subnet* whose value tells nothing of it: it takes nothing away."""
    return any(host.read(key.value) is None for key in keys if read_name(key.name) == subnet)


def _is_peer(said: Said, host: Host) -> bool:
    return said.backend == host.backend and said.gateway not in host.addresses


def _is_usable(said: Said, host: Host) -> bool:
    return _is_peer(said, host) and (said.plain or said.backend != VXLAN or said.mac not in ("", host.mac))


def _claims(some: Iterable[Said]) -> set[str]:
    """Return the MAC addresses that only one peer may have."""
    return {said.mac for said in some if said.backend == VXLAN and said.mac}


class Delivered:
    """All that one daemon knows, from its start on.

    Attributes:
        named: every subnet that it was told of and what its lease said, whatever became of them.
    """

    def __init__(self) -> None:
        self.named: set[tuple[Net, Said]] = set()
        self._keys: dict[bytes, Seen] = {}
        self._gone: dict[bytes, int] = {}
        self._revision, self._cluster_id = 0, 0
        self._listed = 0
        self._lists: deque[Listed] = deque(maxlen=LISTS_KEPT)
        self._event_s: dict[Net, float] = {}

    @property
    def position(self) -> Position:
        """Up to where all was delivered."""
        return Position(self._revision, self._cluster_id)

    def take_list(self, snapshot: Snapshot, now_s: float, asked: Position) -> None:
        """Take note of a complete list that was asked for at *asked*; what was told of a key since is newer."""
        older = bool(self._lists) and (
            snapshot.revision < asked.revision or snapshot.cluster_id != asked.cluster_id
        )
        self._revision = snapshot.revision if older else max(self._revision, snapshot.revision)
        self._cluster_id, self._listed = snapshot.cluster_id, snapshot.revision
        newer = {name: seen for name, seen in self._keys.items() if seen.revision > snapshot.revision and not older}
        self._gone = {name: at for name, at in self._gone.items() if at > snapshot.revision and not older}
        before, self._keys = self._keys, newer
        for record in snapshot.records:
            if record.name not in newer and record.name not in self._gone:
                self._see(record, before.get(record.name))
        keys = tuple(Key(record.name, record.value, record.create_revision) for record in snapshot.records)
        self._lists.append(Listed(now_s, keys, older))

    def take_events(self, events: Iterable[Put | Gone], now_s: float) -> None:
        """Take note of what a watch has delivered."""
        for event in events:
            name = event.name if isinstance(event, Gone) else event.record.name
            revision = event.revision if isinstance(event, Gone) else event.record.mod_revision
            self._revision = max(self._revision, revision)
            known = self._keys.get(name)
            delivered = known.revision if known is not None else self._gone.get(name, 0)
            if revision <= max(delivered, self._listed):
                continue
            if (subnet := read_name(name)) is not None:
                self._event_s[subnet] = now_s
            if isinstance(event, Put):
                self._see(event.record, known)
            else:
                self._keys.pop(name, None)
                self._gone[name] = revision

    def _see(self, record: Record, known: Seen | None) -> None:
        said, good = read_value(record.value), known.good if known is not None else set()
        if said is not None:
            good = good | {said}
            if (subnet := read_name(record.name)) is not None:
                self.named.add((subnet, said))
        self._keys[record.name] = Seen(record.create_revision, record.mod_revision, record.value, good)

    def verdict(self, host: Host) -> Verdict:
        """Say what *host* may do about its routes.

        Which one is the last good one of an unreadable value is not sure, nor that there is one: values that came and
        went between two looks were never validated.
        """
        if not host.accepts(LAN[0] + 1):
            return Verdict({}, set())  # a host that reaches no gateway may drop its routes, or keep them
        may: dict[Net, set[Said]] = {}
        keep: set[Net] = set()
        sure: set[Net] = set()
        for name, seen in sorted(self._keys.items(), key=lambda item: (item[1].created, item[0])):
            subnet, said = read_name(name), host.read(seen.value)
            if subnet is None or overlap(subnet, host.own) or host.loses(subnet):
                continue
            if said is not None and not _is_peer(said, host):
                continue
            good = (one for one in map(host.understood, seen.good) if one is not None and _is_usable(one, host))
            ways = {said} if said is not None else set(good)
            older = [other for other in may if overlap(other, subnet) or _claims(ways) & _claims(may[other])]
            if not ways or (said is None and not older):
                keep.add(subnet)
            taken = _claims(one for other in sure for one in may[other])
            ways = {one for one in ways if one.mac not in taken}
            if ways and not any(other in sure and overlap(other, subnet) for other in older):
                may[subnet] = ways | may.get(subnet, set())
                if said is not None and not older and not host.is_part_of_connected(subnet):
                    keep.add(subnet)
                    sure.add(subnet)
        return Verdict(may, keep, sure)

    def proved_twice(self, subnet: Net, host: Host) -> bool:
        """Return whether two lists some time apart, and all between them, lack *subnet*."""
        lacking = self._lacking(subnet, host)
        return bool(lacking) and lacking[0].at_s - lacking[-1].at_s >= APART_S

    def only_an_older_history_lacks(self, subnet: Net, host: Host) -> bool:
        """Return whether *subnet* went with a list from an older history, and no event has told of it since."""
        lacking = self._lacking(subnet, host)
        known = 0 < len(lacking) < LISTS_KEPT  # who knows what was before them
        return known and lacking[-1].older and self._event_s.get(subnet, 0.0) < lacking[-1].at_s

    def _lacking(self, subnet: Net, host: Host) -> list[Listed]:
        """Return the latest lists as far back as none of them has *subnet*, the latest first."""
        found: list[Listed] = []
        for one in reversed(self._lists):
            if subnet in wanted(one.keys, host) or _unusable(one.keys, subnet, host):
                break
            found.append(one)
        return found
