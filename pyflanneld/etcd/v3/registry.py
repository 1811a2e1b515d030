"""The registry on etcd's v3 API: ``ports.Registry`` over gRPC.

This module says *what* is requested; ``calls`` says how a request is sent, ``channel`` where to; ``watch`` and
``leases`` are the two parts with a theory of operation. Keys and values are flannel's (v0.28.9,
``pkg/subnet/etcd/registry.go``), but the range is exact: flannel lists everything that starts with
``<prefix>/subnets``.

Reads are linearizable (``serializable`` is never set): a member that was cut off does not answer.
"""

import random
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import (
    ConfigRecord,
    Gone,
    Position,
    Put,
    Record,
    Renewal,
    Snapshot,
    TimeLeft,
    TimeToLive,
)
from pyflanneld.errors import RegistryUnavailable, RevisionCompacted
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.administration import create_if_absent, create_without_ttl, time_left, times_to_live
from pyflanneld.etcd.v3.calls import Caller, Tokens
from pyflanneld.etcd.v3.channel import DEFAULT_TIMING, Endpoints
from pyflanneld.etcd.v3.keyspace import KeySpace
from pyflanneld.etcd.v3.leases import Creator, if_unchanged, read_record, unchanged_put
from pyflanneld.etcd.v3.listing import Lister
from pyflanneld.etcd.v3.methods import LEASE_KEEP_ALIVE, RANGE, TXN
from pyflanneld.etcd.v3.watch import Watch

_LIST_ATTEMPTS: Final = 3


