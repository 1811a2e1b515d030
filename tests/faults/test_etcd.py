"""etcd in trouble, rows F01 to F19 of the fault matrix: the data plane stays, what changed meanwhile is caught up."""

import shutil
import signal
from collections.abc import Iterator

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS, CONFIG, PREFIX
from pyflanneld.lab.measure import Ping, RouteMonitor
from pyflanneld.lab.run import run, until
from tests.bed import (
    REPAIR_S,
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
)
from tests.members import ADDRESSES, Members, add_member_hosts, three_members

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
ETCD = str(ADDRESS.ip)
STRANGER, OTHER = "192.168.14.99", "192.168.14.98"
SUBNET, KEY = "172.7.99.0/24", lease_key("172.7.99.0/24")


# One member


def test_f03_f05_etcd_stops_for_a_while(cluster: Lab) -> None:
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
        assert ping.result().lost == 0
    node.exec("ip", "route", "del", peer.subnet)
    node.wait_routes(cluster.gateways_for(node), REPAIR_S)
    cluster.etcd.start()
    assert store.kvs() == kvs
    store.put(KEY, lease_value(STRANGER))
    for each in cluster.nodes:
        each.wait_routes(cluster.gateways_for(each) | {SUBNET: STRANGER}, 45)
    assert [pid_of(each) for each in cluster.nodes] == pids
    for journal in journals:
        assert len(journal.events("etcd.unavailable")) <= 3  # one for each task that noticed
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


def test_f13_compaction_while_disconnected(cluster: Lab) -> None:
    """Changes that were compacted away unseen are caught up by a list: put, moved and deleted peers are all right."""
    node, store = cluster.nodes[0], store_of(cluster)
    gone, moved, fresh = "172.7.97.0/24", "172.7.98.0/24", "172.7.99.0/24"
    for subnet in (gone, moved):
        store.put(lease_key(subnet), lease_value(STRANGER))
    node.wait_routes(cluster.gateways_for(node) | {gone: STRANGER, moved: STRANGER})
    journal = Journal(node)
    with RouteMonitor(node) as monitor:
        with cut_off(node, ETCD, refused=True):
            store.put(f"{PREFIX}/subnets/junk", "")  # something to acknowledge, which makes the loss known
            journal.wait("etcd.unavailable", timeout_s=10)
            store.put(lease_key(moved), lease_value(OTHER))
            store.put(lease_key(fresh), lease_value(STRANGER))
            store.delete(lease_key(gone))
            value = lease_value(STRANGER).replace('"', '\\"')
            for _ in range(10):
                store.txn(*(f'put "{lease_key(f"172.7.{n}.0/24")}" "{value}"' for n in range(100, 150)))
                store.txn(*(f'del "{lease_key(f"172.7.{n}.0/24")}"' for n in range(100, 150)))
            store.ctl("compact", str(store.revision()))
            assert gateways(node) == cluster.gateways_for(node) | {gone: STRANGER, moved: STRANGER}
        node.wait_routes(cluster.gateways_for(node) | {moved: OTHER, fresh: STRANGER}, 35)
        assert sorted(m.text.removeprefix("Deleted ").split()[0] for m in monitor.messages()) == [gone, moved, fresh]
    store.txn(*(f'del "{key}"' for key in (lease_key(moved), lease_key(fresh), f"{PREFIX}/subnets/junk")))


def test_f19_etcd_comes_back_empty(cluster: Lab) -> None:
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
        assert ping.result().lost == 0


# Three members


@pytest.fixture(scope="module")
def trio_keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    yield from keeper(request, 2)


@pytest.fixture(scope="module")
def trio_members(trio_keeper: Keeper) -> Iterator[Members]:
    lab = trio_keeper.empty()
    with three_members(lab, add_member_hosts(lab), ADDRESSES) as members:
        members.store.put(f"{PREFIX}/config", CONFIG)
        yield members


@pytest.fixture
def trio(trio_keeper: Keeper, trio_members: Members) -> Iterator[Members]:
    """Three members, all healthy, and two hosts whose daemons know of all three."""
    lab = trio_keeper.lab
    trio_members.restore()
    trio_members.store.delete(KEY)
    for node in lab.nodes:
        if node.process.pid() is None:
            launch(node, "-v=1", etcd_endpoints=trio_members.endpoints)  # each change of the endpoint in the log
    for node in lab.nodes:
        node.wait_ready()
    for node in lab.nodes:
        node.wait_routes(lab.gateways_for(node), 30)
    with checked(lab.nodes):
        yield trio_members


