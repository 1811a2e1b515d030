"""A world of a few hosts and one etcd, driven by a seed: what happens, and what must hold all the while.

Theory of operation. A seed chooses how many hosts there are, which kinds of trouble (about half of all), and when.
After each step the safety invariants are checked (``spec``), at each write and each route at the moment it is made.
Then all trouble ends, and within two complete lists everything must be as it should; and a restart must change nothing.

Times are scaled: a lease lives for a minute instead of a day, so that hosts can be away for longer than that, and in
most worlds complete lists come more often than every five minutes. Hosts take turns at listing as if there were many in
some. Small and short worlds are many, large and long ones are few.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from unittest import mock

from pyflanneld.errors import LeaseLost
from pyflanneld.tasks import host as watchers
from pyflanneld.tasks import peers
from pyflanneld.tasks.lease import acquire, duplicate_holder, renew
from tests.sim import spec, tunnels
from tests.sim.companion import Companion
from tests.sim.etcd import OtherEtcd, SimEtcd, Way
from tests.sim.kernel import LAN_LINK
from tests.sim.node import TTL_S, VIP, SimNode, _leaves, as_key
from tests.sim.setups import setup_of
from tests.sim.troubles import SHORT_S, TROUBLES, other_peer
from tests.sim.vxlan_troubles import VXLAN_TROUBLES, break_device, break_entries, is_rival
from tests.support.fakes.kernel import PROTO_STATIC
from tests.support.fakes.node import lan
from tests.support.fakes.virtual_time import run

HOSTS = (2, 2, 2, 3, 3, 3, 4, 4, 5, 7)
STEPS = (10, 20, 20, 30, 40, 60)
RELIST_S = (20.0, 60.0, 120.0, 300.0)
ROUND_S = (0.0, 0.0, 5.0, 30.0)
SETTLED_S = 2 * TTL_S + 10.0  # whatever was on its way has arrived: late writes, and leases that run out
STAND_BACK_S = 70.0
LOOK_S = 25.0
TICK_S = 5.0
MENDED_S = 11.0
COMPANY = 0.25
"""In how many worlds a host has a second daemon, for another network."""
FAILED_S = 20.0
FOLLOWED_S = 8.0
"""While lists fail: until the first has failed, and until a change was followed."""


@dataclass
class Outcome:
    """What a seed came to.

    Attributes:
        violation: what did not hold, ``None`` if all did.
        timeline: what happened, one line each.
        troubles: the kinds of trouble that there were.
        counts: how often each of them was made, and what the daemons did about it.
        virtual_s: how long it lasted for those who live in it.
    """

    seed: int
    violation: str | None
    timeline: list[str]
    troubles: frozenset[str] = frozenset()
    counts: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0

    @property
    def trace(self) -> str:
        """The whole story as one text; two runs of one seed give the same."""
        return "\n".join([*self.timeline, self.violation or "all holds"])


def play(seed: int) -> Outcome:
    """Run the world of one seed from beginning to end."""
    world, violation = World(seed), None
    with _scaled(world):
        try:
            run(world.story())
        except (AssertionError, RuntimeError) as error:
            violation = f"{type(error).__name__}: {error}"
    return Outcome(
        seed, violation, world.timeline, frozenset(world.troubles), world.troubles + world.seen(), world.lasted_s
    )


@contextmanager
def _scaled(world: "World") -> Iterator[None]:
    with (
        mock.patch.object(acquire, "TTL_S", TTL_S),
        mock.patch.object(renew, "TTL_S", TTL_S),
        mock.patch.object(duplicate_holder, "STAND_BACK_S", STAND_BACK_S),
        mock.patch.object(watchers, "TICK_S", TICK_S),
        mock.patch.object(peers, "RELIST_S", world.relist_s),
        mock.patch.object(peers, "list_round_s", return_value=world.round_s),
    ):
        yield


class World:
    """The hosts, the cluster, and the trouble.

    Attributes:
        setup: the network's configuration.
        steps: how often something happens.
        relist_s: how often a host reads a complete list.
        round_s: how long it takes until each host has had its turn at listing after a break.
        thorough: whether peace lasts as long as it may, and not only until all is well.
        tampered_until_s: so long two may believe to hold one lease, for somebody has taken it away from its holder.
        troubles: how often each kind of trouble was made.
        lasted_s: how long the world has lasted.
    """

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.setup = setup_of(seed)
        self.steps = self.rng.choice(STEPS)
        self.relist_s = self.rng.choice(RELIST_S)
        self.round_s = self.rng.choice(ROUND_S)
        self.thorough = self.rng.random() < 0.125
        self.timeline: list[str] = []
        self.history = spec.History()
        self.tampered_until_s = 0.0
        self.nodes: list[SimNode] = []
        self.companions: list[Companion] = []
        self.troubles: Counter[str] = Counter()
        self.lasted_s = 0.0
        self._violations: list[BaseException] = []

    def say(self, text: str) -> None:
        """Take note of what happened."""
        self.timeline.append(f"{asyncio.get_running_loop().time() - 1000:9.3f} {text}")

    def seen(self) -> Counter[str]:
        """Return what the daemons have gone through."""
        return sum((node.seen() for node in self.nodes), Counter[str]())

    async def story(self) -> None:
        """Trouble, then peace, then a restart. Raises ``Violation``, or whatever else went wrong."""
        asyncio.get_running_loop().set_exception_handler(self._unhandled)
        self.etcd = SimEtcd(self._remember, self._check_ending)
        self.etcd.put_config(self.setup.config)
        self.other, self.strays = OtherEtcd(self.setup.config), dict[str, OtherEtcd]()
        self.backup = self.etcd.backup()
        for number in range(1, self.rng.choice(HOSTS) + 1):
            rng = Random(self.rng.random())
            self.nodes.append(SimNode(self.etcd, number, rng, self.history, self.say, self.setup))
            if self.rng.random() < 0.1:
                self.nodes[-1].disk_file.disk.full = True
            if self.rng.random() < 0.7:
                self.nodes[-1].start()
        for _ in range(self.rng.choice((0, 0, 3, 6))):
            other_peer(self)
        if self.rng.random() < COMPANY:
            node = self.nodes[0]
            self.companions.append(Companion(1, node.fib, node.firewall))
        clock = asyncio.create_task(self._expire_leases(), name="clock")
        clock.add_done_callback(self._clock_ends)
        try:
            await self._trouble()
            await self._peace()
            await self._follow_beside_lists()
            await self._mend_devices()
            await self._restart()
        finally:
            for companion in self.companions:
                await companion.stop()
            for node in self.nodes:
                node.thaw()
                await node.stop()
            clock.cancel()
            self.lasted_s = asyncio.get_running_loop().time() - 1000

    def _unhandled(self, _loop: object, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, spec.Violation):
            self._violations.append(error)

    def _clock_ends(self, clock: "asyncio.Task[None]") -> None:
        if not clock.cancelled() and (error := clock.exception()) is not None:
            self._violations.append(error)

    async def _expire_leases(self) -> None:
        while True:
            await asyncio.sleep(self.etcd.until_next_end_s(at_most_s=SHORT_S / 2))
            self.etcd.expire()

    def _remember(self) -> None:
        keys = tuple(map(as_key, self.etcd.records()))
        self.history.add(asyncio.get_running_loop().time(), keys)

    def _check_ending(self, lease_id: int) -> None:
        """I1: when a lease runs out, its holder has stopped to believe in it."""
        for node in self.nodes:
            if node.believes_in(lease_id):
                raise spec.Violation(f"I1: {node.name} still believes in its lease when it runs out")

    def tamper(self) -> None:
        """Take note that somebody takes leases away; a host may believe in its own until it would have to renew it."""
        for_ever = any(node.reserved for node in self.nodes)
        self.tampered_until_s = math.inf if for_ever else asyncio.get_running_loop().time() + TTL_S

    def some(self) -> SimNode:
        """Return one of the hosts."""
        return self.rng.choice(self.nodes)

    def check(self) -> None:
        """Check what must hold at every moment."""
        if self._violations:
            raise self._violations[0]
        for companion in self.companions:
            companion.start_unless_running()
        for node in self.nodes:
            node.check()
        if asyncio.get_running_loop().time() > self.tampered_until_s:
            owners = {node.name: node.lease for node in self.nodes if node.confirmed and node.lease is not None}
            spec.check_disjoint(owners)

    async def _trouble(self) -> None:
        possible = (*TROUBLES, *VXLAN_TROUBLES) if self.setup.tunnels else TROUBLES
        kinds = [kind for kind in possible if self.rng.random() < 0.5] or [TROUBLES[0]]
        for _ in range(self.steps):
            kind = self.rng.choice(kinds)
            self.troubles[kind.__name__] += 1
            kind(self)
            for _ in range(self.rng.choice((1, 1, 2, 4))):
                await asyncio.sleep(self.rng.choice((0.0, 0.05, 0.5, 2.0, 7.0, 20.0)))
                self.check()

    async def _peace(self) -> None:
        """End all trouble; then everything has to come right."""
        self.say("peace")
        self.strays = {}
        for node in self.nodes:
            self._heal(node)
        await asyncio.sleep(1.0)  # who is just about to fail does so
        self._tidy_up()
        for node in self.nodes:
            if not node.running:
                node.start()
        await self._settle(2 * (1.2 * self.relist_s + self.round_s) + 80 + SETTLED_S)

    async def _follow_beside_lists(self) -> None:
        """I5: while lists fail or take long, and nothing else does, each change of the peers is followed."""
        way = self.rng.choice((Way(fails_list=1.0), Way(list_s=2 * FAILED_S)))
        self.say(f"lists are read by {way}")
        for node in self.nodes:
            node.sim.set_way(way)
        self.etcd.cut_watches()
        await asyncio.sleep(self.round_s + FAILED_S)
        name, lease_id = b"192.168.%d.0-24" % self.rng.randint(41, 60), self.etcd.grant(TTL_S * 100)
        for host in self.rng.sample(range(200, 240), 2):
            self.say(f"another daemon leases {name!r} at .{host}")
            self.etcd.put(name, self.setup.value(f"192.168.14.{host}"), lease_id=lease_id)
            await asyncio.sleep(FOLLOWED_S)
            self._check_converged()
        for node in self.nodes:
            node.sim.set_way(Way())
        await self._settle(2 * self.relist_s)

    async def _mend_devices(self) -> None:
        """I14: what somebody does to a device and its entries is right again after the next look at the kernel."""
        if not self.setup.tunnels:
            return
        for node in self.nodes:
            macs = node.published_mac, node.device_mac
            break_device(self, node) if self.rng.random() < 0.6 else break_entries(self, node)
            await asyncio.sleep(MENDED_S)
            self._check_converged()
            if macs != (node.published_mac, node.device_mac):
                raise spec.Violation(f"identity: {node.name} had the MAC addresses {macs}")

    def _tidy_up(self) -> None:
        """Delete what is no lease, and what is reserved for a host that holds another one."""
        for record in self.etcd.records():
            subnet, said = spec.read_name(record.name), spec.read_value(record.value)
            others = any(node.running and node.owns(said) and node.lease != subnet for node in self.nodes)
            no_lease = subnet is None or said is None or said.backend != self.setup.backend or self._is_rogue(said)
            if no_lease or (record.lease_id == 0 and others):
                self.etcd.delete(record.name)

    def _is_rogue(self, said: spec.Said) -> bool:
        """Return whether a lease says no MAC address, or that of a host whose it is not."""
        macs = {node.published_mac for node in self.nodes if not node.owns(said)}
        return self.setup.tunnels and said.mac in macs | {""}

    async def _settle(self, within_s: float) -> None:
        """Let all come right within that time, and see that it stays so for a while; in some worlds to its end."""
        began, right = asyncio.get_running_loop().time(), 0
        while (passed_s := asyncio.get_running_loop().time() - began) < within_s:
            await asyncio.sleep(LOOK_S)
            self.check()
            self._start_again()
            right = right + 1 if self._trouble_left() is None else 0
            if not self.thorough and passed_s >= SETTLED_S and right >= SETTLED_S / LOOK_S:
                return
        if (left := self._trouble_left()) is not None:
            raise left

    def _start_again(self) -> None:
        """Do what a service manager does."""
        for node in self.nodes:
            if not node.running:
                self._expect_reason(node)
                node.start()

    def _trouble_left(self) -> spec.Violation | None:
        try:
            self._check_converged()
        except spec.Violation as left:
            return left
        return None

    def _heal(self, node: SimNode) -> None:
        node.thaw()
        node.sim.set_way(Way())
        node.meet_strays({})
        node.disk_file.disk.full, node.disk_file.disk.dies_at = False, None
        node.kernel.fail_calls(0)
        node.kernel.no_more_refusals()
        node.firewall.broken, node.flushed_until_s = None, 0.0
        for rival in [link.name for link in node.fib.table_of_links() if is_rival(link)]:
            node.kernel.remove_link(rival)
        link = node.fib.lan_link() if node.fib.has_link(LAN_LINK) else None
        if node.returning is not None:
            node.returning.cancel()
            node.returning = None
        wide = link is not None and all(own.network.prefixlen == spec.LAN[1] for own in link.addresses)
        own = [one.ip for one in link.addresses if int(one.ip) & 255 != node.host + VIP] if link else []
        if link is None or not (link.up and len(own) == len(link.addresses) == 1 and wide):
            node.kernel.set_link(lan(node.host, index=link.index if link else 9))
        for route in node.kernel.table():
            if route.protocol == PROTO_STATIC:
                node.kernel.delete(route)

    @staticmethod
    def _expect_reason(node: SimNode) -> None:
        for leaf in _leaves(node.ended) if node.ended is not None else []:
            if not isinstance(leaf, LeaseLost):
                raise spec.Violation(f"I20: {node.name} has ended in peace: {leaf!r}")

    def _check_converged(self) -> None:
        """I4, I5, I14: after peace, everybody is ready, holds a subnet of its own, and has exactly the right routes."""
        keys = self.history.now
        for node in self.nodes:
            if not node.ready and not _accepts_none(node, keys):
                raise spec.Violation(f"liveness: {node.name} is not ready: {node.why_not}")
            if self.setup.tunnels:
                tunnels.check_converged(node, keys)
            _check_routes(node, keys)
            if node.sure_for_s() < TTL_S / 2:
                raise spec.Violation(f"renewal: {node.name} could not outlast an outage of half its lease's life")
            held = [key for key in keys if spec.read_name(key.name) == node.lease]
            if len(held) != 1 or (spec.read_value(held[0].value) or (0,))[0] != node.as_host().address:
                raise spec.Violation(f"I4: the lease of {node.name} is not in etcd as it should be: {held}")
            if not node.has_rules:
                raise spec.Violation(f"liveness: {node.name} has no masquerading")
            if not self._lasts(node):
                raise spec.Violation(f"I4: the lease of {node.name} ends when somebody else likes")
        spec.check_disjoint({node.name: node.lease for node in self.nodes if node.lease is not None})
        for companion in self.companions:
            companion.check_converged()

    def _lasts(self, node: SimNode) -> bool:
        """Return whether a host's key has no TTL, or the full one."""
        [record] = [one for one in self.etcd.records() if spec.read_name(one.name) == node.lease]
        lease = self.etcd.state.leases.get(record.lease_id)
        return not record.lease_id or (lease is not None and lease.ttl_s >= TTL_S)

    async def _restart(self) -> None:
        """I11: a restart writes nothing and changes no route."""
        self.say("restart")
        revision = self.etcd.state.revision
        applied = [len(node.kernel.applied) for node in self.nodes]
        leases = [node.lease for node in self.nodes]
        for node in self.nodes:
            await node.stop()
            node.start()
        await asyncio.sleep(30)
        self.check()
        if [node.lease for node in self.nodes] != leases:
            raise spec.Violation("I4: a restart has moved a host to another subnet")
        if self.etcd.state.revision != revision or [len(node.kernel.applied) for node in self.nodes] != applied:
            raise spec.Violation("I11: a restart has written into etcd or changed a route")


