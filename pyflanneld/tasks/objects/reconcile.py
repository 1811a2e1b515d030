"""Make the kernel's objects what the peers' leases say, and keep them so.

Which objects these are, and in which order they are put, only the backend knows (``backends/backend.py``).

Level-triggered: a wake-up only says "read again". A *scan* reads links and objects afresh; it comes from kernel events
and from a timer, because the kernel is silent about routes that go with a link. The kernel reports a route as deleted
just before that is so, and a list is not held up by whoever changes one (Linux 6.9 and later): a scan that was woken by
routes and finds nothing is followed by another one. A *round* derives the whole wanted state, compares it with what the
kernel is known to have, and applies the difference; it comes after each scan and whenever the peers have changed.

A round compares only what is due (``core.objects.table``): where a scan, the peers or the last round
have left a difference.
"""

import asyncio
import errno
import operator
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from pyflanneld.core.backoff import backoff
from pyflanneld.core.families import Network
from pyflanneld.core.objects.contest import Contest
from pyflanneld.core.objects.plan import Drop, KernelChange, Plan
from pyflanneld.core.objects.table import ObjectTable
from pyflanneld.errors import KernelError
from pyflanneld.ports import Change
from pyflanneld.state.context import Context
from pyflanneld.state.node import KERNEL, Node
from pyflanneld.tasks.docker import BridgeCheck
from pyflanneld.tasks.link import follow_link
from pyflanneld.tasks.objects.audit import ObjectAudit
from pyflanneld.tasks.objects.blackhole import keep_blackhole
from pyflanneld.tasks.objects.device import DeviceKeeper
from pyflanneld.tasks.objects.peer_review import PeerReview
from pyflanneld.tasks.objects.report import Reports

Table = ObjectTable[Any, Any]

SCAN_S = 10.0
SCAN_AGAIN_S = 0.1
RETRY_S = 1.0
SCANS_BURST = 8
SCAN_SPACING_S = 0.5
FOREIGN_RECHECK_S = 60.0
FOREIGN_SHARE = 60  # a look at everybody's routes may take a sixtieth of the time
STRIKES = 3


