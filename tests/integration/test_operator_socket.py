"""The operator's socket over real HTTP on a real abstract socket: what it serves, to whom, and what it survives."""

import asyncio
import http.client
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pyflanneld.commands.daemon_client import DaemonClient
from pyflanneld.errors import KernelError, RequestRefused
from pyflanneld.http import listener
from pyflanneld.http.listener import CONNECTIONS
from pyflanneld.http.operator import operator_listener
from pyflanneld.http.source import LogAccess
from pyflanneld.logs.processors import RecentEvents
from pyflanneld.system.listening import bind_abstract
from tests.support.fakes.source import FakeSource
from tests.support.network.listening import served


class Level:
    def __init__(self) -> None:
        self.name = "info"

    def get(self) -> str:
        return self.name

    def set(self, name: str) -> None:
        if name not in ("debug", "info"):
            raise ValueError(f"{name} is no level")
        self.name = name


@asynccontextmanager
async def serving(source: FakeSource | None = None, level: Level | None = None) -> AsyncIterator[str]:
    """Serve, and return the socket's name without its NUL."""
    name, level, recent = f"pyflanneld/test/{secrets.token_hex(16)}", level or Level(), RecentEvents()
    recent(None, "info", {"level": "info", "event": "daemon.ready", "timestamp": "T", "routes": 2})
    recent(None, "debug", {"level": "debug", "event": "watch.due", "timestamp": "T"})
    log = LogAccess(level.get, level.set, recent.events)
    async with served(operator_listener(source or FakeSource(), log), bind_abstract("\0" + name)):
        yield name


async def ask(name: str, path: str) -> Any:
    return await asyncio.to_thread(DaemonClient(name).get, path)


async def post(name: str, path: str, value: object) -> Any:
    return await asyncio.to_thread(DaemonClient(name).post, path, value)


async def connected(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, "\0" + name)
    return sock


async def ended(sock: socket.socket, within_s: float) -> bool:
    """Return whether the other side closes *sock* in time."""
    try:
        async with asyncio.timeout(within_s):
            while await asyncio.get_running_loop().sock_recv(sock, 65536):
                pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        pass
    return True


async def test_it_answers_before_there_is_a_node() -> None:
    """Status, health, rows, level and events of a daemon that still waits."""
    async with serving() as name:
        status = await ask(name, "/status")
        assert (status["ready"], status["not_ready"], status["lease"]) == (False, ["starting"], None)
        assert status["log_level"] == "info"
        assert await ask(name, "/health") == {
            "live": True, "ready": False, "not_ready": ["starting"], "not_live": [],
        }  # fmt: skip
        assert await ask(name, "/peers") == []
        assert [row["dst"] for row in await ask(name, "/routes")] == ["172.7.22.0/24"]
        (event,) = await ask(name, "/events")
        assert event == {
            "number": 1, "time": "T", "level": "info", "event": "daemon.ready", "fields": {"routes": 2},
        }  # fmt: skip


async def test_thousands_of_rows_come_whole() -> None:
    """They are encoded on a thread."""
    async with serving(FakeSource(rows=8000)) as name:
        assert len(await ask(name, "/routes")) == 8000


async def test_a_kernel_that_cannot_be_read_is_reported() -> None:
    """503 with the reason; the next question is answered."""
    async with serving(FakeSource(error=KernelError("no answer within 2 s"))) as name:
        with pytest.raises(RequestRefused, match="the kernel cannot be read: no answer within 2 s"):
            await ask(name, "/routes")
        assert await ask(name, "/peers") == []


async def test_the_level_is_changed_by_root_and_the_own_user() -> None:
    """A level that is none, and a body that is none, change nothing."""
    level = Level()
    async with serving(level=level) as name:
        assert await post(name, "/log-level", {"level": "debug"}) == {"level": "debug"}
        assert level.name == "debug"
        for bad in ({"level": "chatty"}, {"nothing": 1}, [], 5):
            with pytest.raises(RequestRefused):
                await post(name, "/log-level", bad)
        assert (level.name, await ask(name, "/log-level")) == ("debug", {"level": "debug"})


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Encoding: gzip", b"[]"),
        ("Content-Type: application/json; charset=nonsense", b"\xff"),
        ("Content-Type: application/json", b"[" * 1000),
        ("Content-Type: application/json", b"not json"),
    ],
    ids=["coding", "charset", "depth", "text"],
)
async def test_a_body_that_cannot_be_read_is_a_bad_request(headers: str, body: bytes) -> None:
    """It is the client's fault and not ours: no defect is logged, and the next one is served."""
    async with serving() as name:
        sock = await connected(name)
        head = f"POST /log-level HTTP/1.1\r\nHost: x\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(sock, head.encode() + body)
        answer = await asyncio.get_running_loop().sock_recv(sock, 1 << 16)
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert await ask(name, "/log-level") == {"level": "info"}
        sock.close()


