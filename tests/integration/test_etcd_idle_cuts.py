"""Balancers that cut what is idle: a watch on either API goes on, nothing is missed, nobody is told.

With real ones it is 10 s and more, and our pings come after 8 s; here the times are smaller.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
import trustme

from pyflanneld.core.etcd_types import Put
from pyflanneld.errors import ConnectionCut, RegistryUnavailable, RevisionCompacted
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.v2.registry import EtcdV2Registry
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.server import Etcd, Files, etcd_missing, read_metrics, running_etcd
from tests.support.network.tcp_proxy import Idle, TcpProxy
from tests.support.tls.certificates import files_in, write

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
EACH_API = pytest.mark.parametrize("api", [3, 2])
IDLE_S = 0.6
QUICK = Timing(rpc_s=1.0, read_s=2.0, progress_s=30.0, silence_s=45.0, ping_s=30.0, steady_s=0.3)
Registry = EtcdV3Registry | EtcdV2Registry


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def files(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Files:
    made = files_in(tmp_path_factory.mktemp("tls") / "etcd")
    write(made, ca.issue_cert("127.0.0.1"), ca)
    return made


@pytest.fixture(scope="module", params=["http", "https"])
def etcd(request: pytest.FixtureRequest, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    tls = files if request.param == "https" else None
    where = tmp_path_factory.mktemp("etcd")
    with running_etcd(where, server_files=tls, client_files=tls, args=["--enable-v2=true"]) as running:
        yield running


@asynccontextmanager
async def registry_at(api: int, *urls: str, files: Files | None = None, timing: Timing = QUICK) -> AsyncIterator[Any]:
    access = EtcdAccess(urls, "/net", ca_file=files.ca if files else None)
    made = (EtcdV3Registry if api == 3 else EtcdV2Registry)(access, rng=random.Random(1), timing=timing)
    try:
        yield made
    finally:
        await made.close()


async def created(registry: Registry, name: bytes) -> Any:
    return await registry.create_subnet(name, b"{}", ttl_s=60, listed=await registry.list_subnets())


async def changes(watch: AsyncIterator[Any]) -> Any:
    """Return the next changes, after any signs of life."""
    while not (found := await anext(watch)):
        pass
    return found


@EACH_API
@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
async def test_a_watch_outlives_the_cuts(etcd: Etcd, files: Files, api: int, how: str) -> None:
    """A quiet watch is cut again and again and goes on: every change comes, once, and no warning."""
    url = etcd.endpoints[0]
    with structlog.testing.capture_logs() as logs:
        async with (
            TcpProxy.before(url) as proxy,
            registry_at(api, proxy.url, files=files) as registry,
            registry_at(api, url, files=files) as other,
            asyncio.timeout(30),
            registry.watch_subnets(await registry.list_subnets()) as watch,
        ):
            proxy.idle = Idle(IDLE_S, how)
            assert await anext(watch) == ()
            for number in range(3):
                cuts = proxy.idle_cuts
                while proxy.idle_cuts < cuts + 2:
                    assert await anext(watch) == ()
                record = await created(other, name := b"10.%d.%d.0-24" % (api, number))
                assert await changes(watch) == (Put(record),)
                assert await other.delete_subnet(record)
                assert [change.name for change in await changes(watch)] == [name]
    assert [log for log in logs if log["log_level"] != "debug"] == []
    assert sum(log["event"] == "watch.cut" for log in logs) >= 6


@EACH_API
async def test_a_cut_for_good_is_told(etcd: Etcd, files: Files, api: int) -> None:
    """What cannot be opened again has ended, with the reason; so has what was cut right after it was opened."""
    async with TcpProxy.before(etcd.endpoints[0]) as proxy, registry_at(api, proxy.url, files=files) as registry:
        since = await registry.list_subnets()
        async with registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            await asyncio.sleep(2 * QUICK.steady_s)
            proxy.refuse = True
            with pytest.raises(RegistryUnavailable):
                await anext(watch)
        proxy.refuse = False
        async with registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            proxy.cut()
            with pytest.raises(ConnectionCut):
                await anext(watch)


async def test_a_cut_of_a_member_that_was_left(etcd: Etcd, files: Files) -> None:
    """The watch goes on where the calls go by now, and is not tried where they have failed."""
    url = etcd.endpoints[0]
    async with (
        TcpProxy.before(url) as one,
        TcpProxy.before(url) as two,
        registry_at(3, one.url, two.url, files=files) as registry,
        asyncio.timeout(30),
        registry.watch_subnets(await registry.list_subnets()) as watch,
    ):
        assert await anext(watch) == ()
        await asyncio.sleep(2 * QUICK.steady_s)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.1)
        registry.reconnect()  # so that only the watch is left on the old connection
        was = one if registry.endpoint == one.url else two
        was.refuse_new = True
        await registry.read_config()
        assert registry.endpoint != was.url
        was.cut()
        assert await waiting == ()
        record = await created(registry, b"10.9.9.0-24")
        assert await changes(watch) == (Put(record),)


async def test_what_was_compacted_meanwhile(etcd: Etcd, files: Files) -> None:
    """A position that etcd has compacted away cannot be continued: the watch ends with that error."""
    async with (
        TcpProxy.before(etcd.endpoints[0]) as proxy,
        registry_at(3, proxy.url, files=files) as registry,
        registry.watch_subnets(await registry.list_subnets()) as watch,
    ):
        assert await anext(watch) == ()
        for _ in range(3):
            etcd.ctl("put", "/elsewhere", "x")
        etcd.ctl("compact", str((await registry.list_subnets()).revision))
        await asyncio.sleep(2 * QUICK.steady_s)
        proxy.cut()
        with pytest.raises(RevisionCompacted):
            await changes(watch)


async def test_a_quiet_v2_watch_that_is_cut_still_reads(etcd: Etcd, files: Files) -> None:
    """A poll that is cut before its silence is long enough does not put off the linearizable read for ever."""
    timing = Timing(rpc_s=1.0, read_s=2.0, silence_s=2 * IDLE_S, steady_s=0.3)
    async with (
        TcpProxy.before(etcd.endpoints[0]) as proxy,
        registry_at(2, proxy.url, files=files, timing=timing) as registry,
        registry.watch_subnets(await registry.list_subnets()) as watch,
    ):
        proxy.idle = Idle(IDLE_S, "close")
        reads = reads_of(etcd)
        for _ in range(6):
            assert await anext(watch) == ()
        assert reads_of(etcd) >= reads + 2
        assert proxy.idle_cuts >= 4


def reads_of(etcd: Etcd) -> float:
    """Return how many reads etcd has served by consensus."""
    return read_metrics(etcd)["etcd_server_proposals_committed_total"]
