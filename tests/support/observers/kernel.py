"""Observer O2: what the kernel tells of one host's routes, addresses, links, rules and neighbours, and who did it.

A notification bears the port of the netlink socket that asked for the change; the kernel's own changes bear 0. The
ports of a daemon are those of its sockets in ``/proc``.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.observers.record import (
    DAEMON,
    ENTRY_GONE,
    KERNEL,
    LINK_DOWN,
    OTHER,
    Host,
    OtherEvent,
    RouteEvent,
)

GROUPS = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x40000  # link, neigh; IPv4, IPv6: addr, route, rule
BUFFER_BYTES = 8 << 20
SO_RCVBUFFORCE = 33
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWADDR, GETADDR = 20, 22
NEWLINK, GETLINK = 16, 18
NAMES = {
    16: "link", 17: "link", 20: "address", 21: "address", 24: "IPv6 route", 25: "IPv6 route", 28: "neighbour",
    29: "neighbour", 32: "rule", 33: "rule",
}  # fmt: skip
REQUEST_DUMP, REPLACE = 0x301, 0x100
ERROR, DONE = 2, 3
HEADER, ROUTE, ADDRESS, ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBBBBBI"), struct.Struct("=BBBBI"), 4
DST, OIF, GATEWAY, PRIORITY, TABLE = 1, 4, 5, 6, 15
LOCAL = 2
LINK, IFNAME, NEIGHBOUR = struct.Struct("=BxHiII"), 3, struct.Struct("=B3xiHBB")
TUNNELS = b"flannel"
DELNEIGH, UP = 29, 1
FOREIGN_KEPT = 5_000


def open_socket(groups: int = GROUPS) -> socket.socket:
    """Open a socket in the network namespace of this thread."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    sock.bind((0, groups))
    sock.setblocking(False)
    return sock


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield each message of a datagram: type, flags, port, payload."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, flags, _, port = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return
        yield kind, flags, port, data[at + HEADER.size : at + length]
        at += (length + 3) & ~3


def attributes(data: bytes, at: int) -> dict[int, bytes]:
    """Return the attributes behind a message's fixed part."""
    found = {}
    while at + ATTRIBUTE <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < ATTRIBUTE:
            break
        found[kind & 0x3FFF] = data[at + ATTRIBUTE : at + length]
        at += (length + 3) & ~3
    return found


def _number(data: bytes) -> int:
    return struct.unpack("=I", data)[0] if len(data) == struct.calcsize("=I") else 0


def route(payload: bytes, at_s: float, by: str, *, deleted: bool, replaced: bool) -> RouteEvent | None:
    """Read a route message; ``None`` for one of another family than IPv4."""
    family, length, _, _, table, protocol, _, _, _ = ROUTE.unpack_from(payload)
    if family != socket.AF_INET:
        return None
    found = attributes(payload, ROUTE.size)
    return RouteEvent(
        at_s, by, deleted, replaced, _number(found[TABLE]) if TABLE in found else table, protocol,
        (int.from_bytes(found.get(DST, b"")), length), int.from_bytes(found.get(GATEWAY, b"")),
        _number(found.get(OIF, b"")), _number(found.get(PRIORITY, b"")),
    )  # fmt: skip


def address(payload: bytes) -> tuple[int, int, int] | None:
    """Read an address message: the number, the prefix length, the link."""
    family, length, _, _, link = ADDRESS.unpack_from(payload)
    local = attributes(payload, ADDRESS.size).get(LOCAL)
    return (int.from_bytes(local), length, link) if family == socket.AF_INET and local else None


def tunnel(payload: bytes) -> int:
    """Read a link message: the index of a device with flannel's name, which is the daemon's own; 0: of another one."""
    name = attributes(payload, LINK.size).get(IFNAME, b"")
    return int(LINK.unpack_from(payload)[2]) if name.startswith(TUNNELS) else 0


def link_of(payload: bytes) -> int:
    """Return the link that an address, a link or a neighbour message is about: it stands at the same place in each."""
    return int(NEIGHBOUR.unpack_from(payload)[1]) if len(payload) >= NEIGHBOUR.size else 0


