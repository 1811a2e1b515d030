"""Certificates that are wrong, change or cannot be read, under daemons that run: row F84 of the fault matrix."""

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import DAEMON, LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.etcd.counters import daemon_counters
from tests.support.etcd.server import Files
from tests.support.faketime import faked_clock, put_clock
from tests.support.lab.etcd_members import ADDRESSES, three_members
from tests.support.lab.testbed import (
    POISON,
    Journal,
    Keeper,
    Store,
    checked,
    gateways,
    http_answer,
    keeper,
    lease_key,
    lease_value,
    pid_of,
    wait_answer,
    why_not_ready,
)
from tests.support.network.namespaces import Namespace
from tests.support.tls.certificates import believe, end_of, self_signed, show, write
from tests.support.tls.site import ETCD, KEY, STRANGER, SUBNET, TlsSite, undisturbed

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
PICKED_UP_S = 60.0
NEW = {"certificates": "new"}
REFUSAL = re.compile("CERTIFICATE_VERIFY_FAILED|Hostname Verification")


@pytest.fixture(scope="module")
def tls_keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    yield from keeper(request, 2)


@pytest.fixture(scope="module")
def tls_site(tls_keeper: Keeper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsSite]:
    lab = tls_keeper.empty()
    lab.etcd.stop()
    site = TlsSite(lab, tmp_path_factory.mktemp("certificates"))
    hosts = [lab.etcd.namespace]
    with three_members(lab, hosts, ADDRESSES[:1], server=site.server, client=site.admin) as members:
        site.members = members
        # An administrator who believes any server.
        options = ("--insecure-skip-tls-verify", f"--cert={site.admin.cert}", f"--key={site.admin.key}")
        members.store = Store(lab.etcd.namespace, f"--endpoints={members.endpoints}", *options)
        members.store.put(f"{PREFIX}/config", CONFIG)
        yield site


@pytest.fixture
def tls(tls_site: TlsSite) -> Iterator[TlsSite]:
    """The site with all in order, and daemons that are ready."""
    tls_site.start()
    with checked(tls_site.lab.nodes):
        yield tls_site
    tls_site.stop()


# Servers that cannot be verified


def expired(site: TlsSite) -> None:
    write(site.server, site.ca.issue_cert(ETCD, not_after=datetime.now(UTC) - timedelta(hours=1)), site.ca)


def not_valid_yet(site: TlsSite) -> None:
    write(site.server, site.ca.issue_cert(ETCD, not_before=datetime.now(UTC) + timedelta(hours=1)), site.ca)


def of_another_host(site: TlsSite) -> None:
    write(site.server, site.ca.issue_cert("192.168.14.77", "etcd.example"), site.ca)


def of_another_authority(site: TlsSite) -> None:
    write(site.server, site.other.issue_cert(ETCD), site.ca)


def self_made(site: TlsSite) -> None:
    show(site.server, *self_signed(ETCD))


def thorough(case: Callable[[TlsSite], None]) -> object:
    return pytest.param(case, marks=pytest.mark.thorough)


@pytest.mark.parametrize(
    "wrong", [expired, thorough(not_valid_yet), thorough(of_another_host), of_another_authority, thorough(self_made)]
)
def test_f84_a_server_that_cannot_be_verified(
    tls: TlsSite, wrong: Callable[[TlsSite], None], measured: Measured
) -> None:
    """Nothing is believed of it: no route moves, the hosts stay ready while their leases are confirmed, the reason is
    told, and as soon as it has a good certificate what changed meanwhile is caught up. No daemon ends."""
    with undisturbed(tls):
        wrong(tls)
        tls.restart_etcd()
        tls.store.put(KEY, lease_value(STRANGER))
        for node in tls.lab.nodes:
            until(lambda node=node: refused(node), f"{node.name} says why", 25)
            assert gateways(node) == tls.lab.gateways_for(node)
            assert node.get("/readyz")[0] == 200
        tls.good_server()
        took_s = tls.wait(PICKED_UP_S, SUBNET)
    measured(f"{wrong.__name__.replace('_', ' ')}: refused, nothing moved; caught up {took_s:.1f} s after the mend")


