"""A registry in memory with the contract of the real one (``tests/contract/test_registry.py``), and controls for tests.

``FakeEtcd`` is the cluster: one history of revisions, shared by as many ``FakeRegistry`` clients as there are nodes.
Leases do not expire: they end when a test revokes them (``revoke``).

    etcd = FakeEtcd()
    etcd.put_config(b'{"Network":"10.0.0.0/8"}')
    registry = FakeRegistry(etcd)
    registry.fail_next(3)          # three calls fail before they do anything
    registry.lose_next_reply()     # the next write happens, and its caller gets no reply
    registry.refusal = RegistryUnavailable("...")  # writes fail, deletions pass: etcd is at its quota
    registry.watches_down = RegistryUnavailable("...")  # no watch opens
    registry.down = RegistryUnavailable("...")   # every call and every watch fails until this is None again
    registry.cut_watches()         # open watches end; new ones work
    etcd.compact()                 # positions before now are gone
    etcd.revoke(record.lease_id)   # an expiry
    etcd.restore(etcd.backup())    # time travel
"""

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from pyflanneld.core.etcd_types import (
    ConfigRecord,
    Gone,
    Position,
    Put,
    Record,
    Renewal,
    Snapshot,
    TimeLeft,
    TimeToLive,
    bounded_name,
    bounded_record,
)
from pyflanneld.core.lease.codec import SubnetKey, parse_lease
from pyflanneld.errors import HistoryChanged, RegistryDenied, RegistryError, RegistryUnavailable, RevisionCompacted

CONFIG = b"config"
SUBNETS = b"subnets/"


@dataclass(frozen=True)
class Lease:
    """An etcd lease: its time to live in seconds."""

    ttl_s: int


@dataclass(frozen=True)
class Event:
    """One change: the key below the prefix, and its record after it (``None`` when deleted)."""

    revision: int
    key: bytes
    record: Record | None


@dataclass
class State:
    """All that a backup of etcd holds."""

    cluster_id: int = 4711
    revision: int = 1
    compacted: int = 0
    keys: dict[bytes, Record] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    history: list[Event] = field(default_factory=list)


