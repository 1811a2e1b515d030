"""What the kernel itself says, and when: an independent listener for the route and link messages of one host.

Theory of operation. A socket that was made inside the host's namespace hears what the kernel does there, whoever asked
for it. A thread waits on it and takes the time of each message as it comes out of the socket, so that neither asyncio
nor whoever waits for the result is in the measurement. The daemon is not asked, and does not notice.

Wire format: rtnetlink(7), include/uapi/linux/rtnetlink.h. Written anew here, so that the measure does not share the
measured program's mistakes.
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from types import TracebackType
from typing import Self

from tests.bench.leases import NETWORK
from tests.bench.results import NotMeasuredError
from tests.support.network.namespaces import Namespace

GROUPS = 0x1 | 0x40  # RTMGRP_LINK, RTMGRP_IPV4_ROUTE
RECEIVE_BUFFER_BYTES = 256 << 20  # a message takes about 1 kB of it
SO_RCVBUFFORCE = 33
POLL_S = 0.001
RTM_NEWLINK, RTM_NEWROUTE, RTM_DELROUTE = 16, 24, 25
RTA_DST, RTN_UNICAST = 1, 1
IFF_UP, IFF_LOOPBACK, IFF_LOWER_UP = 0x1, 0x8, 0x10000

_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(slots=True)
class Seen:
    """What was heard since the last ``clear``; times as of ``time.monotonic``.

    Attributes:
        added: when each subnet's route came (the first message, if several); taken out when the route goes.
        gone: when each subnet's route went.
        link_up: when a link was reported to be up, with a carrier.
        messages: how many messages about routes inside the network there were.
        lost: the kernel had to leave messages out.
    """

    added: dict[int, float] = field(default_factory=dict)
    gone: dict[int, float] = field(default_factory=dict)
    link_up: list[float] = field(default_factory=list)
    messages: int = 0
    lost: bool = False

    def take(self, datagram: bytes | memoryview, at_s: float) -> None:
        """Note the messages of one datagram."""
        start = 0
        while start + _HEADER.size <= len(datagram):
            length, kind, *_ = _HEADER.unpack_from(datagram, start)
            if length < _HEADER.size:
                return
            if kind in (RTM_NEWROUTE, RTM_DELROUTE):
                self._take_route(kind, datagram, start + _HEADER.size, start + length, at_s)
            elif kind == RTM_NEWLINK:
                *_, flags, _change = _IFINFO.unpack_from(datagram, start + _HEADER.size)
                if flags & (IFF_UP | IFF_LOWER_UP | IFF_LOOPBACK) == IFF_UP | IFF_LOWER_UP:
                    self.link_up.append(at_s)
            start += (length + 3) & ~3

    def _take_route(self, kind: int, datagram: bytes | memoryview, start: int, end: int, at_s: float) -> None:
        family, prefixlen, _, _, _, _, _, type_, _ = _RTMSG.unpack_from(datagram, start)
        if family != socket.AF_INET or type_ != RTN_UNICAST or prefixlen <= NETWORK.prefixlen:
            return
        dst = _destination(datagram, start + _RTMSG.size, end)
        if dst is None or dst >> 24 != int(NETWORK[0]) >> 24:
            return
        self.messages += 1
        if kind == RTM_NEWROUTE:
            self.added.setdefault(dst, at_s)
        else:
            self.added.pop(dst, None)
            self.gone[dst] = at_s


def _destination(datagram: bytes | memoryview, start: int, end: int) -> int | None:
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(datagram, start)
        if kind == RTA_DST:
            return int.from_bytes(datagram[start + 4 : start + 8])
        if length < _ATTRIBUTE.size:
            return None
        start += (length + 3) & ~3
    return None


class Observer:
    """Listens on a host while the block lasts.

    Args:
        space: the host's namespace.
        check: raises when there is nothing to wait for any more.
        receive_buffer: of the socket, in bytes.
    """

    def __init__(
        self,
        space: Namespace,
        check: Callable[[], None] = lambda: None,
        receive_buffer: int = RECEIVE_BUFFER_BYTES,
    ) -> None:
        self.space = space
        self._check = check
        self.seen = Seen()
        with space.inside():
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
        self._socket.settimeout(0.2)
        self._thread = threading.Thread(target=self._listen, name=f"observer of {space.name}", daemon=True)
        self._ending = False

    def __enter__(self) -> Self:
        self._socket.bind((0, GROUPS))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        buffer = memoryview(bytearray(1 << 16))
        while not self._ending:
            try:
                length = self._socket.recv_into(buffer)
            except TimeoutError:
                continue
            except OSError:  # ENOBUFS: some are lost, the next ones come
                self.seen.lost = True
                continue
            self.seen.take(buffer[:length], time.monotonic())

    def clear(self) -> None:
        """Forget what was heard so far."""
        self.seen = Seen()

    async def all_added(self, count: int, timeout_s: float) -> float:
        """Wait until routes to *count* subnets have come, and return when the last of these did.

        Where the kernel had to leave out messages, the routes themselves are counted, again and again.

        Raises:
            NotMeasuredError: they have not.
        """
        await self._until(lambda: len(self.seen.added) >= count or self.seen.lost, f"{count} routes", timeout_s)
        if not self.seen.lost:
            return sorted(self.seen.added.values())[count - 1] if count else time.monotonic()
        await self._until(lambda: self.count_routes() >= count, f"{count} routes", timeout_s, poll_s=0.02)
        return time.monotonic()

    async def added(self, subnet: IPv4Network, timeout_s: float) -> float:
        """Wait for the route to *subnet*, and return when it came. Raises ``NotMeasuredError``."""
        return await self._time_of(self.seen.added, subnet, f"the route to {subnet}", timeout_s)

    async def gone(self, subnet: IPv4Network, timeout_s: float) -> float:
        """Wait for the end of the route to *subnet*, and return when it went. Raises ``NotMeasuredError``."""
        return await self._time_of(self.seen.gone, subnet, f"the end of the route to {subnet}", timeout_s)

    async def _time_of(self, times: Mapping[int, float], subnet: IPv4Network, what: str, timeout_s: float) -> float:
        key = int(subnet.network_address)
        await self._until(lambda: key in times, what, timeout_s)
        return times[key]

    async def quiet(self, for_s: float, timeout_s: float = 5.0) -> None:
        """Wait until there was no message about a route for so long."""
        give_up_at, last, since = time.monotonic() + timeout_s, self.seen.messages, time.monotonic()
        while time.monotonic() - since < for_s and time.monotonic() < give_up_at:
            await asyncio.sleep(for_s / 10)
            if self.seen.messages != last:
                last, since = self.seen.messages, time.monotonic()

    def count_routes(self) -> int:
        """Count the routes inside the network by listing them."""
        lines = self.space.ip("-4 route show table main").splitlines()
        return sum(line.startswith("10.") and " via " in line for line in lines)

    async def _until(self, condition: Callable[[], bool], what: str, timeout_s: float, poll_s: float = POLL_S) -> None:
        give_up_at = time.monotonic() + timeout_s
        while not condition():
            self._check()
            if time.monotonic() > give_up_at:
                raise NotMeasuredError(f"{what}: not within {timeout_s:g} s; heard of {len(self.seen.added)} there")
            await asyncio.sleep(poll_s)
