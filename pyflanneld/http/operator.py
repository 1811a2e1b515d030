"""The operators' socket: the reports, the health and the log level as JSON, for ``pyflanneld status`` and its like.

The socket is AF_UNIX with an abstract name: such names belong to the network namespace, as the routes do, and nothing
is left on disk. Everybody inside the namespace may read, for the reports have no secrets and no more than ``ip route``
and etcd show. Changes are for root and the daemon's own user.
"""

import os
import socket
from dataclasses import asdict

from aiohttp import web

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.strict_json import parse_object
from pyflanneld.http.listener import Listener
from pyflanneld.http.reports import add_reports, json_response
from pyflanneld.http.source import LogAccess, StatusSource
from pyflanneld.system.unix_peers import peer_of

_BODY_BYTES = 1024


def operator_listener(source: StatusSource, log: LogAccess) -> Listener:
    """Return the listener for the operators' commands."""

    async def health(_request: web.Request) -> web.Response:
        found = source.health()
        return await json_response(asdict(found) | {"ready": found.ready})

    async def level(_request: web.Request) -> web.Response:
        return await json_response({"level": log.level()})

    async def set_level(request: web.Request) -> web.Response:
        if not _may_change(request):
            raise web.HTTPForbidden(text="only root and the daemon's own user may change its log level")
        try:
            log.set_level(_requested_level(await request.read()))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return await level(request)

    app = web.Application(client_max_size=_BODY_BYTES)
    add_reports(app, source, log)
    app.add_routes([web.get("/health", health), web.get("/log-level", level), web.post("/log-level", set_level)])
    return Listener(app)


def _requested_level(body: bytes) -> str:
    """Return the level that a request names. Raises ``Invalid``."""
    name = parse_object(body, "the body").get("level")
    if not isinstance(name, str):
        raise Invalid("no_level", "level", name, 'the name of a level, as in {"level": "debug"}')
    return name


def _may_change(request: web.Request) -> bool:
    """Return whether the sender, by the kernel's word, is root or the user that runs this daemon."""
    sock = request.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return False
    return peer_of(sock).uid in (0, os.geteuid())
