"""The health endpoints: ``/healthz`` and ``/readyz``, with flannel's texts.

``/healthz`` answers whether the process should be restarted, ``/readyz`` whether the node can be trusted with traffic.
Nothing is decided here.
"""

from collections.abc import Callable, Iterable
from urllib.parse import parse_qs

from pyflanneld.core.status.report import Health
from pyflanneld.http.listener import Handler, Request, Response, dispatch


def health_handler(check: Callable[[], Health]) -> Handler:
    """Return the handler; it asks *check* at each request."""

    async def healthz(request: Request) -> Response:
        health = check()
        if health.live:
            return Response(b"flanneld is running")
        return _unavailable(request, "flanneld is not running: a core loop has stopped", health.not_live)

    async def readyz(request: Request) -> Response:
        health = check()
        if health.ready:
            return Response(b"flanneld is ready")
        return _unavailable(request, "flanneld is not ready yet", health.not_ready)

    return dispatch({"/healthz": {"GET": healthz}, "/readyz": {"GET": readyz}})


def _unavailable(request: Request, text: str, reasons: Iterable[str]) -> Response:
    """Answer 503 with *text*, and with ``?verbose`` each of the *reasons* on its own line."""
    lines = [text]
    if "verbose" in parse_qs(request.query, keep_blank_values=True):
        lines += [" ".join(reason.split()) for reason in reasons]
    return Response("\n".join(lines).encode(), 503)
