"""Observer O3: packets between pods, ten a second from each to the next; numbered, so that a lost one is known."""

import contextlib
import socket
import time
from collections.abc import Sequence

from tests.support.observers.record import Packet

PORT = 7999
PERIOD_S = 0.1
YOUNG_S = 0.5  # not yet lost


class Ring:
    """Sends round a ring of pods.

    Args:
        pods: name, address, and a UDP socket in each, bound to that address.
    """

    def __init__(self, pods: Sequence[tuple[str, str, socket.socket]]) -> None:
        self._pods = pods
        self._sent: dict[int, tuple[float, str, str]] = {}
        self._arrived: set[int] = set()
        self._number = 0
        self._next_s = 0.0

    @property
    def socks(self) -> list[socket.socket]:
        """What to wait for."""
        return [sock for _, _, sock in self._pods]

    def tick(self, now: float) -> None:
        """Send, when it is time."""
        if now < self._next_s:
            return
        self._next_s = now + PERIOD_S
        for at, (name, _, sock) in enumerate(self._pods):
            target, address, _ = self._pods[(at + 1) % len(self._pods)]
            self._number += 1
            with contextlib.suppress(OSError):
                sock.sendto(self._number.to_bytes(8), (address, PORT))
            self._sent[self._number] = (now, name, target)

    def read(self, sock: socket.socket) -> None:
        """Take what has come."""
        with contextlib.suppress(OSError):
            while True:
                self._arrived.add(int.from_bytes(sock.recv(64)))

    def packets(self) -> list[Packet]:
        """Return what came of each packet that is old enough to have arrived."""
        old = time.monotonic() - YOUNG_S
        return [
            Packet(sent_s, source, target, number in self._arrived)
            for number, (sent_s, source, target) in self._sent.items()
            if number in self._arrived or sent_s < old
        ]
