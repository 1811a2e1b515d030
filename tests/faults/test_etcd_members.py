"""Three members of etcd, of which some fail: rows F01 to F07, F10, F11 and F15 of the fault matrix."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import run, until
from tests.faults.conftest import Measured
from tests.support.etcd.bulk_writer import Change, change_all
from tests.support.etcd.counters import daemon_counters
from tests.support.lab.etcd_members import ADDRESSES, Members, add_member_hosts, three_members
from tests.support.lab.lossy_path import lossy_path
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
)
from tests.support.network.tcp_proxy import Slow

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER = "192.168.14.99"
SUBNET, KEY = "172.7.99.0/24", lease_key("172.7.99.0/24")
LINE = Slow(0.4, 1.2, 8000)  # 800 ms, give or take a half, and 64 kbit/s
TTL_S = 12


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
            start(node, trio_members.endpoints)
    for node in lab.nodes:
        node.wait_ready()
    for node in lab.nodes:
        node.wait_routes(lab.gateways_for(node), 30)
    with checked(lab.nodes):
        yield trio_members


def start(node: LabHost, endpoints: str, *, lease_s: int | None = None) -> None:
    launch(node, "-v=1", etcd_endpoints=endpoints, lease_s=lease_s)  # each change of the endpoint in the log


def wait_change(lab: Lab, nodes: Sequence[LabHost], timeout_s: float) -> float:
    """Wait until the stranger's route is there, beside the usual ones; return how long that took."""
    return max(node.wait_routes(lab.gateways_for(node) | {SUBNET: STRANGER}, timeout_s) for node in nodes)


def wait_s(seconds: float, what: str) -> None:
    until_s = time.monotonic() + seconds
    until(lambda: time.monotonic() > until_s, what, seconds + 5, 0.05)


def test_f01_leader_killed(trio: Members, trio_keeper: Keeper, measured: Measured) -> None:
    """The leader dies and comes back: no route moves, leases stay as they are, a change made then is followed within
    5 s, and no host reads more than one list."""
    lab, leader = trio_keeper.lab, trio.leader()
    kvs, lists = trio.store.kvs(f"{PREFIX}/subnets/"), [daemon_counters(node).lists for node in lab.nodes]
    with RouteMonitor(lab.nodes[0]) as first, RouteMonitor(lab.nodes[1]) as second:
        leader.kill()
        trio.put_elsewhere(leader, KEY, lease_value(STRANGER))
        seen_s = wait_change(lab, lab.nodes, 5)
        wait_s(3, "the leader has been away for 3 s")
        trio.restore()
        assert [m.text.split()[0] for m in (*first.messages(), *second.messages())] == [SUBNET, SUBNET]
    trio.store.delete(KEY)
    assert trio.store.kvs(f"{PREFIX}/subnets/") == kvs
    more = [daemon_counters(node).lists - before for node, before in zip(lab.nodes, lists, strict=True)]
    assert max(more) <= 1
    measured(f"a change is seen {seen_s:.1f} s after it was made; lists read: {more}")


