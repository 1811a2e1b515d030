"""The contract of ``ports.Registry``, kept by the fake and by the real etcd alike."""

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from pyflanneld.core.etcd_types import Gone, Put, Record, Renewal, Snapshot
from pyflanneld.errors import HistoryChanged, RegistryUnavailable, RevisionCompacted
from tests.contract.registry_bench import DAY_S, Bench, subnet_name
from tests.support.polling import eventually

A, B, C = b"10.1.0.0-24", b"10.2.0.0-24", b"10.3.0.0-24"


async def made(bench: Bench, name: bytes = A, value: bytes = b"{}") -> Record:
    """Create a subnet without a conflict."""
    record = await bench.registry.create_subnet(
        name, value, ttl_s=DAY_S, listed=await bench.registry.list_subnets()
    )
    assert record is not None
    return record


def renewed(bench: Bench, held: Record, renewal: Renewal) -> Record:
    """Return *held* as it is to be found after *renewal*."""
    if not bench.renewals_are_changes or renewal.record is None:
        return held
    assert renewal.record.mod_revision > held.mod_revision
    return replace(held, mod_revision=renewal.record.mod_revision)


def client_tasks() -> set[asyncio.Task[Any]]:
    """Return all tasks except those of the proxy, which keeps one for each connection."""
    return {task for task in asyncio.all_tasks() if "TcpProxy" not in repr(task.get_coro())}


async def upcoming(watch: AsyncIterator[tuple[Put | Gone, ...]], count: int) -> list[Put | Gone]:
    """Return the next *count* changes, however they are grouped."""
    changes: list[Put | Gone] = []
    async with asyncio.timeout(10):
        while len(changes) < count:
            changes.extend(await anext(watch))
    return changes


async def read_until_error(watch: AsyncIterator[Any]) -> list[Any]:
    """Read on until the watch raises, which it does."""
    read = []
    async with asyncio.timeout(10):
        while True:
            read.append(await anext(watch))


class TestConfig:
    async def test_absent(self, bench: Bench) -> None:
        """No configuration is a value of its own, with a revision to watch from."""
        config = await bench.registry.read_config()
        assert config.value is None
        assert config.revision >= 1

    async def test_read(self, bench: Bench) -> None:
        """The bytes are returned as they are, at a revision that includes them."""
        before = await bench.registry.read_config()
        await bench.put(b"config", b'{"Network":"10.0.0.0/8"}\xff')
        config = await bench.registry.read_config()
        assert config.value == bench.stored(b'{"Network":"10.0.0.0/8"}\xff')
        assert config.revision > before.revision

    async def test_watch(self, bench: Bench) -> None:
        """A change after the given revision is delivered, also one from before the watch was opened; others are not."""
        config = await bench.registry.read_config()
        await bench.put(b"config", b"1")
        async with bench.registry.watch_config(config.revision) as ticks, asyncio.timeout(10):
            await anext(ticks)  # open
            await anext(ticks)
            quiet = asyncio.ensure_future(anext(ticks))
            await bench.put(b"subnets/" + A, b"not the configuration")
            await bench.put(b"config2", b"nor this")
            await bench.registry.read_config()
            assert not quiet.done()
            await bench.delete(b"config")
            await quiet

    async def test_watch_from_a_forgotten_revision(self, bench: Bench) -> None:
        """A position before the compaction is refused as such."""
        config = await bench.registry.read_config()
        for value in (b"1", b"2", b"3"):
            await bench.put(b"config", value)
        await bench.compact()
        with pytest.raises(RevisionCompacted):
            async with bench.registry.watch_config(config.revision) as ticks:
                await read_until_error(ticks)