def dump(sock: socket.socket, kind: int) -> Iterator[bytes]:
    """Yield the payloads of a list that the kernel is asked for."""
    payload = bytes(16)
    sock.setblocking(True)
    sock.settimeout(5)
    sock.send(HEADER.pack(HEADER.size + len(payload), kind, REQUEST_DUMP, 1, 0) + payload)
    while True:
        for found, _, _, body in messages(sock.recv(1 << 20)):
            if found in (DONE, ERROR):
                return
            yield body


class Wire:
    """Listens on one host, and puts what it hears into the host's record.

    Args:
        host: the record.
        listening: a socket in the host's namespace, with ``GROUPS``.
        asking: another one there, without groups, for the lists at the start; is closed.
        pid: gives the process id of the host's daemon, if it runs.
    """

    def __init__(
        self, host: Host, listening: socket.socket, asking: socket.socket, pid: Callable[[], int | None]
    ) -> None:
        self.host, self.sock = host, listening
        self._pid = pid
        self._ports: dict[int, str] = {0: KERNEL}
        now = time.monotonic()
        with asking:
            host.addresses.update(filter(None, map(address, dump(asking, GETADDR))))
            host.tunnels.update(filter(None, map(tunnel, dump(asking, GETLINK))))
            there = (route(body, now, OTHER, deleted=False, replaced=False) for body in dump(asking, GETROUTE))
            host.routes.extend(event for event in there if event)

    def read(self) -> None:
        """Take what has come."""
        now = time.monotonic()
        while True:
            try:
                data = self.sock.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: the buffer ran over
                self.host.lost = True
                return
            for kind, flags, port, payload in messages(data):
                self._take(now, kind, flags, port, payload)

    def _take(self, now: float, kind: int, flags: int, port: int, payload: bytes) -> None:
        by = self._who(port)
        if kind in (NEWROUTE, DELROUTE) and payload[0] == socket.AF_INET:
            if by != DAEMON and len(self.host.route_events) >= FOREIGN_KEPT:
                self.host.unread += 1
                return
            replaced = kind == NEWROUTE and bool(flags & REPLACE)
            event = route(payload, now, by, deleted=kind == DELROUTE, replaced=replaced)
            if event:
                self.host.route_events.append(event)
            return
        if kind == NEWADDR and (found := address(payload)) and found[2] not in self.host.tunnels:
            self.host.addresses.add(found)
        if kind == NEWLINK and (index := tunnel(payload)):
            self.host.tunnels.add(index)
        if by == DAEMON and link_of(payload) in self.host.tunnels:
            return
        if by == KERNEL and (what := self._unnamed(kind, payload)):
            self.host.other_events.append(OtherEvent(now, by, what))
        if by != KERNEL and kind in NAMES and len(self.host.other_events) < FOREIGN_KEPT:
            self.host.other_events.append(OtherEvent(now, by, NAMES[kind]))

    def _unnamed(self, kind: int, payload: bytes) -> str:
        """Return what somebody has done whom the kernel does not name: a link is down, a tunnel's entry is gone."""
        if kind == NEWLINK and not LINK.unpack_from(payload)[3] & UP:
            return LINK_DOWN
        gone = kind == DELNEIGH and payload[0] == socket.AF_BRIDGE and link_of(payload) in self.host.tunnels
        return ENTRY_GONE if gone else ""

    def _who(self, port: int) -> str:
        if port not in self._ports:
            pid = self._pid()
            self._ports[port] = DAEMON if pid is not None and port in ports_of(pid) else OTHER
        return self._ports[port]


def ports_of(pid: int) -> set[int]:
    """Return the ports of a process's netlink sockets, and its own number, which its first socket has."""
    inodes = set()
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes.add(str(descriptor.readlink()))
    ports = {pid}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]:
            words = line.split()
            if f"socket:[{words[9]}]" in inodes:
                ports.add(int(words[2]))
    return ports
