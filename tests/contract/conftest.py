"""A real etcd, started once for all contract tests; each test has a prefix of its own."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.contract.registry_bench import Bench, EtcdBench, FakeBench
from tests.etcd import Etcd, etcd_missing, running_etcd

_prefixes = itertools.count(1)


@pytest.fixture(scope="session")
def contract_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    if missing := etcd_missing():
        pytest.skip(f"needs {missing}")
    with running_etcd(tmp_path_factory.mktemp("etcd")) as etcd:
        yield etcd


@pytest.fixture(params=["fake", pytest.param("etcd", marks=pytest.mark.etcd)])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "fake":
        fake = FakeBench()
        yield fake
        await fake.close()
        return
    etcd: Etcd = request.getfixturevalue("contract_etcd")
    async with EtcdBench.on(etcd.endpoints[0], f"/contract/{next(_prefixes)}") as real:
        yield real
