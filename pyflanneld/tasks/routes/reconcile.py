"""Make the kernel's routes what the peers' leases say, and keep them so.

Level-triggered: a wake-up says only "look again". A *look* reads links and routes afresh; it comes from kernel events
and from a timer, because the kernel is silent about routes that go with a link. It tells that a route is deleted just
before that is so, and a list is not held up by whoever changes one (Linux 6.9 and later): a look that was woken by
routes and finds nothing is followed by another one. A *round* derives the whole desired
state, compares it with what the kernel is known to have, and applies the difference; it comes after each look and
whenever the peers have changed.

A round compares only what is *due*: the destinations where a look, the peers or the last round have left a difference.
That equals a round over everything, which comes first of all and after every doubt. So one lease more, or one route
less, costs the same with ten peers and with thousands.
"""

import asyncio
import errno
import operator
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from pyflanneld.core.backoff import backoff
from pyflanneld.core.families import Network, first_of, inside
from pyflanneld.core.peers.guard import LIST_SPACING_S
from pyflanneld.core.peers.table import View
from pyflanneld.core.peers.validation import ValidationContext
from pyflanneld.core.routes.plan import Drop, KernelRoute, PeerChange, Plan, apply_changes, plan_routes, usual_metric
from pyflanneld.errors import KernelError
from pyflanneld.ports import Change
from pyflanneld.state.node import Context, Node, Placed
from pyflanneld.state.wakeup import set_within
from pyflanneld.tasks.docker import check_bridge
from pyflanneld.tasks.link import follow_link, validation_context
from pyflanneld.tasks.routes.audit import RouteAudit
from pyflanneld.tasks.routes.blackhole import keep_blackhole

SCAN_S = 10.0
TOLD_EARLY_S = 0.1
RETRY_S = 1.0
LOOKS_BURST = 8
LOOK_SPACING_S = 0.5
FOREIGN_RECHECK_S = 60.0
STRIKES = 3

T = TypeVar("T")


