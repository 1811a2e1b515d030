"""One host of the simulated world: a whole daemon on a kernel, a disk and a client of etcd that may all misbehave."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from random import Random

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import Network
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.routes import KernelRoute
from pyflanneld.errors import KernelError, LeaseLost, LinkUnusable
from tests.sim import spec
from tests.sim.checks import KernelChecker
from tests.sim.disk import Killed, SimFile
from tests.sim.etcd import OtherEtcd, SimEtcd, SimRegistry
from tests.sim.kernel import LAN_LINK, SimKernel
from tests.sim.setups import Setup
from tests.sim.tunnels import device
from tests.support.fakes.node import PROTOCOL, FakeNode, MemoryState, lan

TTL_S = 60
STATES = 0.5
"""How many of the hosts save their last good state."""
MASKED = 0.5
"""How many of them masquerade."""
SEVERAL = 3
"""So many peers of which none is accepted are this host's fault."""
_MARGIN_S = 3.0
_RESYNC_S = 10.0
_BARE_S = 60.0 + 2 * _RESYNC_S + 5.0  # until it is known that rules are gone, or not known that they are there
RULES = ("nat", "FLANNEL-POSTRTG")
VIP = 60
"""The address of host 21 that others may hold is 192.168.14.81, and so on."""
_EXPECTED_ENDS = (LeaseLost, KernelError, Killed, LinkUnusable)
_READY = "READY=1"
_HEARD_S = 20.0
_FIGHT_S, _FIGHTS = 10.0, 5  # a hand may renumber it, shorten it and spoil it at once
_STOPPED_S = 75.0  # what the routes loop may take, threefold, and the time until it looks at the kernel at all


