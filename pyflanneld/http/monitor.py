"""What monitoring and browsers ask: ``/metrics``, the page at ``/``, and the reports as JSON. Reading only.

There is no password, so a browser on this host must not be made to read it for a stranger's page: no other origin may
read (no CORS headers), and a request that names a host which is not this one is refused, which is what DNS rebinding
needs. The page runs nothing but its own script, whose hash is in the Content-Security-Policy.
"""

import base64
import hashlib
import re
import socket
from collections.abc import Awaitable, Callable
from functools import cache, partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from pyflanneld.http.bound_port import bound
from pyflanneld.http.listener import Listener
from pyflanneld.http.operator import StatusSource, add_reports, unavailable_response
from pyflanneld.http.stream import Stream

CONNECTIONS = 32
LINE_BYTES = 8190  # browsers send long headers, and the cookies of whatever else runs on this host
REQUEST_BYTES = 4 * LINE_BYTES
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def monitor_app(
    told: StatusSource, numbers: Callable[[], Awaitable[tuple[bytes, str]]], stream: Stream
) -> web.Application:
    """Return the application.

    Args:
        told: what it tells of.
        numbers: returns the metrics and their content type.
        stream: what follows the page's first moment.
    """

    async def metrics(_request: web.Request) -> web.Response:
        body, content_type = await numbers()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def page(_request: web.Request) -> web.Response:
        text, policy = _page()
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})

    app = web.Application(middlewares=[_guard, unavailable_response])
    app.router.add_get("/", page)
    app.router.add_get("/metrics", metrics)
    add_reports(app, told, live=stream.answer)
    app.on_response_prepare.append(_protect)
    app.on_shutdown.append(stream.end)
    return app


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.method not in {"GET", "HEAD"}:
        raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
    if not is_this_host(request.headers.get("Host", "")):
        raise web.HTTPMisdirectedRequest(
            text="this is not the name of this host: ask by its address, as localhost, or by what `hostname` prints"
        )
    return await handler(request)


async def _protect(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def monitor_listener(
    told: StatusSource, numbers: Callable[[], Awaitable[tuple[bytes, str]]], ip: IPv4Address | IPv6Address, port: int
) -> Listener:
    """Return the listener for monitoring and browsers."""
    app = monitor_app(told, numbers, Stream(told))
    return Listener(
        app, partial(bound, ip, port), connections=CONNECTIONS, line_bytes=LINE_BYTES, request_bytes=REQUEST_BYTES
    )


def is_this_host(header: str) -> bool:
    """Say whether a Host header names this host; every address does, because only names can be rebound."""
    match = _HOST.fullmatch(header)
    if match is None:
        return False
    name = match[1].lower().rstrip(".")
    if name in {"localhost", socket.gethostname().lower()}:
        return True
    try:
        return bool(ip_address(name.strip("[]")))
    except ValueError:
        return False


@cache
def _page() -> tuple[str, str]:
    """Return the page and its Content-Security-Policy, which lets its own style and script run and nothing else."""
    text = Path(__file__).with_name("page.html").read_text("utf-8")
    style, script = (_hash_of(tag, text) for tag in ("style", "script"))
    return text, (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )


def _hash_of(tag: str, text: str) -> str:
    """Return the source expression for the content of the page's only *tag*."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
