"""An etcd whose leases run out, behind a network that delays, drops and repeats; on the fakes that keep the contract.

``SimEtcd`` adds time to ``FakeEtcd``: leases end by themselves, a new leader gives all of them their full time again.
``SimRegistry`` adds the way there. What it may do is what a deadline leaves open: a write whose reply is lost, one that
happens after its caller has given up, a watch that repeats events, is late, or silently loses one (etcd 3.4 before
3.4.31 does), travels back in time (before 3.4.25), and a member that has fallen behind.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, TypeVar

from pyflanneld.core.etcd_types import Gone, Position, Put, Record, Renewal, Snapshot
from pyflanneld.errors import HistoryChanged, RegistryUnavailable
from pyflanneld.etcd.clusters import Clusters
from tests.sim.delivered import Delivered
from tests.sim.spec import Violation
from tests.support.fakes.registry import SUBNETS, Event, FakeEtcd, FakeRegistry, State, _FakeWatch
from tests.support.fakes.virtual_time import Journal

DEADLINE_S = 5.0
LATE_S = 20.0
BEHIND = 6
"""By how many changes, at most, a member has fallen behind."""

HOLDER, FOLLOWER = "lease", "peers"
"""The daemon's tasks that hold the lease and follow the peers: what the first lists is not for the routes."""

T = TypeVar("T")
Note = Callable[[str, Record | None, Record | None], None]
"""Told of a node's write: what it was, the record before it and the one after."""


