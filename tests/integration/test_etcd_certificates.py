"""One table of certificates and protocols, one verdict: the v3 API, the v2 API and the probe of ``doctor``."""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pyflanneld.core.etcd_types import MemberFault
from pyflanneld.errors import ClientRefused, ConnectFailed, NotEtcd, TlsFailed
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.connections import why_lost
from pyflanneld.etcd.member_probe import probe_member
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v2.registry import EtcdV2Registry
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.server import Etcd, Files, etcd_missing, running_etcd
from tests.support.tls.certificates import believe, files_in, self_signed, show, write

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
ADDRESS = "127.0.0.1"
DAY = timedelta(days=1)
KEYS = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA": rsa.generate_private_key(65537, 2048),
}


@dataclass
class Site:
    """An etcd that demands client certificates, on both APIs. It reads its own certificate at each handshake.

    Attributes:
        ca: both sides trust it.
        other: neither does.
        server: etcd's files; with ``self_made`` in them, etcd and a host trust and show it.
        host: the files of a host, which are in order.
    """

    etcd: Etcd
    server: Files
    host: Files
    ca: trustme.CA
    intermediate: trustme.CA
    self_made: dict[str, tuple[bytes, bytes]]
    other: trustme.CA = field(default_factory=trustme.CA)

    def good(self) -> None:
        self.serve(self.ca.issue_cert(ADDRESS))  # its authorities stay: a slow etcd may be reading them just now
        write(self.host, self.ca.issue_cert("node1"), self.ca)

    def serve(self, cert: trustme.LeafCert) -> None:
        show(self.server, b"".join(pem.bytes() for pem in cert.cert_chain_pems), cert.private_key_pem.bytes())

    def show(self, cert: trustme.LeafCert) -> None:
        write(self.host, cert, self.ca)


@pytest.fixture(scope="module")
def running_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    where = tmp_path_factory.mktemp("certificates")
    ca, server, host = trustme.CA(), files_in(where / "server"), files_in(where / "host")
    self_made = {kind: self_signed(ADDRESS, key) for kind, key in KEYS.items()}
    write(server, ca.issue_cert(ADDRESS), ca)
    write(host, ca.issue_cert("node1"), ca)
    server.ca.write_bytes(server.ca.read_bytes() + b"".join(cert for cert, _ in self_made.values()))
    v2 = ["--enable-v2=true"]
    with running_etcd(where, server_files=server, client_files=host, client_cert_auth=True, args=v2) as etcd:
        yield Site(etcd, server, host, ca, ca.create_child_ca(), self_made)


@pytest.fixture
def site(running_site: Site) -> Site:
    """The site with all in order."""
    running_site.good()
    return running_site


def access(site: Site) -> EtcdAccess:
    return EtcdAccess(site.etcd.endpoints, "/net", site.host.ca, site.host.cert, site.host.key)


# The three ways to a member, and what each says of it.

CODES = {
    0: MemberFault.TLS, 9: MemberFault.NOT_YET, 10: MemberFault.EXPIRED, 18: MemberFault.AUTHORITY,
    20: MemberFault.AUTHORITY, 64: MemberFault.NAME,
}  # fmt: skip


async def v3(access: EtcdAccess) -> MemberFault | None:
    return await read(EtcdV3Registry, access)


async def v2(access: EtcdAccess) -> MemberFault | None:
    return await read(EtcdV2Registry, access)


async def probe(access: EtcdAccess) -> MemberFault | None:
    return (await probe_member(access, access.endpoints[0])).fault


async def read(kind: type[EtcdV2Registry | EtcdV3Registry], access: EtcdAccess) -> MemberFault | None:
    """Return what the first read fails with, ``None`` when it does not."""
    registry = kind(access, rng=random.Random(1), timing=Timing(rpc_s=4.0, read_s=4.0))
    try:
        await registry.read_config()
    except ClientRefused:
        return MemberFault.CLIENT
    except TlsFailed as error:
        return CODES[error.verify_code]
    except NotEtcd:
        return MemberFault.NO_ETCD
    finally:
        await registry.close()
    return None


Way = Callable[[EtcdAccess], Awaitable[MemberFault | None]]
EACH_WAY = pytest.mark.parametrize("way", [v3, v2, probe])


# What is in order


def each_kind(kind: str) -> Callable[[Site], None]:
    def prepare(site: Site) -> None:
        show(site.server, *site.self_made[kind])
        show(site.host, *site.self_made[kind])
        site.host.ca.write_bytes(site.self_made[kind][0])

    return prepare


def an_intermediate_alone(site: Site) -> None:
    site.serve(site.intermediate.issue_cert(ADDRESS))
    believe(site.host, site.intermediate)


def a_chain(site: Site) -> None:
    site.serve(site.intermediate.issue_cert(ADDRESS))


def the_right_one_among_others(site: Site) -> None:
    believe(site.host, site.other, site.ca, trustme.CA())


@EACH_WAY
@pytest.mark.parametrize(
    "prepare", [
        *(pytest.param(each_kind(kind), id=kind) for kind in KEYS),
        an_intermediate_alone, a_chain, the_right_one_among_others,
    ],
)  # fmt: skip
async def test_what_is_in_order(site: Site, prepare: Callable[[Site], None], way: Way) -> None:
    """Certificates of each kind, of the server and of the client, and each way to name an authority are accepted."""
    prepare(site)
    assert await way(access(site)) is None