class TestList:
    async def test_empty(self, bench: Bench) -> None:
        """No subnets is a complete list."""
        assert (await bench.registry.list_subnets()).records == ()

    async def test_many(self, bench: Bench) -> None:
        """More keys than one page holds come complete, in order and at one revision."""
        await bench.fill(1201)
        snapshot = await bench.registry.list_subnets()
        assert [record.name for record in snapshot.records] == sorted(subnet_name(number) for number in range(1201))
        assert max(record.mod_revision for record in snapshot.records) <= snapshot.revision

    async def test_elsewhere_is_the_same(self, bench: Bench) -> None:
        """Asking elsewhere where there is nowhere else asks here."""
        await bench.fill(3)
        assert await bench.registry.list_subnets(elsewhere=True) == await bench.registry.list_subnets()

    async def test_only_the_subnets(self, bench: Bench) -> None:
        """Sibling keys, such as ``subnets-old/``, are no subnets."""
        for key in (*bench.siblings, b"subnets/" + B):
            await bench.put(key, b"{}")
        snapshot = await bench.registry.list_subnets()
        assert [record.name for record in snapshot.records] == [B]

    async def test_names_may_be_anything(self, bench: Bench) -> None:
        """Junk is returned as bytes, unvalidated, and breaks nothing."""
        for name in bench.junk:
            await bench.put(b"subnets/" + name, b"\x00\xff")
        found = [(record.name, record.value) for record in (await bench.registry.list_subnets()).records]
        assert found == [(name, bench.stored(b"\x00\xff")) for name in sorted(bench.junk)]

    async def test_what_is_long_and_says_nothing_is_shortened(self, bench: Bench) -> None:
        """Of a long name, and a long value that is no lease's, there is a digest, in lists and changes alike; two that
        differ stay different, and the reason stays. A lease is kept whole."""
        long = b"n" * 600
        lease = b'{"PublicIP":"192.168.0.9","BackendType":"host-gw","BackendData":"%s"}' % (b"d" * 200)
        values = {A: b"x" * 70_000, B: b"x" * 69_999 + b"y", C: lease, long: b"{}", long[1:]: b"{}"}
        listed = await bench.registry.list_subnets()
        async with bench.registry.watch_subnets(listed.position) as watch:
            await anext(watch)
            for name, value in values.items():
                await bench.put(b"subnets/" + name, value)
            seen: dict[bytes, Record] = {}
            while len(seen) < len(values):
                seen |= {change.name: change.record for change in await anext(watch) if isinstance(change, Put)}
        records = {record.name: record for record in (await bench.registry.list_subnets()).records}
        assert records.keys() == seen.keys()
        assert all(records[name].value == seen[name].value for name in seen)
        assert all(len(name) < 600 for name in records)
        assert len({records[A].value, records[B].value}) == 2
        assert len(records[A].value) < 100
        assert records[A].lease.reason == "too_large"
        assert (records[C].value, records[C].shortened) == (lease, False)

    async def test_reservation_and_lease(self, bench: Bench) -> None:
        """A record shows whether its key has a TTL."""
        lease_id = await bench.grant(100)
        await bench.put(b"subnets/" + A, b"{}")
        await bench.put(b"subnets/" + B, b"{}", lease_id=lease_id)
        reserved, leased = (await bench.registry.list_subnets()).records
        assert reserved.lease_id == 0
        assert leased.lease_id == (lease_id if bench.leases_outlive_keys else leased.create_revision)

    async def test_outage(self, bench: Bench) -> None:
        """No answer is an error and never an empty list; the list works again later."""
        await bench.fill(2)
        bench.refuse(True)
        with pytest.raises(RegistryUnavailable):
            await bench.registry.list_subnets()
        bench.refuse(False)
        assert len((await listed_again(bench)).records) == 2


async def listed_again(bench: Bench) -> Snapshot:
    """List as soon as the client has found its way back."""

    async def listed() -> Snapshot | None:
        try:
            return await bench.registry.list_subnets()
        except RegistryUnavailable:
            return None

    snapshot = await eventually(listed)
    assert isinstance(snapshot, Snapshot)
    return snapshot


