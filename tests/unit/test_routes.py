"""Routes: what a plan does to a kernel, by a tiny model of the kernel's own rules."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.backends import BACKENDS, Host, Peers
from pyflanneld.core.link.selection import Link
from pyflanneld.core.objects.change_reasons import ChangeReason
from pyflanneld.core.objects.plan import Append, Create, Drop, KernelChange, Plan, Replace, plan
from pyflanneld.core.objects.table import ObjectTable
from pyflanneld.core.routes import BOOT, KernelRoute, Route, RouteKind, RoutePlan, default_links
from tests.support import strategies
from tests.support.strategies import NETWORK, PROTOCOL

STATIC = 4
A, B = IPv4Address("192.168.1.11"), IPv4Address("192.168.1.12")
DST = IPv4Network("10.5.1.0/24")
ANYWHERE = IPv4Network("0.0.0.0/0")

T = TypeVar("T")
RouteTable = ObjectTable[Route, KernelRoute]
Table = dict[tuple[IPv4Network, int], KernelRoute]


HOST = Host(Link(7, "eth1", 1500, True, ()), (), (NETWORK,), PROTOCOL)


def there(
    dst: IPv4Network = DST, gateway: IPv4Address | None = A, *,
    link: int = 2, protocol: int = PROTOCOL, metric: int = 0, plain: bool = True,
) -> KernelRoute:  # fmt: skip
    return KernelRoute(dst, gateway, link, protocol, metric, plain)


def make(
    desired: Iterable[Route], present: Iterable[KernelRoute], frozen: Iterable[IPv4Network] = (),
    network: IPv4Network = NETWORK,
) -> RoutePlan:  # fmt: skip
    wanted = {route.dst: route for route in desired}
    return plan(RouteKind(PROTOCOL, (network,)), wanted, present, frozen=frozenset(frozen))


def table_of(routes: Iterable[KernelRoute], network: IPv4Network = ANYWHERE) -> RouteTable:
    """Return a table that has just read these routes of ours, wherever they are."""
    table: RouteTable = ObjectTable(RouteKind(PROTOCOL, (network,)))
    table.take_over(routes)
    return table


def settle(table: RouteTable, todo: RoutePlan, done: list[KernelChange], refused: Iterable[KernelChange] = ()) -> None:
    table.begin()
    table.settle(todo, done, dict.fromkeys(refused, 17), now_s=0.0, first=False)


class TinyKernel:
    """The main table by the kernel's rules: one route for each destination and metric."""

    def __init__(self, routes: Iterable[KernelRoute]) -> None:
        self.table: Table = {(route.dst, route.metric): route for route in routes}
        self.overwritten: list[KernelRoute] = []

    def ours(self) -> dict[IPv4Network, KernelRoute]:
        return {dst: route for (dst, metric), route in self.table.items() if metric == 0 and route.protocol == PROTOCOL}

    def apply(self, changes: Iterable[KernelChange]) -> set[KernelChange]:
        """Make the changes; return those that were refused, because something stands there."""
        refused = set()
        for change in changes:
            at = change.object.dst, 0
            if isinstance(change, Drop):
                if self.table.get(at) == change.object:
                    del self.table[at]
            elif isinstance(change, Create) and at in self.table:
                refused.add(change)
            else:
                if at in self.table:
                    self.overwritten.append(self.table[at])
                self.table[at] = there(change.object.dst, change.object.gateway, link=change.object.link_index)
        return refused


