"""The pure core under hypothesis' state machines, checked by the naive specification of the simulated world.

``RoutesMachine``: what lists, events and other hands do to peers, plan and guard. ``LeaseMachine``: what a few
contenders, the passing of time and an administrator do to leases. The loops between are left out: a rule is one step.

    HYPOTHESIS_PROFILE=thorough .venv/bin/python -m pytest tests/unit/test_state_machines.py  # more stories, and longer
"""

import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pyflanneld.backends.backend import Host, Peers
from pyflanneld.backends.host_gw import HostGw
from pyflanneld.core.etcd_types import Gone, Put, Record, Renewal, Snapshot
from pyflanneld.core.lease.allocation import Claim, Discard, Exhausted, Reuse, SubnetRequest, choose
from pyflanneld.core.lease.codec import LeaseAttrs, encode_name, encode_value, parse_key_name
from pyflanneld.core.lease.ownership import (
    Confirmed,
    HeldByOther,
    OwnLease,
    Retake,
    Rewrite,
    Unreadable,
    assess,
    confirmed,
    renewal_interval_s,
)
from pyflanneld.core.link.selection import Link
from pyflanneld.core.network.config import SubnetRange
from pyflanneld.core.objects.plan import Create, Drop, KernelChange, Replace, plan
from pyflanneld.core.peers.guard import WithdrawGuard
from pyflanneld.core.peers.table import PeerTable, View
from pyflanneld.core.peers.validation import FamilyContext, ValidationContext
from pyflanneld.core.routes import BOOT, KernelRoute, RoutePlan
from tests.sim import spec
from tests.sim.checks import GuardRule
from tests.sim.delivered import Delivered
from tests.sim.node import as_key
from tests.support.fakes.registry import FakeEtcd

LENGTHS = {"": (120, 50), "thorough": (2000, 100)}
"""By profile: how many stories, and how many steps each."""
STORIES, STEPS = LENGTHS[os.environ.get("HYPOTHESIS_PROFILE", "")]
SETTINGS = settings(max_examples=STORIES, stateful_step_count=STEPS)

NETWORK = IPv4Network("192.168.0.0/18")
OURS, STATIC, LINK_INDEX = 103, 4, 2
OWN = IPv4Network("192.168.20.0/24")


def value(last: int, backend: str = "host-gw") -> bytes:
    return encode_value(LeaseAttrs(IPv4Address(f"192.168.14.{last}"), backend))


NAMES = st.sampled_from([
    *(b"192.168.%d.0-24" % third for third in (1, 2, 3, 4, 5, 6)),
    b"192.168.2.0-23", b"192.168.3.0-25", b"192.168.3.128-25", b"192.168.4.0-22",        # more, and parts, of these
    encode_name(OWN), b"192.168.20.64-26", b"192.168.14.0-24", b"192.168.0.0-18",        # ours, the LAN, everything
    b"10.9.8.0-24", b"192.168.5.7-24", b"x192.168.6.0-24", b"192.168.6.0-24&fd00::-64",  # elsewhere, nowhere, both
])  # fmt: skip
HEARD = st.sampled_from([True, True, True, False])
"""Whether the node is told at once."""
GOOD = st.sampled_from([value(last) for last in (91, 92, 93)])
VALUES = st.one_of(GOOD, GOOD, GOOD, st.sampled_from([value(20), value(91, "ipip"), b"", b"null", b'{"PublicIP":1}']))
PROTOCOLS = st.sampled_from([OURS, STATIC, BOOT])
DESTINATIONS = st.sampled_from([f"192.168.{third}.0/24" for third in (1, 2, 3, 4)] + ["192.168.3.0/25", "10.7.7.0/24"])


