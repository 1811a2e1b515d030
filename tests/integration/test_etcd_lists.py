"""Complete lists of large values and from slow members: a server with a store, over real HTTP/2."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pyflanneld.core.etcd_types import Snapshot
from pyflanneld.errors import NoAnswer, RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.listing import PAGE_BYTES
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.etcd.h2_server import Peer, framed, playing

SUBNETS = b"/net/subnets/"
SHORT = Timing(rpc_s=0.5, read_s=1.0)


class Store:
    """The keys below the prefix; what of them was asked for.

    Attributes:
        asked: each request of a list.
        poured: how many bytes of values were sent or begun to be.
        silent_above: requests for the values of more keys get no answer.
        pause_s: before each piece of an answer.
    """

    def __init__(self) -> None:
        self.kvs: dict[bytes, bytes] = {}
        self.asked: list[Any] = []
        self.sent: list[tuple[bytes, ...]] = []
        self.silent_above = 10_000
        self.pause_s = 0.0
        self.cluster_id = 1

    def put(self, name: bytes, value: bytes) -> None:
        self.kvs[SUBNETS + name] = value

    def answer(self, request: Any) -> Any:
        keys = sorted(key for key in self.kvs if request.key <= key < request.range_end)
        page = keys[: request.limit]
        kvs = [
            rpc.KeyValue(key=key, value=b"" if request.keys_only else self.kvs[key], create_revision=3, mod_revision=3)
            for key in page
        ]
        head = rpc.ResponseHeader(cluster_id=self.cluster_id, revision=7)
        return rpc.RangeResponse(header=head, kvs=kvs, more=len(page) < len(keys), count=len(keys))

    async def serve(self, peer: Peer) -> None:
        told: set[int] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                call = await peer.request()
                if peer.paths[call].endswith("Status") and call not in told:
                    told.add(call)
                    head = rpc.ResponseHeader(cluster_id=self.cluster_id)
                    peer.answer(call, rpc.StatusResponse(header=head))
                if peer.paths[call].endswith("KV/Range"):
                    request = rpc.RangeRequest.FromString(peer.sent[call][5:])
                    tasks.create_task(self._range(peer, call, request))

    async def _range(self, peer: Peer, call: int, request: Any) -> None:
        self.asked.append(request)
        answer = self.answer(request)
        if not request.keys_only and len(answer.kvs) > self.silent_above:
            return
        if not request.keys_only:
            self.sent.append(tuple(kv.key.removeprefix(SUBNETS) for kv in answer.kvs))
        data = framed(answer)
        peer.head(call)
        pieces = 8 if self.pause_s else 1
        for at in range(pieces):
            await asyncio.sleep(self.pause_s)
            await peer.pour(call, data[len(data) * at // pieces : len(data) * (at + 1) // pieces])
        if call not in peer.resets:
            peer.status(call)


@asynccontextmanager
async def listing(store: Store) -> AsyncIterator[EtcdV3Registry]:
    async with playing(store.serve) as server:
        access = EtcdAccess((server.url,), "/net")
        registry = EtcdV3Registry(access, rng=random.Random(0), timing=SHORT)
        try:
            yield registry
        finally:
            await registry.close()


def leases(*numbers: int) -> dict[bytes, bytes]:
    return {b"10.1.%d.0-24" % number: b'{"PublicIP":"192.168.0.%d"}' % number for number in numbers}


def readable(snapshot: Snapshot) -> set[bytes]:
    return {record.name for record in snapshot.records if record.lease.attrs is not None}


async def test_large_values_are_not_read() -> None:
    """Among values of 1.4 MB the leases are found; what is too large is named so, and is not asked for again."""
    store = Store()
    for name, value in leases(*range(1, 60)).items():
        store.put(name, value)
    for number in range(60, 90):
        store.put(b"10.1.%d.0-24" % number, b"x" * 1_400_000)
        store.put(b"junk-%d" % number, b"y" * 1_400_000)
    async with listing(store) as registry:
        first = await registry.list_subnets()
        assert len(first.records) == 119
        assert [record.name for record in first.records] == sorted(record.name for record in first.records)
        assert readable(first) == leases(*range(1, 60)).keys()
        reasons = {record.lease.reason for record in first.records if record.lease.attrs is None}
        assert reasons == {"too_large", "bad_key"}
        assert not any(name.startswith(b"junk") for names in store.sent[1:] for name in names)
        store.sent.clear()
        store.put(b"10.1.60.0-24", leases(60)[b"10.1.60.0-24"])  # of the same revision, here: not looked at again
        second = await registry.list_subnets()
        assert set().union(*store.sent[1:]) == leases(*range(1, 60)).keys()
        assert second == first


async def test_a_large_name() -> None:
    """A name of a megabyte and more costs no page of others."""
    store = Store()
    store.put(b"n" * 1_500_000, b"{}")
    for name, value in leases(1, 2).items():
        store.put(name, value)
    async with listing(store) as registry:
        listed = await registry.list_subnets()
        assert readable(listed) == leases(1, 2).keys()
        assert max(len(record.name) for record in listed.records) < 600


async def test_an_answer_that_keeps_coming_is_waited_for() -> None:
    """The deadline of an answer begins anew with each part of it that comes."""
    store = Store()
    store.put(b"10.1.1.0-24", leases(1)[b"10.1.1.0-24"])
    store.put(b"10.1.2.0-24", b"z" * (PAGE_BYTES // 2))
    store.pause_s = SHORT.rpc_s / 2
    async with listing(store) as registry:
        assert len((await registry.list_subnets()).records) == 2
        assert len(store.asked) == 1


async def test_what_does_not_come_in_time_is_asked_for_in_smaller_parts() -> None:
    """After an answer that has not come, the next list asks for fewer keys, and later for all again."""
    store = Store()
    for name, value in leases(*range(1, 100)).items():
        store.put(name, value)
    store.silent_above = 20
    async with listing(store) as registry:
        with pytest.raises(NoAnswer):
            await registry.list_subnets()
        store.asked.clear()
        assert readable(await registry.list_subnets()) == leases(*range(1, 100)).keys()
        assert store.asked[0].keys_only
        store.silent_above = 10_000
        await registry.list_subnets()
        store.asked.clear()
        await registry.list_subnets()
        assert [request.limit for request in store.asked] == [500]


async def test_pages_that_lead_nowhere() -> None:
    """A member that gives the same page again and again is told off."""
    store = Store()
    store.put(b"10.1.1.0-24", b"{}")
    answer = store.answer

    def again(_request: Any) -> Any:
        found = answer(rpc.RangeRequest(key=SUBNETS, range_end=SUBNETS + b"\xff", limit=1))
        found.more, found.count = True, 5
        return found

    store.answer = again  # type: ignore[method-assign]
    async with listing(store) as registry:
        with pytest.raises(RegistryUnavailable, match="not the one that was asked for"):
            await registry.list_subnets()


async def test_two_clusters_behind_one_list() -> None:
    """Of three endpoints one belongs to another cluster: whichever is begun with, nothing of it is believed, nor
    written; it is named, and left out from then on."""
    ours, other = Store(), Store()
    ours.put(b"10.1.1.0-24", leases(1)[b"10.1.1.0-24"])
    other.put(b"10.1.2.0-24", leases(2)[b"10.1.2.0-24"])
    other.cluster_id = 2
    async with playing(ours.serve) as one, playing(ours.serve) as two, playing(other.serve) as odd:
        for seed in range(6):
            access = EtcdAccess((odd.url, one.url, two.url), "/net")
            registry = EtcdV3Registry(access, rng=random.Random(seed), timing=SHORT)
            try:
                for elsewhere in (False, True, False):
                    listed = await registry.list_subnets(elsewhere=elsewhere)
                    assert readable(listed) == leases(1).keys()
                assert registry.set_aside == {odd.url}
                assert registry.endpoint != odd.url
            finally:
                await registry.close()
    assert not other.asked