def assert_reconciled(
    before: Mapping[tuple[IPv4Network, int], KernelRoute],
    kernel: TinyKernel,
    desired: Mapping[IPv4Network, Route],
    frozen: Iterable[IPv4Network],
) -> None:
    """Check each destination of the table on its own, without a look at the plan."""
    for at in before.keys() | kernel.table.keys() | {(dst, 0) for dst in desired}:
        dst, metric = at
        old, new, wanted = before.get(at), kernel.table.get(at), desired.get(dst)
        ours = old is not None and old.protocol == PROTOCOL
        target = None if wanted is None else there(dst, wanted.gateway, link=wanted.link_index)
        leftover = target is not None and old == there(dst, target.gateway, link=target.link_index, protocol=BOOT)
        if metric != 0 or (old is not None and not ours and not leftover):
            assert new == old, "a route that is not ours was touched"
        elif target is not None:
            assert new == target, "a wanted route is missing or wrong"
        elif dst in frozen or not dst.subnet_of(NETWORK):
            assert new == old, "a frozen route, or one of another network, was touched"
        else:
            assert new is None, "a route that nothing wants is still there"


KERNELS = st.lists(strategies.kernel_routes(), max_size=12)
FROZEN = st.frozensets(st.sampled_from((DST, IPv4Network("10.5.2.0/24"), IPv4Network("10.5.3.0/24"))), max_size=2)


@given(KERNELS, strategies.wanted_routes(), FROZEN)
def test_a_plan_makes_any_kernel_what_is_wanted(
    routes: list[KernelRoute], desired: dict[IPv4Network, Route], frozen: frozenset[IPv4Network]
) -> None:
    """With the whole table known, one plan is enough, nothing is refused, and the second one is empty."""
    kernel = TinyKernel(routes)
    before = dict(kernel.table)
    first = make(desired.values(), kernel.table.values(), frozen)
    assert kernel.apply([*first.puts, *first.drops]) == set()
    assert_reconciled(before, kernel, desired, frozen)
    second = make(desired.values(), kernel.table.values(), frozen)
    assert (second.puts, second.drops, second.blocked) == ((), (), first.blocked)


@given(KERNELS, strategies.wanted_routes(), FROZEN)
def test_foreign_routes_are_learnt_of_by_refusal(
    routes: list[KernelRoute], desired: dict[IPv4Network, Route], frozen: frozenset[IPv4Network]
) -> None:
    """With only our own routes known, what is refused tells of foreign ones, and a second plan settles all."""
    kernel = TinyKernel(routes)
    before = dict(kernel.table)
    first = make(desired.values(), kernel.ours().values(), frozen)
    refused = kernel.apply([*first.puts, *first.drops])
    asked = {change.object.dst for change in refused}
    known = [route for (dst, _), route in kernel.table.items() if route.protocol == PROTOCOL or dst in asked]
    second = make(desired.values(), known, frozen)
    assert kernel.apply([*second.puts, *second.drops]) == set()
    assert_reconciled(before, kernel, desired, frozen)
    assert second.blocked.keys() <= asked


@given(KERNELS, strategies.wanted_routes(), FROZEN)
def test_the_outcome_is_what_the_kernel_has(
    routes: list[KernelRoute], desired: dict[IPv4Network, Route], frozen: frozenset[IPv4Network]
) -> None:
    """What is believed after a plan equals what the kernel's rules make of it, whatever was refused."""
    kernel = TinyKernel(routes)
    table = table_of(kernel.ours().values())
    todo = make(desired.values(), table._due_present(), frozen)
    changes = [*todo.puts, *todo.drops]
    refused = kernel.apply(changes)
    settle(table, todo, [change for change in changes if change not in refused], refused)
    assert {route.dst: route for route in table.objects()} == kernel.ours()
    assert table.present == len(kernel.ours())
    assert table.refused().keys() == {change.object.dst for change in refused}
    assert table.blocked().keys() <= todo.blocked.keys()
    assert table.take_over(kernel.ours().values()) == []


def alter(mapping: dict[IPv4Network, T], other: dict[IPv4Network, T], data: st.DataObject) -> set[IPv4Network]:
    """Take over some entries of *other*, or their absence; return which."""
    both = sorted({*mapping, *other}, key=str)
    some = set(data.draw(st.lists(st.sampled_from(both)))) if both else set[IPv4Network]()
    for dst in some:
        mapping.pop(dst, None)
    mapping.update({dst: other[dst] for dst in some if dst in other})
    return some


