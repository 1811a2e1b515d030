"""The v2 API over https and with users: who is trusted, who has access, and what the errors say."""

import json
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pyflanneld.errors import RegistryDenied, RegistryUnavailable, UsageError
from tests.integration.test_etcd_tls import write_files
from tests.support.etcd.registries import opened
from tests.support.etcd.server import Etcd, Files, etcd_missing, running_etcd

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
V2 = ["--enable-v2=true"]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def client(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("tls") / "client", ca, ca.issue_cert("node1", common_name="flannel"))


@pytest.fixture(scope="module")
def strict(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory, client: Files) -> Iterator[Etcd]:
    """An etcd with a certificate for 127.0.0.1 and demands a client certificate."""
    where = tmp_path_factory.mktemp("strict")
    files = write_files(where / "server", ca, ca.issue_cert("127.0.0.1"))
    with running_etcd(where, server_files=files, client_files=client, client_cert_auth=True, args=V2) as running:
        yield running


class TestTls:
    async def test_authority_alone(self, ca: trustme.CA, tmp_path: Path, client: Files) -> None:
        """A CA file is enough where no client certificate is demanded; all kinds of calls work over TLS."""
        files = write_files(tmp_path / "server", ca, ca.issue_cert("127.0.0.1"))
        with running_etcd(tmp_path, server_files=files, client_files=client, args=V2) as etcd:
            async with opened(etcd.endpoints[0], ca_file=client.ca) as registry:
                listed = await registry.list_subnets()
                async with registry.watch_subnets(listed) as watch:
                    assert await anext(watch) == ()
                    record = await registry.create_subnet(b"10.1.0.0-24", b"{}", ttl_s=60, listed=listed)
                    assert record is not None
                    assert len(await anext(watch)) == 1
                assert (await registry.renew(record)).record is not None

    async def test_client_pair(self, strict: Etcd, client: Files) -> None:
        """A client certificate is sent to a server that demands one."""
        pair = {"ca_file": client.ca, "cert_file": client.cert, "key_file": client.key}
        async with opened(strict.endpoints[0], **pair) as registry:
            assert (await registry.read_config()).value is None

    async def test_no_client_pair(self, strict: Etcd, client: Files) -> None:
        """Without one there is no answer, and the error says why."""
        async with opened(strict.endpoints[0], ca_file=client.ca) as registry:
            with pytest.raises(RegistryUnavailable, match="client certificate"):
                await registry.read_config()

    async def test_unknown_authority(self, strict: Etcd, tmp_path: Path) -> None:
        """A server of another authority is refused."""
        other = trustme.CA()
        files = write_files(tmp_path / "stranger", other, other.issue_cert("node1"))
        async with opened(strict.endpoints[0], ca_file=files.ca) as registry:
            with pytest.raises(RegistryUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
                await registry.read_config()

    async def test_another_host(self, ca: trustme.CA, tmp_path: Path, client: Files) -> None:
        """A certificate for another host is refused, even from the right authority."""
        files = write_files(tmp_path / "server", ca, ca.issue_cert("192.0.2.1", "etcd.example"))
        with running_etcd(tmp_path, server_files=files, client_files=client, args=V2) as etcd:
            async with opened(etcd.endpoints[0], ca_file=client.ca) as registry:
                with pytest.raises(RegistryUnavailable, match="IP address mismatch"):
                    await registry.read_config()

    async def test_http_to_https(self, strict: Etcd) -> None:
        """A server with TLS is an error without it."""
        async with opened(strict.endpoints[0].replace("https:", "http:")) as registry:
            with pytest.raises(RegistryUnavailable):
                await registry.read_config()

    async def test_half_a_pair(self, client: Files) -> None:
        """Half a client pair is reported before the first connection."""
        with pytest.raises(UsageError, match="go together"):
            async with opened("https://127.0.0.1:1", ca_file=client.ca, cert_file=client.cert):
                pass


def administer(url: str, path: str, body: object, user: str = "") -> None:
    """Make a change of users or roles through etcd's v2 API."""
    headers = {"Content-Type": "application/json"}
    if user:
        headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
    request = urllib.request.Request(f"{url}/v2/auth/{path}", json.dumps(body).encode(), headers, method="PUT")  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read()) from error


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """An etcd where ``flannel`` may use ``/net/`` and nobody else anything."""
    with running_etcd(tmp_path_factory.mktemp("auth"), args=V2) as etcd:
        url, root = etcd.endpoints[0], "root:root-password"
        rights = {"kv": {"read": ["/net/*"], "write": ["/net/*"]}}
        administer(url, "users/root", {"user": "root", "password": "root-password"})
        administer(url, "roles/flannel", {"role": "flannel", "permissions": rights})
        administer(url, "users/flannel", {"user": "flannel", "password": "sentinél:x", "roles": ["flannel"]})
        administer(url, "enable", {})
        everything = {"kv": {"read": ["/*"], "write": ["/*"]}}
        administer(url, "roles/guest", {"role": "guest", "revoke": everything}, root)
        yield etcd


class TestUsers:
    async def test_rights_on_the_prefix_are_enough(self, guarded: Etcd) -> None:
        """A user with rights on the prefix, and on nothing else, can do all that we do."""
        url = guarded.endpoints[0]
        async with opened(url, username="flannel", password="sentinél:x") as registry:  # noqa: S106
            await registry.read_config()
            listed = await registry.list_subnets()
            async with registry.watch_subnets(listed) as watch:
                assert await anext(watch) == ()
                record = await registry.create_subnet(b"10.1.0.0-24", b"{}", ttl_s=60, listed=listed)
                assert record is not None
                assert len(await anext(watch)) == 1
            renewed = (await registry.renew(record)).record
            assert renewed is not None
            rewritten = await registry.rewrite_subnet(renewed, b"new")
            assert rewritten is not None
            assert await registry.delete_subnet(rewritten)

    @pytest.mark.parametrize("access", [
        {}, {"username": "flannel", "password": "wrong"}, {"username": "nobody", "password": "sentinel"},
    ])
    async def test_refused(self, guarded: Etcd, access: dict[str, str]) -> None:
        """No user, a wrong password and an unknown user are refused as such, in reads, watches and writes."""
        async with opened(guarded.endpoints[0], **access) as registry:
            with pytest.raises(RegistryDenied):
                await registry.read_config()
            with pytest.raises(RegistryDenied):
                await registry.list_subnets()
            with pytest.raises(RegistryDenied):
                async with registry.watch_config(1) as ticks:
                    await anext(ticks)

    async def test_needless_user(self, tmp_path: Path) -> None:
        """A user sent to an etcd that asks for none does no harm."""
        with running_etcd(tmp_path, args=V2) as etcd:
            async with opened(etcd.endpoints[0], username="flannel", password="x") as registry:  # noqa: S106
                assert (await registry.read_config()).value is None