class TestWatch:
    async def test_changes_after_the_list(self, bench: Bench) -> None:
        """Puts, rewrites and deletions since the list come once each, in order, from before the opening on."""
        await bench.put(b"subnets/" + A, b"1")
        since = await bench.registry.list_subnets()
        await bench.put(b"subnets/" + B, b"2")
        async with bench.registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            await bench.put(b"subnets/" + A, b"3")
            await bench.delete(b"subnets/" + A)
            await bench.put(b"subnets/" + A, b"4")
            changes = await upcoming(watch, 4)
        seen = [(c.record.name, c.record.value) if isinstance(c, Put) else (c.name, None) for c in changes]
        assert seen == [(B, b"2"), (A, b"3"), (A, None), (A, b"4")]
        final = await bench.registry.list_subnets()
        assert {c.record for c in (changes[0], changes[3]) if isinstance(c, Put)} == set(final.records)

    async def test_only_the_subnets(self, bench: Bench) -> None:
        """Changes of sibling keys are not delivered."""
        since = await bench.registry.list_subnets()
        async with bench.registry.watch_subnets(since) as watch:
            for key in (*bench.siblings, b"subnets/" + B):
                await bench.put(key, b"{}")
            (change,) = await upcoming(watch, 1)
        assert isinstance(change, Put)
        assert change.record.name == B

    async def test_expiry_is_a_deletion(self, bench: Bench) -> None:
        """The end of a lease is delivered as the deletion of its key."""
        record = await made(bench)
        async with bench.registry.watch_subnets(await bench.registry.list_subnets()) as watch:
            await bench.revoke(record.lease_id)
            (change,) = await upcoming(watch, 1)
        assert isinstance(change, Gone)
        assert change.name == A
        assert change.revision > record.mod_revision

    async def test_a_long_history(self, bench: Bench) -> None:
        """More changes than etcd sends in one batch come complete and in order."""
        since = await bench.registry.list_subnets()
        count = bench.history
        await bench.fill(count)
        for number in range(0, count, 100):
            await bench.delete(b"subnets/" + subnet_name(number))
        async with bench.registry.watch_subnets(since) as watch:
            changes = await upcoming(watch, count + count // 100)
        there: dict[bytes, Record] = {}
        for change in changes:
            if isinstance(change, Put):
                there[change.record.name] = change.record
            else:
                del there[change.name]
        assert tuple(there[name] for name in sorted(there)) == (await bench.registry.list_subnets()).records

    async def test_from_a_forgotten_revision(self, bench: Bench) -> None:
        """A position before the compaction is refused as such."""
        since = await bench.registry.list_subnets()
        for value in (b"1", b"2", b"3"):
            await bench.put(b"subnets/" + A, value)
        await bench.compact()
        with pytest.raises(RevisionCompacted):
            async with bench.registry.watch_subnets(since) as watch:
                await read_until_error(watch)

    async def test_from_another_cluster(self, bench: Bench) -> None:
        """A list from one cluster cannot be continued on another."""
        since = await bench.registry.list_subnets()
        elsewhere = Snapshot(since.records, since.revision, cluster_id=since.cluster_id ^ 1)
        with pytest.raises(HistoryChanged):
            async with bench.registry.watch_subnets(elsewhere) as watch:
                await read_until_error(watch)

    async def test_from_the_future(self, bench: Bench) -> None:
        """A history that ends before the list, as after a restored backup, is an error; it is not waited for."""
        since = await bench.registry.list_subnets()
        ahead = Snapshot(since.records, since.revision + 1000, since.cluster_id)
        with pytest.raises(HistoryChanged):
            async with bench.registry.watch_subnets(ahead) as watch:
                await read_until_error(watch)

    async def test_cut(self, bench: Bench) -> None:
        """A broken connection ends the watch with an error, and a new one takes up where it ended."""
        since = await bench.registry.list_subnets()
        async with bench.registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            bench.refuse(True)
            with pytest.raises(RegistryUnavailable):
                await read_until_error(watch)
        bench.refuse(False)
        await bench.put(b"subnets/" + A, b"meanwhile")
        await listed_again(bench)
        async with bench.registry.watch_subnets(since) as watch:
            assert len(await upcoming(watch, 1)) == 1

    async def test_closing_while_blocked(self, bench: Bench) -> None:
        """A watch that waits can be cancelled and closed, at once, and leaves no task behind."""
        since = await bench.registry.list_subnets()
        before = client_tasks()
        async with bench.registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            waiting = asyncio.ensure_future(anext(watch))
            await bench.registry.read_config()
            assert not waiting.done()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await eventually(lambda: not client_tasks() - before, within_s=2)

    async def test_waiting_with_a_limit_loses_nothing(self, bench: Bench) -> None:
        """Giving up waiting for the next change does not lose it."""
        since = await bench.registry.list_subnets()
        async with bench.registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(watch), 0.01)
            await bench.put(b"subnets/" + A, b"{}")
            assert len(await upcoming(watch, 1)) == 1

    async def test_closing_the_registry(self, bench: Bench) -> None:
        """A watch that waits while its registry is closed ends with an error, not with a cancellation."""
        registry = bench.another()
        async with registry.watch_subnets(await registry.list_subnets()) as watch:
            assert await anext(watch) == ()
            waiting = asyncio.ensure_future(anext(watch))
            await bench.registry.read_config()
            await registry.close()
            async with asyncio.timeout(5):
                with pytest.raises(RegistryUnavailable):
                    await waiting