@pytest.mark.parametrize(("transfers", "pause_s"), [(4, 0), pytest.param(20, 1, marks=pytest.mark.thorough)])
def test_f02_leadership_moves(
    trio: Members, trio_keeper: Keeper, transfers: int, pause_s: float, measured: Measured
) -> None:
    """Leadership that is handed round disturbs nothing: no route moves, the same etcd leases, no change is missed."""
    lab = trio_keeper.lab
    kvs, lists = trio.store.kvs(f"{PREFIX}/subnets/"), [daemon_counters(node).lists for node in lab.nodes]
    with RouteMonitor(lab.nodes[0]) as monitor:
        for number in range(transfers):
            leader = trio.leader()
            trio.move_leader(trio.all[(trio.all.index(leader) + 1 + number % 2) % 3])
            wait_s(pause_s, "the next transfer is due")
        assert monitor.messages() == ()
    trio.store.put(KEY, lease_value(STRANGER))
    seen_s = wait_change(lab, lab.nodes, 5)
    trio.store.delete(KEY)
    assert trio.store.kvs(f"{PREFIX}/subnets/") == kvs
    more = [daemon_counters(node).lists - before for node, before in zip(lab.nodes, lists, strict=True)]
    assert max(more) <= transfers
    measured(f"{transfers} transfers: no route moved, lists read: {more}; a change is seen after {seen_s:.1f} s")


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_f03_all_members_down_for_ten_lifetimes(trio: Members, trio_keeper: Keeper, measured: Measured) -> None:
    """All of etcd is away for ten times the lease's lifetime: no route moves, nobody exits, ready until the lease is no
    longer confirmed; then the same lease goes on under its number, with a list or two per host."""
    lab = trio_keeper.lab
    with ExitStack() as stack:
        for node in lab.nodes:
            node.kill()
            lease = trio.store.grant(TTL_S)
            stack.enter_context(trio.store.kept_alive(lease))
            trio.store.put(lease_key(node.subnet), lease_value(node.address.ip), lease=lease)
            start(node, trio.endpoints, lease_s=TTL_S)
        for node in lab.nodes:
            node.wait_ready()
    kvs, pids = trio.store.kvs(f"{PREFIX}/subnets/"), [pid_of(node) for node in lab.nodes]
    with RouteMonitor(lab.nodes[0]) as first, RouteMonitor(lab.nodes[1]) as second:
        for member in trio.all:
            member.kill()
        assert all(node.get("/readyz")[0] == 200 for node in lab.nodes)
        for node in lab.nodes:
            until(lambda node=node: node.get("/readyz")[0] == 503, "unready when the lease is not confirmed", TTL_S + 5)
        wait_s(10 * TTL_S, "ten lifetimes have passed")
        assert all(node.get("/healthz")[0] == 200 for node in lab.nodes)
        trio.restore()
        ready_s = max(node.wait_ready(45) for node in lab.nodes)
        trio.put_elsewhere(trio.all[0], KEY, lease_value(STRANGER))
        wait_change(lab, lab.nodes, 45)
        assert [m.text.split()[0] for m in (*first.messages(), *second.messages())] == [SUBNET, SUBNET]
    trio.store.delete(KEY)
    assert trio.store.kvs(f"{PREFIX}/subnets/") == kvs
    assert [pid_of(node) for node in lab.nodes] == pids
    measured(f"{10 * TTL_S} s without etcd, leases of {TTL_S} s: the same leases, ready {ready_s:.1f} s after etcd")
    for kv in kvs.values():
        trio.store.ctl("lease", "revoke", f"{kv.lease:x}")  # back to ordinary ones
    until(lambda: len(trio.store.kvs(f"{PREFIX}/subnets/")) == len(lab.nodes), "the subnets are taken again", 10)


@pytest.mark.thorough
def test_f04_connected_member_is_a_black_hole(trio: Members, trio_keeper: Keeper, measured: Measured) -> None:
    """Every packet to the member in use is lost: it is left, and a change made meanwhile is seen within 25 s."""
    lab, node = trio_keeper.lab, trio_keeper.lab.nodes[0]
    member, journal = trio.used_by(node), Journal(node)
    with RouteMonitor(node) as monitor, cut_off(node, ADDRESSES[trio.all.index(member)]):
        trio.store.put(KEY, lease_value(STRANGER))
        seen_s = wait_change(lab, [node], 25)
        assert node.get("/readyz")[0] == 200
        assert len(monitor.messages()) == 1
        assert journal.wait("endpoint.switched")["from"] == member.url
    measured(f"a change is seen after {seen_s:.1f} s, by another member")


def test_f05_all_members_are_black_holes(trio: Members, trio_keeper: Keeper, measured: Measured) -> None:
    """Every packet to every member is lost: routes and readiness stay, and a stop takes less than 5 s."""
    node = trio_keeper.lab.nodes[0]
    routes = gateways(node)
    with RouteMonitor(node) as monitor, cut_off(node, *ADDRESSES):
        trio.store.put(KEY, lease_value(STRANGER))
        wait_s(2, "the change would have been seen long ago")
        assert node.get("/readyz")[0] == 200
        began = time.monotonic()
        assert node.stop(timeout_s=5) == 0
        measured(f"stopped in {time.monotonic() - began:.2f} s, exit 0")
        assert monitor.messages() == ()
    assert gateways(node) == routes


@pytest.mark.thorough
def test_f06_connected_member_is_frozen(trio: Members, trio_keeper: Keeper, measured: Measured) -> None:
    """The member in use is stopped in its tracks, its connections open: it is left in the same time."""
    lab, node = trio_keeper.lab, trio_keeper.lab.nodes[1]
    member, journal = trio.used_by(node), Journal(node)
    member.pause()
    trio.put_elsewhere(member, KEY, lease_value(STRANGER))
    seen_s = wait_change(lab, [node], 25)
    assert journal.wait("endpoint.switched")["from"] == member.url
    member.resume()
    measured(f"a change is seen after {seen_s:.1f} s, by another member")


def test_f07_connected_member_is_cut_off_from_the_others(
    trio: Members, trio_keeper: Keeper, measured: Measured
) -> None:
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
            seen_s = wait_change(lab, [node], 25)
            until(monitor.messages, "the route's message")
            assert len(monitor.messages()) == 1
        finally:
            run(*nft, "delete table inet cut")
    assert node.get("/readyz")[0] == 200
    measured(f"a change is seen after {seen_s:.1f} s, by another member")


