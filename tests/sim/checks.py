"""Checks what one daemon does to its routes, at the moment at which it asks for it and at the moment it is done."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyflanneld.core.families import Network
from pyflanneld.core.neighbours import Entry
from pyflanneld.core.objects.plan import Append, Create, Drop, KernelChange, Replace
from pyflanneld.core.routes import BOOT, KernelRoute, Route
from pyflanneld.core.vxlan.forwardings import Forwarding
from tests.sim import spec
from tests.sim.delivered import Delivered, Verdict
from tests.sim.tunnels import DeviceRule, EntryRule, fits

if TYPE_CHECKING:
    from tests.sim.node import SimNode

FEW, WINDOW_S = 3, 5.0
MANY, MANY_S = 24, 20.0
EEXIST = 17


class GuardRule:
    """The withdrawal guard, said naively: most routes go only when two lists some time apart lack them.

    And none goes on the word of an older history alone.
    """

    def __init__(self) -> None:
        self._unproved: deque[tuple[float, spec.Net]] = deque()  # dropped lately, and no two lists had lacked it

    def check(
        self, drops: Collection[spec.Net], host: spec.Host, delivered: Delivered, *, believed: int, now_s: float
    ) -> None:
        """Check *drops*, all of one moment, of somebody who knows of *believed* routes of its own."""
        while self._unproved and self._unproved[0][0] < now_s - WINDOW_S:
            self._unproved.popleft()
        fresh = [subnet for subnet in drops if not delivered.proved_twice(subnet, host)]
        gone = {subnet for _, subnet in self._unproved} - set(drops)
        going, before = len(fresh) + len(gone), believed + len(gone)
        if fresh and going > FEW and going * 2 > before:
            raise spec.Violation(f"guard: {going} of {before} routes are dropped on the word of one list")
        if any(delivered.only_an_older_history_lacks(subnet, host) for subnet in fresh):
            raise spec.Violation("guard: routes are dropped on the word of an older history")
        self._unproved.extend((now_s, subnet) for subnet in fresh)


class KernelChecker:
    """``kernel.Checker`` for one node."""

    def __init__(self, node: "SimNode", protocol: int) -> None:
        self._node = node
        self._protocol = protocol
        self._before = Verdict({}, set())
        self._guard = GuardRule()
        self.devices, self._entries = DeviceRule(node), EntryRule(node)
        self._put_s: dict[Network, deque[float]] = {}  # when each destination was put lately, by this one:
        self._patient: object = None
        self._waited = False

    def begin(self) -> None:
        """A daemon starts: what the one before it has dropped and put lately is not known to it."""
        self._guard = GuardRule()
        self.devices.begin()
        self._put_s.clear()

    def waits(self) -> None:
        """Take what it knows now for what it acts on after the wait, whatever is told meanwhile."""
        if not (self._waited or self._node.stands_in):
            self._waited, self._before = True, self._node.sim.delivered.verdict(self._node.as_host())

    def asked_of_devices(self, changes: Sequence[KernelChange]) -> None:
        """I6: what is not the own device is left alone."""
        self.devices.check(changes)

    def asked(self, changes: Sequence[KernelChange], *, again: bool) -> None:
        """I9: what is put was told, and what is dropped was not; and most routes go only when two lists lack them."""
        if self._node.stands_in:
            self._check_stand_in(changes)
            return
        self._waited = False
        host, delivered = self._node.as_host(), self._node.sim.delivered
        verdict = delivered.verdict(host)
        allowed = [verdict, self._before] if again else [verdict]
        self._before = verdict
        self._entries.asked(changes, allowed, drops_proved=self._node.proved)
        routes = [change for change in changes if isinstance(change.object, Route | KernelRoute)]
        self._check_network(routes)
        drops: set[spec.Net] = set()
        for change in routes:
            subnet = spec.network(str(change.object.dst))
            if isinstance(change, Drop) and self._is_extra(change.object, routes):
                continue
            if isinstance(change, Drop):
                drops.add(subnet)
                if all(subnet in one.keep for one in allowed):
                    raise spec.Violation(f"I9: {self._node.name} drops {change.object} without proof")
            elif isinstance(change, Create | Replace | Append):
                gateway = spec.address(str(change.object.gateway))
                if not any(gateway in one.next_hops(subnet, host) for one in allowed):
                    raise spec.Violation(f"I9: {self._node.name} puts {change.object}, which it was never told")
        if drops and not self._node.proved:
            raise spec.Violation(f"I9: {self._node.name} drops routes while nothing proves its own lease")
        self._check_held()
        if drops:
            self._guard.check(drops, host, delivered, believed=self._node.believed(), now_s=self._node.clock.now_s())

    def _check_held(self) -> None:
        """The guard is for peers that have gone: it keeps nothing that those had before who stay."""
        if self._node.proved and (held := self._node.held_back):
            raise spec.Violation(f"guard: {self._node.name} holds back what {held} had, which stay")

    def _check_network(self, changes: Sequence[KernelChange]) -> None:
        """I6: routes of another network on this host are another daemon's."""
        for change in changes:
            if not spec.contains(spec.CLUSTER, spec.network(str(change.object.dst))):
                raise spec.Violation(f"I6: {self._node.name} asks for {change}, which is another network's")

    def _is_extra(self, route: KernelRoute, changes: Sequence[KernelChange]) -> bool:
        """Return whether another route of ours is there, or is put just now, for the destination of *route*."""
        here = [one for one in self._node.kernel.table() if one.dst == route.dst and one.protocol == self._protocol]
        put = any(not isinstance(one, Drop) and one.object.dst == route.dst for one in changes)
        gone = [one.object for one in changes if isinstance(one, Drop)]
        return put or any(one.metric == 0 and one.tos == 0 and one not in gone for one in here)

    def _check_stand_in(self, changes: Sequence[KernelChange]) -> None:
        """I9: what is only saved adds what is missing, takes nothing away, and was told once."""
        for change in changes:
            adds = isinstance(change, Create) or (isinstance(change, Replace) and self._is_learned(change.object))
            if not (adds and self._was_told(change.object)):
                raise spec.Violation(f"I9: {self._node.name} asks for {change} by what it has saved")

    def _is_learned(self, one: Any) -> bool:
        """Return whether there is no entry that somebody has put in the place of this one."""
        fib, index = self._node.fib, getattr(one, "link_index", 0)
        there = [neighbour.address for neighbour in fib.neighbours_of(index) if neighbour.state == "permanent"]
        match one:
            case Entry():
                return one.address not in there
            case Forwarding():
                return one.mac not in fib.forwardings_of(index)
        return False

    def _was_told(self, one: Any) -> bool:
        subnet, host = spec.network(str(one.subnet)), self._node.as_host()
        named = (host.understood(said) for there, said in self._node.told_before if there == subnet)
        told = [said for said in named if said is not None and said.backend == host.backend]
        if isinstance(one, Route):
            return spec.address(str(one.gateway)) in {host.next_hop(subnet, said) for said in told}
        return any(fits(one, subnet, said) for said in told)

    def made_entry(self, change: KernelChange, *, whole: bool) -> None:
        """I8: see there."""
        self._entries.made(change, whole=whole)

    def made(self, change: KernelChange, there: KernelRoute | None, dropped: Sequence[Network]) -> None:
        """I6, I7, I8: what is put is sound, and in nobody's way, and never too late."""
        node = self._node
        match change:
            case Create(route) | Replace(route) | Append(route):
                node.say(f"puts {route.dst} via {route.gateway}")
                self._check_patience(route.dst)
                subnet = spec.network(str(route.dst))
                spec.check_put(subnet, spec.address(str(route.gateway)), node.as_host())
                self._entries.route_put(route)
                over = there if isinstance(change, Replace) else None
                if over is not None and over.protocol != self._protocol and not _is_go_leftover(over, route):
                    raise spec.Violation(f"I6: {node.name} put {route} over {over}")
                if any(spec.overlap(subnet, spec.network(str(gone))) for gone in dropped):
                    raise spec.Violation(f"I8: {node.name} put {route} after a drop had left its place empty")
            case Drop(held):
                node.say(f"drops {held.dst} via {held.gateway}")
                if held.protocol != self._protocol:
                    raise spec.Violation(f"I6: {node.name} dropped {held}")

    def _check_patience(self, dst: Network) -> None:
        """I10: nobody is fought: a route that is taken again and again is not put again without a pause."""
        now_s, node = self._node.clock.now_s(), self._node.daemon._node if self._node.daemon is not None else None
        if node is not self._patient:  # what was saved has been confirmed: another task does the routes
            self._patient = node
            self._put_s.clear()
        lately = self._put_s.setdefault(dst, deque(maxlen=MANY + 1))
        lately.append(now_s)
        if len(lately) > MANY and now_s - lately[0] < MANY_S:
            within_s = now_s - lately[0]
            raise spec.Violation(f"I10: {self._node.name} has put {dst} {len(lately)} times in {within_s:.1f} s")

    def refused(self, refusals: Mapping[KernelChange, int]) -> None:
        """What the kernel refuses is not believed to be there, and stands against readiness."""
        node = self._node
        if not node.running or node.daemon is None or node.daemon._node is None or node.stands_in:
            return
        table, wanted = node.daemon._node.routes, node.sim.delivered.verdict(node.as_host()).sure
        for change, code in refusals.items():
            one = change.object
            created = isinstance(change, Create) and isinstance(one, Route)
            if created and table.has(one.dst) and not self._stands(one.dst):
                raise spec.Violation(f"I5: {node.name} believes in {one}, which was refused")
            served = getattr(one, "subnet", None) or getattr(one, "dst", None)
            if served is None or spec.network(str(served)) not in wanted:  # by now
                continue
            if code != EEXIST and EEXIST not in refusals.values() and node.ready:
                raise spec.Violation(f"readiness: {node.name} is ready although {change.object} was refused: {code}")

    def _stands(self, dst: Network) -> bool:
        """Return whether a route of ours is there by now, be it behind somebody else's."""
        return any(one.dst == dst and one.protocol == self._protocol for one in self._node.kernel.table())


def _is_go_leftover(there: KernelRoute, route: object) -> bool:
    return there.protocol == BOOT and (there.dst, there.gateway, there.link_index) == (
        route.dst, route.gateway, route.link_index  # type: ignore[attr-defined]
    )