class EtcdV3Registry:
    """``ports.Registry`` on etcd v3.

    Args:
        access: where etcd is, and our credentials.
        rng: picks the endpoint to begin with.
        log: where events go; by default structlog's.
        timing: how long to wait.
        tls: the certificates in use, where they are shared; otherwise they are read here.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """

    def __init__(
        self,
        access: EtcdAccess,
        *,
        rng: random.Random,
        log: FilteringBoundLogger | None = None,
        timing: Timing = DEFAULT_TIMING,
        tls: Tls | None = None,
    ) -> None:
        self._log: FilteringBoundLogger = log if log is not None else structlog.get_logger("pyflanneld.etcd")
        self._keys = KeySpace.below(access.prefix)
        self._endpoints = Endpoints(access.endpoints, tls or Tls(access), rng=rng, log=self._log, timing=timing)
        tokens = Tokens(access, rpc_timeout_s=timing.rpc_s, log=self._log)
        self._caller = Caller(self._endpoints, tokens, timing)
        self._lister = Lister(self._caller, self._keys)
        self._creator = Creator(self._caller, self._keys, self._log)

    @property
    def api(self) -> int:
        """The API in use."""
        return 3

    @property
    def endpoint(self) -> str:
        """The endpoint in use, as the operator wrote it."""
        return self._endpoints.current.url

    @property
    def set_aside(self) -> Collection[str]:
        """The endpoints of other clusters, which are not used."""
        return self._endpoints.clusters.set_aside

    @property
    def addresses(self) -> Collection[str]:
        """The addresses that the names among the endpoints had last."""
        return self._endpoints.addresses

    async def read_config(self) -> ConfigRecord:
        """Return ``<prefix>/config`` as it is now."""
        response = await self._caller.read(RANGE, rpc.RangeRequest(key=self._keys.config))
        value = response.kvs[0].value if response.kvs else None
        return ConfigRecord(value=value, revision=response.header.revision)

    @asynccontextmanager
    async def watch_config(self, after_revision: int) -> AsyncIterator[AsyncIterator[object]]:
        """Deliver something after each change of ``<prefix>/config``, and at other times too."""
        watch = Watch(
            self._caller,
            self._keys,
            key=self._keys.config,
            range_end=b"",
            after_revision=after_revision,
            cluster_id=None,
            log=self._log,
        )
        try:
            yield watch
        finally:
            await watch.close()

    async def list_subnets(self, *, elsewhere: bool = False) -> Snapshot:
        """Return all subnets at one revision.

        A compaction while it is read starts it over; ``listing`` has the rest.
        """
        await self._endpoints.clusters.look_again()
        for attempt in range(1, _LIST_ATTEMPTS + 1):
            try:
                return await self._lister.list(elsewhere=elsewhere)
            except RevisionCompacted:
                self._log.info("list.compacted_midway", attempt=attempt)
        raise RegistryUnavailable(f"{self.endpoint}: compacted {_LIST_ATTEMPTS} times while listing")

    @asynccontextmanager
    async def watch_subnets(self, after: Position) -> AsyncIterator[AsyncIterator[tuple[Put | Gone, ...]]]:
        """Deliver every change after *after*."""
        watch = Watch(
            self._caller,
            self._keys,
            key=self._keys.subnets,
            range_end=self._keys.subnets_end,
            after_revision=after.revision,
            cluster_id=after.cluster_id,
            log=self._log,
        )
        try:
            yield watch
        finally:
            await watch.close()

    async def create_subnet(
        self, name: bytes, value: bytes, *, ttl_s: int, listed: Snapshot, beside: Collection[bytes] = ()
    ) -> Record | None:
        """Create the key with a TTL if nothing that may overlap it is newer than *listed*; ``leases`` has the rules."""
        return await self._creator.create(name, value, ttl_s=ttl_s, listed=listed, beside=beside)

    async def rewrite_subnet(self, held: Record, value: bytes) -> Record | None:
        """Change the value of *held*, with its lease, if nobody changed it."""
        response = await self._caller.write(TXN, unchanged_put(self._keys, held, value, held.lease_id))
        if not response.succeeded:
            return None
        return Record(held.name, value, held.create_revision, response.header.revision, held.lease_id)

    async def delete_subnet(self, held: Record) -> bool:
        """Delete *held* if nobody changed it. Its etcd lease expires by itself: other keys may be attached to it."""
        delete = rpc.DeleteRangeRequest(key=self._keys.key(held.name))
        request = if_unchanged(self._keys, held, rpc.RequestOp(request_delete_range=delete))
        return (await self._caller.write(TXN, request)).succeeded

    async def put_on_own_lease(self, held: Record, *, ttl_s: int) -> Record | None:
        """Put the key of *held* on an etcd lease of our own if nobody changed it."""
        return await self._creator.move(held, ttl_s=ttl_s)

    async def renew(self, held: Record) -> Renewal:
        """Renew the lease of *held* and read its key back.

        The key is read after the keep-alive, since etcd before 3.4.38 and 3.5.23 may report success for a lease that
        was just revoked. A lease that lives and has lost the key is good for the next one.
        """
        ttl_s = await self._keep_alive(held.lease_id) if held.lease_id else None
        record = await read_record(self._caller, self._keys, held.name)
        if ttl_s and (record is None or record.lease_id != held.lease_id):
            self._creator.offer(held.lease_id, int(ttl_s))
        return Renewal(record=record, ttl_s=ttl_s)

    async def _keep_alive(self, lease_id: int) -> float:
        """Return the time to live from now on, in seconds; 0 when there is no such lease."""
        request = rpc.LeaseKeepAliveRequest(ID=lease_id)
        answer = await self._caller.read(LEASE_KEEP_ALIVE, request)
        return float(max(answer.TTL, 0))

    async def time_left(self, held: Record) -> TimeLeft | None:
        """Return how long the lease of *held* still has."""
        return await time_left(self._caller, held.lease_id)

    async def times_to_live(self, records: Iterable[Record]) -> Mapping[bytes, TimeToLive]:
        """Return how long the *records* with a TTL still have, by name."""
        return await times_to_live(self._caller, records)

    async def reserve_subnet(self, name: bytes, value: bytes, *, listed: Snapshot) -> Record | None:
        """Create the key without a TTL if nothing that may overlap it is newer than *listed*."""
        return await create_without_ttl(self._caller, self._keys, name, value, listed)

    async def make_reservation(self, held: Record) -> Record | None:
        """Detach *held* from its etcd lease if nobody changed it; the lease expires by itself."""
        return await self.rewrite_subnet(replace(held, lease_id=0), held.value)

    async def write_config(self, value: bytes, *, seen: ConfigRecord) -> bool:
        """Write ``<prefix>/config`` if it is still as *seen*."""
        key = self._keys.config
        if seen.value is None:
            same = [rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)]
        else:
            later = seen.revision + 1
            same = [
                rpc.Compare(key=key, target=rpc.Compare.VALUE, result=rpc.Compare.EQUAL, value=seen.value),
                rpc.Compare(key=key, target=rpc.Compare.MOD, result=rpc.Compare.LESS, mod_revision=later),
            ]
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))
        request = rpc.TxnRequest(compare=same, success=[put])
        response = await self._caller.write(TXN, request)
        return response.succeeded

    async def import_subnet(self, name: bytes, value: bytes, ttl_s: int | None) -> bool:
        """Create the subnet if it is absent, as it was in another store; return whether it was created.

        *ttl_s* is what it had left to live, ``None`` for a reservation. No port: the daemon never does this.
        """
        return await create_if_absent(self._caller, self._keys.key(name), value, ttl_s)

    def reconnect(self) -> None:
        """Use new connections from now on."""
        self._endpoints.reconnect()

    async def close(self) -> None:
        """Revoke an etcd lease that no key uses, and close all connections. The leases of keys stay."""
        await self._creator.close()
        await self._endpoints.close()