@given(KERNELS, strategies.wanted_routes(), FROZEN, st.data())
def test_a_plan_over_what_is_due_equals_a_plan_over_everything(
    routes: list[KernelRoute], desired: dict[IPv4Network, Route], frozen: frozenset[IPv4Network], data: st.DataObject
) -> None:
    """What the last plan has left undone and what has changed since is all that the next one has to look at."""
    table = table_of(TinyKernel(routes).ours().values(), NETWORK)
    table.want(desired.values(), None)
    first = table.plan(frozen)
    done = data.draw(st.lists(st.sampled_from([*first.puts, *first.drops]))) if first.puts or first.drops else []
    settle(table, first, done)
    changed = alter(desired, data.draw(strategies.wanted_routes()), data)
    table.want([desired[dst] for dst in changed if dst in desired], changed)
    present = {route.dst: route for route in table.objects()}
    alter(present, TinyKernel(data.draw(KERNELS)).ours(), data)
    table.take_over(present.values())
    frozen_now = data.draw(FROZEN)
    whole = make(desired.values(), present.values(), frozen_now)
    table.unpark()  # a drop that was not done
    part = table.plan(frozen_now)
    assert (set(part.puts), set(part.drops), part.blocked) == (set(whole.puts), set(whole.drops), whole.blocked)


@given(KERNELS, strategies.wanted_routes())
def test_no_destination_is_ever_without_its_route(routes: list[KernelRoute], desired: dict[IPv4Network, Route]) -> None:
    """Invariant I8: what is wanted and was there is there after each single change; nothing is put and dropped."""
    kernel = TinyKernel(routes)
    served = {dst for dst in desired if dst in kernel.ours()}
    todo = make(desired.values(), kernel.table.values())
    for change in (*todo.puts, *todo.drops):
        kernel.apply([change])
        assert served <= kernel.ours().keys()
    assert {put.object.dst for put in todo.puts}.isdisjoint(drop.object.dst for drop in todo.drops)


def test_a_missing_route_is_created() -> None:
    """Created, not replaced: the kernel refuses where something unknown stands."""
    assert make([Route(DST, A, 2)], []) == Plan((Create(Route(DST, A, 2)),), (), {})


@pytest.mark.parametrize("old", [there(gateway=B), there(link=3), there(gateway=None, link=0), there(plain=False)])
def test_a_wrong_route_of_ours_is_replaced(old: KernelRoute) -> None:
    """Another gateway, link or kind under our protocol is put right in one step."""
    assert make([Route(DST, A, 2)], [old]) == Plan((Replace(Route(DST, A, 2)),), (), {})


def test_a_right_route_is_left_alone() -> None:
    """Invariant I11: no change where there is nothing to change."""
    assert make([Route(DST, A, 2)], [there()]) == Plan((), (), {})


def test_an_idle_route_of_ours_is_dropped() -> None:
    """Dropped exactly as it stands there, so that nothing else can be hit."""
    old = there(gateway=B, link=3, plain=False)
    assert make([], [old]) == Plan((), (Drop(old),), {})


def test_the_exact_leftover_of_a_go_flanneld_is_taken_over() -> None:
    """Protocol boot with our destination, gateway and link becomes ours in place."""
    assert make([Route(DST, A, 2)], [there(protocol=BOOT)]) == Plan((Replace(Route(DST, A, 2)),), (), {})


@pytest.mark.parametrize(
    "foreign",
    [
        there(protocol=BOOT, gateway=B),
        there(protocol=BOOT, link=3),
        there(protocol=BOOT, gateway=None),
        there(protocol=BOOT, plain=False),
        there(protocol=STATIC),
        there(protocol=2, gateway=None),
    ],
)
def test_any_other_route_is_left_alone_and_reported(foreign: KernelRoute) -> None:
    """Row F69: a foreign route on a wanted destination stays, whoever set it; nothing is tried, and it is named."""
    assert make([Route(DST, A, 2)], [foreign]) == Plan((), (), {DST: foreign})


