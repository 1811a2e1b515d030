"""The operators' socket: the reports, the health and the log level as JSON, for ``pyflanneld status`` and its like.

The socket is AF_UNIX with an abstract name: such names belong to the network namespace, as the routes do, and nothing
is left on disk. Everybody inside the namespace may read, for the reports have no secrets and no more than ``ip route``
and etcd show. Changes are for root and the daemon's own user.
"""

import os
import socket
import struct
from collections.abc import Callable
from dataclasses import asdict

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.strict_json import parse_object
from pyflanneld.http.listener import Handler, Request, Response, dispatch
from pyflanneld.http.reports import LogAccess, StatusSource, json_response, report_routes


def operator_handler(source: StatusSource, log: LogAccess, *, may_change: Callable[[Request], bool]) -> Handler:
    """Return the handler; *may_change*: whether the sender of a request may change something."""

    async def health(_request: Request) -> Response:
        found = source.health()
        return await json_response(asdict(found) | {"ready": found.ready})

    async def level(_request: Request) -> Response:
        return await json_response({"level": log.level()})

    async def set_level(request: Request) -> Response:
        if not may_change(request):
            return Response(b"only root and the daemon's own user may change its log level", 403)
        try:
            log.set_level(_requested_level(request.body))
        except ValueError as error:
            return Response(str(error).encode(), 400)
        return await level(request)

    routes = {**report_routes(source, log), "/health": {"GET": health}, "/log-level": {"GET": level, "POST": set_level}}
    return dispatch(routes)


def _requested_level(body: bytes) -> str:
    """Return the level that a request names. Raises ``Invalid``."""
    name = parse_object(body, "the body").get("level")
    if not isinstance(name, str):
        raise Invalid("no_level", "level", name, 'the name of a level, as in {"level": "debug"}')
    return name


def root_or_own_user(request: Request) -> bool:
    """Return whether the sender, by the kernel's word, is root or the user that runs this daemon."""
    sock = request.connection
    if sock.family != socket.AF_UNIX:
        return False
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] in (0, os.geteuid())
