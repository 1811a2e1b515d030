"""A handler behind a real listener, for the length of a block."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any

from pyflanneld.http.listener import Handler, Listener
from pyflanneld.http.sockets import bind_port

LOCAL = IPv4Address("127.0.0.1")


@asynccontextmanager
async def served(handler: Handler, listening: socket.socket | None = None, **bounds: Any) -> AsyncIterator[int]:
    """Serve on *listening* or on a free port of loopback; give the port (of AF_UNIX: 0)."""
    with listening or bind_port(LOCAL, 0) as sock:
        task = asyncio.create_task(Listener(handler, **bounds).serve(sock))
        try:
            yield sock.getsockname()[1] if sock.family != socket.AF_UNIX else 0
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task