class Reconciler:
    """The task that owns the routes."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node
        self._read: list[tuple[KernelRoute, ...]] = []  # our routes as last read; empty once we have changed any
        self._journal = RouteAudit(context, node)
        self._present: dict[Network, KernelRoute] = {}
        self._due: set[Network] | None = None  # where a difference may be; None: anywhere
        self._foreign: dict[Network, KernelRoute] = {}
        self._foreign_until_s = 0.0
        self._ground: ValidationContext | None = None
        self._ground_changed = True
        self._placeable = True
        self._look_again = False
        self._blocked: Mapping[Network, KernelRoute] = {}
        self._failures: dict[PeerChange, int] = {}
        self._looks: deque[float] = deque(maxlen=LOOKS_BURST)
        self._strikes = 0  # failures of netlink in a row

    async def run(self) -> None:
        """Reconcile for ever.

        Raises:
            KernelError: netlink has failed several times in a row; a fresh process is the cure.
        """
        waits = backoff(0.2, 2.0, self._context.rng)
        self._context.liveness.beat("routes", 2 * SCAN_S)  # the first look counts too
        while True:
            try:
                await self._look()
                await self._rounds_until_next_look()
            except KernelError as error:
                self._strikes += 1
                if self._strikes >= STRIKES:
                    raise
                self._node.told |= Change.LINKS | Change.ROUTES
                self._context.conditions.report("kernel", "kernel.failed", f"netlink has failed: {error}")
                await asyncio.sleep(next(waits))

    async def _look(self) -> None:
        """Read links and routes afresh; only the routes when the kernel has told of nothing else."""
        node = self._node
        self._looks.append(asyncio.get_running_loop().time())
        if node.kernel_dirty or self._context.clock.now_s() >= self._foreign_until_s:
            self._foreign = {}
        told = node.told if node.kernel_dirty else Change(0)
        node.kernel_dirty = False
        self._journal.looking()
        if told != Change.ROUTES:
            await self._look_at_links()
        read = await self._routes(self._context.options.route_protocol)
        await keep_blackhole(self._context, node, chain(*read))
        as_read = bool(self._read) and all(map(operator.is_, read, self._read))
        found = not as_read and self._compare(read)
        self._look_again = Change.ROUTES in told and not found

    async def _look_at_links(self) -> None:
        node, index = self._node, self._node.link.index
        self._placeable = follow_link(self._context, node, await self._context.kernel.links())
        check_bridge(self._context, node)
        if node.link.index != index:
            self._due = None
        ground = validation_context(self._context, node)
        self._ground_changed |= ground != self._ground
        self._ground = ground

    async def _routes(self, protocol: int | None = None) -> list[tuple[KernelRoute, ...]]:
        """Return the routes of the families in use, each for itself."""
        kernel, networks = self._context.kernel, self._node.networks
        return [await kernel.routes(protocol=protocol, version=network.version) for network in networks]

    def _compare(self, read: list[tuple[KernelRoute, ...]]) -> bool:
        """Take over our routes as they are now; what is not as it was believed is due. Say whether there is any."""
        believed, present = self._present, dict[Network, KernelRoute]()
        doubtful: set[Network] = set()
        for route in chain(*read):
            dst = route.dst
            known = believed.get(dst)
            if known is route or known == route:
                present[dst] = route
            elif self._concerns_us(route):
                present[dst] = route
                doubtful.add(dst)
        if len(present) < len(believed) + len(doubtful):
            doubtful |= believed.keys() - present.keys()
        different = [dst for dst in doubtful if present.get(dst) != believed.get(dst)]
        self._read, self._present = read, present
        self._now_due(different)
        self._journal.looked(different, believed, present)
        self._publish()
        return bool(different)

    def _concerns_us(self, route: KernelRoute) -> bool:
        networks = self._node.networks
        return route.metric == usual_metric(route.dst) and any(inside(route.dst, network) for network in networks)

    def _now_due(self, destinations: Collection[Network] | None) -> None:
        """Have the next round compare these as well; ``None``: all."""
        self._due = None if self._due is None or destinations is None else self._due.union(destinations)

    async def _rounds_until_next_look(self) -> None:
        """Do a round now and after each change of the peers, until it is time to look at the kernel again."""
        scan_at = self._looks[-1] + (TOLD_EARLY_S if self._look_again else SCAN_S)
        not_before = self._next_look_at()
        while True:
            self._context.liveness.beat("routes", 2 * SCAN_S)
            try:
                await self._context.counters.timed(self._context.clock.now_s, self._round())
            finally:
                self._journal.tell_losses()
            self._strikes = 0
            self._context.conditions.resolve("kernel")
            if self._failures:
                scan_at = min(scan_at, asyncio.get_running_loop().time() + RETRY_S)
            if not await self._peers_change_first(scan_at, not_before):
                return

    async def _peers_change_first(self, scan_at: float, not_before: float) -> bool:
        """Wait; say whether the peers changed before it was time to look at the kernel."""
        node, loop = self._node, asyncio.get_running_loop()
        while True:
            due = not_before if node.kernel_dirty else scan_at
            if loop.time() >= due:
                return False
            if node.peers_changed and node.complete:  # until then a round has nothing to do
                return True
            await set_within(node.routes_wake, due - loop.time())
            node.routes_wake.clear()

    def _next_look_at(self) -> float:
        """Return when the kernel may be looked at again: at once, but a storm of events is met with two looks a second.

        Every container that starts makes a handful of events, so a few looks in a row are free.
        """
        looks = self._looks
        if len(looks) < LOOKS_BURST:
            return looks[-1]
        return looks[-1] + max(0.0, min(LOOK_SPACING_S, looks[0] + LOOKS_BURST * LOOK_SPACING_S - looks[-1]))

    async def _round(self) -> None:
        """Derive what is wanted, and make it so."""
        node = self._node
        if not node.complete:
            return
        if self._ground is not None and (node.peers_changed or self._ground_changed):
            node.peers_changed = self._ground_changed = False
            before, node.view = node.view, node.peers.view(self._ground)
            self._now_due(node.view.changed)
            self._report_peers(before, node.view)
            self._context.counters.doubt(node.view.quarantined, self._context.clock.now_s())
        if not self._placeable:
            return
        await self._place(self._plan())
        if any(code == errno.EEXIST for code in self._failures.values()):
            await self._learn_foreign()
            await self._place(self._plan())
        self._report_routes()
        node.reconciled.set()

    def _plan(self) -> Plan:
        node, options = self._node, self._context.options
        assert node.view is not None  # noqa: S101 - _round has just made it
        desired = node.backend.desired_routes(_only(self._due, node.view.peers), node.link.index)
        frozen: Collection[Network] = node.view.frozen
        if node.saved_at_s is not None:  # routes of ours that are there were put by a run that knew more
            desired = {dst: route for dst, route in desired.items() if dst not in self._present}
            frozen = self._present
        present, foreign = _only(self._due, self._present), _only(self._due, self._foreign)
        return plan_routes(
            desired, chain(present.values(), foreign.values()),
            protocol=options.route_protocol, networks=node.networks, frozen=frozen,
        )

    async def _place(self, todo: Plan) -> None:
        """Put first, then drop what may go."""
        changes: list[PeerChange] = [*todo.puts, *self._allowed(todo.drops)]
        self._blocked, self._due = todo.blocked, None  # should the kernel fail now, everything is in doubt
        refused = await self._context.kernel.apply(changes) if changes else {}
        self._failures = {change: refused[change] for change in changes if change in refused} if refused else {}
        done = [change for change in changes if change not in refused] if refused else changes
        self._due = todo.destinations.difference(change.route.dst for change in done)
        if done:
            self._read = []
            apply_changes(done, self._present, self._context.options.route_protocol)
        adopted = self._foreign.keys() & {change.route.dst for change in done} if self._foreign else set()
        for dst in adopted:
            del self._foreign[dst]
        self._publish()
        self._journal.done(done, adopted, {*todo.blocked, *(change.route.dst for change in self._failures)})

    def _publish(self) -> None:
        """Tell the others how far the routes have come."""
        self._node.present = len(self._present)
        self._node.placed = Placed(self._present, self._blocked, self._failures)

    def _allowed(self, drops: Sequence[Drop]) -> list[Drop]:
        """Return the drops that the guard and the state of our own lease allow."""
        node, now_s = self._node, self._context.clock.now_s()
        if now_s > node.lease.confirmed_until_s:
            return []
        idle = frozenset(drop.route.dst for drop in drops)
        allowed = node.guard.allow(idle, len(self._present), now_s)
        held = len(node.guard.held)
        if held:
            text = f"{held} routes are kept although etcd has lost their leases; waiting for it to say so again"
            self._context.conditions.report("guard", "guard.holding", text, routes=held)
            node.list_within(LIST_SPACING_S)
        else:
            self._context.conditions.resolve("guard")
        return [drop for drop in drops if drop.route.dst in allowed]

    async def _learn_foreign(self) -> None:
        """Find out who stands where a creation was refused."""
        refused = {change.route.dst for change, code in self._failures.items() if code == errno.EEXIST}
        protocol = self._context.options.route_protocol
        for route in chain(*await self._routes()):
            if route.metric == usual_metric(route.dst) and route.protocol != protocol and route.dst in refused:
                self._foreign.setdefault(route.dst, route)  # of several, a replacement would hit the first
        self._foreign_until_s = self._context.clock.now_s() + FOREIGN_RECHECK_S

    def _report_peers(self, before: View | None, now: View) -> None:
        """Say which keys are not believed, or are another backend's, since when they are not."""
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
        if self._blocked:
            dst = first_of(self._blocked)
            route = self._blocked[dst]
            text = f"a foreign route stands where ours should, and is left alone: {_first(dst, self._blocked)}"
            conditions.report(
                "foreign", "route.conflict", text, blocks=False,
                gateway=str(route.gateway), protocol=route.protocol, destinations=sorted(map(str, self._blocked))[:10],
            )
        else:
            conditions.resolve("foreign")
        if self._failures:
            change, code = next(iter(self._failures.items()))
            why = errno.errorcode.get(code, str(code))
            text = f"the kernel refuses routes: {_first(change.route.dst, self._failures)}: {why}"
            conditions.report("routes", "route.failed", text)
        else:
            conditions.resolve("routes")


def _only(due: Collection[Network] | None, all_: Mapping[Network, T]) -> Mapping[Network, T]:
    return all_ if due is None else {dst: all_[dst] for dst in due if dst in all_}


def _first(dst: Network, subnet_range: Collection[object]) -> str:
    """Return *dst* and how many more there are."""
    return f"{dst} and {len(subnet_range) - 1} more" if len(subnet_range) > 1 else str(dst)