class RoutesMachine(RuleBasedStateMachine):
    """One node: its peers, its kernel's routes, its guard."""

    addresses = (IPv4Interface("192.168.14.20/24"),)
    context = ValidationContext("host-gw", FamilyContext(NETWORK, OWN, addresses, connected=(IPv4Network(spec.LAN),)))
    host = spec.Host(spec.network(str(OWN)), spec.address("192.168.14.20"))

    def __init__(self) -> None:
        super().__init__()
        self.etcd, self.now_s = FakeEtcd(), 1000.0
        self.lists = [self.etcd.snapshot()]
        self.backup = self.etcd.backup()
        self.table, self.guard = PeerTable(encode_name(OWN)), WithdrawGuard()
        self.delivered, self.guard_rule = Delivered(), GuardRule()
        self.revision, self.current, self.broken = 0, True, True
        self.kernel: dict[tuple[IPv4Network, int], KernelRoute] = {}
        self.paused, self.believed = False, set[spec.Net]()
        self.take(self.lists[0])

    # What others write into etcd

    @rule(name=NAMES, written=VALUES, leased=st.booleans(), heard=HEARD)
    def put(self, name: bytes, written: bytes, leased: bool, heard: bool) -> None:
        self.etcd.put(name, written, lease_id=7 * leased)
        self.hear_all(heard)

    @rule(thirds=st.sets(st.integers(1, 6), min_size=4))
    def put_many(self, thirds: set[int]) -> None:
        for third in sorted(thirds):
            self.etcd.put(b"192.168.%d.0-24" % third, value(100 + third))

    @rule(at=st.integers(0, 20), heard=HEARD)
    def delete(self, at: int, heard: bool) -> None:
        records = self.etcd.records()
        if records:
            self.etcd.delete(records[at % len(records)].name)
        self.hear_all(heard)

    @rule(at=st.integers(0, 20), written=VALUES, heard=HEARD)
    def put_again(self, at: int, written: bytes, heard: bool) -> None:
        """Write over a key that is there."""
        records = self.etcd.records()
        if records:
            record = records[at % len(records)]
            self.etcd.put(record.name, written, lease_id=record.lease_id)
        self.hear_all(heard)

    @rule(heard=HEARD)
    def wipe(self, heard: bool) -> None:
        for record in self.etcd.records():
            self.etcd.delete(record.name)
        self.hear_all(heard)

    @rule()
    def back_up(self) -> None:
        self.backup = self.etcd.backup()

    @rule()
    def restore(self) -> None:
        self.etcd.restore(self.backup)
        self.broken = True

    # What the node hears

    @rule(age=st.sampled_from([1, 1, 1, 2, 4]))
    def read_list(self, age: int) -> None:
        """Read a complete list, as it is or as a member has it that is behind."""
        self.lists = [*self.lists, self.etcd.snapshot()][-4:]
        self.take(self.lists[-min(age, len(self.lists))])

    def take(self, snapshot: Snapshot) -> None:
        if snapshot.revision < self.revision:
            self.guard.distrust()
        self.delivered.take_list(snapshot, self.now_s, self.delivered.position)
        self.table.apply(snapshot)
        self.guard.list_applied(self.now_s)
        self.revision, self.current, self.broken = snapshot.revision, True, self.etcd.state.revision < snapshot.revision

    @rule(count=st.integers(0, 9), lost=st.sampled_from([False, False, False, True]))
    def hear(self, count: int, lost: bool) -> None:
        """Be told of the next events, some or all; or never. A history that was broken off has to be listed first."""
        _, events = self.etcd.events(self.revision, 0)
        changes = [_change(event.key, event.revision, event.record) for event in events][:count]
        if self.broken or not changes:
            return
        self.revision = max(_revision(change) for change in changes)
        if lost:
            self.current = False
        else:
            self.fold(changes)

    def hear_all(self, heard: bool) -> None:
        if heard:
            self.hear(99, lost=False)

    @rule(back=st.integers(1, 9))
    def hear_again(self, back: int) -> None:
        """Be told what is long known."""
        if not self.broken:
            old = (event for event in self.etcd.state.history[-back:] if event.revision <= self.revision)
            self.fold([_change(event.key, event.revision, event.record) for event in old])

    def fold(self, changes: "list[Put | Gone]") -> None:
        self.delivered.take_events(changes, self.now_s)
        for change in changes:
            self.table.apply(change)
            if isinstance(change, Gone) and (subnet := spec.read_name(change.name)) is not None:
                self.believed.discard(subnet)  # should it come back before the next look, it is a key never validated

    # What others do to the kernel

    @rule(dst=DESTINATIONS, last=st.integers(91, 93), protocol=PROTOCOLS, plain=st.booleans())
    def place(self, dst: str, last: int, protocol: int, plain: bool) -> None:
        network, gateway = IPv4Network(dst), IPv4Address(f"192.168.14.{last}")
        self.kernel[network, 0] = KernelRoute(network, gateway, LINK_INDEX, protocol, 0, plain=plain)

    @rule(dst=DESTINATIONS, metric=st.sampled_from([0, 0, 100]))
    def clear(self, dst: str, metric: int) -> None:
        self.kernel.pop((IPv4Network(dst), metric), None)

    @rule(dst=DESTINATIONS)
    def place_beside(self, dst: str) -> None:
        network, gateway = IPv4Network(dst), IPv4Address("192.168.14.91")
        self.kernel[network, 100] = KernelRoute(network, gateway, LINK_INDEX, OURS, 100, plain=True)

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0, 10.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    # What the node does

    @rule()
    def pause(self) -> None:
        """Have several things happen before the node looks again."""
        self.paused = not self.paused

    @invariant()
    def look(self) -> None:
        if not self.paused:
            self.reconcile()

    def reconcile(self) -> None:
        """Look, plan, ask the guard, apply; and have nothing left to do but what the guard holds."""
        view = self.table.view(self.context)
        self.check_view(view)
        before, todo = dict(self.kernel), self.plan(view)
        self.check_plan(view, todo)
        idle = frozenset(drop.object.dst for drop in todo.drops)
        believed = sum(route.protocol == OURS and route.metric == 0 for route in self.kernel.values())
        allowed = self.guard.allow(idle, believed, self.now_s)
        drops = [drop for drop in todo.drops if drop.object.dst in allowed]
        if drops:
            gone = [spec.network(str(drop.object.dst)) for drop in drops]
            self.guard_rule.check(gone, self.host, self.delivered, believed=believed, now_s=self.now_s)
        self.apply([*todo.puts, *drops])
        changed = {at for at in before.keys() | self.kernel.keys() if before.get(at) != self.kernel.get(at)}
        for at in changed:
            assert at not in before or before[at].protocol == OURS or before[at].protocol == BOOT, f"I6: {before[at]}"
        again = self.plan(view)
        assert not again.puts, again
        assert {drop.object.dst for drop in again.drops} == idle - allowed == self.guard.held

    def plan(self, view: View) -> RoutePlan:
        host = Host(Link(LINK_INDEX, "eth1", 1500, True, ()), (), (NETWORK,), OURS)
        wanted = {route.dst: route for route in HostGw().wanted(Peers(view.peers, view.data), host)}
        return plan(host.route_kind, wanted, self.kernel.values(), frozen=view.frozen)

    def apply(self, changes: list[KernelChange]) -> None:
        """Do to the kernel what is asked, by the kernel's rules."""
        for change in changes:
            at = change.object.dst, 0
            if isinstance(change, Drop):
                assert self.kernel.pop(at) == change.object
                continue
            assert at not in self.kernel or isinstance(change, Replace), f"a creation fails: {change}"
            gateway, index = change.object.gateway, change.object.link_index
            self.kernel[at] = KernelRoute(change.object.dst, gateway, index, OURS, 0, plain=True)

    # What must hold

    def check_view(self, view: View) -> None:
        """The peers are those that were told; and those of etcd as it is, if nothing was lost and all can be read."""
        peers = {spec.network(str(dst)): spec.address(str(gateway)) for dst, gateway in view.peers.items()}
        assert encode_name(OWN) not in view.quarantined, "our own lease is no doubtful peer"
        verdict = self.delivered.verdict(self.host)
        for subnet, gateway in peers.items():
            assert gateway in verdict.next_hops(subnet, self.host), f"nobody told of {subnet} via {gateway}"
            spec.check_put(subnet, gateway, self.host)
        assert verdict.sure <= peers.keys()
        still = self.believed & verdict.may.keys() & verdict.keep
        assert still <= peers.keys(), "a value that cannot be read takes nothing away"
        self.believed = set(peers)
        frozen = {spec.network(str(dst)) for dst in view.frozen}
        assert verdict.keep <= peers.keys() | frozen
        keys = [as_key(record) for record in self.etcd.records()]
        current = self.current and not self.broken and self.revision == self.etcd.state.revision
        if current and all(map(self.readable, keys)):
            assert peers == spec.wanted(keys, self.host)

    def readable(self, key: spec.Key) -> bool:
        said = spec.read_value(key.value)
        return said is not None and said.gateway != self.host.address

    def check_plan(self, view: View, todo: RoutePlan) -> None:
        """M2: exactly what differs is changed, and what is foreign is not."""
        puts, drops, blocked = set(), set(), set()
        for dst, gateway in view.peers.items():
            there = self.kernel.get((dst, 0))
            right = there is not None and there.plain and (there.gateway, there.link_index) == (gateway, LINK_INDEX)
            if there is None or (there.protocol == OURS and not right) or (there.protocol == BOOT and right):
                puts.add(dst)
            elif there.protocol != OURS:
                blocked.add(dst)
        for (dst, metric), route in self.kernel.items():
            inside = spec.contains(spec.CLUSTER, spec.network(str(dst)))
            if route.protocol == OURS and metric == 0 and inside and dst not in view.peers and dst not in view.frozen:
                drops.add(dst)
        assert {change.object.dst for change in todo.puts} == puts
        assert {change.object.dst for change in todo.drops} == drops
        assert todo.blocked.keys() == blocked
        assert all(isinstance(change, Create) == ((change.object.dst, 0) not in self.kernel) for change in todo.puts)

    def teardown(self) -> None:
        """Peace: three lists, ten seconds apart, and everything is as etcd has it."""
        for _ in range(4):
            self.take(self.etcd.snapshot())
            self.reconcile()
            self.now_s += 10.0
        assert not self.guard.held


