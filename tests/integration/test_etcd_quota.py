"""An etcd that is full: it reads and keeps leases alive, and writes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
from grpclib.exceptions import GRPCError

from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.client import RawEtcd
from tests.support.etcd.server import etcd_missing, running_etcd


async def fill(raw: RawEtcd) -> None:
    """Write until etcd refuses: it counts what it has when it commits, every 100 ms, and may take 60 before."""
    for _ in range(1000):
        await raw.put(b"/filler", b"x" * 100_000)


@pytest.mark.etcd
@pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}")
async def test_no_space(tmp_path: Path, connect: Callable[..., EtcdV3Registry]) -> None:
    """Holding a subnet goes on; creating one fails with etcd's text, and works again once there is space."""
    with running_etcd(tmp_path, args=["--quota-backend-bytes", str(2**20)]) as etcd:
        registry = connect(*etcd.endpoints)
        held = await registry.create_subnet(b"held", b"{}", ttl_s=60, listed=await registry.list_subnets())
        assert held is not None
        async with RawEtcd.at(etcd.endpoints[0]) as raw:
            with pytest.raises(GRPCError):
                await fill(raw)
            assert (await registry.renew(held)).ttl_s == 60
            listed = await registry.list_subnets()
            assert listed.records == (held,)
            with pytest.raises(RegistryUnavailable, match="space exceeded"):
                await registry.create_subnet(b"more", b"{}", ttl_s=60, listed=listed)
            with pytest.raises(RegistryUnavailable, match="space exceeded"):
                await registry.rewrite_subnet(held, b"new")
            await raw.compact()
        etcd.ctl("defrag")
        etcd.ctl("alarm", "disarm")
        assert await registry.create_subnet(b"more", b"{}", ttl_s=60, listed=await registry.list_subnets()) is not None
