"""Serves an aiohttp application to clients that may be slow or hostile: aiohttp does the HTTP, this bounds the clients.

There are few connections. Each has two seconds for its request, ten for the response, and ends with it. When all places
are taken, the connection that has waited longest without a complete request is closed for the new one: a client that
sends its request at once is answered, however many others stay silent. Connections are accepted one at a time, so that
each can send its request before later ones push it out; the others wait in the kernel. One file descriptor is kept in
reserve, for a connection that comes when the process has no other left: asyncio's own servers pause for a second then.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

CONNECTIONS = 16
REQUEST_S = 2.0
RESPONSE_S = 10.0
REQUEST_BYTES = 4096
_IGNORED_BYTES = 256 * 1024  # read and forgotten: a client that still sends would not see that it is refused
_HALF_CLOSED_S = 0.05  # for aiohttp to see the request that came with the end
_PAUSE_S = 0.05
_STOP_S = 0.5
# What clients cause, and would fill the log with: no request, an "Expect" that cannot be repeated, an early end.
_BY_CLIENTS = (HttpProcessingError, UnicodeEncodeError, ConnectionError)

_log = logging.getLogger(__name__)
_log.addFilter(lambda record: record.exc_info is None or not isinstance(record.exc_info[1], _BY_CLIENTS))


class _Connection(asyncio.Protocol):
    """One connection: it passes on to aiohttp's protocol what is within its bounds.

    Attributes:
        http: aiohttp's protocol.
        busy: its request is complete, and is being answered.
    """

    def __init__(self, http: web.RequestHandler, ended: Callable[["_Connection"], None], *, request_bytes: int) -> None:
        self.http = http
        self.busy = False
        self._ended = ended
        self._left_bytes = request_bytes
        self._transport: asyncio.Transport | None = None
        self._deadline = asyncio.get_running_loop().call_later(REQUEST_S, self.abort)

    def expire_in(self, seconds: float) -> None:
        """Close the connection after so many seconds, instead of at the time that was set before."""
        self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """Close the connection, whatever is still to be sent."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.http.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._left_bytes > 0:
            self.http.data_received(data[: self._left_bytes])
        self._left_bytes -= len(data)
        if self._left_bytes < -_IGNORED_BYTES:
            self.abort()

    def eof_received(self) -> bool:
        """Let a client have its answer that closes its half after the request, as some kinds of ``nc`` do."""
        if not self.busy:
            self.expire_in(_HALF_CLOSED_S)
        return True

    def pause_writing(self) -> None:
        self.http.pause_writing()

    def resume_writing(self) -> None:
        self.http.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()
        self.http.connection_lost(error)
        self._ended(self)


class Listener:
    """Serves *app* on one socket.

    Args:
        app: the application.
        connections: how many there may be at once.
        request_bytes: how long a request may be, with its body.
    """

    def __init__(
        self, app: web.Application, *, connections: int = CONNECTIONS, request_bytes: int = REQUEST_BYTES
    ) -> None:
        app.middlewares.insert(0, self._answer)
        app.on_response_prepare.append(_close_afterwards)
        self._app = app
        self._most = connections
        self._request_bytes = request_bytes
        self._connections: dict[web.RequestHandler, _Connection] = {}  # the oldest first
        self._serving = False
        self._reserve: int | None = None

    async def serve(self, listening: socket.socket) -> None:
        """Answer until cancelled; all connections are closed then. *listening* is the caller's to close."""
        line_bytes = self._request_bytes // 4
        runner = web.AppRunner(
            self._app, logger=_log, access_log=None, keepalive_timeout=0.0, lingering_time=0.0,
            max_line_size=line_bytes, max_field_size=line_bytes, shutdown_timeout=_STOP_S,
        )  # fmt: skip
        await runner.setup()
        self._serving = True
        self._take_reserve()
        try:
            while True:
                await self._admit(await self._accept(listening), cast(web.Server, runner.server))
        finally:
            self._serving = False
            for connection in self._connections.values():
                connection.abort()
            await runner.cleanup()
            self._release_reserve()

    async def _accept(self, listening: socket.socket) -> socket.socket:
        while True:
            await _readable(listening)  # without a descriptor, accept(2) fails whether or not somebody waits
            try:
                return self._accept_now(listening)
            except (BlockingIOError, ConnectionError):
                continue
            except OSError:  # no descriptor, no memory
                await asyncio.sleep(_PAUSE_S)  # for the connection that has got the reserve to send its request
                self._make_room()

    def _accept_now(self, listening: socket.socket) -> socket.socket:
        self._release_reserve()
        try:
            sock, _ = listening.accept()
            sock.setblocking(False)
            return sock
        finally:
            self._take_reserve()

    async def _admit(self, sock: socket.socket, server: web.Server) -> None:
        if len(self._connections) >= self._most and not self._make_room():
            sock.close()  # all others have sent their requests; this client may try again
            return
        connection = _Connection(server(), self._ended, request_bytes=self._request_bytes)
        self._connections[connection.http] = connection
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except OSError:
            self._ended(connection)
            sock.close()

    def _make_room(self) -> bool:
        """Close the oldest connection without a complete request; return whether there was one."""
        idle = next((one for one in self._connections.values() if not one.busy), None)
        if idle is None:
            return False
        del self._connections[idle.http]
        idle.abort()
        return True

    def _ended(self, connection: _Connection) -> None:
        self._connections.pop(connection.http, None)
        asyncio.get_running_loop().call_soon(self._take_reserve)  # its descriptor is free by then

    def _take_reserve(self) -> None:
        if self._serving and self._reserve is None:
            with suppress(OSError):
                self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _release_reserve(self) -> None:
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            os.close(reserve)

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request that is complete; from now on its connection has the time for the response.

        The body is read first, wanted or not: to a client that still sends it, an early end is a broken connection.
        """
        size_bytes = request.content_length or 0
        if size_bytes > self._request_bytes:
            raise web.HTTPRequestEntityTooLarge(max_size=self._request_bytes, actual_size=size_bytes)
        try:
            await request.read()
        except web.RequestPayloadError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        if (connection := self._connections.get(request.protocol)) is not None:
            connection.busy = True
            connection.expire_in(RESPONSE_S)
        try:
            return await handler(request)
        except BlockingIOError as error:  # no thread for it (``system.threads``)
            raise web.HTTPServiceUnavailable(text=f"{error.strerror}: try again") from error


async def _close_afterwards(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers["Connection"] = "close"  # aiohttp chose its own before this was called
    response.headers.pop("Server", None)


async def _readable(sock: socket.socket) -> None:
    loop, found = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, found.set)
    try:
        await found.wait()
    finally:
        loop.remove_reader(sock)
