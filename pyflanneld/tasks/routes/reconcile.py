"""Make the kernel's routes what the peers' leases say, and keep them so.

Level-triggered: a wake-up only says "read again". A *scan* reads links and routes afresh; it comes from kernel events
and from a timer, because the kernel is silent about routes that go with a link. The kernel reports a route as deleted
just before that is so, and a list is not held up by whoever changes one (Linux 6.9 and later): a scan that was woken by
routes and finds nothing is followed by another one. A *round* derives the whole wanted state, compares it with what the
kernel is known to have, and applies the difference; it comes after each scan and whenever the peers have changed.

A round compares only what is due (``core.routes.table``): the destinations where a scan, the peers or the last round
have left a difference.
"""

import asyncio
import errno
import operator
from collections import deque
from collections.abc import Collection, Sequence
from itertools import chain

from pyflanneld.core.backoff import backoff
from pyflanneld.core.families import Network, first_of
from pyflanneld.core.peers.guard import LIST_SPACING_S
from pyflanneld.core.peers.table import View
from pyflanneld.core.peers.validation import ValidationContext
from pyflanneld.core.routes.plan import Drop, KernelRoute, PeerChange, Plan, plan_routes
from pyflanneld.errors import KernelError
from pyflanneld.ports import Change
from pyflanneld.state.context import Context
from pyflanneld.state.node import KERNEL, Node
from pyflanneld.tasks.docker import check_bridge
from pyflanneld.tasks.link import follow_link, validation_context
from pyflanneld.tasks.routes.audit import RouteAudit
from pyflanneld.tasks.routes.blackhole import keep_blackhole

SCAN_S = 10.0
SCAN_AGAIN_S = 0.1
RETRY_S = 1.0
SCANS_BURST = 8
SCAN_SPACING_S = 0.5
FOREIGN_RECHECK_S = 60.0
STRIKES = 3


