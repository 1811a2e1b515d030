"""What the daemon says and counts about its changes: each with its cause. Real loops on fakes, virtual time."""

import asyncio
import errno
from collections import Counter
from ipaddress import IPv4Address

from pyflanneld.core.objects.change_reasons import ChangeReason
from pyflanneld.core.routes import BOOT, KernelRoute
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.state.counters import DROP, KINDS, LISTS, PUT, ROUND_BOUNDS_S, Durations
from tests.support.fakes.node import FakeNode, value
from tests.support.fakes.virtual_time import run, until
from tests.unit.test_daemon_routes import PINNED, cluster, name, net


def foreign(third: int, *, protocol: int = 4, gateway: str = "192.168.14.5") -> KernelRoute:
    return KernelRoute(net(third), IPv4Address(gateway), 2, protocol, 0, True)


def told(node: FakeNode) -> list[tuple[str, str, object]]:
    """Return the changes in the log, as event, destination and cause."""
    changes = ("route.put", "route.dropped", "route.adopted")
    return [(event, str(fields["dst"]), fields["reason"]) for _, event, fields in node.log.events if event in changes]


def test_each_change_of_the_peers_is_one_line_with_its_cause() -> None:
    """Found at the start, joined, moved to another gateway, left; counted under the same words."""

    async def scenario() -> None:
        etcd = cluster(22)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.put(name(23), value("192.168.14.23"))
            await until(lambda: len(told(node)) == 2, 1)
            etcd.put(name(23), value("192.168.14.123"))
            await until(lambda: len(told(node)) == 3, 1)
            etcd.delete(name(23))
            await until(lambda: len(told(node)) == 4, 1)
        assert told(node) == [
            ("route.put", "172.7.22.0/24", "start"),
            ("route.put", "172.7.23.0/24", "peer_joined"),
            ("route.put", "172.7.23.0/24", "gateway_changed"),
            ("route.dropped", "172.7.23.0/24", "peer_left"),
        ]
        assert node.counters.routes == Counter({
            (PUT, ChangeReason.START): 1, (PUT, ChangeReason.PEER_JOINED): 1, (PUT, ChangeReason.GATEWAY_CHANGED): 1,
            (DROP, ChangeReason.PEER_LEFT): 1,
        })  # fmt: skip
        assert not node.counters.repairs

    run(scenario())


def test_repairs_say_who_took_the_route() -> None:
    """Deleted by others, replaced by others, and gone with the link are told apart."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            node.log.events.clear()
            node.kernel.delete_route(net(22))
            await until(lambda: told(node), 1)
            node.kernel.add_foreign(foreign(23, protocol=103))
            await until(lambda: len(told(node)) == 2, 1)
            node.kernel.link_down("eth1")
            await asyncio.sleep(5)
            node.kernel.link_up("eth1")
            await until(lambda: len(told(node)) == 4, 2)
        changes = [(dst, reason) for _, dst, reason in told(node)]
        assert changes[:2] == [("172.7.22.0/24", "deleted_by_others"), ("172.7.23.0/24", "changed_by_others")]
        assert sorted(changes[2:]) == [("172.7.22.0/24", "link"), ("172.7.23.0/24", "link")]
        assert node.counters.repairs == {
            ChangeReason.DELETED_BY_OTHERS: 1,
            ChangeReason.CHANGED_BY_OTHERS: 1,
            ChangeReason.LINK: 2,
        }

    run(scenario())


def test_a_link_that_flaps_between_two_looks_is_still_the_cause() -> None:
    """Down and up in one moment: the routes went without a word about routes, so nobody else is blamed."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            node.kernel.link_down("eth1")
            node.kernel.link_up("eth1")
            await until(lambda: node.counters.repairs, 2)
            assert node.counters.repairs == {ChangeReason.LINK: 2}

    run(scenario())


