"""The monitoring port: ``/metrics``, the page at ``/``, and the reports as JSON. It is read-only.

There is no password, so a browser on this host must not be made to read the reports for another site's page: no other
origin may read (no CORS headers), and a request for a host name that is not this host's is refused, because DNS
rebinding needs one. The page runs nothing but its own script, whose hash is in the Content-Security-Policy.
"""

import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address

from pyflanneld.http.listener import Handler, Request, Response, Routes, dispatch
from pyflanneld.http.page import PageReport, page
from pyflanneld.http.reports import LogAccess, StatusSource, report_routes

CONNECTIONS = 32
HEAD_BYTES = 32 * 1024  # browsers send long headers, and the cookies of whatever else runs on this host
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

MetricsText = Callable[[], Awaitable[tuple[bytes, str]]]
"""Returns the metrics and their content type."""


def monitor_routes(source: StatusSource, log: LogAccess, metrics_text: MetricsText) -> Routes:
    """Return the handlers, by path and method."""

    async def metrics(_request: Request) -> Response:
        body, content_type = await metrics_text()
        return Response(body, content_type=content_type)

    async def front(_request: Request) -> Response:
        return page()

    return {
        "/": {"GET": front},
        "/page.json": {"GET": PageReport(source, log).answer},
        "/metrics": {"GET": metrics},
        **report_routes(source, log),
    }


def monitor_handler(source: StatusSource, log: LogAccess, metrics_text: MetricsText) -> Handler:
    """Return the handler: GET and HEAD alone, and only under a name of this host."""
    answer = dispatch(monitor_routes(source, log, metrics_text))

    async def guarded(request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            return Response(b"method not allowed", 405, headers={"Allow": "GET,HEAD"})
        if not is_this_host(request.headers.get("host", "")):
            text = "this is not the name of this host: ask by its address, as localhost, or by what `hostname` prints"
            return Response(text.encode(), 421)
        return await answer(request)

    async def handle(request: Request) -> Response:
        response = await guarded(request)
        return replace(response, headers={**response.headers, **_HEADERS})

    return handle


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