def test_foreign_routes_that_nothing_wants_are_not_even_named() -> None:
    """Invariant I6: what is not ours and not in the way does not concern us, leftovers included."""
    assert make([], [there(protocol=STATIC), there(protocol=BOOT, dst=NETWORK)]) == Plan((), (), {})


@pytest.mark.parametrize("protocol", [PROTOCOL, BOOT, STATIC])
def test_a_route_of_another_metric_is_another_route(protocol: int) -> None:
    """Row F68: a duplicate with a metric is neither a conflict, nor a substitute, nor ours to remove."""
    other = there(protocol=protocol, metric=100)
    assert make([Route(DST, A, 2)], [other]).puts == (Create(Route(DST, A, 2)),)
    assert make([], [other]) == Plan((), (), {})


def test_a_replacement_never_hits_a_foreign_route() -> None:
    """The kernel replaces the first: where that is foreign, ours is put beside it, and our old one goes after that."""
    want, foreign, old = Route(DST, A, 2), there(protocol=STATIC), there(gateway=B)
    assert make([want], [old, foreign]) == Plan((Replace(want),), (), {})
    assert make([want], [foreign, old]) == Plan((Append(want),), (), {}, extras=(Drop(old),))
    for present in ([there(), foreign], [foreign, there()]):
        assert make([want], present) == Plan((), (), {})
    leftover = there(protocol=BOOT)
    assert make([want], [old, leftover]) == Plan((Replace(want),), (), {})
    assert make([want], [leftover, old]) == Plan((Replace(want),), (), {}, extras=(Drop(old),))


def test_one_route_of_ours_is_enough() -> None:
    """With the wanted one there, others of ours for its destination go, also those for a type of service; else one is
    replaced, and the others go."""
    want, tos = Route(DST, A, 2), KernelRoute(DST, B, 2, PROTOCOL, 0, plain=False, tos=8)
    one, other = there(gateway=B), there(link=3)
    assert make([want], [tos, one, there(), other]) == Plan((), (), {}, extras=(Drop(tos), Drop(one), Drop(other)))
    assert make([want], [tos, one, other]) == Plan((Replace(want),), (), {}, extras=(Drop(tos), Drop(other)))
    assert make([want], [tos]) == Plan((Create(want),), (), {}, extras=(Drop(tos),))
    assert make([], [tos, one]).drops == (Drop(tos), Drop(one))


def test_a_next_hop_of_ours_among_others() -> None:
    """The kernel makes IPv6 routes with one metric one route: ours is known by what was there before."""
    dst, a, b = IPv6Network("fd00:5::/64"), IPv6Address("fd00::a"), IPv6Address("fd00::b")
    kind = RouteKind(PROTOCOL, (IPv6Network("fd00::/16"),))
    alone = KernelRoute(dst, a, 2, PROTOCOL, 1024, plain=True)
    several = KernelRoute(dst, None, 0, PROTOCOL, 1024, plain=False, hops=((a, 2), (b, 2)))
    table: ObjectTable[Route, KernelRoute] = ObjectTable(kind)
    table.want([Route(dst, a, 2)], None)
    table.take_over([alone])
    settle(table, table.plan(), [])
    (found,) = table.take_over([several])
    assert found.now is not None
    assert found.now.gateway == a
    assert table.plan() == Plan((), (), {}), "it is as wanted"
    assert table.take_over([several]) == []
    moved = Route(dst, IPv6Address("fd00::c"), 2)
    table.want([moved], [dst])
    assert table.plan() == Plan((Append(moved),), (), {}, extras=(Drop(found.now),))
    unknown: ObjectTable[Route, KernelRoute] = ObjectTable(kind)
    unknown.take_over([several])
    unknown.want([moved], None)
    assert unknown.plan() == Plan((), (), {dst: several}), "whose the next hops are is not known"
    unknown.want([Route(dst, b, 2)], None)
    assert unknown.plan() == Plan((), (), {}), "the wanted one is ours"
    unknown.want([], None)
    assert unknown.plan() == Plan((), (), {})


