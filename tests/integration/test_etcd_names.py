"""Names of etcd members: ``/etc/hosts`` and name servers that are silent, several addresses, addresses that change.

In network namespaces with an ``/etc/hosts`` and an ``/etc/resolv.conf`` of their own (``ip-netns(8)``).
"""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.etcd.server import Member, etcd_missing, make_member
from tests.support.network.name_server import NameServer
from tests.support.network.namespaces import Namespace, namespace

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
FIRST, SECOND = "10.99.1.11", "10.99.1.12"
URL = "http://etcd1.example:2379"
EACH_API = pytest.mark.parametrize("api", ["3", "2"])
DEADLINE_S = 60.0

# Runs inside the node's namespace, which has files of its own.
NODE = """
import asyncio, sys, structlog
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess
from tests.support.etcd.registries import beginning_with_the_first

async def main(api, rounds, *urls):
    if api == "3":
        from pyflanneld.etcd.v3.registry import EtcdV3Registry as Registry
    else:
        from pyflanneld.etcd.v2.registry import EtcdV2Registry as Registry
    registry = Registry(EtcdAccess(urls, "/net"), rng=beginning_with_the_first(len(urls)))
    for _ in range(int(rounds)):
        try:
            since = await registry.list_subnets()
            print("listed", registry.endpoint, flush=True)
            if rounds == "1":
                break
            async with registry.watch_subnets(since) as watch:
                async for changes in watch:
                    print("watches", flush=True)
        except RegistryUnavailable as error:
            print("failed", type(error).__name__, error, flush=True)
    await registry.close()

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main(*sys.argv[1:]))
"""


@dataclass
class Site:
    """A node with a name server, and an etcd with two addresses."""

    node: Namespace
    etcd: Member
    names: NameServer
    files: Path

    def hosts(self, text: str) -> None:
        """Write the node's ``/etc/hosts``, in place: it is mounted."""
        (self.files / "hosts").write_text(f"127.0.0.1 localhost\n{text}\n")

    @asynccontextmanager
    async def running(self, api: str, *urls: str, rounds: int = 1) -> AsyncIterator[asyncio.subprocess.Process]:
        async with self.node.process(sys.executable, "-c", NODE, api, str(rounds), *urls) as process:
            yield process

    async def outcome(self, api: str, *urls: str) -> str:
        """Return what one read says, after the program has ended."""
        async with asyncio.timeout(DEADLINE_S), self.running(api, *urls) as process:
            out, _ = await process.communicate()
            assert process.returncode == 0
            return out.decode().strip()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        node, store = stack.enter_context(namespace()), stack.enter_context(namespace())
        files = Path("/etc/netns") / node.name
        files.mkdir(parents=True)
        stack.callback(shutil.rmtree, files)
        (files / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        store.veth("eth0", f"{FIRST}/24", f"{SECOND}/24", peer="eth0", peer_in=node)
        node.ip("address add 10.99.1.1/24 dev eth0")
        listen = f"--listen-client-urls=http://{FIRST}:2379,http://{SECOND}:2379"
        etcd = make_member(
            tmp_path, "m0", url=f"http://{FIRST}:2379", peers={"m0": "http://127.0.0.1:2380"},
            health_url="http://127.0.0.1:2381", args=[listen, "--enable-v2=true"],
        )  # fmt: skip
        stack.callback(etcd.kill)
        with store.inside():
            etcd.start()
            etcd.wait_ready()
        names = NameServer(node)
        stack.callback(names.close)
        made = Site(node, etcd, names, files)
        made.hosts("")
        yield made


@EACH_API
async def test_hosts_file_with_a_silent_name_server(site: Site, api: str) -> None:
    """A name in ``/etc/hosts`` works at the first try, although no name server answers."""
    site.names.silent = True
    site.hosts(f"{FIRST} etcd1.example")
    assert await site.outcome(api, URL) == f"listed {URL}"


@EACH_API
async def test_a_silent_name_server(site: Site, api: str) -> None:
    """A name that nobody answers for is told as that; other names go on; the end of the process does not wait for the
    lookup: glibc repeats its question after 20 s here, and gives up after 40 s."""
    site.names.silent = True
    (site.files / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:20\n")
    assert (await site.outcome(api, URL)).startswith(f"failed NameUnresolved {URL}: no name server has answered")
    assert site.names.asked["etcd1.example", 1] <= 2, "one question of each of the two lookups, none repeated"
    site.hosts(f"{FIRST} etcd2.example")
    other = URL.replace("etcd1", "etcd2")
    assert await site.outcome(api, URL, other) == f"listed {other}"


@EACH_API
async def test_no_such_name(site: Site, api: str) -> None:
    """A name that does not exist is told with the C library's words."""
    assert await site.outcome(api, URL) == f"failed NameUnresolved {URL}: Name or service not known"


@EACH_API
async def test_a_name_server_that_drops_questions_for_ipv6(site: Site, api: str) -> None:
    """The IPv4 address is used, at the first try."""
    site.names.names, site.names.drops_ipv6 = {"etcd1.example": [FIRST]}, True
    assert await site.outcome(api, URL) == f"listed {URL}"


@EACH_API
@pytest.mark.parametrize("dead", [FIRST, SECOND])
async def test_one_of_two_addresses_is_dead(site: Site, api: str, dead: str) -> None:
    """The address that answers is used, at the first try, whichever comes first."""
    site.names.names = {"etcd1.example": [FIRST, SECOND]}
    site.node.swallow(dead)
    assert await site.outcome(api, URL) == f"listed {URL}"


@EACH_API
@pytest.mark.parametrize("by", ["hosts", "name server"])
async def test_a_name_gets_another_address(site: Site, api: str, by: str) -> None:
    """The old address is dead and the name has a new one: the open watch ends, and the next one is there."""

    def point_to(address: str) -> None:
        site.names.names = {"etcd1.example": [address]}
        if by == "hosts":
            site.hosts(f"{address} etcd1.example")

    point_to(FIRST)
    async with asyncio.timeout(DEADLINE_S), site.running(api, URL, rounds=1000) as process:
        assert process.stdout is not None
        seen = [await process.stdout.readline() for _ in range(2)]
        assert seen == [f"listed {URL}\n".encode(), b"watches\n"]
        site.node.swallow(FIRST)
        point_to(SECOND)
        async with asyncio.timeout(20):  # it is 8 s; without the kernel's probes it would be 45 s
            while await process.stdout.readline() != seen[0]:
                pass
            assert await process.stdout.readline() == seen[1]
