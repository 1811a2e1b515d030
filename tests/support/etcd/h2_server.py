"""An HTTP/2 server that does what a test says, frame by frame: right, wrong, or nothing.

async def script(peer: Peer) -> None:              # runs for each connection
    call = await peer.request()                    # the next call whose request is complete
    peer.answer(call, rpc.RangeResponse(...))      # headers, one message, trailers

async with playing(script) as server:
    endpoint = Endpoint(server.url, None)
"""

import asyncio
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from hyperframe.frame import GoAwayFrame

HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
CUT = 8192


def framed(message: Message) -> bytes:
    """Return a message as gRPC sends it."""
    body = message.SerializeToString()
    return struct.pack(">?I", False, len(body)) + body


class Peer(asyncio.Protocol):
    """The server's end of one connection.

    Attributes:
        h2: what writes the frames; call ``flush`` after using it.
        resets: the streams that the client has reset, and the error code.
        lost: set when the connection is closed.
        gone: whether GOAWAY was sent.
    """

    def __init__(self, accepted: Callable[["Peer"], None]) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="ascii"))
        self.resets: dict[int, int] = {}
        self.paths: dict[int, str] = {}
        self.sent: dict[int, bytes] = {}
        self.lost = asyncio.Event()
        self.gone = False
        self._accepted = accepted
        self._begun = False
        self._requests: asyncio.Queue[int] = asyncio.Queue()
        self._moved = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        self._accepted(self)

    def begin(self) -> None:
        """Send SETTINGS; ``playing`` does it unless it is told not to. Nothing of HTTP/2 is sent before."""
        self._begun = True
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._moved.set()
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            return  # a script that speaks no HTTP/2
        for event in events:
            match event:
                case RequestReceived():
                    self.paths[event.stream_id] = dict(event.headers)[":path"]
                    self.sent[event.stream_id] = b""
                case DataReceived():
                    self.sent[event.stream_id] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    if not self.paths[event.stream_id].endswith(("Range", "Txn")):
                        self._requests.put_nowait(event.stream_id)
                case StreamEnded():
                    self._requests.put_nowait(event.stream_id)
                case StreamReset():
                    self.resets[event.stream_id] = event.error_code
                case WindowUpdated() | ConnectionTerminated():
                    pass
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.lost.set()

    async def request(self) -> int:
        """Return the stream of the next call: when its request has ended, or each message of a stream's."""
        return await self._requests.get()

    async def moved(self) -> None:
        """Wait until the client has sent anything."""
        self._moved.clear()
        await self._moved.wait()

    def flush(self) -> None:
        if self._begun:
            self.transport.write(self.h2.data_to_send())

    def head(self, call: int) -> None:
        """Send the headers of an answer."""
        self.h2.send_headers(call, HEADERS)
        self.flush()

    def say(self, call: int, data: bytes, *, end: bool = False) -> None:
        """Send data that fits the window."""
        for start in range(0, len(data), CUT):
            self.h2.send_data(call, data[start : start + CUT])
        if end:
            self.h2.end_stream(call)
        self.flush()

    async def pour(self, call: int, data: bytes) -> None:
        """Send data as the windows allow."""
        while data and call not in self.resets and not self.lost.is_set():
            room = min(self.h2.local_flow_control_window(call), CUT)
            if not room:
                await self.moved()
                continue
            self.say(call, data[:room])
            data = data[room:]
            await asyncio.sleep(0)

    def status(self, call: int, code: int = 0, text: str = "") -> None:
        """End an answer."""
        self.h2.send_headers(call, [("grpc-status", str(code)), ("grpc-message", text)], end_stream=True)
        self.flush()

    def answer(self, call: int, message: Message) -> None:
        """Send a whole answer."""
        self.head(call)
        self.say(call, framed(message))
        self.status(call)

    def goaway(self, code: int = 0, words: bytes = b"", last: int = 2**31 - 1) -> None:
        """Say that no further call is taken; for ``h2`` the connection goes on."""
        self.transport.write(GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=words).serialize())
        self.gone = True


Script = Callable[[Peer], Awaitable[None]]


class Playing:
    """The running server.

    Attributes:
        url: its endpoint.
        peers: all connections so far.
    """

    def __init__(self, url: str, peers: list[Peer]) -> None:
        self.url, self.peers = url, peers


@asynccontextmanager
async def playing(*scripts: Script, settings: bool = True) -> AsyncIterator[Playing]:
    """Run a server; each connection plays the next script, those after the last play that one.

    The block fails with the first script that fails.
    """
    peers: list[Peer] = []
    tasks: list[asyncio.Task[None]] = []

    async def play(script: Script, peer: Peer) -> None:
        try:
            await script(peer)
        except Exception:
            traceback.print_exc()
            peer.transport.abort()
            raise

    def accepted(peer: Peer) -> None:
        if settings:
            peer.begin()
        script = scripts[min(len(peers), len(scripts) - 1)]
        peers.append(peer)
        tasks.append(asyncio.create_task(play(script, peer), name="script"))

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(accepted), "127.0.0.1", 0)
    try:
        yield Playing(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", peers)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        for peer in peers:
            peer.transport.abort()
        failed = await asyncio.gather(*tasks, return_exceptions=True)
    for error in failed:
        if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
            raise error
