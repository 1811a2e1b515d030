"""The daemon's reports as JSON: ``/status``, ``/peers``, ``/routes`` and ``/events``, for commands and scripts.

Fields are only ever added.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pyflanneld.core.status.report import Health, Report
from pyflanneld.core.status.table_view import PeerRow, RouteRow
from pyflanneld.errors import KernelError
from pyflanneld.http.listener import Handler, Request, Response, Routes
from pyflanneld.state.counters import Counters

_MANY = 200
JSON = "application/json; charset=utf-8"


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


def report_routes(source: StatusSource, log: LogAccess) -> Routes:
    """Return the handlers of the four reports."""

    async def status(_request: Request) -> Response:
        return await json_response(source.status(log.level()))

    async def peers(_request: Request) -> Response:
        return await json_response(await source.peers())

    async def routes(_request: Request) -> Response:
        return await json_response(await source.routes())

    async def events(_request: Request) -> Response:
        return await json_response(tuple(log.events()))

    reports = {"/status": status, "/peers": peers, "/routes": routes, "/events": events}
    return {path: {"GET": with_kernel(report)} for path, report in reports.items()}


def with_kernel(handler: Handler) -> Handler:
    """Return *handler*, answering 503 while the kernel cannot be read."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except KernelError as error:
            return Response(f"the kernel cannot be read: {error}".encode(), 503)

    return handle


async def json_response(value: object) -> Response:
    """Return *value*, which may hold dataclasses, as JSON; thousands of rows are encoded on a thread."""
    many = isinstance(value, tuple) and len(value) > _MANY
    body = await asyncio.to_thread(to_json, value) if many else to_json(value)
    return Response(body, content_type=JSON)


def to_json(value: object) -> bytes:
    """Encode *value*, which may hold dataclasses."""
    return json.dumps(value, default=asdict, allow_nan=False).encode()
