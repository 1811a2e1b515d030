"""Never ready and wrong about the own lease: rows F103 to F110 of the fault matrix, against a real etcd."""

import sys

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import attempt, until
from tests.faults.conftest import Measured
from tests.faults.test_etcd_rights import QUOTA_BYTES, fill, restart
from tests.support.etcd.server import ON_EACH_RELEASE
from tests.support.lab.testbed import Journal, launch, lease_key, pid_of, store_of, why_not_ready

pytestmark = [pytest.mark.etcd, pytest.mark.netns, ON_EACH_RELEASE]


def status(node: LabHost) -> str:
    """Return what ``pyflanneld status`` shows."""
    command = ("ip", "netns", "exec", node.namespace, sys.executable, "-m", "pyflanneld", "status")
    return attempt(*command, env={"NO_COLOR": ""}).stdout


def test_f103_own_key_gone_and_no_space(site: Lab, measured: Measured) -> None:
    """etcd takes deletions and no writes: a host whose key is gone is not ready until it is back, and says why."""
    node = site.nodes[0]
    restart(site, f"--quota-backend-bytes={QUOTA_BYTES}")
    store, journal = store_of(site), Journal(node)
    launch(node)
    node.wait_ready()
    pid, key = pid_of(node), lease_key(node.subnet)
    fill(store)
    store.delete(key)
    gone_s = until(lambda: node.get("/readyz")[0] == 503, "not ready", 5)
    assert "space" in journal.wait("etcd.unavailable")["condition"]
    assert f"the lease of {node.subnet} is gone from etcd" in why_not_ready(node)
    assert all(text in status(node) for text in ("gone from etcd, confirmed", "space", "etcd refuses the write"))
    assert node.get("/healthz")[0] == 200
    store.ctl("del", "--prefix", "/fill/")
    store.ctl("compact", "--physical", str(store.revision()))
    store.ctl("defrag")
    store.ctl("alarm", "disarm")
    back_s = node.wait_ready(45)
    assert store.kv(key) is not None
    assert pid_of(node) == pid
    restart(site)
    measured(f"not ready {gone_s:.1f} s after the key was gone; ready again {back_s:.1f} s after there is space")


@pytest.mark.parametrize("restarted", [False, True], ids=["at run time", "before a start"])
def test_f104_own_key_put_on_a_short_etcd_lease(cluster: Lab, restarted: bool, measured: Measured) -> None:
    """Somebody puts the own key again on an etcd lease of 10 s: it is taken back to one of our own, with a word; peers
    keep their route, and the lease that is left over serves the next time."""
    node, store = cluster.nodes[0], store_of(cluster)
    key, journal = lease_key(node.subnet), Journal(node)
    before, peer = store.kv(key), cluster.nodes[1]
    assert before is not None
    with RouteMonitor(peer) as monitor:
        if restarted:
            node.kill()
        store.put(key, before.value, lease=store.grant(10))
        if restarted:
            launch(node)

        def own_again() -> bool:
            kv = store.kv(key)
            return kv is not None and store.ttl(kv.lease)[1] == 86400

        took_s = until(own_again, "on a lease of its own", 15, 0.05)
        assert journal.wait("lease.taken_back")["was_ttl_s"] == 10
        until(lambda: node.get("/readyz")[0] == 200, "ready", 10)
        after = store.kv(key)
        assert after is not None
        assert (after.value, after.create_revision) == (before.value, before.create_revision)
        assert restarted or after.lease == before.lease
        assert monitor.messages() == ()
    measured(f"{'found at the start' if restarted else 'at run time'}: taken back after {took_s:.1f} s")


def test_f105_own_key_deleted_again_and_again(site: Lab, measured: Measured) -> None:
    """Each time the same subnet is taken again, on the same etcd lease: nothing piles up."""
    node = site.nodes[0]
    launch(node)
    node.wait_ready()
    store, key = store_of(site), lease_key(node.subnet)
    before = store.kv(key)
    assert before is not None
    for _ in range(20):
        known = store.kv(key)
        assert known is not None
        store.delete(key)
        until(lambda known=known: getattr(store.kv(key), "create_revision", 0) > known.create_revision, "back", 5, 0.02)
    assert store.leases() == {before.lease: (key,)}
    assert store.ttl(before.lease)[0] > 86400 - 10
    assert node.stop() == 0
    assert store.leases() == {before.lease: (key,)}
    measured(f"after 20 deletions etcd has {len(store.leases())} lease")


def test_f108_junk_beside_and_the_own_key_gone(cluster: Lab, measured: Measured) -> None:
    """A key that nobody can read was put over a part of our subnet: it is no host's, so ours is taken again."""
    node, store = cluster.nodes[0], store_of(cluster)
    key, pid, journal = lease_key(node.subnet), pid_of(node), Journal(node)
    junk = lease_key(node.subnet).replace("-24", "-25")
    store.put(junk, "junk")
    journal.wait("peer.quarantined")
    store.delete(key)
    took_s = until(lambda: store.kv(key) is not None, "taken again", 5, 0.02)
    until(lambda: node.get("/readyz")[0] == 200, "ready", 5)
    assert pid_of(node) == pid
    for peer in cluster.nodes[1:]:
        peer.wait_routes(cluster.gateways_for(peer), 5)
    store.delete(junk)
    measured(f"the same subnet is taken again after {1000 * took_s:.0f} ms")
