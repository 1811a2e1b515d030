"""The peers in etcd, in the API that a contender reads: written in bulk, and one by one while it looks.

The keys have a time to live, as real leases have; in the v3 API they share one etcd lease.
"""

import abc
import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from grpclib.exceptions import GRPCError

from pyflanneld.core.lease.codec import TTL_S
from pyflanneld.etcd.v3 import methods
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from tests.bench.leases import Peer, config, peer
from tests.bench.work import Work, parse_counters, work
from tests.support.etcd.client import RawEtcd
from tests.support.etcd.client_v2 import RawEtcdV2

PER_TXN = 128  # what etcd takes by default
AT_ONCE = 16
BACK_S = 15.0


class Store(abc.ABC):
    """What lies below one prefix."""

    api: int

    def __init__(self, prefix: str, backend: str) -> None:
        self.prefix = prefix
        self.backend = backend
        self._filled = 0

    def key(self, name: bytes) -> bytes:
        """Return a subnet's whole key."""
        return f"{self.prefix}/subnets/".encode() + name

    async def fill(self, count: int) -> None:
        """Have exactly the first *count* peers there, besides what others have put."""
        if count > self._filled:
            await self.put_all([peer(number) for number in range(self._filled, count)])
        else:
            await self.delete_all([peer(number) for number in range(count, self._filled)])
        self._filled = count

    @abc.abstractmethod
    async def configure(self) -> None:
        """Put the network's configuration."""

    @abc.abstractmethod
    async def unconfigure(self) -> None:
        """Delete it."""

    @abc.abstractmethod
    async def put(self, lease: Peer, *, ttl_s: int = TTL_S) -> None:
        """Put one lease."""

    @abc.abstractmethod
    async def delete(self, lease: Peer) -> None:
        """Delete one lease, which may be gone already."""

    @abc.abstractmethod
    async def put_all(self, leases: Sequence[Peer]) -> None:
        """Put many leases, as fast as etcd takes them."""

    @abc.abstractmethod
    async def delete_all(self, leases: Sequence[Peer]) -> None:
        """Delete many leases."""

    @abc.abstractmethod
    async def list_bytes(self) -> int:
        """Return how many bytes one list of all subnets takes; 0 where that is not told."""


class StoreV3(Store):
    """The v3 API."""

    api = 3

    def __init__(self, prefix: str, backend: str, raw: RawEtcd) -> None:
        super().__init__(prefix, backend)
        self._raw = raw
        self._lease_id = 0

    async def configure(self) -> None:
        await self._raw.put(f"{self.prefix}/config".encode(), config(self.backend).encode())

    async def unconfigure(self) -> None:
        await self._raw.delete(f"{self.prefix}/config".encode())

    async def put(self, lease: Peer, *, ttl_s: int = TTL_S) -> None:
        value, hung_on = lease.value(3, self.backend), await self._etcd_lease(ttl_s)
        await self._raw.put(self.key(lease.name), value, lease_id=hung_on)

    async def delete(self, lease: Peer) -> None:
        await self._raw.delete(self.key(lease.name))

    async def put_all(self, leases: Sequence[Peer]) -> None:
        hung_on = await self._etcd_lease(TTL_S)
        await self._all(
            rpc.RequestOp(
                request_put=rpc.PutRequest(key=self.key(one.name), value=one.value(3, self.backend), lease=hung_on)
            )
            for one in leases
        )

    async def delete_all(self, leases: Sequence[Peer]) -> None:
        await self._all(
            rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=self.key(one.name))) for one in leases
        )

    async def list_bytes(self) -> int:
        start, end = self.key(b""), f"{self.prefix}/subnets0".encode()
        return int((await self._raw.ask(methods.RANGE, rpc.RangeRequest(key=start, range_end=end))).ByteSize())

    async def _all(self, operations: Iterable[Any]) -> None:
        rest = list(operations)
        batches = [rest[start : start + PER_TXN] for start in range(0, len(rest), PER_TXN)]
        for start in range(0, len(batches), AT_ONCE):
            await asyncio.gather(
                *(
                    self._raw.ask(methods.TXN, rpc.TxnRequest(success=batch))
                    for batch in batches[start : start + AT_ONCE]
                )
            )

    async def _etcd_lease(self, ttl_s: int) -> int:
        if ttl_s != TTL_S:
            return await self._raw.grant(ttl_s)
        if self._lease_id == 0:
            self._lease_id = await self._raw.grant(ttl_s)
        return self._lease_id


class StoreV2(Store):
    """The v2 API."""

    api = 2

    def __init__(self, prefix: str, backend: str, raw: RawEtcdV2) -> None:
        super().__init__(prefix, backend)
        self._raw = raw

    async def configure(self) -> None:
        await self._raw.set(f"{self.prefix}/config", config(self.backend))

    async def unconfigure(self) -> None:
        await self._raw.delete(f"{self.prefix}/config".encode())

    async def put(self, lease: Peer, *, ttl_s: int = TTL_S) -> None:
        await self._raw.set(self.key(lease.name), lease.value(2, self.backend), ttl=ttl_s)

    async def delete(self, lease: Peer) -> None:
        await self._raw.delete(self.key(lease.name))

    async def put_all(self, leases: Sequence[Peer]) -> None:
        for start in range(0, len(leases), AT_ONCE):
            await asyncio.gather(*(self.put(one) for one in leases[start : start + AT_ONCE]))

    async def delete_all(self, leases: Sequence[Peer]) -> None:
        for start in range(0, len(leases), AT_ONCE):
            await asyncio.gather(*(self.delete(one) for one in leases[start : start + AT_ONCE]))

    async def list_bytes(self) -> int:
        return 0


class Client:
    """Both APIs of one etcd, and what etcd counts."""

    def __init__(self, v3: RawEtcd, v2: RawEtcdV2, http: aiohttp.ClientSession, metrics_url: str) -> None:
        self._v3, self._v2, self._http, self._metrics_url = v3, v2, http, metrics_url

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str, metrics_url: str) -> AsyncIterator["Client"]:
        """Have a client until the block ends."""
        async with RawEtcd.at(url) as v3, RawEtcdV2.at(url) as v2, aiohttp.ClientSession() as http:
            yield cls(v3, v2, http, metrics_url)

    def store(self, prefix: str, api: int, backend: str) -> Store:
        """Return what lies below *prefix* in one of the APIs, for hosts with *backend*."""
        return StoreV3(prefix, backend, self._v3) if api == 3 else StoreV2(prefix, backend, self._v2)

    async def work(self) -> Work:
        """Return what etcd has done up to now."""
        async with self._http.get(self._metrics_url) as answer:
            return work(parse_counters(await answer.text()))

    async def until_back(self) -> None:
        """Wait until etcd can be reached again, after a restart."""
        async with asyncio.timeout(BACK_S):
            while not await self._answers():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _answers(self) -> bool:
        try:
            await self._v3.get(b"x")
        except (GRPCError, OSError):
            return False
        return True
