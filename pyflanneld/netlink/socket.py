"""One AF_NETLINK socket for requests, on the asyncio loop.

Why not pyroute2's socket engine, and which test of ``tests/integration/test_kernel_requests.py`` shows it of ours:

* it ignores ``NLM_F_DUMP_INTR``; a torn list would look like routes that went away: ``test_torn_dump_is_repeated``;
* after one ENOBUFS it raises for ever: ``test_fault_then_recovery``, ``test_lost_acknowledgements``;
* a batch has no errno for each of its messages: ``test_every_refusal_counts``;
* it does not look at the sender of a datagram: ``test_forged_answer``;
* it sleeps up to 9 s on EBUSY: ``test_f71_refused_changes`` in ``tests/faults``.

The rules here:

* one request at a time; an answer counts when its sequence number fits and the kernel (port 0) sent it;
* a request that does not end well (error, deadline, cancellation) closes the socket, so that late answers and a dump
  that is still running die with it; the next request opens a new one, in the network namespace of its thread;
* an answer that was lost (ENOBUFS), does not fit or is malformed is an error, never a shorter answer.

The kernel works inside ``send``, on our thread, so a batch is cut into chunks of a few milliseconds, and other tasks
run between them. The deadlines cover the wait for the answers, which are there by then unless something is wrong.

Of a chunk only the last message asks for an acknowledgement. The kernel answers in order, answers a refused message
whether it asked for that or not, and marks the socket when an answer did not fit, which the next read finds before
all else. So once the last answer is there, what was not refused has been done.

Wire format: netlink(7), include/uapi/linux/netlink.h.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

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

from pyflanneld.errors import KernelError
from pyflanneld.netlink import frames
from pyflanneld.netlink.frames import KernelRefusal, Malformed, NetlinkRequest

REQUEST_DEADLINE_S = 2.0
DUMP_DEADLINE_S = 5.0
DUMP_ATTEMPTS = 5
DUMP_PAUSE_S = 0.01  # after a torn dump; doubles
CHUNK = 64  # messages in one send

_DATAGRAM_MAX = 1 << 16  # the kernel fills up to 32 KiB of it
_RECEIVE_BUFFER = 1 << 20  # an answer to a change costs about 1 KiB of it
_SEQUENCE_MAX = 0xFFFFFFFF

_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_NETLINK_CAP_ACK = 10  # linux/netlink.h; pyroute2 does not name it

C = TypeVar("C")
T = TypeVar("T")


class DumpRefused(KernelError):
    """The kernel does not want to give the list; *refusal* says why."""

    def __init__(self, refusal: KernelRefusal) -> None:
        super().__init__(f"netlink dump refused: {refusal}")
        self.refusal = refusal


def open_socket(*, groups: int = 0, receive_buffer: int = _RECEIVE_BUFFER) -> socket.socket:
    """Open a non-blocking route socket, bound, in the network namespace of the calling thread. Raises ``OSError``."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_buffer)
        except PermissionError:  # no CAP_NET_ADMIN: as much as net.core.rmem_max allows
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        for option in (_NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            with contextlib.suppress(OSError):  # before Linux 4.20: no reasons, no filter in the kernel
                sock.setsockopt(SOL_NETLINK, option, 1)
        sock.bind((0, groups))
    except BaseException:
        sock.close()
        raise
    return sock


async def until_readable(sock: socket.socket) -> None:
    """Wait until *sock* has a message or an error."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(sock, wake)
    try:
        await readable
    finally:
        loop.remove_reader(sock)


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
        self._buffer = memoryview(bytearray(_DATAGRAM_MAX))
        self._sequence = 0
        self._lock = asyncio.Lock()

    @property
    def port(self) -> int | None:
        """The address of the socket in use, by which notifications of our own changes are known."""
        return self._port

    async def dump(self, request: NetlinkRequest, read: Callable[[list[bytes]], Awaitable[T]]) -> T:
        """Return what *read* makes of the whole list that *request* asks for: the messages without their headers.

        *read* may raise ``ValueError``. A list that the kernel marks as torn is asked for again, a few times.

        Raises:
            KernelError: also when it is still torn after that; ``DumpRefused`` is one.
        """
        return await self._guarded(self._dump_deadline_s, partial(self._dump, request, read))

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

    async def _dump(self, request: NetlinkRequest, read: Callable[[list[bytes]], Awaitable[T]]) -> T:
        for attempt in range(DUMP_ATTEMPTS):
            found, torn = await self._dump_once(request)
            if not torn:
                return await read(found)
            await asyncio.sleep(DUMP_PAUSE_S * 2**attempt)
        raise KernelError(f"netlink: the list changed while it was read, {DUMP_ATTEMPTS} times in a row")

    async def _dump_once(self, request: NetlinkRequest) -> tuple[list[bytes], bool]:
        sock = self._opened()
        asked = self._next_sequences(1)
        wanted = NetlinkRequest(request.kind, NLM_F_REQUEST | NLM_F_DUMP | request.flags, request.body)
        sock.send(frames.pack(wanted, asked))
        found: list[bytes] = []
        torn = 0
        while True:
            for kind, flags, sequence, _, body in frames.frames(await self._receive(sock)):
                if sequence != asked:
                    continue
                torn |= flags & NLM_F_DUMP_INTR
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    if (refusal := frames.kernel_verdict(kind, flags, body)) is not None:
                        raise DumpRefused(refusal)
                    return found, torn != 0
                found.append(body)
            await asyncio.sleep(0)  # long tables: the others have their turn after every 32 KiB

    async def _exchange(self, changes: Sequence[C], encode: Callable[[C, int, int], bytes]) -> dict[int, KernelRefusal]:
        sock = self._opened()
        first = self._next_sequences(len(changes))
        last = first + len(changes) - 1
        messages = [encode(change, NLM_F_REQUEST, number) for number, change in enumerate(changes[:-1], first)]
        messages.append(encode(changes[-1], NLM_F_REQUEST | NLM_F_ACK, last))
        data = b"".join(messages)
        if sock.send(data) != len(data):
            raise KernelError("netlink: the kernel took only a part of the batch")
        refused: dict[int, KernelRefusal] = {}
        while True:
            for kind, flags, sequence, _, body in frames.frames(await self._receive(sock)):
                if not first <= sequence <= last:
                    continue
                if kind != NLMSG_ERROR:
                    raise Malformed(f"message of type {kind} where an acknowledgement was due")
                if (refusal := frames.kernel_verdict(kind, flags, body)) is not None:
                    refused[sequence - first] = refusal
                if sequence == last:
                    return refused

    async def _ask(self, request: NetlinkRequest, decode: Callable[[bytes], T]) -> T | KernelRefusal:
        sock = self._opened()
        asked = self._next_sequences(1)
        acknowledged = NLM_F_REQUEST | NLM_F_ACK
        sock.send(frames.pack(NetlinkRequest(request.kind, acknowledged | request.flags, request.body), asked))
        found: list[T] = []
        while True:
            for kind, flags, sequence, _, body in frames.frames(await self._receive(sock)):
                if sequence != asked:
                    continue
                if kind != NLMSG_ERROR:
                    found.append(decode(body))
                elif (refusal := frames.kernel_verdict(kind, flags, body)) is not None:
                    return refusal
                elif len(found) != 1:
                    raise Malformed(f"{len(found)} messages where one was due")
                else:
                    return found[0]

    async def _receive(self, sock: socket.socket) -> bytes:
        """Return the next datagram from the kernel."""
        while True:
            try:
                length, (port, _) = sock.recvfrom_into(self._buffer, 0, socket.MSG_TRUNC)
            except BlockingIOError:
                await until_readable(sock)
                continue
            if port != 0:
                continue
            if length > len(self._buffer):
                raise Malformed(f"datagram of {length} bytes")
            return bytes(self._buffer[:length])

    def _opened(self) -> socket.socket:
        if self._sock is None:
            self._sock = self._open()
            self._port = self._sock.getsockname()[0]
        return self._sock

    def _abandon(self) -> None:
        if self._sock is not None:
            self._sock.close()
        self._sock = self._port = None

    def _next_sequences(self, count: int) -> int:
        """Return the first of *count* sequence numbers in a row; the last request to have them is long over."""
        if self._sequence + count > _SEQUENCE_MAX:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first
