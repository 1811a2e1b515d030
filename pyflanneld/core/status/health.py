"""Whether the daemon is alive and whether it does its job, derived from facts; nothing here measures anything."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """The answer for the probes.

    Attributes:
        live: every core loop still turns. Never depends on etcd: a restart does not cure etcd.
        not_ready: why the node cannot be trusted with traffic right now, one short sentence each; empty when ready.
        not_live: why it is not alive; these are among *not_ready* too.
    """

    live: bool
    not_ready: tuple[str, ...]
    not_live: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Say whether nothing stands against readiness."""
        return self.live and not self.not_ready


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something besides the open conditions that stands against readiness.

    Attributes:
        event: a name as the log's events have, the key of its hint.
        text: one short sentence.
        since_s: when it began, on the clock's scale; ``None``: at the start, or not known.
    """

    event: str
    text: str
    since_s: float | None = None
