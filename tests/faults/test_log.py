"""The log, and what else the daemon says: rows F91 to F94 of the fault matrix."""

import contextlib
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from pyflanneld.logs.volume import ALL_BYTES, ALL_BYTES_PER_S
from tests.bench.proc import descriptors
from tests.faults.conftest import Measured
from tests.faults.test_process import Manager
from tests.support.etcd.grpc_proxy import fault_proxy
from tests.support.lab.testbed import (
    REPAIR_S,
    Journal,
    gateways,
    http_answer,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
    wait_answer,
    wait_exit,
    why_not_ready,
)
from tests.support.network.namespaces import Namespace

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER, PEER = "192.168.14.99", "172.7.99.0/24"
STOP_S, METRICS_PORT = 5.0, 2402


# F91: nobody reads the log


@dataclass(frozen=True, slots=True)
class Deaf:
    """A place for a log, where nobody reads before a test does.

    Attributes:
        redirect: has a shell log there.
        reading: returns the descriptor to read from, once the daemon has been started.
        stop: what it takes for the output to stand still, where it is not enough to read nothing; *go_on* ends that.
    """

    redirect: str
    reading: Callable[[], int]
    stop: Callable[[], object] = lambda: None
    go_on: Callable[[], object] = lambda: None

    def read_on(self, word: bytes, timeout_s: float = 15.0) -> bytes:
        """Read until a line with *word* has come, and return all."""
        text, give_up_at = b"", time.monotonic() + timeout_s
        while word not in text or not text.endswith(b"\n"):
            assert time.monotonic() < give_up_at, text[-500:]
            with contextlib.suppress(BlockingIOError):
                text += os.read(self.reading(), 1 << 16)
        return text


@contextlib.contextmanager
def pipe(_node: LabHost, folder: Path) -> Iterator[Deaf]:
    """As under a supervisord that is stopped."""
    path = folder / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, 4096)
    try:
        yield Deaf(f"exec 2>{path}", lambda: reading)
    finally:
        os.close(reading)


@contextlib.contextmanager
def terminal(_node: LabHost, _folder: Path) -> Iterator[Deaf]:
    """After Ctrl-S, until Ctrl-Q."""
    reading, shown = pty.openpty()
    os.set_blocking(reading, False)
    stop, go_on = (partial(termios.tcflow, shown, action) for action in (termios.TCOOFF, termios.TCOON))
    stop()
    try:
        yield Deaf(f"exec 2>{os.ttyname(shown)}", lambda: reading, stop, go_on)
    finally:
        os.close(reading)
        os.close(shown)


CONNECT = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
sock.connect(sys.argv[1])
os.dup2(sock.fileno(), 2)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def stream(_node: LabHost, folder: Path) -> Iterator[Deaf]:
    """A socket, as under systemd when the journal hangs."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket"))
    listening.listen()

    @cache
    def reading() -> int:
        sock, _ = listening.accept()
        sock.setblocking(False)
        return sock.detach()

    with listening:
        yield Deaf(f"exec {sys.executable} -c '{CONNECT}' {folder / 'socket'} \"$@\"", reading)
    os.close(reading())


def make_noise(lab: Lab, node: LabHost) -> None:
    """Have the daemon log more than it keeps; it answers all the time."""
    for _ in range(3):
        make_some_noise(lab, node)
    for _ in range(20):
        node.process.send(signal.SIGUSR1)
        assert node.get("/healthz", timeout_s=REPAIR_S)[0] == 200


def make_some_noise(lab: Lab, node: LabHost) -> None:
    """Have the daemon log more than a pipe of one page takes."""
    store, keys = store_of(lab), [lease_key(f"172.7.{number}.0/24") for number in range(110, 125)]
    value = lease_value(STRANGER).replace('"', '\\"')
    for _ in range(4):
        store.txn(*(f'put "{key}" "{value}"' for key in keys))
        until(lambda: len(gateways(node)) > len(keys), "all routes")
        store.txn(*(f'del "{key}"' for key in keys))
        until(lambda: len(gateways(node)) < len(keys), "no route")


@pytest.mark.parametrize("place", [pipe, terminal, stream])
def test_f91_nobody_reads_the_log(
    site: Lab, place: Callable[..., contextlib.AbstractContextManager[Deaf]], tmp_path: Path, measured: Measured
) -> None:
    """The daemon becomes ready, answers, repairs and follows its peers; when somebody reads, the log goes on and says
    what was lost; nobody who reads is waited for at the end."""
    node, store, other = site.nodes[0], store_of(site), "172.7.98.0/24"
    store.put(lease_key(PEER), lease_value(STRANGER))
    with place(node, tmp_path) as log:
        launch(node, program="tests.faults.short_queue", prepare=log.redirect, withdraw_guard="false")
        node.wait_ready()
        make_noise(site, node)
        before = descriptors(pid_of(node))
        node.exec("ip", "route", "del", PEER)
        repaired_s = until(lambda: gateways(node) == {PEER: STRANGER}, "repaired", REPAIR_S)
        store.put(lease_key(other), lease_value("192.168.14.98"))
        node.wait_routes({PEER: STRANGER, other: "192.168.14.98"}, 5)
        assert node.get("/readyz")[0] == 200
        log.go_on()
        text = log.read_on(b"log.lines_lost")
        assert b"daemon.ready" in text
        assert b"routes.changed_by_others" in text, "a warning is kept where others are lost"
        store.delete(lease_key(other))
        log.read_on(b"route.dropped")
        assert descriptors(pid_of(node)) <= before
        log.stop()
        make_some_noise(site, node)
        began = time.monotonic()
        node.process.send(signal.SIGTERM)
        assert wait_exit(node, STOP_S) == 0
        stopped_s = time.monotonic() - began
        log.go_on()
        measured(f"{place.__name__}: repaired after {repaired_s * 1000:.0f} ms, stopped after {stopped_s:.1f} s")


# F92: text that is made for terminals, logs and service managers


def test_f92_error_texts_that_mean_harm(site: Lab, measured: Measured) -> None:
    """etcd's error texts are quoted on every way out, and none of them obeys: not systemd, not a terminal, no log."""
    node = site.nodes[0]
    path = Path("/run") / f"{site.name}.notify"
    manager = Manager(path)
    try:
        with fault_proxy(site) as proxy:
            proxy.order({"KV/Range": "abuse"})
            metrics = f"127.0.0.1:{METRICS_PORT}"
            launch(node, env={"NOTIFY_SOCKET": str(path)}, etcd_endpoints=proxy.url(), metrics_bind=metrics)
            wait_answer(node)
            status = manager.wait("STATUS=not ready: etcd cannot be used")
            ways = {"readyz": why_not_ready(node), "log": node.process.log.read_text()}
            for name in ("status", "metrics", "page.json", "events"):
                request = f"GET /{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                answer = http_answer(node.namespace, METRICS_PORT, request).decode()
                ways[name] = answer.partition("\r\n\r\n")[2]
            for command in (("status",), ("leases", f"--etcd-endpoints={proxy.url()}")):
                ways[command[0]] = said(node, *command)
            for name, text in ways.items():
                assert all(line.isprintable() for line in text.split("\n")), name
                assert max(map(len, text.split("\n"))) < 8192, name
            for name in ("readyz", "log", "status", "leases"):
                assert "READY=1" in ways[name], f"{name} does not quote it: nothing is tested"
            assert status.isprintable()
            proxy.order({})
            manager.wait("READY=1")
            node.wait_ready()
            assert all(one.startswith(("STATUS=", "READY=1", "WATCHDOG=1")) for one in manager.told)
            assert node.stop() == 0
    finally:
        manager.close()
        path.unlink()
    measured(f"one printable line each: {', '.join(['STATUS=', *ways])}")


