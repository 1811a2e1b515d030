"""Observer O4: what the health port answers, five times a second, its two paths in turn."""

import contextlib
import selectors
import socket
import time
from collections.abc import Callable

from tests.support.observers.record import Answer, Host

PATHS = ("/healthz", "/readyz")
PERIOD_S = 0.2
LIMIT_S = 2.0
BODY_KEPT = 2000


class Poller:
    """Asks one host's health port; one question at a time.

    Args:
        host: the record.
        connect: makes a socket that connects to the port, without waiting.
    """

    def __init__(self, host: Host, connect: Callable[[], socket.socket]) -> None:
        self._host, self._connect = host, connect
        self._turn = 0
        self._next_s = 0.0
        self._sock: socket.socket | None = None
        self._began_s = 0.0
        self._answer = b""

    def tick(self, selector: selectors.BaseSelector, now: float) -> None:
        """Ask when it is time, and give up what is too old."""
        if self._sock is not None:
            if now - self._began_s > LIMIT_S:
                self._done(selector, b"")
            return
        if now < self._next_s:
            return
        self._next_s, self._began_s, self._answer = now + PERIOD_S, now, b""
        self._turn += 1
        with contextlib.suppress(OSError):
            self._sock = self._connect()
            selector.register(self._sock, selectors.EVENT_WRITE, self.ask)

    def ask(self, selector: selectors.BaseSelector) -> None:
        """Send the question: the connection is there, or refused."""
        assert self._sock is not None
        try:
            self._sock.send(f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            selector.modify(self._sock, selectors.EVENT_READ, self.read)
        except OSError:
            self._drop(selector)  # nobody listens: no daemon, or not yet

    def read(self, selector: selectors.BaseSelector) -> None:
        """Take the answer; it ends with the connection."""
        assert self._sock is not None
        try:
            data = self._sock.recv(65536)
        except OSError:
            self._drop(selector)
            return
        self._answer += data
        if not data or len(self._answer) > 1 << 20:
            self._done(selector, self._answer)

    @property
    def _path(self) -> str:
        return PATHS[self._turn % len(PATHS)]

    def _done(self, selector: selectors.BaseSelector, answer: bytes) -> None:
        now = time.monotonic()
        words = answer[:64].split()
        status = int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].isdigit() else 0
        body = answer.partition(b"\r\n\r\n")[2].decode(errors="replace")[:BODY_KEPT]
        self._host.answers.append(Answer(now, self._path, status, now - self._began_s, body))
        self._drop(selector)

    def _drop(self, selector: selectors.BaseSelector) -> None:
        assert self._sock is not None
        selector.unregister(self._sock)
        self._sock.close()
        self._sock = None

    def close(self) -> None:
        """Give up."""
        if self._sock is not None:
            self._sock.close()
