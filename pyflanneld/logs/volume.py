"""A structlog processor that bounds the log's volume, whatever happens: each kind of event, and all of them together.

``RateLimit`` knows repetitions by their subject. Whoever writes ever new keys into etcd makes ever new subjects: one
writer cost 12 GB of log a day. So each event's name has a burst of lines and then a rate, and so have all lines and
bytes together. When these run short, what an operator needs comes first: conditions and errors, then kinds of events
that are rare. What was left out is logged, by kind, within a minute.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

KIND_LINES, KIND_LINES_PER_S = 200, 20 / 60
ALL_LINES, ALL_LINES_PER_S = 1000, 1.0
ALL_BYTES, ALL_BYTES_PER_S = 1_000_000, 500.0
"""At once, and in the long run: 28,800 lines a day of one kind; 86,400 lines and 43 MB a day of all."""
TOLD_S = 60.0


@dataclass(slots=True)
class _Budget:
    """So much at once, and then so much per second."""

    most: float
    per_s: float
    left: float
    at_s: float

    def has(self, wanted: float, now_s: float) -> bool:
        """Return whether so much may be used now."""
        self.left = min(self.most, self.left + self.per_s * (now_s - self.at_s))
        self.at_s = now_s
        return self.left >= wanted


class VolumeLimit:
    """Drops events beyond the bounds, and logs ``log.limited`` with their number. Debug events were asked for.

    Args:
        now_s: a clock, in seconds.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._kinds: dict[str, _Budget] = {}
        self._lines = _Budget(ALL_LINES, ALL_LINES_PER_S, ALL_LINES, now_s())
        self._bytes = _Budget(ALL_BYTES, ALL_BYTES_PER_S, ALL_BYTES, now_s())
        self._left_out: Counter[str] = Counter()
        self._will_tell = False

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Pass *event* on, or drop it."""
        kind = str(event.get("logger") or event.get("event"))  # an event of a library is a text, not a name
        if event.get("level") == "debug" or self._fits(kind, event):
            return event
        self._left_out[kind] += 1 + event.get("left_out", 0)
        with suppress(RuntimeError):  # no loop runs in this thread: the next one tells
            self._tell_later(asyncio.get_running_loop())
        raise structlog.DropEvent

    def tell(self) -> None:
        """Log what was left out since the last time."""
        left_out, self._left_out, self._will_tell = self._left_out, Counter(), False
        if left_out:
            log = structlog.get_logger("pyflanneld")
            log.warning("log.limited", lines=left_out.total(), kinds=dict(left_out.most_common()))

    def _tell_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._will_tell:
            loop.call_later(TOLD_S, self.tell)
            self._will_tell = True

    def _fits(self, kind: str, event: MutableMapping[str, Any]) -> bool:
        """Return whether there is room for *event*, and take it."""
        now_s, size_bytes = self._now_s(), len(ascii(event))
        own = self._kinds.setdefault(kind, _Budget(KIND_LINES, KIND_LINES_PER_S, KIND_LINES, now_s))
        if not own.has(1, now_s):
            return False
        own.left -= 1  # also when it is dropped below: who makes a noise is not rare
        first = "condition" in event or event.get("level") not in {"info", "warning"}
        kept = 0.0 if first else (1 - own.left / own.most) / 2  # of the common budgets, for what is rarer
        lines, data = self._lines, self._bytes
        if not (lines.has(1 + kept * lines.most, now_s) and data.has(size_bytes + kept * data.most, now_s)):
            return False
        lines.left -= 1
        data.left -= size_bytes
        return True