class Events:
    """A logger that only counts, by event."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def _note(self, event: str, **_: object) -> None:
        self.counts[event] += 1

    debug = info = warning = error = _note


class CheckedFile(SimFile):
    """A file that shows what is written before it stands there."""

    def __init__(self, check: Callable[[str], None]) -> None:
        super().__init__()
        self._check = check

    def write(self, text: str) -> bool:
        self._check(text)
        return super().write(text)


class SimNode(FakeNode):
    """A host. Its daemon starts, stops, dies and starts again; kernel and disk stay.

    Attributes:
        ended: why the daemon has ended by itself; ``None`` while it runs or when it was stopped.
        told_before: subnets, and what their leases said, that earlier daemons here were told of.
        strangers: neighbours on the LAN that somebody has put.
        flushed_until_s: until when somebody removes its firewall rules as often as they come back.
    """

    def __init__(
        self, etcd: SimEtcd, number: int, rng: Random, history: spec.History, tell: Callable[[str], None], setup: Setup
    ) -> None:
        super().__init__(etcd, 20 + number)
        self.name = f"n{number}"
        self.ended: Exception | None = None
        self.told_before: set[tuple[spec.Net, spec.Said]] = set()
        self.strangers: list[Neighbour] = []
        self._setup = setup
        if rng.random() < STATES:
            self.state = MemoryState()
        self._etcd = etcd
        self._strays: dict[str, OtherEtcd] = {}
        self._rng = rng
        self._history = history
        self._tell = tell
        self._task: asyncio.Task[None] | None = None
        self._dying: asyncio.Task[None] | None = None
        self._held: set[spec.Net] = set()
        self._granted: set[int] = set()  # the etcd leases that its keys were created on
        self._addresses = {spec.address(f"192.168.14.{self.host}")}
        self._checks = KernelChecker(self, PROTOCOL)
        self.kernel = SimKernel(lan(self.host), rng=rng, checks=self._checks)
        self.file = self.disk_file = CheckedFile(self._check_written_file)  # type: ignore[assignment]
        self.manager.send = self._told_manager  # type: ignore[method-assign]
        self.configure(
            subnet_lease_renew_margin_s=_MARGIN_S, iptables_resync_s=_RESYNC_S, ip_masq=rng.random() < MASKED
        )
        self.flushed_until_s = 0.0
        self._bare_s, self._writes = 0.0, 0  # when it last had its rules, was not ready, or tried to put them
        self.log = self._events = Events()  # type: ignore[assignment]
        self._lists: Counter[str] = Counter()
        self._uncertain = False
        self._retaken = 0
        self._hung_at_s = self._joined_s = math.inf
        self._thawed_s = 0.0
        self._changes: list[float] = []
        self._checked: object = None
        self._checked_file: bytes | None = None
        self.kernel.looked = self._looked
        self._looks: list[spec.Look] = []  # each time that the link was another one, from the daemon's start on
        self._choice = self._choice_before = 0  # the address that it publishes, and the one before
        self.returning: asyncio.TimerHandle | None = None  # of its own address
        self._narrow = False  # whether the link has led to nobody since the daemon's start
        self.registry = self._client()

    def _check_pace(self, before: Record) -> None:
        """Nobody fights over a key: its holder changes it a few times in some seconds, and no more."""
        now_s, key = asyncio.get_running_loop().time(), spec.read_value(before.value)
        if key is None or not self.owns(key):
            return
        self._changes = [one for one in self._changes if one > now_s - _FIGHT_S] + [now_s]
        if len(self._changes) > _FIGHTS:
            raise spec.Violation(f"flap: {self.name} has written its key {len(self._changes)} times in {_FIGHT_S} s")

    def _check_second(self, made: Record) -> None:
        """I2: nobody takes a second subnet, be it by a write that arrives late; what was held may be taken again."""
        if spec.read_name(made.name) == self._believed_lease():
            return
        self._check_mac(made)
        for other in self._etcd.records():
            alike = spec.read_value(other.value) == spec.read_value(made.value)
            if alike and other.name != made.name and other.lease_id in self._granted - {0} and not self.sim.way.behind:
                raise spec.Violation(f"I2: {self.name} has created {made.name!r} and holds {other.name!r}")

    def _check_mac(self, made: Record) -> None:
        """I2: nobody takes a subnet with a MAC address that an older lease of its own has: the peers would refuse it.

        But one that goes back to an address while its lease says another one does, for as long as that lease lives.
        """
        said = spec.read_value(made.value)
        if said is None or self._checks.devices.is_usual(said.mac, said.gateway):
            return
        for other in self._etcd.records():
            older = spec.read_value(other.value)
            same = older and said.mac == older.mac != "" and self.owns(older)
            if same and other.name != made.name and other.lease_id in self._granted - {0}:
                raise spec.Violation(f"I2: {self.name} takes {made.name!r} with the MAC address of {other.name!r}")

    def meet_strays(self, strays: dict[str, OtherEtcd]) -> None:
        """Reach other clusters than ours by these endpoints; the connections to them break."""
        self._strays = self.sim.strays = strays
        self.sim.cut_watches()

    def say(self, text: str) -> None:
        """Tell the world what this host does."""
        self._tell(f"{self.name} {text}")

    def _client(self) -> SimRegistry:
        client = SimRegistry(self._etcd, self._rng, self._wrote)
        client.clock_s = self.clock.now_s
        return client

    @property
    def sim(self) -> SimRegistry:
        """The client, by its own type."""
        assert isinstance(self.registry, SimRegistry)
        return self.registry

    @property
    def fib(self) -> SimKernel:
        """The kernel, by its own type."""
        assert isinstance(self.kernel, SimKernel)
        return self.kernel

    @property
    def running(self) -> bool:
        """Whether there is a daemon."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the daemon, on a client of etcd that reaches it as the old one did; not before the old one is gone."""
        if self._dying is not None and not self._dying.done():
            return
        way = self.sim.way
        self._lists += self.counters.lists
        self._uncertain, self._retaken = False, 0
        self.told_before |= self.sim.delivered.named
        if self.state is not None:
            self.state.forgotten = False
        self._checks.begin()
        self.disk_file.disk.revive()
        self.registry = self._client()
        self.sim.set_way(way)
        self.meet_strays(self._strays)
        self._narrow = self._leads_to_nobody()
        self._looks, self._choice, self._choice_before = [], 0, 0
        self._task = asyncio.create_task(self.build().run(), name=self.name)
        self._task.add_done_callback(self._end)
        self.ended = None

    def start_unless_running(self) -> None:
        """Start the daemon if there is none."""
        if not self.running:
            self.start()

    def _end(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        assert isinstance(error, Exception)
        self.ended = error
        leaves = _leaves(error)
        self.say(f"has ended: {leaves}")
        lease = self._believed_lease()
        if lease is None or not any(isinstance(leaf, LeaseLost) for leaf in leaves):
            return
        if not self._history.took(lease, self._published()):
            raise spec.Violation(f"I20: {self.name} gave up {lease}, which nobody had taken: {leaves}")

    def kill(self) -> None:
        """End the process; there is nothing that stopping does and killing does not."""
        self._dying, self._task = self._task, None
        if self._dying is not None:
            self._dying.cancel()

    async def stop(self) -> None:
        """End the process and wait for its end."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, ExceptionGroup):
                await task

    def lose_power(self) -> None:
        """Switch the machine off and on: the disk may have lost something, the kernel all."""
        self.kill()
        self.strangers = []
        self.disk_file.disk.lose_power(self._rng)
        address = self._rng.choice(sorted(self._addresses))
        self.fib.reboot(lan(address & 255))

    def has_address(self, host: int) -> None:
        """Take note of an address of its own."""
        self._addresses.add(spec.address(f"192.168.14.{host}"))

    def owns(self, said: tuple[int, str] | None) -> bool:
        """Return whether what a lease says is said of this host."""
        return said is not None and said[0] in self._addresses

    def narrow(self) -> None:
        """Give the address no network around it, as many a VPN does; or the usual one, if it has none."""
        link, length = self.fib.lan_link(), 24 if self._leads_to_nobody() else 32
        self._narrow &= length == 32
        addresses = tuple(IPv4Interface(f"{own.ip}/{length}") for own in link.addresses)
        self.kernel.set_link(replace(link, addresses=addresses))

    def _leads_to_nobody(self) -> bool:
        return {own.network.prefixlen for own in self.fib.lan_link().addresses} == {32}

    def lend(self, length: int, *, first: bool) -> None:
        """Give the link the address that hosts hand on to each other, as a VIP with a prefix length; or take it."""
        link, vip = self.fib.lan_link(), IPv4Interface(f"192.168.14.{self.host + VIP}/{length}")
        others = tuple(own for own in link.addresses if own.ip != vip.ip)
        if len(others) < len(link.addresses):
            self.kernel.set_link(replace(link, addresses=others))
            return
        self.has_address(self.host + VIP)
        self.kernel.set_link(replace(link, addresses=(vip, *others) if first else (*others, vip)))

    def lose_address(self, for_s: float, *, first: bool) -> None:
        """Take away the link's own address, and give it back after a time: before all others, or behind them."""
        link, vip = self.fib.lan_link(), IPv4Address(f"192.168.14.{self.host + VIP}")
        own, others = [one for one in link.addresses if one.ip != vip], [one for one in link.addresses if one.ip == vip]
        if not own or self.returning is not None:
            return

        def give_back() -> None:
            self.returning = None
            link = self.fib.lan_link()
            there = [one for one in link.addresses if one.ip not in {one.ip for one in own}]
            addresses = (*own, *there) if first else (*there, *own)
            self.kernel.set_link(replace(link, addresses=addresses))

        self.kernel.set_link(replace(link, addresses=tuple(others)))
        self.returning = asyncio.get_running_loop().call_later(for_s, give_back)

    def freeze(self) -> None:
        """Stop the process in its tracks, at its next call to anything."""
        self.sim.awake.clear()
        self.fib.awake.clear()

    def hang(self) -> None:
        """Let the kernel never answer; no deadline is known to it, as it were."""
        self.fib.awake.clear()
        self._hung_at_s = asyncio.get_running_loop().time()

    def thaw(self) -> None:
        """Let it go on."""
        self._hung_at_s = math.inf
        self._thawed_s = asyncio.get_running_loop().time()
        self.sim.awake.set()
        self.fib.awake.set()

    # What is looked at

    def _believed_lease(self) -> spec.Net | None:
        node = self.daemon._node if self.daemon is not None else None
        return spec.network(str(node.lease.subnet)) if node is not None else None

    def _published(self) -> int:
        """Return the address that the lease carries."""
        assert self.daemon is not None
        assert self.daemon._node is not None
        return spec.address(str(self.daemon._node.lease.public_ip))

    @property
    def lease(self) -> spec.Net | None:
        """The subnet that the daemon holds, as far as it knows."""
        return self._believed_lease() if self.running else None

    @property
    def proved(self) -> bool:
        """Whether what the daemon knows is proof that the lease is its own at this moment."""
        node = self.daemon._node if self.daemon is not None else None
        return node is not None and self.clock.now_s() <= node.lease.confirmed_until_s

    @property
    def confirmed(self) -> bool:
        """Whether there is a daemon that may believe that the lease is its own."""
        return self.running and self.proved

    def sure_for_s(self) -> float:
        """Return for how long the daemon may believe in its lease without a renewal."""
        node = self.daemon._node if self.daemon is not None else None
        return node.lease.confirmed_until_s - self.clock.now_s() if node is not None else 0.0

    def believes_in(self, lease_id: int) -> bool:
        """Return whether the daemon takes this etcd lease for its own, and for alive."""
        node = self.daemon._node if self.daemon is not None else None
        return self.confirmed and node is not None and node.lease.record.lease_id == lease_id

    def believed(self) -> int:
        """Return how many routes of its own the daemon knows of."""
        node = self.daemon._node if self.daemon is not None else None
        return max(table.present for table in node.tables) if node is not None else 0

    @property
    def stands_in(self) -> bool:
        """Whether the daemon goes by what it has saved, for it cannot reach etcd."""
        node = self.daemon._node if self.daemon is not None else None
        return node is not None and node.unconfirmed

    @property
    def reserved(self) -> bool:
        """Whether the lease has no end."""
        node = self.daemon._node if self.daemon is not None else None
        return node is not None and node.lease.reserved

    def as_host(self) -> spec.Host:
        """Return what decides about its peers."""
        assert self.daemon is not None
        assert self.daemon._node is not None
        node = self.daemon._node
        on_link = [(int(own.ip), own.network.prefixlen) for own in node.link.addresses]
        interfaces = [(int(own.ip), own.network.prefixlen) for link in node.links for own in link.addresses]
        return spec.Host(
            spec.network(str(node.lease.subnet)), spec.address(str(node.choice.address)),
            min((length for _, length in on_link), default=spec.LAN[1]), tuple(interfaces), tuple(on_link),
            self._setup.backend, self._setup.direct, self.published_mac,
        )

    @property
    def published_mac(self) -> str:
        """The MAC address that the lease says, as far as the daemon knows one."""
        node = self.daemon._node if self.daemon is not None else None
        return node.membership.macs.get(4, "") if node is not None else ""

    @property
    def device_mac(self) -> str:
        """The MAC address of the device that is there."""
        there = device(self.fib)
        return there.vxlan.mac if there is not None and there.vxlan is not None else ""

    @property
    def frozen(self) -> Collection[Network]:
        """The subnets whose objects stay as they are, as far as the daemon says."""
        node = self.daemon._node if self.daemon is not None else None
        return node.view.frozen if node is not None and node.view is not None else ()

    @property
    def held_back(self) -> Collection[Network]:
        """The peers of which the guard holds anything."""
        node = self.daemon._node if self.daemon is not None else None
        return sorted(node.guard.held & node.view.peers.keys()) if node is not None and node.view is not None else ()

    def own_routes(self) -> list[KernelRoute]:
        """Return the routes of ours to subnets of the cluster."""
        ours = [route for route in self.kernel.table() if route.protocol == PROTOCOL and not route.blackhole]
        return [route for route in ours if spec.contains(spec.CLUSTER, spec.network(str(route.dst)))]

    def destinations(self) -> list[str]:
        """Return the destination of each route of ours inside the network, in whatever form."""
        return [str(route.dst) for route in self.own_routes()]

    def routes(self) -> dict[spec.Net, int]:
        """Return the routes of ours, destination to gateway."""
        ways = {spec.network(dst): spec.address(via) for dst, via in self.kernel.gateways(PROTOCOL).items()}
        return {subnet: via for subnet, via in ways.items() if spec.contains(spec.CLUSTER, subnet)}

    def check(self) -> None:
        """Check what must hold at every moment. Raises ``Violation``."""
        if (lease := self.lease) is not None:
            self._held.add(lease)
            self._count_doubt()
            self._check_node()
        content = self.disk_file.disk.content
        if content != self._checked_file:
            spec.check_file(self.disk_file.text, self._held)
            self._checked_file = content
        if self.ended is not None and not all(isinstance(leaf, _EXPECTED_ENDS) for leaf in _leaves(self.ended)):
            raise spec.Violation(f"I20, I23: {self.name} has ended with {self.ended!r}") from self.ended

    def _check_node(self) -> None:
        assert self.daemon is not None
        assert self.daemon._node is not None
        node = self.daemon._node
        if node.view is not None and node.lease.record.name in node.view.quarantined:
            raise spec.Violation(f"readiness: {self.name} doubts its own lease, as if it were a peer's")
        now_s = asyncio.get_running_loop().time()
        self._check_stays()
        if node is not self._checked:
            self._checked, self._joined_s = node, now_s
        if now_s > max(self._hung_at_s, self._joined_s) + _STOPPED_S and self.daemon.health().live:
            raise spec.Violation(f"I19: {self.name} says that it lives, while the kernel has not answered it")
        if self.ready:
            self._check_published("is ready")
            self._check_told(now_s)
            self._check_accepting()
            if self.stands_in:
                raise spec.Violation(f"readiness: {self.name} is ready by what it has saved")
            if node.guard.held:
                raise spec.Violation(f"readiness: {self.name} is ready although the guard holds routes")
        self._check_rules(now_s)

    def _looked(self, links: tuple[Link, ...]) -> None:
        """Take note of what the daemon is shown; what it made of the look before is judged first."""
        self._check_stays()
        self._checks.devices.looked(links)
        lan_link = next((link for link in links if link.name == LAN_LINK), None)
        addresses = {
            spec.address(str(own.ip)): own.network.prefixlen for own in (lan_link.addresses if lan_link else ())
        }  # fmt: skip
        if not self._looks or self._looks[-1][1] != addresses:
            self._looks.append((asyncio.get_running_loop().time(), addresses))

    def _check_stays(self) -> None:
        """I25: see there."""
        node = self.daemon._node if self.daemon is not None and self.running else None
        if node is None:
            return
        address = spec.address(str(node.choice.address))
        if address != self._choice:
            self._choice, self._choice_before = address, self._choice
        spec.check_stays(address, self._choice_before, self._looks, asyncio.get_running_loop().time())

    def _check_told(self, now_s: float) -> None:
        """Nobody is ready whose key is gone by etcd's own word; a call that is under way may end first."""
        gone_s = self.sim.own_gone_s
        if gone_s is not None and self.sim.awake.is_set() and now_s > max(gone_s, self._thawed_s) + _HEARD_S:
            raise spec.Violation(f"readiness: {self.name} is ready, and etcd has said that its key is gone")

    def _check_accepting(self) -> None:
        """Nobody is ready who has reached none of several peers since its start."""
        self._narrow &= self._leads_to_nobody()
        wide = replace(self.as_host(), length=spec.LAN[1])
        if self._narrow and not self._setup.tunnels and len(self.sim.delivered.verdict(wide).sure) >= SEVERAL:
            raise spec.Violation(f"readiness: {self.name} is ready and accepts none of its peers")

    @property
    def has_rules(self) -> bool:
        """Whether what its containers send out is masqueraded, where that was asked for."""
        return not self.settings.ip_masq or "192.168.0.0/18" in str(self.firewall.rules(*RULES))

    def _check_rules(self, now_s: float) -> None:
        """Nobody is ready whose masquerading has been gone, without an attempt, for longer than it takes to look."""
        writes, self._writes = self._writes, len(self.firewall.writes)
        if not self.ready or self.has_rules or writes != self._writes:
            self._bare_s = now_s
        if now_s > max(self._bare_s, self._thawed_s) + _BARE_S and self.sim.awake.is_set():
            raise spec.Violation(f"readiness: {self.name} is ready without the masquerading that was asked for")

    def _check_published(self, what: str) -> None:
        """I17, I41: nobody hears that the node is ready before the file is there, and about its lease."""
        text, lease = self.disk_file.text, self._believed_lease()
        if text is None or spec.file_subnet(text) != lease:
            raise spec.Violation(f"I17: {self.name} {what} while the file says {text!r}")

    def _check_written_file(self, text: str) -> None:
        """I17: what is written is the lease that is held."""
        lease = self._believed_lease()
        if lease is not None:
            self._held.add(lease)
        if spec.file_subnet(text) != lease:
            raise spec.Violation(f"I17: {self.name} writes {text!r} without that lease")

    def _told_manager(self, state: str) -> None:
        if state == _READY:
            self._check_published("says that it is ready")
            if not self.stands_in and not self.ready:
                raise spec.Violation(f"readiness: {self.name} says READY while it is not: {self.why_not}")

    def seen(self) -> Counter[str]:
        """Return how often the daemon has logged what, and read a complete list for which reason."""
        lists = self._lists + self.counters.lists
        return self._events.counts + Counter({f"list: {why}": count for why, count in lists.items()})

    def _count_doubt(self) -> None:
        """Take note of a lease that nothing proves any more, and of what becomes of it."""
        if not self.confirmed:
            self._uncertain = True
        elif self._uncertain:
            self._uncertain = False
            retaken = self.counters.retaken - self._retaken
            self._events.counts["unproved lease: taken again" if retaken else "unproved lease: proved"] += 1
        self._retaken = self.counters.retaken

    # What it does

    def _wrote(self, what: str, before: Record | None, after: Record | None) -> None:
        self.say(f"{what} {(after or before or _NOTHING).name!r}")
        keys = self._history.now
        if before is None and after is not None:
            self._check_second(after)
            self._held.add(spec.read_name(after.name) or (0, 0))
            self._granted.add(after.lease_id)
            spec.check_created(as_key(after), keys, self._etcd.beside.get(after.name, ()))
        elif before is not None:
            node = self.daemon._node if self.daemon is not None else None
            same_lease = before.lease_id in self._granted - {0} or (
                node is not None and node.lease.record.lease_id == before.lease_id != 0
            )
            lease = self._etcd.state.leases.get(before.lease_id)
            spec.check_written(
                as_key(before), after.value if after else None, same_lease, self._addresses,
                was_short=lease is not None and lease.ttl_s < TTL_S and after is not None and after != before,
            )  # fmt: skip
            self._check_pace(before)


_NOTHING = Record(b"nothing", b"", 0, 0, 0)


def as_key(record: Record) -> spec.Key:
    """Return a record as the specification knows it."""
    return spec.Key(record.name, record.value, record.create_revision, record.lease_id != 0)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]