def _change(key: bytes, revision: int, record: Record | None) -> Put | Gone:
    return Gone(key.removeprefix(b"subnets/"), revision) if record is None else Put(record)


def _revision(change: Put | Gone) -> int:
    return change.revision if isinstance(change, Gone) else change.record.mod_revision


TTL_S = 60.0
AMONG = SubnetRange(NETWORK, 24, IPv4Address("192.168.1.0"), IPv4Address("192.168.6.0"))
CONTENDERS = st.sampled_from([21, 22, 23])


class Contender:
    """A node that wants a lease."""

    def __init__(self, last: int) -> None:
        self.addresses = [last]  # the last is the one in use
        self.lease: OwnLease | None = None
        self.listed: Snapshot | None = None
        self.renewed_at_s = 0.0

    @property
    def ip(self) -> IPv4Address:
        return IPv4Address(f"192.168.14.{self.addresses[-1]}")

    def own(self) -> set[int]:
        return {spec.address(f"192.168.14.{last}") for last in self.addresses}


class LeaseMachine(RuleBasedStateMachine):
    """Three contenders for six subnets, of which one or another is taken by somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.etcd, self.now_s = FakeEtcd(), 1000.0
        self.ends: dict[int, float] = {}
        self.tampered_until_s = 0.0
        self.nodes = {last: Contender(last) for last in (21, 22, 23)}

    @initialize()
    def begin(self) -> None:
        self.etcd.put(b"foo", b"bar")

    # What a contender does

    @rule(which=CONTENDERS)
    def look(self, which: int) -> None:
        """Read the list; what comes of it comes later."""
        self.nodes[which].listed = self.etcd.snapshot()

    @rule(which=CONTENDERS, seed=st.integers(0, 5), took_s=st.sampled_from([0.0, 4.0]), previous=st.integers(0, 7))
    def acquire(self, which: int, seed: int, took_s: float, previous: int) -> None:
        """Do what the list suggests, or suggested a while ago, if that can still be done."""
        node = self.nodes[which]
        if node.lease is not None:
            return
        listed, node.listed = node.listed or self.etcd.snapshot(), None
        before = IPv4Network(f"192.168.{previous}.0/24") if previous else None
        request = SubnetRequest(AMONG, before, (IPv4Network("192.168.5.0/24"),))
        match choose(listed.records, node.ip, request, None, Random(seed)):
            case Claim(subnet=subnet):
                assert subnet != IPv4Network("192.168.5.0/24"), "I2: the underlay"
                self.create(node, encode_name(subnet), listed, took_s)
            case Reuse(record=record, subnet=subnet):
                assert encode_name(subnet) == record.name
                node.lease = confirmed(subnet, node.ip, record, 0.0, self.now_s - 3 * TTL_S)
                self.renew(which, took_s)
            case Discard(record=record):
                self.write(node, record, None)
            case Exhausted():
                taken = [spec.read_name(record.name) for record in listed.records]
                for third in (1, 2, 3, 4, 6):
                    subnet = spec.network(f"192.168.{third}.0/24")
                    assert any(other is not None and spec.overlap(other, subnet) for other in taken)

    def create(self, node: Contender, name: bytes, listed: Snapshot, took_s: float) -> None:
        """Create a key, provided that nothing that overlaps was created since that list."""
        records, wanted = self.etcd.records(), parse_key_name(name)
        new = (record for record in records if record.create_revision > listed.revision or record.name == name)
        if any(record.lease.key is not None and record.lease.key.overlaps(wanted) for record in new):
            return
        keys = [as_key(record) for record in records]
        lease_id = self.etcd.grant(int(TTL_S))
        self.ends[lease_id] = self.now_s + TTL_S
        record = self.etcd.put(name, encode_value(LeaseAttrs(node.ip, "host-gw")), lease_id=lease_id)
        spec.check_created(as_key(record), keys, ())
        first, length = name.decode().split("-")
        node.lease = confirmed(IPv4Network(f"{first}/{length}"), node.ip, record, TTL_S, self.now_s - took_s)

    def write(self, node: Contender, held: Record, written: bytes | None) -> Record | None:
        """Change or delete a key, provided that nobody has changed it."""
        there = next((record for record in self.etcd.records() if record.name == held.name), None)
        if there is None or there.mod_revision != held.mod_revision:
            return None
        same_lease = node.lease is not None and there.lease_id not in (0, None) and (
            there.lease_id == node.lease.record.lease_id
        )
        spec.check_written(as_key(there), written, same_lease, node.own())
        if written is None:
            self.etcd.delete(held.name)
            return None
        return self.etcd.put(held.name, written, lease_id=there.lease_id)

    @rule(which=CONTENDERS, took_s=st.sampled_from([0.0, 0.5, 4.0]))
    def renew(self, which: int, took_s: float) -> None:
        """Renew, look, and do what follows."""
        node = self.nodes[which]
        held = node.lease
        if held is None:
            return
        seen, publish = self.answer(held.record), LeaseAttrs(node.ip, "host-gw")
        finding = assess(held, publish, seen, self.now_s - took_s)
        self.check_finding(node, held, seen, finding)
        match finding:
            case Confirmed(lease=lease):
                node.lease = lease
            case Rewrite(lease=lease):
                record = self.write(node, lease.record, encode_value(publish))
                assert record is not None
                node.lease = replace(lease, record=record, public_ip=node.ip)
            case Retake():
                node.lease = None
                overlapped = any(
                    (other := spec.read_name(record.name)) is not None
                    and spec.overlap(other, spec.network(str(held.subnet))) for record in self.etcd.records()
                )  # fmt: skip
                if not overlapped:
                    self.create(node, held.record.name, self.etcd.snapshot(), took_s)
            case HeldByOther():
                node.lease = None

    def answer(self, held: Record) -> Renewal:
        """Answer as etcd does: the lease lives on, if it is there, whatever has become of the key."""
        record = next((record for record in self.etcd.records() if record.name == held.name), None)
        if not held.lease_id:
            return Renewal(record, None)
        if held.lease_id not in self.etcd.state.leases:
            return Renewal(record, 0.0)
        self.ends[held.lease_id] = self.now_s + TTL_S
        return Renewal(record, TTL_S)

    def check_finding(self, node: Contender, held: OwnLease, seen: Renewal, finding: object) -> None:
        """M4: what is found follows from the key and from nothing else."""
        record = seen.record
        if record is None:
            assert isinstance(finding, Retake)
            return
        said = spec.read_value(record.value)
        known = {spec.address(str(node.ip)), spec.address(str(held.public_ip))}
        hangs = record.lease_id != 0 and record.lease_id == held.record.lease_id
        if hangs or (said is not None and said.gateway in known):
            assert isinstance(finding, Confirmed | Rewrite), finding
            says_it = record.value == encode_value(LeaseAttrs(node.ip, "host-gw"))
            assert isinstance(finding, Confirmed) == says_it
            lasting = finding.lease.confirmed_until_s - self.now_s
            assert lasting <= TTL_S - 2.0 or record.lease_id == 0
            assert hangs or record.lease_id == 0 or lasting < 0, "who was not renewed is not believed in"
            assert 1.0 <= renewal_interval_s(TTL_S, 3.0) <= TTL_S / 10
        else:
            assert isinstance(finding, Unreadable if said is None else HeldByOther), finding

    # What time and others do

    @rule(seconds=st.sampled_from([1.0, 5.0, 20.0, 59.0, 70.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass; leases run out, each at its own moment."""
        until_s = self.now_s + seconds
        for lease_id, end_s in sorted(self.ends.items(), key=lambda item: item[1]):
            if end_s <= until_s and lease_id in self.etcd.state.leases:
                self.now_s = max(self.now_s, end_s)
                for last, node in self.nodes.items():
                    believes = node.lease is not None and node.lease.record.lease_id == lease_id
                    assert not believes or node.lease.confirmed_until_s < self.now_s, f"I1: {last} believes too long"
                self.etcd.revoke(lease_id)
        self.now_s = until_s

    def tamper(self) -> None:
        reserved = any(node.lease is not None and node.lease.reserved for node in self.nodes.values())
        self.tampered_until_s = float("inf") if reserved else max(self.tampered_until_s, self.now_s + TTL_S)

    @rule(third=st.integers(1, 6))
    def delete(self, third: int) -> None:
        self.tamper()
        self.etcd.delete(b"192.168.%d.0-24" % third)

    @rule(
        third=st.integers(1, 6), last=st.sampled_from([21, 22, 23, 90]), leased=st.booleans(),
        length=st.integers(23, 25),
    )
    def put(self, third: int, last: int, leased: bool, length: int) -> None:
        """Write a lease, or a reservation, for somebody; over whatever is there."""
        self.tamper()
        name = b"192.168.%d.0-%d" % (third & (-2 if length < 24 else -1), length)
        lease_id = self.etcd.grant(int(TTL_S)) if leased else 0
        self.ends |= {lease_id: self.now_s + TTL_S} if leased else {}
        self.etcd.put(name, value(last), lease_id=lease_id)

    @rule(third=st.integers(1, 6), same_lease=st.booleans())
    def spoil(self, third: int, same_lease: bool) -> None:
        self.tamper()
        name = b"192.168.%d.0-24" % third
        there = next((record for record in self.etcd.records() if record.name == name), None)
        self.etcd.put(name, b"{", lease_id=there.lease_id if there is not None and same_lease else 0)

    @rule(which=CONTENDERS)
    def renumber(self, which: int) -> None:
        node = self.nodes[which]
        node.addresses.append(which + 30 * (node.addresses[-1] < 30))

    @invariant()
    def no_two_hold_one_subnet(self) -> None:
        if self.now_s > self.tampered_until_s:
            spec.check_disjoint({
                str(last): spec.network(str(node.lease.subnet)) for last, node in self.nodes.items()
                if node.lease is not None and node.lease.confirmed_until_s >= self.now_s
            })  # fmt: skip


pytestmark = pytest.mark.timeout(900)  # a story that fails is made shorter first
TestRoutes = RoutesMachine.TestCase
TestRoutes.settings = SETTINGS
TestLeases = LeaseMachine.TestCase
TestLeases.settings = SETTINGS