def test_what_takes_the_packets() -> None:
    """A route before ours, one to a part of the destination, one for a type of service; not what stands behind."""
    kind, wanted = RouteKind(PROTOCOL, (NETWORK,)), {DST: Route(DST, A, 2)}
    foreign = there(protocol=STATIC, gateway=B)
    assert kind.shadows(wanted, [there(), foreign]) == {}
    assert kind.shadows(wanted, [foreign, there()]) == {DST: foreign}
    assert kind.shadows(wanted, [foreign]) == {}, "that is a conflict, and reported as one"
    part = there(IPv4Network("10.5.1.128/25"), protocol=STATIC)
    assert kind.shadows(wanted, [there(), part]) == {DST: part}
    tos = KernelRoute(DST, B, 2, STATIC, 0, plain=False, tos=8)
    assert kind.shadows(wanted, [tos, there()]) == {DST: tos}
    assert kind.shadows(wanted, [there(), there(protocol=STATIC, metric=7)]) == {}


def test_a_leftover_behind_a_foreign_route_is_not_taken_over() -> None:
    """Of several foreign routes the kernel would replace the first: that one decides."""
    static, leftover = there(protocol=STATIC, gateway=B), there(protocol=BOOT)
    assert make([Route(DST, A, 2)], [static, leftover]) == Plan((), (), {DST: static})
    assert make([Route(DST, A, 2)], [leftover, static]) == Plan((Replace(Route(DST, A, 2)),), (), {})


def test_a_frozen_route_stays_as_it_is() -> None:
    """A destination whose lease cannot be read keeps the route of ours that it has, and gets none."""
    old = there(gateway=B)
    assert make([], [old], [DST]) == Plan((), (), {})
    assert make([], [], [DST]) == Plan((), (), {})
    assert make([Route(DST, A, 2)], [old], [DST]) == Plan((Replace(Route(DST, A, 2)),), (), {})


@pytest.mark.parametrize("dst", ["10.6.1.0/24", "10.0.0.0/8", "0.0.0.0/0", "172.7.21.0/24"])
def test_a_route_of_ours_outside_the_network_is_left_alone(dst: str) -> None:
    """Row F47: another daemon on this host, for another network, may use the same protocol number."""
    assert make([], [there(IPv4Network(dst))]) == Plan((), (), {})


def test_every_part_of_the_network_is_swept() -> None:
    """Row F33: routes of ours that nothing wants go, whatever their length."""
    old = [there(IPv4Network(text)) for text in ("10.5.0.0/16", "10.5.9.0/24", "10.5.9.128/25", "10.5.9.1/32")]
    assert make([], old).drops == tuple(map(Drop, old))


def test_host_gw_needs_one_route_for_each_peer() -> None:
    """The backend is a function from peers to routes through their own addresses."""
    host_gw = BACKENDS["host-gw"]
    assert list(host_gw.wanted(Peers({DST: A}, {}), HOST)) == [Route(DST, A, 7)]
    assert list(host_gw.wanted(Peers({}, {}), HOST)) == []
    assert (host_gw.mtu(1500), host_gw.lease_data(4, HOST)) == (1500, {})
    assert (host_gw.name, host_gw.lease_type, host_gw.needs_public_ip_on_link) == ("host-gw", "host-gw", True)


def test_alloc_needs_no_route_at_all() -> None:
    """The backend asks for nothing, says nothing in the lease, and takes any published address."""
    alloc = BACKENDS["alloc"]
    assert list(alloc.wanted(Peers({DST: A}, {}), HOST)) == []
    assert list(alloc.kinds(HOST)) == [RouteKind(PROTOCOL, (NETWORK,))], "what host-gw has left is swept"
    assert (alloc.name, alloc.lease_type, alloc.needs_public_ip_on_link) == ("alloc", "", False)


