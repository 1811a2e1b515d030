"""Hostile clients: they begin a request and never complete it, and connect again when they are closed."""

import contextlib
import itertools
import socket
import threading
import time
from contextlib import AbstractContextManager, ExitStack

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64))
BEGINNINGS = {
    "nothing": b"",
    "a letter": b"G",
    "half a line": b"GET /hea",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ",
    "TLS": HELLO,
    "garbage": b"\0\xff\x80" * 40,
    "a body that does not come": b"POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n",
}
BACK_S = 0.02


class Crowd:
    """Many of them at a port, for the length of a block that begins when all have connected.

    Args:
        port: on loopback.
        count: how many clients there are at any time.
        inside: where they run, such as in a network namespace.

    Attributes:
        opened: how many connections they have opened.
    """

    def __init__(self, port: int, count: int, inside: AbstractContextManager[object] | None = None) -> None:
        self._port = port
        self._count = count
        self._inside = inside or contextlib.nullcontext()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.opened = 0

    def __enter__(self) -> "Crowd":
        self._thread.start()
        deadline_s = time.monotonic() + 20
        while self.opened < self._count:
            assert time.monotonic() < deadline_s, "the clients do not connect"
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        clients: list[socket.socket] = []
        beginnings = itertools.cycle(BEGINNINGS.values())
        with self._inside, ExitStack() as stack:
            while not self._over.is_set():
                while len(clients) < self._count and not self._over.is_set():
                    clients.append(stack.enter_context(self._client(next(beginnings))))
                    self.opened += 1
                clients = [client for client in clients if trickled(client)]
                self._over.wait(BACK_S)

    def _client(self, beginning: bytes) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(("127.0.0.1", self._port))
        with contextlib.suppress(OSError):
            client.send(beginning)  # not connected yet: it sends nothing, which is a beginning too
        return client


def trickled(client: socket.socket) -> bool:
    """Send one byte more, as slow loris do; return whether the connection is still open, and close it if not."""
    client.setblocking(False)
    try:
        client.send(b"x")
        there = client.recv(65536) != b""
    except BlockingIOError:
        there = True
    except OSError:
        there = False
    if not there:
        client.close()
    return there