class FakeEtcd:
    """The cluster behind the fakes; its methods are what administrators and other clients do."""

    def __init__(self) -> None:
        self.state = State()
        self.leader = 1
        self.renewed_at_s: dict[int, float] = {}
        self._lease_ids = itertools.count(1001)
        self._watches: dict[_FakeWatch, None] = {}  # in the order of their opening, so that two runs are alike

    # -- what others do

    def put_config(self, value: bytes) -> None:
        """Write ``<prefix>/config``."""
        self.put_key(CONFIG, value)

    def put(self, name: bytes, value: bytes, *, lease_id: int = 0) -> Record:
        """Write the subnet *name*, as any other client may, without a condition."""
        return self.put_key(SUBNETS + name, value, lease_id=lease_id)

    def put_key(self, key: bytes, value: bytes, *, lease_id: int = 0) -> Record:
        """Write *key*, any path below the prefix."""
        state = self.state
        state.revision += 1
        before = state.keys.get(key)
        created = before.create_revision if before else state.revision
        record = Record(key.removeprefix(SUBNETS), value, created, state.revision, lease_id)
        if key.startswith(SUBNETS):
            record = bounded_record(record)
        state.keys[key] = record
        self._tell(Event(state.revision, key, record))
        return record

    def delete(self, name: bytes) -> None:
        """Delete the subnet *name*."""
        self.delete_key(SUBNETS + name)

    def delete_key(self, key: bytes) -> None:
        """Delete *key*, if it is there."""
        if self.state.keys.pop(key, None) is not None:
            self.state.revision += 1
            self._tell(Event(self.state.revision, key, None))

    def grant(self, ttl_s: int) -> int:
        """Make a lease."""
        lease_id = next(self._lease_ids)
        self.state.leases[lease_id] = Lease(ttl_s)
        return lease_id

    def time_left(self, lease_id: int) -> TimeLeft:
        """Return what a lease still has; here it does not end by itself."""
        now_s, lease = asyncio.get_running_loop().time(), self.state.leases.get(lease_id)
        passed_s = now_s - self.renewed_at_s.setdefault(lease_id, now_s)
        return TimeLeft(lease.ttl_s - passed_s if lease else 0.0, self.leader)

    def revoke(self, lease_id: int) -> None:
        """End a lease, and delete its keys: what revoking and expiring have in common."""
        self.state.leases.pop(lease_id, None)
        for key in [key for key, record in self.state.keys.items() if record.lease_id == lease_id]:
            self.delete_key(key)

    def forget_lease(self, lease_id: int) -> None:
        """End a lease but not its keys: the moment in between."""
        self.state.leases.pop(lease_id, None)

    def compact(self) -> None:
        """Forget the history up to now."""
        self.state.compacted = self.state.revision

    def backup(self) -> State:
        """Return a copy of everything."""
        return copy.deepcopy(self.state)

    def restore(self, state: State) -> None:
        """Go back to *state*; open watches end, as they do when etcd is restarted."""
        self.state = copy.deepcopy(state)
        self.cut_watches()

    def cut_watches(self, error: RegistryError | None = None) -> None:
        """End all open watches of all clients."""
        for watch in tuple(self._watches):
            watch.end(error or RegistryUnavailable("fake: the watch was cut"))

    # -- what the clients ask

    def records(self) -> tuple[Record, ...]:
        """Return the subnets in the order of their keys."""
        return tuple(record for key, record in sorted(self.state.keys.items()) if key.startswith(SUBNETS))

    def snapshot(self) -> Snapshot:
        """Return the subnets as they are now."""
        return Snapshot(self.records(), self.state.revision, self.state.cluster_id)

    def events(self, since_revision: int, position: int) -> tuple[int, Iterator[Event]]:
        """Return the next position in the history, and the events from *position* on after *since_revision*."""
        history = self.state.history
        return len(history), (event for event in history[position:] if event.revision > since_revision)

    def join(self, watch: "_FakeWatch") -> None:
        """Wake *watch* on each event from now on."""
        self._watches[watch] = None

    def part(self, watch: "_FakeWatch") -> None:
        """Forget *watch*."""
        self._watches.pop(watch, None)

    def _tell(self, event: Event) -> None:
        self.state.history.append(event)
        for watch in self._watches:
            watch.wake()


