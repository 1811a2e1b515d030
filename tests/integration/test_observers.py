"""What the observers of the fault matrix see, on the real kernel, etcd and daemon."""

import shutil
import signal
import subprocess
import time

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.run import until
from tests.support.lab.testbed import lease_key, lease_value, store_of
from tests.support.observers.record import DAEMON, OTHER, Record
from tests.support.observers.verdict import violations
from tests.support.observers.watch import Watch

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER = "192.168.14.99"


def watched(lab: Lab) -> Watch:
    watch = Watch()
    watch.add(lab)
    return watch


def only(watch: Watch) -> Record:
    [record] = watch.finish()
    return record


def test_who_changes_a_route_is_known(cluster: Lab) -> None:
    """A route that somebody deletes and the daemon puts back: each message bears its author's name."""
    node, peer, _ = cluster.nodes
    watch = watched(cluster)
    node.exec("ip", "route", "del", peer.subnet)
    node.wait_routes(cluster.gateways_for(node))
    node.exec("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    node.exec("ip", "address", "del", "192.0.2.1/32", "dev", "lo")
    record = only(watch)
    seen = [(event.by, event.deleted, event.protocol) for event in record.hosts[0].route_events if event.table == 254]
    assert seen == [(OTHER, True, 103), (DAEMON, False, 103)]
    assert {event.by for event in record.hosts[0].other_events} == {OTHER}
    assert violations(record) == []


def test_the_history_is_complete(site: Lab) -> None:
    """What happens before and after a restart of etcd, what is compacted at once, and what comes after etcd has lost
    everything: all of it is seen."""
    store = store_of(site)
    store.put(lease_key("172.7.90.0/24"), lease_value(STRANGER))
    watch = watched(site)
    keys = [lease_key(f"172.7.{number}.0/24") for number in (91, 92, 93)]
    store.put(keys[0], lease_value(STRANGER))
    store.delete(keys[0])
    store.ctl("compact", str(store.revision()))
    site.etcd.stop()
    site.etcd.start()
    store.put(keys[1], lease_value(STRANGER))
    until(lambda: len(watch.records()[0].history.changes) == 3, "the observer has found etcd again")
    site.etcd.stop(signal.SIGKILL)
    shutil.rmtree(site.etcd.process.folder / "data")
    site.etcd.start()
    store.put(f"{PREFIX}/config", CONFIG)
    store.put(keys[2], lease_value(STRANGER))
    record = only(watch)
    told = [(change.key, change.value is None) for change in record.history.changes]
    assert told == [(keys[0], False), (keys[0], True), (keys[1], False), (f"{PREFIX}/config", False), (keys[2], False)]
    assert lease_key("172.7.90.0/24") in record.history.before
    assert record.history.blind == ""


def test_an_etcd_that_is_down_at_the_end_is_told(site: Lab) -> None:
    """A history that may lack something says so, and nobody is blamed for what was not seen."""
    watch = watched(site)
    site.etcd.stop()
    assert only(watch).history.blind == "etcd did not answer at the end"
    site.etcd.start()


def test_traffic_answers_and_ends_are_seen(cluster: Lab) -> None:
    """Packets between pods arrive, the health port answers, a daemon has its figures, and its end its exit code."""
    node = cluster.nodes[0]
    watch = watched(cluster)
    until(lambda: len(watch.records()[0].hosts[0].answers) > 3, "answers of the health port")
    time.sleep(0.3)  # one look at the processes at least
    assert node.stop() == 0
    record = only(watch)
    assert len(record.packets) > 3
    assert all(packet.arrived for packet in record.packets)
    assert {answer.status for answer in record.hosts[0].answers if answer.status} == {200}
    [run] = record.hosts[0].runs
    assert (run.code, run.threads >= 1, run.descriptors > 5, run.anon_bytes > 1 << 20) == (0, True, True, True)
    assert [number for _, number in record.signals(run.pid)] == [signal.SIGTERM]
    assert violations(record) == []


def test_a_daemon_that_deletes_a_foreign_route_is_caught(cluster: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole chain bites: a program that is taken for the daemon, and deletes a route of others, breaks I6."""
    node = cluster.nodes[0]
    node.exec("ip", "route", "add", "10.9.0.0/16", "via", "192.168.14.22", "proto", "static")
    command = ["ip", "netns", "exec", node.namespace, "ip", "-batch", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as impostor:
        monkeypatch.setattr(node.process, "pid", lambda: impostor.pid)
        watch = watched(cluster)
        impostor.communicate(b"route del 10.9.0.0/16\n", timeout=10)
        record = only(watch)
    monkeypatch.undo()
    found = [str(finding) for finding in violations(record) if finding.invariant == "I6"]
    assert found == ["I6 at n1: deleted 10.9.0.0/16 via 192.168.14.22 proto 4 table 254"]
