"""A bare client of a real etcd's v2 API: what administrators and flanneld v0.11.0 do. Keys are whole."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

KEPT_CHANGES = 1000
"""How many changes etcd remembers for its v2 watchers."""


class RawEtcdV2:
    """The client; made by ``at``. Answers are JSON objects as etcd gives them, errors too."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str) -> AsyncIterator["RawEtcdV2"]:
        """Provide a client until the block ends."""
        async with aiohttp.ClientSession() as session:
            yield cls(url, session)

    async def ask(self, method: str, key: bytes | str, **form: object) -> Any:
        path = quote(key.encode() if isinstance(key, str) else key)
        query, data = (f"?{urlencode(form)}", None) if method != "PUT" else ("", urlencode(form).encode())
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        url = URL(f"{self._url}/v2/keys{path}{query}", encoded=True)
        async with self._session.request(method, url, data=data, headers=headers) as response:
            return await response.json()

    async def set(self, key: bytes | str, value: bytes | str, **form: object) -> Any:
        """Write without asking, as flanneld v0.11.0 renews; ``ttl=86400`` gives a TTL."""
        answer = await self.ask("PUT", key, value=value, **form)
        assert "errorCode" not in answer, answer
        return answer["node"]

    async def set_all(self, keys: Iterable[bytes], value: bytes) -> None:
        """Write many keys, 50 at a time; each of them in the order given."""
        rest = list(keys)
        while rest:
            batch, rest = rest[:50], rest[50:]
            async with asyncio.TaskGroup() as group:
                for key in batch:
                    group.create_task(self.set(key, value))

    async def get(self, key: bytes | str) -> Any:
        """Return the node or ``None``."""
        return (await self.ask("GET", key, quorum="true")).get("node")

    async def children(self, key: bytes | str) -> list[Any]:
        """Return the nodes of a directory, sorted by key: etcd gives them in another order each time."""
        nodes = ((await self.get(key)) or {}).get("nodes", [])
        return sorted(nodes, key=lambda node: node["key"])

    async def delete(self, key: bytes | str, **query: object) -> None:
        await self.ask("DELETE", key, **query)

    async def forget(self) -> None:
        """Let etcd forget the changes up to now, by making it remember others."""
        await self.set_all([b"/elsewhere"] * (KEPT_CHANGES + 1), b"x")
