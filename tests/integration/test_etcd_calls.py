"""Lists and calls that fail in every way that etcd knows: against a scripted server, over real gRPC."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import structlog
from grpclib.const import Status

from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.errors import RegistryDenied, RegistryUnavailable
from pyflanneld.etcd.access import Timing
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.fakes.scripted_etcd import CLUSTER, Refusal, ScriptedEtcd, header, key_value, never
from tests.support.polling import eventually

SINCE = Snapshot((), revision=10, cluster_id=CLUSTER)
HELD = Record(b"a", b"{}", create_revision=3, mod_revision=5, lease_id=77)
SHORT = Timing(rpc_s=0.5, read_s=1.0)

Connect = Callable[..., EtcdV3Registry]


def page(names: list[bytes], *, revision: int, count: int, more: bool, cluster_id: int = CLUSTER) -> Any:
    kvs = [key_value(name, 5) for name in names]
    return rpc.RangeResponse(header=header(revision, cluster_id), kvs=kvs, more=more, count=count)


class TestList:
    async def test_pages_are_of_one_revision(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """All pages are asked for at the revision of the first, and none may come from a member without quorum."""
        pages = iter(
            [page([b"a", b"b"], revision=9, count=3, more=True), page([b"c"], revision=12, count=1, more=False)]
        )
        scripted.on["Range"] = lambda _request: next(pages)
        snapshot = await connect(scripted).list_subnets()
        assert ([record.name for record in snapshot.records], snapshot.revision) == ([b"a", b"b", b"c"], 9)
        first, rest = scripted.asked["Range"]
        assert (first.key, first.range_end, first.revision) == (b"/net/subnets/", b"/net/subnets0", 0)
        assert (rest.key, rest.range_end, rest.revision) == (b"/net/subnets/b\0", b"/net/subnets0", 9)
        assert not first.serializable
        assert not rest.serializable

    async def test_incomplete(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A list with fewer keys than etcd counts is an error."""
        scripted.on["Range"] = lambda _request: page([b"a"], revision=9, count=2, more=False)
        with pytest.raises(RegistryUnavailable, match="incomplete"):
            await connect(scripted).list_subnets()

    async def test_pages_of_two_clusters(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """Pages of two clusters are not put together."""
        pages = iter(
            [page([b"a"], revision=9, count=2, more=True), page([b"b"], revision=9, count=1, more=False, cluster_id=1)]
        )
        scripted.on["Range"] = lambda _request: next(pages)
        with pytest.raises(RegistryUnavailable, match="two clusters"):
            await connect(scripted).list_subnets()

    async def test_compacted_midway(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A compaction between two pages makes the list start over, at a new revision."""
        compacted = Refusal(Status.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        answers = iter(
            [
                page([b"a"], revision=9, count=2, more=True),
                compacted,
                page([b"a"], revision=20, count=2, more=True),
                page([b"b"], revision=20, count=1, more=False),
            ]
        )

        def answer(_request: Any) -> Any:
            this = next(answers)
            if isinstance(this, Refusal):
                raise this
            return this

        scripted.on["Range"] = answer
        snapshot = await connect(scripted).list_subnets()
        assert ([record.name for record in snapshot.records], snapshot.revision) == ([b"a", b"b"], 20)

    async def test_compacted_for_ever(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """Starting over is limited."""

        def answer(request: Any) -> Any:
            if request.revision:
                raise Refusal(Status.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
            return page([b"a"], revision=9, count=2, more=True)

        scripted.on["Range"] = answer
        with pytest.raises(RegistryUnavailable, match="compacted"):
            await connect(scripted).list_subnets()

    async def test_elsewhere(self, scripted: ScriptedEtcd, scripted_two: ScriptedEtcd, connect: Connect) -> None:
        """The other endpoint is asked and the one in use stays, even when the other does not answer."""
        scripted_two.on["Range"] = lambda _request: page([b"a"], revision=9, count=1, more=False)
        registry = connect(scripted, scripted_two, timing=SHORT)
        assert len((await registry.list_subnets(elsewhere=True)).records) == 1
        assert (len(scripted.asked["Range"]), registry.endpoint) == (0, scripted.url)
        scripted_two.on["Range"] = never
        with pytest.raises(RegistryUnavailable):
            await registry.list_subnets(elsewhere=True)
        assert (len(scripted.asked["Range"]), registry.endpoint) == (0, scripted.url)


Call = Callable[[EtcdV3Registry], Awaitable[object]]
READS: dict[str, Call] = {
    "read_config": lambda registry: registry.read_config(),
    "list_subnets": lambda registry: registry.list_subnets(),
    "renew": lambda registry: registry.renew(HELD),
}
WRITES: dict[str, Call] = {
    "create_subnet": lambda registry: registry.create_subnet(b"a", b"{}", ttl_s=60, listed=SINCE),
    "rewrite_subnet": lambda registry: registry.rewrite_subnet(HELD, b"{}"),
    "delete_subnet": lambda registry: registry.delete_subnet(HELD),
}
OPERATIONS = {"Range", "Txn", "LeaseGrant", "LeaseKeepAlive"}


def all_by(scripted: ScriptedEtcd, handler: Any) -> None:
    for name in OPERATIONS:
        scripted.on[name] = handler


class TestFailures:
    @pytest.mark.parametrize("call", [*READS, *WRITES])
    async def test_every_call_has_a_deadline(self, scripted: ScriptedEtcd, connect: Connect, call: str) -> None:
        """A server that never answers is given up."""
        all_by(scripted, never)
        begun = time.monotonic()
        with pytest.raises(RegistryUnavailable):
            await {**READS, **WRITES}[call](connect(scripted, timing=SHORT))
        assert time.monotonic() - begun < 2.5

    @pytest.mark.parametrize(
        ("code", "details", "error"),
        [
            ("UNAVAILABLE", "etcdserver: no leader", RegistryUnavailable),
            ("UNAVAILABLE", "etcdserver: request timed out", RegistryUnavailable),
            ("UNKNOWN", "who knows", RegistryUnavailable),
            ("INTERNAL", "", RegistryUnavailable),
            ("UNIMPLEMENTED", "unknown service etcdserverpb.KV", RegistryUnavailable),
            ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", RegistryUnavailable),
            ("FAILED_PRECONDITION", "etcdserver: corrupt cluster", RegistryUnavailable),
            ("CANCELLED", "", RegistryUnavailable),
            ("PERMISSION_DENIED", "etcdserver: permission denied", RegistryDenied),
            ("UNAUTHENTICATED", "etcdserver: invalid auth token", RegistryDenied),
            ("INVALID_ARGUMENT", "etcdserver: user name is empty", RegistryDenied),
            ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", RegistryDenied),
            ("UNKNOWN", "auth: revision in header is old", RegistryDenied),
        ],
    )
    @pytest.mark.parametrize("call", [*READS, *WRITES])
    async def test_translation(
        self, scripted: ScriptedEtcd, connect: Connect, call: str, code: str, details: str, error: type[Exception]
    ) -> None:
        """Every call turns etcd's response into the error by which the caller reacts, with etcd's text."""
        all_by(scripted, Refusal(Status[code], details))
        with pytest.raises(error) as raised:
            await {**READS, **WRITES}[call](connect(scripted, timing=SHORT))
        assert details in str(raised.value)
        assert code in str(raised.value)

    @pytest.mark.parametrize("call", READS)
    async def test_reads_go_on_elsewhere(
        self, scripted: ScriptedEtcd, scripted_two: ScriptedEtcd, connect: Connect, call: str
    ) -> None:
        """A read is answered by the next endpoint, which then stays in use; the switch is logged with its reason."""
        all_by(scripted, Refusal(Status.UNAVAILABLE, "etcdserver: no leader"))
        with structlog.testing.capture_logs() as logs:
            registry = connect(scripted, scripted_two)
            await READS[call](registry)
        assert registry.endpoint == scripted_two.url
        (switch,) = [entry for entry in logs if entry["event"] == "endpoint.switched"]
        assert (switch["from"], switch["to"]) == (scripted.url, scripted_two.url)
        assert "no leader" in switch["error"]

    @pytest.mark.parametrize("call", ["rewrite_subnet", "delete_subnet"])
    async def test_writes_are_sent_once(
        self, scripted: ScriptedEtcd, scripted_two: ScriptedEtcd, connect: Connect, call: str
    ) -> None:
        """A write whose outcome is unknown is not repeated; the next call goes to the next endpoint."""
        all_by(scripted, Refusal(Status.UNAVAILABLE, "etcdserver: request timed out"))
        registry = connect(scripted, scripted_two)
        with pytest.raises(RegistryUnavailable):
            await WRITES[call](registry)
        assert (len(scripted.asked["Txn"]), len(scripted_two.asked["Txn"])) == (1, 0)
        assert registry.endpoint == scripted_two.url

    @pytest.mark.parametrize("code", ["RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "PERMISSION_DENIED"])
    async def test_a_refusal_does_not_switch(
        self, scripted: ScriptedEtcd, scripted_two: ScriptedEtcd, connect: Connect, code: str
    ) -> None:
        """A server that refuses works: it stays in use, and no other is asked."""
        all_by(scripted, Refusal(Status[code], "no"))
        registry = connect(scripted, scripted_two)
        for call in [*READS.values(), *WRITES.values()]:
            with pytest.raises((RegistryUnavailable, RegistryDenied)):
                await call(registry)
        assert registry.endpoint == scripted.url
        assert not any(scripted_two.asked.values())

    async def test_the_key_is_read_after_the_keep_alive(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A lease revoked between the two is seen: etcd before 3.4.38 may report success for such a keep-alive."""
        await connect(scripted).renew(HELD)
        assert scripted.order == ["LeaseKeepAlive", "Range"]

    async def test_keep_alive_without_an_answer(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A keep-alive stream that etcd closes is no answer, and no lost lease either."""
        scripted.on["LeaseKeepAlive"] = lambda _request: None
        with pytest.raises(RegistryUnavailable):
            await connect(scripted).renew(HELD)

    @pytest.mark.parametrize("call", [*READS, *WRITES])
    async def test_closing_under_a_call(self, scripted: ScriptedEtcd, connect: Connect, call: str) -> None:
        """A call that is under way while the registry is closed ends with an error, not with a cancellation."""
        all_by(scripted, never)
        registry = connect(scripted)
        calling = asyncio.ensure_future({**READS, **WRITES}[call](registry))
        await eventually(lambda: any(scripted.asked.values()))
        await registry._endpoints.close()
        with pytest.raises(RegistryUnavailable):
            await calling

    async def test_reconnecting_under_a_call(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A call that is under way while the registry reconnects gets its answer on the old connection."""
        answer = asyncio.Event()

        async def late(_request: Any) -> Any:
            await answer.wait()
            return page([b"a"], revision=9, count=1, more=False)

        scripted.on["Range"] = late
        registry = connect(scripted)
        calling = asyncio.ensure_future(registry.list_subnets())
        await eventually(lambda: scripted.asked["Range"])
        registry.reconnect()
        gc.collect()
        answer.set()
        assert len((await calling).records) == 1

    @pytest.mark.parametrize("call", [*READS, *WRITES])
    async def test_cancelling_a_call(self, scripted: ScriptedEtcd, connect: Connect, call: str) -> None:
        """A call whose task is cancelled ends at once, cancelled."""
        all_by(scripted, never)
        calling = asyncio.ensure_future({**READS, **WRITES}[call](connect(scripted)))
        await eventually(lambda: any(scripted.asked.values()))
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
