"""A small HTTP server that slow or hostile clients cannot block: one connection, one request, one response.

Each connection is one task: two seconds for the request, bounds on its size, ten seconds for the response. There are
few places. When all are taken, the connection that has waited longest without a complete request is closed for the new
one: a client that sends its request at once is answered, however many others stay silent. Connections are accepted one
at a time, so that each can send its request before later ones push it out; the others wait in the kernel. One file
descriptor is kept in reserve, for a connection that comes when the process has no other left.

The HTTP is what probes, Prometheus, browsers and ``curl`` need: no keep-alive, no chunked requests; what has not
exactly this form is refused with 400. A server library would take 9 MB and 0.3 s of each start, and its connections
would still have to be bounded from outside.
"""

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus

CONNECTIONS = 16
REQUEST_S = 2.0
RESPONSE_S = 10.0
HEAD_BYTES = 4096
_BODY_BYTES = 1024
_LINGER_S = 0.5
_LINGER_BYTES = 256 * 1024
_PAUSE_S = 0.05
_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) (/[\x21-\x7e]*) HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request.

    Attributes:
        path: as it was sent, without the query.
        query: what follows the ``?``.
        headers: by name in lower case.
        connection: the socket, by which the kernel knows the sender.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    connection: socket.socket


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; *headers* are those besides the ones that each answer has."""

    body: bytes = b""
    status: int = 200
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Response]]
Routes = Mapping[str, Mapping[str, Handler]]
"""The handlers by path and method; that of ``GET`` answers ``HEAD`` too."""


class BadRequest(Exception):
    """A request that no handler gets to see."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def dispatch(routes: Routes) -> Handler:
    """Return a handler that passes each request on by path and method, or answers 404 or 405."""

    async def handle(request: Request) -> Response:
        methods = routes.get(request.path)
        if methods is None:
            return Response(b"not found", 404)
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = ",".join(name.replace("GET", "GET,HEAD") for name in methods)
            return Response(b"method not allowed", 405, headers={"Allow": allowed})
        return await handler(request)

    return handle