class TestCreate:
    async def test_creates(self, bench: Bench) -> None:
        """The record returned is the record listed, with the value given."""
        record = await made(bench, A, b'{"PublicIP":"192.168.1.10"}')
        assert (await bench.registry.list_subnets()).records == (record,)
        assert (record.name, record.value) == (A, b'{"PublicIP":"192.168.1.10"}')
        assert record.create_revision == record.mod_revision

    async def test_ttl_is_attached(self, bench: Bench) -> None:
        """The key is attached to a lease with the requested TTL, and is deleted with it."""
        record = await made(bench)
        assert record.lease_id != 0
        assert await bench.granted(record.lease_id) == DAY_S
        await bench.revoke(record.lease_id)
        assert (await bench.registry.list_subnets()).records == ()

    @pytest.mark.parametrize(
        "new",
        [
            b"10.1.0.0-24", b"10.1.0.0-25", b"10.1.0.128-25", b"10.1.0.7-32", b"10.1.0.0-16", b"10.0.0.0-8",
            b"10.1.0.0-24&fd00:1::-64", b"10.1.0.64-26&fd00:1::-64", b"10.0.0.0-14&fd00:1::-64", b"0.0.0.0-1",
        ],
    )  # fmt: skip
    async def test_anything_new_that_overlaps_is_a_conflict(self, bench: Bench, new: bytes) -> None:
        """A key created since the list that covers the subnet, lies in it, or is it: so nothing is created."""
        listed = await bench.registry.list_subnets()
        await bench.put(b"subnets/" + new, b"{}")
        assert await bench.registry.create_subnet(b"10.1.0.0-24", b"{}", ttl_s=DAY_S, listed=listed) is None
        assert [record.name for record in (await bench.registry.list_subnets()).records] == [new]

    async def test_of_both_families_too(self, bench: Bench) -> None:
        """A key whose IPv6 subnet overlaps ours is a conflict, whatever its IPv4 subnet is."""
        listed = await bench.registry.list_subnets()
        await bench.put(b"subnets/10.9.0.0-24&fd00:1::-63", b"{}")
        wanted = b"10.1.0.0-24&fd00:1:0:1::-64"
        assert await bench.registry.create_subnet(wanted, b"{}", ttl_s=DAY_S, listed=listed) is None

    async def test_what_others_choose_beside_it_is_no_conflict(self, bench: Bench) -> None:
        """Of both families too, where the caller knows the names: others may create as many of them as they like."""
        names = [b"10.1.%d.0-24&fd00:1:0:%x::-64" % (number, number) for number in range(1, 256)]
        listed = await bench.registry.list_subnets()
        for name in (names[0], names[50], names[99]):
            await bench.put(b"subnets/" + name, b"{}")
        created = await bench.registry.create_subnet(
            names[7], b"{}", ttl_s=DAY_S, listed=listed, beside=[b"10.1.0.0-99", *names[:100]]
        )
        assert created is not None

    @pytest.mark.parametrize(
        "new", [b"10.1.7.0-24&fd00:1:0:9::-64", b"10.9.7.0-24&fd00:1:0:7::-64", b"10.1.6.0-23&fd00:9::-64"]
    )
    @pytest.mark.parametrize("known", [True, False])
    async def test_what_overlaps_is_a_conflict_beside_it_too(self, bench: Bench, new: bytes, known: bool) -> None:
        """Whether or not the caller takes it for a choice of others."""
        names = [b"10.1.%d.0-24&fd00:1:0:%x::-64" % (number, number) for number in range(1, 101)]
        listed = await bench.registry.list_subnets()
        await bench.put(b"subnets/" + new, b"{}")
        created = await bench.registry.create_subnet(
            names[6], b"{}", ttl_s=DAY_S, listed=listed, beside=[*names, *([new] if known else ())]
        )
        assert created is None

    async def test_any_number_of_others_choices_is_taken(self, bench: Bench) -> None:
        """More names than etcd takes comparisons make the guard wider, and no request that is refused."""
        names = [b"10.1.%d.0-24&fd00:1:0:%x::-64" % (number, number) for number in range(1, 256)]
        listed = await bench.registry.list_subnets()
        created = await bench.registry.create_subnet(names[7], b"{}", ttl_s=DAY_S, listed=listed, beside=names)
        assert created is not None

    async def test_what_overlaps_nothing_is_no_conflict(self, bench: Bench) -> None:
        """Others may create what they like beside it, so that many hosts can start at once."""
        listed = await bench.registry.list_subnets()
        for name in (b"10.1.1.0-24", b"10.10.0.0-24", b"10.0.255.0-24", b"9.1.0.0-24", b"10.9.0.0-24&fd00::-64"):
            await bench.put(b"subnets/" + name, b"{}")
        assert await bench.registry.create_subnet(b"10.1.0.0-24", b"{}", ttl_s=DAY_S, listed=listed) is not None

    async def test_recreated_is_new(self, bench: Bench) -> None:
        """A key of the list that was deleted and created again is new, where an overwrite looks different.

        Where it does not, it is no conflict either: the caller has avoided its name.
        """
        await bench.put(b"subnets/10.0.0.0-8", b"{}")
        listed = await bench.registry.list_subnets()
        await bench.delete(b"subnets/10.0.0.0-8")
        await bench.put(b"subnets/10.0.0.0-8", b"{}")
        created = await bench.registry.create_subnet(A, b"{}", ttl_s=DAY_S, listed=listed)
        assert (created is None) is bench.overwriting_keeps_age

    async def test_rewritten_and_deleted_are_not_new(self, bench: Bench) -> None:
        """Renewals and departures of others since the list are no conflict, nor is anything outside."""
        for name in (B, C):
            await bench.put(b"subnets/" + name, b"{}")
        listed = await bench.registry.list_subnets()
        await bench.put(b"subnets/" + B, b"renewed")
        await bench.delete(b"subnets/" + C)
        await bench.put(b"subnets-old/" + A, b"{}")
        await bench.put(b"config", b"{}")
        assert await bench.registry.create_subnet(A, b"{}", ttl_s=DAY_S, listed=listed) is not None

    async def test_the_name_is_taken(self, bench: Bench) -> None:
        """A key that exists is never overwritten, even when the list shows it."""
        await bench.put(b"subnets/" + A, b"theirs")
        listed = await bench.registry.list_subnets()
        assert await bench.registry.create_subnet(A, b"ours", ttl_s=DAY_S, listed=listed) is None
        assert (await bench.registry.list_subnets()).records == listed.records

    async def test_after_a_conflict(self, bench: Bench) -> None:
        """List again, choose again, and it works, with the full TTL."""
        listed = await bench.registry.list_subnets()
        await bench.put(b"subnets/" + A, b"{}")
        assert await bench.registry.create_subnet(A, b"{}", ttl_s=DAY_S, listed=listed) is None
        await bench.delete(b"subnets/" + A)
        record = await made(bench)
        assert await bench.granted(record.lease_id) == DAY_S

    async def test_of_two_at_once_one_wins(self, bench: Bench) -> None:
        """Two clients with the same list get at most one subnet between them."""
        other = bench.another()
        listed = await bench.registry.list_subnets()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(bench.registry.create_subnet(A, b"1", ttl_s=DAY_S, listed=listed))
            second = group.create_task(other.create_subnet(b"10.1.0.0-25", b"2", ttl_s=DAY_S, listed=listed))
        assert [first.result() is None, second.result() is None].count(False) == 1
        assert len((await bench.registry.list_subnets()).records) == 1

    async def test_outage(self, bench: Bench) -> None:
        """Without an answer nothing is created."""
        listed = await bench.registry.list_subnets()
        bench.refuse(True)
        with pytest.raises(RegistryUnavailable):
            await bench.registry.create_subnet(A, b"{}", ttl_s=DAY_S, listed=listed)
        bench.refuse(False)
        assert (await listed_again(bench)).records == ()

    async def test_lost_reply(self, bench: Bench) -> None:
        """A lost reply costs no subnet: the key is found by listing, alive, and no second one is created."""
        listed = await bench.registry.list_subnets()
        with pytest.raises(RegistryUnavailable):
            await bench.create_with_lost_reply(A, b"lost-reply", listed)
        (record,) = (await listed_again(bench)).records
        assert await bench.registry.create_subnet(B, b"again", ttl_s=DAY_S, listed=listed) is None
        renewal = await bench.registry.renew(record)
        assert (renewal.record, renewal.ttl_s) == (renewed(bench, record, renewal), DAY_S)

    async def test_lost_reply_then_another_subnet(self, bench: Bench) -> None:
        """A caller that has found that key may create another one, on another lease; neither is harmed."""
        with pytest.raises(RegistryUnavailable):
            await bench.create_with_lost_reply(A, b"lost-reply", await bench.registry.list_subnets())
        (first,) = (await listed_again(bench)).records
        second = await made(bench, B)
        assert second.lease_id != first.lease_id
        await bench.registry.close()
        assert await bench.granted(first.lease_id) == DAY_S
        assert await bench.granted(second.lease_id) == DAY_S


