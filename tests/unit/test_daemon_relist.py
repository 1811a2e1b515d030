"""Large clusters: after a break the watch goes on at once, and the list comes in turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import IPv4Network
from itertools import islice, pairwise
from random import Random
from typing import Any

from pyflanneld.core.backoff import list_round_s
from pyflanneld.core.etcd_types import Gone, Position, Put, Snapshot
from pyflanneld.core.lease.codec import encode_name
from pyflanneld.errors import HistoryChanged, RegistryError, RegistryUnavailable
from pyflanneld.ports import Change
from pyflanneld.state.readiness import unready_reasons
from tests.support.etcd.participant import EtcdSide
from tests.support.fakes.node import value
from tests.support.fakes.registry import FakeEtcd, FakeRegistry
from tests.support.fakes.virtual_time import VirtualClock, run, until

NEW = b"10.200.0.0-24"


def now() -> float:
    return asyncio.get_running_loop().time()


class Site:
    """A cluster of *nodes* leases, of which a few are alive here."""

    def __init__(self, nodes: int, alive: int = 1) -> None:
        self.etcd = FakeEtcd()
        self.registries = [FakeRegistry(self.etcd) for _ in range(alive)]
        self.round_s = list_round_s(nodes)
        subnets = islice(IPv4Network("10.0.0.0/8").subnets(new_prefix=24), nodes)
        lease_id = self.etcd.grant(86400)
        records = [self.etcd.put(encode_name(net), value("192.168.0.1"), lease_id=lease_id) for net in subnets]
        listed = self.etcd.snapshot()
        self.sides = []
        for number, registry in enumerate(self.registries):
            side = EtcdSide(registry, VirtualClock(), host=1, rng=Random(number))
            side.take(records[number], listed, 86400.0)
            self.sides.append(side)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(side.run()) for side in self.sides]
        await until(lambda: all(side.counted.watches_at for side in self.sides), 5)
        await asyncio.sleep(1)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    def cut(self) -> float:
        """End all watches; return the time."""
        for side in self.sides:
            side.node.wake.routes.take(Change.PEERS)
        self.etcd.cut_watches()
        return now()

    def down(self, error: RegistryError | None) -> None:
        for registry in self.registries:
            registry.down = error

    def lists(self, began: float) -> list[list[float]]:
        """Return, for each node, when it has listed since *began*."""
        return [[at - began for at in side.counted.lists_at if at >= began] for side in self.sides]

    def all_heard(self) -> bool:
        """Return whether every node has folded in a change since the cut."""
        return all(Change.PEERS in side.node.wake.routes.changes for side in self.sides)


def test_a_large_cluster_watches_on_and_lists_once_in_turn() -> None:
    """After a break a change is followed within a second, without a list; the one list comes within the round."""

    async def scenario() -> None:
        site = Site(4000)
        async with site.running():
            began = site.cut()
            site.etcd.put(NEW, value("192.168.0.9"))
            await until(site.all_heard, 1)
            assert site.lists(began) == [[]]
            await asyncio.sleep(1.1 * site.round_s)
            assert len(site.lists(began)[0]) == 1

    run(scenario())


def test_turns_are_spread_over_the_round() -> None:
    """Nodes whose watches break together list once each, at different times, early and late."""

    async def scenario() -> None:
        site = Site(1000, alive=20)
        async with site.running():
            began = site.cut()
            await asyncio.sleep(1.1 * site.round_s)
            times = sorted(first for [first] in site.lists(began))
            assert times[0] < 0.2 * site.round_s
            assert times[-1] > 0.8 * site.round_s
            assert max(later - sooner for sooner, later in pairwise(times)) < 0.4 * site.round_s

    run(scenario())


def test_a_small_cluster_lists_at_once() -> None:
    """With a dozen nodes nobody waits for a turn."""

    async def scenario() -> None:
        site = Site(12, alive=12)
        async with site.running():
            began = site.cut()
            await until(lambda: all(site.lists(began)), 0.5)

    run(scenario())


def test_a_watch_that_keeps_breaking_puts_off_no_turn() -> None:
    """The turn is drawn once for each list, so a watch that breaks all the time cannot postpone the list for ever."""

    async def scenario() -> None:
        site = Site(2000)
        async with site.running():
            began = site.cut()
            for _ in range(int(1.1 * site.round_s)):
                await asyncio.sleep(1)
                site.cut()
            assert site.lists(began)[0]

    run(scenario())


def test_after_a_long_outage_the_turn_is_still_to_come() -> None:
    """An outage longer than the round does not end in a list of everybody at once; the watches are back soon."""

    async def scenario() -> None:
        site = Site(2500, alive=20)
        async with site.running():
            site.down(RegistryUnavailable("down"))
            site.cut()
            await asyncio.sleep(10 * site.round_s)
            site.down(None)
            back = now()
            site.etcd.put(NEW, value("192.168.0.9"))
            await until(site.all_heard, 10.5)
            await asyncio.sleep(10 + site.round_s)
            firsts = [min(times) for times in site.lists(back)]
            assert max(firsts) <= 10 + site.round_s
            assert sum(first <= 10.5 for first in firsts) < len(firsts) / 2

    run(scenario())


def test_what_cannot_be_continued_is_listed_soon() -> None:
    """A compacted position and a restored backup leave nobody blind for a round: the list comes within 11 s."""

    async def scenario() -> None:
        site = Site(4000)
        async with site.running():
            backup = site.etcd.backup()
            site.down(RegistryUnavailable("down"))
            site.etcd.put(NEW, value("192.168.0.9"))
            site.etcd.put(NEW, value("192.168.0.8"))
            site.etcd.compact()
            site.down(None)
            began = now()
            await until(lambda: all(site.lists(began)), 11)
            await asyncio.sleep(1)
            began = now()
            site.etcd.restore(backup)
            await until(lambda: all(site.lists(began)), 11)
            assert site.sides[0].log.count("etcd.history_changed") == 1

    run(scenario())


def test_two_histories_side_by_side_are_not_asked_without_end() -> None:
    """Where list and watch never agree (members of two clusters), the lists come more and more slowly."""

    async def scenario() -> None:
        site = Site(12)

        def refused(_since: Snapshot) -> AbstractAsyncContextManager[Any]:
            raise HistoryChanged("another cluster answered the watch")

        async with site.running():
            site.sides[0].counted.watch_subnets = refused  # type: ignore[method-assign]
            began = site.cut()
            await asyncio.sleep(60)
            assert 3 <= len(site.lists(began)[0]) <= 16

    run(scenario())


def test_the_periodic_list_is_as_rare_as_the_cluster_is_large() -> None:
    """With 8,000 nodes a list is good for ten minutes, give or take a fifth, instead of five."""

    async def scenario() -> None:
        site = Site(8000)
        async with site.running():
            began = now()
            await until(lambda: all(site.lists(began)), 1.2 * site.round_s, step_s=1)
            [[first]] = site.lists(began)
            assert first > 0.79 * site.round_s > 500

    run(scenario())


def test_an_end_of_the_own_key_that_is_told_late_takes_no_knowledge_back() -> None:
    """Junk came beside the key, which was there after that; an older end that is told again does not change it."""

    async def scenario() -> None:
        site = Site(12)
        async with site.running():
            [side] = site.sides
            held = side.node.lease.record
            assert held.lease.key is not None
            half = next(held.lease.key.ipv4.subnets())
            end = Gone(held.name, site.etcd.snapshot().revision + 1)
            junk = site.etcd.put(encode_name(half), b"junk")
            own = site.etcd.put(held.name, held.value, lease_id=held.lease_id)

            @asynccontextmanager
            async def telling(_after: Position) -> AsyncIterator[AsyncIterator[tuple[Put | Gone, ...]]]:
                async def told() -> AsyncIterator[tuple[Put | Gone, ...]]:
                    yield Put(junk), Put(own), end
                    await asyncio.Event().wait()

                yield told()

            site.registries[0].watch_subnets = telling  # type: ignore[method-assign, assignment]
            site.cut()
            await until(lambda: side.node.junk_beside, 5)
            assert side.node.junk_beside == {junk.incarnation}

    run(scenario())


class TestListsThatFail:
    """One kind of call fails: whatever else works goes on."""

    @staticmethod
    def without_lists(site: Site, takes_s: float = 5.0) -> None:
        async def no_list(*, elsewhere: bool = False) -> Snapshot:  # noqa: ARG001
            await asyncio.sleep(takes_s)
            raise RegistryUnavailable("no list within 5 s")

        for registry in site.registries:
            registry.list_subnets = no_list  # type: ignore[method-assign]

    def test_the_watch_goes_on(self) -> None:
        """Every change is followed within seconds, while lists fail for minutes; and it is said, as one condition."""

        async def scenario() -> None:
            site = Site(12)
            async with site.running():
                side = site.sides[0]
                self.without_lists(site)
                site.cut()
                await asyncio.sleep(60)
                for host in range(9, 19):
                    side.node.wake.routes.take(Change.PEERS)
                    site.etcd.put(NEW, value(f"192.168.0.{host}"))
                    await until(site.all_heard, 2.5)
                    await asyncio.sleep(7)
                [condition] = side.context.conditions.open().values()
                assert (condition.event, condition.blocks) == ("etcd.unavailable", False)
                assert side.log.count("etcd.unavailable") == 2  # the watch that was cut, and the lists

        run(scenario())

    def test_not_ready_when_it_lasts(self) -> None:
        """After a quarter of an hour with the watch alone the host is not ready; with the first list it is again."""

        async def scenario() -> None:
            site = Site(12)
            async with site.running():
                conditions, list_subnets = site.sides[0].context.conditions, site.registries[0].list_subnets
                self.without_lists(site)
                site.cut()
                await asyncio.sleep(800)
                assert not conditions.blocking()
                await asyncio.sleep(200)
                assert "the list of the peers cannot be read" in conditions.blocking()[0]
                site.registries[0].list_subnets = list_subnets  # type: ignore[method-assign]
                await until(lambda: not conditions.open(), 15)

        run(scenario())

    def test_a_list_is_no_newer_than_its_request(self) -> None:
        """What the watch tells while a list is read stays, although the list does not know it."""

        async def scenario() -> None:
            site = Site(12)
            async with site.running():
                side, list_subnets = site.sides[0], site.registries[0].list_subnets

                async def slow(*, elsewhere: bool = False) -> Snapshot:
                    listed = await list_subnets(elsewhere=elsewhere)
                    await asyncio.sleep(30)
                    return listed

                site.registries[0].list_subnets = slow  # type: ignore[method-assign]
                gone = encode_name(IPv4Network("10.0.5.0/24"))
                site.cut()
                await asyncio.sleep(5)
                site.etcd.put(NEW, value("192.168.0.9"))
                site.etcd.delete(gone)
                await until(site.all_heard, 2)
                names, wake = {record.name for record in side.node.peers.records()}, side.node.wake.routes.set

                def checked(changes: Change) -> None:
                    assert names == {record.name for record in side.node.peers.records()}
                    wake(changes)

                side.node.wake.routes.set = checked  # type: ignore[method-assign, assignment]
                await until(lambda: side.counted.listed_at, 60)
                await asyncio.sleep(1)
                assert names == {record.name for record in side.node.peers.records()}
                assert NEW in names
                assert gone not in names

        run(scenario())

    def test_nothing_of_the_peers_although_etcd_answers(self) -> None:
        """Lists and watches fail while renewals work: not ready after a while. In an outage it stays ready."""

        async def scenario() -> None:
            site = Site(12)
            async with site.running():
                side = site.sides[0]
                self.without_lists(site)

                def refused(_since: Snapshot) -> AbstractAsyncContextManager[Any]:
                    raise RegistryUnavailable("no watch")

                site.down(RegistryUnavailable("down"))
                await asyncio.sleep(1000)
                assert not [one.event for one in unready_reasons(side.context, side.node) if "peers" in one.event]
                side.counted.watch_subnets = refused  # type: ignore[method-assign]
                site.down(None)
                await asyncio.sleep(600)
                assert "peers.unknown" in [one.event for one in unready_reasons(side.context, side.node)]

        run(scenario())
