"""This host's lease under attack, rows F20 to F29, F33, F44 and F48 of the fault matrix, against a real etcd."""

import signal
import time

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, ENDPOINT, PREFIX
from pyflanneld.lab.measure import Ping, RouteMonitor, delay_ms
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.etcd.counters import etcd_counters
from tests.support.etcd.server import ON_EACH_RELEASE
from tests.support.lab.lossy_path import first_call, lossy_path
from tests.support.lab.testbed import (
    Journal,
    Kv,
    Store,
    gateways,
    launch,
    lease_key,
    lease_value,
    leave_ready,
    pid_of,
    store_of,
    wait_exit,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns, ON_EACH_RELEASE]
STRANGER = "192.168.14.99"


def own(lab: Lab, node: LabHost) -> Kv | None:
    """Return a node's key, ``None`` when it is not there."""
    return store_of(lab).kv(lease_key(node.bridge_address.network))


def held(lab: Lab, node: LabHost) -> Kv:
    kv = own(lab, node)
    assert kv is not None
    return kv


def renewals_of(lab: Lab) -> int:
    """Return how many renewals etcd has counted."""
    return etcd_counters(lab.etcd.namespace).total("etcd_debugging_lease_renewed_total")


def take_away(store: Store, node: LabHost, kv: Kv, how: str) -> None:
    if how == "revoked":
        store.ctl("lease", "revoke", f"{kv.lease:x}")
    else:
        store.delete(lease_key(node.bridge_address.network))


@pytest.mark.parametrize("how", ["revoked", "deleted"])
def test_f20_f21_own_lease_revoked_or_key_deleted(cluster: Lab, how: str, measured: Measured) -> None:
    """The same subnet is taken again within 2 s; process and file stay, peers lose the route once, for that long."""
    node, peer, _ = cluster.nodes
    before, pid, file = held(cluster, node), pid_of(node), node.subnet_file.stat()
    journal = Journal(node)
    with RouteMonitor(node) as monitor, RouteMonitor(peer) as theirs:
        take_away(store_of(cluster), node, before, how)
        until(lambda: getattr(own(cluster, node), "create_revision", 0) > before.create_revision, "taken again", 2)
        until(lambda: len(theirs.messages()) >= 2, "the peer's route has gone and come back", 2)
        peer.wait_routes(cluster.gateways_for(peer), 2)
        assert monitor.messages() == ()
        assert [message.deleted for message in theirs.messages()] == [True, False]
        measured(f"{how}: the peer's route is away for {delay_ms(theirs.messages(), node.subnet):.0f} ms")
    after = held(cluster, node)
    assert (after.value, after.version) == (before.value, 1)
    assert store_of(cluster).ttl(after.lease)[1] == 86400
    assert pid_of(node) == pid
    assert (node.subnet_file.stat().st_mtime_ns, node.subnet_file.stat().st_ino) == (file.st_mtime_ns, file.st_ino)
    assert len(journal.events("lease.retaken")) == 1
    assert node.get("/readyz")[0] == 200


@pytest.mark.thorough
def test_f22_all_leases_deleted(cluster: Lab, measured: Measured) -> None:
    """Every node takes its own subnet again; the guard keeps the routes meanwhile, no packet between pods is lost."""
    store = store_of(cluster)
    strangers = {f"172.7.{n}.0/24": f"192.168.14.{n}" for n in (101, 102, 103, 104)}
    for subnet, gateway in strangers.items():
        store.put(lease_key(subnet), lease_value(gateway))
    for node in cluster.nodes:
        node.wait_routes(cluster.gateways_for(node) | strangers)
    journals = [Journal(node) for node in cluster.nodes]
    first, *_, last = cluster.nodes
    with Ping(first, last) as ping, RouteMonitor(first) as monitor:
        until(lambda: bool(ping.received()), "traffic")
        store.ctl("del", "--prefix", f"{PREFIX}/subnets/")
        taken_s = until(lambda: all(own(cluster, node) for node in cluster.nodes), "all subnets are taken again", 5)
        for node, journal in zip(cluster.nodes, journals, strict=True):
            journal.wait("guard.holding")
            assert node.get("/readyz")[0] == 503
            assert gateways(node) == cluster.gateways_for(node) | strangers
        assert monitor.messages() == ()
        # Those that do not come back go when two more complete lists, 10 s apart, have said so.
        for node in cluster.nodes:
            node.wait_routes(cluster.gateways_for(node), 40)
            until(lambda node=node: node.get("/readyz")[0] == 200, "ready again", 15)
        assert {m.text.split()[1] for m in monitor.messages()} == set(strangers)
        traffic = ping.result()
        assert traffic.lost == 0
        measured(f"all taken again in {taken_s:.1f} s; {traffic.lost} of {traffic.sent} packets lost")


