"""The health listener: ``/healthz`` and ``/readyz``, in flannel's words. The sole user of aiohttp on the server side.

``/healthz`` says whether the process should be restarted, ``/readyz`` whether the node can be trusted with traffic.
What is true comes from *check*; nothing is decided here. Each answer closes its connection.
"""

import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address

from aiohttp import web

from pyflanneld.core.health import Verdict
from pyflanneld.http.port import CONNECTIONS, health_port

_STOP_S = 1.0
_LINE_BYTES = 1024  # a probe's request line and each of its headers are far shorter


class HealthServer:
    """Answers probes on one address, between ``start`` and ``stop``."""

    def __init__(self, ip: IPv4Address | IPv6Address, port: int, check: Callable[[], Verdict]) -> None:
        self._ip = ip
        self._port = port
        self._check = check
        self._runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; differs from the one asked for only when that was 0."""
        return self._port

    async def start(self, listening: socket.socket | None = None) -> None:
        """Answer on *listening*, or else bind and listen, which raises as ``health_port`` does."""
        sock = listening or health_port(self._ip, self._port)
        self._port = sock.getsockname()[1]
        app = web.Application(client_max_size=_LINE_BYTES)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.on_response_prepare.append(_close_after)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=0.0,
            lingering_time=0.0,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            shutdown_timeout=_STOP_S,
        )
        await self._runner.setup()
        await web.SockSite(self._runner, sock, backlog=CONNECTIONS).start()

    async def stop(self) -> None:
        """Close the listener and the connections; stopping twice, or before the start, does nothing."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

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


async def _close_after(_request: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers["Connection"] = "close"  # the header that aiohttp would set was decided before this
    response.headers.pop("Server", None)
