"""Watch the peers: list, then watch; list again whenever the watch ends, for whatever reason, and every few minutes.

Every list and every change goes through ``PeerTable.apply``. A broken watch takes nothing away: only a complete list
does, and where it comes from another cluster or an older history, the withdrawal guard holds what it would remove.

Lists cost the cluster the square of its nodes, and what ends one watch ends thousands. So each node picks a *turn* for
the list after a break at random, within the round in which all can list, and watches on from what it knows until then.
"""

import asyncio
from dataclasses import replace

from pyflanneld.core.backoff import backoff, jittered, list_round_s
from pyflanneld.core.etcd_types import Gone, Put, Record, Snapshot
from pyflanneld.core.lease.ownership import is_junk
from pyflanneld.core.peers.guard import LIST_SPACING_S
from pyflanneld.errors import HistoryChanged, RegistryError, RegistryUnavailable, RevisionCompacted
from pyflanneld.ports import Change
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

RELIST_S = 300.0
RETRY_FIRST_S = 0.2
RETRY_CAP_S = 10.0


class PeerWatcher:
    """The task that keeps ``node.peers`` true."""

    def __init__(self, context: Context, node: Node, first: Snapshot) -> None:
        self._context = context
        self._node = node
        self._own_name = node.lease.record.name
        self._own_there = True
        self._first: Snapshot | None = first
        self._position = first.position  # up to where all changes are known
        self._waits = backoff(RETRY_FIRST_S, RETRY_CAP_S, context.rng)
        self._round_s, self._turn_at = 0.0, 0.0
        self._why = "first"  # the next list is read

    async def run(self) -> None:
        """Watch for ever, beginning with the list that is known already."""
        while True:
            self._context.liveness.beat("peers", RELIST_S)
            try:
                await self._watch_until_turn()
                await self._next_list()
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

    async def _next_list(self) -> None:
        """Fold in the next complete list; the first is known already, and older than this host's lease."""
        first, self._first = self._first, None
        if first is not None:
            self._take(first)
            return
        snapshot = await self._context.registry.list_subnets(elsewhere=bool(self._node.guard.held))
        own = next((record for record in snapshot.records if record.name == self._own_name), None)
        self._note_junk(there=own is not None)
        self._take(snapshot)
        self._check_own(own, snapshot.revision)

    def _take(self, snapshot: Snapshot) -> None:
        """Fold a complete list in."""
        node, before, now_s = self._node, self._position, self._context.clock.now_s()
        if snapshot.cluster_id != before.cluster_id or snapshot.revision < before.revision:
            node.guard.distrust()
            self._context.log.warning(
                "etcd.history_changed", was=before.revision, now=snapshot.revision,
                same_cluster=snapshot.cluster_id == before.cluster_id,
            )
            self._why = "history_changed"
        self._position = node.listed = snapshot.position
        self._context.counters.listed(self._why, snapshot.revision, now_s)
        self._round_s = list_round_s(len(snapshot.records))
        node.peers.apply(snapshot)
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
        await asyncio.sleep(self._context.rng.uniform(0, min(self._round_s, RETRY_CAP_S)))

    async def _watch_until_turn(self) -> None:
        """Watch on from what is known until it is our turn to list."""
        left_s = self._turn_at - asyncio.get_running_loop().time()
        if left_s > 0:
            await self._watch_for(left_s)

    async def _watch_for(self, period_s: float) -> None:
        """Watch from what is known, until the next list is due or somebody asks for it."""
        try:
            async with self._node.wake.peers.timeout(period_s):
                await self._watch()
        except TimeoutError:
            self._why = "guard" if self._node.guard.held else "due"
            self._context.log.debug("watch.due")

    async def _watch(self) -> None:
        async with self._context.registry.watch_subnets(self._position) as batches:
            async for events in batches:
                self._context.registry_works("peers")
                self._waits = backoff(RETRY_FIRST_S, RETRY_CAP_S, self._context.rng)
                self._context.liveness.beat("peers", RELIST_S)
                self._fold(events)
        raise RegistryUnavailable("the watch on the leases has ended")

    def _fold(self, events: tuple[Put | Gone, ...]) -> None:
        changed, revision = False, self._position.revision
        for event in events:
            if isinstance(event, Gone):
                name, at = event.name, event.revision
            else:
                name, at = event.record.name, event.record.mod_revision
            revision = max(revision, at)
            if name == self._own_name:
                self._note_junk(there=not isinstance(event, Gone))
                self._check_own(None if isinstance(event, Gone) else event.record, at)
            else:
                changed |= self._node.peers.apply(event)
        self._position = replace(self._position, revision=revision)
        self._context.counters.watched(len(events), revision, self._context.clock.now_s())
        if changed:
            self._node.wake.routes.set(Change.PEERS)

    def _note_junk(self, *, there: bool) -> None:
        """When this host's key goes, note which keys without a readable value have overlapped it: no host's."""
        if self._own_there and not there:
            own = self._node.lease.key
            records = [record for record in self._node.peers.records() if is_junk(record)]
            found = (record for record in records if record.lease.key is not None and record.lease.key.overlaps(own))
            self._node.junk_beside = frozenset(record.incarnation for record in found)
        self._own_there = there

    def _check_own(self, seen: Record | None, revision: int) -> None:
        """Wake the lease task when this host's key is not, at *revision*, as it is known."""
        held = self._node.lease.record
        if seen != held:
            gone = seen is None and revision > held.mod_revision
            self._node.wake.lease.set(Change.LEASE_GONE if gone else Change(0))
