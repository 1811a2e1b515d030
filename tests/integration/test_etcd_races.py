"""Many nodes that want a subnet at once, with and without a network that loses replies."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pyflanneld.core.etcd_types import Put, Record
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.client import RawEtcd
from tests.support.etcd.server import Etcd, etcd_missing, running_etcd
from tests.support.network.tcp_proxy import TcpProxy
from tests.support.polling import eventually

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
NAMES = [f"10.0.{number}.0-24".encode() for number in range(256)]


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with running_etcd(tmp_path) as running:
        yield running


@asynccontextmanager
async def node(url: str, timing: Timing | None = None) -> AsyncIterator[EtcdV3Registry]:
    registry = EtcdV3Registry(EtcdAccess((url,), "/net"), rng=random.Random(1), timing=timing or Timing())
    try:
        yield registry
    finally:
        await registry.close()


async def acquire(registry: EtcdV3Registry, value: bytes, rng: random.Random) -> Record:
    """Get a subnet as a daemon does: list, take what is ours, else try to create something free; again if need be."""
    while True:
        try:
            listed = await registry.list_subnets()
            ours = [record for record in listed.records if record.value == value]
            if ours:
                return ours[0]
            free = sorted(set(NAMES) - {record.name for record in listed.records})
            if record := await registry.create_subnet(rng.choice(free), value, ttl_s=600, listed=listed):
                return record
        except RegistryUnavailable:
            pass
        await asyncio.sleep(rng.uniform(0, 0.02))


async def test_fifty_at_once(etcd: Etcd) -> None:
    """Fifty nodes get fifty subnets, one each, and etcd has fifty leases and not one more."""

    async def one(number: int) -> Record:
        async with node(etcd.endpoints[0]) as registry:
            return await acquire(registry, b"node %d" % number, random.Random(number))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(50)]
    records = [task.result() for task in tasks]
    async with RawEtcd.at(etcd.endpoints[0]) as raw:
        keys = await raw.keys(b"/net/subnets/")
        leases = await raw.leases()
    assert len({record.name for record in records}) == len(keys) == 50
    assert leases == {record.lease_id for record in records} == {kv.lease for kv in keys.values()}


async def test_over_a_network_that_loses_replies(etcd: Etcd) -> None:
    """With connections cut and replies lost at random, each node ends up with one subnet, alive, on one lease."""
    rng = random.Random(7)

    async def one(number: int) -> Record:
        value = b"node %d" % number
        async with TcpProxy.before(etcd.endpoints[0]) as proxy, node(proxy.url) as registry:
            trouble = asyncio.create_task(disturb(proxy, value))
            try:
                record = await acquire(registry, value, random.Random(number))
            finally:
                trouble.cancel()
                await asyncio.wait({trouble})

            async def renewed() -> bool:
                try:
                    return (await registry.renew(record)) is not None
                except RegistryUnavailable:
                    return False

            await eventually(renewed)
            return record

    async def disturb(proxy: TcpProxy, value: bytes) -> None:
        """Cut now and then: at any moment, or just after the put was sent and before its reply."""
        while True:
            if rng.random() < 0.7:
                proxy.mute_after = value
            await asyncio.sleep(rng.uniform(0.02, 0.15))
            proxy.cut()
            proxy.mute, proxy.mute_after = False, None

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(12)]
    records = {task.result().value: task.result() for task in tasks}
    async with RawEtcd.at(etcd.endpoints[0]) as raw:
        keys = await raw.keys(b"/net/subnets/")
        leases = await raw.leases()
    assert {kv.value: kv.key.removeprefix(b"/net/subnets/") for kv in keys.values()} == {
        value: record.name for value, record in records.items()
    }
    assert len(keys) == 12
    assert {kv.lease for kv in keys.values()} == {record.lease_id for record in records.values()}
    assert leases == {record.lease_id for record in records.values()}


async def test_watch_under_load(etcd: Etcd) -> None:
    """While many write at once, a watch that keeps requesting progress is never wrong and raises no false alarm."""
    url, halt = etcd.endpoints[0], asyncio.Event()

    async def write(number: int) -> None:
        rng = random.Random(number)
        async with RawEtcd.at(url) as raw:
            while not halt.is_set():
                await raw.put(b"/net/subnets/k%d" % rng.randrange(50), b"%d" % rng.randrange(1000))
                await raw.delete(b"/net/subnets/k%d" % rng.randrange(50))
                await asyncio.sleep(rng.choice([0.0, 0.0, 0.005, 0.08]))  # at times longer than progress_s

    async def follow(progress_s: float) -> None:
        async with node(url, Timing(progress_s=progress_s, silence_s=10.0)) as registry:
            since = await registry.list_subnets()
            state = {record.name: record for record in since.records}
            signs_of_life = 0
            async with registry.watch_subnets(since) as watch:
                while not halt.is_set() or set((await registry.list_subnets()).records) != set(state.values()):
                    changes = await anext(watch)
                    signs_of_life += not changes
                    for change in changes:
                        if isinstance(change, Put):
                            state[change.record.name] = change.record
                        else:
                            del state[change.name]
            assert signs_of_life > 1  # the first means "open"

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(write(number))
        for progress_s in (0.003, 0.01, 0.02):
            group.create_task(follow(progress_s))
        asyncio.get_running_loop().call_later(3.0, halt.set)
