"""New certificates: the passes of docs/procedures.md, in none of which a host is locked out, and files that change."""

import os
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from pyflanneld.errors import RegistryError, RegistryUnavailable, UsageError
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v2.registry import EtcdV2Registry
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from pyflanneld.system import disk
from tests.support.etcd.server import Etcd, Files, running_etcd
from tests.support.tls.certificates import end_of, files_in, write

pytestmark = pytest.mark.etcd

Connect = Callable[..., EtcdV3Registry]


@dataclass
class Rotation:
    """An etcd that demands client certificates, its files, and those of a host."""

    etcd: Etcd
    server: Files
    host: Files
    old: trustme.CA
    new: trustme.CA

    def serve(self, ca: trustme.CA, *trusted: trustme.CA) -> None:
        """Start etcd anew with a certificate of *ca*, and with these authorities for its clients."""
        write(self.server, ca.issue_cert("127.0.0.1"), *trusted)
        for member in self.etcd.members:
            member.restart()


@pytest.fixture
def rotation(tmp_path: Path) -> Iterator[Rotation]:
    old, new = trustme.CA(), trustme.CA()
    server, host = files_in(tmp_path / "server"), files_in(tmp_path / "host")
    write(server, old.issue_cert("127.0.0.1"), old)
    write(host, old.issue_cert("node1"), old)
    v2 = ["--enable-v2=true"]
    with running_etcd(tmp_path, server_files=server, client_files=host, client_cert_auth=True, args=v2) as etcd:
        yield Rotation(etcd, server, host, old, new)


async def works(connect: Connect, rotation: Rotation) -> bool:
    """Return whether a daemon that is started now gets through to etcd."""
    files = rotation.host
    registry = connect(rotation.etcd.endpoints[0], ca_file=files.ca, cert_file=files.cert, key_file=files.key)
    try:
        await registry.read_config()
    except RegistryError:
        return False
    return True


async def test_a_new_authority(rotation: Rotation, connect: Connect) -> None:
    """Both are believed, then the certificates change, then the old one goes: each host works before and after."""
    old, new = rotation.old, rotation.new
    assert await works(connect, rotation)

    rotation.serve(old, old, new)
    assert await works(connect, rotation), "first pass: etcd believes both, the host the old one"
    write(rotation.host, old.issue_cert("node1"), old, new)
    assert await works(connect, rotation), "first pass: the host believes both"

    rotation.serve(new, old, new)
    assert await works(connect, rotation), "second pass: etcd has its new certificate"
    write(rotation.host, new.issue_cert("node1"), old, new)
    assert await works(connect, rotation), "second pass: the host has its new certificate"

    write(rotation.host, new.issue_cert("node1"), new)
    assert await works(connect, rotation), "third pass: the host has forgotten the old one"
    rotation.serve(new, new)
    assert await works(connect, rotation), "third pass: etcd has forgotten it"


async def test_a_pass_left_out(rotation: Rotation, connect: Connect) -> None:
    """Why there are three: a new certificate on etcd before the hosts believe in it locks them out."""
    rotation.serve(rotation.new, rotation.old, rotation.new)
    assert not await works(connect, rotation)


# Files that change under a registry that runs


@dataclass
class Running:
    """A registry with the files it was made from."""

    tls: Tls
    registry: EtcdV2Registry | EtcdV3Registry

    async def works(self) -> bool:
        try:
            await self.registry.read_config()
        except RegistryError:
            return False
        return True


@pytest.fixture(params=[3, 2], ids=["v3", "v2"])
async def running(request: pytest.FixtureRequest, rotation: Rotation) -> AsyncIterator[Running]:
    """A registry on either API that has been in use."""
    files = rotation.host
    access = EtcdAccess(rotation.etcd.endpoints, "/net", files.ca, files.cert, files.key)
    tls, kind = Tls(access), EtcdV3Registry if request.param == 3 else EtcdV2Registry
    registry = kind(access, rng=random.Random(1), timing=Timing(rpc_s=1.5, read_s=3.0), tls=tls)
    try:
        await registry.read_config()
        yield Running(tls, registry)
    finally:
        await registry.close()


async def test_nothing_is_missed(running: Running, rotation: Rotation) -> None:
    """The watch that is open goes on over the change of the certificate, and tells of every change; writes work."""
    listed = await running.registry.list_subnets()
    async with running.registry.watch_subnets(listed) as watch:
        assert await anext(watch) == ()
        write(rotation.host, rotation.old.issue_cert("node1-renewed"), rotation.old)
        assert await running.tls.reload()
        running.registry.reconnect()
        record = await running.registry.create_subnet(b"10.1.0.0-24", b"{}", ttl_s=60, listed=listed)
        assert record is not None
        [change] = await anext(watch)
        assert getattr(change, "record", None) == record
        assert (await running.registry.renew(record)).record is not None
    assert not await running.tls.reload(), "the same files are no news"