class TestRewrite:
    async def test_changes_the_value_only(self, bench: Bench) -> None:
        """The value is new; the lease and the age of the key are not."""
        held = await made(bench)
        record = await bench.registry.rewrite_subnet(held, b"new")
        assert record is not None
        assert (record.value, record.lease_id, record.create_revision) == (b"new", held.lease_id, held.create_revision)
        assert (await bench.registry.list_subnets()).records == (record,)

    async def test_reservation_stays_one(self, bench: Bench) -> None:
        """A key without TTL has none afterwards."""
        await bench.put(b"subnets/" + A, b"{}")
        (held,) = (await bench.registry.list_subnets()).records
        record = await bench.registry.rewrite_subnet(held, b"new")
        assert record is not None
        assert record.lease_id == 0
        assert (await bench.registry.list_subnets()).records == (record,)

    @pytest.mark.parametrize("what", ["changed", "deleted", "made again"])
    async def test_never_over_others(self, bench: Bench, what: str) -> None:
        """What somebody changed, deleted or made again is not overwritten."""
        held = await made(bench)
        if what != "changed":
            await bench.delete(b"subnets/" + A)
        if what != "deleted":
            await bench.put(b"subnets/" + A, b"theirs")
        before = (await bench.registry.list_subnets()).records
        assert await bench.registry.rewrite_subnet(held, b"ours") is None
        assert (await bench.registry.list_subnets()).records == before