def test_f23_dual_stack_sibling(cluster: Lab, measured: Measured) -> None:
    """A dual-stack key for our own subnet, put and deleted, changes nothing here nor at the peers."""
    node, peer, _ = cluster.nodes
    before, journals = held(cluster, node), [Journal(node), Journal(peer)]
    key = f"{lease_key(node.subnet)}&fd00:7:21::-64"
    with RouteMonitor(node) as mine, RouteMonitor(peer) as theirs:
        store_of(cluster).put(key, lease_value(STRANGER))
        for journal, reason in zip(journals, ("overlaps_own", "overlaps_older"), strict=True):
            journal.wait("peer.quarantined", reason=reason)
        store_of(cluster).delete(key)
        for journal in journals:
            journal.wait("peer.quarantine_ended")
        assert mine.messages() == theirs.messages() == ()
    assert held(cluster, node) == before
    measured("quarantined here and at the peer; no route moved")


@pytest.mark.parametrize("paused", [False, True], ids=["overwritten", "paused meanwhile"])
def test_f24_f25_key_taken_by_another(cluster: Lab, paused: bool, measured: Measured) -> None:
    """Another node's key in the place of ours is never overwritten: exit 75 within 5 s, routes and file stay."""
    node, store, key = cluster.nodes[0], store_of(cluster), lease_key(cluster.nodes[0].subnet)
    before, file = held(cluster, node), node.subnet_file.read_bytes()
    journal, lease = Journal(node), store.grant(600)
    with RouteMonitor(node) as monitor:
        if paused:
            node.process.send(signal.SIGSTOP)
            store.ctl("lease", "revoke", f"{before.lease:x}")
        store.put(key, lease_value(STRANGER), lease=lease)
        taken = store.kv(key)
        if paused:
            node.process.send(signal.SIGCONT)
        began = time.monotonic()
        assert wait_exit(node, 5) == 75
        measured(f"exit 75 after {time.monotonic() - began:.2f} s, nothing overwritten")
        assert monitor.messages() == ()
    assert store.kv(key) == taken
    assert store.history(key)[-1] == ("PUT", key, lease_value(STRANGER).encode())
    assert gateways(node) == cluster.gateways_for(node)
    assert node.subnet_file.read_bytes() == file
    [failed] = journal.events("daemon.failed")
    assert STRANGER in failed["error"]
    assert str(node.bridge_address.network) in failed["error"]
    store.ctl("lease", "revoke", f"{lease:x}")
    leave_ready(cluster)


def test_f24_overlapping_lease_while_ours_was_gone(cluster: Lab) -> None:
    """A wider lease that appeared while ours was gone counts as ours taken: exit 75, nothing is written."""
    node, store = cluster.nodes[0], store_of(cluster)
    rival = lease_key("172.7.20.0/23")  # 172.7.20.0 and 172.7.21.0
    node.process.send(signal.SIGSTOP)
    store.delete(lease_key(node.subnet))
    store.put(rival, lease_value(STRANGER))
    node.process.send(signal.SIGCONT)
    assert wait_exit(node, 5) == 75
    assert own(cluster, node) is None
    store.delete(rival)
    leave_ready(cluster)


