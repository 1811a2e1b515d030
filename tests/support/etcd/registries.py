"""Registries on the v2 API for tests, closed when their block ends."""

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.v2.registry import EtcdV2Registry

PREFIX = "/net"
SHORT = Timing(rpc_s=1.5, read_s=4.0, silence_s=1.0)


def beginning_with_the_first(endpoints: int) -> random.Random:
    """Return a source of randomness that makes a registry begin with the first of its endpoints."""
    seed = next(seed for seed in itertools.count() if random.Random(seed).randrange(endpoints) == 0)
    return random.Random(seed)


@asynccontextmanager
async def opened(*urls: str, timing: Timing | None = None, **access: Any) -> AsyncIterator[EtcdV2Registry]:
    """Have a registry below ``/net`` until the block ends."""
    rng = beginning_with_the_first(len(urls))
    registry = EtcdV2Registry(EtcdAccess(urls, PREFIX, **access), rng=rng, timing=timing or Timing())
    try:
        yield registry
    finally:
        await registry.close()
