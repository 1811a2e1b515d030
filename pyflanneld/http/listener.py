"""A listener whose clients can hurt nobody: there are few connections, each has seconds, each answer closes its own.

Where all places are taken, the one that has been silent for longest makes room: whoever asks at once is answered,
however many others hold a connection open and say nothing. One that streams (``text/event-stream``) may stay; how many
there are of these, and how slow they may be, is for the application to say.

Connections are taken one at a time, so that each gets its turn to ask before the next ones push it out; the others wait
in the kernel. One descriptor is kept in reserve: when the process has no more, it makes room for one connection.
"""

import asyncio
import logging
import math
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.log import server_logger
from aiohttp.typedefs import Handler

from pyflanneld.http.bound_port import CONNECTIONS, WAITING
from pyflanneld.http.spare_descriptor import NO_DESCRIPTOR, SpareDescriptor

HEAD_S = 2.0
ANSWER_S = 10.0
STREAM = "text/event-stream"
_LINE_BYTES = 1024
_REQUEST_BYTES = 4096
_IGNORED_BYTES = 256 * 1024  # read and forgotten behind these: whoever still sends would not see the refusal
_STOP_S = 0.5
_SWEEP_S = 0.5
_HALF_S = 0.05  # for what has come with the end of sending to be read
_PAUSE_S = 0.05
# They send what is no request, an "Expect" that cannot be repeated, or are gone before "100 Continue".
_THEIRS = (HttpProcessingError, UnicodeEncodeError, ConnectionError)


def _is_ours(record: logging.LogRecord) -> bool:
    """Say whether aiohttp logs a defect of ours; what clients do, who may be anybody, would fill the log."""
    return record.exc_info is None or not isinstance(record.exc_info[1], _THEIRS)


