"""One HTTP/2 connection to a member: grpclib's protocol, and what it leaves open.

grpclib's own client is not used: it reads an answer of any length, opens its connections itself, and ends a wait by
cancelling the task of its caller. Its protocol is: streams, flow control and headers, over ``h2``. Added here:

* A connection is open when the server's SETTINGS have come. What speaks another protocol, or refuses our certificate
  after the handshake, fails here and not in a call.
* A frozen member, whose kernel still acknowledges, is found by a ping after 9 s without a byte, 5 s for any answer.
  That is before balancers cut what is idle for 10 s, and after the kernel has found a dead host, 8 s; while a ping is
  under way the kernel sends no probes. etcd closes the connection of a client that pings more
  often than every 5 s (``--grpc-keepalive-min-time``), or while no call is open, so there are pings only while one is,
  usually the watch. Its gRPC proxy of 3.4 does so at the fourth ping since it has last sent headers or data, which in
  30 s there are not. Without a ping the deadline of the next call finds the member: the connection is then *in doubt*.
  It gets no further call, and a ping at once.
* After GOAWAY ``h2`` takes no further frame. So it gets none: the calls under way come to their end, and the connection
  takes no new one.
* Frames that grpclib does not know, extensions for example, are ignored, as HTTP/2 demands; those that break the
  protocol end the connection. So does a server that takes no answers: they would fill the memory.

The reason for the end is kept, and every call that ends with it raises it.
"""

import asyncio
import struct
from collections.abc import Iterator
from typing import Final, cast

from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, H2Protocol
from h2.config import H2Configuration
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RemoteSettingsChanged
from h2.exceptions import FrameTooLargeError, ProtocolError
from hyperframe.frame import PingFrame

from pyflanneld.errors import ConnectionCut, NoAnswer, RegistryUnavailable
from pyflanneld.etcd.access import Timing
from pyflanneld.etcd.connections import failure, wrong_protocol

STREAMS: Final = 100
"""Calls at the same time on one connection."""
STREAM_WINDOW_BYTES: Final = 256 * 1024
"""What one stream may hold of what nobody has read yet, and what an answer costs that is refused by its length."""
CONNECTION_WINDOW_BYTES: Final = 8 * STREAM_WINDOW_BYTES  # so that a watch that nobody reads does not stop the calls
UNSENT_BYTES: Final = 1024 * 1024
"""Answers that a server which sends need not have taken."""

_PING: Final = PingFrame(0, b"still on").serialize()
_HEAD_BYTES: Final = 9
_FRAME_BYTES: Final = _HEAD_BYTES + 16_384  # what is allowed unless we say otherwise
_TYPE_AT: Final = 3
_GOAWAY: Final = 7
_SHOWN: Final = 60  # characters, or bytes, of what a server says
_H2: Final = H2Configuration(
    client_side=True,
    header_encoding="ascii",
    validate_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
)


class _NoRequests(AbstractHandler):
    """What grpclib's protocol asks for on the server's side."""

    def accept(self, stream: object, headers: object, release_stream: object) -> None:
        raise NotImplementedError

    def cancel(self, stream: object) -> None:
        pass

    def close(self) -> None:
        pass