def refused(node: LabHost) -> bool:
    """Return whether etcd's certificate is refused at the moment, as the operator is told."""
    return any(REFUSAL.search(finding["text"]) for finding in findings(node, "etcd.unavailable"))


class Eavesdropper:
    """Sits on etcd's port, and keeps the first bytes of every connection; answers as a plain HTTP server would."""

    def __init__(self, namespace: str) -> None:
        with Namespace(namespace).inside():
            self._listener = socket.create_server((ETCD, 2379))
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.settimeout(1)
                self.heard.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                self.heard[-1] += connection.recv(65536)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def test_f84_nothing_is_said_in_the_clear(tls: TlsSite, tmp_path: Path, measured: Measured) -> None:
    """A server that speaks no TLS in etcd's place hears a TLS greeting, again and again, and nothing else: not the
    password either. The hosts keep what they have, and go on when etcd is back."""
    password = tmp_path / "password"
    password.write_text(f"{POISON}\n")
    password.chmod(0o600)
    node = tls.lab.nodes[0]
    node.kill()
    tls.launch(node, "--etcd-username=flannel", f"--etcd-password-file={password}")
    node.wait_ready()
    with undisturbed(tls):
        tls.members.all[0].kill()
        eavesdropper = Eavesdropper(tls.lab.etcd.namespace)
        try:
            until(lambda: len(eavesdropper.heard) >= 6, "both hosts have tried several times", 40)
        finally:
            eavesdropper.close()
        heard = [data for data in eavesdropper.heard if data]
        assert heard
        assert {data[:2] for data in heard} == {b"\x16\x03"}
        assert not any(POISON.encode() in data or b"PRI * HTTP/2" in data or b"GET /" in data for data in heard)
        assert [gateways(each) for each in tls.lab.nodes] == [tls.lab.gateways_for(each) for each in tls.lab.nodes]
        tls.members.restore()
        took_s = tls.follows(PICKED_UP_S)
    measured(f"{len(heard)} connections to a server without TLS: a greeting in each, no more; back in {took_s:.1f} s")


# The host's own files change