def test_what_stood_in_the_way_is_told_from_a_new_peer() -> None:
    """A Go daemon's leftover is adopted; a foreign route that goes, or a refusal that ends, leaves the way free."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23, 24), env=PINNED)
        node.kernel.add_foreign(foreign(22, protocol=BOOT, gateway="192.168.14.22"))
        node.kernel.add_foreign(foreign(23))
        async with node.running():
            assert told(node) == [
                ("route.put", "172.7.24.0/24", "start"), ("route.adopted", "172.7.22.0/24", "adopted"),
            ]  # fmt: skip
            node.kernel.delete_route(net(23))
            await until(lambda: len(told(node)) == 3, 2)
            node.kernel.refuse(net(25), errno.ENETUNREACH)
            node.registry.etcd.put(name(25), value("192.168.14.25"))
            await until(lambda: len(told(node)) == 4, 3)
        assert told(node)[2:] == [
            ("route.put", "172.7.23.0/24", "way_free"), ("route.put", "172.7.25.0/24", "way_free"),
        ]  # fmt: skip

    run(scenario())


def test_many_changes_are_one_line_with_the_causes_counted() -> None:
    """More than twenty at once: how many for which cause, and no line for each."""

    async def scenario() -> None:
        node = FakeNode(cluster(*range(100, 130)), env=PINNED)
        async with node.running():
            pass
        (fields,) = [fields for _, event, fields in node.log.events if event == "routes.changed"]
        assert (fields["put"], fields["dropped"], fields["reasons"]) == (30, 0, {"start": 30})
        assert told(node) == []

    run(scenario())


def test_lists_errors_and_renewals_are_counted() -> None:
    """Why lists were read, which loop met which error, how the lease fared; all labels from the fixed sets."""

    async def scenario() -> None:
        etcd = cluster(22)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.put(name(23), value("192.168.14.23"))
            await asyncio.sleep(700)
            counters = node.counters
            assert (counters.lists["first"], counters.lists["due"] >= 1) == (1, True)
            assert (counters.watch_events, counters.revision) == (
                2,
                etcd.state.revision,
            )  # the peer's, and our own lease
            assert counters.renewals[True] >= 2
            node.registry.down = RegistryUnavailable("cut")
            await asyncio.sleep(700)
            heard_at_s = counters.heard_at_s
            assert heard_at_s is not None
            assert node.clock.now_s() - heard_at_s > 600
            node.registry.down = None
            await until(lambda: counters.lists["watch_ended"], 31)
            etcd.compact()
            node.registry.deny()
            await asyncio.sleep(60)
        assert counters.etcd_errors["peers", "unavailable"] > 10
        assert counters.etcd_errors["lease", "unavailable"] > 1
        assert counters.etcd_errors["peers", "denied"] > 3
        assert counters.lists.keys() <= set(LISTS)
        assert {kind for _, kind in counters.etcd_errors} <= set(KINDS)
        assert counters.renewals[False] > 1
        assert counters.rounds.count > 50

    run(scenario())


def test_quarantined_keys_are_remembered_with_their_beginning() -> None:
    """Since when each key is doubted; forgotten when it is believed again."""

    async def scenario() -> None:
        etcd = cluster(22)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            began_s = node.clock.now_s()
            etcd.put(name(99), b"junk")
            await asyncio.sleep(400)
            (since_s,) = [node.counters.quarantined_since_s[name(99)]]
            assert since_s - began_s < 1
            etcd.delete(name(99))
            await until(lambda: not node.counters.quarantined_since_s, 1)

    run(scenario())


def test_durations_fall_into_their_buckets() -> None:
    """A bucket holds what is at most its bound; the last one holds the rest."""
    durations = Durations()
    for seconds in (0.0005, 0.001, 0.0011, 99.0):
        durations.add(seconds)
    assert durations.counts[:2] == [2, 1]
    assert durations.counts[-1] == 1
    assert len(durations.counts) == len(ROUND_BOUNDS_S) + 1
    assert (durations.count, round(durations.sum_s, 4)) == (4, 99.0026)