class TestPutOnOwnLease:
    async def test_the_ttl_is_ours(self, bench: Bench) -> None:
        """The key hangs on another lease, of the full time; value and age stay."""
        held = await made(bench)
        if bench.leases_outlive_keys:
            await bench.put(b"subnets/" + A, held.value, lease_id=await bench.grant(100))
            (held,) = (await bench.registry.list_subnets()).records
        record = await bench.registry.put_on_own_lease(held, ttl_s=DAY_S)
        assert record is not None
        assert (record.value, record.create_revision) == (held.value, held.create_revision)
        assert (await bench.registry.list_subnets()).records == (record,)
        assert (await bench.registry.renew(record)).ttl_s == DAY_S

    async def test_never_over_others(self, bench: Bench) -> None:
        """What somebody changed stays as it is."""
        held = await made(bench)
        await bench.put(b"subnets/" + A, b"theirs")
        before = (await bench.registry.list_subnets()).records
        assert await bench.registry.put_on_own_lease(held, ttl_s=DAY_S) is None
        assert (await bench.registry.list_subnets()).records == before


class TestDelete:
    async def test_deletes(self, bench: Bench) -> None:
        """The key is gone, and the second time there is nothing to delete."""
        held = await made(bench)
        assert await bench.registry.delete_subnet(held) is True
        assert (await bench.registry.list_subnets()).records == ()
        assert await bench.registry.delete_subnet(held) is False

    async def test_never_from_others(self, bench: Bench) -> None:
        """What somebody changed is not deleted."""
        held = await made(bench)
        await bench.put(b"subnets/" + A, b"theirs")
        assert await bench.registry.delete_subnet(held) is False
        assert len((await bench.registry.list_subnets()).records) == 1


