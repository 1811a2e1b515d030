"""Links, addresses and routes that others change, rows F62 to F69 of the fault matrix, on the real kernel."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.measure import Ping, RouteMonitor, delay_ms
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.lab.testbed import (
    REPAIR_S,
    Journal,
    gateways,
    launch,
    lease_key,
    lease_value,
    leave_ready,
    pid_of,
    store_of,
    why_not_ready,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER = "192.168.14.99"


def all_routes_to(node: LabHost, dst: str) -> list[str]:
    """Return every route of the main table to *dst*, whoever owns it, as ``ip`` writes it."""
    return [" ".join(line.split()) for line in node.exec("ip", "-N", "route", "show", "exact", dst).splitlines()]


def of_ours(peer: LabHost) -> str:
    """Return the route to a peer as the daemon puts it."""
    return f"{peer.subnet} via {peer.address.ip} dev eth1 proto 103"


# F68, F67: routes


def test_f68_route_deleted(unguarded: Lab, measured: Measured) -> None:
    """A route deleted by hand is back in well under two seconds; nothing else is touched."""
    node, peer, _ = unguarded.nodes
    with RouteMonitor(node) as monitor:
        node.exec("ip", "route", "del", peer.subnet)
        node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
        until(lambda: len(monitor.messages()) == 2, "both messages are read")
        delay = delay_ms(monitor.messages(), peer.subnet)
    assert delay is not None
    assert delay < 1000 * REPAIR_S
    measured(f"route back after {delay:.0f} ms")


@pytest.mark.parametrize(
    "change",
    ["via 192.168.14.99 dev eth1 proto 103", "dev eth1 proto 103", "via 192.168.14.22 dev eth1 proto 103 onlink",
     "unreachable proto 103", "nexthop via 192.168.14.22 nexthop via 192.168.14.99 proto 103"],
    ids=["gateway", "direct", "onlink", "unreachable", "multipath"],
)
def test_f68_route_modified(unguarded: Lab, change: str, measured: Measured) -> None:
    """A route of ours that somebody bends is straight again within two seconds, in one replace."""
    node, peer, _ = unguarded.nodes
    kind, _, rest = change.partition(" ") if change.startswith("unreachable") else ("", "", change)
    words = ["proto", "103", *rest.replace(" proto 103", "").split()] if rest.startswith("nexthop") else rest.split()
    with RouteMonitor(node) as monitor:
        node.exec("ip", "route", "replace", *([kind] if kind else []), peer.subnet, *words)
        node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
        took_s = until(lambda: all_routes_to(node, peer.subnet) == [of_ours(peer)], "as it was", REPAIR_S)
        assert not any(message.deleted for message in monitor.messages())
    measured(f"straight again after {took_s:.2f} s, never without a route")


def test_f68_duplicate_with_a_metric(unguarded: Lab, measured: Measured) -> None:
    """A route to the same subnet with another metric is another route, and left alone even if it bears our mark."""
    node, peer, _ = unguarded.nodes
    second = f"{peer.subnet} via {STRANGER} dev eth1 proto 103 metric 50"
    node.exec("ip", "route", "add", *second.split())
    node.exec("ip", "route", "del", peer.subnet, "metric", "0")  # makes the daemon look
    wanted = [of_ours(peer), second]
    until(lambda: all_routes_to(node, peer.subnet) == wanted, "ours is back, the other stays", REPAIR_S)
    node.exec("ip", "route", "del", *second.split())
    measured("ours back, the duplicate untouched")


@pytest.mark.parametrize("what", ["proto 103", "table main"])
def test_f67_routes_flushed(unguarded: Lab, what: str, measured: Measured) -> None:
    """All routes flushed at once are back within two seconds, or as soon as the LAN is reachable again."""
    node = unguarded.nodes[0]
    node.exec("ip", "route", "flush", *what.split())
    if what == "table main":
        assert gateways(node) == {}
        for own, link in ((node.address, "eth1"), (node.bridge_address, "docker0")):
            connected = f"{own.network} dev {link} proto kernel scope link src {own.ip}"
            node.exec("ip", "route", "add", *connected.split())
    took_s = node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
    measured(f"all back after {took_s:.2f} s")


# F69: foreign routes


@pytest.mark.parametrize("foreign", ["static", "boot", "bird"])
def test_f69_foreign_route_first(unguarded: Lab, foreign: str, measured: Measured) -> None:
    """A foreign route where ours should be is left alone and reported, hinders no other route, and is followed by ours
    when it goes."""
    node = unguarded.nodes[0]
    store, journal = store_of(unguarded), Journal(node)
    blocked, free = "172.7.99.0/24", "172.7.98.0/24"
    node.exec("ip", "route", "add", blocked, "via", "192.168.14.97", "proto", foreign)
    there = all_routes_to(node, blocked)
    store.put(lease_key(blocked), lease_value(STRANGER))
    store.put(lease_key(free), lease_value(STRANGER))
    node.wait_routes(unguarded.gateways_for(node) | {free: STRANGER}, REPAIR_S)
    conflict = journal.wait("route.conflict")
    assert blocked in conflict["destinations"]
    assert all_routes_to(node, blocked) == there
    assert node.get("/readyz")[0] == 200
    node.exec("ip", "route", "del", blocked)
    everything = unguarded.gateways_for(node) | {free: STRANGER, blocked: STRANGER}
    took_s = node.wait_routes(everything, REPAIR_S)
    assert len(journal.events("route.conflict")) == 1
    store.delete(lease_key(blocked))
    store.delete(lease_key(free))
    node.wait_routes(unguarded.gateways_for(node))
    measured(f"left alone and told; ours {took_s:.2f} s after it had gone")


def test_f69_foreign_route_in_the_place_of_ours(unguarded: Lab, measured: Measured) -> None:
    """Whoever replaces our route by one of his own keeps it; ours is back when it goes."""
    node, peer, other = unguarded.nodes
    journal = Journal(node)
    node.exec("ip", "route", "replace", peer.subnet, "via", STRANGER, "proto", "static")
    there = all_routes_to(node, peer.subnet)
    journal.wait("route.conflict")
    assert all_routes_to(node, peer.subnet) == there
    assert gateways(node) == unguarded.gateways_for(node, [other])
    node.exec("ip", "route", "del", peer.subnet)
    took_s = node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
    measured(f"left alone and told; ours back {took_s:.2f} s after it had gone")


def test_f69_foreign_route_survives_the_peers_end(unguarded: Lab, measured: Measured) -> None:
    """When the peer leaves, the foreign route to its subnet stays."""
    node, store = unguarded.nodes[0], store_of(unguarded)
    subnet = "172.7.99.0/24"
    node.exec("ip", "route", "add", subnet, "via", "192.168.14.97", "proto", "static")
    journal = Journal(node)
    store.put(lease_key(subnet), lease_value(STRANGER))
    journal.wait("route.conflict")
    store.delete(lease_key(subnet))
    journal.wait("condition.resolved", topic="foreign_routes")
    assert len(all_routes_to(node, subnet)) == 1
    node.exec("ip", "route", "del", subnet)
    measured("still there when the peer had left")


# F86, F87: routes beside ours


@pytest.mark.parametrize("how", ["prepend", "append"])
def test_f86_foreign_route_beside_ours(unguarded: Lab, how: str, measured: Measured) -> None:
    """The peer moves: the foreign route stays, ours is replaced or put anew, and no old one of ours is left."""
    node, store, journal = unguarded.nodes[0], store_of(unguarded), Journal(unguarded.nodes[0])
    subnet = "172.7.99.0/24"
    store.put(lease_key(subnet), lease_value(STRANGER))
    node.wait_routes(unguarded.gateways_for(node) | {subnet: STRANGER}, REPAIR_S)
    node.exec("ip", "route", how, subnet, "via", "192.168.14.97", "proto", "static")
    if how == "prepend":
        assert subnet in journal.wait("route.shadowed")["destinations"]
    store.put(lease_key(subnet), lease_value("192.168.14.98"))
    took_s = node.wait_routes(unguarded.gateways_for(node) | {subnet: "192.168.14.98"}, REPAIR_S)
    vias = [route.split(" via ")[1].split()[0] for route in all_routes_to(node, subnet)]
    assert vias == (["192.168.14.97", "192.168.14.98"] if how == "prepend" else ["192.168.14.98", "192.168.14.97"])
    store.delete(lease_key(subnet))
    node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
    assert len(all_routes_to(node, subnet)) == 1
    node.exec("ip", "route", "del", subnet)
    measured(f"{how}ed: stays, and ours follows in {took_s:.2f} s")


@pytest.mark.parametrize("extra", ["prepend {} via 192.168.14.97", "append {} via 192.168.14.97",
                                   "add {} tos 0x10 via 192.168.14.97", "prepend {} via 192.168.14.97 mtu 1400"])
def test_f87_another_route_of_ours(unguarded: Lab, extra: str, measured: Measured) -> None:
    """It goes, the right one stays all the time, and nothing is done after that."""
    node, peer = unguarded.nodes[:2]
    there = all_routes_to(node, peer.subnet)
    with RouteMonitor(node) as monitor:
        node.exec("ip", "route", *extra.format(peer.subnet).split(), "proto", "103")
        took_s = until(lambda: all_routes_to(node, peer.subnet) == there, "only the right one is there", REPAIR_S)
        time.sleep(11)
        assert len(monitor.messages()) == 2, "it came, and it went"
    measured(f"gone after {took_s:.2f} s")


# F88, F90: rights, and a fight


def test_f88_no_right_to_the_routes(site: Lab, measured: Measured) -> None:
    """In a user namespace of its own the daemon may change nothing here: nobody is told that it is ready."""
    node, journal, store = site.nodes[0], Journal(site.nodes[0]), store_of(site)
    store.put(lease_key("172.7.99.0/24"), lease_value(STRANGER))
    launch(node, prepare='exec unshare --user --map-root-user "$@"')
    try:
        assert "CAP_NET_ADMIN is missing" in journal.wait("route.failed", timeout_s=20)["condition"]
        time.sleep(2)
        assert node.get("/readyz")[0] == 503
        assert "CAP_NET_ADMIN" in node.get("/readyz?verbose")[1]
        assert journal.events("daemon.ready") == []
    finally:
        node.stop()
        store.delete(lease_key("172.7.99.0/24"))
    measured("not ready, and the right is named")


def test_f89_somebody_flushes_the_rules(site: Lab, measured: Measured) -> None:
    """As fast as he can: with masquerading the node is not ready, and the rules are back when he has stopped."""
    node, journal = site.nodes[0], Journal(site.nodes[0])
    launch(node, "--ip-masq", iptables_resync=1)
    try:
        node.wait_ready()
        loop = "while :; do iptables -w -t nat -F FLANNEL-POSTRTG; iptables -w -t nat -F POSTROUTING; done"
        flusher = subprocess.Popen(["ip", "netns", "exec", node.namespace, "sh", "-c", loop], stderr=subprocess.DEVNULL)
        try:
            journal.wait("firewall.failed", timeout_s=30)
            until(lambda: node.get("/readyz")[0] == 503, "not ready", 30)
        finally:
            flusher.kill()
            flusher.wait()
        took_s = until(lambda: "MASQUERADE" in node.exec("iptables-save", "-t", "nat"), "the rules are back", 10)
        node.wait_ready(10)
    finally:
        node.stop()
    measured(f"back {took_s:.1f} s after he has stopped")


def test_f90_a_fight_for_a_route(unguarded: Lab, measured: Measured) -> None:
    """Somebody deletes it every tenth of a second: few messages, told, and all is well seconds after he has stopped."""
    node, peer, other = unguarded.nodes
    journal = Journal(node)
    loop = f"while :; do ip route del {peer.subnet} 2>/dev/null; sleep 0.1; done"
    fighter = subprocess.Popen(["ip", "netns", "exec", node.namespace, "sh", "-c", loop])
    try:
        assert journal.wait("route.contested", timeout_s=30)["dst"] == peer.subnet
        with RouteMonitor(node) as monitor:
            time.sleep(12)
            messages = len(monitor.messages())
        assert messages <= 8, "instead of some 48"
        assert node.get("/readyz")[0] == 503
        assert gateways(node) == unguarded.gateways_for(node, [other])
    finally:
        fighter.kill()
        fighter.wait()
    took_s = node.wait_routes(unguarded.gateways_for(node), 60)
    until(lambda: node.get("/readyz")[0] == 200, "ready again", 120)
    measured(f"{messages} messages in 12 s; back {took_s:.0f} s after he has stopped")


# F119: readers


def test_f119_readers_of_a_large_table(unguarded: Lab, measured: Measured) -> None:
    """Three of them ask for the routes in a loop, while the table has 100,000 routes: a repair is as fast as ever."""
    node, peer = unguarded.nodes[:2]
    batch = "".join(
        f"route add 10.{number >> 8}.{number & 255}.{part}/26 via 192.168.14.97 proto bird metric 20\n"
        for number in range(25_000)
        for part in (0, 64, 128, 192)
    )
    subprocess.run(["ip", "-n", node.namespace, "-batch", "-"], input=batch.encode(), check=True)
    ask = f"while :; do {sys.executable} -m pyflanneld routes --output=json >/dev/null 2>&1; done"
    inside = ["ip", "netns", "exec", node.namespace, "sh", "-c", ask]
    readers = [subprocess.Popen(inside, start_new_session=True) for _ in range(3)]
    try:
        time.sleep(5)
        slowest_s = 0.0
        for _ in range(5):
            node.exec("ip", "route", "del", peer.subnet)
            slowest_s = max(slowest_s, node.wait_routes(unguarded.gateways_for(node), REPAIR_S))
            time.sleep(1)
    finally:
        for reader in readers:
            os.killpg(reader.pid, signal.SIGKILL)
            reader.wait()
        node.exec("ip", "route", "flush", "proto", "bird")
    measured(f"five repairs, the slowest after {slowest_s:.2f} s")


def test_routes_of_flanneld_are_taken_over(site: Lab) -> None:
    """What the Go daemon left is marked as ours in one replace; what it would not have put like that is foreign."""
    node, store = site.nodes[0], store_of(site)
    exact, bent, orphan = "172.7.61.0/24", "172.7.62.0/24", "172.7.63.0/24"
    for subnet in (exact, bent):
        store.put(lease_key(subnet), lease_value(STRANGER))
    node.exec("ip", "route", "add", exact, "via", STRANGER, "dev", "eth1")
    node.exec("ip", "route", "add", bent, "via", "192.168.14.98", "dev", "eth1")
    node.exec("ip", "route", "add", orphan, "via", STRANGER, "dev", "eth1")
    journal = Journal(node)
    with RouteMonitor(node) as monitor:
        launch(node)
        node.wait_ready()
        node.wait_routes({exact: STRANGER})
        assert not any(message.deleted for message in monitor.messages())
    assert all_routes_to(node, bent) == [f"{bent} via 192.168.14.98 dev eth1"]  # ip does not name "proto boot"
    assert len(all_routes_to(node, orphan)) == 1
    assert journal.wait("route.conflict")["destinations"] == [bent]
    node.exec("sh", "-c", f"ip route del {bent}; ip route del {orphan}")
    node.wait_routes({exact: STRANGER, bent: STRANGER}, REPAIR_S)


# F62 to F66: links and addresses


def test_f62_interface_down_and_up(unguarded: Lab, measured: Measured) -> None:
    """While the interface is down the daemon waits, with few words; its routes are back within two seconds after."""
    node, pid = unguarded.nodes[0], pid_of(unguarded.nodes[0])
    journal = Journal(node)
    node.exec("ip", "link", "set", "eth1", "down")
    journal.wait("link.down")
    assert node.get("/healthz")[0] == 200
    assert "eth1" in why_not_ready(node)
    assert gateways(node) == {}
    node.exec("ip", "link", "set", "eth1", "up")
    took_s = node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S)
    assert len([event for event in journal.events() if event["level"] != "info"]) <= 3
    assert pid_of(node) == pid
    with Ping(node, unguarded.nodes[1]) as ping:
        until(lambda: len(ping.received()) >= 5, "packets flow")
    measured(f"routes back {took_s:.2f} s after it was up")


def test_f62_cable_pulled(unguarded: Lab, measured: Measured) -> None:
    """Carrier lost and found: no route is lost over it, and the pods talk again."""
    node, peer, _ = unguarded.nodes
    journal = Journal(node)
    topology.run("ip", "-n", unguarded.lan, "link", "set", node.name, "down")
    journal.wait("link.down")
    topology.run("ip", "-n", unguarded.lan, "link", "set", node.name, "up")
    node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S)
    with Ping(node, peer) as ping:
        until(lambda: len(ping.received()) >= 5, "packets flow")
    measured("no route lost; packets flow again")


def test_f63_address_removed_and_back(unguarded: Lab, measured: Measured) -> None:
    """Without its address the interface does not serve: said, nothing published; all is well when it returns."""
    node, store = unguarded.nodes[0], store_of(unguarded)
    key = lease_key(node.subnet)
    held, journal = store.kv(key), Journal(node)
    node.exec("ip", "address", "del", str(node.address), "dev", "eth1")
    until(lambda: node.get("/readyz")[0] == 503, "not ready", REPAIR_S)
    assert node.get("/healthz")[0] == 200
    assert store.kv(key) == held
    node.exec("ip", "address", "add", str(node.address), "dev", "eth1")
    took_s = node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S)
    assert store.kv(key) == held
    assert journal.events("daemon.failed") == []
    measured(f"lease untouched; routes back {took_s:.2f} s after the address")


def test_f63_renumbered(site: Lab, measured: Measured) -> None:
    """The interface gets another address: own routes are back in two seconds; the lease follows, on the same key and
    etcd lease, by a new connection to etcd; the peers replace their route in one step."""
    node, peer, _ = site.nodes
    store = store_of(site)
    launch(node, public_ip=None)
    launch(peer)
    node.wait_ready()
    peer.wait_ready()
    peer.wait_routes({node.subnet: str(node.address.ip)})
    before, pid = store.kv(lease_key(node.subnet)), pid_of(node)
    with RouteMonitor(peer) as monitor:
        node.exec("sh", "-c", "ip address flush dev eth1; ip address add 192.168.14.121/24 dev eth1")
        own_s = node.wait_routes({peer.subnet: str(peer.address.ip)}, REPAIR_S)
        theirs_s = peer.wait_routes({node.subnet: "192.168.14.121"}, 3)
        assert not any(message.deleted for message in monitor.messages())
    after = store.kv(lease_key(node.subnet))
    assert before is not None
    assert after is not None
    assert after.value == lease_value("192.168.14.121").encode()
    assert (after.create_revision, after.lease) == (before.create_revision, before.lease)
    assert pid_of(node) == pid
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S)
    node.exec("sh", "-c", f"ip address flush dev eth1; ip address add {node.address} dev eth1")
    peer.wait_routes({node.subnet: str(node.address.ip)}, 3)
    measured(f"own routes back after {own_s:.2f} s, the peer's replaced {theirs_s:.2f} s later, never without")


def test_f63_vip(site: Lab, measured: Measured) -> None:
    """An address that hosts hand on comes, and goes to another host; the own one goes and comes back behind it: said,
    waited for, and nothing is written into etcd."""
    node, peer, _ = site.nodes
    store, vip = store_of(site), "192.168.14.200/24"
    launch(node, public_ip=None)
    launch(peer, public_ip=None)
    node.wait_ready()
    peer.wait_ready()
    peer.wait_routes({node.subnet: str(node.address.ip)})
    held, journal = store.kvs(), Journal(node)
    node.exec("sysctl", "-qw", "net.ipv4.conf.eth1.promote_secondaries=1")
    node.exec("sh", "-c", f"ip address add {vip} dev eth1; ip address add 10.99.0.1/32 dev eth1")
    node.exec("ip", "address", "del", str(node.address), "dev", "eth1")
    journal.wait("link.address_gone")
    gone = f"the address {node.address.ip} that this host publishes is gone from eth1; waiting 60 s for it"
    assert gone in why_not_ready(node)
    node.exec("ip", "address", "add", str(node.address), "dev", "eth1")
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S)
    took_s = node.wait_routes({peer.subnet: str(peer.address.ip)}, REPAIR_S)
    node.exec("ip", "address", "del", vip, "dev", "eth1")
    peer.exec("ip", "address", "add", vip, "dev", "eth1")
    node.exec("ip", "link", "set", "eth1", "mtu", "1400")
    journal.wait("link.mtu_changed")
    assert store.kvs() == held
    assert journal.events("link.changed") == []
    assert peer.get("/readyz")[0] == 200
    measured(f"the lease untouched; routes back {took_s:.2f} s after the own address was")


def test_f63_link_down_with_a_vip(site: Lab, measured: Measured) -> None:
    """The secondary addresses go with the primary, as Linux has it, and all come back in another order."""
    node, peer, _ = site.nodes
    store, vip = store_of(site), "192.168.14.200/24"
    launch(node, public_ip=None)
    launch(peer)
    node.wait_ready()
    peer.wait_ready()
    node.exec("ip", "address", "add", vip, "dev", "eth1")
    held, journal = store.kvs(), Journal(node)
    node.exec("ip", "link", "set", "eth1", "down")
    journal.wait("link.down")
    node.exec("sysctl", "-qw", "net.ipv4.conf.eth1.promote_secondaries=0")
    node.exec("ip", "address", "del", str(node.address), "dev", "eth1")
    journal.wait("link.missing")
    node.exec("sh", "-c", f"ip link set eth1 up; ip address add {vip} dev eth1")
    journal.wait("link.address_gone")
    node.exec("ip", "address", "add", str(node.address), "dev", "eth1")
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S)
    node.wait_routes({peer.subnet: str(peer.address.ip)}, REPAIR_S)
    assert store.kvs() == held
    assert journal.events("link.changed") == []
    measured("the lease untouched")


def test_f64_interface_deleted_and_created_again(unguarded: Lab, measured: Measured) -> None:
    """A new interface of the old name, with another index, takes over within two seconds; lease and process stay."""
    node, pid = unguarded.nodes[0], pid_of(unguarded.nodes[0])
    held, journal = store_of(unguarded).kvs(), Journal(node)
    index = node.exec("cat", "/sys/class/net/eth1/ifindex")
    node.exec("ip", "link", "del", "eth1")
    journal.wait("link.missing")
    assert "eth1" in why_not_ready(node)
    topology.plug_in(unguarded.lan, node.namespace, node.address, node.name)
    took_s = node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
    assert node.exec("cat", "/sys/class/net/eth1/ifindex") != index
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S)
    assert pid_of(node) == pid
    until(lambda: store_of(unguarded).kvs() == held, "the lease is untouched")
    with Ping(node, unguarded.nodes[1]) as ping:
        until(lambda: len(ping.received()) >= 5, "packets flow")
    measured(f"routes on the new index after {took_s:.2f} s; lease and process the same")


def test_f64_interface_renamed(unguarded: Lab, measured: Measured) -> None:
    """An interface of another name is not ours: said; routes are back as soon as it has its name again."""
    node, journal = unguarded.nodes[0], Journal(unguarded.nodes[0])
    node.exec("sh", "-c", "ip link set eth1 down; ip link set eth1 name lan7; ip link set lan7 up")
    journal.wait("link.missing")
    node.exec("sh", "-c", "ip link set lan7 down; ip link set lan7 name eth1; ip link set eth1 up")
    took_s = node.wait_routes(unguarded.gateways_for(node), REPAIR_S)
    leave_ready(unguarded)
    measured(f"told; routes back {took_s:.2f} s after it had its name again")


def test_f66_interface_flaps(unguarded: Lab, measured: Measured) -> None:
    """An interface that goes up and down thirty times in a row: the end counts, few words, no load."""
    node, journal = unguarded.nodes[0], Journal(unguarded.nodes[0])
    before = cpu_s(node)
    flap = "ip link set eth1 down; sleep 0.03; ip link set eth1 up; sleep 0.03"
    node.exec("sh", "-c", f"for n in $(seq 30); do {flap}; done")
    node.wait_routes(unguarded.gateways_for(node), REPAIR_S + 1)
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S + 1)
    spent_s, lines = cpu_s(node) - before, len(journal.text().splitlines())
    assert spent_s < 1.0
    assert lines < 60
    measured(f"30 flaps: {spent_s:.2f} s of processor time, {lines} log lines, then as before")


def cpu_s(node: LabHost) -> float:
    """Return the processor time that a node's daemon has used, in seconds."""
    fields = topology.Path(f"/proc/{pid_of(node)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
