"""A world of a few hosts and one etcd, driven by a seed: what happens, and what must hold all the while.

Theory of operation. A seed chooses how many hosts there are, which kinds of trouble (about half of all), and when.
After each step the safety invariants are checked (``spec``), at each write and each route at the moment it is made.
Then all trouble ends, and within two complete lists everything must be as it should; and a restart must change nothing.

Times are scaled: a lease lives for a minute instead of a day, so that hosts can be away for longer than that, and in
most worlds complete lists come more often than every five minutes. Hosts take turns at listing as if there were many in
some. Small and short worlds are many, large and long ones are few.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from random import Random
from unittest import mock

from pyflanneld.core.routes import KernelRoute
from pyflanneld.errors import LeaseLost
from pyflanneld.loops import acquire, follow, hold
from tests.fakes.kernel import PROTO_STATIC
from tests.fakes.node import CONFIG, PROTOCOL, lan, value
from tests.fakes.registry import SUBNETS
from tests.fakes.virtual_time import run
from tests.sim import spec
from tests.sim.etcd import SimEtcd, Way
from tests.sim.node import TTL_S, SimNode, _leaves

HOSTS = (2, 2, 2, 3, 3, 3, 4, 4, 5, 7)
STEPS = (10, 20, 20, 30, 40, 60)
RELIST_S = (20.0, 60.0, 120.0, 300.0)
ROUND_S = (0.0, 0.0, 5.0, 30.0)
SETTLED_S = 2 * TTL_S + 10.0  # whatever was on its way has arrived: late writes, and leases that run out
LOOK_S = 25.0
JUNK = (b"", b"null", b"[]", b"{", b"\xff\x00", b'{"PublicIP":"127.0.0.1","BackendType":"host-gw"}', b"x" * 70000)
STRANGE = (b"foo", b"172.7.21.0-24&fd00::-64", b"0.0.0.0-0", b"172.7.0.0-16", b"192.168.14.0-24", b"172.7.30.7-24")
WAYS = (
    Way("cut"), Way("refused"), Way(latency_s=2.0), Way(fails=0.3), Way(loses_reply=0.5, latency_s=0.2),
    Way(writes_late=0.7), Way(repeats_event=0.5, delays_event_s=1.0), Way(loses_event=0.5),
)  # fmt: skip


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
        mock.patch.object(hold, "TTL_S", TTL_S),
        mock.patch.object(follow, "RELIST_S", world.relist_s),
        mock.patch.object(follow, "list_round_s", return_value=world.round_s),
    ):
        yield


class World:
    """The hosts, the cluster, and the trouble.

    Attributes:
        steps: how often something happens.
        relist_s: how often a host reads a complete list.
        round_s: how long it takes until each host has had its turn at listing after a break.
        thorough: whether peace lasts as long as it may, and not only until all is well.
        tampered: somebody has taken a lease away from its holder, so that two may believe for a while to hold it.
        troubles: how often each kind of trouble was made.
        lasted_s: how long the world has lasted.
    """

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.steps = self.rng.choice(STEPS)
        self.relist_s = self.rng.choice(RELIST_S)
        self.round_s = self.rng.choice(ROUND_S)
        self.thorough = self.rng.random() < 0.125
        self.timeline: list[str] = []
        self.history = spec.History()
        self.tampered = False
        self.nodes: list[SimNode] = []
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
        self.etcd = SimEtcd(self._remember)
        self.etcd.put_config(CONFIG)
        self.backup = self.etcd.backup()
        for number in range(1, self.rng.choice(HOSTS) + 1):
            self.nodes.append(SimNode(self.etcd, number, Random(self.rng.random()), self.history, self.say))
            if self.rng.random() < 0.7:
                self.nodes[-1].start()
        clock = asyncio.create_task(self._expire_leases())
        try:
            await self._trouble()
            await self._peace()
            await self._restart()
        finally:
            for node in self.nodes:
                node.thaw()
                await node.stop()
            clock.cancel()
            self.lasted_s = asyncio.get_running_loop().time() - 1000

    def _unhandled(self, _loop: object, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, spec.Violation):
            self._violations.append(error)

    async def _expire_leases(self) -> None:
        while True:
            await asyncio.sleep(self.etcd.until_next_end_s(at_most_s=TTL_S / 2))
            self.etcd.expire()

    def _remember(self) -> None:
        keys = tuple(spec.Key(one.name, one.value, one.create_revision) for one in self.etcd.records())
        self.history.add(asyncio.get_running_loop().time(), keys)

    def check(self) -> None:
        """Check what must hold at every moment."""
        for node in self.nodes:
            node.check()
        if not self.tampered:
            owners = {node.name: node.lease for node in self.nodes if node.confirmed and node.lease is not None}
            spec.check_disjoint(owners)

    async def _trouble(self) -> None:
        kinds = [kind for kind in TROUBLES if self.rng.random() < 0.5] or [TROUBLES[0]]
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
        for node in self.nodes:
            self._heal(node)
        await asyncio.sleep(1.0)  # who is just about to fail does so
        for node in self.nodes:
            if not node.running:
                node.start()
        for record in self.etcd.records():
            said = spec.read_value(record.value)
            if spec.read_name(record.name) is None or said is None or said[1] != "host-gw":
                self.etcd.delete(record.name)
        await self._settle(2 * (1.2 * self.relist_s + self.round_s) + 80 + SETTLED_S)

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
        node.file.broken = None
        node.kernel.fail_calls(0)
        node.kernel.no_more_refusals()
        link = next(iter(node.fib._links.values()), None)
        if link is None or not link.up or not link.addresses:
            node.kernel.set_link(lan(node.host, index=link.index if link else 9))
        for route in node.kernel.table():
            if route.protocol == PROTO_STATIC:
                node.kernel.delete_route(route.dst, metric=route.metric)

    @staticmethod
    def _expect_reason(node: SimNode) -> None:
        for leaf in _leaves(node.ended) if node.ended is not None else []:
            if not isinstance(leaf, LeaseLost):
                raise spec.Violation(f"I20: {node.name} has ended in peace: {leaf!r}")

    def _check_converged(self) -> None:
        """I4, I5, I14: after peace, everybody is ready, holds a subnet of its own, and has exactly the right routes."""
        keys = self.history.now
        for node in self.nodes:
            if not node.ready:
                raise spec.Violation(f"liveness: {node.name} is not ready: {node.why_not}")
            expected = spec.wanted(keys, node.as_host())
            if node.routes() != expected:
                raise spec.Violation(f"I5: {node.name} has [{_shown(node.routes())}] and not [{_shown(expected)}]")
            held = [key for key in keys if spec.read_name(key.name) == node.lease]
            if len(held) != 1 or (spec.read_value(held[0].value) or (0, ""))[0] != node.as_host().address:
                raise spec.Violation(f"I4: the lease of {node.name} is not in etcd as it should be: {held}")
        spec.check_disjoint({node.name: node.lease for node in self.nodes if node.lease is not None})

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

    # Trouble

    def _some(self) -> SimNode:
        return self.rng.choice(self.nodes)

    def start_or_stop(self) -> None:
        """Start a host's daemon, or stop it."""
        node = self._some()
        self.say(f"{node.name} is {'stopped' if node.running else 'started'}")
        if node.running and node._task is not None:
            node._task.cancel()
        elif not node.running:
            node.start()

    def freeze(self) -> None:
        """Stop a process where it is, or let it go on."""
        node = self._some()
        frozen = not node.sim.awake.is_set()
        self.say(f"{node.name} is {'thawed' if frozen else 'frozen'}")
        node.thaw() if frozen else node.freeze()

    def sleep_machine(self) -> None:
        """Let a machine sleep."""
        node = self._some()
        slept_s = self.rng.choice((10, 100, 1000))
        self.say(f"{node.name} has slept for {slept_s} s")
        node.clock.sleep_machine(slept_s)

    def change_way(self) -> None:
        """Make the way to etcd worse, or good again."""
        node = self._some()
        way = self.rng.choice((Way(), Way(), *WAYS))
        self.say(f"{node.name} reaches etcd by {way}")
        node.sim.set_way(way)

    def etcd_down(self) -> None:
        """Take etcd away from everybody, or give it back."""
        way = self.rng.choice((Way(), Way("cut"), Way("refused")))
        self.say(f"everybody reaches etcd by {way}")
        for node in self.nodes:
            node.sim.set_way(way)

    def elect(self) -> None:
        """Have a new leader."""
        self.say("etcd has a new leader")
        self.etcd.elect()

    def compact(self) -> None:
        """Forget the history, which others make longer too."""
        self.say("etcd is compacted")
        if self.rng.random() < 0.5:
            self.etcd.cut_watches()
        self.etcd.serve_others(self.rng.choice((0, 1, 100)))
        self.etcd.compact()

    def back_up_or_restore(self) -> None:
        """Take a backup, or go back to it."""
        if self.rng.random() < 0.5:
            self.say("etcd is backed up")
            self.backup = self.etcd.backup()
        else:
            self.say("etcd is restored from its backup")
            self.tampered = True
            self.etcd.restore(self.backup)

    def revoke(self) -> None:
        """End a lease before its time, or all of them."""
        self.tampered = True
        leases = list(self.etcd.state.leases)
        ended = leases if self.rng.random() < 0.3 else leases[:1]
        self.say(f"leases {ended} are revoked")
        for lease_id in ended:
            self.etcd.revoke(lease_id)

    def delete_key(self) -> None:
        """Delete a key by hand."""
        records = self.etcd.records()
        if records:
            record = self.rng.choice(records)
            self.tampered |= record.lease_id != 0
            self.say(f"somebody deletes {record.name!r}")
            self.etcd.delete(record.name)

    def put_junk(self) -> None:
        """Write something that nobody can use, over a key or beside it."""
        records = self.etcd.records()
        name = self.rng.choice([*STRANGE, *(record.name for record in records)])
        lease_id = next((record.lease_id for record in records if record.name == name), 0)
        junk = self.rng.choice((*JUNK, value("192.168.14.99", "vxlan")))
        self.tampered |= lease_id != 0
        self.say(f"somebody writes {junk[:40]!r} to {name!r}")
        self.etcd.put(name, junk, lease_id=lease_id if self.rng.random() < 0.8 else 0)

    def other_peer(self) -> None:
        """A host of somebody else's, such as a Go daemon, comes, moves to another address, or goes."""
        third = self.rng.randint(1, 12)
        name, key = b"172.7.%d.0-24" % third, SUBNETS + b"172.7.%d.0-24" % third
        there = self.etcd.state.keys.get(key)
        if there is None:
            self.say(f"another daemon leases {name!r}")
            self.etcd.put(name, value(f"192.168.14.{100 + third}"), lease_id=self.etcd.grant(TTL_S * 100))
        elif (spec.read_value(there.value) or (0,))[0] & 255 >= 100:
            gone = self.rng.random() < 0.5
            self.say(f"another daemon {'leaves' if gone else 'moves'} {name!r}")
            if gone:
                self.etcd.delete(name)
            else:
                self.etcd.put(name, value(f"192.168.14.{200 + third}"), lease_id=there.lease_id)

    def touch_route(self) -> None:
        """Delete or change a route of ours, flush them all, or put a foreign one in the way."""
        node = self._some()
        ours = [route for route in node.kernel.table() if route.protocol == PROTOCOL]
        what = self.rng.choice(("delete", "change", "flush", "foreign"))
        self.say(f"{node.name}: somebody's hand on the routes: {what}")
        if what == "flush":
            node.kernel.flush(PROTOCOL)
        elif what == "foreign":
            dst = IPv4Network(f"172.7.{self.rng.randint(1, 12)}.0/24")
            if node.fib.standing(dst) is None:
                node.kernel.add_foreign(KernelRoute(dst, IPv4Address("192.168.14.250"), 2, PROTO_STATIC, 0, plain=True))
        elif ours:
            route = self.rng.choice(ours)
            if what == "delete":
                node.kernel.delete_route(route.dst, metric=route.metric)
            else:
                node.kernel.add_foreign(replace(route, gateway=IPv4Address("192.168.14.251")))

    def touch_link(self) -> None:
        """Take a link down or up, make it anew under another index, or give it another address."""
        node = self._some()
        link = next(iter(node.fib._links.values()))
        what = self.rng.choice(("down", "up", "anew", "silent"))
        self.say(f"{node.name}: link {what}")
        if what == "anew":
            node.kernel.remove_link(link.name)
            node.kernel.set_link(replace(link, index=link.index + 1))
        elif what == "silent":
            node.kernel.lose_events()
        else:
            node.kernel.set_link(replace(link, up=what == "up"))

    def renumber(self) -> None:
        """Give a host another address."""
        node = self._some()
        link = next(iter(node.fib._links.values()))
        host = node.host + self.rng.choice((0, 30))
        self.say(f"{node.name}: address .{host}")
        node._addresses.add(spec.address(f"192.168.14.{host}"))
        node.kernel.set_link(replace(link, addresses=(IPv4Interface(f"192.168.14.{host}/24"),)))

    def refuse(self) -> None:
        """Let the kernel refuse calls, or the disk refuse to be written."""
        node = self._some()
        what = self.rng.choice(("calls", "route", "disk"))
        self.say(f"{node.name}: refuses {what}")
        if what == "calls":
            node.kernel.fail_calls(self.rng.randint(1, 3))
        elif what == "route":
            number = self.rng.choice((16, 12, 22, 105))  # EBUSY, ENOMEM, EINVAL, ENOBUFS
            node.kernel.refuse(IPv4Network(f"172.7.{self.rng.randint(1, 12)}.0/24"), number, times=3)
        else:
            node.file.broken = OSError(28, "No space left on device") if node.file.broken is None else None


TROUBLES: tuple[Callable[[World], None], ...] = (
    World.start_or_stop, World.freeze, World.sleep_machine, World.change_way, World.etcd_down, World.elect,
    World.compact, World.back_up_or_restore, World.revoke, World.delete_key, World.put_junk, World.other_peer,
    World.touch_route, World.touch_link, World.renumber, World.refuse,
)  # fmt: skip


def _shown(routes: dict[spec.Net, int]) -> str:
    def dotted(number: int) -> str:
        return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))

    return ", ".join(f"{dotted(first)}/{length} via {dotted(gw)}" for (first, length), gw in sorted(routes.items()))