def test_f24_and_then_a_new_start(site: Lab) -> None:
    """After the loss the next run leaves the lost subnet alone, takes another one and says so in the file."""
    node, store = site.nodes[0], store_of(site)
    launch(node)
    node.wait_ready()
    lost = node.subnet
    store.put(lease_key(lost), lease_value(STRANGER), lease=store.grant(600))
    assert wait_exit(node, 5) == 75
    assert node.subnet == lost
    launch(node)
    node.wait_ready()
    assert node.subnet != lost
    node.wait_routes({lost: STRANGER})
    assert {kv.value for kv in store.kvs(f"{PREFIX}/subnets/").values()} == {
        lease_value(STRANGER).encode(), lease_value(node.address.ip).encode(),
    }


def test_own_value_spoiled(cluster: Lab) -> None:
    """Whoever spoils the value of our key on our etcd lease finds it right again; no peer drops the route over it."""
    node, peer, _ = cluster.nodes
    store, before = store_of(cluster), held(cluster, node)
    with RouteMonitor(peer) as monitor:
        revision = store.put(lease_key(node.subnet), "spoiled", lease=before.lease)
        until(lambda: held(cluster, node).mod_revision > revision, "written again", 15)
        assert (held(cluster, node).value, held(cluster, node).lease) == (before.value, before.lease)
        assert monitor.messages() == ()


def test_own_value_spoiled_by_a_stranger(cluster: Lab) -> None:
    """A value that nothing proves ours is nobody's: it stays, is reported, and deleting the key mends it."""
    node, peer, _ = cluster.nodes
    store, journal = store_of(cluster), Journal(node)
    with RouteMonitor(peer) as monitor:
        revision = store.put(lease_key(node.subnet), "spoiled")
        journal.wait("lease.unreadable")
        assert node.get("/readyz")[0] == 503
        assert held(cluster, node).mod_revision == revision
        assert monitor.messages() == ()
    store.delete(lease_key(node.subnet))
    until(lambda: own(cluster, node) is not None and node.get("/readyz")[0] == 200, "mended", 5)
    peer.wait_routes(cluster.gateways_for(peer))


def test_own_key_put_again_on_another_etcd_lease(cluster: Lab) -> None:
    """Our key on somebody's etcd lease of a day is still ours: that lease is kept alive from then on."""
    node, store = cluster.nodes[0], store_of(cluster)
    before, lease = held(cluster, node), store.grant(86400)
    with RouteMonitor(cluster.nodes[1]) as monitor:
        renewals = renewals_of(cluster)
        revision = store.put(lease_key(node.subnet), before.value, lease=lease)
        until(lambda: renewals_of(cluster) >= renewals + 2, "the old one is renewed, and that one", 5, poll_s=0.1)
        until(lambda: node.get("/readyz")[0] == 200, "ready", 5)
        assert (held(cluster, node).lease, held(cluster, node).mod_revision) == (lease, revision)
        assert monitor.messages() == ()


def test_two_hosts_with_one_wish(site: Lab) -> None:
    """Two files that name the same subnet: one host gets it, the other one another."""
    nodes = site.nodes[:2]
    for node in nodes:
        node.subnet_file.write_text("FLANNEL_SUBNET=172.7.33.1/24\n")
        launch(node)
    for node in nodes:
        node.wait_ready()
    subnets = [node.subnet for node in nodes]
    assert len(set(subnets)) == 2
    assert "172.7.33.0/24" in subnets


def test_f29_reservation(site: Lab, measured: Measured) -> None:
    """A key without a TTL that carries our address is held as it is: no write, no etcd lease, over a restart too."""
    node, store = site.nodes[0], store_of(site)
    key = lease_key("172.7.77.0/24")
    store.put(key, lease_value(node.address.ip))
    reserved, revision, renewals = store.kv(key), store.revision(), renewals_of(site)
    for _ in range(2):
        launch(node)
        node.wait_ready()
        assert node.subnet == "172.7.77.0/24"
        assert node.stop() == 0
    assert renewals_of(site) == renewals
    assert store.kv(key) == reserved
    assert store.revision() == revision
    assert store.leases() == {}
    measured("held over a restart; no write, no etcd lease, no renewal")


