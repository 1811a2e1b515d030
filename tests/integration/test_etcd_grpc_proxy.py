"""Through etcd's own gRPC proxy, which many nodes' watches may share: what works, and what it does not answer."""

import random
import subprocess
from collections.abc import AsyncIterator, Iterator

import pytest

from pyflanneld.core.etcd_types import Put, Record
from pyflanneld.core.lease.codec import encode_name, parse_key_name
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.server import Etcd, etcd_missing, free_ports, read_metrics, running_etcd
from tests.support.polling import eventually

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
OWN = b"10.0.1.0-24"
WATCHERS = "etcd_debugging_mvcc_watcher_total"


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(etcd: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a proxy before etcd."""
    [port] = free_ports(1)
    command = ["setpriv", "--pdeathsig", "KILL", "etcd", "grpc-proxy", "start", f"--listen-addr=127.0.0.1:{port}"]
    with (tmp_path_factory.mktemp("proxy") / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--endpoints", etcd.endpoints[0].removeprefix("http://")], stdout=log, stderr=log
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait(timeout=10)


@pytest.fixture
async def nodes(etcd: Etcd, proxy: str) -> AsyncIterator[list[EtcdV3Registry]]:
    """Five nodes on the proxy, with short limits, and no subnets."""
    etcd.ctl("del", "--prefix", "/net/")
    timing = Timing(progress_s=2.0, silence_s=3.0)
    made = [EtcdV3Registry(EtcdAccess((proxy,), "/net"), rng=random.Random(1), timing=timing) for _ in range(5)]
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


async def test_silence_looks_like_death(nodes: list[EtcdV3Registry]) -> None:
    """The proxy answers no progress request, so a quiet watch ends with an error; list and watch go on."""
    registry = nodes[0]
    async with registry.watch_subnets(await registry.list_subnets()) as watch:
        assert await anext(watch) == ()
        with pytest.raises(RegistryUnavailable, match="silent"):
            await anext(watch)
    since = await registry.list_subnets()
    async with registry.watch_subnets(since) as watch:
        assert await anext(watch) == ()
        record = await _created(nodes[1])
        assert await anext(watch) == (Put(record),)
