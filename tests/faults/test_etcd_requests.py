"""etcd that fails in the middle of something, by kind of request: rows F08, F09, F34, F111, F112 of the matrix."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.core.lease.codec import TTL_S
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS, CONFIG, ENDPOINT, PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.etcd.grpc_proxy import FaultProxy, fault_proxy
from tests.support.etcd.server import make_member
from tests.support.lab.testbed import (
    Journal,
    Keeper,
    Store,
    checked,
    gateways,
    keeper,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER = "192.168.14.99"
SUBNET = "172.7.99.0/24"
STEPS = (
    ("KV/Range config", "hold"),
    ("KV/Range list", "hold"),
    ("Lease/LeaseGrant", "hold"),
    ("Lease/LeaseGrant", "swallow"),
    ("KV/Txn", "hold"),
    ("KV/Txn", "swallow"),
    ("Watch/Watch", "hold"),  # one watch tells of our own key and of the peers'
)
MANY = 600  # keys, more than one page


@pytest.fixture(scope="module")
def steps_keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    yield from keeper(request, len(STEPS))


@pytest.fixture
def steps(steps_keeper: Keeper) -> Iterator[Lab]:
    """As many hosts as the start has steps, without a daemon."""
    lab = steps_keeper.empty()
    with checked(lab.nodes):
        yield lab
    steps_keeper.stop()


@pytest.mark.parametrize("down_s", [2, pytest.param(60, marks=pytest.mark.thorough)])
def test_f08_etcd_dies_at_each_step_of_the_start(steps: Lab, down_s: int, measured: Measured) -> None:
    """Each host has come to another step when etcd is killed: all are alive, and ready when it is back, with one key
    and one etcd lease each."""
    nodes, store = steps.nodes, store_of(steps)
    with fault_proxy(steps, len(STEPS)) as proxy:
        for path, (node, (kind, order)) in enumerate(zip(nodes, STEPS, strict=True)):
            proxy.order({kind: order}, path)
            launch(node, etcd_endpoints=proxy.url(path))
        for path, (kind, _) in enumerate(STEPS):
            until(lambda path=path, kind=kind: proxy.met(kind, path) > 0, f"n{path + 1} comes to {kind}", 30)
        swallowed = [lease_key(nodes[STEPS.index(("KV/Txn", "swallow"))].bridge_address.network)]
        until(lambda: all(store.kv(key) for key in swallowed), "etcd has put the key", 10)
        steps.etcd.stop(signal.SIGKILL)
        proxy.order({})
        down = time.monotonic()
        until(lambda: time.monotonic() > down + down_s, "etcd has been away", down_s + 5, 0.1)
        assert all(node.get("/healthz")[0] == 200 for node in nodes)
        steps.etcd.start()
        began = time.monotonic()
        for node in nodes:
            node.wait_ready(45)
            node.wait_routes(steps.gateways_for(node), 45)
        measured(f"etcd killed at {len(STEPS)} steps, back after {down_s} s; "
                 f"all ready {time.monotonic() - began:.1f} s later")  # fmt: skip
        own = [lease_key(node.bridge_address.network) for node in nodes]
        assert sorted(store.kvs(f"{PREFIX}/subnets/")) == sorted(own)
        assert sorted(store.leases().values()) == sorted((key,) for key in own if store.kv(key))
        assert all(node.stop() == 0 for node in nodes)


class Crowd:
    """A host behind a proxy, with more peers than fit into one page of a list."""

    def __init__(self, lab: Lab, proxy: FaultProxy) -> None:
        self.node: LabHost = lab.nodes[0]
        self.store: Store = store_of(lab)
        self.proxy = proxy
        self.subnets = [f"172.7.{128 + number // 16}.{number % 16 * 16}/28" for number in range(MANY)]
        self.wanted = dict.fromkeys(self.subnets, STRANGER)
        value = lease_value(STRANGER).replace('"', '\\"')
        self.store.txn(*(f'put "{lease_key(subnet)}" "{value}"' for subnet in self.subnets))

    def own_lease(self, ttl_s: int) -> int:
        """Leave a lease as from an earlier run, which is renewed often."""
        lease = self.store.grant(ttl_s)
        self.store.put(lease_key(self.node.bridge_address.network), lease_value(self.node.address.ip), lease=lease)
        return lease

    def launch(self, lease_s: int | None = None) -> None:
        launch(self.node, etcd_endpoints=self.proxy.url(), lease_s=lease_s)

    def has_routes(self) -> bool:
        return gateways(self.node) == self.wanted

    def wait_routes(self, timeout_s: float = 30) -> None:
        until(self.has_routes, "all routes are there", timeout_s, 0.2)


@pytest.fixture
def crowd(site: Lab) -> Iterator[Crowd]:
    with fault_proxy(site) as proxy:
        crowd = Crowd(site, proxy)
        yield crowd
        if crowd.node.process.pid():
            crowd.node.kill()


@pytest.mark.thorough
def test_f09_second_page_refused(crowd: Crowd, measured: Measured) -> None:
    """While the further pages of a list are refused no part of it is believed: not at the start, nor later on."""
    node, proxy = crowd.node, crowd.proxy
    proxy.order({"KV/Range page": "refuse"})
    journal = Journal(node)
    crowd.launch()
    until(lambda: proxy.met("KV/Range page") >= 2, "the second page is asked for, and again", 20)
    assert gateways(node) == {}
    assert node.get("/readyz")[0] == 503
    assert node.get("/healthz")[0] == 200
    assert journal.events("etcd.unavailable")
    proxy.order({})
    node.wait_ready()
    crowd.wait_routes()
    with RouteMonitor(node) as monitor:
        proxy.order({"KV/Range page": "refuse", "Watch/Watch": "refuse"})
        journal.wait("etcd.unavailable", timeout_s=10, task="peers")
        gone = crowd.subnets.pop()
        crowd.store.delete(lease_key(gone))
        asked = proxy.met("KV/Range page")
        until(lambda: proxy.met("KV/Range page") >= asked + 2, "the second page is asked for, and again", 40)
        assert monitor.messages() == ()
        del crowd.wanted[gone]
        proxy.order({})
        crowd.wait_routes()
        assert [message.text.split()[:2] for message in monitor.messages()] == [["Deleted", gone]]
    measured(f"{MANY} peers; no route moved by {proxy.met('KV/Range page') - asked} halves of a list")


@pytest.mark.parametrize(
    ("kind", "orders"),
    [
        ("Lease/LeaseKeepAlive", {"Lease/LeaseKeepAlive": "refuse"}),
        ("Lease/LeaseTimeToLive", {"Lease/LeaseTimeToLive": "refuse"}),
        ("Watch/Watch", {"Watch/Watch": "refuse"}),
        # Lists are asked for when a watch has ended.
        pytest.param(
            "KV/Range list", {"KV/Range list": "refuse", "Watch/Watch": "refuse"}, marks=pytest.mark.thorough
        ),
    ],
    ids=["renewals", "times to live", "watches", "lists"],
)
def test_f09_one_kind_of_request_refused(crowd: Crowd, kind: str, orders: dict[str, str], measured: Measured) -> None:
    """With one kind of request refused no route moves and nobody is restarted; the rest goes on, and heals."""
    node, proxy, store = crowd.node, crowd.proxy, crowd.store
    # How long a lease still has is asked for where renewals are rare. HUP makes one come.
    rare = kind == "Lease/LeaseTimeToLive"
    lease = crowd.own_lease(TTL_S if rare else 8)
    crowd.launch(None if rare else 8)
    node.wait_ready()
    crowd.wait_routes()
    until(lambda: not rare or proxy.met(kind) >= 1, "the lease is asked about", 10)
    pid, asked = pid_of(node), proxy.met(kind)
    with RouteMonitor(node) as monitor:
        proxy.order(orders)
        for more in (1, 2):
            if rare:
                os.kill(pid, signal.SIGHUP)
            until(lambda more=more: proxy.met(kind) >= asked + more, "it is asked for in vain, and again", 30)
        asked = proxy.met(kind) - asked
        assert monitor.messages() == ()
        assert node.get("/healthz")[0] == 200
        proxy.order({})
        store.put(lease_key(SUBNET), lease_value(STRANGER))
        crowd.wanted[SUBNET] = STRANGER
        crowd.wait_routes()
        assert [message.text.split()[0] for message in monitor.messages()] == [SUBNET]
    until(lambda: node.get("/readyz")[0] == 200, "ready again", 40)
    assert pid_of(node) == pid
    kv = store.kv(lease_key(node.bridge_address.network))
    assert kv is not None
    assert kv.lease == lease
    measured(f"{kind} refused {asked} times: no route moved")


def test_f111_lists_get_no_answer(site: Lab, measured: Measured) -> None:
    """Only lists fail: a new peer is routed and a moved one followed while they do, and the condition says so."""
    node, store = site.nodes[0], store_of(site)
    with fault_proxy(site) as proxy:
        launch(node, etcd_endpoints=proxy.url())
        node.wait_ready()
        journal = Journal(node)
        proxy.order({"KV/Range list": "hold", "Watch/Watch": "refuse"})  # the watch ends, and lists are asked for
        until(lambda: proxy.met("KV/Range list") >= 3, "a list is asked for", 30)
        proxy.order({"KV/Range list": "hold"})
        until(lambda: any("list" in one.get("condition", "") for one in journal.events("etcd.unavailable")), "said", 30)
        times = []
        for gateway in (STRANGER, "192.168.14.98", "192.168.14.97"):
            began = time.monotonic()
            store.put(lease_key(SUBNET), lease_value(gateway))
            until(lambda gateway=gateway: gateways(node).get(SUBNET) == gateway, f"routed via {gateway}", 5, 0.02)
            times.append(time.monotonic() - began)
        assert node.get("/healthz")[0] == 200
        proxy.order({})
        journal.wait("condition.resolved", timeout_s=30, topic="etcd:lists")
        assert node.get("/readyz")[0] == 200
        measured(f"lists held: a new peer and two moves followed, the slowest after {max(times):.1f} s")
        assert node.stop() == 0


def test_f112_two_clusters(site: Lab, tmp_path: Path, measured: Measured) -> None:
    """One of three endpoints is a cluster of its own: nobody takes a lease there, whichever is asked first; it is named
    by the daemon, by its status and by doctor."""
    url = f"http://{ADDRESS.ip}:2479"
    peers = {"odd": f"http://{ADDRESS.ip}:2480"}
    odd = make_member(
        tmp_path, "odd", url=url, peers=peers, health_url="http://127.0.0.1:2478", netns=site.etcd.namespace
    )
    odd.start()
    other = Store(site.etcd.namespace, f"--endpoints={url}")
    try:
        until(lambda: odd.process is not None and _serves(other), "the other cluster serves", 20)
        other.put(f"{PREFIX}/config", CONFIG)
        with fault_proxy(site) as proxy:
            endpoints = f"{url},{proxy.url()},{ENDPOINT}"
            for node in site.nodes:
                launch(node, etcd_endpoints=endpoints)
            for node in site.nodes:
                node.wait_ready()
                until(lambda node=node: site.gateways_for(node).items() <= gateways(node).items(), "routed", 30)
                said = Journal.whole(node).events("etcd.other_cluster")[0]["condition"]
                assert url in said
            assert sorted(other.kvs(PREFIX)) == [f"{PREFIX}/config"]
            node = site.nodes[0]
            command = f"{sys.executable} -m pyflanneld doctor --iface=eth1 --etcd-endpoints={endpoints} || true"
            doctor = node.exec("sh", "-c", command)
            assert "members of different clusters" in doctor
        measured(f"{len(site.nodes)} hosts: all in the cluster of most endpoints; the odd one named, and no key in it")
    finally:
        for node in site.nodes:
            node.kill()
        odd.kill()


def _serves(store: Store) -> bool:
    try:
        store.ctl("endpoint", "health", "--command-timeout=1s")
    except RuntimeError:
        return False
    return True


def test_f34_keepalive_succeeds_for_a_revoked_lease(site: Lab, measured: Measured) -> None:
    """etcd prolongs a lease that it has revoked, and the watch tells nothing: the key that is read in the same round
    shows it, and the subnet is taken again."""
    node, store = site.nodes[0], store_of(site)
    key, lease = lease_key(node.bridge_address.network), store.grant(8)
    store.put(key, lease_value(node.address.ip), lease=lease)
    with fault_proxy(site) as proxy:
        with store.kept_alive(lease):
            launch(node, etcd_endpoints=proxy.url(), lease_s=8)
            node.wait_ready()
        proxy.order({"Lease/LeaseKeepAlive": "forge 8", "Watch/Watch": "deaf"})
        renewals = proxy.met("Lease/LeaseKeepAlive")
        until(lambda: proxy.met("Lease/LeaseKeepAlive") > renewals, "an answer is forged", 10)
        journal = Journal(node)
        store.ctl("lease", "revoke", f"{lease:x}")
        began = time.monotonic()
        until(lambda: store.kv(key) is not None, "taken again", 15)
        measured(f"taken again {time.monotonic() - began:.1f} s after the lease was revoked")
        journal.wait("lease.retaken")
        assert node.get("/readyz")[0] == 200
        assert node.stop() == 0