def test_f01_leader_killed(trio: Members, trio_keeper: Keeper) -> None:
    """The leader dies: no route moves, leases stay as they are, and a change made then is followed within 5 s."""
    lab, leader = trio_keeper.lab, trio.leader()
    kvs = trio.store.kvs(f"{PREFIX}/subnets/")
    with RouteMonitor(lab.nodes[0]) as first, RouteMonitor(lab.nodes[1]) as second:
        leader.kill()
        trio.put_elsewhere(leader, KEY, lease_value(STRANGER))
        for node in lab.nodes:
            node.wait_routes(lab.gateways_for(node) | {SUBNET: STRANGER}, 5)
        assert [m.text.split()[0] for m in (*first.messages(), *second.messages())] == [SUBNET, SUBNET]
    trio.restore()
    trio.store.delete(KEY)
    assert trio.store.kvs(f"{PREFIX}/subnets/") == kvs


def test_f02_leadership_moves(trio: Members, trio_keeper: Keeper) -> None:
    """Leadership that is handed round disturbs nothing: no route moves, the same etcd leases, no change is missed."""
    lab = trio_keeper.lab
    kvs = trio.store.kvs(f"{PREFIX}/subnets/")
    ids = {member["name"]: member["ID"] for member in trio.store.json("member", "list")["members"]}
    with RouteMonitor(lab.nodes[0]) as monitor:
        for _ in range(2):
            for member in trio.all:
                leader = trio.leader()
                if member is not leader:
                    trio.store.ctl(f"--endpoints={leader.url}", "move-leader", f"{ids[member.name]:x}")
        assert monitor.messages() == ()
    trio.store.put(KEY, lease_value(STRANGER))
    for node in lab.nodes:
        node.wait_routes(lab.gateways_for(node) | {SUBNET: STRANGER}, 5)
    trio.store.delete(KEY)
    assert trio.store.kvs(f"{PREFIX}/subnets/") == kvs


def test_f04_connected_member_is_a_black_hole(trio: Members, trio_keeper: Keeper) -> None:
    """Every packet to the member in use is lost: it is left, and a change made meanwhile is seen within 25 s."""
    lab, node = trio_keeper.lab, trio_keeper.lab.nodes[0]
    member, journal = trio.used_by(node), Journal(node)
    with RouteMonitor(node) as monitor, cut_off(node, ADDRESSES[trio.all.index(member)]):
        trio.store.put(KEY, lease_value(STRANGER))
        node.wait_routes(lab.gateways_for(node) | {SUBNET: STRANGER}, 25)
        assert node.get("/readyz")[0] == 200
        assert len(monitor.messages()) == 1
        assert journal.wait("endpoint.switched")["from"] == member.url


def test_f06_connected_member_is_frozen(trio: Members, trio_keeper: Keeper) -> None:
    """The member in use is stopped in its tracks, its connections open: it is left in the same time."""
    lab, node = trio_keeper.lab, trio_keeper.lab.nodes[1]
    member, journal = trio.used_by(node), Journal(node)
    member.pause()
    trio.put_elsewhere(member, KEY, lease_value(STRANGER))
    node.wait_routes(lab.gateways_for(node) | {SUBNET: STRANGER}, 25)
    assert journal.wait("endpoint.switched")["from"] == member.url
    member.resume()


def test_f07_connected_member_is_cut_off_from_the_others(trio: Members, trio_keeper: Keeper) -> None:
    """The member in use has lost its cluster but still answers: it is not believed; another one is asked."""
    lab, node = trio_keeper.lab, trio_keeper.lab.nodes[0]
    member = trio.used_by(node)
    at = trio.all.index(member)
    others = [address for address in ADDRESSES if address != ADDRESSES[at]]
    assert member.netns is not None
    far = f"ip saddr {{ {', '.join(others)} }} tcp"
    rules = f"{far} dport 2380 drop; {far} sport 2380 drop"  # what the members say to each other
    rules = f"table inet cut {{ chain in {{ type filter hook input priority 0; {rules}; }}; }}"
    nft = ("ip", "netns", "exec", member.netns, "nft")
    with RouteMonitor(node) as monitor:
        run(*nft, rules)
        try:
            trio.put_elsewhere(member, KEY, lease_value(STRANGER))
            node.wait_routes(lab.gateways_for(node) | {SUBNET: STRANGER}, 25)
            assert len(monitor.messages()) == 1
        finally:
            run(*nft, "delete table inet cut")
    assert node.get("/readyz")[0] == 200
