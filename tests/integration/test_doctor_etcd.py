"""``pyflanneld doctor`` and etcd's TLS and rights: each fault is told from the others, on a real etcd."""

import contextlib
import datetime
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import trustme

from pyflanneld.cli import main
from pyflanneld.system import x509
from tests.integration.test_etcd_tls import write_files
from tests.support.etcd.server import Etcd, Files, etcd_missing, running_etcd

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
CONFIG = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'

Finding = dict[str, str]
Doctor = Callable[..., list[Finding]]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Doctor:
    """Run the command on this host's loopback, and return what it says of etcd and of certificates."""

    def run(url: str, *flags: str) -> list[Finding]:
        words = [f"--etcd-endpoints={url}", "--etcd-prefix=/net", f"--subnet-file={tmp_path}/subnet.env", *flags]
        try:
            main(["doctor", "--healthz-port=0", "--output=json", *words])
        finally:
            structlog.reset_defaults()
        findings: list[Finding] = json.loads(capsys.readouterr().out)["findings"]
        etcd = ("etcd http", "certificate", "configuration", "clock")
        return [one for one in findings if one["check"].startswith(etcd)]

    return run


def member(findings: list[Finding]) -> Finding:
    (one,) = (finding for finding in findings if finding["check"].startswith("etcd http"))
    return one


@contextlib.contextmanager
def secure(where: Path, ca: trustme.CA, cert: trustme.LeafCert, *, demand: bool = False) -> Iterator[Etcd]:
    """Run an etcd that shows *cert*."""
    files = write_files(where / "server", ca, cert)
    with running_etcd(where, server_files=files, client_files=files, client_cert_auth=demand) as etcd:
        yield etcd


def tls_flags(files: Files, *, pair: bool = False) -> list[str]:
    return [
        f"--etcd-cafile={files.ca}",
        *([f"--etcd-certfile={files.cert}", f"--etcd-keyfile={files.key}"] if pair else []),
    ]


def test_all_is_well(doctor: Doctor, tmp_path: Path) -> None:
    """A member with TLS that serves us is ok, with its version; every certificate is told with its days."""
    ca = trustme.CA()
    client = write_files(tmp_path / "client", ca, ca.issue_cert("node1", not_after=NOW + 90 * DAY))
    with secure(tmp_path, ca, ca.issue_cert("127.0.0.1", not_after=NOW + 60 * DAY), demand=True) as etcd:
        etcd.ctl("put", "/net/config", CONFIG)
        findings = doctor(etcd.endpoints[0], *tls_flags(client, pair=True))
    assert {one["verdict"] for one in findings} == {"ok"}
    assert "etcd 3." in member(findings)["seen"]
    seen = {one["check"]: one["seen"] for one in findings}
    assert "90 days" in seen["certificate --etcd-certfile"]
    assert "60 days" in seen["certificate of etcd"]


@pytest.mark.parametrize(
    ("names", "span", "trusted", "why"),
    [
        (["127.0.0.1"], (-90, -3), True, "its certificate has expired"),
        (["127.0.0.1"], (3, 90), True, "its certificate is not valid yet"),
        (["other.example"], (-1, 90), True, "its certificate is for another name"),
        (["127.0.0.1"], (-1, 90), False, "its certificate is of an authority that we do not know"),
    ],
)
def test_what_is_wrong_with_its_certificate(
    doctor: Doctor, tmp_path: Path, names: list[str], span: tuple[int, int], trusted: bool, why: str
) -> None:
    """Expired, not valid yet, another name, another authority: each is told as what it is."""
    ca = trustme.CA()
    cert = ca.issue_cert(*names, not_before=NOW + span[0] * DAY, not_after=NOW + span[1] * DAY)
    known = write_files(tmp_path / "client", ca if trusted else trustme.CA(), ca.issue_cert("node1"))
    with secure(tmp_path, ca, cert) as etcd:
        finding = member(doctor(etcd.endpoints[0], *tls_flags(known)))
    assert finding["verdict"] == "bad"
    assert finding["seen"].startswith(why)
    assert finding["mend"]


@pytest.mark.parametrize("kind", ["none", "stranger", "expired"])
def test_a_client_certificate_that_is_refused(doctor: Doctor, tmp_path: Path, kind: str) -> None:
    """No client certificate, one of another authority, an expired one: refused; the expired one is told itself too."""
    ca, other = trustme.CA(), trustme.CA()
    cert = (other if kind == "stranger" else ca).issue_cert(
        "node1", not_before=NOW - 90 * DAY, not_after=NOW + (-2 if kind == "expired" else 90) * DAY
    )
    client = write_files(tmp_path / "client", ca, cert)
    with secure(tmp_path, ca, ca.issue_cert("127.0.0.1"), demand=True) as etcd:
        findings = doctor(etcd.endpoints[0], *tls_flags(client, pair=kind != "none"))
    assert member(findings)["seen"].startswith("it refuses our client certificate, or our having none")
    expired = [one for one in findings if one["check"] == "certificate --etcd-certfile" and one["verdict"] == "bad"]
    assert len(expired) == (kind == "expired")


