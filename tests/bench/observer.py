"""What the kernel itself says, and when: an independent listener for the messages about one host's objects and links.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from types import TracebackType
from typing import Self

from tests.bench.leases import NETWORK
from tests.bench.results import HOST_GW, VXLAN, NotMeasuredError
from tests.support.network.namespaces import Namespace

GROUPS = 0x1 | 0x4 | 0x10 | 0x40  # RTMGRP_LINK, RTMGRP_NEIGH, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE
RECEIVE_BUFFER_BYTES = 256 << 20  # a message takes about 1 kB of it
SO_RCVBUFFORCE = 33
POLL_S = 0.001
RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR = 16, 17, 20, 21
RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWNEIGH, RTM_DELNEIGH = 24, 25, 28, 29
RTA_DST, RTN_UNICAST = 1, 1
NDA_DST, NDA_LLADDR, NUD_PERMANENT = 1, 2, 0x80
ROUTE, NEIGHBOUR, FORWARDING = "route", "neighbour", "forwarding"
KINDS = {HOST_GW: (ROUTE,), VXLAN: (NEIGHBOUR, FORWARDING, ROUTE)}
AF_BRIDGE = 7
IFF_UP, IFF_LOOPBACK, IFF_LOWER_UP = 0x1, 0x8, 0x10000

_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(slots=True)
class Seen:
    """What was heard since the last ``clear``; times as of ``time.monotonic``.

    Attributes:
        added: when each subnet's object of each kind came (the first message, if several); taken out when it goes.
        gone: when each went.
        link_up: when a link was reported to be up, with a carrier.
        link_gone: when a link went.
        messages: how many messages about links, addresses, and objects inside the network there were.
        lost: the kernel had to leave messages out.
    """

    added: dict[tuple[str, int], float] = field(default_factory=dict)
    gone: dict[tuple[str, int], float] = field(default_factory=dict)
    link_up: list[float] = field(default_factory=list)
    link_gone: list[float] = field(default_factory=list)
    messages: int = 0
    lost: bool = False

    def take(self, datagram: bytes | memoryview, at_s: float) -> None:
        """Note the messages of one datagram."""
        start = 0
        while start + _HEADER.size <= len(datagram):
            length, kind, *_ = _HEADER.unpack_from(datagram, start)
            if length < _HEADER.size:
                return
            body = datagram[start + _HEADER.size : start + length]
            if kind in (RTM_NEWROUTE, RTM_DELROUTE):
                self._take(_route(body), at_s, there=kind == RTM_NEWROUTE)
            elif kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
                self._take(_entry(body, kind), at_s, there=kind == RTM_NEWNEIGH)
            elif kind in (RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR):
                self._take_link(kind, body, at_s)
            start += (length + 3) & ~3

    def _take_link(self, kind: int, body: bytes | memoryview, at_s: float) -> None:
        self.messages += 1
        if kind == RTM_DELLINK:
            self.link_gone.append(at_s)
        elif kind == RTM_NEWLINK:
            *_, flags, _change = _IFINFO.unpack_from(body)
            if flags & (IFF_UP | IFF_LOWER_UP | IFF_LOOPBACK) == IFF_UP | IFF_LOWER_UP:
                self.link_up.append(at_s)

    def _take(self, key: tuple[str, int] | None, at_s: float, *, there: bool) -> None:
        if key is None or key[1] >> 24 != int(NETWORK[0]) >> 24:
            return
        self.messages += 1
        if there:
            self.added.setdefault(key, at_s)
        else:
            self.added.pop(key, None)
            self.gone[key] = at_s


def _route(body: bytes | memoryview) -> tuple[str, int] | None:
    family, prefixlen, _, _, _, _, _, type_, _ = _RTMSG.unpack_from(body)
    if family != socket.AF_INET or type_ != RTN_UNICAST or prefixlen <= NETWORK.prefixlen:
        return None
    dst = _last_four_bytes(body, _RTMSG.size, RTA_DST)
    return (ROUTE, dst) if dst is not None else None


def _entry(body: bytes | memoryview, kind: int) -> tuple[str, int] | None:
    """Return which permanent entry this is about; a forwarding entry's MAC address ends with the subnet's address."""
    family, _, state, _, _ = _NDMSG.unpack_from(body)
    if family not in (socket.AF_INET, AF_BRIDGE) or (kind == RTM_NEWNEIGH and not state & NUD_PERMANENT):
        return None
    name, attribute = (NEIGHBOUR, NDA_DST) if family == socket.AF_INET else (FORWARDING, NDA_LLADDR)
    dst = _last_four_bytes(body, _NDMSG.size, attribute)
    return (name, dst) if dst is not None else None


def _last_four_bytes(body: bytes | memoryview, start: int, wanted: int) -> int | None:
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        if kind == wanted:
            return int.from_bytes(body[start + length - 4 : start + length])
        if length < _ATTRIBUTE.size:
            return None
        start += (length + 3) & ~3
    return None


class Observer:
    """Listens on a host while the block lasts.

    Args:
        space: the host's namespace.
        check: raises when there is nothing to wait for any more.
        kinds: of the objects that each subnet has.
        receive_buffer: of the socket, in bytes.
    """

    def __init__(
        self,
        space: Namespace,
        check: Callable[[], None] = lambda: None,
        receive_buffer: int = RECEIVE_BUFFER_BYTES,
        kinds: Sequence[str] = KINDS[HOST_GW],
    ) -> None:
        self.space = space
        self.kinds = kinds
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
        """Wait until all objects of *count* subnets have come, and return when the last of these did.

        Where the kernel had to leave out messages, the routes themselves are counted, again and again.

        Raises:
            NotMeasuredError: they have not.
        """
        every = count * len(self.kinds)
        await self._until(lambda: len(self.seen.added) >= every or self.seen.lost, f"{every} objects", timeout_s)
        if not self.seen.lost:
            return sorted(self.seen.added.values())[every - 1] if count else time.monotonic()
        await self._until(lambda: self.count_routes() >= count, f"{count} routes", timeout_s, poll_s=0.02)
        return time.monotonic()

    async def added(self, subnet: IPv4Network, timeout_s: float) -> float:
        """Wait for the objects of *subnet*, and return when the last came. Raises ``NotMeasuredError``."""
        return await self._time_of(self.seen.added, self.kinds, subnet, f"the objects of {subnet}", timeout_s)

    async def gone(self, subnet: IPv4Network, timeout_s: float) -> float:
        """Wait for the end of the objects of *subnet*, and return when the last went. Raises ``NotMeasuredError``."""
        return await self._time_of(self.seen.gone, self.kinds, subnet, f"the end of the objects of {subnet}", timeout_s)

    async def repaired(self, kind: str, subnet: IPv4Network, timeout_s: float) -> float:
        """Wait until one object has gone and come back; return after how long. Raises ``NotMeasuredError``."""
        gone_at = await self._time_of(self.seen.gone, (kind,), subnet, f"the end of the {kind} of {subnet}", timeout_s)
        return await self._time_of(self.seen.added, (kind,), subnet, f"the {kind} of {subnet}", timeout_s) - gone_at

    async def _time_of(
        self, times: Mapping[tuple[str, int], float], kinds: Sequence[str], subnet: IPv4Network, what: str,
        timeout_s: float,
    ) -> float:  # fmt: skip
        keys = [(kind, int(subnet.network_address)) for kind in kinds]
        await self._until(lambda: all(key in times for key in keys), what, timeout_s)
        return max(times[key] for key in keys)

    async def quiet(self, for_s: float, timeout_s: float = 5.0) -> None:
        """Wait until there was no message for so long."""
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
