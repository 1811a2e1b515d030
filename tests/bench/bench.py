"""What a case works with: the site, the contenders, how often to repeat, and where the results go."""

import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TextIO

from tests.bench.contenders import Contender
from tests.bench.results import HOST_GW, NotMeasuredError, Result, Results, readable
from tests.bench.site import Rig, Site

DEADLINE_S = 30.0
READY_S = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How often, and for how long."""

    starts: int = 5
    large_starts: int = 3
    lists: int = 7
    latencies: int = 200
    bursts: int = 3
    restarts: int = 3
    crowds: int = 3
    repairs: int = 40
    devices: int = 5
    links: int = 5
    waiting_s: float = 25.0  # for what takes a contender long, per case
    idle_s: float = 60.0
    renewal_s: float = 75.0
    traffic: int = 3


QUICK = Plan(
    starts=2, large_starts=1, lists=3, latencies=40, bursts=1, restarts=1, crowds=1, repairs=10, devices=2, links=2,
    waiting_s=11.0, idle_s=10.0, renewal_s=5.0, traffic=1,
)  # fmt: skip


class Progress:
    """One line that says what is being done, overwritten on a terminal; and the results as they come."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._began = time.monotonic()
        self._terminal = self._out.isatty()

    def doing(self, text: str) -> None:
        """Say what is being done now; only a terminal shows it."""
        if self._terminal:
            self._print(text, end="")

    def done(self, text: str) -> None:
        """Print a line that stays."""
        self._print(text)

    def _print(self, text: str, end: str = "\n") -> None:
        start = "\r\033[K" if self._terminal else ""
        print(f"{start}[{time.monotonic() - self._began:4.0f} s] {text}", end=end, file=self._out, flush=True)


@dataclass(slots=True)
class Bench:
    """Passed to every case."""

    site: Site
    contenders: Sequence[Contender]
    plan: Plan
    results: Results
    progress: Progress

    @property
    def backends(self) -> list[str]:
        """Those of the contenders."""
        return list(dict.fromkeys(one.backend for one in self.contenders))

    def record(
        self, case: str, contender: str, peers: int, unit: str, samples: Sequence[float], note: str = ""
    ) -> None:
        """Keep samples, together with those that are there already."""
        self.results.add(case, contender, peers, unit, samples, note)

    async def do(self, case: "Case", peers: int) -> None:
        """Measure, and show what came of it; a case that had to be given up is told in the report."""
        taking_part = [one for one in self.contenders if one.backend in case.backends]
        if self.contenders and not taking_part:
            return
        before = set(self.results.rows)
        try:
            await case.run(replace(self, contenders=taking_part), peers)
        except NotMeasuredError as error:
            told = f"{case.name} with {peers:,} peers: {error}"
            self.results.about.setdefault("given_up", []).append(told)
            self.progress.done(f"given up: {told}")
        for row in self.results.rows:
            if row not in before:
                self.progress.done(summary(row))

    @asynccontextmanager
    async def running(
        self, contender: Contender, peers: int, *more: str, slot: int = 0
    ) -> AsyncIterator[Rig]:
        """Have a contender that is ready and has all routes, and has come to rest.

        Raises:
            NotMeasuredError: it has not got that far in time.
        """
        async with self.site.rig(contender, peers, slot=slot) as rig:
            rig.daemon.start(*more)
            await rig.observer.all_added(peers, DEADLINE_S)
            await self.until_ready(rig)
            await rig.observer.quiet(0.5)
            yield rig

    async def until_ready(self, rig: Rig) -> float | None:
        """Wait until a contender that has its routes is ready too; return when it was, or ``None``: it does not say.

        Raises:
            NotMeasuredError: it has ended.
        """
        with suppress(NotMeasuredError):
            return await rig.daemon.ready(READY_S)
        rig.daemon.check()
        rig.contender.notifies = False  # from the next time on /readyz is asked
        return None

    @asynccontextmanager
    async def all_running(self, case: str, peers: int, *, slot: int = 0) -> AsyncIterator[list[Rig]]:
        """Have all contenders running side by side; who does not get there is left out, with a note in the results."""
        async with AsyncExitStack() as stack:
            rigs = []
            for contender in self.contenders:
                self.progress.doing(f"{case}, {peers} peers: {contender.name} starts")
                try:
                    rigs.append(await stack.enter_async_context(self.running(contender, peers, slot=slot)))
                except NotMeasuredError as error:
                    self.record(case, contender.name, peers, "1", (), str(error))
            yield rigs


@dataclass(frozen=True, slots=True)
class Case:
    """Something to be measured, with each of these numbers of peers, and with each of these backends."""

    name: str
    sizes: tuple[int, ...]
    run: Callable[[Bench, int], Awaitable[None]]
    backends: tuple[str, ...] = (HOST_GW,)


def summary(result: Result) -> str:
    """Return a result in one line."""
    name = f"{result.case:<24} {result.peers:>6,} peers  {result.contender:<14}"
    if not result.samples:
        return f"{name} not measured: {result.note}"
    values = f"{readable(result.median, result.unit):>10}"
    if len(result.samples) > 1:
        values += f"  p99 {readable(result.p99, result.unit):>10}  of {len(result.samples)}"
    return f"{name} {values}" + (f"  ({result.note})" if result.note else "")