async def test_the_new_certificate_is_the_one_shown(running: Running, rotation: Rotation) -> None:
    """etcd believes the new authority alone, and the host's files follow: the next connection works."""
    both = (rotation.old, rotation.new)
    rotation.serve(rotation.old, rotation.new)
    assert not await running.works(), "etcd no longer believes the old certificate"
    write(rotation.host, rotation.new.issue_cert("node1"), *both)
    assert await running.tls.reload()
    running.registry.reconnect()
    assert await running.works()


async def test_the_new_authority_is_believed(running: Running, rotation: Rotation) -> None:
    """etcd has changed over first: nothing is said to it until the host's bundle has the new authority too."""
    rotation.serve(rotation.new, rotation.old)
    with pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await running.registry.read_config()
    write(rotation.host, rotation.old.issue_cert("node1"), rotation.old, rotation.new)
    assert await running.tls.reload()
    running.registry.reconnect()
    assert await running.works()


@pytest.mark.parametrize("broken", ["ca", "cert", "key"])
@pytest.mark.parametrize("how", ["gone", "empty", "another"])
async def test_files_that_cannot_be_used(running: Running, rotation: Rotation, broken: str, how: str) -> None:
    """The former ones stay in use, for new connections too; the message names the file; what is mended is taken."""
    file: Path = getattr(rotation.host, broken)
    mended = spoil(rotation, file, how)
    for _ in range(2):
        with pytest.raises(UsageError) as told:
            await running.tls.reload()
        assert str(file) in str(told.value)
    running.registry.reconnect()
    assert await running.works()
    mended()
    assert await running.tls.reload()
    running.registry.reconnect()
    assert await running.works()


@pytest.mark.parametrize("broken", ["ca", "cert", "key"])
async def test_f97_files_that_do_not_answer(
    running: Running, rotation: Rotation, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO is refused at once; a disk that hangs is given up after a moment. The former files stay in use."""
    file: Path = getattr(rotation.host, broken)
    mended = spoil(rotation, file, "fifo")
    with pytest.raises(UsageError, match="not a regular file"):
        await running.tls.reload()
    mended()
    assert await running.tls.reload()
    answers, opened = threading.Event(), os.open

    def hang(path: object, *args: object, **kwargs: object) -> int:
        if path == file:
            answers.wait(60)
        return opened(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", hang)
    monkeypatch.setattr(disk, "PATIENCE_S", 0.2)
    for _ in range(2):
        with pytest.raises(UsageError, match="no answer within"):
            await running.tls.reload()
    answers.set()
    monkeypatch.setattr(disk, "PATIENCE_S", 60.0)
    assert not await running.tls.reload()
    assert await running.works()


def spoil(rotation: Rotation, file: Path, how: str) -> Callable[[], object]:
    """Renew the host's files, all but *file*, which is spoilt; return what mends it."""
    before = file.read_bytes()
    write(rotation.host, rotation.old.issue_cert("node1-renewed"), rotation.old)
    renewed = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "fifo":
        file.unlink()
        os.mkfifo(file)
    elif how == "empty":
        file.write_bytes(b"")
    elif file == rotation.host.ca:
        file.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    else:
        file.write_bytes(before)

    def mended() -> None:
        file.unlink(missing_ok=True)
        file.write_bytes(renewed)

    return mended


async def test_a_key_that_others_can_read(rotation: Rotation) -> None:
    """Where that is refused, a new key with an open mode is not taken either."""
    files = rotation.host
    files.key.chmod(0o600)
    access = EtcdAccess(rotation.etcd.endpoints, "/net", files.ca, files.cert, files.key, private_files=True)
    tls = Tls(access)
    write(files, rotation.old.issue_cert("node1-renewed"), rotation.old)
    files.key.chmod(0o644)
    with pytest.raises(UsageError, match=r"mode 0644.*chmod 600"):
        await tls.reload()
    files.key.chmod(0o600)
    assert await tls.reload()


async def test_until_when_they_are_good(rotation: Rotation) -> None:
    """Of the client's certificates the first to end counts, of two authorities the last."""
    files = rotation.host
    write(files, rotation.old.issue_cert("node1"), rotation.old, rotation.new)
    ends = Tls(EtcdAccess(rotation.etcd.endpoints, "/net", files.ca, files.cert, files.key)).ends_s()
    assert ends.keys() == {"etcd-cafile", "etcd-certfile"}
    assert ends["etcd-certfile"] == end_of(files.cert)
    assert ends["etcd-cafile"] == end_of(files.ca)
    assert not Tls(EtcdAccess(("http://192.0.2.1:2379",), "/net")).ends_s()
