"""structlog processors that only the daemon has: a rate limit for repeated events, and the last events in memory.

Both stand behind the sanitising, so all that they see is safe.
"""

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog

BURST = 20
"""How many equal events pass before the limit applies."""
RESET_S = 600.0
"""After this time without an equal event, the burst is free again."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 60.0, 3600.0
MAX_REMEMBERED = 2000
SUBJECTS = ("logger", "topic", "task", "key", "dst", "subnet", "link", "rules", "path", "bridge", "from")
"""Events are equal when their name and these fields are."""
KEPT_EVENTS = 200


@dataclass(slots=True)
class _Repetition:
    passed: int
    last_s: float
    paused_until_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    left_out: int = 0


class RateLimit:
    """Drops repeated events: after a burst one passes per pause, with the number of those ``left_out`` before it.

    The pauses double. So a route that flaps for a week neither fills a disk nor stays hidden. Errors and debug events
    always pass: an error is logged once, debug events were asked for.

    Args:
        now_s: a clock, in seconds.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._seen: OrderedDict[tuple[object, ...], _Repetition] = OrderedDict()

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Pass *event* on, or drop it."""
        if event.get("level") not in {"info", "warning"}:
            return event
        name = None if "logger" in event else event.get("event")  # an event of a library is a text, not a name
        left_out = self._left_out((name, *(str(event.get(subject, "")) for subject in SUBJECTS)))
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event

    def _left_out(self, kind: tuple[object, ...]) -> int | None:
        """Return how many events of *kind* were dropped before this one; ``None``: drop this one as well."""
        now_s = self._now_s()
        seen = self._seen.pop(kind, None)
        if len(self._seen) >= MAX_REMEMBERED:
            self._seen.popitem(last=False)
        if seen is None or now_s - seen.last_s > RESET_S:
            self._seen[kind] = _Repetition(1, now_s)
            return seen.left_out if seen else 0
        self._seen[kind] = seen  # now the youngest
        seen.last_s = now_s
        if seen.passed < BURST:
            seen.passed += 1
            return 0
        if now_s < seen.paused_until_s:
            seen.left_out += 1
            return None
        seen.paused_until_s, seen.pause_s = now_s + seen.pause_s, min(2 * seen.pause_s, LONGEST_PAUSE_S)
        left_out, seen.left_out = seen.left_out, 0
        return left_out


class RecentEvents:
    """Keeps the last events of level info and above in memory, for the page and the operators' commands."""

    def __init__(self, kept: int = KEPT_EVENTS) -> None:
        self._events: deque[Mapping[str, Any]] = deque(maxlen=kept)
        self._numbers = itertools.count(1)

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Keep *event*, and pass it on."""
        if event.get("level") != "debug" and "logger" not in event:  # libraries log with the name of their logger
            fields = {name: value for name, value in event.items() if name not in ("timestamp", "level", "event")}
            self._events.append(
                {
                    "number": next(self._numbers), "time": event.get("timestamp"), "level": event.get("level"),
                    "event": event.get("event"), "fields": fields,
                }
            )  # fmt: skip
        return event

    def events(self, after: int = 0) -> list[Mapping[str, Any]]:
        """Return the events with a number above *after*, the oldest first. The numbers only grow."""
        return [event for event in self._events if event["number"] > after]
