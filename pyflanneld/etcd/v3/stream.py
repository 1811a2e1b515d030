"""One gRPC call on an HTTP/2 connection: messages in frames, the status at the end, and a limit for what is read.

Wire format: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Generic
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError
from grpclib import protocol
from grpclib.exceptions import StreamTerminatedError
from grpclib.utils import Wrapper
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from pyflanneld.errors import ConnectionCut, NotEtcd, RegistryUnavailable
from pyflanneld.etcd.v3.connection import Http2
from pyflanneld.etcd.v3.methods import A, Method, Q
from pyflanneld.etcd.v3.status import check_headers, check_status

ANSWER_BYTES: Final = 16 * 1024 * 1024
"""The largest message that is read, unless the caller allows less. etcd takes requests of 1.5 MB, if not told more."""

_FRAME: Final = struct.Struct(">?I")  # compressed, length

Metadata = Sequence[tuple[str, str]]


class AnswerTooLarge(RegistryUnavailable):
    """A message is longer than is allowed; it was not read."""


class Stream(Generic[Q, A]):
    """A call: ``begin`` it, ``send`` and ``receive``, and ``close`` it, whatever has happened.

    The three raise ``RegistryError``, and each needs a task of its own: grpclib ends their waits by cancelling it.

    Args:
        connect: returns the connection to use.
        method: what is called.
        metadata: headers of the call.
        max_bytes: how large an answer may be.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Http2]],
        method: Method[Q, A],
        metadata: Metadata,
        max_bytes: int = ANSWER_BYTES,
    ) -> None:
        self._connect = connect
        self._method = method
        self._metadata = metadata
        self._max_bytes = max_bytes
        self._wrapper = Wrapper()
        self._answered = False
        self._connection: Http2
        self._stream: protocol.Stream
        self._release: Callable[[], None] | None = None

    @property
    def received_bytes(self) -> int:
        """How much of the answers has come."""
        return 0 if self._release is None else self._stream.data_received

    async def begin(self) -> None:
        """Send the headers."""
        self._connection = connection = await self._connect()
        connection.begin()
        self._stream = connection.connection.create_stream(wrapper=self._wrapper)
        url = urlsplit(connection.url)
        headers = [
            (":method", "POST"), (":scheme", url.scheme), (":path", self._method.path), (":authority", url.netloc),
            ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "pyflanneld"), *self._metadata,
        ]  # fmt: skip
        with self._failures():
            self._release = await self._stream.send_request(headers, _processor=connection.processor)

    async def send(self, request: Q, *, last: bool = False) -> None:
        """Send a request."""
        body = request.SerializeToString()
        with self._failures():
            await self._stream.send_data(_FRAME.pack(False, len(body)) + body, end_stream=last)

    async def receive(self) -> A | None:
        """Return the next answer; ``None`` when the call has ended and its status is OK.

        Raises:
            AnswerTooLarge: the answer is not read.
            RegistryError: the status, or why there is none.
        """
        url = self._connection.url
        with self._failures():
            if not self._answered:
                headers = dict(await self._stream.recv_headers())
                check_headers(headers, url)
                self._answered = True
                if "grpc-status" in headers:  # no message, and no trailers
                    check_status(headers, url)
                    return None
            body = await self._body()
        try:
            return None if body is None else self._method.answer.FromString(body)
        except DecodeError as error:
            raise NotEtcd(f"{url}: an answer of {len(body or b'')} bytes cannot be read: {error}") from error

    async def _body(self) -> bytes | None:
        stream, url = self._stream, self._connection.url
        if not (head := await stream.recv_data(_FRAME.size)):
            if stream.trailers is None:
                raise NotEtcd(f"{url}: the answer ends without a status")
            check_status(dict(stream.trailers), url)
            return None
        compressed, size = _FRAME.unpack(head)
        if compressed:
            raise NotEtcd(f"{url}: the answer is compressed, which was not asked for")
        if size > self._max_bytes:
            raise AnswerTooLarge(f"{url}: an answer of {size} bytes; at most {self._max_bytes} are read")
        return await stream.recv_data(size)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Raise what has ended the call: its status, if that has come, or what has ended the connection."""
        url = self._connection.url
        try:
            with self._wrapper:
                yield
        except (StreamTerminatedError, ProtocolError) as error:
            last = dict(self._stream.trailers or self._stream.headers or ())
            if "grpc-status" in last:  # a server may reset a call after its status
                check_status(last, url)
            self._connection.check()
            raise ConnectionCut(f"{url}: {str(error) or type(error).__name__}") from error
        except AssertionError as error:  # grpclib's, when data ends in the middle of a message
            raise RegistryUnavailable(f"{url}: the answer was cut") from error

    def close(self) -> None:
        """End the call; the server is told if it goes on there."""
        release, self._release = self._release, None
        if release is not None:
            if self._stream.closable:
                self._stream.reset_nowait(ErrorCodes.CANCEL)
            release()
            self._connection.released()
