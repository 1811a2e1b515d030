"""The monitoring port: ``/metrics``, the page at ``/``, and the reports as JSON. It is read-only.

There is no password, so a browser on this host must not be made to read the reports for another site's page: no other
origin may read (no CORS headers), and a request for a host name that is not this host's is refused, because DNS
rebinding needs one. The page runs nothing but its own script, whose hash is in the Content-Security-Policy.
"""

import re
import socket
from ipaddress import ip_address

from aiohttp import web
from aiohttp.typedefs import Handler

from pyflanneld.http.listener import Listener
from pyflanneld.http.page import PageReport, page
from pyflanneld.http.reports import add_reports
from pyflanneld.http.source import LogAccess, MetricsText, StatusSource

CONNECTIONS = 32
REQUEST_BYTES = 32 * 1024  # browsers send long headers, and the cookies of whatever else runs on this host
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def monitor_app(source: StatusSource, log: LogAccess, metrics_text: MetricsText) -> web.Application:
    """Return the application: GET and HEAD alone, and only under a name of this host."""

    async def metrics(_request: web.Request) -> web.Response:
        body, content_type = await metrics_text()
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application(middlewares=[_guard])
    add_reports(app, source, log)
    app.add_routes([
        web.get("/", page), web.get("/page.json", PageReport(source, log).answer), web.get("/metrics", metrics),
    ])  # fmt: skip
    app.on_response_prepare.append(_protect)
    return app


def monitor_listener(source: StatusSource, log: LogAccess, metrics_text: MetricsText) -> Listener:
    """Return the listener for monitoring and browsers."""
    app = monitor_app(source, log, metrics_text)
    return Listener(app, connections=CONNECTIONS, request_bytes=REQUEST_BYTES)


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


def is_this_host(header: str) -> bool:
    """Return whether a Host header names this host; every address does, because only names can be rebound."""
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