class TestRenew:
    async def test_renews_and_reads_back(self, bench: Bench) -> None:
        """The full TTL is granted again, and the key is returned as it is, time after time."""
        held = await made(bench)
        for _ in range(3):
            renewal = await bench.registry.renew(held)
            assert (renewal.record, renewal.ttl_s) == (renewed(bench, held, renewal), DAY_S)
        assert (await bench.registry.list_subnets()).records == (renewal.record,)

    async def test_wakes_no_watcher(self, bench: Bench) -> None:
        """Renewing is no change: watchers, and the revision where that is possible, stay the same."""
        held = await made(bench)
        since = await bench.registry.list_subnets()
        async with bench.another().watch_subnets(since) as watch:
            assert await anext(watch) == ()
            for _ in range(3):
                await bench.registry.renew(held)
            await bench.put(b"subnets/" + B, b"{}")
            (change,) = await upcoming(watch, 1)
        assert isinstance(change, Put)
        assert change.record.name == B
        assert change.record.mod_revision == since.revision + (4 if bench.renewals_are_changes else 1)

    async def test_reservation(self, bench: Bench) -> None:
        """A key without TTL is read back and nothing is granted."""
        await bench.put(b"subnets/" + A, b"{}")
        (held,) = (await bench.registry.list_subnets()).records
        renewal = await bench.registry.renew(held)
        assert (renewal.record, renewal.ttl_s) == (held, None)

    async def test_key_gone(self, bench: Bench) -> None:
        """A deleted key is reported as absent, although its lease, where that is separate, lives on."""
        held = await made(bench)
        await bench.delete(b"subnets/" + A)
        renewal = await bench.registry.renew(held)
        assert (renewal.record, renewal.ttl_s) == (None, DAY_S if bench.leases_outlive_keys else 0)

    async def test_lease_gone(self, bench: Bench) -> None:
        """A revoked lease grants nothing, and its key is absent."""
        held = await made(bench)
        await bench.revoke(held.lease_id)
        renewal = await bench.registry.renew(held)
        assert (renewal.record, renewal.ttl_s) == (None, 0)

    async def test_rewritten_by_another(self, bench: Bench) -> None:
        """What is there now is reported, whoever wrote it and whatever lease it has."""
        held = await made(bench)
        await bench.put(b"subnets/" + A, b"theirs", lease_id=await bench.grant(100))
        renewal = await bench.registry.renew(held)
        assert renewal.record is not None
        assert renewal.record.value == b"theirs"
        assert (renewal.record.create_revision == held.create_revision) is bench.overwriting_keeps_age
        assert renewal.record.lease_id != held.lease_id


