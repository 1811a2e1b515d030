"""Signals in every phase, second daemons, the service manager, logs: rows F17, F46, F47, F65, F75 to F77 and F98."""

import contextlib
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS, CONFIG, ENDPOINT, PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.process import Background
from pyflanneld.lab.run import attempt, until
from pyflanneld.system import lock
from tests.faults.conftest import Measured
from tests.support.lab.lossy_path import lossy_path
from tests.support.lab.testbed import (
    POISON,
    Journal,
    cut_off,
    gateways,
    launch,
    lease_key,
    lease_value,
    leave_ready,
    pid_of,
    store_of,
    wait_answer,
    wait_exit,
    why_not_ready,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STOP_S = 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
ETCD = str(ADDRESS.ip)


def stop_each(nodes: tuple[LabHost, ...]) -> None:
    """Stop the three daemons with the three signals and see each end in time, as asked, saying so."""
    journals = [Journal(node) for node in nodes]
    for node, number in zip(nodes, SIGNALS, strict=True):
        node.process.send(number)
    began = time.monotonic()
    for node, journal, number in zip(nodes, journals, SIGNALS, strict=True):
        assert wait_exit(node, STOP_S - (time.monotonic() - began)) == 0, number.name
        assert journal.wait("daemon.stopping")["signal"] == number.name
        assert journal.events("daemon.stopped")


# F75: TERM, INT and QUIT in each phase


def test_f75_stopped_while_running(cluster: Lab) -> None:
    """Stopping leaves key, etcd lease, routes and file as they are."""
    store = store_of(cluster)
    kvs, files = store.kvs(), [node.subnet_file.read_bytes() for node in cluster.nodes]
    routes, revision = [gateways(node) for node in cluster.nodes], store.revision()
    with RouteMonitor(cluster.nodes[0]) as monitor:
        stop_each(cluster.nodes)
        assert monitor.messages() == ()
    assert (store.kvs(), store.revision()) == (kvs, revision)
    assert [gateways(node) for node in cluster.nodes] == routes
    assert [node.subnet_file.read_bytes() for node in cluster.nodes] == files


def test_f05_f75_stopped_while_etcd_is_a_black_hole(cluster: Lab) -> None:
    """The same when etcd swallows every packet and nobody has noticed yet."""
    routes = [gateways(node) for node in cluster.nodes]
    with (
        cut_off(cluster.nodes[0], ETCD),
        cut_off(cluster.nodes[1], ETCD),
        cut_off(cluster.nodes[2], ETCD),
    ):
        stop_each(cluster.nodes)
    assert [gateways(node) for node in cluster.nodes] == routes


def etcd_down(lab: Lab) -> None:
    lab.etcd.stop()


def no_config(lab: Lab) -> None:
    store_of(lab).delete(f"{PREFIX}/config")


def black_hole(lab: Lab) -> None:
    for node in lab.nodes:
        rule = f"ip daddr {ETCD} drop"
        node.exec("nft", f"table inet cut {{ chain out {{ type filter hook output priority 0; {rule}; }}; }}")


def exhausted(lab: Lab) -> None:
    store = store_of(lab)
    store.put(f"{PREFIX}/config", CONFIG.replace("172.7.0.0/16", "172.7.0.0/22"))
    for number in (1, 2, 3):
        store.put(lease_key(f"172.7.{number}.0/24"), lease_value("192.168.14.99"))


def no_file(lab: Lab) -> None:
    for node in lab.nodes:
        node.subnet_file.unlink()
        node.subnet_file.mkdir()


@pytest.mark.parametrize(
    ("phase", "sign"),
    [
        (etcd_down, "etcd cannot be used"),
        (black_hole, ""),
        (no_config, "no network configuration"),
        (exhausted, "no free subnet"),
        (no_file, "subnet file"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_f75_stopped_while_it_waits(site: Lab, phase: Callable[[Lab], None], sign: str) -> None:
    """Whatever the daemon waits for when the signal comes, it ends within 5 s with exit 0."""
    phase(site)
    for node in site.nodes:
        launch(node)
    for node in site.nodes:
        wait_answer(node)
        until(lambda node=node: sign in why_not_ready(node), f"{node.name} waits")
    stop_each(site.nodes)
    for node in site.nodes:
        if node.subnet_file.is_dir():
            node.subnet_file.rmdir()
    if phase is etcd_down:
        site.etcd.start()


def test_f75_stopped_while_a_write_is_under_way(site: Lab) -> None:
    """The answer to the creation of the key is outstanding: stops in time; the next run finds what was created."""
    node, store = site.nodes[0], store_of(site)
    with lossy_path(node, ENDPOINT) as path:
        path.mute_after = b"BackendType"
        launch(node, etcd_endpoints=path.url)
        until(lambda: bool(store.kvs(f"{PREFIX}/subnets/")), "the key is there", 15)
        assert node.stop(timeout_s=STOP_S) == 0
    held = store.kv(lease_key(node.bridge_address.network))
    assert held is not None
    launch(node)
    node.wait_ready()
    assert store.kv(lease_key(node.bridge_address.network)) == held
    assert len(store.leases()) == 1


def test_f76_killed_while_a_write_is_under_way(site: Lab) -> None:
    """Killed at the same point: the next run has the same subnet on the same etcd lease, and no other one is left."""
    node, store = site.nodes[0], store_of(site)
    with lossy_path(node, ENDPOINT) as path:
        path.mute_after = b"BackendType"
        launch(node, etcd_endpoints=path.url)
        until(lambda: bool(store.kvs(f"{PREFIX}/subnets/")), "the key is there", 15)
        node.kill()
    held = store.kv(lease_key(node.bridge_address.network))
    launch(node)
    node.wait_ready()
    assert store.kv(lease_key(node.bridge_address.network)) == held
    assert len(store.leases()) == 1


def test_f75_stopped_as_soon_as_it_can_listen(site: Lab) -> None:
    """A signal right behind the first line of the log: exit 0."""
    journals = [Journal(node) for node in site.nodes]
    for node in site.nodes:
        launch(node)
    for node, journal, number in zip(site.nodes, journals, SIGNALS, strict=True):
        journal.wait("daemon.started", timeout_s=15)
        node.process.send(number)
    for node in site.nodes:
        assert wait_exit(node, STOP_S) == 0


def test_f75_a_second_signal_ends_it_at_once(site: Lab) -> None:
    """Whoever sends a second signal, Ctrl-C too, does not wait for connections to be closed; no traceback is logged."""
    journals = [Journal(node) for node in site.nodes]
    for node, number in zip(site.nodes, SIGNALS, strict=True):
        launch(node, failpoints=f"shutdown.close=signal:{number.name.removeprefix('SIG')}")
    for node, journal, number in zip(site.nodes, journals, SIGNALS, strict=True):
        node.wait_ready()
        assert node.stop() == -number
        assert journal.events("daemon.stopping")
        assert not journal.events("daemon.stopped")


# F46, F47: more than one on a host


@pytest.fixture
def twin(cluster: Lab) -> Iterator[LabHost]:
    """A second daemon for the first host of the cluster, with a file and a log of its own."""
    node = LabHost(cluster.name, 1, cluster.folder / "twin")
    yield node
    if node.process.pid():
        node.kill()


@pytest.mark.parametrize("same", ["network and file", "network", "file"])
def test_f46_second_daemon(cluster: Lab, twin: LabHost, same: str, measured: Measured) -> None:
    """A second daemon for the same network or the same file exits 73 at once; the first one does not notice."""
    node = cluster.nodes[0]
    kvs, pid, journal = store_of(cluster).kvs(), pid_of(node), Journal(node)
    changes: dict[str, str | int | None] = {"healthz_port": 2411}
    if same != "file":
        changes["subnet_file"] = str(node.subnet_file if "file" in same else twin.subnet_file)
    else:
        changes |= {"subnet_file": str(node.subnet_file), "etcd_prefix": "/other"}
    said = Journal(twin)
    with RouteMonitor(node) as monitor:
        began = time.monotonic()
        launch(twin, **changes)
        assert wait_exit(twin) == 73
        measured(f"exit 73 after {time.monotonic() - began:.1f} s; the first has the same key, routes and process")
        assert monitor.messages() == ()
    [failed] = said.events("daemon.failed")
    assert f"pid {pid}" in failed["error"]
    assert store_of(cluster).kvs() == kvs
    assert journal.events() == []
    assert node.get("/readyz")[0] == 200


def test_f47_two_networks_on_one_host(cluster: Lab, twin: LabHost, measured: Measured) -> None:
    """A daemon for another network runs beside: each has its routes, and neither sweeps those of the other."""
    node, store = cluster.nodes[0], store_of(cluster)
    store.put("/other/config", CONFIG.replace("172.7.", "10.7."))
    store.put("/other/subnets/10.7.9.0-24", lease_value("192.168.14.99"))
    both = cluster.gateways_for(node) | {"10.7.9.0/24": "192.168.14.99"}
    for _ in range(2):
        journal = Journal(twin)
        launch(twin, etcd_prefix="/other", healthz_port=2411, metrics_bind="127.0.0.1:2412")
        journal.wait("daemon.ready", timeout_s=15)
        node.wait_routes(both)
        assert node.stop() == 0
        node.start()
        node.wait_ready()
        node.wait_routes(both)
        assert twin.stop() == 0
        assert gateways(node) == both
    assert twin.env()["FLANNEL_NETWORK"] == "10.7.0.0/16"
    measured(f"each restarted twice: {len(both)} routes of both networks, none swept")
    node.exec("ip", "route", "del", "10.7.9.0/24")
    store.ctl("del", "--prefix", "/other")


# F98: another user binds the names that a daemon takes


@pytest.fixture
def impostor(cluster: Lab) -> Iterator[Callable[..., None]]:
    """Let a user without rights listen on abstract names in the first host's namespace."""
    node = cluster.nodes[0]
    script = (
        "import os, socket, sys, time\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "held = [socket.socket(socket.AF_UNIX) for _ in sys.argv[1:]]\n"
        "for sock, name in zip(held, sys.argv[1:]): sock.bind(chr(0) + name); sock.listen()\n"
        "time.sleep(600)\n"
    )
    other = Background(node.namespace, cluster.folder / "impostor")

    def bind(*names: str) -> None:
        other.start(sys.executable, "-c", script, *names)
        bound = [f"@{name}\n" for name in names]
        until(lambda: all(one in node.exec("cat", "/proc/net/unix") for one in bound), "the names are bound", 10)

    yield bind
    other.stop()


def test_f98_another_user_has_the_names(
    cluster: Lab, twin: LabHost, impostor: Callable[..., None], measured: Measured
) -> None:
    """A user without rights holds the names of both locks and of the operators' socket: the daemon starts all the same
    and says who that is, ``status`` is its own answer, and a second daemon exits 73 as ever."""
    node = cluster.nodes[0]
    assert node.stop() == 0
    locks = lock.lock_names(lock.network_key(PREFIX, [ENDPOINT]), node.subnet_file)
    impostor(*locks, lock.abstract_name("operator", lock.file_key(node.subnet_file))[1:])
    journal = Journal(node)
    launch(node)
    node.wait_ready()
    assert journal.wait("lock.name_bound")["uid"] == 65534
    command = ("ip", "netns", "exec", node.namespace, sys.executable, "-m", "pyflanneld", "status", "--output=json")
    until(lambda: attempt(*command).returncode == 0, "it answers", 10)
    assert json.loads(attempt(*command).stdout)["pid"] == pid_of(node)
    said = Journal(twin)
    launch(twin, healthz_port=2411, subnet_file=str(node.subnet_file))
    assert wait_exit(twin) == 73
    assert f"pid {pid_of(node)}" in said.events("daemon.failed")[0]["error"]
    measured("starts, tells who has the names, answers for itself; a second daemon exits 73")


# The service manager


class Manager:
    """The other end of ``$NOTIFY_SOCKET``."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.settimeout(10)
        self.told: list[str] = []

    def wait(self, start: str) -> str:
        """Return the next message that begins like that; all that came before it are in ``told``."""
        while True:
            self.told.append(self._sock.recv(4096).decode())
            if self.told[-1].startswith(start):
                return self.told[-1]

    def listen(self, seconds: float) -> list[str]:
        """Return the messages of this time; all of it is waited for."""
        heard: list[str] = []
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._sock.settimeout(left_s)
            with contextlib.suppress(TimeoutError):
                heard.append(self._sock.recv(4096).decode())
        self._sock.settimeout(10)
        return heard

    def drain(self) -> None:
        """Forget what was said before now."""
        while self.listen(0.5):
            pass

    def close(self) -> None:
        self._sock.close()


def test_sd_notify(site: Lab) -> None:
    """The manager hears why we wait, READY once with everything in place, signs of life, and STOPPING first of all."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.99.0/24"), lease_value("192.168.14.99"))
    store.delete(f"{PREFIX}/config")
    node.subnet_file.unlink()
    path = Path("/run") / f"{site.name}.notify"
    manager = Manager(path)
    try:
        launch(node, env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "300000"})
        assert "no network configuration" in manager.wait("STATUS=not ready: there is")
        manager.wait("WATCHDOG=1")
        assert "READY=1" not in manager.told
        store.put(f"{PREFIX}/config", CONFIG)
        manager.wait("READY=1")
        assert node.subnet_file.exists()
        assert gateways(node) == {"172.7.99.0/24": "192.168.14.99"}
        assert node.get("/readyz")[0] == 200
        assert "1 peer routes by eth1; ready" in manager.wait("STATUS=172.")
        for _ in range(3):
            manager.wait("WATCHDOG=1")
        node.process.send(signal.SIGTERM)
        manager.wait("STOPPING=1")
        assert wait_exit(node) == 0
        assert manager.told.count("READY=1") == 1
    finally:
        manager.close()
        path.unlink()


# Logs and secrets; F17


def test_f17_password(site: Lab) -> None:
    """User and password from the environment work; a wrong one, or none, is reported once and is not fatal; neither
    shows in the log or on the command line."""
    right, wrong, bare = site.nodes
    store = store_of(site)
    journals = [Journal(node) for node in site.nodes]
    store.ctl("user", "add", f"root:{POISON}")
    store.ctl("user", "grant-role", "root", "root")
    store.ctl("auth", "enable")
    try:
        user = {"FLANNELD_ETCD_USERNAME": "root"}
        launch(right, "--allow-plaintext-auth", "-v=1", env=user | {"FLANNELD_ETCD_PASSWORD": POISON})
        launch(wrong, "--allow-plaintext-auth", "-v=1", env=user | {"FLANNELD_ETCD_PASSWORD": POISON.lower()})
        launch(bare, "-v=1")
        right.wait_ready()
        for node, journal in zip((wrong, bare), journals[1:], strict=True):
            journal.wait("etcd.denied", timeout_s=15)
            assert node.get("/healthz")[0] == 200
            assert node.get("/readyz")[0] == 503
            assert len(journal.events("etcd.denied")) == 1
        assert POISON.lower() not in journals[1].text().lower()
        assert POISON.encode() not in Path(f"/proc/{pid_of(right)}/cmdline").read_bytes()
        assert all(node.stop() == 0 for node in site.nodes)
    finally:
        store_of(site).ctl("--user", f"root:{POISON}", "auth", "disable")
        store.ctl("user", "delete", "root")


def test_password_on_the_command_line(site: Lab) -> None:
    """A password on the command line works with a warning, and even then does not get into the log."""
    node, journal = site.nodes[0], Journal(site.nodes[0])
    endpoint = "http://127.0.0.1:9"  # nobody is there
    launch(node, "-v=1", etcd_username="root", etcd_password=POISON, etcd_endpoints=endpoint)
    journal.wait("etcd.unavailable", timeout_s=15)
    assert "--etcd-password" in journal.wait("settings.warned")["warning"]
    assert node.stop() == 0  # the fixture searches the log for the word


# F65: the file


def test_f65_mtu_changes(cluster: Lab, measured: Measured) -> None:
    """A new MTU is in ``subnet.env`` within two seconds; whoever reads meanwhile sees whole files only."""
    node = cluster.nodes[0]
    texts: set[bytes] = set()
    slowest_s, journal = 0.0, Journal(node)
    done = threading.Event()

    def read_on() -> None:
        while not done.is_set():
            texts.add(node.subnet_file.read_bytes())

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        for mtu in (1400, 9000, 1500):
            node.exec("ip", "link", "set", "eth1", "mtu", str(mtu))
            took_s = until(lambda mtu=mtu: node.env().get("FLANNEL_MTU") == str(mtu), f"MTU {mtu} is in the file", 15)
            slowest_s = max(slowest_s, took_s)
    finally:
        done.set()
        reader.join()
    expected = {
        f"FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=false\n".encode()
        for mtu in (1400, 9000, 1500)
    }
    assert len(texts) > 1
    assert texts <= expected
    assert [event["now"] for event in journal.events("link.mtu_changed")] == [1400, 9000, 1500]
    measured(f"in the file after {slowest_s * 1000:.0f} ms at most; {len(texts)} texts read meanwhile, all whole")
    leave_ready(cluster)