# What is wrong


def expired(site: Site) -> None:
    now = datetime.now(UTC)
    site.serve(site.ca.issue_cert(ADDRESS, not_before=now - 9 * DAY, not_after=now - DAY))


def not_valid_yet(site: Site) -> None:
    now = datetime.now(UTC)
    site.serve(site.ca.issue_cert(ADDRESS, not_before=now + DAY, not_after=now + 9 * DAY))


def for_another_address(site: Site) -> None:
    site.serve(site.ca.issue_cert("192.0.2.1", "etcd.example"))


def of_another_authority(site: Site) -> None:
    site.serve(site.other.issue_cert(ADDRESS))


def of_an_intermediate_that_is_not_sent(site: Site) -> None:
    cert = site.intermediate.issue_cert(ADDRESS)
    show(site.server, cert.cert_chain_pems[0].bytes(), cert.private_key_pem.bytes())


def self_made(site: Site) -> None:
    show(site.server, *self_signed(ADDRESS))


@EACH_WAY
@pytest.mark.parametrize(("spoil", "fault"), [
    (expired, MemberFault.EXPIRED),
    (not_valid_yet, MemberFault.NOT_YET),
    (for_another_address, MemberFault.NAME),
    (of_another_authority, MemberFault.AUTHORITY),
    (of_an_intermediate_that_is_not_sent, MemberFault.AUTHORITY),
    (self_made, MemberFault.AUTHORITY),
])  # fmt: skip
async def test_a_server_that_cannot_be_trusted(
    site: Site, spoil: Callable[[Site], None], fault: MemberFault, way: Way
) -> None:
    """Each is an error with OpenSSL's code of the cause, and with its words; no way trusts more than the others."""
    spoil(site)
    assert await way(access(site)) == fault


# A client that is refused


def none(site: Site) -> None:
    del site


def of_a_stranger(site: Site) -> None:
    site.show(site.other.issue_cert("node1"))


def expired_one(site: Site) -> None:
    now = datetime.now(UTC)
    site.show(site.ca.issue_cert("node1", not_before=now - 9 * DAY, not_after=now - DAY))


def pair(site: Site, spoil: Callable[[Site], None]) -> EtcdAccess:
    spoil(site)
    return EtcdAccess(site.etcd.endpoints, "/net", site.host.ca) if spoil is none else access(site)


REFUSED = pytest.mark.parametrize("spoil", [none, of_a_stranger, expired_one])


@EACH_WAY
@REFUSED
async def test_a_client_that_is_refused(site: Site, spoil: Callable[[Site], None], way: Way) -> None:
    """The server's alert is the cause that is told, although the handshake is over when it comes."""
    assert await way(pair(site, spoil)) == MemberFault.CLIENT


@REFUSED
@pytest.mark.parametrize("lost", [None, ConnectionResetError(), BrokenPipeError()])
async def test_an_alert_that_was_not_read(site: Site, spoil: Callable[[Site], None], lost: OSError | None) -> None:
    """The connection was lost before the alert could be read: it is found all the same."""
    context = Tls(pair(site, spoil)).context()
    assert isinstance(await why_lost(site.etcd.endpoints[0], context, lost), ClientRefused)


async def test_a_connection_that_was_just_lost(site: Site) -> None:
    """When the server has no objection, the loss is what is told; so it is when there is no server any more."""
    context = Tls(access(site)).context()
    for url in (site.etcd.endpoints[0], "https://127.0.0.1:1"):
        error = await why_lost(url, context, ConnectionResetError(104, "Connection reset by peer"))
        assert isinstance(error, ConnectFailed)
        assert "reset" in str(error)


# What does not speak as it should


@EACH_WAY
async def test_https_to_a_port_without_tls(site: Site, way: Way) -> None:
    """A server without TLS fails in the handshake."""
    url = site.etcd.members[0].health_url.replace("http:", "https:").removesuffix("/health")
    assert await way(replace(access(site), endpoints=(url,))) == MemberFault.TLS


@pytest.mark.parametrize("way", [v3, probe])  # v2 is HTTP/1
@pytest.mark.parametrize("secure", [True, False])
async def test_http1_only(site: Site, way: Way, secure: bool) -> None:
    """A way to etcd that speaks HTTP/1 only, with and without TLS, is told as that."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(site.server.cert, site.server.key)
    context.set_alpn_protocols(["http/1.1"])
    async with await asyncio.start_server(refuse, ADDRESS, ssl=context if secure else None) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"http{'s' * secure}://{ADDRESS}:{port}"
        assert await way(replace(access(site), endpoints=(url,))) == MemberFault.NO_ETCD


async def test_one_context_until_there_are_other_files(site: Site) -> None:
    """The context is made once for each list of protocols, and anew when the files have changed."""
    tls = Tls(access(site))
    first = tls.context(("h2",))
    assert first is tls.context(["h2"])
    assert first is not tls.context()
    site.good()
    assert await tls.reload()
    assert first is not tls.context(("h2",))
