"""Three members, of which some are killed, frozen, or alone."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator

import pytest

from pyflanneld.core.etcd_types import Put, Record, Snapshot
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.server import Etcd, Member, etcd_missing, running_etcd
from tests.support.polling import eventually

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
Connect = Callable[..., EtcdV3Registry]
SUBNET = "/net/subnets/"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with running_etcd(tmp_path_factory.mktemp("cluster"), size=3) as running:
        yield running


@pytest.fixture
def etcd(shared: Etcd) -> Iterator[Etcd]:
    """Three members, all healthy at the beginning of each test, and no subnets."""
    shared.ctl("del", "--prefix", "/net/")
    yield shared
    for member in shared.members:
        member.resume()
        if member.process is None:
            member.start()
    for member in shared.members:
        member.wait_ready()


def member_at(etcd: Etcd, url: str) -> Member:
    return next(member for member in etcd.members if member.url == url)


async def listed_within(registry: EtcdV3Registry, within_s: float) -> Snapshot:
    """List as soon as it works."""

    async def listed() -> Snapshot | None:
        try:
            return await registry.list_subnets()
        except RegistryUnavailable:
            return None

    snapshot = await eventually(listed, within_s)
    assert isinstance(snapshot, Snapshot)
    return snapshot


async def created(registry: EtcdV3Registry) -> Record:
    record = await registry.create_subnet(b"own", b"{}", ttl_s=60, listed=await registry.list_subnets())
    assert record is not None
    return record


async def test_connected_member_killed(etcd: Etcd, connect: Connect) -> None:
    """Reads go on at once on another member; so does the watch, and nothing that happened meanwhile is missed."""
    registry = connect(*etcd.endpoints)
    own = await created(registry)
    since = await registry.list_subnets()
    first = registry.endpoint
    async with registry.watch_subnets(since) as watch:
        assert await anext(watch) == ()
        member_at(etcd, first).kill()
        async with asyncio.timeout(5):
            with pytest.raises(RegistryUnavailable):
                await anext(watch)
    assert registry.endpoint != first
    await listed_within(registry, 5)
    etcd.ctl("put", f"{SUBNET}meanwhile", "{}")
    async with asyncio.timeout(5), registry.watch_subnets(since) as watch:
        assert await anext(watch) == ()
        (change,) = await anext(watch)
    assert isinstance(change, Put)
    assert change.record.name == b"meanwhile"
    assert (await registry.renew(own)).record == own


async def test_leader_killed(etcd: Etcd, connect: Connect) -> None:
    """The lease and its ID survive an election."""
    registry = connect(*etcd.endpoints)
    own = await created(registry)
    statuses = [line.split(", ") for line in etcd.ctl("endpoint", "status").splitlines()]
    leader = next(status[0] for status in statuses if "true" in status)
    member_at(etcd, leader).kill()
    await listed_within(registry, 10)
    renewal = await registry.renew(own)
    assert (renewal.record, renewal.ttl_s) == (own, 60)


async def test_connected_member_frozen(etcd: Etcd, connect: Connect) -> None:
    """A member that keeps its connections and is silent is left: by a read at once, by the watch within 20 s."""
    registry = connect(*etcd.endpoints)
    since = await registry.list_subnets()
    first = registry.endpoint
    async with registry.watch_subnets(since) as watch:
        assert await anext(watch) == ()
        member_at(etcd, first).pause()
        begun = time.monotonic()
        waiting = asyncio.ensure_future(anext(watch))
        await registry.list_subnets()
        assert time.monotonic() - begun < 10
        assert registry.endpoint != first
        with pytest.raises(RegistryUnavailable):
            await waiting
        assert time.monotonic() - begun < 20
    member_at(etcd, first).resume()


async def test_member_alone(etcd: Etcd, connect: Connect) -> None:
    """A member without the others gives no answer rather than an old one, and its watches end."""
    registry = connect(etcd.endpoints[0])
    own = await created(registry)
    since = await registry.list_subnets()
    async with registry.watch_subnets(since) as watch:
        assert await anext(watch) == ()
        for other in etcd.members[1:]:
            other.kill()
        async with asyncio.timeout(15):
            with pytest.raises(RegistryUnavailable):
                await anext(watch)
    for call in (registry.list_subnets(), registry.read_config(), registry.renew(own)):
        with pytest.raises(RegistryUnavailable):
            await call
    etcd.members[1].start()
    assert (await listed_within(registry, 15)).records == (own,)


async def test_everything_away_and_back(etcd: Etcd, connect: Connect) -> None:
    """Without a member each call fails in time; afterwards the client and its lease recover by themselves."""
    registry = connect(*etcd.endpoints)
    own = await created(registry)
    etcd.kill()
    begun = time.monotonic()
    for _ in range(4):
        with pytest.raises(RegistryUnavailable):
            await registry.list_subnets()
    assert time.monotonic() - begun < 10
    etcd.start()
    assert (await listed_within(registry, 15)).records == (own,)
    renewal = await registry.renew(own)
    assert (renewal.record, renewal.ttl_s) == (own, 60)


async def test_elsewhere_is_another_member(etcd: Etcd, connect: Connect) -> None:
    """A read with ``elsewhere`` does not use the member in use, which may be frozen."""
    registry = connect(*etcd.endpoints)
    own = await created(registry)
    first = registry.endpoint
    member_at(etcd, first).pause()
    async with asyncio.timeout(4):  # less than the deadline of a call to the frozen one
        assert (await registry.list_subnets(elsewhere=True)).records == (own,)
    member_at(etcd, first).resume()
    assert registry.endpoint == first


async def test_begins_anywhere(etcd: Etcd) -> None:
    """Many nodes spread over the members instead of all using the first of the list."""
    begun = {
        EtcdV3Registry(EtcdAccess(etcd.endpoints, "/net"), rng=random.Random(seed)).endpoint for seed in range(50)
    }
    assert begun == set(etcd.endpoints)
