"""Writes keys of another store into etcd v3 as they were: with the TTL that they have left, or without one.

No port: the daemon never does this. Each key is created only where there is none. A grant whose key could not be put is
revoked when nothing can hang on it, and runs out by itself otherwise.
"""

import contextlib
import random
import secrets
from typing import Any

from aetcd import rpc
from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import RegistryError
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.timing import Timing
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v3.auth import Tokens
from pyflanneld.etcd.v3.calls import Caller
from pyflanneld.etcd.v3.channel import Endpoints
from pyflanneld.etcd.v3.keyspace import KeySpace


class Importer:
    """Creates keys in etcd v3.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """

    def __init__(self, access: EtcdAccess, *, rng: random.Random, log: FilteringBoundLogger) -> None:
        timing = Timing()
        self._keys = KeySpace.below(access.prefix)
        self._endpoints = Endpoints(access.endpoints, Tls(access), rng=rng, log=log)
        self._caller = Caller(self._endpoints, Tokens(access, rpc_timeout_s=timing.rpc_s, log=log), timing)

    async def put_config(self, value: bytes) -> bool:
        """Create ``<prefix>/config``; say whether that was done, for it may be there meanwhile."""
        return await self._put(self._keys.config, value, 0)

    async def put_subnet(self, name: bytes, value: bytes, ttl_s: int | None) -> bool:
        """Create a subnet that lives for *ttl_s* seconds, or for ever; say whether that was done."""
        key = self._keys.key(name)
        if ttl_s is None:
            return await self._put(key, value, 0)
        lease_id = secrets.randbits(62) + 1
        grant = rpc.LeaseGrantRequest(TTL=max(ttl_s, 1), ID=lease_id)
        await self._caller.write(lambda stubs, how: stubs.lease.LeaseGrant(grant, **how))
        created = await self._put(key, value, lease_id)
        if not created:
            with contextlib.suppress(RegistryError):
                revoke = rpc.LeaseRevokeRequest(ID=lease_id)
                await self._caller.write(lambda stubs, how: stubs.lease.LeaseRevoke(revoke, **how))
        return created

    async def _put(self, key: bytes, value: bytes, lease_id: int) -> bool:
        absent = rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease_id))
        request = rpc.TxnRequest(compare=[absent], success=[put])
        response: Any = await self._caller.write(lambda stubs, how: stubs.kv.Txn(request, **how))
        return bool(response.succeeded)

    async def ttl_s(self, lease_id: int) -> int | None:
        """Return the seconds that an etcd lease has left; ``None`` for 0, which is none."""
        if not lease_id:
            return None
        request = rpc.LeaseTimeToLiveRequest(ID=lease_id)
        response: Any = await self._caller.read(lambda stubs, how: stubs.lease.LeaseTimeToLive(request, **how))
        return max(int(response.TTL), 0)

    async def close(self) -> None:
        """Close all connections."""
        await self._endpoints.close()