class FakeRegistry:
    """One client of a ``FakeEtcd``; keeps ``ports.Registry``."""

    def __init__(self, etcd: FakeEtcd, *, endpoint: str = "http://127.0.0.1:2379") -> None:
        self.etcd = etcd
        self.endpoint_url = endpoint
        self.closed = False
        self.reconnects = 0
        self.found_addresses: tuple[str, ...] = ()
        self._down: RegistryError | None = None
        self._failures: list[RegistryError] = []
        self._lose_reply = False
        self.refusal: RegistryError | None = None
        self.watches_down: RegistryError | None = None
        self._made: Record | None = None  # a creation whose reply was lost
        self._watches: dict[_FakeWatch, None] = {}  # in the order of their opening, so that two runs are alike

    # -- controls

    def fail_next(self, calls: int = 1, error: RegistryError | None = None) -> None:
        """Let the next *calls* fail (openings of watches too) before they do anything."""
        self._failures += [error or RegistryUnavailable("fake: no answer")] * calls

    def lose_next_reply(self) -> None:
        """Let the next write happen and raise ``RegistryUnavailable`` to its caller."""
        self._lose_reply = True

    @property
    def down(self) -> RegistryError | None:
        """What every call raises, while set; setting it ends the open watches."""
        return self._down

    @down.setter
    def down(self, error: RegistryError | None) -> None:
        self._down = error
        if error is not None:
            self.cut_watches(error)

    def deny(self) -> None:
        """Be refused from now on."""
        self.down = RegistryDenied("fake: permission denied")

    def cut_watches(self, error: RegistryError | None = None) -> None:
        """End the open watches of this client."""
        for watch in tuple(self._watches):
            watch.end(error or RegistryUnavailable("fake: the watch was cut"))

    # -- ports.Registry

    @property
    def api(self) -> int:
        return 3

    @property
    def endpoint(self) -> str:
        return self.endpoint_url

    @property
    def addresses(self) -> Collection[str]:
        return self.found_addresses

    @property
    def set_aside(self) -> Collection[str]:
        return ()

    async def read_config(self) -> ConfigRecord:
        await self._arrive()
        record = self.etcd.state.keys.get(CONFIG)
        return ConfigRecord(record.value if record else None, self.etcd.state.revision)

    @asynccontextmanager
    async def watch_config(self, after_revision: int) -> AsyncIterator[AsyncIterator[object]]:
        since = Snapshot((), after_revision, self.etcd.state.cluster_id)
        with self._watching(since, CONFIG) as watch:
            yield watch

    async def list_subnets(self, *, elsewhere: bool = False) -> Snapshot:  # noqa: ARG002
        await self._arrive()
        return self.etcd.snapshot()

    @asynccontextmanager
    async def watch_subnets(self, after: Position) -> AsyncIterator[AsyncIterator[tuple[Put | Gone, ...]]]:
        with self._watching(after, SUBNETS) as watch:
            yield watch

    async def create_subnet(
        self, name: bytes, value: bytes, *, ttl_s: int, listed: Snapshot, beside: Collection[bytes] = ()  # noqa: ARG002
    ) -> Record | None:
        await self._arrive()
        self._check_writable()
        if self._conflict(name, listed):
            return None
        record = self._made = self.etcd.put(name, value, lease_id=self.etcd.grant(ttl_s))
        self._reply()
        self._made = None
        return record

    async def rewrite_subnet(self, held: Record, value: bytes) -> Record | None:
        await self._arrive()
        self._check_writable()
        if not self._unchanged(held):
            return None
        record = self.etcd.put(held.name, value, lease_id=held.lease_id)
        self._reply()
        return record

    async def put_on_own_lease(self, held: Record, *, ttl_s: int) -> Record | None:
        return await self.rewrite_subnet(replace(held, lease_id=self.etcd.grant(ttl_s)), held.value)

    async def delete_subnet(self, held: Record) -> bool:
        await self._arrive()
        if not self._unchanged(held):
            return False
        self.etcd.delete(held.name)
        self._reply()
        return True

    async def renew(self, held: Record) -> Renewal:
        await self._arrive()
        record = self.etcd.state.keys.get(SUBNETS + held.name)
        if not held.lease_id:
            return Renewal(record, None)
        lease = self.etcd.state.leases.get(held.lease_id)
        self.etcd.renewed_at_s[held.lease_id] = asyncio.get_running_loop().time()
        return Renewal(record, float(lease.ttl_s) if lease else 0.0)

    async def time_left(self, held: Record) -> TimeLeft | None:
        await self._arrive()
        return self.etcd.time_left(held.lease_id)

    # -- ports.Administration

    async def times_to_live(self, records: Iterable[Record]) -> Mapping[bytes, TimeToLive]:
        await self._arrive()
        return {record.name: self._left(record.lease_id) for record in records if record.lease_id}

    async def reserve_subnet(self, name: bytes, value: bytes, *, listed: Snapshot) -> Record | None:
        await self._arrive()
        if self._conflict(name, listed):
            return None
        record = self.etcd.put(name, value)
        self._reply()
        return record

    async def make_reservation(self, held: Record) -> Record | None:
        return await self.rewrite_subnet(replace(held, lease_id=0), held.value)

    # -- ports.Configuration

    async def write_config(self, value: bytes, *, seen: ConfigRecord) -> bool:
        await self._arrive()
        record = self.etcd.state.keys.get(CONFIG)
        if (record.value if record else None) != seen.value or (record and record.mod_revision > seen.revision):
            return False
        self.etcd.put_config(value)
        self._reply()
        return True

    def _left(self, lease_id: int) -> TimeToLive:
        lease = self.etcd.state.leases.get(lease_id)
        return TimeToLive(lease.ttl_s, lease.ttl_s) if lease else TimeToLive(0, 0)

    def reconnect(self) -> None:
        self.reconnects += 1

    async def close(self) -> None:
        self.closed = True
        self.cut_watches(RegistryUnavailable("fake: closed"))

    # -- inside

    async def _arrive(self) -> None:
        """Take the time of a call, and fail if a control says so."""
        await asyncio.sleep(0)
        self.check()

    def check(self) -> None:
        if self.closed:
            raise RegistryUnavailable("fake: closed")
        if self._down is not None:
            raise _again(self._down)
        if self._failures:
            raise self._failures.pop(0)

    def _conflict(self, name: bytes, listed: Snapshot) -> bool:
        """Return whether something new may overlap, or the caller has not found yet what it has created before."""
        made, key = self._made, parse_lease(name, b"").key
        there = made is not None and self.etcd.state.keys.get(SUBNETS + made.name)
        if there and made and there.lease_id == made.lease_id and made.create_revision > listed.revision:
            return True
        self._made = None
        return any(
            record.name == name or (record.create_revision > listed.revision and _overlap(record.lease.key, key))
            for record in self.etcd.records()
        )

    def _check_writable(self) -> None:
        if self.refusal is not None:
            raise _again(self.refusal)

    def _reply(self) -> None:
        if self._lose_reply:
            self._lose_reply = False
            raise RegistryUnavailable("fake: the reply was lost")

    def _unchanged(self, held: Record) -> bool:
        record = self.etcd.state.keys.get(SUBNETS + held.name)
        return record is not None and record.mod_revision == held.mod_revision

    def _watching(self, since: Snapshot, prefix: bytes) -> "_FakeWatch":
        return _FakeWatch(self, since, prefix, self._watches)


