"""What is wrong now, and since when, logged once and then ever more seldom; the source of readiness and status."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pyflanneld.ports import Clock

REMIND_S = 300.0
REMIND_CAP_S = 3600.0
"""A condition that lasts is logged again after five minutes, then after twice as long each time, at last every hour."""


@dataclass(slots=True)
class Condition:
    """Something that an operator should know.

    Attributes:
        event: the log event's name, for example ``"config.missing"``.
        text: one sentence, for readiness and status.
        cause: what makes it another condition when it changes.
        since_s: when it began, on the clock's scale.
        blocks: whether the node is not ready because of it.
        remind_at_s: when it is logged again if it lasts, and *remind_s* how long after the time before.
    """

    event: str
    text: str
    cause: str
    since_s: float
    blocks: bool
    remind_at_s: float
    remind_s: float = REMIND_S


class Conditions:
    """The open conditions by topic; a topic has one at a time.

    Attributes:
        begun: how often each has begun, by event.
    """

    def __init__(self, clock: Clock, log: Any) -> None:
        self._clock = clock
        self._log = log
        self._open: dict[str, Condition] = {}
        self.begun: Counter[str] = Counter()

    def report(
        self, topic: str, event: str, text: str, *, blocks: bool = True, cause: str = "", **fields: object
    ) -> None:
        """Report that something is wrong with *topic*; a repetition is logged seldom, another *cause* at once.

        Args:
            topic: what it is about.
            event: the log event.
            text: one sentence, which may carry numbers that change all the time.
            blocks: whether the node is not ready because of it.
            cause: what a person would call another condition when it changes.
            fields: for the log.
        """
        now = self._clock.now_s()
        known = self._open.get(topic)
        if known is not None and (known.event, known.cause) == (event, cause):
            known.text, known.blocks = text, blocks
            if now < known.remind_at_s:
                return
            known.remind_s = min(2 * known.remind_s, REMIND_CAP_S)
            known.remind_at_s = now + known.remind_s
            fields["for_s"] = round(now - known.since_s)
        else:
            since = known.since_s if known else now
            self.begun[event] += 1
            self._open[topic] = Condition(event, text, cause, since, blocks, now + REMIND_S)
        self._log.warning(event, condition=text, **fields)

    def resolve(self, topic: str, **fields: object) -> None:
        """Report that nothing is wrong with *topic*; logged only where something was."""
        known = self._open.pop(topic, None)
        if known is not None:
            lasted_s = round(self._clock.now_s() - known.since_s, 3)
            self._log.info("condition.resolved", topic=topic, was=known.event, lasted_s=lasted_s, **fields)

    def blocking(self) -> tuple[str, ...]:
        """Return the sentences that stand against readiness."""
        return tuple(one.text for one in self._open.values() if one.blocks)

    def open(self) -> dict[str, Condition]:
        """Return every open condition by topic."""
        return dict(self._open)
