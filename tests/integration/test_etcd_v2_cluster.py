"""The v2 API of three members, of which some are killed, frozen, or alone."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from pyflanneld.core.etcd_types import Put, Record, Snapshot
from pyflanneld.core.lease.codec import TTL_S
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.v2.registry import EtcdV2Registry
from tests.support.etcd.client_v2 import RawEtcdV2
from tests.support.etcd.registries import SHORT, opened
from tests.support.etcd.server import Etcd, Member, etcd_missing, running_etcd
from tests.support.polling import eventually

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
NAME = b"10.1.0.0-24"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with running_etcd(tmp_path_factory.mktemp("cluster"), size=3, args=["--enable-v2=true"]) as running:
        yield running


@pytest.fixture
async def etcd(shared: Etcd) -> Etcd:
    """Three members, all healthy at the beginning of each test, and no subnets."""
    for member in shared.members:
        member.resume()
        if member.process is None:
            member.start()
    for member in shared.members:
        await asyncio.to_thread(member.wait_ready)
    async with RawEtcdV2.at(shared.endpoints[0]) as raw:
        await raw.delete("/net", recursive="true")
    return shared


def member_at(etcd: Etcd, url: str) -> Member:
    return next(member for member in etcd.members if member.url == url)


async def until_it_ends(watch: AsyncIterator[object]) -> None:
    while True:
        await anext(watch)


async def followers_first(etcd: Etcd) -> list[str]:
    """Return the endpoints, the leader last: a frozen leader keeps the others from answering until they have another.

    A v2 read that was passed on to it is lost, and answered by an error after seconds.
    """
    async with aiohttp.ClientSession() as session:

        async def leads(url: str) -> bool:
            async with session.get(f"{url}/v2/stats/self") as response:
                return bool((await response.json())["state"] == "StateLeader")

        return sorted(etcd.endpoints, key={url: await leads(url) for url in etcd.endpoints}.__getitem__)


async def created(registry: EtcdV2Registry) -> Record:
    record = await registry.create_subnet(NAME, b"{}", ttl_s=TTL_S, listed=await registry.list_subnets())
    assert record is not None
    return record


async def listed_within(registry: EtcdV2Registry, within_s: float) -> Snapshot:
    """List as soon as it works."""

    async def listed() -> Snapshot | None:
        try:
            return await registry.list_subnets()
        except RegistryUnavailable:
            return None

    snapshot = await eventually(listed, within_s)
    assert isinstance(snapshot, Snapshot)
    return snapshot


async def test_connected_member_killed(etcd: Etcd) -> None:
    """The watch ends, calls go on at another member, and nothing that happened meanwhile is missed."""
    async with opened(*etcd.endpoints, timing=SHORT) as registry:
        own = await created(registry)
        since = await registry.list_subnets()
        first = registry.endpoint
        async with registry.watch_subnets(since) as watch, asyncio.timeout(10):
            assert await anext(watch) == ()
            member_at(etcd, first).kill()
            with pytest.raises(RegistryUnavailable):
                await anext(watch)
        assert registry.endpoint != first
        await listed_within(registry, 10)
        async with RawEtcdV2.at(registry.endpoint) as raw:
            await raw.set("/net/subnets/10.2.0.0-24", "{}")
        async with registry.watch_subnets(since) as watch, asyncio.timeout(10):
            while not (changes := await anext(watch)):
                pass
        assert isinstance(changes[0], Put)
        renewal = await registry.renew(own)
        assert renewal.ttl_s == TTL_S


async def test_connected_member_frozen(etcd: Etcd) -> None:
    """A member that keeps its connections and is silent is left by the watch, and reads go on at another."""
    async with opened(*await followers_first(etcd), timing=SHORT) as registry:
        since = await registry.list_subnets()
        first = registry.endpoint
        async with registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            member_at(etcd, first).pause()
            begun = time.monotonic()
            with pytest.raises(RegistryUnavailable):
                await until_it_ends(watch)
            assert time.monotonic() - begun < SHORT.silence_s + SHORT.rpc_s + 1
        assert registry.endpoint != first
        assert (await registry.list_subnets()).records == ()


async def test_member_alone(etcd: Etcd) -> None:
    """A member without the others gives no answer rather than an old one, and its watches end."""
    async with opened(etcd.endpoints[0], timing=SHORT) as registry:
        own = await created(registry)
        since = await registry.list_subnets()
        async with registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            for other in etcd.members[1:]:
                other.kill()
            async with asyncio.timeout(10):
                with pytest.raises(RegistryUnavailable):
                    await until_it_ends(watch)
        for call in (registry.list_subnets(), registry.read_config(), registry.renew(own)):
            with pytest.raises(RegistryUnavailable):
                await call
        etcd.members[1].start()
        assert [record.name for record in (await listed_within(registry, 15)).records] == [NAME]


async def test_elsewhere_is_another_member(etcd: Etcd) -> None:
    """A read with ``elsewhere`` does not use the member in use, which may be frozen."""
    async with opened(*await followers_first(etcd), timing=SHORT) as registry:
        own = await created(registry)
        first = registry.endpoint
        member_at(etcd, first).pause()
        async with asyncio.timeout(SHORT.rpc_s):
            assert (await registry.list_subnets(elsewhere=True)).records == (own,)
        member_at(etcd, first).resume()
        assert registry.endpoint == first
