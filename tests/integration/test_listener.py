"""The bounds of the clients over real sockets: one request for each connection, and few connections at once."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from pyflanneld.http.listener import REQUEST_BYTES, Listener
from tests.support.network.listening import LOCAL, served


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), headers={"X-Own": "1"})


async def broken(_request: web.Request) -> web.Response:
    raise OSError("a defect")


def listener_of(get: Handler = echo, connections: int = 16) -> Listener:
    app = web.Application()
    app.add_routes([web.get("/", get), web.post("/", echo), web.get("/broken", broken)])
    return Listener(app, connections=connections)


async def ask(port: int, request: bytes) -> tuple[int, Mapping[str, str], bytes]:
    """Send the bytes; return status, headers in lower case and body of what comes back."""
    reader, writer = await asyncio.open_connection(str(LOCAL), port)
    writer.write(request)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /?a=b HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200),
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 200),
        (b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (REQUEST_BYTES // 4 + 1) + b"\r\n\r\n", 400),
        (b"GET /" + b"x" * (REQUEST_BYTES // 4) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ],
)
async def test_each_connection_has_one_answer_and_ends(request_: bytes, status: int) -> None:
    """Whatever was sent; a HEAD has no body."""
    async with served(listener_of()) as port:
        found, headers, body = await ask(port, request_)
    assert (found, headers.get("connection")) == (status, None if status == 400 else "close")
    assert body == b"" if request_.startswith(b"HEAD") else len(body) == int(headers["content-length"])


async def test_a_request_is_bounded_with_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes behind the bound is not read: such a request is never complete, and its connection ends."""
    monkeypatch.setattr("pyflanneld.http.listener.REQUEST_S", 0.3)
    monkeypatch.setattr("pyflanneld.http.listener.RESPONSE_S", 0.3)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
    fits = REQUEST_BYTES - len(head % 4000)
    async with served(listener_of()) as port:
        assert (await ask(port, head % fits + b"x" * fits))[2] == b"x" * fits
        reader, writer = await asyncio.open_connection(str(LOCAL), port)
        writer.write(head % (fits + 1) + b"x" * (fits + 1))
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


async def test_a_flood_is_cut() -> None:
    """A client that sends without an end is closed before its time is up."""
    async with served(listener_of()) as port:
        _, writer = await asyncio.open_connection(str(LOCAL), port)
        async with asyncio.timeout(1.5):
            with suppress(ConnectionError):
                while True:
                    writer.write(b"x" * 65536)
                    await writer.drain()
        writer.close()


async def test_a_defect_is_a_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets an answer, the log the traceback, and the next request is served."""
    async with served(listener_of()) as port:
        with caplog.at_level(logging.ERROR, "pyflanneld.http"):
            assert (await ask(port, b"GET /broken HTTP/1.0\r\n\r\n"))[0] == 500
        (record,) = caplog.records
        assert isinstance(record.exc_info[1] if record.exc_info else None, OSError)
        assert (await ask(port, b"GET / HTTP/1.0\r\n\r\n"))[0] == 200


async def test_what_clients_do_wrong_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Anybody may send anything, and would fill the log."""
    async with served(listener_of()) as port:
        for request in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n"):
            assert (await ask(port, request))[0] == 400
    assert caplog.records == []


async def test_connections_that_are_being_answered_are_not_pushed_out() -> None:
    """Where all places are busy, the next connection is closed instead; when one is done, there is room again."""
    release, answering = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(_request: web.Request) -> web.Response:
        answering.release()
        await release.wait()
        return web.Response(text="done")

    async with served(listener_of(slow, connections=2)) as port:
        busy = [asyncio.create_task(ask(port, b"GET / HTTP/1.0\r\n\r\n")) for _ in range(2)]
        for _ in busy:
            await answering.acquire()
        reader, writer = await asyncio.open_connection(str(LOCAL), port)
        assert await reader.read() == b""
        writer.close()
        release.set()
        assert [(await one)[2] for one in busy] == [b"done", b"done"]
        assert (await ask(port, b"GET / HTTP/1.0\r\n\r\n"))[2] == b"done"


async def test_a_stop_leaves_no_descriptor_and_waits_for_no_handler() -> None:
    """The one in reserve is given back, and a handler that hangs is cancelled."""

    async def hanging(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = descriptors()
    async with asyncio.timeout(5):
        async with served(listener_of(hanging)) as port:
            _, writer = await asyncio.open_connection(str(LOCAL), port)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            await asyncio.sleep(0.1)
        writer.close()
        await asyncio.sleep(0.1)
    assert descriptors() == before
