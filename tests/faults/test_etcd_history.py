"""etcd whose history has a gap, goes back or is another one: rows F13, F14 and F19 of the fault matrix."""

import shutil
import signal
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS, CONFIG, PREFIX
from pyflanneld.lab.measure import Ping, RouteMonitor
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.etcd.server import ON_EACH_RELEASE
from tests.support.lab.testbed import Journal, cut_off, gateways, launch, lease_key, lease_value, pid_of, store_of

pytestmark = [pytest.mark.etcd, pytest.mark.netns, ON_EACH_RELEASE]
ETCD = str(ADDRESS.ip)
STRANGER, OTHER = "192.168.14.99", "192.168.14.98"
JUNK = f"{PREFIX}/subnets/junk"


def test_f13_compaction_while_disconnected(cluster: Lab, measured: Measured) -> None:
    """Changes that were compacted away unseen are caught up by a list: put, moved and deleted peers are all right."""
    node, store = cluster.nodes[0], store_of(cluster)
    gone, moved, fresh = "172.7.97.0/24", "172.7.98.0/24", "172.7.99.0/24"
    for subnet in (gone, moved):
        store.put(lease_key(subnet), lease_value(STRANGER))
    node.wait_routes(cluster.gateways_for(node) | {gone: STRANGER, moved: STRANGER})
    journal = Journal(node)
    with RouteMonitor(node) as monitor:
        with cut_off(node, ETCD, refused=True):
            store.put(JUNK, "")  # something to acknowledge, which makes the loss known
            journal.wait("etcd.unavailable", timeout_s=25)
            store.put(lease_key(moved), lease_value(OTHER))
            store.put(lease_key(fresh), lease_value(STRANGER))
            store.delete(lease_key(gone))
            value = lease_value(STRANGER).replace('"', '\\"')
            for _ in range(20):
                store.txn(*(f'put "{lease_key(f"172.7.{n}.0/24")}" "{value}"' for n in range(100, 200)))
                store.txn(*(f'del "{lease_key(f"172.7.{n}.0/24")}"' for n in range(100, 200)))
            store.ctl("compact", str(store.revision()))
            store.ctl("defrag")
            assert gateways(node) == cluster.gateways_for(node) | {gone: STRANGER, moved: STRANGER}
        took_s = node.wait_routes(cluster.gateways_for(node) | {moved: OTHER, fresh: STRANGER}, 35)
        assert sorted(m.text.removeprefix("Deleted ").split()[0] for m in monitor.messages()) == [gone, moved, fresh]
    measured(f"4,000 changes missed and compacted: exactly right {took_s:.1f} s after the cut")
    store.txn(*(f'del "{key}"' for key in (lease_key(moved), lease_key(fresh), JUNK)))


@pytest.mark.parametrize("crowd", [0, pytest.param(900, marks=pytest.mark.thorough)])
def test_f14_compaction_at_the_very_next_revision(site: Lab, crowd: int, measured: Measured) -> None:
    """The next revision is a deletion, and history is compacted up to it: a watch that is taken up there may never tell
    of it (etcd issue 19179), a list does. In a large cluster the list is some seconds behind the watch."""
    node, store = site.nodes[0], store_of(site)
    gone, stays = "172.7.98.0/24", "172.7.99.0/24"
    wanted = {f"172.7.{128 + number // 16}.{number % 16 * 16}/28": OTHER for number in range(crowd)}
    value = lease_value(OTHER).replace('"', '\\"')
    store.txn(*(f'put "{lease_key(subnet)}" "{value}"' for subnet in wanted))
    for subnet in (gone, stays):
        store.put(lease_key(subnet), lease_value(STRANGER))
    wanted |= {gone: STRANGER, stays: STRANGER}
    launch(node, "-v=1")
    node.wait_ready()
    until(lambda: gateways(node) == wanted, "all routes are there", 30, 0.1)
    journal, known = Journal(node), store.revision()
    with RouteMonitor(node) as monitor:
        with cut_off(node, ETCD, refused=True):
            store.delete(lease_key(gone))
            journal.wait("etcd.unavailable", timeout_s=25)
            assert store.revision() == known + 1
            store.ctl("compact", "--physical", str(known + 1))
        took_s = until(lambda: gone not in gateways(node), "the deletion is known", 30, 0.1)
        assert [message.text.split()[:2] for message in monitor.messages()] == [["Deleted", gone]]
    taken_up = bool(journal.events("watch.opened", start_revision=known + 1))
    measured(f"{crowd + 2} peers: gone {took_s:.1f} s after the cut{', found by the list' if taken_up else ''}")