def _accepts_none(node: SimNode, keys: Sequence[spec.Key]) -> bool:
    """Return whether a host rightly says that it can accept none of several peers."""
    if node.lease is None:
        return False
    host = node.as_host()
    others = [key for key in keys if spec.read_name(key.name) != host.own]
    return len(others) > 1 and not spec.accepted(keys, host)


def _check_routes(node: SimNode, keys: Sequence[spec.Key]) -> None:
    """I5: there are exactly the right routes, each of them once."""
    host = node.as_host()
    expected = spec.wanted(keys, host)
    stay = host.connected  # frozen: whatever there is of these
    routes = {dst: via for dst, via in node.routes().items() if dst not in stay}
    times = Counter(spec.network(dst) for dst in node.destinations())
    if twice := [dst for dst, count in times.items() if count > 1 and dst not in stay]:
        raise spec.Violation(f"I5: {node.name} has several routes of ours for {twice[0]}")
    if routes != expected:
        raise spec.Violation(f"I5: {node.name} has [{_shown(routes)}] and not [{_shown(expected)}]")


def _shown(routes: dict[spec.Net, int]) -> str:
    def dotted(number: int) -> str:
        return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))

    return ", ".join(f"{dotted(first)}/{length} via {dotted(gw)}" for (first, length), gw in sorted(routes.items()))
