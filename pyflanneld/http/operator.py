"""What the operator's commands ask: the daemon's own account of itself, as JSON over HTTP.

``operator_app`` is the application; ``OperatorSocket`` serves it on an abstract AF_UNIX socket. Such names belong to
the network namespace, as the routes do; nothing is left on disk. Whoever is inside the namespace may read: it is told
no more than ``ip route`` and etcd tell, and no secrets. Changing something is for root and the daemon's own user.

A client can hurt nobody: there are few connections, each has seconds, and each answer closes its own.
"""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from pyflanneld.core.health import Verdict
from pyflanneld.core.report import Report
from pyflanneld.core.rows import PeerRow, RouteRow
from pyflanneld.errors import KernelError

CONNECTIONS = 16
HEAD_S = 2.0
ANSWER_S = 10.0
_LINE_BYTES = 1024
_BODY_BYTES = 1024
_STOP_S = 0.5
_MANY = 200
_SWEEP_S = 0.5


class Source(Protocol):
    """Who answers; ``loops.observe.Observer`` does. Reading the kernel raises ``KernelError``."""

    def health(self) -> Verdict:
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
class Told:
    """What the application tells of.

    Attributes:
        source: the state.
        level: returns the log's level.
        set_level: changes it; raises ``ValueError`` for what is no level.
        events: returns the last events of the log, the oldest first.
    """

    source: Source
    level: Callable[[], str]
    set_level: Callable[[str], None]
    events: Callable[[], Sequence[Mapping[str, object]]]


def operator_app(told: Told, *, may_change: Callable[[web.Request], bool]) -> web.Application:
    """Return the application.

    Args:
        told: what it tells of.
        may_change: whether whoever sends a request may change something.
    """
    source = told.source

    async def health(_request: web.Request) -> web.Response:
        return await _answer(asdict(source.health()) | {"ready": source.health().ready})

    async def status(_request: web.Request) -> web.Response:
        return await _answer(source.status(told.level()))

    async def peers(_request: web.Request) -> web.Response:
        return await _answer(await source.peers())

    async def routes(_request: web.Request) -> web.Response:
        return await _answer(await source.routes())

    async def events(_request: web.Request) -> web.Response:
        return await _answer(tuple(told.events()))

    async def level(_request: web.Request) -> web.Response:
        return await _answer({"level": told.level()})

    async def set_level(request: web.Request) -> web.Response:
        if not may_change(request):
            raise web.HTTPForbidden(text="only root and the daemon's own user may change its log level")
        try:
            told.set_level(str((await request.json())["level"]))
        except (ValueError, KeyError, TypeError) as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return await level(request)

    app = web.Application(client_max_size=_BODY_BYTES, middlewares=[_unavailable])
    app.router.add_get("/health", health)
    app.router.add_get("/status", status)
    app.router.add_get("/peers", peers)
    app.router.add_get("/routes", routes)
    app.router.add_get("/events", events)
    app.router.add_get("/log-level", level)
    app.router.add_post("/log-level", set_level)
    app.on_response_prepare.append(_close_after)
    return app


@web.middleware
async def _unavailable(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except KernelError as error:
        raise web.HTTPServiceUnavailable(text=f"the kernel cannot be read: {error}") from error


async def _answer(value: object) -> web.Response:
    """Return *value* as JSON; thousands of rows are put into words on a thread."""
    many = isinstance(value, tuple) and len(value) > _MANY
    body = await asyncio.to_thread(_dumped, value) if many else _dumped(value)
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def _dumped(value: object) -> bytes:
    return json.dumps(value, default=_plain, allow_nan=False).encode()


def _plain(value: Any) -> Any:
    return asdict(value)


async def _close_after(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers["Connection"] = "close"
    response.headers.pop("Server", None)


def root_or_own_user(request: web.Request) -> bool:
    """Say whether the request's sender, by the kernel's word, is root or the user that runs this daemon."""
    sock: Any = request.transport and request.transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return False
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] in (0, os.geteuid())


class _Refused(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class OperatorSocket:
    """Serves the application on an abstract socket, between ``start`` and ``stop``.

    Args:
        name: the abstract name, with its leading NUL.
        app: the application.
    """

    def __init__(self, name: str, app: web.Application) -> None:
        self._name = name
        app.middlewares.append(self._note)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, keepalive_timeout=0.0, lingering_time=0.0,
            max_line_size=_LINE_BYTES, max_field_size=_LINE_BYTES, shutdown_timeout=_STOP_S,
        )  # fmt: skip
        self._server: asyncio.Server | None = None
        self._open: dict[Any, float] = {}  # connections, and since when
        self._asked: set[Any] = set()

    async def start(self) -> None:
        """Bind and listen. Raises ``OSError``: the name is taken, or sockets are forbidden."""
        await self._runner.setup()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(self._name)
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._connected, sock=sock, backlog=CONNECTIONS
            )
        except BaseException:
            sock.close()
            await self._runner.cleanup()
            raise

    async def stop(self) -> None:
        """Close the listener and the connections."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self._runner.cleanup()

    def _connected(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None  # noqa: S101 - set up before the listener
        if len(server.connections) >= CONNECTIONS:
            return _Refused()
        connection = server()
        if not self._open:
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        self._open[connection] = asyncio.get_running_loop().time()
        return connection

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Remember that this connection has asked."""
        self._asked.add(request.protocol)
        return await handler(request)

    def _sweep(self) -> None:
        """Cut the connections that are too slow to ask, or to take their answer."""
        now_s = asyncio.get_running_loop().time()
        for connection, since_s in list(self._open.items()):
            age_s = now_s - since_s
            if connection.transport is None and age_s > _SWEEP_S:
                del self._open[connection]
                self._asked.discard(connection)
            elif connection.transport is not None and age_s > (ANSWER_S if connection in self._asked else HEAD_S):
                connection.transport.abort()
        if self._open:
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