class Listener:
    """Answers the connections to one socket.

    Args:
        handler: answers one request; an exception of its own becomes a 500 and is logged.
        connections: how many there may be at once.
        head_bytes: how long request line and headers may be together.
    """

    def __init__(self, handler: Handler, *, connections: int = CONNECTIONS, head_bytes: int = HEAD_BYTES) -> None:
        self._handler = handler
        self._connections = connections
        self._head_bytes = head_bytes
        self._busy: dict[asyncio.Task[None], bool] = {}  # each connection, the oldest first; not busy: may be closed
        self._reserve: int | None = None

    async def serve(self, listening: socket.socket) -> None:
        """Answer until cancelled; all connections are closed then. *listening* is the caller's to close."""
        self._take_reserve()
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    sock = await self._accept(listening)
                    if len(self._busy) >= self._connections and not self._make_room():
                        sock.close()  # all others have sent their requests; this client may try again
                        continue
                    task = tasks.create_task(self._converse(sock), name="http")
                    self._busy[task] = False
                    task.add_done_callback(partial(self._close, sock))
        finally:
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

    def _make_room(self) -> bool:
        """Close the oldest connection that is not being answered; return whether there was one."""
        idle = next((task for task, busy in self._busy.items() if not busy), None)
        if idle is None:
            return False
        del self._busy[idle]
        idle.cancel()  # or it has just ended by itself
        return True

    def _close(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._busy.pop(task, None)
        sock.close()
        self._take_reserve()

    def _take_reserve(self) -> None:
        if self._reserve is None:
            with suppress(OSError):
                self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _release_reserve(self) -> None:
        reserve, self._reserve = self._reserve, None
        if reserve is not None:
            os.close(reserve)

    async def _converse(self, sock: socket.socket) -> None:
        """Read a request, answer it, and see the client off."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - this is one
        with suppress(OSError):  # it has gone, or its time is up
            request: Request | BadRequest
            try:
                async with asyncio.timeout(REQUEST_S):
                    request = await _receive(sock, self._head_bytes)
            except BadRequest as error:
                request = error
            self._busy[task] = True
            async with asyncio.timeout(RESPONSE_S):
                await loop.sock_sendall(sock, await self._answer(request))
            self._busy[task] = False
            await _linger(sock)

    async def _answer(self, request: Request | BadRequest) -> bytes:
        if isinstance(request, BadRequest):
            return _encode(Response(str(request).encode(), request.status))
        try:
            return _encode(await self._handler(request), with_body=request.method != "HEAD")
        except Exception:  # a defect must neither end the daemon nor leave the client without an answer
            _log.exception("%s %s failed", request.method, request.path)
            return _encode(Response(b"internal error", 500))


async def _readable(sock: socket.socket) -> None:
    loop, found = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, found.set)
    try:
        await found.wait()
    finally:
        loop.remove_reader(sock)


async def _receive(sock: socket.socket, head_bytes: int) -> Request:
    """Read one request.

    Raises:
        BadRequest: it is none, or too long.
        ConnectionError: the client has gone.
    """
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) >= head_bytes:
            raise BadRequest("the request is too long")
        data += await _chunk(sock, head_bytes - len(data))
        if not data[:1].isupper():  # TLS, for example
            raise BadRequest("this is no request")
    method, target, headers = _parse_head(data[:end])
    length, body = _body_length(headers), data[end + 4 :]
    while len(body) < length:
        body += await _chunk(sock, length - len(body))
    path, _, query = target.partition("?")
    return Request(method, path, query, headers, body[:length], sock)


async def _chunk(sock: socket.socket, most: int) -> bytes:
    data = await asyncio.get_running_loop().sock_recv(sock, most)
    if not data:
        raise ConnectionAbortedError("the client has stopped in the middle")
    return data


def _parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Return method, target and headers; a header that comes twice has both values. Raises ``BadRequest``."""
    first, *lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequest("this is no request of HTTP 1.1")
    headers: dict[str, str] = {}
    for match in map(_HEADER.fullmatch, lines):
        if match is None:
            raise BadRequest("a header is malformed")
        name, value = match[1].decode().lower(), match[2].decode("latin-1").strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return line[1].decode(), line[2].decode(), headers


def _body_length(headers: Mapping[str, str]) -> int:
    """Return the length of the body in bytes. Raises ``BadRequest``."""
    if "expect" in headers:
        raise BadRequest("nothing can be expected before the answer", HTTPStatus.EXPECTATION_FAILED)
    if "transfer-encoding" in headers:
        raise BadRequest("a body needs a Content-Length", HTTPStatus.LENGTH_REQUIRED)
    length = headers.get("content-length", "0")
    if re.fullmatch("[0-9]{1,20}", length) is None:
        raise BadRequest("the Content-Length is no number")
    if int(length) > _BODY_BYTES:
        raise BadRequest("the body is too long", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return int(length)


def _encode(response: Response, *, with_body: bool = True) -> bytes:
    headers = {
        "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
        "Content-Type": response.content_type,
        "Content-Length": str(len(response.body)),
        "Connection": "close",
        **response.headers,
    }
    first = f"HTTP/1.1 {int(response.status)} {HTTPStatus(response.status).phrase}"
    head = "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items())])
    return f"{head}\r\n\r\n".encode("latin-1") + (response.body if with_body else b"")


async def _linger(sock: socket.socket) -> None:
    """End the answer, and wait for the client to close: data that nobody reads makes the kernel reset the connection,
    and the client may lose the answer."""
    sock.shutdown(socket.SHUT_WR)
    left = _LINGER_BYTES
    async with asyncio.timeout(_LINGER_S):
        while left > 0 and (data := await asyncio.get_running_loop().sock_recv(sock, 65536)):
            left -= len(data)
