"""Users, passwords, tokens and rights of a real etcd."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.errors import RegistryDenied, RegistryUnavailable
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.server import Etcd, etcd_missing, running_etcd
from tests.support.polling import eventually

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
Connect = Callable[..., EtcdV3Registry]
ROOT = "root:root-password"
TOKEN_TTL_S = 2
FLANNEL = {"username": "flannel", "password": "sentinel"}


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd whose tokens expire after two idle seconds; ``flannel`` may use ``/net/`` and nothing else."""
    with running_etcd(tmp_path, args=["--auth-token-ttl", str(TOKEN_TTL_S)]) as running:
        running.ctl("user", "add", "flannel:sentinel")
        running.ctl("role", "add", "flannel")
        running.ctl("role", "grant-permission", "flannel", "--prefix=true", "readwrite", "/net/")
        running.ctl("user", "grant-role", "flannel", "flannel")
        running.enable_auth("root-password")
        yield running


async def everything(registry: EtcdV3Registry, name: bytes) -> None:
    """Make each kind of call once, with success."""
    config = await registry.read_config()
    async with registry.watch_config(config.revision) as ticks:
        await anext(ticks)
    listed = await registry.list_subnets()
    async with registry.watch_subnets(listed) as watch:
        assert await anext(watch) == ()
        stale = Snapshot((), 0, listed.cluster_id)
        assert listed.records == () or await registry.create_subnet(name, b"{}", ttl_s=60, listed=stale) is None
        record = await registry.create_subnet(name, b"{}", ttl_s=60, listed=listed)
        assert isinstance(record, Record)
        assert (await registry.renew(record)).ttl_s == 60
        rewritten = await registry.rewrite_subnet(record, b"new")
        assert rewritten is not None
        assert await registry.delete_subnet(rewritten)
        assert len(await anext(watch)) == 1


async def test_rights_on_the_prefix_are_enough(etcd: Etcd, connect: Connect) -> None:
    """A user with rights on the prefix, and on nothing else, can do all that we do; closing included."""
    registry = connect(etcd.endpoints[0], **FLANNEL)
    await everything(registry, b"a")
    assert await registry.create_subnet(b"b", b"{}", ttl_s=60, listed=await registry.list_subnets()) is not None
    stale = Snapshot((), 1, (await registry.list_subnets()).cluster_id)
    assert await registry.create_subnet(b"c", b"{}", ttl_s=60, listed=stale) is None
    with structlog.testing.capture_logs() as logs:
        await registry.close()
    assert not [entry for entry in logs if entry["event"] == "lease.left_behind"]
    assert etcd.ctl("lease", "list", user=ROOT).startswith("found 2 leases")  # of the deleted "a", and of "b"


async def test_tokens_that_died_are_renewed(etcd: Etcd, connect: Connect) -> None:
    """After all tokens have expired, every kind of call and an open watch go on."""
    registry = connect(etcd.endpoints[0], **FLANNEL)
    since = await registry.list_subnets()
    async with registry.watch_subnets(since) as watch:
        assert await anext(watch) == ()
        await asyncio.sleep(TOKEN_TTL_S + 1.5)  # time is what kills a token; nothing can be polled without using it
        await everything(registry, b"a")
        assert len(await anext(watch)) >= 1


async def test_first_call_after_idleness_may_be_a_watch(etcd: Etcd, connect: Connect) -> None:
    """A watch opened with an expired token is opened with a new one."""
    registry = connect(etcd.endpoints[0], **FLANNEL)
    since = await registry.list_subnets()
    await asyncio.sleep(TOKEN_TTL_S + 1.5)
    async with registry.watch_subnets(since) as watch:
        assert await anext(watch) == ()


async def test_changes_of_users(etcd: Etcd, connect: Connect) -> None:
    """Each change of users or roles makes old tokens invalid; calls and watches go on."""
    registry = connect(etcd.endpoints[0], **FLANNEL)
    for number in range(3):
        since = await registry.list_subnets()
        etcd.ctl("user", "add", f"other{number}:x", user=ROOT)
        async with registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
        etcd.ctl("role", "add", f"role{number}", user=ROOT)
        await everything(registry, b"a")


async def test_restart_forgets_tokens(etcd: Etcd, connect: Connect) -> None:
    """A restarted etcd knows none of its tokens: a new one is fetched."""
    registry = connect(etcd.endpoints[0], **FLANNEL)
    await registry.list_subnets()
    etcd.restart()

    async def back() -> bool:
        try:
            await registry.list_subnets()
        except RegistryUnavailable:
            return False
        return True

    await eventually(back)
    await everything(registry, b"a")


@pytest.mark.parametrize(("username", "password"), [("flannel", "wrong"), ("nobody", "sentinel")])
async def test_wrong_password(etcd: Etcd, connect: Connect, username: str, password: str) -> None:
    """A wrong password and an unknown user are refused as such."""
    with pytest.raises(RegistryDenied, match="authentication failed"):
        await connect(etcd.endpoints[0], username=username, password=password).read_config()


async def test_no_credentials(etcd: Etcd, connect: Connect) -> None:
    """Without credentials every call and every watch is refused, and not reported as an outage."""
    registry = connect(etcd.endpoints[0])
    for call in (registry.read_config(), registry.list_subnets()):
        with pytest.raises(RegistryDenied):
            await call
    with pytest.raises(RegistryDenied):
        async with registry.watch_subnets(Snapshot((), 1, 1)) as watch:
            await anext(watch)


async def test_rights_elsewhere_are_none(etcd: Etcd, connect: Connect) -> None:
    """Revoked rights refuse the next call and the next watch; granted again, both work."""
    registry = connect(etcd.endpoints[0], **FLANNEL)
    since = await registry.list_subnets()
    etcd.ctl("role", "revoke-permission", "flannel", "--prefix=true", "/net/", user=ROOT)
    with pytest.raises(RegistryDenied, match="permission denied"):
        await registry.list_subnets()
    with pytest.raises(RegistryDenied, match="permission denied"):
        await registry.create_subnet(b"a", b"{}", ttl_s=60, listed=since)
    with pytest.raises(RegistryDenied, match="permission denied"):
        async with registry.watch_subnets(since) as watch:
            await anext(watch)
    etcd.ctl("role", "grant-permission", "flannel", "--prefix=true", "readwrite", "/net/", user=ROOT)
    await everything(registry, b"a")


async def test_switched_on_and_off_at_run_time(tmp_path: Path, connect: Connect) -> None:
    """Authentication is switched on and off again, without a restart of ours."""
    with running_etcd(tmp_path) as plain:
        with_user = connect(plain.endpoints[0], username="root", password="p")  # noqa: S106
        without = connect(plain.endpoints[0])
        await everything(with_user, b"a")
        plain.enable_auth("p")
        await everything(with_user, b"a")
        with pytest.raises(RegistryDenied):
            await without.list_subnets()
        plain.ctl("auth", "disable", user="root:p")
        await everything(with_user, b"a")
        await without.list_subnets()
