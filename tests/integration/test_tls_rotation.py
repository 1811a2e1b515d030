"""The passes of docs/procedures.md to new certificates and a new authority: in none of them is a host locked out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from pyflanneld.errors import RegistryError
from pyflanneld.registry.etcd_v3 import EtcdV3Registry
from tests.etcd import Etcd, Files, running_etcd

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


def write(files: Files, cert: trustme.LeafCert, *trusted: trustme.CA) -> None:
    """Put a certificate with its key, and the authorities to believe in, into *files*."""
    files.ca.write_bytes(b"".join(ca.cert_pem.bytes() for ca in trusted))
    files.cert.write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
    files.key.write_bytes(cert.private_key_pem.bytes())


def files_in(folder: Path) -> Files:
    folder.mkdir()
    return Files(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")


@pytest.fixture
def rotation(tmp_path: Path) -> Iterator[Rotation]:
    old, new = trustme.CA(), trustme.CA()
    server, host = files_in(tmp_path / "server"), files_in(tmp_path / "host")
    write(server, old.issue_cert("127.0.0.1"), old)
    write(host, old.issue_cert("node1"), old)
    with running_etcd(tmp_path, server_files=server, client_files=host, client_cert_auth=True) as etcd:
        yield Rotation(etcd, server, host, old, new)


async def works(connect: Connect, rotation: Rotation) -> bool:
    """Say whether a daemon that is started now gets through to etcd."""
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
