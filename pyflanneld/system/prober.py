"""The prober: ICMP echo through an unprivileged socket, or UDP to a closed port where that is not allowed.

``SOCK_DGRAM`` with ``IPPROTO_ICMP`` is open to the groups in ``net.ipv4.ping_group_range``; the kernel fills in the
identifier and the checksum and delivers only the replies to this socket (``icmp(7)``; Linux ``net/ipv4/ping.c``). UDP
to a port on which nobody listens is answered with "port unreachable", which the error queue delivers with the packet
quoted (``IP_RECVERR``, ``ip(7)``). Arrival times are the kernel's (``SO_TIMESTAMPNS``), so a busy event loop makes no
round trip longer.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from pyflanneld.core.probe.table import ProbeFailure, ProbeReply, ProbeResult
from pyflanneld.errors import ProbeError

UDP_PORT = 33434
"""The first port of traceroute: by convention nobody listens on it."""

_IP_HEADER, _L4_HEADER = 20, 8  # both ICMP's echo and UDP have eight bytes
_ECHO_REQUEST = 8
_UNREACHABLE, _PORT_UNREACHABLE, _FRAGMENTATION_NEEDED = 3, 3, 4

# linux/in.h, asm-generic/socket.h, linux/errqueue.h; neither Python 3.13's socket module nor pyroute2 names them
_IP_MTU_DISCOVER, _IP_RECVERR, _IP_PMTUDISC_PROBE = 10, 11, 3
_SO_TIMESTAMPNS = 35
_ORIGIN_ICMP = 2
_EXTENDED_ERROR = struct.Struct("=IBBBBII")  # errno, origin, type, code, pad, info, data; then the sender's sockaddr
_TIMESPEC = struct.Struct("@ll")
_STAMP = struct.Struct("!8sId")  # a probe's payload: the mark of this prober, the probe's number, the time of sending
_ANCILLARY_BYTES = 256
_MAX_PER_READ = 1000


@dataclass(frozen=True, slots=True)
class _Arrival:
    """One message from the socket; *error* is ``(type, code, info, sender)`` of an ICMP error."""

    data: bytes
    address: IPv4Address
    arrived_s: float
    error: tuple[int, int, int, IPv4Address] | None = None


class HostProber:
    """Implements ``ports.Prober`` in the network namespace of the thread that opens it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._form = ""
        self._mark = os.urandom(8)

    def open(self) -> str:
        """Open the socket; see ``ports.Prober``."""
        self.close()
        for form, protocol in (("icmp", socket.IPPROTO_ICMP), ("udp", socket.IPPROTO_UDP)):
            try:
                self._socket, self._form = _open(protocol), form
            except OSError as error:
                why = error
            else:
                return form
        raise ProbeError(f"the kernel allows neither an ICMP nor a UDP socket: {why.strerror}") from why

    def send(self, number: int, address: IPv4Address, size_bytes: int) -> bool:
        """Send one probe; return whether the kernel took it."""
        assert self._socket is not None, "not open"  # noqa: S101
        stamp = _STAMP.pack(self._mark, number, time.time())
        payload = stamp.ljust(size_bytes - _IP_HEADER - _L4_HEADER, b"\0")
        if self._form == "icmp":
            packet, port = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, 0, number) + payload, 0
        else:
            packet, port = payload, UDP_PORT
        for _ in range(2):  # the next call on the socket returns the error of an earlier probe, whatever that call is
            try:
                self._socket.sendto(packet, (str(address), port))
            except OSError:
                continue
            return True
        return False

    def answers(self) -> Sequence[ProbeResult]:
        """Return the answers since the last call."""
        assert self._socket is not None, "not open"  # noqa: S101
        arrivals = [*_arrivals(self._socket, 0), *_arrivals(self._socket, socket.MSG_ERRQUEUE)]
        return [answer for arrival in arrivals if (answer := self._read(arrival)) is not None]

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _read(self, arrival: _Arrival) -> ProbeResult | None:
        """Return the answer in an arrival; ``None`` if it answers no probe of ours."""
        found = arrival.data.find(self._mark)
        if found not in (0, _L4_HEADER) or len(arrival.data) < found + _STAMP.size:
            return None
        _, number, sent_s = _STAMP.unpack_from(arrival.data, found)
        echo = ProbeReply(number, arrival.address, max(0.0, arrival.arrived_s - sent_s))
        if arrival.error is None:
            return echo if self._form == "icmp" else None
        kind, code, info, sender = arrival.error
        if kind != _UNREACHABLE:
            return ProbeFailure(number)
        if code == _FRAGMENTATION_NEEDED:
            return ProbeFailure(number, info or None)
        return echo if code == _PORT_UNREACHABLE and sender == arrival.address else ProbeFailure(number)


def _open(protocol: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    except OSError:
        made.close()
        raise
    return made


def _arrivals(source: socket.socket, flags: int) -> Iterator[_Arrival]:
    """Yield the messages in the socket's queue, or with ``MSG_ERRQUEUE`` in its error queue."""
    for _ in range(_MAX_PER_READ):
        try:
            data, ancillary, _, sender = source.recvmsg(_STAMP.size + _L4_HEADER, _ANCILLARY_BYTES, flags)
        except BlockingIOError:
            return
        except OSError:
            continue  # the error of an earlier probe, which is in the error queue as well
        arrived_s, error = time.time(), None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
                seconds, nanoseconds = _TIMESPEC.unpack_from(content)
                arrived_s = seconds + nanoseconds / 1e9
            elif (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR):
                error = _icmp_error(content)
        if error is not None or not flags:
            yield _Arrival(data, IPv4Address(sender[0]), arrived_s, error)


def _icmp_error(content: bytes) -> tuple[int, int, int, IPv4Address] | None:
    """Parse an extended error; ``None`` for one that is not from an ICMP message."""
    _, origin, kind, code, _, info, _ = _EXTENDED_ERROR.unpack_from(content)
    if origin != _ORIGIN_ICMP or len(content) < _EXTENDED_ERROR.size + 8:
        return None
    return kind, code, info, IPv4Address(content[_EXTENDED_ERROR.size + 4 : _EXTENDED_ERROR.size + 8])
