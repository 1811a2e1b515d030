"""A host boots while etcd is down, row F85 of the fault matrix: it goes by what it has saved until etcd confirms it."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.measure import Ping, RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.lab.testbed import (
    Journal,
    gateways,
    lease_key,
    lease_value,
    leave_ready,
    store_of,
    wait_exit,
    why_not_ready,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
PEER_AT, PEER = "192.168.14.99", "172.7.99.0/24"


@pytest.fixture
def state(cluster: Lab, tmp_path: Path) -> Iterator[Path]:
    """The file that the first host's daemon has saved; at the end the daemon is an ordinary one again."""
    node, journal = cluster.nodes[0], Journal(cluster.nodes[0])
    restart(node, tmp_path)
    journal.wait("daemon.ready", timeout_s=15)
    file = tmp_path / "last-good.json"
    until(file.exists, f"{node.name} has saved its state")
    yield file
    node.kill()
    if not cluster.etcd.process.pid():
        cluster.etcd.start()
    leave_ready(cluster)


def restart(node: LabHost, directory: Path) -> None:
    """Kill the daemon and start it with a state directory."""
    node.kill()
    node.start("--state-dir", str(directory))


def reboot_without_etcd(cluster: Lab, directory: Path) -> tuple[Journal, float]:
    """Take etcd away, and reboot the first host; return its log, and the time of its start."""
    cluster.etcd.stop()
    return reboot(cluster.nodes[0], directory), time.monotonic()


def reboot(node: LabHost, directory: Path) -> Journal:
    """Take all that a reboot takes, and boot; return the log."""
    node.kill()
    node.exec("sh", "-c", "ip route flush proto 103; nft flush ruleset")
    node.subnet_file.unlink()
    assert gateways(node) == {}
    journal = Journal(node)
    node.start("--state-dir", str(directory))
    return journal


def test_f85_a_host_boots_while_etcd_is_down(cluster: Lab, state: Path, measured: Measured) -> None:
    """Routes, rules and file are back within seconds, packets flow, it says that it is unconfirmed; etcd comes back,
    and not a route moves."""
    node, peer, _ = cluster.nodes
    env, held = node.subnet_file.read_bytes(), gateways(node)
    assert state.stat().st_mode & 0o777 == 0o600
    journal, began_s = reboot_without_etcd(cluster, state.parent)
    journal.wait("saved_state.restored", timeout_s=15)
    restored_s = time.monotonic() - began_s
    assert (node.subnet_file.read_bytes(), gateways(node)) == (env, held)
    assert "FLANNEL-FWD" in node.exec("iptables-save")
    assert node.get("/healthz")[0] == 200
    assert "unconfirmed: " in why_not_ready(node)
    with Ping(node, peer) as ping, RouteMonitor(node) as monitor:
        until(lambda: len(ping.received()) > 5, "traffic")
        kept, written = node.subnet_file.stat().st_mtime_ns, state.read_bytes()
        cluster.etcd.start()
        ready_s = node.wait_ready(45)
        assert monitor.messages() == ()
        traffic = ping.result()
    assert traffic.lost == 0
    assert (node.subnet_file.read_bytes(), node.subnet_file.stat().st_mtime_ns) == (env, kept)
    assert journal.events("saved_state.confirmed", subnet=node.subnet)
    until(lambda: state.read_bytes() != written, "the state is saved again")
    measured(f"restored {restored_s:.1f} s after the start; {traffic.lost} of {traffic.sent} packets lost; "
             f"ready {ready_s:.1f} s after etcd is back, 0 route messages")  # fmt: skip


def test_f85_what_changed_meanwhile_is_done_when_etcd_is_back(cluster: Lab, state: Path) -> None:
    """A peer that came while the host was off gets its route; a route that somebody deletes is put again before."""
    node = cluster.nodes[0]
    held = gateways(node)
    journal, _ = reboot_without_etcd(cluster, state.parent)
    journal.wait("saved_state.restored", timeout_s=15)
    node.exec("ip", "route", "del", cluster.nodes[1].subnet)
    node.wait_routes(held, 5)
    cluster.etcd.start()
    store_of(cluster).put(lease_key(PEER), lease_value(PEER_AT))
    node.wait_routes(held | {PEER: PEER_AT}, 45)
    node.wait_ready(15)
    store_of(cluster).delete(lease_key(PEER))


