"""``pyflanneld migrate`` as an operator runs it, on a real etcd with both APIs."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.etcd.client import RawEtcd
from tests.support.etcd.client_v2 import RawEtcdV2
from tests.support.etcd.server import Etcd, etcd_missing, running_etcd

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
PREFIX = "/coreos.com/network"
CONFIG = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'


def old_value(host: int) -> str:
    return f'{{"PublicIP":"192.168.14.{host}","BackendType":"host-gw"}}'


def new_value(host: int) -> bytes:
    return f'{{"PublicIP":"192.168.14.{host}","PublicIPv6":null,"BackendType":"host-gw"}}'.encode()


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with running_etcd(tmp_path, args=["--enable-v2=true"]) as running:
        yield running


@pytest.fixture
async def v2(etcd: Etcd) -> AsyncIterator[RawEtcdV2]:
    """v2 as flanneld v0.11.0 leaves it: a configuration, two leases, and a reservation."""
    async with RawEtcdV2.at(etcd.endpoints[0]) as raw:
        await raw.set(f"{PREFIX}/config", CONFIG)
        await raw.set(f"{PREFIX}/subnets/172.7.21.0-24", old_value(21), ttl=86400)
        await raw.set(f"{PREFIX}/subnets/172.7.22.0-24", old_value(22), ttl=5000)
        await raw.set(f"{PREFIX}/subnets/172.7.23.0-24", old_value(23))
        yield raw


@pytest.fixture
async def v3(etcd: Etcd) -> AsyncIterator[RawEtcd]:
    async with RawEtcd.at(etcd.endpoints[0]) as raw:
        yield raw


async def migrate(etcd: Etcd, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyflanneld", "migrate", f"--etcd-endpoints={','.join(etcd.endpoints)}", *flags]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done


async def held(v3: RawEtcd) -> dict[str, bytes]:
    return {key.decode().removeprefix(f"{PREFIX}/"): kv.value for key, kv in
            (await v3.keys(PREFIX.encode() + b"/")).items()}


async def test_dry_run(etcd: Etcd, v2: RawEtcdV2, v3: RawEtcd) -> None:
    """``--dry-run`` names everything that would be done, and does nothing."""
    before = await v2.children(f"{PREFIX}/subnets")
    done = await migrate(etcd, "--dry-run")
    assert done.returncode == 0, done.stderr
    for text in ("172.7.21.0-24: would be copied", "1 h 23 min left", "no TTL", "config: would be copied"):
        assert text in done.stdout
    assert await held(v3) == {}
    assert [node["key"] for node in await v2.children(f"{PREFIX}/subnets")] == [node["key"] for node in before]
    assert await v3.leases() == set()


async def test_copies_with_the_time_left(etcd: Etcd, v2: RawEtcdV2, v3: RawEtcd) -> None:
    """Bytes become current flannel's, TTLs are what was left, reservations have none, and v2 stays as it was."""
    done = await migrate(etcd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 copied" in done.stdout
    assert "read back" in done.stdout
    assert await held(v3) == {
        "config": CONFIG.encode(),
        **{f"subnets/172.7.{host}.0-24": new_value(host) for host in (21, 22, 23)},
    }
    ttls, leases = {}, set()
    for host in (21, 22, 23):
        kv = await v3.get(f"{PREFIX}/subnets/172.7.{host}.0-24".encode())
        leases.add(kv.lease)
        ttls[host] = (await v3.time_to_live(kv.lease)).TTL if kv.lease else None
    assert 86_300 < ttls[21] <= 86_400
    assert 4_900 < ttls[22] <= 5_000
    assert ttls[23] is None
    assert leases == {0, *(await v3.leases())}, "each key with a TTL has an etcd lease of its own"
    assert len(leases) == 3
    nodes = {node["key"]: node["value"] for node in await v2.children(f"{PREFIX}/subnets")}
    assert nodes == {f"{PREFIX}/subnets/172.7.{host}.0-24": old_value(host) for host in (21, 22, 23)}


async def test_repeating(etcd: Etcd, v2: RawEtcdV2, v3: RawEtcd) -> None:
    """A second run copies what is new, leaves the rest exactly as it is, and creates no unused leases."""
    await migrate(etcd)
    before, leases = await v3.keys(PREFIX.encode()), await v3.leases()
    await v2.set(f"{PREFIX}/subnets/172.7.24.0-24", old_value(24), ttl=86400)
    done = await migrate(etcd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 copied, 3 there already" in done.stdout
    after = await v3.keys(PREFIX.encode())
    assert {key: after[key].mod_revision for key in before} == {key: kv.mod_revision for key, kv in before.items()}
    assert len(await v3.leases()) == len(leases) + 1


@pytest.mark.usefixtures("v2")
async def test_conflicts(etcd: Etcd, v3: RawEtcd) -> None:
    """What differs in v3 is reported and never overwritten; the rest is copied, the configuration held back, exit 1."""
    await v3.put(f"{PREFIX}/subnets/172.7.21.0-24".encode(), new_value(99))
    done = await migrate(etcd)
    assert done.returncode == 1
    assert "172.7.21.0-24: conflict" in done.stdout
    assert "192.168.14.99" in done.stdout
    assert "config: held back" in done.stdout
    assert await held(v3) == {
        "subnets/172.7.21.0-24": new_value(99),
        **{f"subnets/172.7.{host}.0-24": new_value(host) for host in (22, 23)},
    }
    await v3.delete(f"{PREFIX}/subnets/172.7.21.0-24".encode())
    done = await migrate(etcd)
    assert done.returncode == 0, done.stdout
    assert (await held(v3))["config"] == CONFIG.encode()


@pytest.mark.usefixtures("v2")
async def test_another_configuration(etcd: Etcd, v3: RawEtcd) -> None:
    """Another configuration in v3 is a conflict; the same one in another spelling is not."""
    await v3.put(f"{PREFIX}/config".encode(), json.dumps(json.loads(CONFIG), indent=2).encode())
    assert (await migrate(etcd)).returncode == 0
    await v3.put(f"{PREFIX}/config".encode(), b'{"Network":"10.0.0.0/8"}')
    done = await migrate(etcd)
    assert done.returncode == 1
    assert "config: conflict" in done.stdout
    assert (await held(v3))["config"] == b'{"Network":"10.0.0.0/8"}'


async def test_junk_is_left_out(etcd: Etcd, v2: RawEtcdV2, v3: RawEtcd) -> None:
    """A key that is not a valid lease is named, left out, and stops nothing."""
    await v2.set(f"{PREFIX}/subnets/172.7.25.0-24", "junk")
    await v2.set(f"{PREFIX}/subnets/junk", old_value(25))
    done = await migrate(etcd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 left out" in done.stdout
    assert len(await held(v3)) == 4


async def test_nothing_to_migrate(etcd: Etcd) -> None:
    """An empty v2 is reported, with exit code 1."""
    done = await migrate(etcd)
    assert done.returncode == 1
    assert "nothing to migrate" in done.stdout


async def test_v2_switched_off(tmp_path: Path) -> None:
    """A server without the v2 API is one line on stderr, with what to do, and exit 1."""
    (tmp_path / "off").mkdir()
    with running_etcd(tmp_path / "off") as etcd:
        done = await migrate(etcd)
    assert done.returncode == 1
    assert "--enable-v2" in done.stderr


async def test_usage(etcd: Etcd) -> None:
    """Flags are the daemon's for etcd; a wrong one is exit 2, and help names them."""
    assert (await migrate(etcd, "--iface=eth1")).returncode == 2
    usage = await migrate(etcd, "--help")
    assert usage.returncode == 0
    assert "--etcd-cafile" in usage.stdout
    assert "--dry-run" in usage.stdout