class Http2(H2Protocol):
    """The connection. ``asyncio`` calls the methods that it inherits.

    Attributes:
        url: the member's.
        error: why it has ended; ``None`` while it is in use.
        lost: what the socket raised, where that has ended it.
        heard_at: when the last byte came, by the loop's clock.
    """

    def __init__(self, url: str, timing: Timing) -> None:
        config = Configuration(
            http2_connection_window_size=CONNECTION_WINDOW_BYTES, http2_stream_window_size=STREAM_WINDOW_BYTES
        ).__for_client__()
        super().__init__(_NoRequests(), config, _H2)
        self.url = url
        self._timing = timing
        self.error: RegistryUnavailable | None = None
        self.lost: OSError | None = None
        self.heard_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._rest = bytearray()
        self._opened = asyncio.Event()
        self._closed = asyncio.Event()
        self._retired = False
        self._pinged = False
        self._timer: asyncio.TimerHandle | None = None

    # What the calls use

    async def opened(self, give_up_at: float) -> None:
        """Wait for the server's first frame, until a time of the loop. Raises what has ended the connection."""
        try:
            async with asyncio.timeout_at(give_up_at):
                await self._opened.wait()
        except TimeoutError:
            self.end(NoAnswer(f"{self.url}: it accepts connections and says nothing"))
        self.check()

    @property
    def usable(self) -> bool:
        """Whether a call may begin."""
        return self.error is None and not self._retired and not self._transport.is_closing()

    def check(self) -> None:
        """Raise what has ended the connection, if it has ended."""
        if self.error is not None:
            raise type(self.error)(*self.error.args)

    def begin(self) -> None:
        """Say that a call begins. Raises ``RegistryUnavailable`` where there are too many."""
        self.check()
        if len(self.processor.streams) >= STREAMS:
            raise RegistryUnavailable(f"{self.url}: {STREAMS} calls are under way")
        if self._timer is None:
            self._look_in(self._timing.ping_s)

    def released(self) -> None:
        """Say that a call has ended."""
        if self._retired and not self.processor.streams:
            self.end(RegistryUnavailable(f"{self.url}: closed"))

    def retire(self) -> None:
        """Close the connection when the calls on it have ended."""
        self._retired = True
        self.released()

    def doubt(self) -> None:
        """Retire the connection because a call got no answer; the calls on it go on if it still works."""
        self.retire()
        if self.error is None and not self._pinged:
            self._ping()

    def end(self, error: RegistryUnavailable) -> None:
        """Close the connection at once; the calls on it raise *error*."""
        if self.error is not None:
            return
        self.error = error
        if self._timer is not None:
            self._timer.cancel()
        self.processor.close(str(error))
        self._transport.abort()  # closing it waits for a peer that may not read
        self._opened.set()

    async def closed(self) -> None:
        """Wait until the socket of an ended connection is closed."""
        await self._closed.wait()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send our SETTINGS."""
        self._transport = cast(asyncio.Transport, transport)
        self.heard_at = self._loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what the server has sent."""
        if self.error is not None:
            return
        self.heard_at = self._loop.time()
        if self._pinged:
            self._pinged = False
            self._look_in(self._timing.ping_s)
        opened = self._opened.is_set()
        try:
            for frame in self._frames(data):
                if frame[_TYPE_AT] == _GOAWAY:
                    self._goaway(frame)
                    continue
                for event in self.connection.feed(frame):
                    self._take(event)
        except ProtocolError as error:
            broken = RegistryUnavailable(f"{self.url}: broken HTTP/2: {str(error)[:_SHOWN]}")
            self.end(broken if opened else wrong_protocol(self.url, bytes(self._rest[:_SHOWN])))
        if self.error is None:
            self.connection.flush()
            if self._transport.get_write_buffer_size() > UNSENT_BYTES:
                self.end(RegistryUnavailable(f"{self.url}: it sends, and takes no answers"))

    def _frames(self, data: bytes) -> Iterator[bytes]:
        """Return the frames that are complete: RFC 9113, section 4.1.

        h2 refuses one that is too long only when all of it has come, 16 MB perhaps, or the length that the first
        letters of another protocol seem to be.
        """
        self._rest += data
        while len(self._rest) >= _HEAD_BYTES and self.error is None:
            size = int.from_bytes(self._rest[:3], "big") + _HEAD_BYTES
            if size > _FRAME_BYTES:
                raise FrameTooLargeError(f"a frame of {size} bytes")
            if len(self._rest) < size:
                return
            yield bytes(self._rest[:size])
            del self._rest[:size]

    def _goaway(self, frame: bytes) -> None:
        """Let the calls under way come to their end, unless the server gives a reason: RFC 9113, section 6.8."""
        last, code = struct.unpack_from(">II", frame + bytes(8), _HEAD_BYTES)
        words = frame[_HEAD_BYTES + 8 :].decode("ascii", "replace")[:_SHOWN]
        kind = ConnectionCut if code == ErrorCodes.ENHANCE_YOUR_CALM else RegistryUnavailable  # "too_many_pings"
        why = kind(f"{self.url}: it closes the connection (error {code}{words and ': '}{words})")
        if code:
            self.end(why)
        for number, stream in list(self.processor.streams.items()):
            if number > last:
                stream.__terminated__(str(why))
        self.retire()

    def _take(self, event: Event) -> None:
        if isinstance(event, RemoteSettingsChanged):
            self._opened.set()
        if isinstance(event, DataReceived) and not event.flow_controlled_length:
            return  # grpclib takes an empty frame for the end
        if type(event) in self.processor.processors:
            self.processor.process(event)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take note that the socket is closed."""
        self._lose(exc if isinstance(exc, OSError) else None)
        self._closed.set()

    def eof_received(self) -> None:
        """Take note that the server has closed its side."""
        self._lose(None)

    def _lose(self, error: OSError | None) -> None:
        if self.error is None:
            self.lost = error or ConnectionError("the server closed the connection")
            self.end(failure(self.url, self.lost))

    # Pings

    def _look_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        self._timer = None
        silent_s = self._loop.time() - self.heard_at
        if self._pinged:
            self.end(NoAnswer(f"{self.url}: no answer to a ping within {self._timing.ping_answer_s:g} s"))
        elif not self.processor.streams:
            return
        elif silent_s < self._timing.ping_s:
            self._look_in(self._timing.ping_s - silent_s)
        else:
            self._ping()

    def _ping(self) -> None:
        self._pinged = True
        self._transport.write(_PING)
        self._look_in(self._timing.ping_answer_s)