class _FakeWatch:
    """The events of a ``FakeEtcd`` below one prefix, as an asynchronous iterator, while its block lasts."""

    def __init__(
        self, registry: FakeRegistry, since: Snapshot, prefix: bytes, siblings: "dict[_FakeWatch, None]"
    ) -> None:
        self._registry = registry
        self._etcd = registry.etcd
        self._since = since
        self._prefix = prefix
        self._siblings = siblings
        self._open = False
        self._position = 0
        self._news = asyncio.Event()
        self._error: RegistryError | None = None

    def __enter__(self) -> "_FakeWatch":
        self._siblings[self] = None
        self._etcd.join(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._siblings.pop(self, None)
        self._etcd.part(self)

    def wake(self) -> None:
        self._news.set()

    def end(self, error: RegistryError) -> None:
        self._error = error
        self._news.set()

    def __aiter__(self) -> "_FakeWatch":
        return self

    async def __anext__(self) -> tuple[Put | Gone, ...]:
        await asyncio.sleep(0)
        if not self._open:
            return self._begin()
        while True:
            if self._error is not None:
                raise _again(self._error)
            self._news.clear()
            changes = self._changes()
            if changes:
                return changes
            await self._news.wait()

    def _begin(self) -> tuple[()]:
        self._registry.check()
        if self._registry.watches_down is not None:
            raise _again(self._registry.watches_down)
        state = self._etcd.state
        if self._since.cluster_id != state.cluster_id:
            raise HistoryChanged("fake: another cluster answered the watch")
        if self._since.revision > state.revision:
            raise HistoryChanged("fake: the watch went back in time")
        if self._since.revision + 1 < state.compacted:
            raise RevisionCompacted(f"fake: compacted at {state.compacted}")
        self._open = True
        return ()

    def _changes(self) -> tuple[Put | Gone, ...]:
        self._position, events = self._etcd.events(self._since.revision, self._position)
        return tuple(_change(event) for event in events if self._is_ours(event.key))

    def _is_ours(self, key: bytes) -> bool:
        return key.startswith(SUBNETS) if self._prefix == SUBNETS else key == self._prefix


def _change(event: Event) -> Put | Gone:
    if event.record is None:
        return Gone(bounded_name(event.key.removeprefix(SUBNETS)), event.revision)
    return Put(event.record)


def _overlap(one: SubnetKey | None, other: SubnetKey | None) -> bool:
    return one is not None and (other is None or one.overlaps(other))


def _again(error: RegistryError) -> RegistryError:
    """Return a fresh exception for the same reason, so that tracebacks do not pile up on one."""
    return type(error)(*error.args)
