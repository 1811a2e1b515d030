"""Peers come, move, change their backend and go: what the routes make of it, on a cluster that runs."""

import time

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.measure import Ping, RouteMonitor
from pyflanneld.lab.run import until
from tests.support.lab.testbed import REPAIR_S, Journal, gateways, launch, lease_key, lease_value, leave_ready, store_of

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
SUBNET, KEY = "172.7.99.0/24", lease_key("172.7.99.0/24")
STRANGER, OTHER = "192.168.14.99", "192.168.14.98"
FOLLOW_S = 1.0


def test_peer_joins_and_leaves(cluster: Lab) -> None:
    """A new lease is a route on every host within a second, its end takes the route away, and nothing else moves."""
    store = store_of(cluster)
    with RouteMonitor(cluster.nodes[0]) as monitor:
        store.put(KEY, lease_value(STRANGER))
        for node in cluster.nodes:
            node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER}, FOLLOW_S)
        store.delete(KEY)
        for node in cluster.nodes:
            node.wait_routes(cluster.gateways_for(node), FOLLOW_S)
        assert [m.text.removeprefix("Deleted ").split()[0] for m in monitor.messages()] == [SUBNET, SUBNET]
    assert all(node.get("/readyz")[0] == 200 for node in cluster.nodes)


def test_link_noise_delays_nobody(cluster: Lab) -> None:
    """While containers come and go on a host, a peer's change takes a second and a repair two, as ever."""
    store, node = store_of(cluster), cluster.nodes[0]
    noise = "for n in 1 2 3 4 5; do ip link add noise$n type veth peer name echo$n; ip link set noise$n up; done"
    node.exec("sh", "-c", noise)
    store.put(KEY, lease_value(STRANGER))
    node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER}, FOLLOW_S)
    node.exec("sh", "-c", "for n in 1 2 3 4 5; do ip link del noise$n; done")
    node.exec("ip", "route", "del", SUBNET)
    node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER}, REPAIR_S)
    store.delete(KEY)
    node.wait_routes(cluster.gateways_for(node), FOLLOW_S)


def test_lease_runs_out(cluster: Lab) -> None:
    """A peer whose etcd lease runs out is gone like one that left."""
    store, node = store_of(cluster), cluster.nodes[0]
    store.put(KEY, lease_value(STRANGER), lease=store.grant(2))
    node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER}, FOLLOW_S)
    node.wait_routes(cluster.gateways_for(node), 10)


def test_f27_peer_moves_without_a_gap(cluster: Lab) -> None:
    """A peer's new address, seen while connected or over a restart, is one replace of its route: no packet is lost."""
    node, peer, _ = cluster.nodes
    store, key, moved = store_of(cluster), lease_key(peer.subnet), "192.168.14.122"
    peer.stop()
    peer.exec("ip", "address", "add", f"{moved}/24", "dev", "eth1")
    lease = store.kvs(key)[key].lease
    with Ping(node, peer) as ping, RouteMonitor(node) as monitor:
        until(lambda: bool(ping.received()), "traffic")
        store.put(key, lease_value(moved), lease=lease)
        node.wait_routes(cluster.gateways_for(node) | {peer.subnet: moved}, FOLLOW_S)
        flowing = len(ping.received()) + 10
        until(lambda: len(ping.received()) >= flowing, "traffic by the new address")
        node.kill()
        store.put(key, lease_value(peer.address.ip), lease=lease)
        node.start()
        node.wait_ready()
        node.wait_routes(cluster.gateways_for(node))
        flowing = len(ping.received()) + 10
        until(lambda: len(ping.received()) >= flowing, "traffic by the old address")
        assert [m.text.split()[:3] for m in monitor.messages()] == [
            [peer.subnet, "via", moved], [peer.subnet, "via", str(peer.address.ip)],
        ]
        assert ping.result().lost == 0
    peer.exec("ip", "address", "del", f"{moved}/24", "dev", "eth1")
    leave_ready(cluster)


