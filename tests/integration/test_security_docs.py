"""docs/SECURITY.md on a real etcd: the role that it tells to make is enough for a host, and for nothing more."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.core.etcd_types import Record
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.doc_blocks import ROOT, blocks
from tests.support.etcd.server import Etcd, etcd_missing, running_etcd

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
PREFIX = "/coreos.com/network"
NODE = "node21:a-password"
CONFIG = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd with authentication on, after the page's commands; with a password in the place of a certificate."""
    (script,) = [block.text for block in blocks(ROOT / "docs" / "SECURITY.md") if "etcdctl role add" in block.text]
    with running_etcd(tmp_path) as running:
        running.ctl("put", f"{PREFIX}/config", CONFIG)
        for line in script.splitlines():
            words = line.replace("user add node21 --no-password", f"user add {NODE}").split()
            assert words[0] == "etcdctl"
            running.ctl(*words[1:])
        running.enable_auth("root-password")
        yield running


async def test_the_role_is_enough_for_a_host(etcd: Etcd) -> None:
    """Configuration, list, watch, creation, renewal and removal of a lease: all of it works."""
    username, _, password = NODE.partition(":")
    access = EtcdAccess(etcd.endpoints, PREFIX, username=username, password=password)
    registry = EtcdV3Registry(access, rng=random.Random(1))
    try:
        await everything(registry)
    finally:
        await registry.close()


async def everything(registry: EtcdV3Registry) -> None:
    assert (await registry.read_config()).value == CONFIG.encode()
    listed = await registry.list_subnets()
    async with registry.watch_subnets(listed) as watch:
        assert await anext(watch) == ()
        record = await registry.create_subnet(b"172.7.21.0-24", b"{}", ttl_s=60, listed=listed)
        assert isinstance(record, Record)
        assert (await registry.renew(record)).ttl_s == 60
        assert len(await anext(watch)) == 1
        assert await registry.delete_subnet(record)


@pytest.mark.parametrize(
    "words",
    [
        ("put", f"{PREFIX}/config", "{}"),
        ("del", f"{PREFIX}/config"),
        ("get", "--prefix", "/"),
        ("put", f"{PREFIX}/subnetsX", "{}"),
        ("put", "/anything", "x"),
        ("role", "list"),
        ("user", "list"),
    ],
    ids=" ".join,
)
def test_the_role_is_enough_for_nothing_more(etcd: Etcd, words: tuple[str, ...]) -> None:
    """Neither the configuration nor other keys nor users can be changed with it, nor all keys be read."""
    with pytest.raises(RuntimeError, match="permission denied"):
        etcd.ctl(*words, user=NODE)
