"""A listener whose clients can hurt nobody: there are few connections, each has seconds, each answer closes its own.

One that streams (``text/event-stream``) may stay; how many there are of these, and how slow they may be, is for the
application to say.
"""

import asyncio
import math
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from pyflanneld.http.port import CONNECTIONS

HEAD_S = 2.0
ANSWER_S = 10.0
STREAM = "text/event-stream"
_LINE_BYTES = 1024
_STOP_S = 0.5
_SWEEP_S = 0.5


class _Refused(asyncio.Protocol):
    """A connection too many; whoever it is may try again."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Listener:
    """Serves an application, between ``start`` and ``stop``; where ``bind`` fails, ``start`` may be called again.

    Args:
        app: the application.
        bind: returns the bound socket; raises ``OSError``.
        connections: how many there may be at once.
        line_bytes: how long the request line, and each header, may be.
    """

    def __init__(
        self, app: web.Application, bind: Callable[[], socket.socket], *,
        connections: int = CONNECTIONS, line_bytes: int = _LINE_BYTES,
    ) -> None:
        app.middlewares.insert(0, self._asked)
        app.on_response_prepare.append(self._answering)
        self._app = app
        self._bind = bind
        self._connections = connections
        self._line_bytes = line_bytes
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._until: dict[Any, float] = {}  # connections, and when their time is up
        self._fresh: set[Any] = set()  # those that may have no transport yet

    async def start(self) -> None:
        """Bind and listen. Raises ``OSError``."""
        sock = self._bind()
        try:
            await self._serve(sock)
        except BaseException:
            sock.close()
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the listener and the connections; stopping twice, or before the start, does nothing."""
        server, self._server = self._server, None
        runner, self._runner = self._runner, None
        if server is not None:
            server.close()
        if runner is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * _STOP_S):
                    await runner.cleanup()

    async def _serve(self, sock: socket.socket) -> None:
        self._runner = web.AppRunner(
            self._app, access_log=None, handle_signals=False, keepalive_timeout=0.0, lingering_time=0.0,
            max_line_size=self._line_bytes, max_field_size=self._line_bytes, shutdown_timeout=_STOP_S,
        )  # fmt: skip
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if sock.family == socket.AF_UNIX else loop.create_server
        self._server = await make(self._connected, sock=sock, backlog=self._connections)

    def _connected(self) -> asyncio.Protocol:
        server = self._runner.server if self._runner else None
        if server is None or len(server.connections) >= self._connections:
            return _Refused()
        connection = server()
        loop = asyncio.get_running_loop()
        if not self._until:
            loop.call_later(_SWEEP_S, self._sweep)
        self._until[connection] = loop.time() + HEAD_S
        self._fresh.add(connection)
        return connection

    @web.middleware
    async def _asked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give whoever has asked the time to take the answer."""
        self._until[request.protocol] = asyncio.get_running_loop().time() + ANSWER_S
        return await handler(request)

    async def _answering(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let a stream stay; say that there will be no second answer."""
        if response.content_type == STREAM:
            self._until[request.protocol] = math.inf
        response.force_close()
        response.headers["Connection"] = "close"  # the header that aiohttp would set was decided before this
        response.headers.pop("Server", None)

    def _sweep(self) -> None:
        """Cut the connections that are too slow to ask, or to take their answer; forget those that have ended."""
        loop = asyncio.get_running_loop()
        for connection, until_s in list(self._until.items()):
            if connection.transport is not None and loop.time() > until_s:
                connection.transport.abort()
            elif connection.transport is None and connection not in self._fresh:
                del self._until[connection]
        self._fresh.clear()
        if self._until:
            loop.call_later(_SWEEP_S, self._sweep)
