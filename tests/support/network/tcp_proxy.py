"""A TCP proxy with levers, to stand between a client and a real server.

    async with TcpProxy.before(etcd.members[0].url) as proxy:
        registry = EtcdV3Registry(EtcdAccess((proxy.url,), ...))
        proxy.cut()                 # reset all connections; new ones work
        proxy.refuse = True         # reset all connections, new ones too, until False again
        proxy.refuse_new = True     # reset the new ones only
        proxy.mute = True           # swallow what the server says, until False again
        proxy.mute_after = b"x"     # do so as soon as the client has sent these bytes
        proxy.slow = Slow(0.4, 1.2, 8000)   # what the server says comes so much later, and no faster
    proxy.idle = Idle(10, "reset")      # cut each connection on which nothing has passed for so long, as balancers do
"""

import asyncio
import random
import socket
import struct
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Slow:
    """A long, thin line: each piece takes from *least_s* to *most_s*, and its length at *bytes_per_s* on top."""

    least_s: float
    most_s: float
    bytes_per_s: float

    def arrival_s(self, size_bytes: int, now_s: float, last_s: float) -> float:
        """Return when a piece arrives that is sent now, behind one that arrives at *last_s*."""
        return max(now_s + random.uniform(self.least_s, self.most_s), last_s) + size_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Idle:
    """What a balancer does to a connection that was idle for *after_s*: ``reset`` it; ``close`` it; or ``half-close``
    it: say that no more will come, and take what the client still sends."""

    after_s: float
    how: str


class TcpProxy:
    """Forwards bytes both ways. Made by ``before``."""

    def __init__(self, scheme: str, host: str, port: int) -> None:
        self._scheme, self._host, self._port = scheme, host, port
        self._listening_on = 0
        self.refuse_new = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self.mute = False
        self.mute_after: bytes | None = None
        self.slow: Slow | None = None
        self.idle: Idle | None = None
        self._half_closed: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()
        self.connections = 0
        self.idle_cuts = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator["TcpProxy"]:
        """Listen on a free loopback port for *url* until the block ends."""
        parts = urlsplit(url)
        proxy = cls(parts.scheme, parts.hostname or "", parts.port or 0)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy._listening_on = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            proxy.cut()
            for handler in tuple(proxy._handlers):
                handler.cancel()
            if proxy._handlers:
                await asyncio.wait(proxy._handlers)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._listening_on}"

    @property
    def refuse(self) -> bool:
        return self.refuse_new

    @refuse.setter
    def refuse(self, value: bool) -> None:
        self.refuse_new = value
        if value:
            self.cut()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in tuple(self._writers):
            sock = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        self._writers.add(writer)
        self.connections += 1
        try:
            if not self.refuse_new:
                await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(self._host, self._port)
        self._writers.add(back_writer)
        loop = asyncio.get_running_loop()
        passed = [loop.time()]
        pumps = {
            asyncio.create_task(self._pump(reader, back_writer, passed, says_server=False)),
            asyncio.create_task(self._pump(back_reader, writer, passed, says_server=True)),
            asyncio.create_task(self._idled(passed, writer)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            self._writers.discard(back_writer)
            back_writer.transport.abort()

    async def _idled(self, passed: list[float], writer: asyncio.StreamWriter) -> None:
        """Return when nothing has passed for too long and the connection is to be closed."""
        loop = asyncio.get_running_loop()
        while self.idle is None or loop.time() - passed[0] < self.idle.after_s:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.02)
        self.idle_cuts += 1
        sock = writer.get_extra_info("socket")
        if self.idle.how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif self.idle.how == "half-close":
            self._half_closed.add(writer)
            writer.write_eof()
            await asyncio.Event().wait()  # for the client to close it

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passed: list[float], *, says_server: bool
    ) -> None:
        loop, last_s = asyncio.get_running_loop(), 0.0
        try:
            while data := await reader.read(65536):
                passed[0] = loop.time()
                if self.mute_after and not says_server and self.mute_after in data:
                    self.mute, self.mute_after = True, None
                if says_server and (self.mute or writer in self._half_closed):
                    continue
                if says_server and self.slow:
                    last_s = self.slow.arrival_s(len(data), loop.time(), last_s)
                    loop.call_at(last_s, writer.write, data)
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            return
