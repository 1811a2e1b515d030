"""The HTTP server over real sockets: one request for each connection, and exactly the HTTP that it promises."""

import asyncio
import logging
from collections.abc import Mapping

import pytest

from pyflanneld.http.listener import Request, Response, dispatch
from tests.support.network.listening import LOCAL, served

LAST: list[Request] = []


async def echo(request: Request) -> Response:
    LAST[:] = [request]
    return Response(b"body", content_type="text/x", headers={"X-Own": "1"})


async def broken(_request: Request) -> Response:
    raise OSError("a defect")


HANDLER = dispatch({"/echo": {"GET": echo, "POST": echo}, "/broken": {"GET": broken}})


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
        (b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"GET /echo?a=b HTTP/1.0\r\n\r\n", 200),
        (b"HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 200),
        (b"PUT /echo HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /echo/ HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET http://a/echo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"get /echo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\nHost: a\n\r\n\r\n", 400),
        (b"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET /echo HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 1025\r\n\r\n", 413),
        (b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /echo HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", 417),
    ],
)
async def test_what_is_answered_how(request_: bytes, status: int) -> None:
    """One answer, its length, and the end of the connection; a HEAD has no body."""
    async with served(HANDLER) as port:
        found, headers, body = await ask(port, request_)
    assert (found, headers["connection"]) == (status, "close")
    assert body == b"" if request_.startswith(b"HEAD") else len(body) == int(headers["content-length"])
    assert headers.get("allow") == ("get,head,post" if status == 405 else None)


async def test_what_a_handler_gets_and_gives() -> None:
    """Method, path, query, headers and body; type and headers of the answer."""
    async with served(HANDLER) as port:
        _, headers, body = await ask(port, b"POST /echo?x=1&y HTTP/1.1\r\nA-b: c\r\nContent-Length: 3\r\n\r\n{\r}")
    request = LAST[0]
    assert (request.method, request.path, request.query, request.body) == ("POST", "/echo", "x=1&y", b"{\r}")
    assert request.headers == {"a-b": "c", "content-length": "3"}
    assert (headers["content-type"], headers["x-own"], body) == ("text/x", "1", b"body")


async def test_a_defect_is_a_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets an answer, the log the traceback, and the next request is served."""
    async with served(HANDLER) as port:
        with caplog.at_level(logging.ERROR, "pyflanneld.http"):
            assert (await ask(port, b"GET /broken HTTP/1.1\r\n\r\n"))[0] == 500
        assert [record.getMessage() for record in caplog.records] == ["GET /broken failed"]
        assert (await ask(port, b"GET /echo HTTP/1.1\r\n\r\n"))[0] == 200


async def test_connections_that_are_being_answered_are_not_pushed_out() -> None:
    """Where all places are busy, the next connection is closed instead; when one is done, there is room again."""
    release, answering = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(_request: Request) -> Response:
        answering.release()
        await release.wait()
        return Response(b"done")

    async with served(slow, connections=2) as port:
        busy = [asyncio.create_task(ask(port, b"GET / HTTP/1.1\r\n\r\n")) for _ in range(2)]
        for _ in busy:
            await answering.acquire()
        reader, writer = await asyncio.open_connection(str(LOCAL), port)
        assert await reader.read() == b""
        writer.close()
        release.set()
        assert [(await one)[2] for one in busy] == [b"done", b"done"]
        assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n"))[2] == b"done"