def said(node: LabHost, *words: str) -> str:
    """Return what a command prints on a host, whatever its exit code."""
    command = Namespace(node.namespace).command(sys.executable, "-m", "pyflanneld", *words)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


# F93: ever new keys


def test_f93_keys_in_rotation(site: Lab, measured: Measured) -> None:
    """One writer with ever new keys and leases does not fill the disk; what was left out is told, and what an operator
    needs is logged meanwhile."""
    node, store = site.nodes[0], store_of(site)
    launch(node, withdraw_guard="false")
    node.wait_ready()
    journal, began = Journal(node), time.monotonic()
    value = lease_value(STRANGER).replace('"', '\\"')
    for number in range(60):
        junk = [f"{PREFIX}/subnets/junk-{number}-{each}" for each in range(80)]
        good = [lease_key(f"172.7.{100 + (20 * number + each) % 100}.0/24") for each in range(20)]
        store.txn(*(f'put "{key}" "{value}"' for key in junk + good))
        store.txn(*(f'del "{key}"' for key in junk + good))
        if number == 30:
            node.exec("ip", "route", "add", PEER, "dev", "eth1")
            store.put(lease_key(PEER), lease_value(STRANGER))
            journal.wait("route.conflict")
    took_s, keys = time.monotonic() - began, 60 * 100
    assert node.get("/readyz")[0] == 200
    node.exec("ip", "route", "del", PEER)
    assert node.stop() == 0
    size = len(journal.text().encode())
    limited = journal.events("log.limited")
    assert {"peer.quarantined", "peer.quarantine_ended"} <= set(limited[-1]["kinds"]) | set(limited[0]["kinds"])
    assert size < ALL_BYTES + ALL_BYTES_PER_S * took_s
    left_out = sum(event["lines"] for event in limited)
    told = len(journal.events("peer.quarantined")) + len(journal.events("peer.quarantine_ended"))
    assert left_out + told >= 60 * 80
    assert journal.events("daemon.stopped")
    measured(f"{keys} keys in {took_s:.0f} s: {size / 1000:.0f} KB of log, {left_out} lines left out and told")


# F94: ready, says the log


@pytest.mark.thorough
def test_f94_start_into_a_wiped_prefix(site: Lab, measured: Measured) -> None:
    """While the guard holds the routes of the last run, no line says that the daemon is ready; then one does."""
    node, store = site.nodes[0], store_of(site)
    strangers = {f"172.7.{n}.0/24": f"192.168.14.{n}" for n in range(101, 107)}
    for subnet, gateway in strangers.items():
        store.put(lease_key(subnet), lease_value(gateway))
    launch(node)
    node.wait_ready()
    node.wait_routes(strangers)
    assert node.stop() == 0
    for subnet in strangers:
        store.delete(lease_key(subnet))
    journal = Journal(node)
    launch(node)
    journal.wait("guard.holding", 15)
    assert node.get("/readyz")[0] == 503
    ready_s = until(lambda: node.get("/readyz")[0] == 200 or journal.events("daemon.ready"), "either", 60, 0.1)
    assert node.get("/readyz")[0] == 200
    journal.wait("daemon.ready")
    names = [event["event"] for event in journal.events()]
    assert names.index("daemon.ready") > names.index("condition.resolved") > names.index("guard.holding")
    assert gateways(node) == {}
    assert node.stop() == 0
    measured(f"guard.holding at the start; daemon.ready {ready_s:.0f} s later, together with /readyz")
