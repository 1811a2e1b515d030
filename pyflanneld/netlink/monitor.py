"""The kernel's notifications as a dirty bit: "look again at routes", "look again at links".

Nothing of what a notification says is trusted or kept. A burst of a million is one value of two bits, however slow
the consumer is. Linux sends no route notification for routes that go because a link goes down or is deleted; the
link's own notification stands for them.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Collection
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from types import TracebackType
from typing import Self

from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
    rt_type,
)
from pyroute2.netlink.rtnl.ndmsg import NUD_PERMANENT

from pyflanneld.core.families import inside
from pyflanneld.errors import KernelError
from pyflanneld.netlink.entries import Told, told
from pyflanneld.netlink.frames import Malformed, frames
from pyflanneld.netlink.route_template import reported_destination
from pyflanneld.netlink.routes import decode_route
from pyflanneld.netlink.routes6 import decode_route6
from pyflanneld.netlink.socket import DATAGRAM_MAX, from_kernel, open_socket
from pyflanneld.ports import Change

GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE
GROUPS6 = RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
RECEIVE_BUFFER = 4 << 20  # some thousand notifications
_DATAGRAMS_AT_ONCE = 256  # then the other tasks have their turn
_FROM_ADDRESSES = frozenset(rt_type[name] for name in ("local", "broadcast", "anycast", "multicast"))
_NDMSG = struct.Struct("=4xiH")  # ``struct ndmsg``: index and state
_UNSPEC, _INET6 = bytes([socket.AF_UNSPEC]), bytes([socket.AF_INET6])  # a body begins with its family


class Monitor:
    """Notifications about links, addresses and the routes inside *network* that are not our own doing.

    An async context manager that is its own iterator, once. Reading goes on between the turns of the consumer, so
    that a slow one finds one value and the socket does not overflow.

    Args:
        network: routes inside it concern us.
        own_port: returns the port of the socket whose changes are our own.
        open_: opens another socket than the usual one, for tests.
        ipv6: so do routes inside this one; without it nothing is heard of IPv6.
        devices: returns the links whose neighbours and forwarding entries concern us; ``None``: those of none do.
        own_entries: returns what our own last changes say, where the kernel does not name us.
    """

    def __init__(
        self,
        network: IPv4Network,
        own_port: Callable[[], int | None],
        open_: Callable[[], socket.socket] | None = None,
        ipv6: IPv6Network | None = None,
        devices: Callable[[], Collection[int]] | None = None,
        own_entries: Callable[[], Collection[Told | None]] = tuple,
    ) -> None:
        groups = GROUPS if ipv6 is None else GROUPS | GROUPS6
        groups |= RTMGRP_NEIGH if devices is not None else 0
        self._ipv4 = network
        self._network = int(network.network_address)
        self._netmask = int(network.netmask)
        self._prefixlen = network.prefixlen
        self._own_port = own_port
        self._devices = devices or tuple
        self._own_entries = own_entries
        self._ipv6 = ipv6
        self._open = open_ or partial(open_socket, groups=groups, receive_buffer=RECEIVE_BUFFER)
        self._sock: socket.socket | None = None
        self._buffer = memoryview(bytearray(DATAGRAM_MAX))
        self._pending = Change(0)
        self._failed: Exception | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            self._sock = self._open()
        except OSError as error:
            raise KernelError(f"netlink notifications: {error}") from error
        asyncio.get_running_loop().add_reader(self._sock, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        """Wait for news and return all there is. Raises ``KernelError`` when some may have been lost."""
        await self._news.wait()
        if self._failed is not None:
            raise KernelError(f"netlink notifications: {self._failed}") from self._failed
        if self._sock is None:
            raise StopAsyncIteration
        seen, self._pending = self._pending, Change(0)
        self._news.clear()
        return seen

    def _read(self) -> None:
        """Take what is waiting, up to a limit; called by the loop."""
        assert self._sock is not None  # noqa: S101  closing takes the reader off
        try:
            for _ in range(_DATAGRAMS_AT_ONCE):
                self._take(from_kernel(self._buffer, self._sock.recvfrom_into(self._buffer)))
        except BlockingIOError:
            pass
        except (OSError, Malformed) as error:
            self._failed = error
            self._close()
        if self._pending or self._failed:
            self._news.set()

    def _take(self, datagram: bytes) -> None:
        own_port = self._own_port()
        for kind, _, _, port, body in frames(datagram):
            if port != own_port:  # first: our own thousands of routes come back here
                self._pending |= self._about(kind, body)

    def _about(self, kind: int, body: bytes) -> Change:
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            return Change.ROUTES if self._concerns_us(body) else Change(0)
        if kind in (RTM_NEWLINK, RTM_DELLINK):  # of another family are the bridge's and IPv6's own affairs
            return Change.LINKS if body[:1] == _UNSPEC else Change(0)
        if kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            return Change.ROUTES if self._is_entry_of_ours(kind, body) else Change(0)
        return Change.LINKS if kind in (RTM_NEWADDR, RTM_DELADDR) else Change(0)

    def _concerns_us(self, body: bytes) -> bool:
        """Return whether this is a route of the main table inside our networks. Raises ``Malformed``."""
        if self._ipv6 is not None and body[:1] == _INET6:
            route = decode_route6(body)
            return route is not None and inside(route.dst, self._ipv6)
        known = reported_destination(body)
        if known is not None:
            kind, address, length = known
            inside_ours = length >= self._prefixlen and address & self._netmask == self._network
            return inside_ours and kind not in _FROM_ADDRESSES
        route = decode_route(body)
        return route is not None and inside(route.dst, self._ipv4)

    def _is_entry_of_ours(self, kind: int, body: bytes) -> bool:
        """Return whether others have put or removed a permanent neighbour or forwarding entry of our devices."""
        index, state = _NDMSG.unpack_from(body) if len(body) >= _NDMSG.size else (0, 0)
        if index not in self._devices() or not (kind == RTM_DELNEIGH or state & NUD_PERMANENT):
            return False
        return told(kind, body) not in self._own_entries()

    def _close(self) -> None:
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None
