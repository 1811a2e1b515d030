"""A bare client of a real etcd: what administrators and other programs do. Keys are whole; nothing is retried."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from grpclib.client import Channel, UnaryUnaryMethod

from pyflanneld.etcd.access import host_port
from pyflanneld.etcd.v3 import methods
from pyflanneld.etcd.v3 import rpc_pb2 as rpc


class RawEtcd:
    """The client, with grpclib's own. Raises ``GRPCError`` for a status, and ``OSError``."""

    def __init__(self, url: str) -> None:
        self._channel = Channel(*host_port(url))

    async def ask(self, method: methods.Method[methods.Q, methods.A], request: methods.Q) -> methods.A:
        """Return the answer to a request."""
        call: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(self._channel, method.path, method.request, method.answer)
        answer: methods.A = await call(request)
        return answer

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str) -> AsyncIterator["RawEtcd"]:
        """Provide a client until the block ends."""
        raw = cls(url)
        try:
            yield raw
        finally:
            await raw.close()

    async def put(self, key: bytes, value: bytes, *, lease_id: int = 0) -> None:
        await self.ask(methods.PUT, rpc.PutRequest(key=key, value=value, lease=lease_id))

    async def put_all(self, keys: Iterable[bytes], value: bytes) -> None:
        """Put many keys, 100 in a transaction."""
        rest = list(keys)
        while rest:
            batch, rest = rest[:100], rest[100:]
            puts = [rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value)) for key in batch]
            await self.ask(methods.TXN, rpc.TxnRequest(success=puts))

    async def get(self, key: bytes) -> Any:
        """Return the key-value or ``None``."""
        answer = await self.ask(methods.RANGE, rpc.RangeRequest(key=key))
        return answer.kvs[0] if answer.kvs else None

    async def keys(self, prefix: bytes) -> dict[bytes, Any]:
        """Return the key-values of all keys that begin with *prefix*, which does not end with 0xff."""
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        answer = await self.ask(methods.RANGE, rpc.RangeRequest(key=prefix, range_end=end))
        return {kv.key: kv for kv in answer.kvs}

    async def delete(self, key: bytes) -> None:
        await self.ask(methods.DELETE_RANGE, rpc.DeleteRangeRequest(key=key))

    async def compact(self) -> None:
        now = (await self.ask(methods.RANGE, rpc.RangeRequest(key=b"x"))).header.revision
        await self.ask(methods.COMPACT, rpc.CompactionRequest(revision=now, physical=True))

    async def grant(self, ttl_s: int) -> int:
        return int((await self.ask(methods.LEASE_GRANT, rpc.LeaseGrantRequest(TTL=ttl_s))).ID)

    async def revoke(self, lease_id: int) -> None:
        await self.ask(methods.LEASE_REVOKE, rpc.LeaseRevokeRequest(ID=lease_id))

    async def time_to_live(self, lease_id: int) -> Any:
        """Return etcd's ``LeaseTimeToLiveResponse`` with the keys that are attached to the lease."""
        return await self.ask(methods.LEASE_TIME_TO_LIVE, rpc.LeaseTimeToLiveRequest(ID=lease_id, keys=True))

    async def leases(self) -> set[int]:
        """Return the IDs of all leases of the cluster."""
        return {lease.ID for lease in (await self.ask(methods.LEASE_LEASES, rpc.LeaseLeasesRequest())).leases}

    async def close(self) -> None:
        self._channel.close()
