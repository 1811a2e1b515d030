"""One host of the simulated world: a whole daemon on a kernel, a file and a client of etcd that may all misbehave."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from random import Random

from pyflanneld.core.records import Record
from pyflanneld.core.routes import BOOT, Create, Drop, KernelRoute, Replace, RouteChange
from pyflanneld.errors import KernelError, LeaseLost
from tests.fakes.node import PROTOCOL, FakeNode, lan
from tests.sim import spec
from tests.sim.etcd import SimEtcd, SimRegistry
from tests.sim.kernel import SimKernel

TTL_S = 60
_MARGIN_S = 3.0
_RESYNC_S = 60.0  # nobody here touches the firewall
_EXPECTED_ENDS = (LeaseLost, KernelError)


class Events:
    """A logger that only counts, by event."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def _note(self, event: str, **_: object) -> None:
        self.counts[event] += 1

    debug = info = warning = error = _note


class SimNode(FakeNode):
    """A host. Its daemon starts, stops, dies and starts again; kernel and file stay.

    Attributes:
        ended: why the daemon has ended by itself; ``None`` while it runs or when it was stopped.
    """

    def __init__(
        self, etcd: SimEtcd, number: int, rng: Random, history: spec.History, say: Callable[[str], None]
    ) -> None:
        super().__init__(etcd, 20 + number)
        self.name = f"n{number}"
        self.ended: Exception | None = None
        self._etcd = etcd
        self._rng = rng
        self._history = history
        self._say = say
        self._task: asyncio.Task[None] | None = None
        self._held: set[spec.Net] = set()
        self._addresses = {spec.address(f"192.168.14.{self.host}")}
        self.kernel = SimKernel(lan(self.host), rng, self._judge)
        self.options = replace(self.options, renew_margin_s=_MARGIN_S, firewall_resync_s=_RESYNC_S)
        self.log = self._events = Events()  # type: ignore[assignment]
        self._lists: Counter[str] = Counter()
        self._uncertain = False
        self._retaken = 0
        self._checked_file: str | None = None
        self.registry = self._client()

    def _client(self) -> SimRegistry:
        return SimRegistry(self._etcd, self._rng, self._wrote)

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
        """Start the daemon, on a new client of etcd that reaches it as the old one did."""
        way = self.sim.way
        self._lists += self.tally.lists
        self._uncertain, self._retaken = False, 0
        self.registry = self._client()
        self.sim.set_way(way)
        self._task = asyncio.create_task(self.build().run(), name=self.name)
        self._task.add_done_callback(self._end)
        self.ended = None

    def _end(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        assert isinstance(error, Exception)
        self.ended = error
        self._say(f"{self.name} has ended: {_leaves(error)}")

    async def stop(self) -> None:
        """Stop the daemon, or kill it: there is nothing that one does and the other does not."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError, ExceptionGroup):
                await task

    def freeze(self) -> None:
        """Stop the process in its tracks, at its next call to anything."""
        self.sim.awake.clear()
        self.fib.awake.clear()

    def thaw(self) -> None:
        """Let it go on."""
        self.sim.awake.set()
        self.fib.awake.set()

    # What is looked at

    @property
    def lease(self) -> spec.Net | None:
        """The subnet that the daemon holds, as far as it knows."""
        node = self.daemon._node if self.daemon is not None and self.running else None
        return spec.network(str(node.lease.subnet)) if node is not None else None

    @property
    def confirmed(self) -> bool:
        """Whether the daemon may believe that the lease is its own at this moment."""
        node = self.daemon._node if self.daemon is not None else None
        return self.running and node is not None and self.clock.now_s() <= node.lease.confirmed_until_s

    def as_host(self) -> spec.Host:
        """Return what decides about its peers."""
        assert self.daemon is not None
        assert self.daemon._node is not None
        node = self.daemon._node
        return spec.Host(spec.network(str(node.lease.subnet)), spec.address(str(node.choice.address)))

    def routes(self) -> dict[spec.Net, int]:
        """Return the routes of ours, destination to gateway."""
        return {spec.network(dst): spec.address(gateway) for dst, gateway in self.kernel.gateways(PROTOCOL).items()}

    def check(self) -> None:
        """Check what must hold at every moment. Raises ``Violation``."""
        if (lease := self.lease) is not None:
            self._held.add(lease)
            self._count_doubt()
        if self.file.text != self._checked_file:
            spec.check_file(self.file.text, self._held)
            self._checked_file = self.file.text
        if self.ended is not None and not all(isinstance(leaf, _EXPECTED_ENDS) for leaf in _leaves(self.ended)):
            raise spec.Violation(f"I20, I23: {self.name} has ended with {self.ended!r}") from self.ended

    def seen(self) -> Counter[str]:
        """Return how often the daemon has logged what, and read a complete list for which reason."""
        lists = self._lists + self.tally.lists
        return self._events.counts + Counter({f"list: {why}": count for why, count in lists.items()})

    def _count_doubt(self) -> None:
        """Take note of a lease that nothing proves any more, and of what becomes of it."""
        if not self.confirmed:
            self._uncertain = True
        elif self._uncertain:
            self._uncertain = False
            retaken = self.tally.retaken - self._retaken
            self._events.counts["unproved lease: taken again" if retaken else "unproved lease: proved"] += 1
        self._retaken = self.tally.retaken

    # What it does

    def _wrote(self, what: str, before: Record | None, after: Record | None) -> None:
        self._say(f"{self.name} {what} {(after or before or _NOTHING).name!r}")
        keys = self._history.now
        if before is None and after is not None:
            self._held.add(spec.read_name(after.name) or (0, 0))
            spec.check_created(spec.Key(after.name, after.value, after.create_revision), keys)
        elif before is not None:
            node = self.daemon._node if self.daemon is not None else None
            same_lease = node is not None and before.lease_id not in (0, None) and (
                node.lease.record.lease_id == before.lease_id
            )
            key = spec.Key(before.name, before.value, before.create_revision)
            spec.check_written(key, same_lease, self._addresses)

    def _judge(self, change: RouteChange, there: KernelRoute | None) -> None:
        host = self.as_host()
        subnet = spec.network(str(change.route.dst))
        match change:
            case Create(route) | Replace(route):
                gateway = spec.address(str(route.gateway))
                self._say(f"{self.name} puts {route.dst} via {route.gateway}")
                spec.check_put(subnet, gateway, host)
                if there is not None and there.protocol != PROTOCOL and not _is_go_leftover(there, route):
                    raise spec.Violation(f"I6: {self.name} put {route} over {there}")
            case Drop(held):
                self._say(f"{self.name} drops {held.dst} via {held.gateway}")
                if held.protocol != PROTOCOL:
                    raise spec.Violation(f"I6: {self.name} dropped {held}")
                if not self._history.proves(subnet, spec.address(str(held.gateway)), host):
                    raise spec.Violation(f"I9: {self.name} dropped {held.dst} without proof")


_NOTHING = Record(b"nothing", b"", 0, 0, 0)


def _is_go_leftover(there: KernelRoute, route: object) -> bool:
    return there.protocol == BOOT and (there.dst, there.gateway, there.link_index) == (
        route.dst, route.gateway, route.link_index  # type: ignore[attr-defined]
    )


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]