def test_f85_an_etcd_that_hangs_is_no_better(cluster: Lab, state: Path) -> None:
    """Connections are taken and nothing is answered: the same, and the same way back."""
    node = cluster.nodes[0]
    held, etcd = gateways(node), cluster.etcd.process.pid()
    assert etcd is not None
    os.kill(etcd, signal.SIGSTOP)
    try:
        journal = reboot(node, state.parent)
        journal.wait("saved_state.restored", timeout_s=15)
        assert gateways(node) == held
    finally:
        os.kill(etcd, signal.SIGCONT)
    node.wait_ready(45)
    assert journal.events("saved_state.confirmed", subnet=node.subnet)
    assert not journal.events("route.dropped")


def test_f85_a_lost_lease_is_not_gone_by(cluster: Lab, state: Path) -> None:
    """Whose subnet is another host's ends with 75, and takes what it has saved along."""
    node, store = cluster.nodes[0], store_of(cluster)
    key = lease_key(node.subnet)
    store.put(key, lease_value(PEER_AT))
    assert wait_exit(node) == 75
    assert not state.exists()
    store.delete(key)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"lease_end": 1.0}, "its lease may have run out at 1970-01-01T00:00:01Z"),
        pytest.param({"saved_at": 9e9}, "the clock was set back", marks=pytest.mark.thorough),
        pytest.param({"prefix": "/elsewhere"}, "it is about the prefix '/elsewhere'", marks=pytest.mark.thorough),
        ({"own": ["172.7.21.0-24", lease_value("192.168.14.77"), 1, 1, 1]}, "this node would say 192.168.14.21"),
    ],
    ids=["expired", "clock", "prefix", "address"],
)
def test_f85_what_is_not_good_any_more_is_refused(
    cluster: Lab, state: Path, changes: dict[str, object], why: str
) -> None:
    """It says why, restores nothing, lives, and is ready when etcd is back."""
    node = cluster.nodes[0]
    state.write_text(json.dumps(json.loads(state.read_text()) | changes))
    journal, _ = reboot_without_etcd(cluster, state.parent)
    assert why in journal.wait("saved_state.unusable", timeout_s=15)["condition"]
    assert (gateways(node), node.subnet_file.exists()) == ({}, False)
    assert node.get("/healthz")[0] == 200
    cluster.etcd.start()
    node.wait_ready(45)
    assert gateways(node) == cluster.gateways_for(node)
    assert not journal.events("saved_state.in_use")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("truncate -s 100 last-good.json", "the saved state: "),
        ("mv last-good.json f; ln -s f last-good.json", "Too many levels of symbolic links"),
        ("chown 1234 last-good.json", "it belongs to uid 1234"),
        *(
            pytest.param(*spoilt, marks=pytest.mark.thorough)
            for spoilt in (
                ("chmod o+w .", "everybody may write to its directory"),
                ("chmod o+w last-good.json", "users other than its owner may write to it"),
                ("truncate -s 9M last-good.json", "at most 8388608 bytes"),
                ("rm last-good.json; mkfifo last-good.json", "it is not a regular file"),
            )
        ),
    ],
    ids=["torn", "link", "owner", "directory", "writable", "huge", "fifo"],
)
def test_f85_a_file_that_anybody_can_have_put_there_is_refused(
    cluster: Lab, state: Path, spoil: str, why: str
) -> None:
    """Torn, foreign, huge, a link, writable for others: refused with its reason, and the start waits for etcd."""
    node = cluster.nodes[0]
    node.exec("sh", "-c", f"cd {state.parent} && {spoil}")
    journal, _ = reboot_without_etcd(cluster, state.parent)
    assert why in journal.wait("saved_state.unusable", timeout_s=15)["condition"]
    assert (gateways(node), node.get("/healthz")[0]) == ({}, 200)
    cluster.etcd.start()
    node.wait_ready(45)