class _Client(asyncio.Protocol):
    """One connection; what it sends is measured on its way to aiohttp's *inner* protocol.

    Attributes:
        until_s: when its time is up.
        asked: the head of its request is complete.
        mute: it sends no more; that it goes away is not seen.
    """

    def __init__(self, inner: Any, gone: Callable[["_Client"], None], *, until_s: float, most_bytes: int) -> None:
        self.inner = inner
        self.until_s = until_s
        self.asked = False
        self.mute = False
        self._gone = gone
        self._left_bytes = most_bytes
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass on what is within the bounds."""
        if self._left_bytes > 0:
            self.inner.data_received(data[: self._left_bytes])
        self._left_bytes -= len(data)
        if self._left_bytes < -_IGNORED_BYTES:
            self.cut()

    def pause_writing(self) -> None:
        """Pass it on."""
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self.inner.resume_writing()

    def eof_received(self) -> bool:
        """Answer whoever stops sending when it has asked, as some kinds of ``nc`` do; a stream ends."""
        self.mute = True
        asyncio.get_running_loop().call_later(_HALF_S, self._end_unless_asked)
        return not math.isinf(self.until_s)

    def _end_unless_asked(self) -> None:
        if not self.asked:
            self.cut()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        self.inner.connection_lost(error)
        self._gone(self)

    def cut(self) -> None:
        """Close the connection without ceremony."""
        if self._transport is not None:
            self._transport.abort()


class Listener:
    """Serves an application, between ``start`` and ``stop``; where ``bind`` fails, ``start`` may be called again.

    Args:
        app: the application.
        bind: returns the bound socket; raises ``OSError``.
        connections: how many there may be at once.
        line_bytes: how long the request line, and each header, may be.
        request_bytes: how long a request may be in all.
        answer_s: how long a client may take over its answer; 0 for what is left of the time to ask.
    """

    def __init__(
        self, app: web.Application, bind: Callable[[], socket.socket], *, connections: int = CONNECTIONS,
        line_bytes: int = _LINE_BYTES, request_bytes: int = _REQUEST_BYTES, answer_s: float | None = None,
    ) -> None:
        app.middlewares.insert(0, self._asked)
        app.on_response_prepare.append(self._answering)
        self._app = app
        self._bind = bind
        self._connections = connections
        self._line_bytes = line_bytes
        self._request_bytes = request_bytes
        self._answer_s = ANSWER_S if answer_s is None else answer_s
        self._runner: web.AppRunner | None = None
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._clients: dict[Any, _Client] = {}  # by aiohttp's protocol, the oldest first
        self._reserve = SpareDescriptor()

    async def start(self) -> None:
        """Bind and listen. Raises ``OSError``."""
        self._listening = sock = self._bind()
        try:
            sock.listen(WAITING)
            server_logger.addFilter(_is_ours)
            self._runner = web.AppRunner(
                self._app, access_log=None, handle_signals=False, keepalive_timeout=0.0, lingering_time=0.0,
                max_line_size=self._line_bytes, max_field_size=self._line_bytes, shutdown_timeout=_STOP_S,
            )  # fmt: skip
            await self._runner.setup()
        except BaseException:
            await self.stop()
            raise
        self._reserve.fill()
        self._accepting = asyncio.create_task(self._accept(sock), name="accept")

    async def stop(self) -> None:
        """Close the listener and the connections; stopping twice, or before the start, does nothing."""
        accepting, self._accepting = self._accepting, None
        runner, self._runner = self._runner, None
        if accepting is not None:
            accepting.cancel()
            await asyncio.wait([accepting])
        if self._listening is not None:
            self._listening.close()
        if runner is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(2 * _STOP_S):
                    await runner.cleanup()
        self._reserve.close()

    async def _accept(self, listening: socket.socket) -> None:
        """Take one connection after the other, until cancelled."""
        while True:
            sock = await self._next(listening)
            if len(self._clients) >= self._connections and not self._drop_silent():
                sock.close()  # all of them have asked; whoever it is may try again
                continue
            with suppress(OSError):
                await asyncio.get_running_loop().connect_accepted_socket(self._client, sock)

    async def _next(self, listening: socket.socket) -> socket.socket:
        """Wait for a connection, and accept it in the last step: a cancellation loses none that is open."""
        while True:
            await _readable(listening)  # without a descriptor, accept(2) fails whether or not somebody waits
            try:
                sock: socket.socket | None = listening.accept()[0]
            except OSError as error:
                sock = self._reserve.accept(listening) if error.errno in NO_DESCRIPTOR else None
            if sock is not None:
                sock.setblocking(False)
                return sock
            await asyncio.sleep(_PAUSE_S)  # for whoever has got the reserve to ask
            self._drop_silent()

    def _client(self) -> asyncio.Protocol:
        assert self._runner is not None and self._runner.server is not None  # noqa: S101, PT018 - while accepting
        inner, loop = self._runner.server(), asyncio.get_running_loop()
        client = _Client(inner, self._gone, until_s=loop.time() + HEAD_S, most_bytes=self._request_bytes)
        if not self._clients:
            loop.call_later(_SWEEP_S, self._sweep)
        self._clients[inner] = client
        return client

    def _gone(self, client: _Client) -> None:
        self._clients.pop(client.inner, None)
        asyncio.get_running_loop().call_soon(self._refill)  # by then its descriptor is free

    def _refill(self) -> None:
        if self._accepting is not None:
            self._reserve.fill()

    def _drop_silent(self) -> bool:
        """Make room: cut the oldest connection that has not asked yet, and say whether there was one."""
        silent = next((client for client in self._clients.values() if not client.asked), None)
        if silent is None:
            return False
        del self._clients[silent.inner]
        silent.cut()
        return True

    @web.middleware
    async def _asked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Give whoever has asked the time to take the answer."""
        if (client := self._clients.get(request.protocol)) is not None:
            client.asked = True
            answer_s = HEAD_S if client.mute else self._answer_s
            client.until_s = max(client.until_s, asyncio.get_running_loop().time() + answer_s)
        return await handler(request)

    async def _answering(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let a stream stay; say that there will be no second answer."""
        if response.content_type == STREAM and (client := self._clients.get(request.protocol)) is not None:
            client.until_s = math.inf
        response.force_close()
        response.headers["Connection"] = "close"  # the header that aiohttp would set was decided before this
        response.headers.pop("Server", None)

    def _sweep(self) -> None:
        """Cut the connections that are too slow to ask, or to take their answer."""
        loop = asyncio.get_running_loop()
        for inner, client in list(self._clients.items()):
            if loop.time() > client.until_s:
                del self._clients[inner]
                client.cut()
        if self._clients:
            loop.call_later(_SWEEP_S, self._sweep)


async def _readable(sock: socket.socket) -> None:
    loop, found = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, found.set)
    try:
        await found.wait()
    finally:
        loop.remove_reader(sock)