def test_the_wrong_scheme(doctor: Doctor, tmp_path: Path) -> None:
    """http to a port with TLS, and https to one without, are told apart from an etcd that is down."""
    ca = trustme.CA()
    with secure(tmp_path, ca, ca.issue_cert("127.0.0.1")) as etcd:
        finding = member(doctor(etcd.endpoints[0].replace("https", "http")))
    assert finding["seen"].startswith("what answers there is no etcd as we ask for")
    (tmp_path / "plain").mkdir()
    client = write_files(tmp_path / "client", ca, ca.issue_cert("node1"))
    with running_etcd(tmp_path / "plain") as etcd:
        finding = member(doctor(etcd.endpoints[0].replace("http", "https"), *tls_flags(client)))
    assert finding["seen"].startswith("TLS has failed")


def test_rights(doctor: Doctor, tmp_path: Path) -> None:
    """A wrong password, no user, no right to the configuration, none to the leases: each is told as what it is."""
    with running_etcd(tmp_path) as etcd:
        for user, keys in (("all", "/net/"), ("config", "/net/config"), ("nothing", "/other/")):
            etcd.ctl("user", "add", f"{user}:secret")
            etcd.ctl("role", "add", user)
            prefix = [] if user == "config" else ["--prefix=true"]
            etcd.ctl("role", "grant-permission", user, *prefix, "readwrite", keys)
            etcd.ctl("user", "grant-role", user, user)
        etcd.ctl("put", "/net/config", CONFIG)
        etcd.enable_auth("root-password")
        url = etcd.endpoints[0]

        def seen(user: str, password: str) -> str:
            return member(doctor(url, f"--etcd-username={user}", f"--etcd-password={password}"))["seen"]

        assert seen("all", "secret").startswith("serves, etcd 3.")
        assert seen("all", "wrong").startswith("user or password are refused")
        assert seen("config", "secret").startswith("we may not read the leases")
        assert seen("nothing", "secret").startswith("we may not read the network configuration")
        assert "user name is empty" in member(doctor(url))["seen"]


def test_the_v2_api(doctor: Doctor, tmp_path: Path) -> None:
    """A cluster that lives in the v2 API is examined there."""
    with running_etcd(tmp_path, args=["--enable-v2=true"]) as etcd:
        etcd.ctl("put", "/unrelated", "1")
        body = f"value={CONFIG}".encode()
        request = urllib.request.Request(f"{etcd.endpoints[0]}/v2/keys/net/config", data=body, method="PUT")  # noqa: S310
        request.add_header("Content-Type", "application/x-www-form-urlencoded")
        urllib.request.urlopen(request, timeout=5).close()  # noqa: S310
        findings = doctor(etcd.endpoints[0])
    assert member(findings)["seen"].endswith("API v2")
    assert {one["verdict"] for one in findings} == {"ok"}


def test_no_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An alarm of the cluster is seen without any right to administer it."""
    with running_etcd(tmp_path, args=["--quota-backend-bytes=300000"]) as etcd:
        etcd.ctl("put", "/net/config", CONFIG)
        with contextlib.suppress(RuntimeError):
            for number in range(100):
                etcd.ctl("put", f"/big/{number}", "x" * 20000)
        words = [f"--etcd-endpoints={etcd.endpoints[0]}", "--etcd-prefix=/net", f"--subnet-file={tmp_path}/subnet.env"]
        try:
            assert main(["doctor", "--healthz-port=0", "--output=json", *words]) == 1
        finally:
            structlog.reset_defaults()
        findings = json.loads(capsys.readouterr().out)["findings"]
    (finding,) = (one for one in findings if one["check"] == "etcd alarms")
    assert finding["verdict"] == "bad"
    assert "NOSPACE" in finding["seen"]
    assert "defrag" in finding["mend"]


def test_the_dates_are_those_of_the_certificates(tmp_path: Path) -> None:
    """Both forms of time in a certificate are read, of every certificate in a file; junk has none."""
    ca = trustme.CA()
    begin, end = (
        datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        datetime.datetime(2061, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    )
    files = write_files(tmp_path / "some", ca, ca.issue_cert("a", not_before=begin, not_after=end))
    assert x509.spans(files.cert) == ((begin.timestamp(), end.timestamp()),)
    assert len(x509.spans(files.ca)) == 1
    (tmp_path / "junk").write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    assert x509.spans(tmp_path / "junk") == ()
    assert x509.spans(tmp_path / "absent") == ()
