"""The health listener: ``/healthz`` and ``/readyz``, in flannel's words.

``/healthz`` says whether the process should be restarted, ``/readyz`` whether the node can be trusted with traffic.
What is true comes from *check*; nothing is decided here. Each connection has two seconds in all, and one answer.
"""

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

from aiohttp import web

from pyflanneld.core.status.report import Health
from pyflanneld.http.bound_port import bind_health_port
from pyflanneld.http.listener import Listener

_BODY_BYTES = 1024


class HealthServer:
    """Answers probes on one address, between ``start`` and ``stop``."""

    def __init__(self, ip: IPv4Address | IPv6Address, port: int, check: Callable[[], Health]) -> None:
        self._ip = ip
        self._port = port
        self._check = check
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; differs from the one asked for only when that was 0."""
        return self._port

    async def start(self, listening: socket.socket | None = None) -> None:
        """Answer on *listening*, or else bind and listen, which raises as ``bind_health_port`` does."""
        sock = listening or bind_health_port(self._ip, self._port)
        self._port = sock.getsockname()[1]
        app = web.Application(client_max_size=_BODY_BYTES)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._listener = Listener(app, lambda: sock, answer_s=0.0)
        await self._listener.start()

    async def stop(self) -> None:
        """Close the listener and the connections; stopping twice, or before the start, does nothing."""
        if self._listener is not None:
            await self._listener.stop()

    async def _healthz(self, request: web.Request) -> web.Response:
        verdict = self._check()
        if verdict.live:
            return web.Response(text="flanneld is running")
        return _refusal(request, "flanneld is not running: a core loop has stopped", verdict.not_live)

    async def _readyz(self, request: web.Request) -> web.Response:
        verdict = self._check()
        if verdict.ready:
            return web.Response(text="flanneld is ready")
        return _refusal(request, "flanneld is not ready yet", verdict.not_ready)


def _refusal(request: web.Request, words: str, reasons: Iterable[str]) -> web.Response:
    """Answer 503 with flannel's *words*, and with ``?verbose`` the *reasons* on a line each."""
    lines = [words, *(" ".join(reason.split()) for reason in reasons if "verbose" in request.query)]
    return web.Response(status=503, text="\n".join(lines))
