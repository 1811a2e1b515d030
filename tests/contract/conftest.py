"""A real etcd with both its APIs, started once for all contract tests; each test has a prefix of its own."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.registry_bench import Bench, EtcdBench, EtcdV2Bench, FakeBench, SimBench
from tests.support.etcd.server import Etcd, etcd_missing, running_etcd

IN_MEMORY = {"fake": FakeBench, "sim": SimBench}
_prefixes = itertools.count(1)


@pytest.fixture(scope="session")
def contract_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    if missing := etcd_missing():
        pytest.skip(f"needs {missing}")
    with running_etcd(tmp_path_factory.mktemp("etcd"), args=["--enable-v2=true"]) as etcd:
        yield etcd


@pytest.fixture(params=[*IN_MEMORY, *(pytest.param(name, marks=pytest.mark.etcd) for name in ("etcd", "etcd-v2"))])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param in IN_MEMORY:
        fake = IN_MEMORY[request.param]()
        yield fake
        await fake.close()
        return
    etcd: Etcd = request.getfixturevalue("contract_etcd")
    kind = EtcdBench if request.param == "etcd" else EtcdV2Bench
    async with kind.on(etcd.endpoints[0], f"/contract/{next(_prefixes)}") as real:
        yield real
