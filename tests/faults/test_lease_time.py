"""Leases that run out for real, all at once or one at a time: rows F22, F25, F26 and F35 of the fault matrix."""

import signal
import time
from collections.abc import Callable, Iterator

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS, PREFIX
from pyflanneld.lab.measure import Ping, RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.etcd.server import ON_EACH_RELEASE, RELEASES
from tests.support.lab.testbed import (
    Journal,
    Keeper,
    checked,
    cut_off,
    gateways,
    keeper,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
    wait_exit,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns, ON_EACH_RELEASE]
ETCD = str(ADDRESS.ip)
STRANGER = "192.168.14.99"
TTL_S = 4
TEN = 10


@pytest.fixture(scope="module")
def ten_keeper(request: pytest.FixtureRequest, etcd_release: str) -> Iterator[Keeper]:
    yield from keeper(request, TEN, etcd=RELEASES[etcd_release])


@pytest.fixture
def ten(ten_keeper: Keeper) -> Iterator[Lab]:
    """Ten hosts whose daemons are ready."""
    lab = ten_keeper.whole()
    with checked(lab.nodes):
        yield lab


def shorten(lab: Lab, node: LabHost) -> int:
    """Start a host's daemon anew on a lease that lives for a few seconds; return the etcd lease."""
    store, kv = store_of(lab), store_of(lab).kv(lease_key(node.subnet))
    assert kv is not None
    node.kill()
    lease = store.grant(TTL_S)
    store.put(lease_key(node.subnet), kv.value, lease=lease)
    store.ctl("lease", "revoke", f"{kv.lease:x}")
    with store.kept_alive(lease):
        launch(node, lease_s=TTL_S)
        node.wait_ready()
    return lease


def revoke_all(lab: Lab) -> None:
    for lease in store_of(lab).leases():
        store_of(lab).ctl("lease", "revoke", f"{lease:x}")


def delete_all(lab: Lab) -> None:
    store_of(lab).ctl("del", "--prefix", f"{PREFIX}/subnets/")


@pytest.mark.thorough
@pytest.mark.parametrize("how", [delete_all, revoke_all], ids=["F22 deleted", "F35 revoked"])
def test_f22_f35_all_ten_leases_go(ten: Lab, how: Callable[[Lab], None], measured: Measured) -> None:
    """Ten hosts lose their leases: within 5 s each has its own subnet again. Where they go at once no packet is lost;
    where one goes after the other each route is away for a moment."""
    store, (first, *_, last) = store_of(ten), ten.nodes
    before = {key: kv.value for key, kv in store.kvs(f"{PREFIX}/subnets/").items()}
    pids = [pid_of(node) for node in ten.nodes]
    with Ping(first, last) as ping, Ping(last, first) as back:
        until(lambda: bool(ping.received()) and bool(back.received()), "traffic")
        how(ten)

        def all_are_back() -> bool:
            return {key: kv.value for key, kv in store.kvs(f"{PREFIX}/subnets/").items()} == before

        taken_s = until(all_are_back, "all have their own subnet again", 5)
        for node in ten.nodes:
            node.wait_routes(ten.gateways_for(node), 30)
            until(lambda node=node: node.get("/readyz")[0] == 200, "ready", 45)
        traffic = (ping.result(), back.result())
    lost, sent = sum(each.lost for each in traffic), sum(each.sent for each in traffic)
    assert [pid_of(node) for node in ten.nodes] == pids
    assert sorted(keys for keys in store.leases().values() if keys) == sorted((key,) for key in before)
    measured(f"{TEN} hosts: the same assignment after {taken_s:.1f} s; {lost} of {sent} packets lost")
    assert lost == 0 or how is revoke_all


@pytest.mark.thorough
def test_f26_partitioned_for_three_lifetimes(cluster: Lab, measured: Measured) -> None:
    """A host is cut off for three times its lease's life and nobody takes its subnet: it takes it again; its own pods
    and its routes to others never notice."""
    node, store = cluster.nodes[0], store_of(cluster)
    shorten(cluster, node)
    key, pid, file = lease_key(node.subnet), pid_of(node), node.subnet_file.stat().st_mtime_ns
    for peer in cluster.nodes[1:]:
        peer.wait_routes(cluster.gateways_for(peer))
    with RouteMonitor(node) as monitor:
        with cut_off(node, ETCD):
            until(lambda: store.kv(key) is None, "the lease has run out", 10, 0.1)
            began = time.monotonic()
            until(lambda: time.monotonic() > began + 2 * TTL_S, "three lifetimes have passed", 20, 0.1)
            assert node.get("/readyz")[0] == 503
            assert node.get("/healthz")[0] == 200
            node.pod_exec("ping", "-n", "-c", "3", "-i", "0.05", str(node.pod_address - 1))
        until(lambda: store.kv(key) is not None, "the subnet is taken again", 45, 0.05)
        healed_s = time.monotonic() - began - 2 * TTL_S
        until(lambda: node.get("/readyz")[0] == 200, "ready again", 10)
        assert monitor.messages() == ()
    kv = store.kv(key)
    assert kv is not None
    assert (kv.value, store.ttl(kv.lease)[1]) == (lease_value(node.address.ip).encode(), TTL_S)
    assert (pid_of(node), node.subnet_file.stat().st_mtime_ns) == (pid, file)
    for peer in cluster.nodes[1:]:
        peer.wait_routes(cluster.gateways_for(peer))
    measured(f"the same subnet is taken again {healed_s:.1f} s after the cut; no route moved here")


@pytest.mark.thorough
def test_f25_paused_until_another_has_the_subnet(cluster: Lab, measured: Measured) -> None:
    """A host sleeps for three times its lease's life and another one takes the subnet: never overwritten, exit 75."""
    node, store = cluster.nodes[0], store_of(cluster)
    shorten(cluster, node)
    key, routes = lease_key(node.subnet), gateways(node)
    journal = Journal(node)
    node.process.send(signal.SIGSTOP)
    began = time.monotonic()
    until(lambda: store.kv(key) is None, "the lease has run out", 10, 0.1)
    until(lambda: time.monotonic() > began + 3 * TTL_S, "three lifetimes have passed", 20, 0.1)
    lease = store.grant(600)
    store.put(key, lease_value(STRANGER), lease=lease)
    taken = store.kv(key)
    node.process.send(signal.SIGCONT)
    woken = time.monotonic()
    assert wait_exit(node, 5) == 75
    measured(f"exit 75 {time.monotonic() - woken:.2f} s after waking, nothing overwritten")
    assert store.kv(key) == taken
    assert gateways(node) == routes
    assert STRANGER in journal.events("daemon.failed")[0]["error"]
    store.ctl("lease", "revoke", f"{lease:x}")