def test_f29_reserved_at_run_time(cluster: Lab) -> None:
    """An operator who puts our key again without a TTL makes it a reservation: it stays one, nothing else happens."""
    node, peer, _ = cluster.nodes
    store, before = store_of(cluster), held(cluster, node)
    journal = Journal(node)
    with RouteMonitor(peer) as monitor:
        revision = store.put(lease_key(node.subnet), before.value)
        store.ctl("lease", "revoke", f"{before.lease:x}")
        journal.node.exec("ip", "link", "set", "eth1", "mtu", "1400")  # a sign of life from the daemon
        journal.wait("link.mtu_changed")
        node.exec("ip", "link", "set", "eth1", "mtu", "1500")
        journal.wait("link.mtu_changed", now=1500)
        assert monitor.messages() == ()
    kv = held(cluster, node)
    assert (kv.lease, kv.mod_revision) == (0, revision)
    assert node.get("/readyz")[0] == 200
    assert node.stop() == 0
    store.delete(lease_key(node.subnet))  # back to an ordinary lease
    leave_ready(cluster)


def test_f12_renewal_wakes_nobody(site: Lab, measured: Measured) -> None:
    """The lease is prolonged again and again without a single write: the revision of etcd stands still."""
    node, store = site.nodes[0], store_of(site)
    key, lease = lease_key(node.bridge_address.network), store.grant(8)
    store.put(key, lease_value(node.address.ip), lease=lease)  # as if left from an earlier run, with a short TTL
    before = store.kv(key)
    with store.kept_alive(lease):
        launch(node, lease_s=8)
        node.wait_ready()
    revision, renewals = store.revision(), renewals_of(site)
    until(lambda: renewals_of(site) >= renewals + 4, "the lease is renewed several times", 30, poll_s=0.2)
    assert store.revision() == revision
    assert store.kv(key) == before
    assert store.ttl(lease)[0] >= 5
    assert list(store.leases()) == [lease]
    measured(f"{renewals_of(site) - renewals} renewals, 0 writes, one etcd lease")


def test_f03_f26_etcd_gone_for_longer_than_the_ttl(site: Lab) -> None:
    """Unconfirmed for a whole TTL: unready but alive, routes kept; the same subnet when etcd is back."""
    node, store = site.nodes[0], store_of(site)
    key, lease = lease_key(node.bridge_address.network), store.grant(4)
    store.put(key, lease_value(node.address.ip), lease=lease)
    store.put(lease_key("172.7.99.0/24"), lease_value(STRANGER))
    with store.kept_alive(lease):
        launch(node, lease_s=4)
        node.wait_ready()
        node.wait_routes({"172.7.99.0/24": STRANGER})
    pid, file = pid_of(node), node.subnet_file.stat().st_mtime_ns
    with RouteMonitor(node) as monitor:
        site.etcd.stop(signal.SIGKILL)
        until(lambda: node.get("/readyz")[0] == 503, "unready when the lease has run out", 30)
        assert node.get("/healthz")[0] == 200
        site.etcd.start()
        node.wait_ready(45)
        assert monitor.messages() == ()
    kv = store.kv(key)
    assert kv is not None
    assert kv.value == lease_value(node.address.ip).encode()
    assert (pid_of(node), node.subnet_file.stat().st_mtime_ns) == (pid, file)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL], ids=lambda how: how.name)
def test_restart_is_hitless(cluster: Lab, how: signal.Signals) -> None:
    """However the daemon ends, its next run holds the same key on the same etcd lease; not one write, route message or
    lost packet."""
    node, store = cluster.nodes[0], store_of(cluster)
    before, revision, leases = held(cluster, node), store.revision(), store.leases()
    file = node.subnet_file.stat()
    with RouteMonitor(node) as mine, RouteMonitor(cluster.nodes[1]) as peers, Ping(node, cluster.nodes[1]) as ping:
        until(lambda: bool(ping.received()), "traffic")
        node.stop(how)
        assert held(cluster, node) == before
        node.start()
        node.wait_ready()
        assert mine.messages() == peers.messages() == ()
        assert ping.result().lost == 0
    assert held(cluster, node) == before
    assert store.revision() == revision
    assert store.leases() == leases
    assert node.subnet_file.stat().st_mtime_ns == file.st_mtime_ns
    assert gateways(node) == cluster.gateways_for(node)


