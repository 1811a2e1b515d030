"""Watch the peers: list, then watch; list again whenever the watch ends, for whatever reason, and every few minutes.

Every list and every change goes through ``PeerTable.apply``. A broken watch takes nothing away: only a complete list
does, and where it comes from another cluster or an older history, the withdrawal guard holds what it would remove.

Lists cost the cluster the square of its nodes, and what ends one watch ends thousands. So each node picks a *turn* for
the list after a break at random, within the round in which all can list, and watches on from what it knows until then.

It watches on as well while a list takes long, and between lists that fail: one kind of call that fails stops no other.
A list is as old as its request, so what the watch has told since is folded in again behind it.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from pyflanneld.core.backoff import backoff, jittered, list_round_s
from pyflanneld.core.etcd_types import Gone, Position, Put, Record, Snapshot
from pyflanneld.core.lease.ownership import is_junk
from pyflanneld.core.peers.guard import LIST_SPACING_S
from pyflanneld.errors import HistoryChanged, RegistryDenied, RegistryError, RegistryUnavailable, RevisionCompacted
from pyflanneld.ports import Change
from pyflanneld.state.context import DENIED_PAUSE_S, Context
from pyflanneld.state.node import Node

RELIST_S = 300.0
RETRY_FIRST_S = 0.2
RETRY_CAP_S = 10.0
BESIDE_S = 1.0
"""After this time a list takes long: the watch goes on beside it."""
UNLISTED_S = 900.0
"""How long the watch alone is good enough: etcd before 3.4.38 may lose an event, which only a list makes up for."""
LISTS = "etcd:lists"


class PeerWatcher:
    """The task that keeps ``node.peers`` true."""

    def __init__(self, context: Context, node: Node, first: Snapshot) -> None:
        self._context = context
        self._node = node
        self._own_name = node.lease.record.name
        self._own_there = True
        self._own_at = node.lease.record.mod_revision  # the last revision at which our key was certainly there
        self._first: Snapshot | None = first
        self._position = first.position  # up to where all changes are known
        self._waits = backoff(RETRY_FIRST_S, RETRY_CAP_S, context.rng)
        self._list_waits = backoff(RETRY_FIRST_S, RETRY_CAP_S, context.rng)
        self._round_s, self._turn_at, self._not_before = 0.0, 0.0, 0.0
        self._meanwhile: list[Put | Gone] | None = None  # what the watch has told while a list is read
        self._watch_works = False
        self._unlisted_since_s: float | None = None  # since when lists fail while the watch works
        self._why = "first"  # the next list is read

    async def run(self) -> None:
        """Watch for ever, beginning with the list that is known already."""
        while True:
            self._context.liveness.beat("peers", RELIST_S)
            try:
                await self._watch_until_turn()
                if await self._next_list():
                    await self._watch_for(self._period_s())
            except RevisionCompacted as error:
                self._why = "compacted"
                self._context.counters.etcd_failed("peers", error)
                self._context.log.info("watch.compacted", revision=self._position.revision)
                await self._turn_soon()
            except HistoryChanged as error:
                self._why = "watch_ended"
                self._context.registry_failed("peers", error, blocks=False)
                await asyncio.sleep(next(self._waits))
                await self._turn_soon()
            except RegistryError as error:
                self._why = "watch_ended"
                self._pick_turn()
                self._context.registry_failed("peers", error, blocks=False)
                await self._context.pause(error, next(self._waits))

    async def _next_list(self) -> bool:
        """Fold in the next complete list, if there is one; the first is known, and older than this host's lease."""
        first, self._first = self._first, None
        if first is not None:
            self._take(first, self._position)
            return True
        before = self._position
        try:
            snapshot = await self._read_list()
        except RegistryError as error:
            self._list_failed(error)
            return False
        own = next((record for record in snapshot.records if record.name == self._own_name), None)
        if snapshot.revision < self._own_at:
            self._own_at = 0  # another history
        self._note_junk(there=own is not None, at=snapshot.revision)
        self._take(snapshot, before)
        self._check_own(own, snapshot.revision)
        return True

    async def _read_list(self) -> Snapshot:
        """Read a complete list; the watch goes on meanwhile."""
        self._meanwhile = []
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch_beside(), name="peers-watch")
                snapshot = await self._context.registry.list_subnets(elsewhere=bool(self._node.guard.held))
                watching.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group
        return snapshot

    async def _watch_beside(self) -> None:
        """Watch on from what is known while a list is read; what cannot be continued is left to the list."""
        await asyncio.sleep(BESIDE_S)
        while True:
            try:
                await self._watch()
            except (RevisionCompacted, HistoryChanged):
                return
            except RegistryError as error:
                await self._context.pause(error, next(self._waits))

    def _list_failed(self, error: RegistryError) -> None:
        """Report a list that has failed, and put off the next; until then the watch goes on."""
        context, now_s, denied = self._context, self._context.clock.now_s(), isinstance(error, RegistryDenied)
        wait_s = max(next(self._list_waits), DENIED_PAUSE_S if denied else 0.0)
        self._not_before = asyncio.get_running_loop().time() + wait_s
        if not self._watch_works:
            context.registry_failed("peers", error, blocks=False)
            return
        if self._unlisted_since_s is None:
            self._unlisted_since_s = now_s
        context.counters.etcd_failed("peers", error)
        text = f"the list of the peers cannot be read, only changes are followed: {error}"
        blocks = now_s - self._unlisted_since_s > UNLISTED_S
        event = "etcd.denied" if denied else "etcd.unavailable"
        context.conditions.report(LISTS, event, text, blocks=blocks, task="peers")

    def _take(self, snapshot: Snapshot, before: Position) -> None:
        """Fold a complete list in that was asked for when all was known up to *before*."""
        node, now_s = self._node, self._context.clock.now_s()
        later = [event for event in self._meanwhile or () if event.revision > snapshot.revision]
        self._meanwhile = self._unlisted_since_s = None
        if snapshot.cluster_id != before.cluster_id or snapshot.revision < before.revision:
            later = []
            node.guard.distrust()
            self._context.log.warning(
                "etcd.history_changed", was=before.revision, now=snapshot.revision,
                same_cluster=snapshot.cluster_id == before.cluster_id,
            )
            self._why = "history_changed"
        self._position = node.listed = snapshot.position
        self._context.counters.listed(self._why, snapshot.revision, now_s)
        self._context.conditions.resolve(LISTS)
        self._why, self._list_waits = "due", backoff(RETRY_FIRST_S, RETRY_CAP_S, self._context.rng)
        self._round_s = list_round_s(len(snapshot.records))
        node.peers.apply(snapshot)
        self._apply(later)
        node.guard.list_applied(now_s)
        node.wake.routes.set(Change.PEERS)

    def _period_s(self) -> float:
        """Return how long the list that was just taken is good for."""
        if self._node.guard.held:
            return LIST_SPACING_S
        return jittered(max(RELIST_S, self._round_s), 0.2, self._context.rng)

    def _pick_turn(self) -> None:
        """Decide when to list after a break, unless that is still to come."""
        now = asyncio.get_running_loop().time()
        if self._turn_at <= now:
            self._turn_at = now + self._context.rng.uniform(0, self._round_s)

    async def _turn_soon(self) -> None:
        """Wait as little as possible before the list: what is known cannot be continued."""
        self._turn_at = 0.0
        wait_s = self._context.rng.uniform(0, min(self._round_s, RETRY_CAP_S))
        await asyncio.sleep(max(wait_s, self._not_before - asyncio.get_running_loop().time()))

    async def _watch_until_turn(self) -> None:
        """Watch on from what is known until it is our turn to list."""
        left_s = max(self._turn_at, self._not_before) - asyncio.get_running_loop().time()
        if left_s > 0:
            await self._watch_for(left_s)

    async def _watch_for(self, period_s: float) -> None:
        """Watch from what is known, until the next list is due or somebody asks for it."""
        try:
            async with self._node.wake.peers.timeout(period_s):
                await self._watch()
        except TimeoutError:
            self._why = "guard" if self._node.guard.held else self._why
            self._context.log.debug("watch.due")

    async def _watch(self) -> None:
        try:
            async with self._context.registry.watch_subnets(self._position) as batches:
                async for events in batches:
                    self._context.registry_works("peers")
                    self._watch_works = True
                    self._waits = backoff(RETRY_FIRST_S, RETRY_CAP_S, self._context.rng)
                    self._context.liveness.beat("peers", RELIST_S)
                    self._fold(events)
            raise RegistryUnavailable("the watch on the leases has ended")
        except RegistryError:
            self._watch_works, self._unlisted_since_s = False, None
            raise
        finally:
            self._context.counters.watching = False

    def _fold(self, events: tuple[Put | Gone, ...]) -> None:
        changed = self._apply(events)
        if self._meanwhile is not None:
            self._meanwhile += events
        self._context.counters.watched(len(events), self._position.revision, self._context.clock.now_s())
        if changed:
            self._node.wake.routes.set(Change.PEERS)

    def _apply(self, events: Iterable[Put | Gone]) -> bool:
        """Apply changes, oldest first; return whether any concerns the routes."""
        changed, revision = False, self._position.revision
        for event in events:
            revision = max(revision, event.revision)
            if event.name == self._own_name:
                gone = isinstance(event, Gone)
                if gone:
                    self._own_at = max(self._own_at, event.revision - 1)
                self._note_junk(there=not gone, at=event.revision)
                self._check_own(None if isinstance(event, Gone) else event.record, event.revision)
            else:
                changed |= self._node.peers.apply(event)
        self._position = replace(self._position, revision=revision)
        return changed

    def _note_junk(self, *, there: bool, at: int) -> None:
        """When this host's key goes, note which keys without a readable value have overlapped it: no host's.

        An event may be lost, so what a list lacks may have gone at any revision since it was certainly there.
        """
        if there:
            self._own_at = at
        elif self._own_there:
            own = self._node.lease.key
            records = [record for record in self._node.peers.records() if is_junk(record)]
            beside = (record for record in records if record.create_revision <= self._own_at)
            found = (record for record in beside if record.lease.key is not None and record.lease.key.overlaps(own))
            self._node.junk_beside = frozenset(record.incarnation for record in found)
        self._own_there = there

    def _check_own(self, seen: Record | None, revision: int) -> None:
        """Wake the lease task when this host's key is not, at *revision*, as it is known."""
        held = self._node.lease.record
        if seen != held:
            gone = seen is None and revision > held.mod_revision
            self._node.wake.lease.set(Change.LEASE_GONE if gone else Change(0))
