"""What is asked of etcd v3 on the side: times to live, and keys without one."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aetcd import rpc

from pyflanneld.core.etcd_types import Record, Snapshot, TimeLeft, TimeToLive
from pyflanneld.etcd.v3.calls import Caller
from pyflanneld.etcd.v3.keyspace import KeySpace
from pyflanneld.etcd.v3.leases import guarded_put

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
            left = await _time_to_live(caller, lease_id)
        found.update(dict.fromkeys(names[lease_id], left))

    try:
        async with asyncio.TaskGroup() as tasks:
            for lease_id in names:
                tasks.create_task(ask(lease_id), name=f"ttl-{lease_id}")
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    return found


async def _time_to_live(caller: Caller, lease_id: int) -> TimeToLive:
    request = rpc.LeaseTimeToLiveRequest(ID=lease_id)
    answer: Any = await caller.read(lambda stubs, how: stubs.lease.LeaseTimeToLive(request, **how))
    return TimeToLive(float(max(answer.TTL, 0)), float(answer.grantedTTL))  # -1: there is no such lease any more


async def time_left(caller: Caller, lease_id: int) -> TimeLeft:
    """Return how long an etcd lease still has, and in which leader's term."""
    request = rpc.LeaseTimeToLiveRequest(ID=lease_id)
    answer: Any = await caller.read(lambda stubs, how: stubs.lease.LeaseTimeToLive(request, **how))
    return TimeLeft(float(max(answer.TTL, 0)), answer.header.raft_term)


async def create_without_ttl(
    caller: Caller, keys: KeySpace, name: bytes, value: bytes, listed: Snapshot
) -> Record | None:
    """Create the key, provided that nothing was created since *listed*; a lost reply leaves the outcome unknown."""
    request = guarded_put(keys, name, value, 0, listed)
    response: Any = await caller.write(lambda stubs, how: stubs.kv.Txn(request, **how))
    revision = response.header.revision
    return Record(name, value, revision, revision, 0) if response.succeeded else None
