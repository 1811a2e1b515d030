"""A listener that serves for the length of a block."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

from pyflanneld.http.listener import Listener
from pyflanneld.http.sockets import bind_port

LOCAL = IPv4Address("127.0.0.1")


@asynccontextmanager
async def served(listener: Listener, listening: socket.socket | None = None) -> AsyncIterator[int]:
    """Serve on *listening* or on a free port of loopback; give the port (of AF_UNIX: 0)."""
    with listening or bind_port(LOCAL, 0) as sock:
        task = asyncio.create_task(listener.serve(sock))
        try:
            yield sock.getsockname()[1] if sock.family != socket.AF_UNIX else 0
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task
