"""Through etcd's own gRPC proxy, which many nodes' watches may share: what works, and how a dead one is noticed."""

import asyncio
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from pyflanneld.core.etcd_types import Put, Record
from pyflanneld.core.lease.codec import encode_name, parse_key_name
from pyflanneld.errors import NoAnswer, RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.registries import beginning_with_the_first
from tests.support.etcd.server import RELEASES, Etcd, etcd_missing, free_ports, read_metrics, running_etcd
from tests.support.polling import eventually

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
OWN = b"10.0.1.0-24"
QUICK = Timing(rpc_s=1.0, progress_s=3.0, silence_s=4.5, ping_s=0.8, ping_answer_s=1.0)  # the pings are as many
WATCHERS = "etcd_debugging_mvcc_watcher_total"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@dataclass
class Proxy:
    """A running proxy."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def running_proxy(program: str, etcd: Etcd, folder: Path) -> Iterator[Proxy]:
    [port] = free_ports(1)
    command = ["setpriv", "--pdeathsig", "KILL", program, "grpc-proxy", "start", f"--listen-addr=127.0.0.1:{port}"]
    command += ["--endpoints", etcd.endpoints[0].removeprefix("http://")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            yield Proxy(f"http://127.0.0.1:{port}", process, folder / "log")
        finally:
            process.kill()
            process.wait(timeout=10)


@pytest.fixture(scope="module", params=RELEASES)
def proxy(request: pytest.FixtureRequest, etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy of each release before etcd."""
    with running_proxy(RELEASES[request.param], etcd, tmp_path_factory.mktemp("proxy")) as running:
        yield running


@pytest.fixture
async def nodes(etcd: Etcd, proxy: Proxy) -> AsyncIterator[list[EtcdV3Registry]]:
    """Five nodes on the proxy, with short limits, and no subnets."""
    etcd.ctl("del", "--prefix", "/net/")
    made = [EtcdV3Registry(EtcdAccess((proxy.url,), "/net"), rng=random.Random(1), timing=QUICK) for _ in range(5)]
    await eventually(lambda: _answers(made[0]))
    yield made
    for registry in made:
        await registry.close()


async def _answers(registry: EtcdV3Registry) -> bool:
    try:
        await registry.list_subnets()
    except RegistryUnavailable:
        return False
    return True


async def _created(registry: EtcdV3Registry, name: bytes = OWN) -> Record:
    record = await registry.create_subnet(name, b"{}", ttl_s=60, listed=await registry.list_subnets())
    assert record is not None
    return record


async def test_a_lease_is_created_renewed_and_refused(nodes: list[EtcdV3Registry]) -> None:
    """Guards, keep-alives and linearizable reads pass: a creation by an old list is refused as without a proxy."""
    before = await nodes[1].list_subnets()
    record = await _created(nodes[0])
    renewal = await nodes[0].renew(record)
    assert (renewal.record, renewal.ttl_s) == (record, 60)
    covering = encode_name(parse_key_name(record.name).ipv4.supernet())
    assert await nodes[1].create_subnet(covering, b"{}", ttl_s=60, listed=before) is None
    assert (await nodes[1].list_subnets()).records == (record,)


async def test_watches_of_many_nodes_are_one_for_etcd(etcd: Etcd, nodes: list[EtcdV3Registry]) -> None:
    """Each node receives a change, and etcd has sent it to the proxy once."""
    since = await nodes[0].list_subnets()
    idle = read_metrics(etcd)[WATCHERS]
    opened = [registry.watch_subnets(since) for registry in nodes]
    watches = [await one.__aenter__() for one in opened]
    try:
        for watch in watches:
            assert await anext(watch) == ()
        record = await _created(nodes[0])
        for watch in watches:
            assert await anext(watch) == (Put(record),)
        await eventually(lambda: read_metrics(etcd)[WATCHERS] == idle + 1)
    finally:
        for one in opened:
            await one.__aexit__(None, None, None)


async def test_a_quiet_watch_goes_on(nodes: list[EtcdV3Registry], proxy: Proxy) -> None:
    """The proxy answers no progress request, and gets none, nor too many pings: the watch goes on all the same."""
    registry = nodes[0]
    since = await registry.list_subnets()
    with structlog.testing.capture_logs() as logs:
        async with registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            for _ in range(4):
                assert await anext(watch) == ()  # a sign of life after each silence
            record = await _created(nodes[1])
            assert await anext(watch) == (Put(record),)
    assert [log["event"] for log in logs] == ["watch.opened", "watch.progress_unanswered"]
    assert "not supported request" not in proxy.log.read_text()


async def test_a_frozen_proxy(nodes: list[EtcdV3Registry], proxy: Proxy) -> None:
    """A proxy that is stopped in its tracks answers no ping: the watch ends, although its kernel still answers."""
    async with nodes[0].watch_subnets(await nodes[0].list_subnets()) as watch:
        assert await anext(watch) == ()
        proxy.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(NoAnswer, match="ping"):
                await anext(watch)
        finally:
            proxy.process.send_signal(signal.SIGCONT)


async def test_frozen_etcd_behind_it(nodes: list[EtcdV3Registry], etcd: Etcd) -> None:
    """The proxy works and etcd behind it is stopped in its tracks: no read is answered, and the watch ends.

    A proxy may end the connection first, as pings without any answer to calls are too many for it.
    """
    async with nodes[0].watch_subnets(await nodes[0].list_subnets()) as watch:
        assert await anext(watch) == ()
        etcd.members[0].pause()
        try:
            async with asyncio.timeout(QUICK.silence_s + 2 * QUICK.rpc_s):
                with pytest.raises(RegistryUnavailable):
                    await _signs_of_life(watch)
        finally:
            etcd.members[0].resume()


async def _signs_of_life(watch: AsyncIterator[object]) -> None:
    """Take them for as long as they come."""
    async for _ in watch:
        pass


async def test_a_member_beside_it(nodes: list[EtcdV3Registry], etcd: Etcd, proxy: Proxy) -> None:
    """A member is asked for progress although the proxy in the same list is not."""
    urls = (proxy.url, etcd.endpoints[0])
    registry = EtcdV3Registry(EtcdAccess(urls, "/net"), rng=beginning_with_the_first(2), timing=QUICK)
    since = await nodes[0].list_subnets()
    with structlog.testing.capture_logs() as logs:
        async with registry.watch_subnets(since) as watch:
            assert [await anext(watch) for _ in range(3)] == [()] * 3
            proxy.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(NoAnswer):
                    await anext(watch)
            finally:
                proxy.process.send_signal(signal.SIGCONT)
        assert registry.endpoint == etcd.endpoints[0]
        async with registry.watch_subnets(since) as watch:
            assert [await anext(watch) for _ in range(3)] == [()] * 3
    await registry.close()
    unanswered = [log["endpoint"] for log in logs if log["event"] == "watch.progress_unanswered"]
    assert unanswered == [proxy.url]