class Reconciler:
    """The task that owns the routes."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node
        self._table = node.routes
        self._audit = RouteAudit(context, node)
        self._read: list[tuple[KernelRoute, ...]] = []  # our routes as last read; empty once we have changed any
        self._foreign_until_s = 0.0
        self._validation: ValidationContext | None = None
        self._revalidate = True
        self._placeable = True
        self._scan_again = False
        self._scans: deque[float] = deque(maxlen=SCANS_BURST)
        self._strikes = 0  # failures of netlink in a row

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
        """Read links and routes afresh; only the routes when the kernel has reported nothing else."""
        self._scans.append(asyncio.get_running_loop().time())
        reported = self._node.wake.routes.take(KERNEL)
        if reported or self._context.clock.now_s() >= self._foreign_until_s:
            self._table.forget_foreign()
        if reported != Change.ROUTES:
            await self._read_links()
        read = await self._routes(self._context.settings.route_protocol)
        await keep_blackhole(self._context, self._node, chain(*read))
        as_before = bool(self._read) and all(map(operator.is_, read, self._read))
        found = not as_before and self._compare(read, reported)
        self._scan_again = Change.ROUTES in reported and not found

    async def _read_links(self) -> None:
        node, index = self._node, self._node.link.index
        self._placeable = follow_link(self._context, node, await self._context.kernel.links())
        check_bridge(self._context, node)
        if node.link.index != index:
            self._table.add_due(None)
        validation = validation_context(self._context, node)
        self._revalidate |= validation != self._validation
        self._validation = validation

    async def _routes(self, protocol: int | None = None) -> list[tuple[KernelRoute, ...]]:
        """Return the routes of the families in use, each for itself."""
        kernel, networks = self._context.kernel, self._node.networks
        return [await kernel.routes(protocol=protocol, version=network.version) for network in networks]

    def _compare(self, read: list[tuple[KernelRoute, ...]], reported: Change) -> bool:
        """Take over our routes as they are now; return whether any is not as it was left."""
        before = self._table.present
        self._read = read
        found = self._table.take_over(chain(*read))
        self._audit.scanned(found, before, reported)
        return bool(found)

    async def _rounds_until_next_scan(self) -> None:
        """Do a round now and after each change of the peers, until it is time to read the kernel again."""
        scan_at = self._scans[-1] + (SCAN_AGAIN_S if self._scan_again else SCAN_S)
        not_before = self._next_scan_at()
        while True:
            self._context.liveness.beat("routes", 2 * SCAN_S)
            try:
                await self._context.counters.timed(self._context.clock.now_s, self._round())
            finally:
                self._audit.log_losses()
            self._strikes = 0
            self._context.conditions.resolve("kernel")
            if self._table.refused():
                scan_at = min(scan_at, asyncio.get_running_loop().time() + RETRY_S)
            if not await self._peers_change_first(scan_at, not_before):
                return

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
        if self._validation is not None and (Change.PEERS in node.wake.routes.changes or self._revalidate):
            node.wake.routes.take(Change.PEERS)
            self._revalidate = False
            self._validate(self._validation)
        if not self._placeable:
            return
        await self._place(self._plan())
        if errno.EEXIST in self._table.refused().values():
            await self._learn_foreign()
            await self._place(self._plan())
        self._report_routes()
        node.progress.routes.set()

    def _validate(self, validation: ValidationContext) -> None:
        """Derive the peers from their leases."""
        node = self._node
        before, node.view = node.view, node.peers.view(validation)
        self._table.add_due(node.view.changed)
        self._report_peers(before, node.view)
        self._context.counters.quarantine(node.view.quarantined, self._context.clock.now_s())

    def _plan(self) -> Plan:
        node, table = self._node, self._table
        assert node.view is not None  # noqa: S101 - _round has just made it
        desired = node.backend.desired_routes(table.only_due(node.view.peers), node.link.index)
        frozen: Collection[Network] = node.view.frozen
        if node.unconfirmed:  # routes of ours that are there were put by a run that knew more
            desired = {dst: route for dst, route in desired.items() if not table.has(dst)}
            frozen = {route.dst for route in table.routes()}
        return plan_routes(
            desired, table.due_routes(),
            protocol=self._context.settings.route_protocol, networks=node.networks, frozen=frozen,
        )

    async def _place(self, todo: Plan) -> None:
        """Put first, then drop what may go."""
        changes: list[PeerChange] = [*todo.puts, *self._allowed(todo.drops)]
        self._table.begin()
        answer = await self._context.kernel.apply(changes) if changes else {}
        refused = {change: answer[change] for change in changes if change in answer}
        done = [change for change in changes if change not in refused]
        if done:
            self._read = []
        now_s, first = self._context.clock.now_s(), not self._node.progress.routes.is_set()
        self._audit.done(self._table.settle(todo, done, refused, now_s=now_s, first=first))

    def _allowed(self, drops: Sequence[Drop]) -> list[Drop]:
        """Return the drops that the guard and the state of our own lease allow."""
        node, now_s = self._node, self._context.clock.now_s()
        if now_s > node.lease.confirmed_until_s:
            return []
        idle = frozenset(drop.route.dst for drop in drops)
        allowed = node.guard.allow(idle, self._table.present, now_s)
        held = len(node.guard.held)
        if held:
            text = f"{held} routes are kept although their leases are gone from etcd, until two more lists agree"
            self._context.conditions.report("guard", "guard.holding", text, routes=held)
            node.wake.peers.set(within_s=LIST_SPACING_S)
        else:
            self._context.conditions.resolve("guard")
        return [drop for drop in drops if drop.route.dst in allowed]

    async def _learn_foreign(self) -> None:
        """Find out whose routes stand where a creation was refused."""
        self._table.note_foreign(chain(*await self._routes()))
        self._foreign_until_s = self._context.clock.now_s() + FOREIGN_RECHECK_S

    def _report_peers(self, before: View | None, now: View) -> None:
        """Log which keys are quarantined, or are another backend's, since when they are not."""
        log, known = self._context.log, before.quarantined if before else {}
        for name, quarantine in now.quarantined.items():
            if known.get(name) != quarantine:
                log.warning("peer.quarantined", key=name, reason=quarantine.reason, why=quarantine.detail)
        for name in known.keys() - now.quarantined.keys():
            log.info("peer.quarantine_ended", key=name)
        for name in now.foreign_backends - (before.foreign_backends if before else frozenset()):
            log.warning("peer.other_backend", key=name, ours=self._node.backend.name)

    def _report_routes(self) -> None:
        conditions = self._context.conditions
        blocked = self._table.blocked()
        if blocked:
            dst = first_of(blocked)
            route = blocked[dst]
            text = f"a foreign route stands where ours should, and is left alone: {_first(dst, blocked)}"
            conditions.report(
                "foreign", "route.conflict", text, blocks=False,
                gateway=str(route.gateway), protocol=route.protocol, destinations=sorted(map(str, blocked))[:10],
            )
        else:
            conditions.resolve("foreign")
        refused = self._table.refused()
        if refused:
            dst, code = next(iter(refused.items()))
            why = errno.errorcode.get(code, str(code))
            conditions.report("routes", "route.failed", f"the kernel refuses routes: {_first(dst, refused)}: {why}")
        else:
            conditions.resolve("routes")


def _first(dst: Network, every: Collection[object]) -> str:
    """Return *dst* and how many more there are."""
    return f"{dst} and {len(every) - 1} more" if len(every) > 1 else str(dst)