class TestTable:
    """What the table remembers of each destination."""

    FOREIGN = there(protocol=STATIC, gateway=B)

    def test_a_route_that_cannot_be_had_waits_since_the_first_refusal(self) -> None:
        """Refused, then found blocked by a foreign route, then free: one state at a time, and since when."""
        table, wanted = table_of([]), Route(DST, A, 2)
        todo = make([wanted], table._due_present())
        table.begin()
        table.settle(todo, [], {todo.puts[0]: 17}, now_s=5.0, first=True)
        assert (table.refused(), table.blocked()) == ({DST: 17}, {})
        table.note_all([self.FOREIGN])
        todo = make([wanted], table._due_present())
        table.begin()
        table.settle(todo, [], {}, now_s=9.0, first=True)
        assert (table.refused(), table.blocked()) == ({}, {DST: self.FOREIGN})
        assert table.waiting()[DST].waiting_since_s == 5.0
        table.forget_foreign()
        todo = make([wanted], table._due_present())
        table.begin()
        ((_, reason),) = table.settle(todo, list(todo.puts), {}, now_s=9.0, first=False)
        assert (reason, table.waiting(), table.present) == ("way_free", {}, 1)

    def test_one_too_many_is_not_there_once_it_is_dropped(self) -> None:
        """Also where what was to be put beside it was refused: a foreign route had come meanwhile."""
        odd = replace(there(gateway=B), tos=16, plain=False)
        table, wanted = table_of([odd]), Route(DST, A, 2)
        todo = make([wanted], table._due_present())
        assert ([type(put) for put in todo.puts], [drop.object for drop in todo.extras]) == ([Create], [odd])
        table.begin()
        table.settle(todo, list(todo.extras), {todo.puts[0]: 17}, now_s=5.0, first=False)
        assert (table.has(DST), table.present) == (False, 0)

    def test_a_loss_is_the_reason_of_the_repair(self) -> None:
        """The reason that is noted for a lost route is that of the change that puts it again; then it is forgotten."""
        table, wanted = table_of([there()]), Route(DST, A, 2)
        (gone,) = table.take_over([])
        assert (gone.before, gone.now, table.present) == (there(), None, 0)
        table.note_losses({DST: ChangeReason.LINK})
        todo = make([wanted], table._due_present())
        table.begin()
        ((_, reason),) = table.settle(todo, list(todo.puts), {}, now_s=0.0, first=False)
        assert (reason, table.present) == (ChangeReason.LINK, 1)

    def test_nothing_of_a_peer_that_has_left_is_kept(self) -> None:
        """A lost route that nobody wants any more leaves no entry behind, nor does one that was dropped."""
        other = IPv4Network("10.5.2.0/24")
        table = table_of([there(), there(other)])
        table.take_over([there(other)])
        table.note_losses({DST: ChangeReason.DELETED_BY_OTHERS})
        todo = make([], table._due_present())
        table.begin()
        table.settle(todo, list(todo.drops), {}, now_s=0.0, first=False)
        assert (table.present, table.waiting(), list(table._due_present())) == (0, {}, [])
        assert not table._at


def default(metric: int, *links: int) -> KernelRoute:
    """Return a default route with a next hop through each of *links*."""
    one, several = (links[0], ()) if len(links) == 1 else (0, links)
    return KernelRoute(IPv4Network("0.0.0.0/0"), None, one, STATIC, metric, plain=False, multipath=several)


@pytest.mark.parametrize(
    ("routes", "links"),
    [
        ((), ()),
        ((default(100, 5), default(20, 3), default(20, 4)), (3, 4)),
        ((default(20, 3, 3), default(100, 5)), (3,)),
        ((default(0, 4, 3, 4),), (4, 3)),
        ((default(0), default(20, 3)), (3,)),
        ((KernelRoute(DST, A, 2, STATIC, 0, plain=True),), ()),
    ],
    ids=["none", "lowest metric", "one link", "several links", "unreachable", "no default route"],
)
def test_the_links_of_the_default_route(routes: tuple[KernelRoute, ...], links: tuple[int, ...]) -> None:
    """Those that the kernel may use, in its order: of the lowest metric, each once, however many next hops."""
    assert default_links(routes) == links