def test_f84_client_certificate_renewed(tls: TlsSite, measured: Measured) -> None:
    """New certificates of a new authority, and HUP: taken into use with no change missed, no write and no route moved;
    when etcd believes nobody else any more, the hosts go on."""
    tls.restart_etcd(tls.other)
    tls.follows(PICKED_UP_S)
    for node in tls.lab.nodes:
        write(tls.files(node), tls.other.issue_cert(node.name, not_after=datetime(2031, 1, 1, tzinfo=UTC)), tls.ca)
    strangers = [f"172.7.{number}.0/24" for number in range(100, 120)]
    with undisturbed(tls, *strangers):
        for number, subnet in enumerate(strangers):
            tls.store.put(lease_key(subnet), lease_value(STRANGER))
            if number in (5, 10):
                tls.lab.nodes[number // 10].process.send(signal.SIGHUP)
        tls.wait(10, SUBNET, *strangers)
        for node in tls.lab.nodes:
            assert Journal.whole(node).wait("certificates.renewed", 10)["certfile_ends"] == "2031-01-01T00:00:00Z"
            assert abs(shown_end(node) - end_of(tls.files(node).cert)) <= 1
    tls.store.delete(KEY)
    tls.wait(10, *strangers)
    with undisturbed(tls):
        tls.only_new()
        took_s = tls.follows(PICKED_UP_S, *strangers)
    measured(f"20 changes during the rotation, none missed; new connections with the new ones, after {took_s:.1f} s")


def shown_end(node: LabHost) -> int:
    """Return until when the client certificate in use is good, as the metrics say."""
    return daemon_counters(node).total("pyflanneld_etcd_certificate_end_timestamp_seconds", file="etcd-certfile")


@pytest.mark.thorough
def test_f84_picked_up_without_being_asked(tls: TlsSite, measured: Measured) -> None:
    """Nobody sends HUP: new files are in use within a minute; nothing is listed for their sake, no watch ends."""
    tls.restart_etcd(tls.other)
    tls.follows(PICKED_UP_S)
    journals = [Journal(node) for node in tls.lab.nodes]
    lists = [daemon_counters(node).lists for node in tls.lab.nodes]
    with undisturbed(tls):
        began = time.monotonic()
        for node in tls.lab.nodes:
            write(tls.files(node), tls.other.issue_cert(node.name), tls.ca)
        for journal in journals:
            journal.wait("certificates.renewed", PICKED_UP_S)
        took_s = time.monotonic() - began
        assert [daemon_counters(node).lists for node in tls.lab.nodes] == lists
        tls.only_new()
        tls.store.delete(KEY)
        tls.wait(PICKED_UP_S)
    measured(f"new files are in use after {took_s:.0f} s at the latest, without HUP")


def test_f84_authority_replaced_by_way_of_both(tls: TlsSite, measured: Measured) -> None:
    """etcd has a certificate of the new authority: refused by hosts that believe the old one alone, at once in order
    when their bundle holds both; with the new one alone the old authority's certificate is refused."""
    first = tls.lab.nodes[0]
    with undisturbed(tls):
        tls.good_server(tls.other)
        tls.restart_etcd()
        until(lambda: refused(first), "the new authority is not believed", 25)
        for node in tls.lab.nodes:
            believe(tls.files(node), tls.ca, tls.other)
            tls.hang_up(node, **NEW)
        took_s = tls.follows(PICKED_UP_S)
        for node in tls.lab.nodes:
            believe(tls.files(node), tls.other)
            tls.hang_up(node, **NEW)
        tls.store.delete(KEY)
        tls.wait(PICKED_UP_S)
        tls.good_server(tls.ca)
        tls.restart_etcd()
        until(lambda: refused(first), "the old authority is not believed", 25)
        tls.good_server(tls.other)
        tls.follows(PICKED_UP_S)
    measured(f"forged {took_s:.1f} s after HUP; the old authority refused once it is out of the bundle")


# Files that cannot be used


def key_gone(files: Files) -> None:
    files.key.unlink()


def key_forbidden(files: Files) -> None:
    files.key.chmod(0)


def key_of_another(files: Files) -> None:
    show(files, files.cert.read_bytes(), self_signed("192.0.2.1")[1])


def key_poisoned(files: Files) -> None:
    show(files, files.cert.read_bytes(), f"-----BEGIN PRIVATE KEY-----\n{POISON}\n-----END PRIVATE KEY-----\n".encode())


def bundle_empty(files: Files) -> None:
    files.ca.write_bytes(b"")


SPOILT = (key_gone, key_forbidden, key_of_another, key_poisoned, bundle_empty)


def test_f84_files_that_cannot_be_used(tls: TlsSite, measured: Measured) -> None:
    """Whatever is wrong with changed files: the former ones stay in use, for new connections too, the node stays ready
    and the problem is shown; what is mended is taken. Here the daemon is not almighty: it cannot read every file."""
    node = tls.lab.nodes[0]
    files = tls.files(node)
    node.kill()
    no_override = "--bounding-set=-dac_override,-dac_read_search"
    tls.launch(node, prepare=f'set -- setpriv {no_override} "$@"')
    node.wait_ready()
    told = []
    with undisturbed(tls):
        for spoil in SPOILT:
            spoil(files)
            tls.hang_up(node, certificates="as before")
            [finding] = findings(node, "certificates.unusable")
            told.append(finding["text"].partition("stay in use: ")[2])
            assert str(files.key.parent) in told[-1]
            assert not finding["blocks"]
            assert finding["hint"]
            assert node.get("/readyz")[0] == 200
            tls.good_host(node)
            tls.hang_up(node, **NEW)
            assert findings(node, "certificates.unusable") == []
        key_gone(files)
        tls.restart_etcd()
        took_s = tls.follows(PICKED_UP_S)
    assert len(set(told)) == len(SPOILT)
    measured(f"{len(SPOILT)} kinds of bad files: the former ones in use, also {took_s:.1f} s after a restart of etcd")


def findings(node: LabHost, event: str) -> list[dict[str, str]]:
    """Return what ``pyflanneld status`` says is wrong, of one kind."""
    answer = json.loads(node.exec(*DAEMON, "status", "--output=json", f"--subnet-file={node.subnet_file}"))
    return [finding for finding in answer["findings"] if finding["event"] == event]


def test_f84_a_client_that_etcd_refuses(tls: TlsSite, measured: Measured) -> None:
    """A renewed certificate that loads, but that etcd does not take: told at once, for the lease is proved over a new
    connection; nothing moves, no daemon ends, and with a good one it goes on."""
    node = tls.lab.nodes[0]
    with undisturbed(tls):
        assert findings(node, "etcd.unavailable") == []
        write(tls.files(node), trustme.CA().issue_cert(node.name), tls.ca)
        tls.hang_up(node, **NEW)
        until(lambda: findings(node, "etcd.unavailable"), "it is told", 25)
        assert node.get("/readyz")[0] == 200
        tls.good_host(node)
        tls.hang_up(node, **NEW)
        took_s = tls.follows(PICKED_UP_S)
    measured(f"refused by etcd: told, nothing moved; {took_s:.1f} s after a good one all is well")


# The host's clock


def test_f84_a_clock_before_the_certificates(tls: TlsSite, tmp_path: Path, measured: Measured) -> None:
    """A host whose clock is ten days behind starts: etcd's certificate is not valid yet, so nothing is believed, the
    routes of the run before stay, and it is not ready; when the clock is right it goes on by itself."""
    node = tls.lab.nodes[0]
    young = datetime.now(UTC) - timedelta(days=1)
    write(tls.server, tls.ca.issue_cert(ETCD, not_before=young), tls.ca, tls.other)
    offset = tmp_path / "time"
    put_clock(offset, "-10d")
    node.kill()
    with RouteMonitor(node) as monitor:
        tls.launch(node, env=faked_clock(offset, monotonic=False))
        wait_answer(node)
        until(lambda: REFUSAL.search(why_not_ready(node)), "the certificate is not valid yet", 25)
        pid = pid_of(node)
        assert gateways(node) == tls.lab.gateways_for(node)
        put_clock(offset, "+0")
        took_s = node.wait_ready(PICKED_UP_S)
        assert monitor.messages() == ()
        assert pid_of(node) == pid
    measured(f"ten days behind: refused, routes stay; ready {took_s:.1f} s after the clock was set")


# Secrets


def test_f84_no_secret_is_ever_shown(tls: TlsSite, tmp_path: Path, measured: Measured) -> None:
    """At the most talkative level, through errors of every kind, with HUP and USR1: neither password nor key is in the
    log, in the command line, in what the commands and the metrics tell, nor in the environment of anything started."""
    password = tmp_path / "password"
    password.write_text(f"{POISON}\n")
    password.chmod(0o600)
    node = tls.lab.nodes[0]
    node.kill()
    journal = Journal(node)
    flags = ("-v=10", "--etcd-username=flannel", f"--etcd-password-file={password}", "--ip-masq")
    tls.launch(node, *flags, failpoints="list_page=errno:EIO*2;keepalive=errno:EIO*2;nl.add=errno:EBUSY*2")
    node.wait_ready()
    expired(tls)
    tls.restart_etcd()
    until(lambda: refused(node), "an error of TLS", 25)
    key = tls.files(node).key.read_bytes()
    for spoil in (key_poisoned, key_of_another):
        spoil(tls.files(node))
        tls.hang_up(node)
    show(tls.files(node), tls.files(node).cert.read_bytes(), key)
    node.process.send(signal.SIGUSR1)
    journal.wait("daemon.state", 10)
    proc = Path(f"/proc/{pid_of(node)}")
    seen = {
        "log": journal.text().encode(),
        "command line": (proc / "cmdline").read_bytes(),
        "status": node.exec(*DAEMON, "status", "--output=json", f"--subnet-file={node.subnet_file}").encode(),
        "metrics": http_answer(node.namespace, 2402, b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n"),
        "probe": node.get("/readyz?verbose")[1].encode(),
        "file": node.subnet_file.read_bytes(),
    }
    body = b"".join(key.split(b"\n")[1:3])
    for where, text in seen.items():
        assert text, where
        assert POISON.encode() not in text, where
        assert b"PRIVATE KEY" not in text, where
        assert body not in text, where
    tls.good_server()
    tls.follows(PICKED_UP_S)
    measured(f"password and key searched for in {len(seen['log'])} bytes of debug log and {len(seen) - 1} other places")