@pytest.mark.parametrize("request_line", ["GET /status", "GET /nowhere", "POST /log-level"])
async def test_a_body_may_come_after_its_head(request_line: str) -> None:
    """The connection stays open for it, wanted or not: clients such as http.client send it by itself."""
    loop = asyncio.get_running_loop()
    async with serving() as name:
        sock = await connected(name)
        await loop.sock_sendall(sock, f"{request_line} HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n".encode())
        assert not await ended(sock, 0.3)
        await loop.sock_sendall(sock, b'{"level":"debug"}')
        answer = await loop.sock_recv(sock, 1 << 16)
        assert answer.startswith(b"HTTP/1.1 404 " if "nowhere" in request_line else b"HTTP/1.1 200 "), answer
        sock.close()


@pytest.mark.netns
async def test_another_user_may_read_and_change_nothing() -> None:
    """By the kernel's word about who connects, not by anything that the client says."""
    script = (
        "import http.client, os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "for method, path in (('GET', '/status'), ('POST', '/log-level')):\n"
        "    c = http.client.HTTPConnection('x'); c.sock = socket.socket(socket.AF_UNIX)\n"
        "    c.sock.connect(chr(0) + sys.argv[1]); c.request(method, path, '{\"level\": \"debug\"}')\n"
        "    print(c.getresponse().status)\n"
    )
    level = Level()
    async with serving(level=level) as name:
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script, name],
            capture_output=True, text=True, timeout=20, check=False,
        )
        assert done.stdout.split() == ["200", "403"], done.stderr
        assert level.name == "info"


async def test_over_another_kind_of_socket_nothing_can_be_changed() -> None:
    """Over TCP nobody knows who the sender is."""
    level = Level()
    listener = operator_listener(FakeSource(), LogAccess(level.get, level.set, tuple))
    async with served(listener) as port, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        assert (await client.post("/log-level", json={"level": "debug"})).status == 403
        assert (await client.get("/status")).status == 200
    assert level.name == "info"


async def test_silent_connections_are_cut_and_make_room() -> None:
    """Sixteen that say nothing are cut after two seconds; another pushes out the oldest, and is served at once."""
    async with serving() as name:
        idle = [await connected(name) for _ in range(CONNECTIONS)]
        await asyncio.sleep(0.1)
        assert await ask(name, "/peers") == []
        assert await ended(idle[0], 1)
        assert all([await ended(sock, listener.REQUEST_S + 3) for sock in idle[1:]])
        assert await ask(name, "/peers") == []
        for sock in idle:
            sock.close()


async def test_a_client_that_does_not_take_its_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds its connection for seconds, not for ever."""
    monkeypatch.setattr(listener, "RESPONSE_S", 1.0)
    async with serving(FakeSource(rows=50_000)) as name:
        sock = await connected(name)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_sendall(sock, b"GET /routes HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(3)
        received = 0
        with suppress(ConnectionResetError):
            async with asyncio.timeout(5):
                while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 20):
                    received += len(data)
        assert received < 5_000_000, "it was cut in the middle"
        sock.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /status HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"POST /log-level HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
    ],
    ids=["nonsense", "long line", "long header", "long body"],
)
async def test_garbage_changes_nothing(request_bytes: bytes) -> None:
    """It is refused, and the next question answered."""
    async with serving() as name:
        sock = await connected(name)
        with suppress(ConnectionError):
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_sendall(sock, request_bytes)
        assert await ended(sock, 12)
        sock.close()
        assert await ask(name, "/log-level") == {"level": "info"}


async def test_other_paths_and_methods() -> None:
    """404 and 405; each answer closes its connection and names no server."""
    async with serving() as name:

        def status(method: str, path: str) -> tuple[int, str | None, str | None]:
            connection = http.client.HTTPConnection("x")
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect("\0" + name)
            connection.request(method, path)
            response = connection.getresponse()
            found = response.status, response.getheader("Connection"), response.getheader("Server")
            connection.close()
            return found

        for method, path, code in (
            ("GET", "/", 404), ("GET", "/metrics", 404), ("PUT", "/status", 405), ("DELETE", "/routes", 405),
        ):  # fmt: skip
            assert await asyncio.to_thread(status, method, path) == (code, "close", None)


async def test_a_stop_waits_for_nobody() -> None:
    """Idle connections are closed and do not delay it; the name is free at once."""
    async with asyncio.timeout(5):
        async with serving() as name:
            idle = await connected(name)
        assert await ended(idle, 3)
    idle.close()
    assert f"@{name}\n" not in Path("/proc/net/unix").read_text()  # noqa: ASYNC240 - it is not on a disk


async def test_a_taken_name_is_an_error_of_the_start() -> None:
    """The caller hears of it, and nothing is left open."""
    async with serving() as name:
        with pytest.raises(OSError, match="in use"):
            bind_abstract("\0" + name)
        assert json.dumps(await ask(name, "/peers")) == "[]"