def test_f33_peers_removed_while_the_daemon_is_down(cluster: Lab, measured: Measured) -> None:
    """Routes of peers that left meanwhile go after the first complete list; ours of another network are left alone."""
    node, store = cluster.nodes[0], store_of(cluster)
    stay = {f"172.7.{number}.0/24": STRANGER for number in range(91, 96)}
    leave = {f"172.7.{number}.0/24": STRANGER for number in range(101, 106)}
    for subnet in stay | leave:
        store.put(lease_key(subnet), lease_value(STRANGER))
    node.wait_routes(cluster.gateways_for(node) | stay | leave)
    node.kill()
    for subnet in leave:
        store.delete(lease_key(subnet))
    node.exec("ip", "route", "add", "10.99.0.0/24", "via", STRANGER, "proto", "103")
    with RouteMonitor(node) as monitor:
        node.start()
        node.wait_ready()
        node.wait_routes(cluster.gateways_for(node) | stay | {"10.99.0.0/24": STRANGER})
        assert sorted(m.text.split()[:2] for m in monitor.messages()) == [["Deleted", subnet] for subnet in leave]
    measured(f"{len(leave)} routes swept with the first list, no other one touched")
    node.exec("ip", "route", "del", "10.99.0.0/24")
    store.txn(*(f'del "{lease_key(subnet)}"' for subnet in stay))


def test_f44_configuration_changed_at_run_time(cluster: Lab, measured: Measured) -> None:
    """A configuration that moves, breaks or vanishes under a running cluster changes nothing in it: each host is told
    of within seconds, and not ready until it fits again. What leaves its subnet as it is disturbs nobody."""
    node, store = cluster.nodes[0], store_of(cluster)
    before, slowest_s = store.kvs(f"{PREFIX}/subnets/"), 0.0
    journal = Journal(node)
    unfit = [
        CONFIG.replace("172.7.", "10.7."), CONFIG.replace("host-gw", "wireguard"), "{",
        CONFIG.replace("{", '{"SubnetLen":25,', 1), CONFIG.replace("{", '{"SubnetMin":"172.7.100.0",', 1), None,
    ]  # fmt: skip
    with RouteMonitor(node) as monitor:
        for text in unfit:
            store.put(f"{PREFIX}/config", text) if text is not None else store.delete(f"{PREFIX}/config")
            for each in cluster.nodes:
                slowest_s = max(slowest_s, until(lambda each=each: each.get("/readyz")[0] == 503, "not ready", 5))
                assert "does not fit this node any more" in each.get("/readyz?verbose")[1]
                assert each.get("/healthz")[0] == 200
            store.put(f"{PREFIX}/config", CONFIG)
            for each in cluster.nodes:
                until(lambda each=each: each.get("/readyz")[0] == 200, "ready again", 15)
        store.put(f"{PREFIX}/config", CONFIG.replace("{", '{"SubnetMax":"172.7.250.0",', 1))
        until(lambda: len(journal.events("config.fits")) > len(unfit), "the other bounds are taken note of", 5)
        store.put(lease_key("172.7.99.0/24"), lease_value(STRANGER))  # the daemon goes on working
        node.wait_routes(cluster.gateways_for(node) | {"172.7.99.0/24": STRANGER})
        store.delete(lease_key("172.7.99.0/24"))
        node.wait_routes(cluster.gateways_for(node))
        assert {m.text.removeprefix("Deleted ").split()[0] for m in monitor.messages()} == {"172.7.99.0/24"}
    assert store.kvs(f"{PREFIX}/subnets/") == before
    assert all(each.get("/readyz")[0] == 200 for each in cluster.nodes)
    assert len(journal.events("config.changed")) == len(unfit)
    store.put(f"{PREFIX}/config", CONFIG)
    measured(f"{len(unfit)} changes that do not fit: not ready after {slowest_s:.2f} s at most, no route moved")


