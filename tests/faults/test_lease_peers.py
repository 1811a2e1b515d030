"""Peers that move to another address or another backend: rows F27, F28 and F56 of the fault matrix."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS, PREFIX
from pyflanneld.lab.measure import Ping, RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.lab.testbed import Journal, Store, cut_off, gateways, launch, lease_key, lease_value, store_of

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
ETCD = str(ADDRESS.ip)
STRANGER, SUBNET, JUNK = "192.168.14.99", "172.7.99.0/24", f"{PREFIX}/subnets/junk"
SECOND = "192.168.14.122"  # the moving peer's other address
Meanwhile = Callable[[LabHost, Store], AbstractContextManager[None]]


@contextmanager
def connected(_node: LabHost, _store: Store) -> Iterator[None]:
    yield


@contextmanager
def disconnected(node: LabHost, store: Store) -> Iterator[None]:
    """Cut the host off, so that it learns of the change later."""
    journal = Journal(node)
    with cut_off(node, ETCD, refused=True):
        store.put(JUNK, "")  # something to acknowledge, which makes the loss known
        journal.wait("etcd.unavailable", timeout_s=25)
        yield
    journal.wait("condition.resolved", timeout_s=25)
    store.delete(JUNK)


@contextmanager
def stopped(node: LabHost, _store: Store) -> Iterator[None]:
    """Have no daemon while the change is made."""
    node.kill()
    yield
    node.start()


@pytest.mark.parametrize(
    "meanwhile",
    [connected, pytest.param(disconnected, marks=pytest.mark.thorough), stopped],
    ids=["connected", "disconnected", "stopped"],
)
def test_f27_peer_moves_to_another_address(cluster: Lab, meanwhile: Meanwhile, measured: Measured) -> None:
    """A peer's address changes, there and back: its route is replaced in one step each time, no packet is lost."""
    node, peer, _ = cluster.nodes
    store, key = store_of(cluster), lease_key(peer.subnet)
    peer.exec("ip", "address", "add", f"{SECOND}/24", "dev", "eth1")
    peer.kill()  # it would write its own address again
    kv = store.kv(key)
    assert kv is not None
    took_s = []
    with Ping(node, peer) as ping, RouteMonitor(node) as monitor:
        until(lambda: bool(ping.received()), "traffic")
        for gateway in (SECOND, str(peer.address.ip)):
            with meanwhile(node, store):
                store.put(key, lease_value(gateway), lease=kv.lease)
                put_at_s = time.monotonic()
            node.wait_routes(cluster.gateways_for(node) | {peer.subnet: gateway}, 30)
            took_s.append(time.monotonic() - put_at_s)
        messages = monitor.messages()
        assert [message.deleted for message in messages] == [False, False]
        assert [message.text.split()[:3] for message in messages] == [
            [peer.subnet, "via", SECOND], [peer.subnet, "via", str(peer.address.ip)],
        ]
        traffic = ping.result()
        assert traffic.lost == 0
    measured(f"replaced in one step, within {max(took_s):.2f} s; {traffic.lost} of {traffic.sent} packets lost")
    peer.exec("ip", "address", "del", f"{SECOND}/24", "dev", "eth1")


def test_f28_peer_switches_its_backend(cluster: Lab, measured: Measured) -> None:
    """A peer that goes to wireguard loses its route, and gets it back with host-gw; no other route is touched."""
    node, store = cluster.nodes[0], store_of(cluster)
    store.put(lease_key(SUBNET), lease_value(STRANGER))
    node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER})
    with RouteMonitor(node) as monitor:
        store.put(lease_key(SUBNET), lease_value(STRANGER, "wireguard"))
        gone_s = node.wait_routes(cluster.gateways_for(node), 5)
        store.put(lease_key(SUBNET), lease_value(STRANGER))
        back_s = node.wait_routes(cluster.gateways_for(node) | {SUBNET: STRANGER}, 5)
        messages = monitor.messages()
        assert [message.deleted for message in messages] == [True, False]
        assert all(SUBNET in message.text for message in messages)
    assert node.get("/readyz")[0] == 200
    measured(f"route gone {gone_s * 1000:.0f} ms after the switch, back {back_s * 1000:.0f} ms after the return")
    store.delete(lease_key(SUBNET))


def test_f56_gateway_on_a_link_route(site: Lab, measured: Measured) -> None:
    """On the link is what the kernel says: a second subnet with a link route, the far end of an address with a peer;
    also when they come later. Behind a router is off the link, and the words name the router."""
    node, store, journal = site.nodes[0], store_of(site), Journal(site.nodes[0])
    node.exec("ip", "route", "add", "10.99.0.0/24", "via", STRANGER)
    ways = {"172.7.91.0/24": "192.168.15.7", "172.7.92.0/24": "10.77.0.2", "172.7.93.0/24": "10.99.0.9"}
    good = {"172.7.90.0/24": STRANGER}
    for subnet, gateway in (ways | good).items():
        store.put(lease_key(subnet), lease_value(gateway))
    launch(node)
    node.wait_routes(good)
    why = journal.wait("peer.quarantined", key="172.7.93.0-24")["why"]
    assert f"the kernel sends packets to it by the router {STRANGER}" in why
    node.exec("ip", "route", "add", "192.168.15.0/24", "dev", "eth1")
    later_s = node.wait_routes(good | {"172.7.91.0/24": "192.168.15.7"}, 15)
    node.exec("ip", "address", "add", "10.77.0.1", "peer", "10.77.0.2/32", "dev", "eth1")
    node.wait_routes(good | {"172.7.91.0/24": "192.168.15.7", "172.7.92.0/24": "10.77.0.2"}, 15)
    node.exec("ip", "route", "del", "192.168.15.0/24", "dev", "eth1")
    journal.wait("peer.quarantined", timeout_s=15, key="172.7.91.0-24")
    assert gateways(node)["172.7.91.0/24"] == "192.168.15.7", "the kernel keeps a route that is there"
    measured(f"a link route that came later counted after {later_s:.1f} s; the router was named")
