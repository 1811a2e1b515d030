"""The health endpoints: ``/healthz`` and ``/readyz``, with flannel's texts.

``/healthz`` answers whether the process should be restarted, ``/readyz`` whether the node can be trusted with traffic.
Nothing is decided here.
"""

from collections.abc import Callable, Iterable

from aiohttp import web

from pyflanneld.core.printable import printable
from pyflanneld.core.status.report import Health
from pyflanneld.http.listener import Listener


def health_listener(check: Callable[[], Health]) -> Listener:
    """Return the listener for probes; it asks *check* at each request."""

    async def healthz(request: web.Request) -> web.Response:
        health = check()
        if health.live:
            return web.Response(text="flanneld is running")
        return _unavailable(request, "flanneld is not running: a core task has stalled", health.not_live)

    async def readyz(request: web.Request) -> web.Response:
        health = check()
        if health.ready:
            return web.Response(text="flanneld is ready")
        return _unavailable(request, "flanneld is not ready yet", health.not_ready)

    app = web.Application()
    app.add_routes([web.route("*", "/healthz", healthz), web.route("*", "/readyz", readyz)])  # as Go's http.HandleFunc
    return Listener(app)


def _unavailable(request: web.Request, text: str, reasons: Iterable[str]) -> web.Response:
    """Answer 503 with *text*, and with ``?verbose`` each of the *reasons* on its own line."""
    lines = [text, *(printable(" ".join(reason.split())) for reason in reasons if "verbose" in request.query)]
    return web.Response(status=503, text="\n".join(lines))
