"""One etcd that is away for a while, rows F03 and F05 of the fault matrix: the data plane stays, nothing is missed."""

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.measure import Ping, RouteMonitor
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.lab.testbed import REPAIR_S, Journal, gateways, lease_key, lease_value, pid_of, store_of

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER = "192.168.14.99"
SUBNET, KEY = "172.7.99.0/24", lease_key("172.7.99.0/24")


def test_f03_f05_etcd_stops_for_a_while(cluster: Lab, measured: Measured) -> None:
    """Without etcd: traffic flows, no route moves, ready as long as the lease is confirmed, routes are still repaired;
    with etcd again: a peer's change is followed, no process was restarted, nothing was written."""
    store, (node, peer, _) = store_of(cluster), cluster.nodes
    pids, kvs = [pid_of(each) for each in cluster.nodes], store.kvs()
    journals = [Journal(each) for each in cluster.nodes]
    with Ping(node, peer) as ping, RouteMonitor(node) as monitor, RouteMonitor(peer) as theirs:
        until(lambda: bool(ping.received()), "traffic")
        cluster.etcd.stop()
        for journal in journals:
            journal.wait("etcd.unavailable", timeout_s=10)
        assert all(each.get("/readyz") == (200, "flanneld is ready") for each in cluster.nodes)
        assert monitor.messages() == theirs.messages() == ()
        traffic = ping.result()
        assert traffic.lost == 0
    node.exec("ip", "route", "del", peer.subnet)
    repaired_s = node.wait_routes(cluster.gateways_for(node), REPAIR_S)
    cluster.etcd.start()
    assert store.kvs() == kvs
    store.put(KEY, lease_value(STRANGER))
    caught_up_s = max(each.wait_routes(cluster.gateways_for(each) | {SUBNET: STRANGER}, 45) for each in cluster.nodes)
    assert [pid_of(each) for each in cluster.nodes] == pids
    for journal in journals:
        assert len(journal.events("etcd.unavailable")) <= 3  # one for each task that noticed
    measured(f"{traffic.lost} of {traffic.sent} packets lost; a route repaired in {repaired_s * 1000:.0f} ms; "
             f"a change seen {caught_up_s:.1f} s after etcd is back")  # fmt: skip
    store.delete(KEY)


def test_restart_while_etcd_is_down(cluster: Lab) -> None:
    """A daemon that is restarted without etcd leaves its routes where they are, and is ready when etcd is back."""
    node, peer, _ = cluster.nodes
    with RouteMonitor(node) as monitor, Ping(node, peer) as ping:
        until(lambda: bool(ping.received()), "traffic")
        cluster.etcd.stop()
        node.kill()
        journal = Journal(node)
        node.start()
        journal.wait("etcd.unavailable", timeout_s=15)
        assert node.get("/readyz")[0] == 503
        assert gateways(node) == cluster.gateways_for(node)
        cluster.etcd.start()
        node.wait_ready(15)
        assert monitor.messages() == ()
        assert ping.result().lost == 0
    for each in cluster.nodes:  # the others have found their way back before the next test
        store_of(cluster).put(KEY, lease_value(STRANGER))
        each.wait_routes(cluster.gateways_for(each) | {SUBNET: STRANGER}, 45)
    store_of(cluster).delete(KEY)
