"""Requests of the commands to etcd v3: times to live, keys without one, and keys copied from another store."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterable, Mapping
from typing import Final

from pyflanneld.core.etcd_types import Record, Snapshot, TimeLeft, TimeToLive
from pyflanneld.errors import RegistryError
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.calls import Caller
from pyflanneld.etcd.v3.keyspace import KeySpace
from pyflanneld.etcd.v3.leases import guarded_put
from pyflanneld.etcd.v3.methods import LEASE_GRANT, LEASE_REVOKE, LEASE_TIME_TO_LIVE, TXN

AT_ONCE: Final = 32
"""Requests under way at a time: etcd has no request for the times to live of many leases."""


async def times_to_live(caller: Caller, records: Iterable[Record]) -> Mapping[bytes, TimeToLive]:
    """Do what ``Administration.times_to_live`` promises, with one request for each etcd lease."""
    names: dict[int, list[bytes]] = {}
    for record in records:
        if record.lease_id:
            names.setdefault(record.lease_id, []).append(record.name)
    found: dict[bytes, TimeToLive] = {}
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(lease_id: int) -> None:
        async with gate:
            answer = await _time_to_live(caller, lease_id)
        left = TimeToLive(_left_s(answer), float(answer.grantedTTL))
        found.update(dict.fromkeys(names[lease_id], left))

    try:
        async with asyncio.TaskGroup() as tasks:
            for lease_id in names:
                tasks.create_task(ask(lease_id), name=f"ttl-{lease_id}")
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    return found


async def time_left(caller: Caller, lease_id: int) -> TimeLeft:
    """Return how long an etcd lease still has, and in which leader's term."""
    answer = await _time_to_live(caller, lease_id)
    return TimeLeft(_left_s(answer), answer.header.raft_term)


async def _time_to_live(caller: Caller, lease_id: int) -> rpc.LeaseTimeToLiveResponse:
    request = rpc.LeaseTimeToLiveRequest(ID=lease_id)
    return await caller.read(LEASE_TIME_TO_LIVE, request)


def _left_s(answer: rpc.LeaseTimeToLiveResponse) -> float:
    return float(max(answer.TTL, 0))  # -1: there is no such lease any more


async def create_without_ttl(
    caller: Caller, keys: KeySpace, name: bytes, value: bytes, listed: Snapshot
) -> Record | None:
    """Create the key, provided that nothing overlapping is new; a lost response leaves the outcome unknown."""
    request = guarded_put(keys, name, value, 0, listed)
    response = await caller.write(TXN, request)
    revision = response.header.revision
    return Record(name, value, revision, revision, 0) if response.succeeded else None


async def create_if_absent(caller: Caller, key: bytes, value: bytes, ttl_s: int | None) -> bool:
    """Create *key* with a TTL in seconds, or without one, if it is absent; return whether it was created.

    An etcd lease whose key was not created is revoked when nothing can be attached to it, and expires otherwise.
    """
    lease_id = secrets.randbits(62) + 1 if ttl_s is not None else 0
    if ttl_s is not None:
        grant = rpc.LeaseGrantRequest(TTL=max(ttl_s, 1), ID=lease_id)
        await caller.write(LEASE_GRANT, grant)
    absent = rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)
    put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease_id))
    request = rpc.TxnRequest(compare=[absent], success=[put])
    response = await caller.write(TXN, request)
    if lease_id and not response.succeeded:
        revoke = rpc.LeaseRevokeRequest(ID=lease_id)
        with contextlib.suppress(RegistryError):
            await caller.write(LEASE_REVOKE, revoke)
    return response.succeeded