@contextmanager
def lossy(node: LabHost, percent: int) -> Iterator[None]:
    """Lose a share of the packets to and from etcd while the block lasts."""
    chance = f"meta l4proto tcp numgen random mod 100 < {percent} drop"
    out = f"chain out {{ type filter hook output priority 0; tcp dport 2379 {chance}; }}"
    into = f"chain in {{ type filter hook input priority 0; tcp sport 2379 {chance}; }}"
    node.exec("nft", f"table inet lossy {{ {out}; {into}; }}")
    try:
        yield
    finally:
        node.exec("nft", "delete table inet lossy")


@pytest.mark.thorough
def test_f10_slow_etcd(trio: Members, trio_keeper: Keeper, measured: Measured) -> None:
    """By a long, thin and lossy line a host starts, follows changes within 10 s, renews in time, writes nothing."""
    lab, node = trio_keeper.lab, trio_keeper.lab.nodes[0]
    node.kill()
    key, lease = lease_key(node.subnet), trio.store.grant(60)
    trio.store.put(key, lease_value(node.address.ip), lease=lease)
    kv, revision = trio.store.kv(key), trio.store.revision()
    with ExitStack() as stack:
        paths = [stack.enter_context(lossy_path(node, member.url)) for member in trio.all]
        for path in paths:
            path.slow_down(LINE)
        stack.enter_context(lossy(node, 5))
        start(node, ",".join(path.url for path in paths), lease_s=60)
        ready_s = node.wait_ready(60)
        with RouteMonitor(node) as monitor:
            took_s = []
            for _ in range(4):
                trio.store.put(KEY, lease_value(STRANGER))
                took_s.append(wait_change(lab, [node], 10))
                trio.store.delete(KEY)
                took_s.append(node.wait_routes(lab.gateways_for(node), 10))
            assert len(monitor.messages()) == 8
        wait_s(20, "renewals are due every 6 s")
        assert trio.store.ttl(lease)[0] >= 30
        assert node.get("/readyz")[0] == 200
        node.kill()
    assert trio.store.kv(key) == kv
    assert trio.store.revision() == revision + 8
    trio.store.ctl("lease", "revoke", f"{lease:x}")
    measured(f"ready after {ready_s:.1f} s; changes are seen within {max(took_s):.1f} s; nothing was written")


def storm(changes: int) -> list[Change]:
    """Return changes of 40 peers: new gateways over and over, a deletion now and then; ten are gone in the end."""
    subnets = [f"172.7.{100 + number}.0/24" for number in range(40)]
    found = []
    for number in range(changes - len(subnets)):
        deleted = number % 7 == 3
        gateway = f"192.168.14.{100 + number * 37 % 100}"
        found.append(Change(lease_key(subnets[number * 11 % 40]), None if deleted else lease_value(gateway)))
    for at, subnet in enumerate(subnets):
        found.append(Change(lease_key(subnet), None if at % 4 == 0 else lease_value(STRANGER)))
    return found


@pytest.mark.thorough
def test_f11_leader_dies_while_a_sleeper_catches_up(trio: Members, trio_keeper: Keeper, measured: Measured) -> None:
    """A daemon sleeps through 5,000 changes, more than etcd tells in one piece, and its member, which leads, is killed
    as it wakes: its routes are exactly right in the end."""
    lab, node = trio_keeper.lab, trio_keeper.lab.nodes[0]
    changes = storm(5000)
    member = trio.used_by(node)
    trio.move_leader(member)
    node.process.send(signal.SIGSTOP)
    change_all(lab.etcd.namespace, ADDRESSES, changes)
    node.process.send(signal.SIGCONT)
    member.kill()
    wanted = lab.gateways_for(node) | {f"172.7.{100 + at}.0/24": STRANGER for at in range(40) if at % 4 != 0}
    took_s = node.wait_routes(wanted, 60)
    measured(f"{len(changes)} changes slept through: exactly right {took_s:.1f} s after waking")
    trio.restore()
    for each in lab.nodes:
        each.kill()
        each.exec("ip", "route", "flush", "proto", "103")
    trio.store.ctl("del", "--prefix", f"{PREFIX}/subnets/172.7.1")


def test_f15_connected_member_restarts(trio: Members, trio_keeper: Keeper, measured: Measured) -> None:
    """The member in use is restarted: the watch goes on, on another one or on this, with one list at most."""
    lab, node = trio_keeper.lab, trio_keeper.lab.nodes[0]
    lists = daemon_counters(node).lists
    member = trio.used_by(node)
    with RouteMonitor(node) as monitor:
        member.kill()
        member.start()
        trio.put_elsewhere(member, KEY, lease_value(STRANGER))
        seen_s = wait_change(lab, [node], 10)
        assert len(monitor.messages()) == 1
    more = daemon_counters(node).lists - lists
    assert more <= 1
    measured(f"a change is seen after {seen_s:.1f} s; lists read: {more}")
