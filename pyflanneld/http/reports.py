"""The daemon's reports as JSON: ``/status``, ``/peers``, ``/routes`` and ``/events``, for commands and scripts.

Fields are only ever added.
"""

import asyncio
import json

from aiohttp import web
from aiohttp.typedefs import Handler

from pyflanneld.core.printable import printable, printable_report
from pyflanneld.errors import KernelError
from pyflanneld.http.source import LogAccess, StatusSource

_MANY = 200
JSON = "application/json; charset=utf-8"


def add_reports(app: web.Application, source: StatusSource, log: LogAccess) -> None:
    """Have *app* answer with the four reports."""

    async def status(_request: web.Request) -> web.Response:
        return await json_response(source.status(log.level()))

    async def peers(_request: web.Request) -> web.Response:
        return await json_response(await source.peers())

    async def routes(_request: web.Request) -> web.Response:
        return await json_response(await source.routes())

    async def events(_request: web.Request) -> web.Response:
        return await json_response(tuple(log.events()))

    app.middlewares.append(_with_kernel)
    reports = {"/status": status, "/peers": peers, "/routes": routes, "/events": events}
    app.add_routes([web.get(path, report) for path, report in reports.items()])


@web.middleware
async def _with_kernel(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 503 while the kernel cannot be read."""
    try:
        return await handler(request)
    except KernelError as error:
        raise web.HTTPServiceUnavailable(text=printable(f"the kernel cannot be read: {error}")) from error


async def json_response(value: object) -> web.Response:
    """Return *value*, which may hold dataclasses, as JSON; thousands of rows are encoded on a thread."""
    many = isinstance(value, tuple) and len(value) > _MANY
    body = await asyncio.to_thread(to_json, value) if many else to_json(value)
    return web.Response(body=body, headers={"Content-Type": JSON})


def to_json(value: object) -> bytes:
    """Encode *value*, which may hold dataclasses; each text in it is made printable."""
    return json.dumps(printable_report(value), allow_nan=False).encode()
