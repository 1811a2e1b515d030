"""The listeners that anybody can reach, in an event loop of their own, and a client that sends anything.

The first byte chooses one: ``h`` the probes, ``m`` monitoring and browsers, anything else the operators' socket, where
root may change something.
"""

import asyncio
import logging
import re
import secrets
from functools import cache
from ipaddress import IPv4Address

from pyflanneld.http.health import health_listener
from pyflanneld.http.monitor import monitor_listener
from pyflanneld.http.operator import operator_listener
from pyflanneld.http.sockets import bind_port
from pyflanneld.http.source import LogAccess
from pyflanneld.system.listening import bind_abstract
from tests.support.fakes.source import FakeSource

# 500 without a logged defect is aiohttp's own answer to an Expect header that it cannot repeat.
STATUSES = {200, 400, 404, 405, 413, 417, 421, 500, 503}
SILENT_S = 0.25
PROBE_S = 10.0
PROBE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_LINE = re.compile(rb"HTTP/\d\.\d (\d{3}) [A-Za-z '-]+")
_HEADER = re.compile(rb"[A-Za-z-]+: [\x20-\x7e]*")
_LEVELS = ("debug", "info", "warning", "error")


class Doors:
    """The listeners, until the process ends.

    Attributes:
        defects: what they have logged: each is a defect of ours.
    """

    def __init__(self) -> None:
        self.defects: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._level = "info"
        self._names: dict[bytes, str | int] = {}
        handler = logging.Handler()
        handler.emit = lambda record: self.defects.append(f"{record.getMessage()}: {record.exc_info}")  # type: ignore[method-assign]
        logging.getLogger("pyflanneld.http").addHandler(handler)
        self._loop.run_until_complete(self._open())

    def ask(self, door: bytes, request: bytes, within_s: float) -> bytes:
        """Send a request and nothing more, and return all that comes back within that time."""
        return self._loop.run_until_complete(self._ask(self._names.get(door, self._names[b"o"]), request, within_s))

    async def _open(self) -> None:
        source, port = FakeSource(), bind_port(IPv4Address("127.0.0.1"), 0)
        log = LogAccess(lambda: self._level, self._set_level, lambda: ({"event": "daemon.ready", "number": 1},))
        operator, monitor = (f"\0pyflanneld/fuzz/{secrets.token_hex(16)}" for _ in range(2))
        self._names = {b"h": port.getsockname()[1], b"o": operator, b"m": monitor}
        listeners = {
            port: health_listener(source.health),
            bind_abstract(operator): operator_listener(source, log),
            bind_abstract(monitor): monitor_listener(source, log, _metrics_text),
        }
        self._serving = [self._loop.create_task(one.serve(sock)) for sock, one in listeners.items()]

    def _set_level(self, name: str) -> None:
        if name not in _LEVELS:
            raise ValueError("this is no level")
        self._level = name

    async def _ask(self, name: str | int, request: bytes, within_s: float) -> bytes:
        streams = asyncio.open_unix_connection(name) if isinstance(name, str) else asyncio.open_connection(
            "127.0.0.1", name
        )  # fmt: skip
        reader, writer = await streams
        try:
            async with asyncio.timeout(within_s):
                writer.write(request)
                writer.write_eof()
                return await reader.read()
        except (ConnectionError, TimeoutError):
            return b""  # it has said too much, or its body is not complete
        finally:
            writer.transport.abort()


async def _metrics_text() -> tuple[bytes, str]:
    return b"up 1\n", "text/plain; version=0.0.4"


def check_answer(answer: bytes) -> None:
    """One answer or none, with a known status; every line of its head is printable."""
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not answer:
        return
    head, _, _ = answer.partition(b"\r\n\r\n")
    first, *headers = head.split(b"\r\n")
    line = _LINE.fullmatch(first)
    assert line is not None, first
    assert int(line[1]) in STATUSES, first
    assert all(map(_HEADER.fullmatch, headers)), headers
    named = {name.lower(): value for name, _, value in (header.partition(b": ") for header in headers)}
    if line[1] != b"400":  # aiohttp itself answers what is no request
        assert named.get(b"connection") == b"close", headers
        assert b"server" not in named


@cache
def doors() -> Doors:
    """Return the doors, opened once."""
    return Doors()
