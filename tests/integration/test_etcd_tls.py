"""https: who is trusted, what is verified, and which mistakes are reported before the first connection."""

import contextlib
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from pyflanneld.errors import RegistryDenied, RegistryUnavailable, UsageError
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.tls import load_tls
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.registries import opened
from tests.support.etcd.server import Etcd, Files, etcd_missing, running_etcd

Connect = Callable[..., EtcdV3Registry]
needs_etcd = pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}")


def write_files(where: Path, ca: trustme.CA, cert: trustme.LeafCert) -> Files:
    """Write *cert* and the authority to trust to *where*."""
    where.mkdir(parents=True)
    files = Files(where / "ca.pem", where / "cert.pem", where / "key.pem")
    ca.cert_pem.write_to_path(files.ca)
    cert.private_key_pem.write_to_path(files.key)
    for pem in cert.cert_chain_pems:
        pem.write_to_path(files.cert, append=True)
    return files


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def client(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a client whom etcd knows as ``flannel``."""
    return write_files(tmp_path_factory.mktemp("tls") / "client", ca, ca.issue_cert("node1", common_name="flannel"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a client of another authority."""
    other = trustme.CA()
    return write_files(tmp_path_factory.mktemp("tls") / "stranger", other, other.issue_cert("node1"))


@pytest.fixture(scope="module")
def etcd(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory, client: Files) -> Iterator[Etcd]:
    """An etcd with a certificate for 127.0.0.1 and localhost."""
    where = tmp_path_factory.mktemp("tls-etcd")
    files = write_files(where / "server", ca, ca.issue_cert("127.0.0.1", "localhost"))
    with running_etcd(where, server_files=files, client_files=client) as running:
        yield running


@pytest.fixture(scope="module")
def strict_etcd(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory, client: Files) -> Iterator[Etcd]:
    """An etcd that demands a client certificate and uses its common name as the user."""
    where = tmp_path_factory.mktemp("strict-etcd")
    files = write_files(where / "server", ca, ca.issue_cert("127.0.0.1"))
    with running_etcd(where, server_files=files, client_files=client, client_cert_auth=True) as running:
        yield running


@pytest.mark.etcd
@needs_etcd
class TestVerification:
    async def test_authority_alone(self, etcd: Etcd, client: Files, connect: Connect) -> None:
        """A CA file is enough; all kinds of calls work over TLS, and an address is verified as one."""
        registry = connect(etcd.endpoints[0], ca_file=client.ca)
        listed = await registry.list_subnets()
        record = await registry.create_subnet(b"ca-alone", b"{}", ttl_s=60, listed=listed)
        assert record is not None
        assert (await registry.renew(record)).ttl_s == 60
        async with registry.watch_subnets(listed) as watch:
            assert await anext(watch) == ()
            assert len(await anext(watch)) == 1

    async def test_by_name(self, etcd: Etcd, client: Files, connect: Connect) -> None:
        """A name is verified as one."""
        url = etcd.endpoints[0].replace("127.0.0.1", "localhost")
        assert (await connect(url, ca_file=client.ca).read_config()).value is None

    async def test_unknown_authority(self, etcd: Etcd, stranger: Files, connect: Connect) -> None:
        """A server of another authority is refused, and the error says why."""
        with pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(etcd.endpoints[0], ca_file=stranger.ca).read_config()

    async def test_another_host(
        self, ca: trustme.CA, tmp_path: Path, client: Files, connect: Connect
    ) -> None:
        """A certificate for another host is refused, even from the right authority."""
        files = write_files(tmp_path / "server", ca, ca.issue_cert("192.0.2.1", "etcd.example"))
        with (
            running_etcd(tmp_path, server_files=files) as elsewhere,
            pytest.raises(RegistryUnavailable, match="not valid for"),
        ):
            await connect(elsewhere.endpoints[0], ca_file=client.ca).read_config()

    async def test_authorities_of_the_system(
        self, etcd: Etcd, client: Files, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a CA file the authorities of the system decide: verification is never off."""
        with pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await connect(etcd.endpoints[0]).read_config()
        monkeypatch.setenv("SSL_CERT_FILE", str(client.ca))
        assert (await connect(etcd.endpoints[0]).read_config()).value is None

    async def test_https_to_http(self, tmp_path: Path, client: Files, connect: Connect) -> None:
        """A server without TLS is not used with an https endpoint."""
        with running_etcd(tmp_path) as plain, pytest.raises(RegistryUnavailable):
            await connect(plain.endpoints[0].replace("http:", "https:"), ca_file=client.ca).read_config()

    async def test_http_to_https(self, etcd: Etcd, connect: Connect) -> None:
        """A server with TLS does not answer without it, which is an error in time."""
        with pytest.raises(RegistryUnavailable):
            await connect(etcd.endpoints[0].replace("https:", "http:")).read_config()

    async def test_client_pair(self, strict_etcd: Etcd, client: Files, connect: Connect) -> None:
        """A client certificate is sent to a server that demands one."""
        pair = {"ca_file": client.ca, "cert_file": client.cert, "key_file": client.key}
        assert (await connect(strict_etcd.endpoints[0], **pair).read_config()).value is None

    async def test_no_client_pair(self, strict_etcd: Etcd, client: Files, connect: Connect) -> None:
        """Without one there is no answer, and the error says why."""
        with pytest.raises(RegistryUnavailable, match="client certificate"):
            await connect(strict_etcd.endpoints[0], ca_file=client.ca).read_config()

    async def test_strangers_pair(
        self, strict_etcd: Etcd, client: Files, stranger: Files, connect: Connect
    ) -> None:
        """A client certificate of another authority is refused."""
        pair = {"ca_file": client.ca, "cert_file": stranger.cert, "key_file": stranger.key}
        with pytest.raises(RegistryUnavailable):
            await connect(strict_etcd.endpoints[0], **pair).read_config()

    async def test_user_by_certificate(
        self, ca: trustme.CA, tmp_path: Path, client: Files, connect: Connect
    ) -> None:
        """Where etcd uses the certificate's common name as the user, its rights are those of that user."""
        files = write_files(tmp_path / "server", ca, ca.issue_cert("127.0.0.1"))
        with running_etcd(tmp_path, server_files=files, client_files=client, client_cert_auth=True) as running:
            running.ctl("user", "add", "flannel:unused")
            running.ctl("role", "add", "flannel")
            running.ctl("role", "grant-permission", "flannel", "--prefix=true", "readwrite", "/net/")
            running.ctl("user", "grant-role", "flannel", "flannel")
            running.enable_auth("root")
            registry = connect(
                running.endpoints[0], ca_file=client.ca, cert_file=client.cert, key_file=client.key
            )
            assert await registry.create_subnet(b"a", b"{}", ttl_s=60, listed=await registry.list_subnets())
            running.ctl("role", "revoke-permission", "flannel", "--prefix=true", "/net/", user="root:root")
            with pytest.raises(RegistryDenied):
                await registry.list_subnets()


class OldServer:
    """A TLS server that speaks one version alone; counts the handshakes that came to their end."""

    def __init__(self, files: Files, version: ssl.TLSVersion) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_ciphers("ALL:@SECLEVEL=0")  # what OpenSSL wants before it speaks TLS 1.1 at all
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._context.minimum_version = self._context.maximum_version = version
        self._context.load_cert_chain(files.cert, files.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.handshakes = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                connection.settimeout(5)
                with self._context.wrap_socket(connection, server_side=True):
                    self.handshakes += 1

    def close(self) -> None:
        """Accept no more connections; those under way are counted when this returns."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()


@pytest.mark.parametrize("api", [3, 2])
@pytest.mark.parametrize(("version", "accepted"), [
    (ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True),
])
async def test_lowest_version(
    ca: trustme.CA, tmp_path: Path, client: Files, connect: Connect, api: int, version: ssl.TLSVersion, accepted: bool
) -> None:
    """TLS 1.2 is the minimum, on both APIs: there is no handshake with an older server."""
    server = OldServer(write_files(tmp_path / "server", ca, ca.issue_cert("127.0.0.1")), version)
    timing = Timing(rpc_s=2, read_s=2)
    try:
        async with opened(server.url, ca_file=client.ca, timing=timing) as v2:
            registry = connect(server.url, ca_file=client.ca, timing=timing) if api == 3 else v2
            with pytest.raises(RegistryUnavailable):
                await registry.read_config()
    finally:
        server.close()
    assert (server.handshakes > 0) == accepted


def test_the_old_server_speaks_with_old_clients(ca: trustme.CA, tmp_path: Path, client: Files) -> None:
    """The server of the test above speaks TLS 1.1 with a client that allows it."""
    server = OldServer(write_files(tmp_path / "server", ca, ca.issue_cert("127.0.0.1")), ssl.TLSVersion.TLSv1_1)
    context = ssl.create_default_context(cafile=str(client.ca))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    port = int(server.url.rpartition(":")[2])
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            assert secured.version() == "TLSv1.1"
    finally:
        server.close()


class TestFiles:
    """Mistakes in the files are usage errors that name the file."""

    URL = "https://192.0.2.1:2379"

    def load(self, **files: Any) -> None:
        load_tls(EtcdAccess((self.URL,), "/net", **files))

    def test_good(self, client: Files) -> None:
        """Files that belong together are accepted; http endpoints need none."""
        self.load(ca_file=client.ca, cert_file=client.cert, key_file=client.key)
        assert load_tls(EtcdAccess(("http://192.0.2.1:2379",), "/net")) is None

    @pytest.mark.parametrize("which", ["ca_file", "cert_file", "key_file"])
    def test_missing(self, client: Files, tmp_path: Path, which: str) -> None:
        """A file that is not there is named."""
        files = {"ca_file": client.ca, "cert_file": client.cert, "key_file": client.key}
        with pytest.raises(UsageError, match=r"nowhere\.pem"):
            self.load(**{**files, which: tmp_path / "nowhere.pem"})

    @pytest.mark.parametrize("which", ["ca_file", "cert_file", "key_file"])
    @pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\n"])
    def test_not_what_it_should_be(self, client: Files, tmp_path: Path, which: str, content: bytes) -> None:
        """A file without what it should hold is named."""
        bad = tmp_path / "bad.pem"
        bad.write_bytes(content)
        files = {"ca_file": client.ca, "cert_file": client.cert, "key_file": client.key}
        with pytest.raises(UsageError, match=r"bad\.pem"):
            self.load(**{**files, which: bad})

    def test_not_a_pair(self, client: Files, stranger: Files) -> None:
        """A key that does not belong to its certificate is reported with both names."""
        with pytest.raises(UsageError) as raised:
            self.load(ca_file=client.ca, cert_file=client.cert, key_file=stranger.key)
        assert str(client.cert) in str(raised.value)
        assert str(stranger.key) in str(raised.value)

    @pytest.mark.parametrize("which", ["cert_file", "key_file"])
    def test_half_a_pair(self, client: Files, which: str) -> None:
        """A certificate without its key, or the other way round, is no pair."""
        given = {"cert_file": client.cert, "key_file": client.key}[which]
        with pytest.raises(UsageError, match="go together"):
            self.load(ca_file=client.ca, **{which: given})

    def test_encrypted_key(self, client: Files, tmp_path: Path) -> None:
        """A key with a password is refused, and no passphrase is asked for."""
        key = serialization.load_pem_private_key(client.key.read_bytes(), None)
        locked = tmp_path / "locked.pem"
        locked.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        with pytest.raises(UsageError, match=r"locked\.pem is encrypted"):
            self.load(ca_file=client.ca, cert_file=client.cert, key_file=locked)

    def test_a_private_key_is_never_shown(self, client: Files) -> None:
        """The material's text form holds no key."""
        material = load_tls(EtcdAccess((self.URL,), "/net", client.ca, client.cert, client.key))
        assert "PRIVATE" not in repr(material)
