"""Make the kernel's routes what the peers' leases say, and keep them so.

Level-triggered: a wake-up says only "look again". A *look* reads links and routes afresh; it comes from kernel events
and from a timer, because the kernel is silent about routes that go with a link. A *round* derives the whole desired
state, compares it with what the kernel is known to have, and applies the difference; it comes after each look and
whenever the peers have changed.
"""

import asyncio
import errno
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from pyflanneld.core.backoff import backoff
from pyflanneld.core.families import Network, in_order, inside
from pyflanneld.core.ground import Ground
from pyflanneld.core.guard import LIST_SPACING_S
from pyflanneld.core.peers import View
from pyflanneld.core.routes import Drop, KernelRoute, PeerChange, Plan, outcome, plan, usual_metric
from pyflanneld.errors import KernelError
from pyflanneld.loops.blackhole import keep_blackhole
from pyflanneld.loops.changes import RouteJournal
from pyflanneld.loops.docker import check_bridge
from pyflanneld.loops.link import follow_link, ground_of
from pyflanneld.loops.node import Context, Node, Placed
from pyflanneld.loops.waiting import set_within

SCAN_S = 10.0
RETRY_S = 1.0
LOOKS_BURST = 8
LOOK_SPACING_S = 0.5
FOREIGN_RECHECK_S = 60.0
STRIKES = 3


class Reconciler:
    """The task that owns the routes."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node
        self._journal = RouteJournal(context, node)
        self._present: dict[Network, KernelRoute] = {}
        self._foreign: dict[Network, KernelRoute] = {}
        self._foreign_until_s = 0.0
        self._ground: Ground | None = None
        self._placeable = True
        self._blocked: Mapping[Network, KernelRoute] = {}
        self._failures: dict[PeerChange, int] = {}
        self._looks: deque[float] = deque(maxlen=LOOKS_BURST)

    async def run(self) -> None:
        """Reconcile for ever.

        Raises:
            KernelError: netlink has failed several times in a row; a fresh process is the cure.
        """
        strikes = 0
        waits = backoff(0.2, 2.0, self._context.rng)
        while True:
            try:
                await self._look()
                await self._rounds_until_next_look()
            except KernelError as error:
                strikes += 1
                if strikes >= STRIKES:
                    raise
                self._context.problems.report("kernel", "kernel.failed", f"netlink has failed: {error}")
                await asyncio.sleep(next(waits))
            else:
                strikes = 0
                self._context.problems.resolve("kernel")

    async def _look(self) -> None:
        """Read links and routes afresh."""
        node = self._node
        self._looks.append(asyncio.get_running_loop().time())
        if node.kernel_dirty or self._context.clock.now_s() >= self._foreign_until_s:
            self._foreign = {}
        node.kernel_dirty = False
        self._journal.looking()
        self._placeable = follow_link(self._context, node, await self._context.kernel.links())
        check_bridge(self._context, node)
        routes = await self._routes(self._context.options.route_protocol)
        await keep_blackhole(self._context, node, routes)
        believed = self._present
        self._present = {
            route.dst: route
            for route in routes
            if route.metric == usual_metric(route.dst) and any(inside(route.dst, network) for network in node.networks)
        }
        self._journal.looked(believed, self._present)
        self._publish()

    async def _routes(self, protocol: int | None = None) -> list[KernelRoute]:
        """Return the routes of the families in use."""
        found: list[KernelRoute] = []
        for network in self._node.networks:
            found += await self._context.kernel.routes(protocol=protocol, version=network.version)
        return found

    async def _rounds_until_next_look(self) -> None:
        """Do a round now and after each change of the peers, until it is time to look at the kernel again."""
        scan_at, not_before = self._looks[-1] + SCAN_S, self._next_look_at()
        while True:
            self._context.heart.beat("routes", 2 * SCAN_S)
            await self._context.tally.timed(self._context.clock.now_s, self._round())
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
            if node.peers_changed:
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
        ground = ground_of(self._context, node)
        if node.peers_changed or ground != self._ground or node.view is None:
            node.peers_changed, self._ground = False, ground
            before, node.view = node.view, node.peers.view(ground)
            self._report_peers(before, node.view)
            self._context.tally.doubt(node.view.quarantined, self._context.clock.now_s())
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
        return plan(
            node.backend.desired_routes(node.view.peers, node.link.index),
            [*self._present.values(), *self._foreign.values()],
            protocol=options.route_protocol, networks=node.networks, frozen=node.view.frozen,
        )

    async def _place(self, todo: Plan) -> None:
        """Put first, then drop what may go."""
        changes: list[PeerChange] = [*todo.puts, *self._allowed(todo.drops)]
        self._blocked = todo.blocked
        refused = await self._context.kernel.apply(changes) if changes else {}
        self._failures = {change: refused[change] for change in changes if change in refused}
        done = [change for change in changes if change not in self._failures]
        self._present = outcome(self._present, done, self._context.options.route_protocol)
        adopted = {change.route.dst for change in done if self._foreign.pop(change.route.dst, None)}
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
            self._context.problems.report("guard", "guard.holding", text, routes=held)
            node.list_within(LIST_SPACING_S)
        else:
            self._context.problems.resolve("guard")
        return [drop for drop in drops if drop.route.dst in allowed]

    async def _learn_foreign(self) -> None:
        """Find out who stands where a creation was refused."""
        refused = {change.route.dst for change, code in self._failures.items() if code == errno.EEXIST}
        protocol = self._context.options.route_protocol
        for route in await self._routes():
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
        problems = self._context.problems
        if self._blocked:
            dst = in_order(self._blocked)[0]
            route = self._blocked[dst]
            text = f"a foreign route stands where ours should, and is left alone: {_first(dst, self._blocked)}"
            problems.report(
                "foreign", "route.conflict", text, blocks=False,
                gateway=str(route.gateway), protocol=route.protocol, destinations=sorted(map(str, self._blocked))[:10],
            )
        else:
            problems.resolve("foreign")
        if self._failures:
            change, code = next(iter(self._failures.items()))
            why = errno.errorcode.get(code, str(code))
            text = f"the kernel refuses routes: {_first(change.route.dst, self._failures)}: {why}"
            problems.report("routes", "route.failed", text)
        else:
            problems.resolve("routes")


def _first(dst: Network, among: Collection[object]) -> str:
    """Return *dst* and how many more there are."""
    return f"{dst} and {len(among) - 1} more" if len(among) > 1 else str(dst)
