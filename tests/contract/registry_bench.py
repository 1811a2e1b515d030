"""What the contract tests do to a registry's cluster, in the same words for the fake one and for a real etcd's APIs."""

import abc
import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v2.registry import EtcdV2Registry
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from pyflanneld.ports import Registry
from tests.sim.etcd import SimEtcd, SimRegistry
from tests.support.etcd.client import RawEtcd
from tests.support.etcd.client_v2 import RawEtcdV2
from tests.support.fakes.registry import FakeEtcd, FakeRegistry
from tests.support.network.tcp_proxy import TcpProxy
from tests.support.polling import eventually

DAY_S = 86_400


def subnet_name(number: int) -> bytes:
    """Return a name as flannel writes them: ``10.x.y.0-24``."""
    return f"10.{number // 256}.{number % 256}.0-24".encode()


class Bench(abc.ABC):
    """A cluster, one client of it, and what others may do to both. Keys are paths below the prefix.

    The contract leaves some of what is stored, and how, to the store; what the tests have to know of it is here.

    Attributes:
        history: changes that a watch can at least go back.
        siblings: keys beside the subnets that are none.
        junk: names that are no subnet's and can be stored, in their order.
        leases_outlive_keys: TTLs belong to leases with numbers of their own, not to the keys.
        overwriting_keeps_age: a key that is overwritten keeps its ``create_revision``.
        renewals_are_changes: a renewal, although it wakes no watcher, changes the revisions of key and store.
    """

    registry: Registry
    history = 1500
    siblings: tuple[bytes, ...] = (b"subnets-old/10.1.0.0-24", b"config", b"subnets0", b"subnets", b"subnet/x")
    junk: tuple[bytes, ...] = (
        *(b"", b"\x00\xff\xfe", b"10.0.0.0-24&fd00::-64", b"a/b", "läß".encode(), b"\xff" * 300),
    )
    leases_outlive_keys = True
    overwriting_keeps_age = True
    renewals_are_changes = False

    @property
    @abc.abstractmethod
    def url(self) -> str:
        """The client's endpoint."""

    @property
    def connections(self) -> int | None:
        """How many connections the client has opened so far; ``None`` where there are none."""
        return None

    def stored(self, value: bytes) -> bytes:
        """Return what becomes of *value* in this store."""
        return value

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
        """Break the client's connections, and refuse new ones until this is called with ``False``."""

    @abc.abstractmethod
    async def create_with_lost_reply(self, name: bytes, value: bytes, listed: Snapshot) -> Record | None:
        """Have the client create a subnet, such that it happens and no reply gets through."""

    @abc.abstractmethod
    async def close(self) -> None: ...


class FakeBench(Bench):
    """The bench on ``FakeEtcd``."""

    def __init__(self) -> None:
        self.etcd: FakeEtcd = FakeEtcd()
        self.registry: FakeRegistry = FakeRegistry(self.etcd)

    @property
    def url(self) -> str:
        return "http://127.0.0.1:2379"

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

    async def create_with_lost_reply(self, name: bytes, value: bytes, listed: Snapshot) -> Record | None:
        self.registry.lose_next_reply()
        return await self.registry.create_subnet(name, value, ttl_s=DAY_S, listed=listed)

    async def close(self) -> None:
        await self.registry.close()


class SimBench(FakeBench):
    """The bench on the etcd of the simulated world, which answers after a while, and whose leases run out."""

    def __init__(self) -> None:
        self.etcd = self._cluster = SimEtcd()
        self.registry = self._client()

    def _client(self) -> SimRegistry:
        return SimRegistry(self._cluster, random.Random(1))

    def another(self) -> Registry:
        return self._client()


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

    @property
    def url(self) -> str:
        return self.proxy.url

    @property
    def connections(self) -> int:
        return self.proxy.connections

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

    async def create_with_lost_reply(self, name: bytes, value: bytes, listed: Snapshot) -> Record | None:
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


class EtcdV2Bench(Bench):
    """The bench on a real etcd's v2 API, behind a proxy. Made by ``on``.

    A lease's number is here the index at which its key was made; one that is granted in advance is only a TTL.
    """

    history = 900  # of the 1000 that etcd keeps
    siblings = (b"subnets-old/10.1.0.0-24", b"config", b"subnets0", b"subnet/x")  # "subnets" itself is the directory
    junk = (b"%41", b"10.0.0.0-24&fd00::-64", b"?a=b#c", b"a b+c", "läß".encode(), "ß".encode() * 150)
    leases_outlive_keys = False
    overwriting_keeps_age = False
    renewals_are_changes = True

    def __init__(self, raw: RawEtcdV2, proxy: TcpProxy, prefix: str) -> None:
        self.raw = raw
        self.proxy = proxy
        self.prefix = prefix
        self._granted: dict[int, int] = {}
        self._others: list[Registry] = []
        self.registry: EtcdV2Registry = self._client()

    @classmethod
    @asynccontextmanager
    async def on(cls, url: str, prefix: str) -> AsyncIterator["EtcdV2Bench"]:
        """Run a bench below *prefix* until the block ends."""
        async with RawEtcdV2.at(url) as raw, TcpProxy.before(url) as proxy:
            bench = cls(raw, proxy, prefix)
            try:
                yield bench
            finally:
                await bench.close()

    @property
    def url(self) -> str:
        return self.proxy.url

    @property
    def connections(self) -> int:
        return self.proxy.connections

    def stored(self, value: bytes) -> bytes:
        return value.decode(errors="replace").encode()  # values are texts

    def _client(self) -> EtcdV2Registry:
        return EtcdV2Registry(EtcdAccess((self.proxy.url,), self.prefix), rng=random.Random(1))

    def another(self) -> Registry:
        self._others.append(self._client())
        return self._others[-1]

    def key(self, path: bytes) -> bytes:
        """Return the whole key of a path below the prefix."""
        return self.prefix.encode() + b"/" + path

    async def put(self, key: bytes, value: bytes, *, lease_id: int = 0) -> None:
        await self.raw.set(self.key(key), value, **({"ttl": self._granted[lease_id]} if lease_id else {}))

    async def fill(self, count: int) -> None:
        await self.raw.set_all((self.key(b"subnets/" + subnet_name(number)) for number in range(count)), b"{}")

    async def delete(self, key: bytes) -> None:
        await self.raw.delete(self.key(key))

    async def compact(self) -> None:
        await self.raw.forget()

    async def grant(self, ttl_s: int) -> int:
        self._granted[-len(self._granted) - 1] = ttl_s
        return -len(self._granted)

    async def _node(self, lease_id: int) -> Any:
        nodes = await self.raw.children(self.key(b"subnets"))
        return next((node for node in nodes if node["createdIndex"] == lease_id and "expiration" in node), None)

    async def revoke(self, lease_id: int) -> None:
        await self.raw.delete((await self._node(lease_id))["key"])

    async def granted(self, lease_id: int) -> int | None:
        node = await self._node(lease_id)
        # etcd reports what is left, rounded up; nothing here takes more than a few seconds.
        return None if node is None else DAY_S if DAY_S - 10 <= node["ttl"] <= DAY_S else node["ttl"]

    def refuse(self, refusing: bool) -> None:
        self.proxy.refuse = refusing
        self.proxy.mute = False

    async def create_with_lost_reply(self, name: bytes, value: bytes, listed: Snapshot) -> Record | None:
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