def test_f19_etcd_comes_back_empty(cluster: Lab, measured: Measured) -> None:
    """etcd loses everything: no route is withdrawn, no packet is lost, and every node takes its own subnet again."""
    store, (node, peer, _) = store_of(cluster), cluster.nodes
    journals = [Journal(each) for each in cluster.nodes]
    with Ping(node, peer) as ping, RouteMonitor(node) as monitor:
        until(lambda: bool(ping.received()), "traffic")
        cluster.etcd.stop(signal.SIGKILL)
        shutil.rmtree(cluster.etcd.process.folder / "data")
        cluster.etcd.start()
        store.put(f"{PREFIX}/config", CONFIG)
        own = {lease_key(each.subnet): lease_value(each.address.ip).encode() for each in cluster.nodes}

        def all_are_back() -> bool:
            return {key: kv.value for key, kv in store.kvs(f"{PREFIX}/subnets/").items()} == own

        until(all_are_back, "all have their own subnet", 60)
        for each, journal in zip(cluster.nodes, journals, strict=True):
            until(lambda each=each: each.get("/readyz")[0] == 200, "ready", 60)
            assert gateways(each) == cluster.gateways_for(each)
            assert journal.events("etcd.history_changed")
        assert monitor.messages() == ()
        traffic = ping.result()
        assert traffic.lost == 0
    measured(f"no route moved, {traffic.lost} of {traffic.sent} packets lost; all have their own subnet again")


@pytest.mark.thorough
@pytest.mark.parametrize("token", ["etcd-cluster", "another"], ids=["same cluster", "another cluster"])
def test_f19_restored_snapshot(cluster: Lab, token: str, measured: Measured) -> None:
    """etcd is restored from an old backup: nothing is withdrawn and no host is ready until two more lists have said the
    same; then what the backup does not know goes, and all hosts hold their subnets."""
    store, (node, peer, _) = store_of(cluster), cluster.nodes
    old, newer = "172.7.98.0/24", [f"172.7.{number}.0/24" for number in range(101, 105)]
    store.put(lease_key(old), lease_value(STRANGER))
    backup = cluster.folder / "backup"
    store.ctl("snapshot", "save", str(backup))
    for subnet in newer:
        store.put(lease_key(subnet), lease_value(STRANGER))
    before = dict.fromkeys([old, *newer], STRANGER)
    for each in cluster.nodes:
        each.wait_routes(cluster.gateways_for(each) | before)
    journals = [Journal(each) for each in cluster.nodes]
    with Ping(node, peer) as ping, RouteMonitor(node) as monitor:
        until(lambda: bool(ping.received()), "traffic")
        restore(cluster, backup, token)
        for each, journal in zip(cluster.nodes, journals, strict=True):
            journal.wait("guard.holding", timeout_s=45)
            assert each.get("/readyz")[0] == 503
        assert monitor.messages() == ()
        for each in cluster.nodes:
            each.wait_routes(cluster.gateways_for(each) | {old: STRANGER}, 60)
            until(lambda each=each: each.get("/readyz")[0] == 200, "ready again", 10)
        assert sorted(message.text.split()[1] for message in monitor.messages()) == newer
        traffic = ping.result()
        assert traffic.lost == 0
    for each in cluster.nodes:
        kv = store.kv(lease_key(each.subnet))
        assert kv is not None
        assert kv.value == lease_value(each.address.ip).encode()
    measured(f"held until two more lists agreed; {traffic.lost} of {traffic.sent} packets lost; each kept its subnet")
    store.delete(lease_key(old))


def restore(lab: Lab, backup: Path, token: str) -> None:
    """Replace etcd's data by those of a backup."""
    data, peer = lab.etcd.process.folder / "data", "http://127.0.0.1:2380"
    lab.etcd.stop(signal.SIGKILL)
    shutil.rmtree(data)
    store_of(lab).ctl(
        "snapshot", "restore", str(backup), f"--data-dir={data}", "--name=lab", f"--initial-cluster=lab={peer}",
        f"--initial-advertise-peer-urls={peer}", f"--initial-cluster-token={token}",
    )
    lab.etcd.start()


def test_f19_endpoint_leads_to_an_empty_cluster(cluster: Lab, measured: Measured) -> None:
    """Another, empty etcd answers at the endpoint for a while: no route moves, no host is ready; when the right one is
    back all is as before, the leases too."""
    store, etcd = store_of(cluster), cluster.etcd
    data = etcd.process.folder / "data"
    strangers = {f"172.7.{number}.0/24": STRANGER for number in range(101, 105)}
    for subnet, gateway in strangers.items():
        store.put(lease_key(subnet), lease_value(gateway))
    for each in cluster.nodes:
        each.wait_routes(cluster.gateways_for(each) | strangers)
    kvs, pids = store.kvs(), [pid_of(each) for each in cluster.nodes]
    journals, node = [Journal(each) for each in cluster.nodes], cluster.nodes[0]
    with RouteMonitor(node) as monitor:
        etcd.stop()
        data.rename(data.with_name("right"))
        etcd.flags = ("--initial-cluster-token=a-third",)  # another id than any restored one
        etcd.start()
        for each, journal in zip(cluster.nodes, journals, strict=True):
            journal.wait("guard.holding", timeout_s=45)
            assert each.get("/readyz")[0] == 503
        etcd.stop()
        shutil.rmtree(data)
        data.with_name("right").rename(data)
        etcd.flags = ()
        etcd.start()
        for each in cluster.nodes:
            until(lambda each=each: each.get("/readyz")[0] == 200, "ready again", 60)
            assert gateways(each) == cluster.gateways_for(each) | strangers
        assert monitor.messages() == ()
    assert store.kvs() == kvs
    assert [pid_of(each) for each in cluster.nodes] == pids
    measured("no route moved; back at the right cluster with the same leases")
    for subnet in strangers:
        store.delete(lease_key(subnet))