class TestTimeLeft:
    async def test_runs_down_and_is_whole_again(self, bench: Bench) -> None:
        """What is left is returned with the leader's term, where the API reports it; a renewal restores it."""
        held = await made(bench)
        first = await bench.registry.time_left(held)
        if bench.registry.api == 2:
            assert first is None
            return
        await asyncio.sleep(2.1)
        later = await bench.registry.time_left(held)
        assert first is not None
        assert later is not None
        assert later.left_s < first.left_s - 1
        await bench.registry.renew(held)
        renewed = await bench.registry.time_left(held)
        assert renewed is not None
        assert DAY_S - 2 < renewed.left_s <= DAY_S
        assert renewed.leader == later.leader == first.leader > 0

    async def test_gone(self, bench: Bench) -> None:
        """A lease that is no more has no time left."""
        held = await made(bench)
        await bench.revoke(held.lease_id)
        left = await bench.registry.time_left(held)
        assert (left is None) if bench.registry.api == 2 else (left is not None and left.left_s == 0)


class TestReconnect:
    async def test_what_is_open_stays_open(self, bench: Bench) -> None:
        """New calls use a new connection; a watch that was open goes on."""
        since = await bench.registry.list_subnets()
        async with bench.registry.watch_subnets(since) as watch:
            assert await anext(watch) == ()
            connections = bench.connections
            bench.registry.reconnect()
            gc.collect()
            assert await bench.registry.list_subnets() == since
            assert bench.connections is None or bench.connections == (connections or 0) + 1
            await bench.put(b"subnets/" + A, b"{}")
            assert len(await upcoming(watch, 1)) == 1

    async def test_out_of_an_outage(self, bench: Bench) -> None:
        """The next call after it does not wait for what the last failure has put off."""
        bench.refuse(True)
        for _ in range(3):
            with pytest.raises(RegistryUnavailable):
                await bench.registry.list_subnets()
        bench.refuse(False)
        bench.registry.reconnect()
        assert (await bench.registry.list_subnets()).records == ()


class TestClose:
    async def test_leases_stay(self, bench: Bench) -> None:
        """Closing takes no key and no lease along."""
        registry = bench.another()
        record = await registry.create_subnet(A, b"{}", ttl_s=DAY_S, listed=await registry.list_subnets())
        assert record is not None
        await registry.close()
        assert (await bench.registry.list_subnets()).records == (record,)
        assert await bench.granted(record.lease_id) == DAY_S

    async def test_afterwards(self, bench: Bench) -> None:
        """A closed registry answers no call, and closing it again is no error."""
        registry = bench.another()
        await registry.list_subnets()
        await registry.close()
        await registry.close()
        with pytest.raises(RegistryUnavailable):
            await registry.list_subnets()

    async def test_endpoint_is_named(self, bench: Bench) -> None:
        """The endpoint is reported as it was given."""
        assert bench.registry.endpoint == bench.url
