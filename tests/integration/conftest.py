"""What the integration tests share: laboratories for the whole daemon; scripted servers for the registry."""

import itertools
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.fakes.scripted_etcd import ScriptedEtcd
from tests.support.lab.testbed import cluster, cluster_keeper, etcd_release, site, site_keeper

__all__ = ["cluster", "cluster_keeper", "etcd_release", "site", "site_keeper"]


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedEtcd]:
    async with ScriptedEtcd.running() as server:
        yield server


@pytest.fixture
async def scripted_two() -> AsyncIterator[ScriptedEtcd]:
    async with ScriptedEtcd.running() as server:
        yield server


def beginning_with_the_first(endpoints: int) -> random.Random:
    """Return a source of randomness that makes a registry begin with the first of its endpoints."""
    seed = next(seed for seed in itertools.count() if random.Random(seed).randrange(endpoints) == 0)
    return random.Random(seed)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., EtcdV3Registry]]:
    """Make registries below ``/net``, by URLs or scripted servers, that are closed after the test."""
    async with AsyncExitStack() as stack:

        def make(*servers: ScriptedEtcd | str, timing: Timing | None = None, **access: Any) -> EtcdV3Registry:
            urls = tuple(server if isinstance(server, str) else server.url for server in servers)
            registry = EtcdV3Registry(
                EtcdAccess(urls, "/net", **access),
                rng=beginning_with_the_first(len(urls)),
                timing=timing or Timing(),
            )
            stack.push_async_callback(registry.close)
            return registry

        yield make
