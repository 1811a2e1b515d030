"""The last events of the log, kept in memory for whoever asks: a processor behind ``logsafe``, so all is safe."""

import itertools
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any

KEPT = 200
_LEVELS = frozenset({"info", "warning", "error", "critical"})


class Recent:
    """Keeps the last events of level info or above, each with a number that only grows."""

    def __init__(self, kept: int = KEPT) -> None:
        self._events: deque[Mapping[str, Any]] = deque(maxlen=kept)
        self._numbers = itertools.count(1)

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Keep *event* and pass it on."""
        if event.get("level") in _LEVELS and "logger" not in event:  # not those of libraries
            fields = {name: value for name, value in event.items() if name not in ("timestamp", "level", "event")}
            self._events.append(
                {
                    "number": next(self._numbers), "time": event.get("timestamp"), "level": event["level"],
                    "event": event.get("event"), "fields": fields,
                }
            )  # fmt: skip
        return event

    def events(self, after: int = 0) -> list[Mapping[str, Any]]:
        """Return the events with a number above *after*, the oldest first."""
        return [event for event in self._events if event["number"] > after]
