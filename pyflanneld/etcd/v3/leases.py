"""Creating a key with a TTL, so that a lost response costs neither us a subnet nor etcd an orphaned lease.

Theory of operation. Creating takes two requests: grant an etcd lease, then put the key with it, guarded. Either
response may be lost, and then the outcome is unknown. The rules:

1. *We choose the ID of the lease*, and remember it as the spare lease before we request it. A grant whose response was
   lost is found again by that ID; after a lost race the lease stays the spare for the next attempt.
2. A name is remembered as *tried* with the spare before the put is sent, and forgotten when the put was certainly
   refused. Without an answer the key is read back: if it is attached to our lease, we made it.
3. If it is not there (yet), the caller gets an error that leaves the outcome open, and the spare keeps the tried name.
   The put may still happen.
4. Before the spare is used again, the tried names are read. A key that is attached to it is *ours and alive*: the lease
   is no longer a spare. If the caller cannot know of that key, it must list again (``None``) and finds it. If there is
   none, and another name is to be created, the spare is revoked first: a put that comes later has no lease to hang on,
   so etcd refuses it. (For the same name there is nothing to fear: of two puts of one absent key one succeeds.)
5. A lease is revoked only as a spare, at ``close`` or for another TTL, and only after the tried names were read:
   **never revoke a lease to which a live key of ours may be attached** (flanneld v0.28.9 does so when a put fails, and
   deletes its own subnet if that put was in fact done).
6. A spare is refreshed by a keep-alive before use, unless that was just now: a new key starts with its full TTL.
7. An etcd lease that has lost its key (somebody deleted it, or put it on another lease) is the spare for the same key:
   a key that is deleted again and again costs one lease. Such a spare is never revoked, for others may use it.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import SubnetKey, parse_key_name
from pyflanneld.core.lease.overlapping_names import overlapping_names
from pyflanneld.errors import RegistryDenied, RegistryError, RegistryUnavailable
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.calls import Caller
from pyflanneld.etcd.v3.keyspace import KeySpace
from pyflanneld.etcd.v3.methods import LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_REVOKE, RANGE, TXN
from pyflanneld.etcd.v3.status import CallRefused, LeaseNotFound

FRESH: Final = 1e-4
"""The share of its TTL, 9 s of a day, for which a lease counts as just refreshed."""

MOST_BESIDE: Final = 120
"""How many names are left out of a guard: each is a comparison."""

CLOSE_S: Final = 3.0
"""How long ``close`` may take to revoke an unused lease, in seconds."""


@dataclass(slots=True)
class SpareLease:
    """An etcd lease to which no key is known to be attached.

    Attributes:
        lease_id: its ID, chosen by us.
        ttl_s: its time to live, in seconds.
        tried: names whose put with this lease may have happened or may still happen.
        granted: whether this run has granted it, for nothing but keys of its own.
        fresh_until_s: until when it has its full TTL, nearly, on the loop's clock.
    """

    lease_id: int
    ttl_s: int
    tried: set[bytes] = field(default_factory=set)
    granted: bool = True
    fresh_until_s: float = 0.0

    def refreshed(self) -> None:
        """Take note that it was granted or renewed."""
        self.fresh_until_s = asyncio.get_running_loop().time() + self.ttl_s * FRESH


class Creator:
    """Creates keys with a TTL, one at a time."""

    def __init__(self, caller: Caller, keys: KeySpace, log: FilteringBoundLogger) -> None:
        self._caller = caller
        self._keys = keys
        self._log = log
        self._lock = asyncio.Lock()
        self._spare: SpareLease | None = None
        self._alive: Record | None = None  # a key of ours whose reply was lost

    async def create(
        self, name: bytes, value: bytes, *, ttl_s: int, listed: Snapshot, beside: Collection[bytes] = ()
    ) -> Record | None:
        """Do what ``Registry.create_subnet`` promises."""
        async with self._lock:
            self._alive = await self._settle() or self._alive
            if self._alive is not None and self._alive.create_revision > listed.revision:
                return None
            self._alive = None
            if self._spare is not None and self._spare.tried - {name}:
                await self._give_back()
            return await self._on_a_spare(
                ttl_s, lambda spare: guarded_put(self._keys, name, value, spare, listed, beside)
            )

    async def move(self, held: Record, *, ttl_s: int) -> Record | None:
        """Do what ``Registry.put_on_own_lease`` promises."""
        async with self._lock:
            alive = await self._settle()
            if alive is not None:
                return alive if alive.name == held.name else None
            moved = await self._on_a_spare(ttl_s, lambda spare: unchanged_put(self._keys, held, held.value, spare))
            return moved and replace(moved, create_revision=held.create_revision)

    def offer(self, lease_id: int, ttl_s: int) -> None:
        """Take an etcd lease that was just renewed and has lost its key as the spare, unless there is one."""
        self._spare = self._spare or SpareLease(lease_id, ttl_s, granted=False)

    async def _on_a_spare(self, ttl_s: int, request: Callable[[int], rpc.TxnRequest]) -> Record | None:
        """Put a key by the *request* that an etcd lease leads to."""
        try:
            return await self._put(request, await self._lease(ttl_s))
        except LeaseNotFound:  # revoked by somebody else: nothing was done
            self._spare = None
            return await self._put(request, await self._lease(ttl_s))

    async def close(self) -> None:
        """Revoke the spare, if there is one and if that is safe and quick."""
        try:
            async with asyncio.timeout(CLOSE_S), self._lock:
                await self._settle()
                await self._give_back()
        except (RegistryError, TimeoutError) as error:
            if self._spare is not None:
                self._log.info("lease.left_behind", lease_id=self._spare.lease_id, error=str(error))

    async def _settle(self) -> Record | None:
        """Return the record of a put with unknown outcome if it has happened; its lease is then no spare."""
        spare = self._spare
        for name in sorted(spare.tried) if spare else ():
            record = await self._read(name)
            if spare and record is not None and record.lease_id == spare.lease_id:
                self._spare = None
                return record
        return None

    async def _lease(self, ttl_s: int) -> SpareLease:
        """Return a spare that was granted or refreshed just now."""
        if self._spare is not None and self._spare.ttl_s != ttl_s:
            await self._give_back()
        if self._spare is not None and await self._refreshed(self._spare):
            return self._spare
        # From the operating system: two nodes must not pick the same ID, not even two clones of one machine.
        self._spare = SpareLease(secrets.randbits(62) + 1, ttl_s)
        request = rpc.LeaseGrantRequest(TTL=ttl_s, ID=self._spare.lease_id)
        await self._caller.write(LEASE_GRANT, request)
        self._spare.refreshed()
        return self._spare

    async def _refreshed(self, spare: SpareLease) -> bool:
        if asyncio.get_running_loop().time() < spare.fresh_until_s:
            return True
        request = rpc.LeaseKeepAliveRequest(ID=spare.lease_id)
        answer = await self._caller.read(LEASE_KEEP_ALIVE, request)
        spare.refreshed()
        return answer.TTL > 0

    async def _put(self, requested: Callable[[int], rpc.TxnRequest], spare: SpareLease) -> Record | None:
        request = requested(spare.lease_id)
        put = request.success[0].request_put
        name, value = put.key.removeprefix(self._keys.subnets), put.value
        known = name in spare.tried
        spare.tried.add(name)
        try:
            response = await self._caller.write(TXN, request)
        except (CallRefused, RegistryDenied):
            spare.tried -= set() if known else {name}
            raise
        except RegistryUnavailable as error:
            return await self._outcome(name, spare, error)
        if response.succeeded:
            self._spare = None
            revision = response.header.revision
            return Record(name, value, create_revision=revision, mod_revision=revision, lease_id=spare.lease_id)
        spare.tried -= set() if known else {name}
        return None

    async def _outcome(self, name: bytes, spare: SpareLease, error: RegistryUnavailable) -> Record:
        """Return the record if the put that ended in *error* has happened.

        Raises:
            RegistryUnavailable: it has not, or not yet, or that is unknown.
        """
        record = await self._read(name)
        if record is None or record.lease_id != spare.lease_id:
            raise RegistryUnavailable(f"creating {name!r}, which is not there (yet): {error}") from error
        self._spare = None
        return record

    async def _read(self, name: bytes) -> Record | None:
        return await read_record(self._caller, self._keys, name)

    async def _give_back(self) -> None:
        """Revoke the spare; its tried names were read just before, and no key is attached to it."""
        if self._spare is not None and self._spare.granted:
            request = rpc.LeaseRevokeRequest(ID=self._spare.lease_id)
            with contextlib.suppress(LeaseNotFound):
                await self._caller.write(LEASE_REVOKE, request)
            self._log.debug("lease.revoked", lease_id=self._spare.lease_id)
        self._spare = None


def guarded_put(
    keys: KeySpace, name: bytes, value: bytes, lease_id: int, listed: Snapshot, beside: Collection[bytes] = ()
) -> rpc.TxnRequest:
    """Return the request to put the key if each that may overlap it is as old as the list, and this one is absent.

    A comparison over a range holds when it holds for each key in it, so also for an empty range
    (``etcdserverpb.Compare.range_end``, etcd 3.3). etcd takes 128 comparisons (``--max-txn-ops``).
    """
    nothing_new = [
        rpc.Compare(
            key=start,
            range_end=end,
            target=rpc.Compare.CREATE,
            result=rpc.Compare.LESS,
            create_revision=listed.revision + 1,
        )
        for start, end in _guarded(keys, name, beside)
    ]
    key = keys.key(name)
    absent = rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease_id))
    return rpc.TxnRequest(compare=[*nothing_new, absent], success=[put])


def _guarded(keys: KeySpace, name: bytes, beside: Collection[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the ranges of all keys that may overlap *name*.

    Where it has an IPv6 subnet, what overlaps that may stand behind any IPv4 subnet: then that is all of them, but for
    those names in *beside* that do not overlap it.
    """
    wanted, start = _key_of(name), keys.subnets
    if wanted is not None and wanted.ipv6 is None:
        for first, end in overlapping_names(wanted.ipv4):
            yield keys.key(first), keys.key(end)
        return
    for other in sorted(set(beside))[:MOST_BESIDE]:
        key = _key_of(other)
        if wanted is not None and key is not None and not key.overlaps(wanted):
            yield start, keys.key(other)
            start = keys.key(other) + b"\0"
    yield start, keys.subnets_end


def _key_of(name: bytes) -> SubnetKey | None:
    try:
        return parse_key_name(name)
    except Invalid:
        return None


def unchanged_put(keys: KeySpace, held: Record, value: bytes, lease_id: int) -> rpc.TxnRequest:
    """Return the request to put the key of *held* if nobody has changed it."""
    put = rpc.PutRequest(key=keys.key(held.name), value=value, lease=lease_id)
    return if_unchanged(keys, held, rpc.RequestOp(request_put=put))


def if_unchanged(keys: KeySpace, held: Record, operation: rpc.RequestOp) -> rpc.TxnRequest:
    """Return the request to do *operation* if nobody has changed *held*."""
    key, mod_revision = keys.key(held.name), held.mod_revision
    unchanged = rpc.Compare(key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=mod_revision)
    return rpc.TxnRequest(compare=[unchanged], success=[operation])


async def read_record(caller: Caller, keys: KeySpace, name: bytes) -> Record | None:
    """Return the subnet *name* as it is now (linearizable), ``None`` when it is absent."""
    request = rpc.RangeRequest(key=keys.key(name))
    response = await caller.read(RANGE, request)
    return keys.record(response.kvs[0]) if response.kvs else None
