"""What the operator's commands ask: the daemon's own account of itself, as JSON over HTTP.

``operator_app`` is the application, for an abstract AF_UNIX socket. Such names belong to the network namespace, as the
routes do; nothing is left on disk. Whoever is inside the namespace may read: it is told no more than ``ip route`` and
etcd tell, and no secrets. Changing something is for root and the daemon's own user.
"""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.status.report import Health, Report
from pyflanneld.core.status.table_view import PeerRow, RouteRow
from pyflanneld.core.strict_json import parse_object
from pyflanneld.errors import KernelError
from pyflanneld.http.listener import STREAM, Listener

_BODY_BYTES = 1024
_MANY = 200


class ReportSource(Protocol):
    """Who answers; ``daemon.status_source.Observer`` does. Reading the kernel raises ``KernelError``."""

    def health(self) -> Health:
        """Return what the probes are told."""
        ...

    def status(self, log_level: str) -> Report:
        """Return the report of this moment."""
        ...

    async def peers(self) -> tuple[PeerRow, ...]:
        """Return a row for each peer."""
        ...

    async def routes(self) -> tuple[RouteRow, ...]:
        """Return a row for each destination."""
        ...


@dataclass(frozen=True, slots=True)
class StatusSource:
    """What the application tells of.

    Attributes:
        source: the state.
        level: returns the log's level.
        set_level: changes it; raises ``ValueError`` for what is no level.
        events: returns the last events of the log, the oldest first.
    """

    source: ReportSource
    level: Callable[[], str]
    set_level: Callable[[str], None]
    events: Callable[[], Sequence[Mapping[str, Any]]]


def operator_app(told: StatusSource, *, may_change: Callable[[web.Request], bool]) -> web.Application:
    """Return the application.

    Args:
        told: what it tells of.
        may_change: whether whoever sends a request may change something.
    """

    async def health(_request: web.Request) -> web.Response:
        verdict = told.source.health()
        return await _answer(asdict(verdict) | {"ready": verdict.ready})

    async def level(_request: web.Request) -> web.Response:
        return await _answer({"level": told.level()})

    async def set_level(request: web.Request) -> web.Response:
        if not may_change(request):
            raise web.HTTPForbidden(text="only root and the daemon's own user may change its log level")
        try:
            told.set_level(_level(await request.read()))
        except (ValueError, web.RequestPayloadError) as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return await level(request)

    app = web.Application(client_max_size=_BODY_BYTES, middlewares=[unavailable_response])
    add_reports(app, told)
    app.router.add_get("/health", health)
    app.router.add_get("/log-level", level)
    app.router.add_post("/log-level", set_level)
    return app


def add_reports(app: web.Application, told: StatusSource, *, live: Handler | None = None) -> None:
    """Have *app* answer with the report, the peers, the routes and the last events.

    Args:
        app: the application.
        told: what it tells of.
        live: answers those who would rather have a stream than the last events; ``None``: nobody gets one.
    """
    source = told.source

    async def status(_request: web.Request) -> web.Response:
        return await _answer(source.status(told.level()))

    async def peers(_request: web.Request) -> web.Response:
        return await _answer(await source.peers())

    async def routes(_request: web.Request) -> web.Response:
        return await _answer(await source.routes())

    async def events(request: web.Request) -> web.StreamResponse:
        if live is not None and request.method == "GET" and STREAM in request.headers.get("Accept", ""):
            return await live(request)
        return await _answer(tuple(told.events()))

    app.router.add_get("/status", status)
    app.router.add_get("/peers", peers)
    app.router.add_get("/routes", routes)
    app.router.add_get("/events", events)


@web.middleware
async def unavailable_response(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 503 while the kernel cannot be read."""
    try:
        return await handler(request)
    except KernelError as error:
        raise web.HTTPServiceUnavailable(text=f"the kernel cannot be read: {error}") from error


def _level(body: bytes) -> str:
    """Return the level that a request asks for. Raises ``Invalid``."""
    name = parse_object(body, "the body").get("level")
    if not isinstance(name, str):
        raise Invalid("no_level", "level", name, 'the name of a level, as in {"level": "debug"}')
    return name


async def _answer(value: object) -> web.Response:
    """Return *value* as JSON; thousands of rows are put into words on a thread."""
    many = isinstance(value, tuple) and len(value) > _MANY
    body = await asyncio.to_thread(_dumped, value) if many else _dumped(value)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def _dumped(value: object) -> bytes:
    return json.dumps(value, default=_plain, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    return asdict(value)


def root_or_own_user(request: web.Request) -> bool:
    """Say whether the request's sender, by the kernel's word, is root or the user that runs this daemon."""
    sock: Any = request.transport and request.transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return False
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] in (0, os.geteuid())


def operator_listener(told: StatusSource, name: str) -> Listener:
    """Return the listener for the operators' commands, on the abstract socket *name*."""
    return Listener(operator_app(told, may_change=root_or_own_user), partial(abstract_socket, name))


def abstract_socket(name: str) -> socket.socket:
    """Return a socket bound to the abstract *name* (with its leading NUL). Raises ``OSError``: taken, or forbidden."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(name)
    except OSError:
        sock.close()
        raise
    return sock