def test_f44_network_moved_between_two_runs(site: Lab) -> None:
    """A lease of ours that does not fit the new network is given back, and one of the new network is taken."""
    node, store = site.nodes[0], store_of(site)
    launch(node)
    node.wait_ready()
    assert node.stop() == 0
    store.put(f"{PREFIX}/config", CONFIG.replace("172.7.", "10.7."))
    launch(node)
    node.wait_ready()
    assert node.env()["FLANNEL_NETWORK"] == "10.7.0.0/16"
    assert node.subnet.startswith("10.7.")
    assert set(store.kvs(f"{PREFIX}/subnets/")) == {lease_key(node.subnet)}


def test_f44_network_grown(site: Lab) -> None:
    """A network that has grown around the old one is taken up at once; nothing of the old one is lost on the way."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.99.0/24"), lease_value(STRANGER))
    store.put(lease_key("172.6.9.0/24"), lease_value(STRANGER))
    launch(node, ip_masq=True)
    node.wait_ready()
    node.wait_routes({"172.7.99.0/24": STRANGER})
    before = store.kvs(f"{PREFIX}/subnets/")
    with RouteMonitor(node) as monitor:
        store.put(f"{PREFIX}/config", CONFIG.replace("172.7.0.0/16", "172.6.0.0/15"))
        node.wait_routes({"172.7.99.0/24": STRANGER, "172.6.9.0/24": STRANGER}, 10)
        until(lambda: node.env()["FLANNEL_NETWORK"] == "172.6.0.0/15", "subnet.env names the network", 10)
        until(lambda: "172.7.0.0/16" not in node.exec("iptables-save"), "the rules of the old network are gone", 10)
        assert {message.text.split()[0] for message in monitor.messages()} == {"172.6.9.0/24"}
    assert "-s 172.6.0.0/15 ! -d 224.0.0.0/4" in node.exec("iptables-save")
    assert node.get("/readyz")[0] == 200
    assert store.kvs(f"{PREFIX}/subnets/") == before


@pytest.mark.parametrize("cut", [b"BackendType", first_call("Lease/LeaseGrant")], ids=["put", "grant"])
def test_f48_reply_lost(site: Lab, cut: bytes) -> None:
    """The reply to the creation gets lost: the daemon finds out what it has; one subnet, one etcd lease."""
    node, store = site.nodes[0], store_of(site)
    with lossy_path(node, ENDPOINT) as path:
        path.mute_after = cut
        launch(node, etcd_endpoints=path.url)
        until(lambda: path.mute, "the request is on its way", 15)
        until(lambda: bool(store.leases()), "etcd has acted on it", 5)
        path.cut()
        path.mute = False
        node.wait_ready(20)
        assert list(store.kvs(f"{PREFIX}/subnets/")) == [lease_key(node.subnet)]
        assert list(store.leases().values()) == [(lease_key(node.subnet),)]
        assert node.stop() == 0
    assert list(store.leases().values()) == [(lease_key(node.subnet),)]


@pytest.mark.parametrize("step", [first_call("KV/Range"), first_call("Watch/Watch")], ids=["configuration", "watch"])
def test_f08_etcd_falls_silent_at_a_step_of_the_start(site: Lab, step: bytes) -> None:
    """etcd stops answering in the middle of the start: the daemon tries again and becomes ready, never half alive."""
    node, store = site.nodes[0], store_of(site)
    with lossy_path(node, ENDPOINT) as path:
        path.mute_after = step
        launch(node, etcd_endpoints=path.url)
        until(lambda: path.mute, "the request is on its way", 15)
        path.cut()
        path.mute = False
        node.wait_ready(20)
        store.put(lease_key("172.7.99.0/24"), lease_value(STRANGER))
        node.wait_routes({"172.7.99.0/24": STRANGER}, 10)
        assert len(store.leases()) == 1
        assert node.stop() == 0
