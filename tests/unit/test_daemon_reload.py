"""Certificates that change while the daemon runs, and SIGHUP: nothing is lost, nothing is listed without need."""

import pytest

from pyflanneld.errors import RegistryUnavailable
from tests.support.fakes.certificates import FakeCertificates
from tests.support.fakes.node import CONFIG, FakeNode, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until


class Site:
    """A node that speaks https, and a peer's lease."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd()
        self.etcd.put_config(CONFIG)
        self.etcd.put(b"172.7.22.0-24", value("192.168.14.22"))
        self.node = FakeNode(self.etcd)
        self.node.certificates = self.files = FakeCertificates()

    @property
    def proofs(self) -> int:
        return self.node.counters.renewals[True]

    @property
    def lists(self) -> int:
        return sum(self.node.counters.lists.values())


@pytest.fixture
def site() -> Site:
    return Site()


def test_new_files_are_found_within_a_minute(site: Site) -> None:
    """They are used for new connections, and the lease is proved by one; no list, no write, no route."""

    async def scenario() -> None:
        async with site.node.running():
            proofs, lists, revision = site.proofs, site.lists, site.etcd.state.revision
            site.files.fresh = True
            await until(lambda: site.node.registry.reconnects, 60)
            await until(lambda: site.proofs > proofs, 1)
            assert (site.lists, site.etcd.state.revision) == (lists, revision)
            (told,) = [fields for _, event, fields in site.node.log.events if event == "certificates.renewed"]
            assert told == {"certfile_ends": "2030-03-17T17:46:40Z", "cafile_ends": "2033-05-18T03:33:20Z"}

    run(scenario())


def test_nothing_new_disturbs_nothing(site: Site) -> None:
    """An hour of looking at the same files: not one connection more."""

    async def scenario() -> None:
        async with site.node.running():
            looks = site.files.looks
            await until(lambda: site.files.looks > looks + 60, 3600)
            assert site.node.registry.reconnects == 0

    run(scenario())


def test_files_that_cannot_be_used(site: Site) -> None:
    """What is in use stays in use, the node stays ready, a problem says which file; once mended it is well again."""

    async def scenario() -> None:
        async with site.node.running():
            site.files.broken = "/c/key.pem is encrypted"
            await until(lambda: "certificates" in site.node.conditions.open(), 60)
            problem = site.node.conditions.open()["certificates"]
            assert (problem.event, problem.blocks) == ("certificates.unusable", False)
            assert "/c/key.pem is encrypted" in problem.text
            assert site.node.ready
            assert site.node.registry.reconnects == 0
            looks = site.files.looks
            await until(lambda: site.files.looks > looks + 3, 240)
            assert site.node.log.count("certificates.unusable") == 1
            site.files.broken, site.files.fresh = None, True
            await until(lambda: "certificates" not in site.node.conditions.open(), 60)
            await until(lambda: site.node.registry.reconnects, 1)

    run(scenario())


def test_hangup_has_everything_looked_at(site: Site) -> None:
    """SIGHUP: the files are read, etcd is connected, listed and asked for the lease anew, the kernel is read."""

    async def scenario() -> None:
        async with site.node.running():
            looks, proofs, lists = site.files.looks, site.proofs, site.lists
            site.node.hangup.set()
            await until(lambda: site.node.registry.reconnects and site.lists > lists and site.proofs > proofs, 1)
            assert site.files.looks == looks + 1
            assert site.node.log.count("daemon.reloaded") == 1
            assert site.node.ready

    run(scenario())


@pytest.mark.parametrize("secure", [True, False])
def test_hangup_before_there_is_a_lease(site: Site, secure: bool) -> None:
    """Without etcd, and without certificates: it ends nothing, and the start goes on as soon as it can."""

    async def scenario() -> None:
        site.node.certificates = site.files if secure else None
        site.node.registry.down = RegistryUnavailable("fake: away")
        site.node.hangup.set()
        async with site.node.running(ready=False) as task:
            await until(lambda: site.node.log.count("daemon.reloaded") == 1, 1)
            assert site.node.registry.reconnects == 1
            site.node.registry.down = None
            await until(lambda: site.node.ready, 60)
            assert not task.done()

    run(scenario())
