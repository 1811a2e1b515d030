"""Bodies of the v2 API without an end."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pyflanneld.core.etcd_types import Position
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v2.http import BODY_BYTES
from pyflanneld.etcd.v2.registry import EtcdV2Registry

HEAD = b"HTTP/1.1 200 OK\r\nX-Etcd-Index: 7\r\nX-Etcd-Cluster-Id: 1\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def endless() -> AsyncIterator[EtcdV2Registry]:
    """Have a registry on a server whose bodies never end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(HEAD)
            while True:
                writer.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    registry = EtcdV2Registry(EtcdAccess((url,), "/net"), rng=random.Random(0))
    try:
        yield registry
    finally:
        await registry.close()
        server.close()


async def test_f113_a_list_without_an_end() -> None:
    """It is cut, and the error says so and names the member."""
    async with endless() as registry:
        with pytest.raises(RegistryUnavailable, match=rf"{registry.endpoint}.*more than {BODY_BYTES} bytes"):
            await registry.list_subnets()


async def test_f113_a_change_without_an_end() -> None:
    """So is the answer of a watch."""
    async with endless() as registry, registry.watch_subnets(Position(5, 1)) as watch:
        await anext(watch)
        with pytest.raises(RegistryUnavailable, match=f"more than {BODY_BYTES} bytes"):
            await anext(watch)