class Reconciler:
    """The task that owns the kernel objects."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node
        self._audits = {table: ObjectAudit(context, node, table) for table in node.tables}
        self._reports = Reports(context, node)
        self._bridge = BridgeCheck(context, node)
        self._contests = {table: Contest() for table in node.tables}
        self._changed: dict[Table, list[Any]] = {}  # what others have changed, as the last scan has shown
        self._read: dict[Table, list[tuple[Any, ...]]] = {}  # our objects as last read, unless we have changed any
        self._foreign_due = False
        self._foreign_after_s = self._foreign_until_s = 0.0
        self._placement: object = None
        self._rederive = False
        self._review = PeerReview(context, node)
        self._devices = DeviceKeeper(context, node)
        self._revalidate = True
        self._placeable = True
        self._scan_again = False
        self._scans: deque[float] = deque(maxlen=SCANS_BURST)
        self._strikes = 0  # failures of netlink in a row
        self._asked = (False, 0, 0)  # what decides about drops, as it was last: see ``_allowed``

    async def run(self) -> None:
        """Reconcile for ever.

        Raises:
            KernelError: netlink has failed several times in a row; a fresh process is the cure.
        """
        waits = backoff(0.2, 2.0, self._context.rng)
        self._context.liveness.beat("routes", 2 * SCAN_S)  # the first scan counts too
        while True:
            try:
                await self._scan()
                await self._rounds_until_next_scan()
            except KernelError as error:
                self._strikes += 1
                if self._strikes >= STRIKES:
                    raise
                self._node.wake.routes.set(KERNEL)
                self._context.conditions.report("kernel", "kernel.failed", f"netlink has failed: {error}")
                await asyncio.sleep(next(waits))

    async def _scan(self) -> None:
        """Read links and routes afresh; only routes when the kernel has reported nothing else and no address is due."""
        began_at = asyncio.get_running_loop().time()
        self._scans.append(began_at)
        reported = self._node.wake.routes.take(KERNEL)
        self._foreign_due |= Change.ROUTES in reported
        if reported or self._context.clock.now_s() >= self._foreign_until_s:
            for table in self._node.tables:
                table.forget_foreign()
        if reported != Change.ROUTES or began_at >= self._node.address_due_s:
            await self._read_links()
        found = [await self._scan_table(table, reported) for table in self._node.tables]
        self._scan_again = Change.ROUTES in reported and not any(found)

    async def _read_links(self) -> None:
        node = self._node
        self._placeable = follow_link(self._context, node, await self._context.kernel.links())
        if self._placeable:
            await self._devices.keep()
        self._bridge.look()
        backend, host = node.backend, node.host
        placement = backend.placement(host), host.networks
        if placement != self._placement:
            self._placement, self._revalidate, self._rederive = placement, True, True
            for table, kind in zip(node.tables, backend.kinds(host), strict=True):
                table.kind = kind
            self._read.clear()  # that was of other links
        near = node.near
        self._revalidate |= await self._review.look()
        self._rederive |= near != node.near

    async def _scan_table(self, table: Table, reported: Change) -> bool:
        """Take over our objects of one kind as they are now; return whether any is not as it was left."""
        read, last = await self._objects(table, foreign=False), self._read.get(table)
        if table is self._node.routes:
            await keep_blackhole(self._context, self._node, chain(*read))
        if last is not None and all(map(operator.is_, read, last)):
            return False
        before = table.present
        self._read[table] = read
        found = table.take_over(chain(*read))
        by_link = self._audits[table].scanned(found, before, reported)
        if table is self._node.routes:
            self._reports.lost(one.identity for one in found if one.now is None)
        if self._node.progress.routes.is_set() and not by_link:
            wanted = table.wanted
            self._changed[table] = [
                one.identity for one in found if one.before is not None or one.identity not in wanted
            ]
        return bool(found)

    async def _objects(self, table: Table, *, foreign: bool) -> list[tuple[Any, ...]]:
        """Return the kernel's objects of one kind, each list for itself."""
        return [await self._context.kernel.objects(listing) for listing in table.kind.listings(foreign=foreign)]

    async def _rounds_until_next_scan(self) -> None:
        """Do a round now and after each change of the peers, until it is time to read the kernel again."""
        scan_at = self._scans[-1] + (SCAN_AGAIN_S if self._scan_again else SCAN_S)
        scan_at = min(scan_at, self._node.address_due_s, self._devices.due_s)
        not_before = self._next_scan_at()
        while True:
            self._context.liveness.beat("routes", 2 * SCAN_S)
            try:
                await self._context.counters.timed(self._context.clock.now_s, self._round())
            finally:
                self._note_changes()
            self._strikes = 0
            self._context.conditions.resolve("kernel")
            if any(table.refused() for table in self._node.tables):
                scan_at = min(scan_at, asyncio.get_running_loop().time() + RETRY_S)
            if not await self._peers_change_first(scan_at, not_before):
                return

    def _note_changes(self) -> None:
        """Log and count what others have changed; after the repair, because it takes as long."""
        for audit in self._audits.values():
            audit.log_losses()
        now_s, self._changed, changed = self._context.clock.now_s(), {}, self._changed
        for table, identities in changed.items():
            self._contests[table].changed(identities, now_s)

    async def _peers_change_first(self, scan_at: float, not_before: float) -> bool:
        """Wait; return whether the peers changed before it was time to read the kernel."""
        node, wake, loop = self._node, self._node.wake.routes, asyncio.get_running_loop()
        while True:
            due = not_before if wake.changes & KERNEL else scan_at
            if loop.time() >= due:
                return False
            if Change.PEERS in wake.changes and node.listed:  # until then a round has nothing to do
                return True
            await wake.wait(due - loop.time())

    def _next_scan_at(self) -> float:
        """Return when the kernel may be read again: at once, but a storm of events is met with two scans a second.

        Every container that starts makes a handful of events, so a few scans in a row are free.
        """
        scans = self._scans
        if len(scans) < SCANS_BURST:
            return scans[-1]
        return scans[-1] + max(0.0, min(SCAN_SPACING_S, scans[0] + SCANS_BURST * SCAN_SPACING_S - scans[-1]))

    async def _round(self) -> None:
        """Derive what is wanted, and make it so."""
        node = self._node
        if node.listed is None:
            return
        if self._review.ready and (Change.PEERS in node.wake.routes.changes or self._revalidate):
            node.wake.routes.take(Change.PEERS)
            self._revalidate = False
            await self._validate()
        if not self._placeable:
            return
        await self._place()
        if any(errno.EEXIST in table.refused().values() for table in node.tables):
            await self._learn_foreign()
            await self._place()
        self._report_tables()
        self._reports.frozen()
        node.progress.routes.set()
        await self._read_foreign()

    async def _validate(self) -> None:
        """Derive the peers from their leases, and the objects from the peers."""
        node = self._node
        before, view = node.view, await self._review.view()
        node.want(replace(view, changed=None) if self._rederive else view)
        self._rederive = False
        self._reports.peers(before, view, self._review.shared)
        self._context.counters.quarantine(view.quarantined, self._context.clock.now_s())

    async def _place(self) -> None:
        """Put first, kind by kind, and then drop what may go, in the reverse order."""
        node = self._node
        assert node.view is not None  # noqa: S101 - _round has just made it
        self._unpark()
        now_s = self._context.clock.now_s()
        only_missing = node.unconfirmed or not self._devices.complete  # nothing goes for want of a device
        plans = {
            table: table.plan(node.view.frozen, only_missing=only_missing).without(contest.left_alone(now_s))
            for table, contest in self._contests.items()
        }
        allowed = self._allowed({table: todo.drops for table, todo in plans.items()})
        puts: list[KernelChange] = [put for todo in plans.values() for put in (*todo.first, *todo.puts)]
        gone = {table: [*todo.extras, *allowed[table]] for table, todo in plans.items()}
        changes = [*puts, *(drop for table in reversed(plans) for drop in gone[table])]
        for table in plans:
            table.begin()
        answer = await self._context.kernel.apply(changes) if changes else {}
        for table, todo in plans.items():
            self._settle(table, todo, [*todo.first, *todo.puts, *gone[table]], answer)

    def _settle(
        self, table: Table, todo: Plan[Any, Any], changes: Sequence[KernelChange], answer: Mapping[KernelChange, int]
    ) -> None:
        """Take over what became of *changes*."""
        refused = {change: answer[change] for change in changes if change in answer} if answer else {}
        done = [change for change in changes if change not in refused] if refused else changes
        if done:
            self._read.pop(table, None)
        now_s, first = self._context.clock.now_s(), not self._node.progress.routes.is_set()
        self._audits[table].done(table.settle(todo, done, refused, now_s=now_s, first=first))

    def _allowed(self, drops: Mapping[Table, Sequence[Drop[Any]]]) -> dict[Table, list[Drop[Any]]]:
        """Return the drops that the guard and the state of our own lease allow; the tables park the others.

        A peer that stays withdraws nothing when it needs other objects than before: the guard is not asked about it.
        Where there are none, and neither the lease's proof, the guard nor what is parked has changed, nobody is asked.
        """
        node, now_s = self._node, self._context.clock.now_s()
        proved, version = self._deciding()
        parked = sum(len(table.parked()) for table in drops)
        nothing_new = not any(drops.values()) and (proved, version, parked) == self._asked
        if nothing_new or not proved:
            self._asked = (proved, version, parked + sum(map(len, drops.values())))
            return {table: [] for table in drops}
        every = (
            table.subnet(one) for table, some in drops.items()
            for one in (*(drop.object for drop in some), *table.parked())
        )  # fmt: skip
        assert node.view is not None  # noqa: S101 - _round has just made it
        idle = frozenset(subnet for subnet in every if subnet is not None)
        stay = idle & node.view.peers.keys()
        present = max(table.present for table in drops)
        allowed: set[Network | None] = {*stay, *node.guard.allow(idle - stay, present, now_s)}
        self._reports.guard(node.guard.held)
        if not node.guard.held:
            allowed.add(None)  # what does not say whom it serves
        going = {
            table: [drop for drop in some if table.subnet(drop.object) in allowed] for table, some in drops.items()
        }
        self._asked = (proved, version, parked + sum(map(len, drops.values())))  # once those have gone, it hears of it
        return going

    def _deciding(self) -> tuple[bool, int]:
        """Return whether our lease is proved, and the state of the guard."""
        return self._context.clock.now_s() <= self._node.lease.confirmed_until_s, self._node.guard.version

    def _unpark(self) -> None:
        """Have everything that may not be dropped compared again, if what kept it may have changed."""
        if self._deciding() != self._asked[:2]:
            for table in self._node.tables:
                table.unpark()

    async def _learn_foreign(self) -> None:
        """Find out whose objects stand where a creation was refused."""
        for table in self._node.tables:
            if errno.EEXIST in table.refused().values():
                await self._read_all(table)

    async def _read_all(self, table: Table) -> None:
        """Read everybody's objects where ours are wanted: what stands in the way of ours, or before them."""
        table.note_all(tuple(chain(*await self._objects(table, foreign=True))))

    async def _read_foreign(self) -> None:
        """Read everybody's objects after others have changed some, and at times, in a small part of the time."""
        now_s = self._context.clock.now_s()
        if now_s < (self._foreign_after_s if self._foreign_due else self._foreign_until_s):
            return
        self._foreign_due = False
        for table in self._node.tables:
            await self._read_all(table)
        self._report_tables()
        took_s = self._context.clock.now_s() - now_s
        self._foreign_after_s = now_s + FOREIGN_SHARE * took_s
        self._foreign_until_s = now_s + max(FOREIGN_RECHECK_S, FOREIGN_SHARE * took_s)

    def _report_tables(self) -> None:
        for table, contest in self._contests.items():
            self._reports.table(table, contest.contested)
