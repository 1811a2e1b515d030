"""What the listeners serve: the daemon's status and its log. It needs no aiohttp, so that a start can load it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pyflanneld.core.status.report import Health, Report
from pyflanneld.core.status.table_view import PeerRow, RouteRow
from pyflanneld.state.counters import Counters

MetricsText = Callable[[], Awaitable[tuple[bytes, str]]]
"""Returns the metrics and their content type."""


class StatusSource(Protocol):
    """The daemon's status; ``daemon.status_source.DaemonStatus`` is one. Reading the kernel raises ``KernelError``."""

    @property
    def counters(self) -> Counters:
        """What has happened since the start."""
        ...

    @property
    def begun(self) -> Mapping[str, int]:
        """How often each condition has been reported, by event."""
        ...

    def health(self) -> Health:
        """Return what the probes are answered."""
        ...

    def status(self, log_level: str = "info") -> Report:
        """Return the report of this moment."""
        ...

    async def peers(self) -> tuple[PeerRow, ...]:
        """Return a row for each peer."""
        ...

    async def routes(self) -> tuple[RouteRow, ...]:
        """Return a row for each destination."""
        ...


@dataclass(frozen=True, slots=True)
class LogAccess:
    """The daemon's log.

    Attributes:
        level: returns its level.
        set_level: changes it; raises ``ValueError`` for an unknown level.
        events: returns its last events, the oldest first.
    """

    level: Callable[[], str]
    set_level: Callable[[str], None]
    events: Callable[[], Sequence[Mapping[str, Any]]]
