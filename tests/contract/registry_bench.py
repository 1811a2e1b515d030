"""What the contract tests do to a registry's cluster, in the same words for the fake one and for a real etcd."""

import abc
import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pyflanneld.core.records import Record, Snapshot
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.ports import Registry
from pyflanneld.registry.access import EtcdAccess
from pyflanneld.registry.etcd_v3 import EtcdV3Registry
from tests.fakes.registry import FakeEtcd, FakeRegistry
from tests.polling import eventually
from tests.proxy import TcpProxy
from tests.raw_etcd import RawEtcd

DAY_S = 86_400


def subnet_name(number: int) -> bytes:
    """Return a name as flannel writes them: ``10.x.y.0-24``."""
    return f"10.{number // 256}.{number % 256}.0-24".encode()


class Bench(abc.ABC):
    """A cluster, one client of it, and what others may do to both. Keys are paths below the prefix."""

    registry: Registry

    @abc.abstractmethod
    def another(self) -> Registry:
        """Return a further client, closed with the bench."""

    @abc.abstractmethod
    async def put(self, key: bytes, value: bytes, *, lease_id: int = 0) -> None: ...

    @abc.abstractmethod
    async def fill(self, count: int) -> None:
        """Put *count* subnets that have no TTL."""

    @abc.abstractmethod
    async def delete(self, key: bytes) -> None: ...

    @abc.abstractmethod
    async def compact(self) -> None:
        """Forget the history up to now."""

    @abc.abstractmethod
    async def grant(self, ttl_s: int) -> int: ...

    @abc.abstractmethod
    async def revoke(self, lease_id: int) -> None: ...

    @abc.abstractmethod
    async def granted(self, lease_id: int) -> int | None:
        """Return the TTL that a lease was granted with, ``None`` when there is no such lease."""

    @abc.abstractmethod
    def refuse(self, refusing: bool) -> None:
        """Break the client's connections, and let it make no new ones until told otherwise."""

    @abc.abstractmethod
    async def create_unheard(self, name: bytes, value: bytes, listed: Snapshot) -> Record | None:
        """Have the client create a subnet, such that it happens and no reply gets through."""

    @abc.abstractmethod
    async def close(self) -> None: ...


class FakeBench(Bench):
    """The bench on ``FakeEtcd``."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self.registry: FakeRegistry = FakeRegistry(self.etcd)

    def another(self) -> Registry:
        return FakeRegistry(self.etcd)

    async def put(self, key: bytes, value: bytes, *, lease_id: int = 0) -> None:
        self.etcd.put_key(key, value, lease_id=lease_id)

    async def fill(self, count: int) -> None:
        for number in range(count):
            self.etcd.put(subnet_name(number), b"{}")

    async def delete(self, key: bytes) -> None:
        self.etcd.delete_key(key)

    async def compact(self) -> None:
        self.etcd.compact()

    async def grant(self, ttl_s: int) -> int:
        return self.etcd.grant(ttl_s)

    async def revoke(self, lease_id: int) -> None:
        self.etcd.revoke(lease_id)

    async def granted(self, lease_id: int) -> int | None:
        lease = self.etcd.state.leases.get(lease_id)
        return lease.ttl_s if lease else None

    def refuse(self, refusing: bool) -> None:
        self.registry.down = RegistryUnavailable("fake: down") if refusing else None

    async def create_unheard(self, name: bytes, value: bytes, listed: Snapshot) -> Record | None:
        self.registry.lose_next_reply()
        return await self.registry.create_subnet(name, value, ttl_s=DAY_S, listed=listed)

    async def close(self) -> None:
        await self.registry.close()


class EtcdBench(Bench):
    """The bench on a real etcd, behind a proxy that stands for the network. Made by ``on``."""

    def __init__(self, url: str, proxy: TcpProxy, prefix: str) -> None:
        self.raw = RawEtcd(url)
        self.proxy = proxy
        self.prefix = prefix
        self._others: list[Registry] = []
        self.registry: EtcdV3Registry = self._client()

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str, prefix: str) -> AsyncIterator["EtcdBench"]:
        """Run a bench below *prefix* until the block ends."""
        async with TcpProxy.before(url) as proxy:
            bench = cls(url, proxy, prefix)
            try:
                yield bench
            finally:
                await bench.close()

    def _client(self) -> EtcdV3Registry:
        return EtcdV3Registry(EtcdAccess((self.proxy.url,), self.prefix), rng=random.Random(1))

    def another(self) -> Registry:
        self._others.append(self._client())
        return self._others[-1]

    def key(self, path: bytes) -> bytes:
        """Return the whole key of a path below the prefix."""
        return self.prefix.encode() + b"/" + path

    async def put(self, key: bytes, value: bytes, *, lease_id: int = 0) -> None:
        await self.raw.put(self.key(key), value, lease_id=lease_id)

    async def fill(self, count: int) -> None:
        await self.raw.put_all((self.key(b"subnets/" + subnet_name(number)) for number in range(count)), b"{}")

    async def delete(self, key: bytes) -> None:
        await self.raw.delete(self.key(key))

    async def compact(self) -> None:
        await self.raw.compact()

    async def grant(self, ttl_s: int) -> int:
        return await self.raw.grant(ttl_s)

    async def revoke(self, lease_id: int) -> None:
        await self.raw.revoke(lease_id)

    async def granted(self, lease_id: int) -> int | None:
        answer = await self.raw.time_to_live(lease_id)
        return int(answer.grantedTTL) if answer.TTL >= 0 else None

    def refuse(self, refusing: bool) -> None:
        self.proxy.refuse = refusing
        self.proxy.mute = False

    async def create_unheard(self, name: bytes, value: bytes, listed: Snapshot) -> Record | None:
        self.proxy.mute_after = value
        creating = asyncio.create_task(self.registry.create_subnet(name, value, ttl_s=DAY_S, listed=listed))
        await eventually(lambda: self.raw.get(self.key(b"subnets/" + name)))
        self.refuse(True)
        try:
            return await creating
        finally:
            self.refuse(False)

    async def close(self) -> None:
        for registry in (self.registry, *self._others):
            await registry.close()
        await self.raw.close()
