"""The contract of ``ports.Administration``, kept by the fake and by the real etcd alike."""

from dataclasses import replace

from pyflanneld.core.etcd_types import Record
from pyflanneld.ports import Administration
from tests.contract.registry_bench import DAY_S, Bench

A, B, C = b"10.1.0.0-24", b"10.2.0.0-24", b"10.3.0.0-24"


def admin(bench: Bench) -> Administration:
    return bench.registry


async def made(bench: Bench, name: bytes = A) -> Record:
    listed = await bench.registry.list_subnets()
    record = await bench.registry.create_subnet(name, b"{}", ttl_s=DAY_S, listed=listed)
    assert record is not None
    return record


async def records(bench: Bench) -> tuple[Record, ...]:
    return (await bench.registry.list_subnets()).records


class TestTimesToLive:
    async def test_by_name(self, bench: Bench) -> None:
        """Each key with a TTL has what is left and what was granted; a reservation is left out."""
        await made(bench, A)
        lease_id = await bench.grant(500)
        await bench.put(b"subnets/" + B, b"{}", lease_id=lease_id)
        await bench.put(b"subnets/" + C, b"{}")
        found = await admin(bench).times_to_live(await records(bench))
        assert found.keys() == {A, B}
        assert found[A].granted_s == DAY_S
        assert found[B].granted_s == (500 if bench.leases_outlive_keys else DAY_S), "v2 does not report the grant"
        assert DAY_S - 60 < found[A].left_s <= DAY_S

    async def test_expired_meanwhile(self, bench: Bench) -> None:
        """A lease that has gone since the list has nothing left."""
        record = await made(bench)
        await bench.revoke(record.lease_id)
        assert (await admin(bench).times_to_live([record]))[A].left_s == 0

    async def test_many(self, bench: Bench) -> None:
        """Hundreds of leases are asked for in one call."""
        ids = [await bench.grant(500 + number) for number in range(200)]
        for number, lease_id in enumerate(ids):
            await bench.put(b"subnets/%d" % number, b"{}", lease_id=lease_id)
        found = await admin(bench).times_to_live(await records(bench))
        assert all(490 < found[b"%d" % number].left_s - number <= 500 for number in range(200))


class TestReserve:
    async def test_reserve(self, bench: Bench) -> None:
        """A reserved key is there, without a TTL, as it was returned."""
        reserved = await admin(bench).reserve_subnet(A, b"{1}", listed=await bench.registry.list_subnets())
        assert reserved is not None
        assert reserved.lease_id == 0
        assert await records(bench) == (reserved,)

    async def test_outdated_list(self, bench: Bench) -> None:
        """Nothing is reserved after something that overlaps was created since the list."""
        listed = await bench.registry.list_subnets()
        other = await made(bench, b"10.0.0.0-8")
        assert await admin(bench).reserve_subnet(A, b"{}", listed=listed) is None
        assert await records(bench) == (other,)

    async def test_present(self, bench: Bench) -> None:
        """A key that is there is not overwritten."""
        record = await made(bench)
        assert await admin(bench).reserve_subnet(A, b"{1}", listed=await bench.registry.list_subnets()) is None
        assert await records(bench) == (record,)


class TestMakeReservation:
    async def test_lease(self, bench: Bench) -> None:
        """The TTL goes and nothing else changes; the key outlives its old lease."""
        record = await made(bench)
        reserved = await admin(bench).make_reservation(record)
        assert reserved is not None
        assert reserved == replace(record, lease_id=0, mod_revision=reserved.mod_revision)
        if bench.leases_outlive_keys:
            await bench.revoke(record.lease_id)
        assert await records(bench) == (reserved,)

    async def test_changed_meanwhile(self, bench: Bench) -> None:
        """A key that somebody has changed keeps its TTL."""
        record = await made(bench)
        await bench.put(b"subnets/" + A, b"{1}", lease_id=await bench.grant(500))
        assert await admin(bench).make_reservation(record) is None
        assert [one.lease_id != 0 for one in await records(bench)] == [True]

    async def test_gone(self, bench: Bench) -> None:
        """A key that is gone does not come back."""
        record = await made(bench)
        await bench.delete(b"subnets/" + A)
        assert await admin(bench).make_reservation(record) is None
        assert await records(bench) == ()
