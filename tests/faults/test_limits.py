"""No descriptors, no memory, no turn of the event loop, no process more: rows F81 to F83, F95 and F96."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.network import HEALTH_PORT
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.bench.proc import descriptors
from tests.faults.conftest import Measured
from tests.faults.test_process import Manager
from tests.support.lab.testbed import (
    Journal,
    gateways,
    http_answer,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
FIRST, SECOND = {"172.7.98.0/24": "192.168.14.98"}, {"172.7.99.0/24": "192.168.14.99"}
DESCRIPTORS = 24
FLOOD = 100
CAGE_BYTES = 32 << 20
METRICS_PORT = 2402
STILL_S = 20
WATCHDOG_S = 1.0


def add_peer(lab: Lab, peer: dict[str, str]) -> None:
    for subnet, gateway in peer.items():
        store_of(lab).put(lease_key(subnet), lease_value(gateway))


@contextlib.contextmanager
def hitless(lab: Lab, node: LabHost) -> Iterator[None]:
    """Restart the daemon after the block, and see that lease, file and routes have not moved."""
    kvs, file, routes = store_of(lab).kvs(), node.subnet_file.read_bytes(), gateways(node)
    with RouteMonitor(node) as monitor:
        yield
        assert gateways(node) == routes
        launch(node)
        node.wait_ready()
        assert monitor.messages() == ()
    assert store_of(lab).kvs() == kvs
    assert node.subnet_file.read_bytes() == file


# F81


@contextlib.contextmanager
def flooded(node: LabHost) -> Iterator[None]:
    """Have more clients at the health port than the daemon has descriptors for."""
    with contextlib.ExitStack() as stack:
        for _ in range(FLOOD):
            with contextlib.suppress(OSError):
                stack.enter_context(topology.connect_namespaces(node.namespace, "127.0.0.1", HEALTH_PORT, 0.2))
        yield


def test_f81_no_descriptors_left(site: Lab, measured: Measured) -> None:
    """With few descriptors, all of them taken by clients: the peers are followed as before, and when the clients have
    gone, probes are answered."""
    node = site.nodes[0]
    add_peer(site, FIRST)
    launch(node, prepare=f"ulimit -n {DESCRIPTORS}")
    node.wait_ready()
    node.wait_routes(FIRST)
    pid, held = pid_of(node), len(list(Path(f"/proc/{pid_of(node)}/fd").iterdir()))
    with flooded(node):
        add_peer(site, SECOND)
        node.wait_routes(FIRST | SECOND, 10)
        assert pid_of(node) == pid
    until(node.ready, "probes are answered again", 15)
    measured(f"uses {held} of {DESCRIPTORS} descriptors; {FLOOD} clients: peers followed, probes answered afterwards")
    assert node.stop() == 0


def test_f81_no_descriptors_left_at_the_start(site: Lab, measured: Measured) -> None:
    """The clients are there first: what the daemon loads behind the first routes cannot be opened for a while."""
    node = site.nodes[0]
    add_peer(site, FIRST)
    launch(node, prepare=f"ulimit -n {DESCRIPTORS}")
    node.wait_routes(FIRST)
    with flooded(node):
        add_peer(site, SECOND)
        node.wait_routes(FIRST | SECOND, 10)
    until(node.ready, "ready", 15)
    measured(f"{FLOOD} clients from the first moment: peers followed, ready afterwards")
    assert node.stop() == 0


# F82


class Cage:
    """A control group with little memory, of whichever version the machine has."""

    def __init__(self, name: str) -> None:
        first = Path("/sys/fs/cgroup/memory")
        self._folder = (first if first.is_dir() else Path("/sys/fs/cgroup")) / name
        self._limit = "memory.limit_in_bytes" if first.is_dir() else "memory.max"

    def build(self) -> bool:
        """Make it; return whether that was possible."""
        try:
            self._folder.mkdir()
            (self._folder / self._limit).write_text(str(CAGE_BYTES))
        except OSError:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            return False
        return True

    def put(self, pid: int) -> None:
        (self._folder / "cgroup.procs").write_text(str(pid))

    def starve(self) -> subprocess.Popen[bytes]:
        """Start a program in it that takes all memory that it can get, and that the kernel must not kill."""
        enter = f"echo $$ >{self._folder}/cgroup.procs; echo -1000 >/proc/self/oom_score_adj; exec tail /dev/zero"
        return subprocess.Popen(["sh", "-c", enter], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def remove(self) -> None:
        until(lambda: not (self._folder / "cgroup.procs").read_text(), "the cage is empty", 10)
        self._folder.rmdir()


def test_f82_killed_for_memory(site: Lab, measured: Measured) -> None:
    """The kernel kills the daemon because memory has run out: no route moves, then or at the next start."""
    node, cage = site.nodes[0], Cage(f"pyflanneld-{site.name}")
    add_peer(site, FIRST)
    launch(node)
    node.wait_ready()
    node.wait_routes(FIRST)
    with hitless(site, node):
        if not cage.build():
            node.kill()
            measured("simulated by SIGKILL, for want of memory control groups: no route moved")
            return
        try:
            cage.put(pid_of(node))
            with cage.starve() as eater:
                try:
                    until(lambda: node.process.pid() is None, "the kernel kills the daemon", 30)
                finally:
                    eater.kill()
        finally:
            cage.remove()
        assert node.process.exit_code() == -signal.SIGKILL
    measured("killed by the kernel for memory, and started again: no route moved")


# F83


@contextlib.contextmanager
def managed(lab: Lab) -> Iterator[tuple[Manager, dict[str, str]]]:
    """Give a service manager that listens, and the environment that makes a daemon tell it."""
    path = Path("/run") / f"{lab.name}.notify"
    manager = Manager(path)
    try:
        yield manager, {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1_000_000))}
    finally:
        manager.close()
        path.unlink()


def second_life(lab: Lab, node: LabHost, failpoints: str, env: dict[str, str] | None = None) -> None:
    """Start a daemon that finds its lease and a peer: the first event of its watch is what the test does next."""
    add_peer(lab, FIRST)
    launch(node)
    node.wait_ready()
    assert node.stop() == 0
    launch(node, failpoints=failpoints, env=env)


def unanswered(node: LabHost) -> bool:
    """Return whether a probe gets no answer within a second."""
    try:
        return node.get("/healthz", timeout_s=1.0)[0] != 200
    except OSError:
        return True


@pytest.mark.thorough
def test_f83_the_loop_stands_still(site: Lab, measured: Measured) -> None:
    """The event loop hangs: no probe is answered and the watchdog starves; killed by its manager for that and started
    again, it has moved no route."""
    node = site.nodes[0]
    with managed(site) as (manager, env):
        second_life(site, node, f"watch.event=sleep:{STILL_S}", env)
        manager.wait("READY=1")
        manager.wait("WATCHDOG=1")
        node.wait_routes(FIRST)
        add_peer(site, SECOND)
        until(lambda: unanswered(node), "the loop stands still", 10)
        manager.drain()
        heard = manager.listen(5 * WATCHDOG_S)
        assert unanswered(node)
        assert heard == []
        assert gateways(node) == FIRST
        store_of(site).delete(lease_key("172.7.99.0/24"))  # so that the next life finds what this one knew
        with hitless(site, node):
            assert node.process.stop(signal.SIGABRT) == -signal.SIGABRT  # as systemd does
    measured(f"loop blocked: probes unanswered, no sign of life in {5 * WATCHDOG_S:.0f} s; restart moved no route")


def test_f83_the_loop_goes_on(site: Lab, measured: Measured) -> None:
    """A loop that stood still for a few seconds, and was not killed for it, catches up by itself."""
    node = site.nodes[0]
    second_life(site, node, "watch.event=sleep:4")
    node.wait_ready()
    node.wait_routes(FIRST)
    add_peer(site, SECOND)
    until(lambda: unanswered(node), "the loop stands still", 10)
    began = time.monotonic()
    node.wait_routes(FIRST | SECOND, 20)
    until(node.ready, "probes are answered", 5)
    measured(f"blocked for 4 s: all done {time.monotonic() - began:.1f} s after it was seen")
    assert os.path.exists(f"/proc/{pid_of(node)}")  # noqa: PTH110 - the same process


# F95


class Pen:
    """A control group that limits how many processes and threads there may be, of whichever version the machine has."""

    def __init__(self, name: str) -> None:
        first = Path("/sys/fs/cgroup/pids")
        self._folder = (first if first.is_dir() else Path("/sys/fs/cgroup")) / name

    def __enter__(self) -> "Pen":
        self._folder.mkdir()
        return self

    def put(self, pid: int) -> None:
        (self._folder / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        """Let there be none more than now."""
        (self._folder / "pids.max").write_text((self._folder / "pids.current").read_text())

    def open(self) -> None:
        (self._folder / "pids.max").write_text("max")

    def __exit__(self, *_: object) -> None:
        self.open()
        for pid in (self._folder / "cgroup.procs").read_text().split():  # of a test that has failed
            (self._folder.parent / "cgroup.procs").write_text(pid)
        until(lambda: not (self._folder / "cgroup.procs").read_text(), "the control group is empty", 10)
        self._folder.rmdir()


def failing(journal: Journal, why: str) -> str:
    """Wait until rules cannot be kept, for that reason; return the topic of the condition."""
    failed = journal.wait("firewall.failed", timeout_s=30)["condition"]  # of those whose turn it was
    found = re.match(rf"the rules for (\w+) cannot be kept: .*{why}", failed)
    assert found
    return f"firewall {found[1]}"


def test_f95_no_process_and_no_thread_more(site: Lab, measured: Measured) -> None:
    """A limit that is reached while it runs: what cannot be started is reported and tried again, and nothing ends. A
    stop is one as ever."""
    node = site.nodes[0]
    add_peer(site, FIRST)
    launch(node, "--ip-masq", "--iptables-resync=1", metrics_textfile=str(node.process.folder / "x.prom"))
    node.wait_ready()
    pid, journal = pid_of(node), Journal(node)
    with Pen(f"pyflanneld-{site.name}") as pen:
        pen.put(pid)
        pen.close()
        topic = failing(journal, "cannot be started: Resource temporarily unavailable")
        journal.wait("metrics.file_failed", timeout_s=30)
        add_peer(site, SECOND)
        node.wait_routes(FIRST | SECOND, 10)
        assert node.get("/healthz")[0] == 200
        assert http_answer(node.namespace, METRICS_PORT, b"GET /routes HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began = time.monotonic()
        pen.open()
        for one in (topic, "metrics_file"):
            journal.wait("condition.resolved", timeout_s=60, topic=one)
        back_s = time.monotonic() - began
        assert node.ready()
        assert pid_of(node) == pid
        pen.close()
        assert node.stop() == 0
    assert not journal.events("daemon.crashed")
    measured(f"no process more: peers followed, reported; all started again {back_s:.0f} s after; stopped with exit 0")


# F96


def wrap(node: LabHost, script: str) -> str:
    """Put a script in the place of iptables-save for the daemon that is launched next; return how to prepare that."""
    folder = node.process.folder / "programs"
    folder.mkdir(exist_ok=True)
    (folder / "iptables-save").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "iptables-save").chmod(0o755)
    return f"export PATH={folder}:$PATH"


def memory_bytes(pid: int) -> int:
    """Return the memory of its own that a process has had at most."""
    [peak] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(peak.split()[1]) * 1024


def test_f96_a_firewall_program_leaves_a_child_and_prints_without_end(site: Lab, measured: Measured) -> None:
    """A child that outlives each look costs no descriptor; 300 MB of output cost no memory to speak of, and are
    reported; when the program is well again, so is the node."""
    node, flood = site.nodes[0], site.nodes[0].process.folder / "flood"
    zeros = f"[ ! -e {flood} ] || exec head -c 300000000 /dev/zero"
    prepare = wrap(node, f'sleep 1000 &\n{zeros}\nexec $(PATH=/usr/sbin:/sbin command -v iptables-save) "$@"')
    journal = Journal(node)
    launch(node, "--ip-masq", "--iptables-resync=1", prepare=prepare)
    node.wait_ready()
    pid = pid_of(node)
    held, before = descriptors(pid), memory_bytes(pid)
    time.sleep(5)
    more, flooded_at = descriptors(pid) - held, time.monotonic()
    assert more <= 2  # one look may be under way
    flood.touch()
    topic = failing(journal, "iptables-save printed more than 32 MiB")
    grown_mb = (memory_bytes(pid) - before) / 1e6
    assert grown_mb < 60
    flood.unlink()
    journal.wait("condition.resolved", timeout_s=60, topic=topic)
    left = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    measured(f"{more:+d} descriptors after 5 s; {grown_mb:.0f} MB for 300 MB of output; {len(left)} children left; "
             f"well {time.monotonic() - flooded_at:.0f} s later")  # fmt: skip
    assert node.stop() == 0
