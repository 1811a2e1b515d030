"""Events that come again and again: after the first ones, one now and then with the count of those left out.

A processor. Events are the same when name and subject are (``route.put`` of one destination); something that flaps for
a week must not fill a disk, and must not be hidden either. Errors and debug events pass always: the first come once in
a run, the others were asked for.
"""

from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog

FREE = 20
"""So many of the same pass at once."""
QUIET_S = 600.0
"""After so long without one of them, it begins anew."""
HOLD_FIRST_S, HOLD_CAP_S = 60.0, 3600.0
SUBJECTS = ("logger", "topic", "loop", "key", "dst", "subnet", "link", "rules", "path", "bridge", "from")
REMEMBERED = 2000
_LIMITED = frozenset({"info", "warning"})


@dataclass(slots=True)
class _Seen:
    passed: int
    last_s: float
    held_until_s: float = 0.0
    hold_s: float = HOLD_FIRST_S
    left_out: int = 0


class Repeats:
    """Lets the first events of a kind pass, and later ones with longer and longer pauses (field ``left_out``).

    Args:
        now_s: a clock, in seconds.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._seen: OrderedDict[tuple[object, ...], _Seen] = OrderedDict()

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Pass *event* on, or drop it."""
        if event.get("level") not in _LIMITED:
            return event
        name = None if "logger" in event else event.get("event")  # what libraries say has no constant name
        left_out = self._passes((name, *(str(event.get(subject, "")) for subject in SUBJECTS)))
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            event["left_out"] = left_out
        return event

    def _passes(self, kind: tuple[object, ...]) -> int | None:
        """Return how many were left out before this one, ``None`` when this one is left out too."""
        now_s = self._now_s()
        seen = self._seen.pop(kind, None)
        if len(self._seen) >= REMEMBERED:
            self._seen.popitem(last=False)
        if seen is None or now_s - seen.last_s > QUIET_S:
            self._seen[kind] = _Seen(1, now_s)
            return seen.left_out if seen else 0
        self._seen[kind] = seen  # the youngest now
        seen.last_s = now_s
        if seen.passed < FREE:
            seen.passed += 1
            return 0
        if now_s < seen.held_until_s:
            seen.left_out += 1
            return None
        seen.held_until_s, seen.hold_s = now_s + seen.hold_s, min(2 * seen.hold_s, HOLD_CAP_S)
        left_out, seen.left_out = seen.left_out, 0
        return left_out
