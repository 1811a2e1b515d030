"""The tasks' heartbeats: a task that has missed several is taken for stalled."""

from pyflanneld.ports import Clock

MISSED_BEATS = 3


class Liveness:
    """When each task has to beat next."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}

    def beat(self, task: str, period_s: float) -> None:
        """Record that *task* is alive, and that it beats again within *period_s*."""
        self._due[task] = self._awake_s() + MISSED_BEATS * period_s

    def rest(self, task: str) -> None:
        """Record that *task* has done its work and does not beat any more."""
        self._due.pop(task, None)

    def tasks(self) -> frozenset[str]:
        """Return the tasks that have a next beat due."""
        return frozenset(self._due)

    def stalled(self) -> list[str]:
        """Return the tasks whose beat is overdue. Time spent asleep does not count."""
        now = self._awake_s()
        return [task for task, due in self._due.items() if now > due]

    def _awake_s(self) -> float:
        return self._clock.now_s() - self._clock.suspended_s()