class SimEtcd(FakeEtcd):
    """The cluster, with time; *changed* is called after each change of its state, *ending* before a lease runs out.

    Attributes:
        silent: changes reach no watch, ever.
        beside: by subnet, every key that was there when it went: name and create revision.
    """

    def __init__(self, changed: Callable[[], None] | None = None, ending: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self.silent = False
        self.beside: dict[bytes, set[tuple[bytes, int]]] = {}
        self._deadlines: dict[int, float] = {}
        self._changed = changed or (lambda: None)
        self._ending = ending or (lambda _: None)
        self._past: deque[Snapshot] = deque(maxlen=BEHIND)

    def grant(self, ttl_s: int) -> int:
        lease_id = super().grant(ttl_s)
        self._deadlines[lease_id] = _now() + ttl_s
        return lease_id

    def prolong(self, lease_id: int) -> None:
        """Let a lease's time begin anew, if it is still there."""
        lease = self.state.leases.get(lease_id)
        if lease is not None:
            self._deadlines[lease_id] = _now() + lease.ttl_s

    def elect(self) -> None:
        """Have a new leader: watches end, and every lease gets its full time again."""
        for lease_id in self.state.leases:
            self.prolong(lease_id)
        self.cut_watches()

    def expire(self) -> None:
        """End the leases whose time is over."""
        for lease_id in [one for one in self.state.leases if self._deadlines[one] <= _now()]:
            self._ending(lease_id)
            self.revoke(lease_id)

    def until_next_end_s(self, at_most_s: float) -> float:
        """Return how long it takes until the next lease ends; nobody can make one that ends before *at_most_s*."""
        ends = [self._deadlines[lease_id] - _now() for lease_id in self.state.leases]
        return max(0.1, min([at_most_s, *ends]))

    def serve_others(self, writes: int) -> None:
        """Let the revision grow as others write, outside of our prefix."""
        self.state.revision += writes

    def snapshot_behind(self, rng: Random) -> Snapshot:
        """Return the subnets as a member has them that has fallen behind, or is just catching up."""
        return rng.choice((self.snapshot(), *self._past))

    def restore(self, state: State) -> None:
        for name in self.state.keys.keys() - state.keys.keys():
            self._gone(name.removeprefix(SUBNETS))
        super().restore(state)
        self.elect()
        self._past.clear()
        self._changed()

    def _gone(self, name: bytes) -> None:
        self.beside.setdefault(name, set()).update(record.incarnation for record in self.records())

    def _tell(self, event: Event) -> None:
        if event.record is None:
            self._gone(event.key.removeprefix(SUBNETS))
        if not self.silent:
            super()._tell(event)
        self._past.append(self.snapshot())
        self._changed()


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Way:
    """How a node reaches etcd at the moment; probabilities are per call or event.

    Attributes:
        mode: ``ok``, ``cut`` (no answer until the deadline) or ``refused`` (an error at once).
        latency_s: the most that a call takes.
        refuses_writes: a quota, or a role without the right: what reads and deletes goes on.
        list_s: the most that a list takes more, which is as old as its request.
    """

    mode: str = "ok"
    latency_s: float = 0.02
    fails: float = 0.0
    loses_reply: float = 0.0
    writes_late: float = 0.0
    repeats_event: float = 0.0
    loses_event: float = 0.0
    delays_event_s: float = 0.0
    travels: float = 0.0
    behind: float = 0.0
    fails_renewal: float = 0.0
    refuses_writes: bool = False
    fails_list: float = 0.0
    list_s: float = 0.0


class _Signed:
    """The cluster as one client sees it: whatever that client writes is noted."""

    def __init__(self, etcd: SimEtcd, note: Note) -> None:
        self._etcd = etcd
        self._note = note

    def __getattr__(self, name: str) -> Any:
        return getattr(self._etcd, name)

    def put(self, name: bytes, value: bytes, *, lease_id: int = 0) -> Record:
        before = self._etcd.state.keys.get(SUBNETS + name)
        after = self._etcd.put(name, value, lease_id=lease_id)
        self._note("put", before, after)
        return after

    def delete(self, name: bytes) -> None:
        self._note("delete", self._etcd.state.keys.get(SUBNETS + name), None)
        self._etcd.delete(name)


class OtherEtcd(SimEtcd):
    """Another cluster behind the same endpoints, empty but for a configuration like ours; nobody may believe it."""

    ID = 815

    def __init__(self, config: bytes) -> None:
        super().__init__()
        self.state.cluster_id = self.ID
        self.put_config(config)
        self.put_key = self._forbidden  # type: ignore[method-assign]
        self.delete_key = self._forbidden  # type: ignore[method-assign]

    @staticmethod
    def _forbidden(*_: object, **__: object) -> Any:
        raise Violation("I2: writes into another cluster")


ENDPOINTS = ("a", "b", "c")


class SimRegistry(FakeRegistry):
    """One node's client, with three endpoints; all of them lead to the one cluster, but for *strays*.

    Attributes:
        strays: where else an endpoint leads.
        told: what the loop that follows the peers has been told through it.
        clock_s: the time of those who are told.
        own_gone_s: since when etcd's last word about the node's own key is that it is gone.
    """

    def __init__(self, etcd: SimEtcd, rng: Random, note: Note | None = None) -> None:
        super().__init__(_Signed(etcd, note) if note else etcd)  # type: ignore[arg-type]
        self.strays: dict[str, OtherEtcd] = {}
        self._ours = self.etcd
        self._clusters = Clusters(ENDPOINTS, self._cluster_of, Journal())
        self.delivered = Delivered()
        self.clock_s: Callable[[], float] = _now
        self._cluster = etcd
        self._rng = rng
        self._late: set[asyncio.Task[None]] = set()
        self._late_creations: dict[asyncio.Task[None], bytes] = {}
        self.way = Way()
        self.own_gone_s: float | None = None
        self._own: Record | None = None
        self.awake = asyncio.Event()
        self.awake.set()

    def set_way(self, way: Way) -> None:
        """Change how etcd is reached; a cut ends the open watches, as silence does after a while."""
        self.way = way
        if way.mode != "ok":
            self.cut_watches()

    async def _arrive(self) -> None:
        await self.awake.wait()
        if self.way.mode == "cut":
            await asyncio.sleep(DEADLINE_S)
            raise RegistryUnavailable("sim: no answer")
        await asyncio.sleep(self._rng.uniform(0, self.way.latency_s))
        if self._rng.random() < self.way.fails:
            raise RegistryUnavailable("sim: no leader")
        self.check()
        await self._pick_member()

    async def _pick_member(self) -> None:
        """Go on with one of the endpoints, by lot, as the clients do when the one before it fails."""
        if not self.strays and self.etcd is self._ours:
            return
        url = self._rng.choice([one for one in ENDPOINTS if one not in self._clusters.set_aside] or ENDPOINTS)
        await self._clusters.admit(url, partial(self._cluster_of, url))
        self.etcd = self.strays.get(url, self._ours)

    async def _cluster_of(self, url: str) -> int | None:
        return self.strays.get(url, self._ours).state.cluster_id if self.way.mode == "ok" else None

    def _reply(self) -> None:
        if self._rng.random() < self.way.loses_reply:
            raise RegistryUnavailable("sim: the reply was lost")
        super()._reply()

    def check(self) -> None:
        """Raise if etcd is out of reach."""
        if self.way.mode != "ok":
            raise RegistryUnavailable("sim: unreachable")
        super().check()

    async def list_subnets(self, *, elsewhere: bool = False) -> Snapshot:
        asked = self.delivered.position
        if self._rng.random() < self.way.fails_list:
            await asyncio.sleep(self._rng.choice((0.0, DEADLINE_S)))
            raise RegistryUnavailable("sim: no list")
        await self._clusters.look_again()
        listed = await super().list_subnets(elsewhere=elsewhere)
        if listed.cluster_id == OtherEtcd.ID:
            raise Violation("I9: believes a list of another cluster")
        task = asyncio.current_task()
        loop = "" if task is None else task.get_name()
        if loop == HOLDER:  # to give a lease up it takes what etcd says now, as all lists should be
            return listed
        if self.way.behind and self._rng.random() < self.way.behind:
            listed = self._cluster.snapshot_behind(self._rng)
        if self.way.list_s:
            await asyncio.sleep(self._rng.uniform(0, self.way.list_s))
        self._tell_of(listed, loop, asked)
        return listed

    def _tell_of(self, listed: Snapshot, loop: str, asked: Position) -> None:
        """Take note of a list for the routes; of those of the start all come to nothing but the last."""
        if loop != FOLLOWER:
            self.delivered = Delivered()
        self.delivered.take_list(listed, self.clock_s(), asked)

    def told_of_own(self, record: Record | None) -> None:
        """Take note of etcd's word about the node's own key."""
        if record is not None:
            self._own, self.own_gone_s = record, None
        elif self._own is not None and self.own_gone_s is None:
            self.own_gone_s = _now()

    def _told_of_change(self, change: Put | Gone) -> None:
        own = self._own
        if isinstance(change, Gone) and own and change.name == own.name and change.revision > own.mod_revision:
            self.told_of_own(None)

    async def create_subnet(
        self, name: bytes, value: bytes, *, ttl_s: int, listed: Snapshot, beside: Collection[bytes] = ()
    ) -> Record | None:
        others = [late for late, of in self._late_creations.items() if of != name]
        if others:  # the lease that they would hang on is revoked, which has to succeed first
            await self._arrive()
            for late in others:
                late.cancel()
                del self._late_creations[late]
        write, before = super().create_subnet, set(self._late)
        try:
            record = await self._perhaps_late(lambda: write(name, value, ttl_s=ttl_s, listed=listed, beside=beside))
        finally:
            self._late_creations |= dict.fromkeys(self._late - before, name)
        if record is not None:
            self.told_of_own(record)
        return record

    async def rewrite_subnet(self, held: Record, value: bytes) -> Record | None:
        write = super().rewrite_subnet
        record = await self._perhaps_late(lambda: write(held, value))
        if record is not None:
            self.told_of_own(record)
        return record

    def _check_writable(self) -> None:
        if self.way.refuses_writes:
            raise RegistryUnavailable("sim: no space")
        super()._check_writable()

    async def put_on_own_lease(self, held: Record, *, ttl_s: int) -> Record | None:
        write = super().put_on_own_lease
        return await self._perhaps_late(lambda: write(held, ttl_s=ttl_s))

    async def delete_subnet(self, held: Record) -> bool:
        write = super().delete_subnet
        return await self._perhaps_late(lambda: write(held))

    async def renew(self, held: Record) -> Renewal:
        if self._rng.random() < self.way.fails_renewal:
            raise RegistryUnavailable("sim: leases are not served")
        seen = await super().renew(held)
        self._cluster.prolong(held.lease_id)
        self._reply()
        self.told_of_own(seen.record)
        return seen

    def _watching(self, since: Snapshot, prefix: bytes) -> _FakeWatch:
        return _SimWatch(self, since, prefix, self._watches)

    async def _perhaps_late(self, write: Callable[[], Awaitable[T]]) -> T:
        if self._rng.random() >= self.way.writes_late:
            return await write()
        late = asyncio.create_task(self._write_late(write))
        self._late.add(late)
        late.add_done_callback(self._late.discard)
        await asyncio.sleep(DEADLINE_S)
        raise RegistryUnavailable("sim: no answer to a write, which may happen yet")

    async def _write_late(self, write: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(self._rng.uniform(0, LATE_S))
        with suppress(RegistryUnavailable):
            record = await write()
            self._made = record if isinstance(record, Record) else None


class _SimWatch(_FakeWatch):
    """A watch that is late, repeats events, goes back in time, or loses an event without a sign."""

    def __init__(
        self, registry: SimRegistry, since: Snapshot, prefix: bytes, siblings: "dict[_FakeWatch, None]"
    ) -> None:
        super().__init__(registry, since, prefix, siblings)
        self._sim = registry
        self._told: deque[Put | Gone] = deque(maxlen=BEHIND)

    async def __anext__(self) -> tuple[Put | Gone, ...]:
        await self._sim.awake.wait()
        if not self._open:
            await self._sim._arrive()
            self._etcd.part(self)
            self._etcd = self._sim.etcd
            self._etcd.join(self)
        way, rng = self._sim.way, self._sim._rng
        while True:
            changes = await super().__anext__()
            if changes and way.delays_event_s:
                await asyncio.sleep(rng.uniform(0, way.delays_event_s))
            kept = tuple(change for change in changes if rng.random() >= way.loses_event)
            again = tuple(change for change in kept if rng.random() < way.repeats_event)
            old = tuple(change for change in self._told if rng.random() < way.travels) if kept and way.travels else ()
            if kept or not changes:
                self._told.extend(kept)
                events = kept + again + old
                if self._prefix == SUBNETS:
                    for change in events:
                        self._sim._told_of_change(change)
                    self._sim.delivered.take_events(events, self._sim.clock_s())
                return events

    def _begin(self) -> tuple[()]:
        if self._sim.way.behind and self._sim._rng.random() < self._sim.way.behind:
            raise HistoryChanged("sim: this member is behind")
        return super()._begin()
