"""One AF_NETLINK socket for requests, on the asyncio loop.

Why not pyroute2's sockets: what ``tests/unit/test_pyroute2_limits.py`` shows of them, and the test that shows it of
ours, in ``tests/integration/test_kernel_requests.py``. What pyroute2 can do one day may go here.

* a torn list is returned as if it were whole: ``test_torn_list``, ``test_torn_dump_is_repeated``;
* so is a list that the kernel gave up: ``test_list_that_failed``, ``test_list_with_an_errno``;
* after one ENOBUFS the object raises for ever: ``test_overrun``, ``test_lost_acknowledgements``;
* a batch has no errno for each of its messages: ``test_batch``, ``test_every_refusal_counts``;
* whoever sends a datagram, it counts: ``test_sender``, ``test_forged_answer``;
* a request's parser is dropped, so each message of a list would be decoded in full: ``test_parser``;
* what is not read yet is queued without bound: ``test_queue``; ``TestOverrun`` in ``test_kernel_netns.py``.

The rules here:

* one request at a time; an answer counts when its sequence number fits and the kernel (port 0) sent it;
* a request that does not end well (error, deadline, cancellation) closes the socket, so that late answers and a dump
  that is still running die with it; the next request opens a new one, in the network namespace of its thread;
* an answer that was lost (ENOBUFS), does not fit or is malformed is an error, never a shorter answer.

The kernel works inside ``send``, on our thread, so a batch is cut into chunks of a few milliseconds, and other tasks
run between them. The deadlines cover the wait for the answers, which are there by then unless something is wrong.

All lists are asked for with one sequence number, so an unchanged list comes in the same datagrams as before; what the
last ones held is remembered. That is sound because what does not end well closes the socket.

Of a chunk only the last message asks for an acknowledgement. The kernel answers in order, answers a refused message
whether it asked for that or not, and marks the socket when an answer did not fit, which the next read finds before
all else. So once the last answer is there, what was not refused has been done.

Wire format: netlink(7), include/uapi/linux/netlink.h.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from typing import Any, TypeVar

from pyroute2.netlink import (
    NETLINK_EXT_ACK,
    NETLINK_GET_STRICT_CHK,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOL_NETLINK,
)
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

from pyflanneld.errors import KernelError
from pyflanneld.netlink import frames
from pyflanneld.netlink.frames import Frame, KernelRefusal, Malformed, NetlinkRequest
from pyflanneld.netlink.messages import SO_RCVBUFFORCE, kernel_verdict

REQUEST_DEADLINE_S = 2.0
DUMP_DEADLINE_S = 5.0
DUMP_ATTEMPTS = 5
DUMP_PAUSE_S = 0.01  # after a torn dump; doubles
CHUNK = 64  # messages in one send

DATAGRAM_MAX = 1 << 16  # the kernel fills up to 32 KiB of it
_RECEIVE_BUFFER = 1 << 20  # an answer to a change costs about 1 KiB of it
_DATAGRAMS_KNOWN = 32  # 1 MiB, some 16,000 routes
_DUMP_SEQUENCE, _SEQUENCE_MAX = 1, 0xFFFFFFFF

C = TypeVar("C")
T = TypeVar("T")


class DumpRefused(KernelError):
    """The kernel does not want to give the list; *refusal* says why."""

    def __init__(self, refusal: KernelRefusal) -> None:
        super().__init__(f"netlink dump refused: {refusal}")
        self.refusal = refusal


def _dump_part(datagram: bytes) -> tuple[list[bytes], bool, bool]:
    """Return what *datagram* holds of a list, whether the kernel marks it as torn, and whether it is the last one.

    Raises ``DumpRefused``, ``Malformed``.
    """
    bodies: list[bytes] = []
    torn = 0
    for kind, flags, sequence, _, body in frames.frames(datagram):
        if sequence != _DUMP_SEQUENCE:
            continue
        torn |= flags & NLM_F_DUMP_INTR
        if kind in (NLMSG_DONE, NLMSG_ERROR):
            if (refusal := kernel_verdict(body)) is not None:
                raise DumpRefused(refusal)
            return bodies, torn != 0, True
        bodies.append(body)
    return bodies, torn != 0, False


def open_socket(*, groups: int = 0, receive_buffer: int = _RECEIVE_BUFFER) -> socket.socket:
    """Open a non-blocking route socket, bound, in the network namespace of the calling thread. Raises ``OSError``."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
        except PermissionError:  # no CAP_NET_ADMIN: as much as net.core.rmem_max allows
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        for option in (NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            with contextlib.suppress(OSError):  # before Linux 4.20: no reasons, no filter in the kernel
                sock.setsockopt(SOL_NETLINK, option, 1)
        sock.bind((0, groups))
    except BaseException:
        sock.close()
        raise
    return sock


def from_kernel(buffer: memoryview, received: tuple[int, Any]) -> bytes:
    """Return the datagram that ``recvfrom_into`` put into *buffer*; nothing if another process has sent it.

    Raises ``Malformed``: it may have been cut.
    """
    length, (port, _) = received
    if port != 0:
        return b""
    if length >= len(buffer):
        raise Malformed(f"datagram of {length} bytes")
    return bytes(buffer[:length])


class RequestSocket:
    """Requests to the kernel. Every method raises ``KernelError`` and is ready for the next call after it."""

    def __init__(
        self,
        open_: Callable[[], socket.socket] = open_socket,
        *,
        request_deadline_s: float = REQUEST_DEADLINE_S,
        dump_deadline_s: float = DUMP_DEADLINE_S,
    ) -> None:
        self._open = open_
        self._request_deadline_s = request_deadline_s
        self._dump_deadline_s = dump_deadline_s
        self._sock: socket.socket | None = None
        self._port: int | None = None
        self._buffer = memoryview(bytearray(DATAGRAM_MAX))
        self._dump_part = lru_cache(_DATAGRAMS_KNOWN)(_dump_part)
        self._sequence = _DUMP_SEQUENCE
        self._lock = asyncio.Lock()

    @property
    def port(self) -> int | None:
        """The address of the socket in use, by which notifications of our own changes are known."""
        return self._port

    async def dump(
        self, request: NetlinkRequest, read: Callable[[list[bytes]], Awaitable[T]],
        wanted: Callable[[bytes], bool] | None = None,
    ) -> T:
        """Return what *read* makes of the whole list that *request* asks for: the messages without their headers.

        *read* may raise ``ValueError``, and gets only what is *wanted*: a long list need not be held. A list that the
        kernel marks as torn is asked for again, a few times.

        Raises:
            KernelError: also when it is still torn after that; ``DumpRefused`` is one.
        """
        return await self._guarded(self._dump_deadline_s, partial(self._dump, request, read, wanted))

    async def transact(self, changes: Sequence[C], encode: Callable[[C, int, int], bytes]) -> dict[int, KernelRefusal]:
        """Send all *changes* in order and return the refused ones by their position.

        Args:
            encode: returns the message for a change, with these flags (beside its own) and this sequence number.

        Raises:
            KernelError: some or all may have been done.
        """
        refused: dict[int, KernelRefusal] = {}
        for start in range(0, len(changes), CHUNK):
            chunk = changes[start : start + CHUNK]
            refusals = await self._guarded(self._request_deadline_s, partial(self._exchange, chunk, encode))
            refused |= {start + position: refusal for position, refusal in refusals.items()}
            await asyncio.sleep(0)
        return refused

    async def ask(self, request: NetlinkRequest, decode: Callable[[bytes], T]) -> T | KernelRefusal:
        """Return the one message that answers *request*, through *decode* (may raise ``ValueError``), or the refusal.

        Raises:
            KernelError: no answer, or not the one that was due.
        """
        return await self._guarded(self._request_deadline_s, partial(self._ask, request, decode))

    async def close(self) -> None:
        """Close the socket after the request under way. The next request would open it again."""
        async with self._lock:
            self._abandon()

    async def _guarded(self, deadline_s: float, exchange: Callable[[], Awaitable[T]]) -> T:
        """Run one exchange alone, within its deadline; translate errors; leave no half-used socket behind."""
        async with self._lock:
            try:
                async with asyncio.timeout(deadline_s):
                    return await exchange()
            except BaseException as error:
                self._abandon()
                if isinstance(error, TimeoutError):
                    raise KernelError(f"netlink: no answer within {deadline_s:g} s") from error
                if isinstance(error, OSError | ValueError):
                    raise KernelError(f"netlink: {error}") from error
                raise

    async def _dump(
        self, request: NetlinkRequest, read: Callable[[list[bytes]], Awaitable[T]],
        wanted: Callable[[bytes], bool] | None,
    ) -> T:
        for attempt in range(DUMP_ATTEMPTS):
            try:
                found = await self._dump_once(request, wanted)
            except NetlinkDumpInterrupted:
                await asyncio.sleep(DUMP_PAUSE_S * 2**attempt)
            else:
                return await read(found)
        raise KernelError(f"netlink: the list changed while it was read, {DUMP_ATTEMPTS} times in a row")

    async def _dump_once(self, request: NetlinkRequest, wanted: Callable[[bytes], bool] | None) -> list[bytes]:
        """Return what is wanted of the list, read to its end. Raises ``NetlinkDumpInterrupted`` if it is torn."""
        sock = self._opened()
        asked = NetlinkRequest(request.kind, NLM_F_REQUEST | NLM_F_DUMP | request.flags, request.body)
        sock.send(frames.pack(asked, _DUMP_SEQUENCE))
        found: list[bytes] = []
        torn = False
        while True:
            bodies, torn_here, last = self._dump_part(await self._receive(sock))
            found += bodies if wanted is None else filter(wanted, bodies)
            torn |= torn_here
            if last:
                break
            await asyncio.sleep(0)  # long tables: the others have their turn after every 32 KiB
        if torn:
            raise NetlinkDumpInterrupted
        return found

    async def _exchange(self, changes: Sequence[C], encode: Callable[[C, int, int], bytes]) -> dict[int, KernelRefusal]:
        sock = self._opened()
        asked = self._next_sequences(len(changes))
        last = asked[-1]
        data = b"".join(
            encode(change, NLM_F_REQUEST | NLM_F_ACK * (number == last), number)
            for change, number in zip(changes, asked, strict=True)
        )
        if sock.send(data) != len(data):
            raise KernelError("netlink: the kernel took only a part of the batch")
        refused: dict[int, KernelRefusal] = {}
        while True:
            for kind, _, sequence, _, body in await self._answers(sock, asked):
                if kind != NLMSG_ERROR:
                    raise Malformed(f"message of type {kind} where an acknowledgement was due")
                if (refusal := kernel_verdict(body)) is not None:
                    refused[sequence - asked[0]] = refusal
                if sequence == last:
                    return refused

    async def _ask(self, request: NetlinkRequest, decode: Callable[[bytes], T]) -> T | KernelRefusal:
        sock = self._opened()
        asked = self._next_sequences(1)
        acknowledged = NLM_F_REQUEST | NLM_F_ACK
        sock.send(frames.pack(NetlinkRequest(request.kind, acknowledged | request.flags, request.body), asked[0]))
        found: list[T] = []
        while True:
            for kind, _, _, _, body in await self._answers(sock, asked):
                if kind != NLMSG_ERROR:
                    found.append(decode(body))
                elif (refusal := kernel_verdict(body)) is not None:
                    return refusal
                elif len(found) != 1:
                    raise Malformed(f"{len(found)} messages where one was due")
                else:
                    return found[0]

    async def _answers(self, sock: socket.socket, asked: range) -> list[Frame]:
        """Return those messages of the next datagram that answer what was *asked*; the third field is the number."""
        return [frame for frame in frames.frames(await self._receive(sock)) if frame[2] in asked]

    async def _receive(self, sock: socket.socket) -> bytes:
        """Return the next datagram."""
        loop = asyncio.get_running_loop()
        return from_kernel(self._buffer, await loop.sock_recvfrom_into(sock, self._buffer))

    def _opened(self) -> socket.socket:
        if self._sock is None:
            self._sock = self._open()
            self._port = self._sock.getsockname()[0]
        return self._sock

    def _abandon(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = self._port = None

    def _next_sequences(self, count: int) -> range:
        """Return *count* sequence numbers in a row; the last request to have them is long over."""
        if self._sequence + count > _SEQUENCE_MAX:
            self._sequence = _DUMP_SEQUENCE
        self._sequence += count
        return range(self._sequence - count + 1, self._sequence + 1)
