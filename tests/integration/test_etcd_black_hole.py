"""A member whose packets are dropped: no reset, no refusal, nothing. In network namespaces, with nftables."""

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.etcd.server import Member, etcd_missing, make_member
from tests.support.network.namespaces import Namespace, namespace

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
ADDRESSES = ("10.99.0.11", "10.99.0.12", "10.99.0.13")
LEFT_WITHIN_S = 20.0

# Runs inside the node's namespace: gRPC's threads cannot be moved there from outside.
NODE = """
import asyncio, random, sys
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v3.registry import EtcdV3Registry

def say(*words):
    print(*words, flush=True)

async def main():
    registry = EtcdV3Registry(EtcdAccess(tuple(sys.argv[1:]), "/net"), rng=random.Random(1))
    while True:
        try:
            since = await registry.list_subnets()
            say("listed", registry.endpoint, len(since.records))
            async with registry.watch_subnets(since) as watch:
                async for changes in watch:
                    say("changes", registry.endpoint, len(changes))
        except RegistryUnavailable as error:
            say("failed", error)

asyncio.run(main())
"""


@dataclass
class Site:
    node: Namespace
    members: list[Member]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A node on one end of a cable, and a cluster with an address per member on the other."""
    with ExitStack() as stack:
        node, store = stack.enter_context(namespace()), stack.enter_context(namespace())
        store.veth("eth0", *(f"{address}/24" for address in ADDRESSES), peer="eth0", peer_in=node)
        node.ip("address add 10.99.0.1/24 dev eth0")
        peers = {f"m{number}": f"http://127.0.0.1:{2380 + 10 * number}" for number in range(3)}
        members = [
            make_member(
                tmp_path,
                f"m{number}",
                url=f"http://{address}:2379",
                peers=peers,
                health_url=f"http://127.0.0.1:{2381 + 10 * number}",
            )
            for number, address in enumerate(ADDRESSES)
        ]
        for member in members:
            stack.callback(member.kill)
        with store.inside():
            for member in members:
                member.start()
            for member in members:
                member.wait_ready()
        yield Site(node, members)


async def line_with(process: asyncio.subprocess.Process, word: str) -> list[str]:
    """Return the words of the next line that begins with *word*."""
    assert process.stdout is not None
    while line := (await process.stdout.readline()).decode().split():
        if line[0] == word:
            return line
    raise AssertionError(f"the node ended before it {word}")


async def test_silent_member_is_left(site: Site) -> None:
    """A watch that waits quietly notices within 20 s, and goes on with another member."""
    urls = [member.url for member in site.members]
    async with site.node.process(sys.executable, "-c", NODE, *urls) as process:
        _, url, _ = await line_with(process, "changes")
        first = next(address for address in ADDRESSES if address in url)
        site.node.swallow(first)
        begun = time.monotonic()
        async with asyncio.timeout(LEFT_WITHIN_S + 10):
            failed = await line_with(process, "failed")
            assert time.monotonic() - begun < LEFT_WITHIN_S
            assert first in failed[1]
            assert first not in (await line_with(process, "listed"))[1]
            assert first not in (await line_with(process, "changes"))[1]
        assert time.monotonic() - begun < LEFT_WITHIN_S
