"""Lost replies and lost races of creating a subnet (``pyflanneld.etcd.v3.leases``): against a scripted server."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from grpclib.const import Status

from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.errors import RegistryDenied, RegistryUnavailable
from pyflanneld.etcd.access import Timing
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.fakes.scripted_etcd import CLUSTER, Refusal, ScriptedEtcd, header, key_value, never
from tests.support.polling import eventually

SINCE = Snapshot((), revision=10, cluster_id=CLUSTER)
SHORT = Timing(rpc_s=0.5, read_s=1.0)

Connect = Callable[..., EtcdV3Registry]


class TestCreate:
    """Lost replies and lost races (see ``pyflanneld.etcd.v3.leases``)."""

    @staticmethod
    def healthy(scripted: ScriptedEtcd) -> None:
        """Let the server grant every lease, keep it alive, and put every key."""
        scripted.on["LeaseGrant"] = lambda request: rpc.LeaseGrantResponse(ID=request.ID, TTL=request.TTL)
        scripted.on["LeaseKeepAlive"] = lambda request: rpc.LeaseKeepAliveResponse(ID=request.ID, TTL=60)
        scripted.on["Txn"] = lambda _request: rpc.TxnResponse(header=header(11), succeeded=True)
        scripted.on["Range"] = lambda _request: rpc.RangeResponse(header=header(11))

    @staticmethod
    def put_of(request: Any) -> Any:
        return request.success[0].request_put

    async def test_the_guard(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """The put depends on nothing new in the ranges of what may overlap, and on the key's absence."""
        self.healthy(scripted)
        await connect(scripted).create_subnet(b"10.5.1.0-24", b"v", ttl_s=60, listed=SINCE)
        (txn,) = scripted.asked["Txn"]
        *covering, inside, absent = txn.compare
        assert len(covering) == 24
        assert (covering[16].key, covering[16].range_end) == (b"/net/subnets/10.5.0.0-16", b"/net/subnets/10.5.0.0-16'")
        assert (inside.key, inside.range_end) == (b"/net/subnets/10.5.1.", b"/net/subnets/10.5.1/")
        assert {(one.result, one.create_revision) for one in (*covering, inside)} == {(rpc.Compare.LESS, 11)}
        assert (absent.key, absent.result, absent.create_revision) == (
            b"/net/subnets/10.5.1.0-24", rpc.Compare.EQUAL, 0
        )  # fmt: skip

    @pytest.mark.parametrize("name", [b"a", b"10.5.1.0-24&fd00::-64"])
    async def test_the_guard_of_all(self, scripted: ScriptedEtcd, connect: Connect, name: bytes) -> None:
        """With an IPv6 subnet, or no subnet, nothing may be new in the whole range."""
        self.healthy(scripted)
        record = await connect(scripted).create_subnet(name, b"v", ttl_s=60, listed=SINCE)
        (grant,), (txn,) = scripted.asked["LeaseGrant"], scripted.asked["Txn"]
        assert record == Record(name, b"v", 11, 11, grant.ID)
        assert (grant.TTL, grant.ID > 0) == (60, True)
        put_request = self.put_of(txn)
        assert (put_request.key, put_request.value, put_request.lease) == (b"/net/subnets/" + name, b"v", grant.ID)
        nothing_new, absent = txn.compare
        assert (nothing_new.key, nothing_new.range_end) == (b"/net/subnets/", b"/net/subnets0")
        assert (nothing_new.result, nothing_new.create_revision) == (rpc.Compare.LESS, 11)
        assert (absent.key, absent.result, absent.create_revision) == (b"/net/subnets/" + name, rpc.Compare.EQUAL, 0)

    async def test_lost_races_share_one_lease(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """However often the race is lost, one lease is granted, and the winner's key is attached to it."""
        self.healthy(scripted)
        answers = iter([False, False, True, True])
        scripted.on["Txn"] = lambda _request: rpc.TxnResponse(header=header(11), succeeded=next(answers))
        registry = connect(scripted)
        results = [await registry.create_subnet(b"a", b"v", ttl_s=60, listed=SINCE) for _ in range(4)]
        assert [result is None for result in results] == [True, True, False, False]
        first, second = scripted.asked["LeaseGrant"]
        assert [self.put_of(txn).lease for txn in scripted.asked["Txn"]] == [first.ID, first.ID, first.ID, second.ID]

    async def test_unused_lease_is_revoked_at_close(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A race lost finally leaves no lease behind."""
        self.healthy(scripted)
        scripted.on["Txn"] = lambda _request: rpc.TxnResponse(header=header(11), succeeded=False)
        registry = connect(scripted)
        await registry.create_subnet(b"a", b"v", ttl_s=60, listed=SINCE)
        await registry.close()
        assert [request.ID for request in scripted.asked["LeaseRevoke"]] == [scripted.asked["LeaseGrant"][0].ID]

    async def test_close_does_not_wait_for_ever(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """When etcd does not answer, closing goes on without revoking."""
        self.healthy(scripted)
        scripted.on["Txn"] = lambda _request: rpc.TxnResponse(header=header(11), succeeded=False)
        registry = connect(scripted, timing=SHORT)
        await registry.create_subnet(b"a", b"v", ttl_s=60, listed=SINCE)
        scripted.on["LeaseRevoke"] = never
        begun = time.monotonic()
        await registry.close()
        assert time.monotonic() - begun < 2

    async def test_grant_reply_lost(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A lease whose grant got no reply is found again by its ID: no second one is granted."""
        self.healthy(scripted)
        scripted.on["LeaseGrant"] = Refusal(Status.UNAVAILABLE, "transport is closing")
        registry = connect(scripted)
        with pytest.raises(RegistryUnavailable):
            await registry.create_subnet(b"a", b"v", ttl_s=60, listed=SINCE)
        record = await registry.create_subnet(b"a", b"v", ttl_s=60, listed=SINCE)
        assert record is not None
        assert [request.ID for request in scripted.asked["LeaseGrant"]] == [record.lease_id]

    async def test_grant_failed(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A lease that was not granted is granted again."""
        self.healthy(scripted)
        scripted.on["LeaseGrant"] = Refusal(Status.UNAVAILABLE, "transport is closing")
        registry = connect(scripted)
        with pytest.raises(RegistryUnavailable):
            await registry.create_subnet(b"a", b"v", ttl_s=60, listed=SINCE)
        self.healthy(scripted)
        scripted.on["LeaseKeepAlive"] = lambda request: rpc.LeaseKeepAliveResponse(ID=request.ID, TTL=0)
        record = await registry.create_subnet(b"a", b"v", ttl_s=60, listed=SINCE)
        assert record is not None
        refused, granted = scripted.asked["LeaseGrant"]
        assert record.lease_id == granted.ID != refused.ID

    async def test_put_reply_lost(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A key that is there with our lease was put by us, whatever became of the reply."""
        self.healthy(scripted)
        scripted.on["Txn"] = Refusal(Status.UNAVAILABLE, "etcdserver: request timed out")
        scripted.on["Range"] = lambda _request: rpc.RangeResponse(
            header=header(12), kvs=[key_value(b"a", 11, lease=scripted.asked["LeaseGrant"][0].ID)]
        )
        record = await connect(scripted).create_subnet(b"a", b"{}", ttl_s=60, listed=SINCE)
        assert record == Record(b"a", b"{}", 11, 11, scripted.asked["LeaseGrant"][0].ID)

    async def test_put_reply_lost_and_put_delayed(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A put that happens after our read is found before the next attempt, which does not add a second key."""
        self.healthy(scripted)
        scripted.on["Txn"] = Refusal(Status.UNAVAILABLE, "etcdserver: request timed out")
        registry = connect(scripted)
        with pytest.raises(RegistryUnavailable):
            await registry.create_subnet(b"a", b"{}", ttl_s=60, listed=SINCE)
        lease_id = scripted.asked["LeaseGrant"][0].ID
        self.healthy(scripted)
        scripted.on["Range"] = lambda _request: rpc.RangeResponse(
            header=header(12), kvs=[key_value(b"a", 11, lease=lease_id)]
        )
        assert await registry.create_subnet(b"b", b"{}", ttl_s=60, listed=SINCE) is None
        await registry.close()
        assert len(scripted.asked["Txn"]) == 1
        assert not scripted.asked["LeaseRevoke"]

    async def test_another_name_has_the_doubtful_lease_revoked_first(
        self, scripted: ScriptedEtcd, connect: Connect
    ) -> None:
        """A put that may happen yet cannot any more when another name is put: its lease is gone, before."""
        self.healthy(scripted)
        scripted.on["Txn"] = Refusal(Status.UNAVAILABLE, "etcdserver: request timed out")
        registry = connect(scripted)
        with pytest.raises(RegistryUnavailable):
            await registry.create_subnet(b"a", b"{}", ttl_s=60, listed=SINCE)
        self.healthy(scripted)
        scripted.on["LeaseRevoke"] = Refusal(Status.UNAVAILABLE, "etcdserver: no leader")
        with pytest.raises(RegistryUnavailable):
            await registry.create_subnet(b"b", b"{}", ttl_s=60, listed=SINCE)
        assert len(scripted.asked["Txn"]) == 1, "as long as the old one may happen, nothing is put"
        scripted.on["LeaseRevoke"] = lambda _request: rpc.LeaseRevokeResponse(header=header(12))
        record = await registry.create_subnet(b"b", b"{}", ttl_s=60, listed=SINCE)
        assert record is not None
        first, second = scripted.asked["LeaseGrant"]
        assert scripted.asked["LeaseRevoke"][-1].ID == first.ID
        assert record.lease_id == second.ID

    async def test_close_spares_a_live_key(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A lease with our key is not revoked, although its put was never confirmed."""
        self.healthy(scripted)
        scripted.on["Txn"] = Refusal(Status.UNAVAILABLE, "etcdserver: request timed out")
        registry = connect(scripted)
        with pytest.raises(RegistryUnavailable):
            await registry.create_subnet(b"a", b"{}", ttl_s=60, listed=SINCE)
        lease_id = scripted.asked["LeaseGrant"][0].ID
        scripted.on["Range"] = lambda _request: rpc.RangeResponse(
            header=header(12), kvs=[key_value(b"a", 11, lease=lease_id)]
        )
        await registry.close()
        assert not scripted.asked["LeaseRevoke"]

    async def test_close_spares_what_cannot_be_read(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """When it is unknown whether a key is attached to the lease, the lease expires by itself."""
        self.healthy(scripted)
        scripted.on["Txn"] = Refusal(Status.UNAVAILABLE, "etcdserver: request timed out")
        scripted.on["Range"] = Refusal(Status.UNAVAILABLE, "etcdserver: no leader")
        registry = connect(scripted)
        with pytest.raises(RegistryUnavailable):
            await registry.create_subnet(b"a", b"{}", ttl_s=60, listed=SINCE)
        await registry.close()
        assert not scripted.asked["LeaseRevoke"]

    async def test_cancelled_put_is_remembered(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """After a cancellation during the put, its outcome is unknown."""
        self.healthy(scripted)
        scripted.on["Txn"] = never
        registry = connect(scripted)
        creating = asyncio.ensure_future(registry.create_subnet(b"a", b"{}", ttl_s=60, listed=SINCE))
        await eventually(lambda: scripted.asked["Txn"])
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        lease_id = scripted.asked["LeaseGrant"][0].ID
        scripted.on["Range"] = lambda _request: rpc.RangeResponse(
            header=header(12), kvs=[key_value(b"a", 11, lease=lease_id)]
        )
        await registry.close()
        assert not scripted.asked["LeaseRevoke"]

    async def test_lease_revoked_meanwhile(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A lease that is gone when the key is put is replaced, because nothing was done."""
        self.healthy(scripted)
        gone = iter([True, False])

        def txn(_request: Any) -> Any:
            if next(gone):
                raise Refusal(Status.NOT_FOUND, "etcdserver: requested lease not found")
            return rpc.TxnResponse(header=header(11), succeeded=True)

        scripted.on["Txn"] = txn
        record = await connect(scripted).create_subnet(b"a", b"v", ttl_s=60, listed=SINCE)
        assert record is not None
        assert record.lease_id == scripted.asked["LeaseGrant"][1].ID

    @pytest.mark.parametrize(
        "refusal",
        [
            Refusal(Status.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
            Refusal(Status.PERMISSION_DENIED, "etcdserver: permission denied"),
        ],
    )
    async def test_refused_put(self, scripted: ScriptedEtcd, connect: Connect, refusal: Refusal) -> None:
        """A put that etcd refuses has not happened: nothing is read back, and its lease serves the next attempt."""
        self.healthy(scripted)
        scripted.on["Txn"] = refusal
        registry = connect(scripted)
        with pytest.raises((RegistryUnavailable, RegistryDenied), match=refusal.details):
            await registry.create_subnet(b"a", b"v", ttl_s=60, listed=SINCE)
        self.healthy(scripted)
        record = await registry.create_subnet(b"b", b"v", ttl_s=60, listed=SINCE)
        assert record is not None
        assert [grant.ID for grant in scripted.asked["LeaseGrant"]] == [record.lease_id]
        assert not scripted.asked["Range"]

    async def test_another_ttl(self, scripted: ScriptedEtcd, connect: Connect) -> None:
        """A spare lease with another TTL is revoked and not used."""
        self.healthy(scripted)
        scripted.on["Txn"] = lambda _request: rpc.TxnResponse(header=header(11), succeeded=False)
        registry = connect(scripted)
        for ttl_s in (60, 120):
            assert await registry.create_subnet(b"a", b"v", ttl_s=ttl_s, listed=SINCE) is None
        first, second = scripted.asked["LeaseGrant"]
        assert (first.TTL, second.TTL) == (60, 120)
        assert [revoked.ID for revoked in scripted.asked["LeaseRevoke"]] == [first.ID]
