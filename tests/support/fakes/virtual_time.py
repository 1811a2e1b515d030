"""An event loop whose clock jumps: whenever nothing is ready to run, time moves on to the next timer.

Hours pass in milliseconds and two runs are alike. Only for code that waits for nothing but timers and other tasks.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Polls instead of waiting, and tells how long it should have waited."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            return []  # there is something to do already
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("every task waits for something that no timer brings")
        if not ready and timeout:
            self._jump(timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop; ``time()`` starts at 1000 s."""

    def __init__(self) -> None:
        self._virtual_s = 1000.0
        super().__init__(_JumpingSelector(self._advance))

    def time(self) -> float:
        return self._virtual_s

    def _advance(self, seconds: float) -> None:
        self._virtual_s += seconds


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run *scenario* on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scenario)


async def until(happened: Callable[[], object], within_s: float, step_s: float = 0.01) -> float:
    """Wait until *happened* returns something true; return how long it took in virtual seconds.

    Raises:
        AssertionError: it did not happen within *within_s*.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not happened():
        if loop.time() - began > within_s:
            raise AssertionError(f"did not happen within {within_s} s")
        await asyncio.sleep(step_s)
    return loop.time() - began


class VirtualClock:
    """``ports.Clock`` on the running loop's time; ``sleep_machine`` is a suspend."""

    def __init__(self) -> None:
        self._slept_s = 0.0
        self.boot_at_s = 1_700_000_000.0  # the time of day when the clock stood at 0

    def now_s(self) -> float:
        return asyncio.get_running_loop().time() + self._slept_s

    def suspended_s(self) -> float:
        return self._slept_s

    def wall_s(self) -> float:
        return self.now_s() + self.boot_at_s

    def sleep_machine(self, seconds: float) -> None:
        """Let the machine sleep: the clock goes on, timers do not."""
        self._slept_s += seconds


class Journal:
    """A logger that keeps what it is told: ``events`` holds (level, event, fields)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, Mapping[str, object]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        def note(event: str, **fields: object) -> None:
            self.events.append((level, event, fields))

        return note

    def count(self, event: str) -> int:
        """Return how often *event* was logged."""
        return sum(name == event for _, name, _ in self.events)