def test_f28_peer_switches_its_backend(cluster: Lab) -> None:
    """A peer that goes over to another backend loses its route; it has one again when it comes back to host-gw."""
    store, node = store_of(cluster), cluster.nodes[0]
    journal = Journal(node)
    data = ',"BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}}'
    other = lease_value(STRANGER, "wireguard").replace("}", data)
    store.put(KEY, lease_value(STRANGER))
    node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER}, FOLLOW_S)
    store.put(KEY, other)
    node.wait_routes(cluster.gateways_for(node), FOLLOW_S)
    store.put(KEY, lease_value(STRANGER))
    node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER}, FOLLOW_S)
    store.delete(KEY)
    node.wait_routes(cluster.gateways_for(node), FOLLOW_S)
    assert journal.events("peer.quarantined") == []


def test_value_of_flanneld_v0_11(cluster: Lab) -> None:
    """A lease as flanneld v0.11.0 writes it, without ``PublicIPv6``, is a peer like any other."""
    store, node = store_of(cluster), cluster.nodes[0]
    store.put(KEY, f'{{"PublicIP":"{STRANGER}","BackendType":"host-gw"}}')
    node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER}, FOLLOW_S)
    store.delete(KEY)
    node.wait_routes(cluster.gateways_for(node), FOLLOW_S)


def test_peer_of_another_length(cluster: Lab) -> None:
    """While a network's SubnetLen is changed, peers of the old and of the new length are routed to alike."""
    store, node = store_of(cluster), cluster.nodes[0]
    for subnet in ("172.7.96.0/22", "172.7.99.128/26"):
        store.put(lease_key(subnet), lease_value(STRANGER))
        node.wait_routes(cluster.gateways_for(node) | {subnet: STRANGER}, FOLLOW_S)
        store.delete(lease_key(subnet))
        node.wait_routes(cluster.gateways_for(node), FOLLOW_S)


def test_one_flapping_peer_is_no_mass_withdrawal(cluster: Lab) -> None:
    """One peer that comes and goes again and again is followed each time; the withdrawal guard is for many."""
    store, node = store_of(cluster), cluster.nodes[0]
    for _ in range(6):
        store.put(KEY, lease_value(STRANGER))
        node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER}, FOLLOW_S)
        store.delete(KEY)
        node.wait_routes(cluster.gateways_for(node), FOLLOW_S)
    assert node.get("/readyz")[0] == 200


def test_many_peers(site: Lab) -> None:
    """Leases by the hundred, more than one page of a list, are all routes when the daemon says that it is ready."""
    store, node = store_of(site), site.nodes[0]
    peers = {f"172.{64 + n // 200}.{n % 200}.0/24": f"192.168.14.{30 + n % 200}" for n in range(1200)}
    store.put(f"{PREFIX}/config", CONFIG.replace("172.7.0.0/16", "172.64.0.0/12").replace("{", '{"SubnetLen":24,', 1))
    quoted = {subnet: lease_value(gateway).replace('"', '\\"') for subnet, gateway in peers.items()}
    store.txn(*(f'put "{lease_key(subnet)}" "{value}"' for subnet, value in quoted.items()))
    launch(node)
    node.wait_ready()
    assert gateways(node) == peers
    before = time.monotonic()
    gone = [subnet for subnet in peers if subnet.startswith("172.65.")]
    store.txn(*(f'del "{lease_key(subnet)}"' for subnet in gone))
    node.wait_routes({subnet: gateway for subnet, gateway in peers.items() if subnet not in gone}, 5)
    assert time.monotonic() - before < 5


def test_f43_and_f45_neighbours_that_limit_the_choice(site: Lab) -> None:
    """A free subnet overlaps no key of another length, no dual-stack key, and not the LAN that the host stands on."""
    store, node = store_of(site), site.nodes[0]
    store.put(f"{PREFIX}/config", (
        '{"Network":"192.168.0.0/16","SubnetMin":"192.168.8.0","SubnetMax":"192.168.15.0","Backend":{"Type":"host-gw"}}'
    ))
    store.put(lease_key("192.168.8.0/22"), lease_value(STRANGER))
    store.put(lease_key("192.168.12.128/25"), lease_value(STRANGER))
    store.put(lease_key("192.168.13.0/24") + "&fd00:13::-64", lease_value(STRANGER))
    node.subnet_file.write_text("FLANNEL_SUBNET=192.168.14.1/24\n")  # the LAN itself
    journal = Journal(node)
    launch(node)
    node.wait_ready()
    assert node.subnet == "192.168.15.0/24"
    assert "192.168.14.0" in journal.wait("lease.previous_refused")["why"]
