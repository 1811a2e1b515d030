"""Renew this host's lease: early and often, prove that it is ours, take it again when it has vanished."""

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import count
from typing import assert_never

from pyflanneld.core.backoff import backoff, jittered, race_pause_s
from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.core.families import Network, inside, overlap
from pyflanneld.core.lease.allocation import SubnetRequest, first_pairs
from pyflanneld.core.lease.codec import TTL_S, LeaseAttrs, SubnetKey, encode_name, encode_value
from pyflanneld.core.lease.ownership import (
    SHORT,
    Assessment,
    Confirmed,
    HeldByOther,
    OwnLease,
    Retake,
    Rewrite,
    Unreadable,
    assess,
    confirmed,
    is_junk,
    renewal_interval_s,
    vanished,
)
from pyflanneld.errors import LeaseLost, RegistryError
from pyflanneld.ports import Change
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node, publish
from pyflanneld.state.wakeup import set_within
from pyflanneld.tasks.lease.duplicate_holder import DuplicateHolder

RETRY_CAP_S = 30.0
RESERVED_INTERVAL_S = 300.0


async def renew_lease(context: Context, node: Node, *, found: bool = False) -> None:
    """Keep ``node.lease`` true for ever.

    Args:
        context: the ports and the settings.
        node: the node.
        found: whether the lease was there already when this node joined.

    Raises:
        LeaseLost: another node has leased our subnet.
    """
    waits, proved = _waits(context, node), True
    await set_within(node.progress.routes, 1.0)  # the first routes come first
    duplicates = DuplicateHolder(context, node, found=found)
    await duplicates.check()
    if node.lease.confirmed_until_s < context.clock.now_s():
        node.wake.lease.set()
    while True:
        delay_s = jittered(interval_s(context, node), 0.1, context.rng) if proved else next(waits)
        context.liveness.beat("lease", delay_s + RETRY_CAP_S)
        await duplicates.wait(delay_s)
        if node.wake.lease.take(Change.LEASE_GONE):
            _lose_key(context, node)
        await duplicates.check()
        proved = await _verify(context, node, duplicates)
        duplicates.renewed(proved=proved)
        if proved:
            node.wake.routes.set(Change.PEERS)  # what nothing wants may have waited for the proof
            waits = _waits(context, node)


def interval_s(context: Context, node: Node) -> float:
    """Return how long to wait between two renewals, in seconds."""
    if node.lease.reserved:
        return RESERVED_INTERVAL_S
    return renewal_interval_s(node.lease.ttl_s, context.settings.subnet_lease_renew_margin_s)


def _waits(context: Context, node: Node) -> Iterator[float]:
    """Return the waits of an outage: a lease with a short life must not run out during one when etcd is back."""
    return backoff(1.0, min(RETRY_CAP_S, interval_s(context, node)), context.rng)


async def _verify(context: Context, node: Node, duplicates: DuplicateHolder) -> bool:
    """Renew and read once; return whether the lease is proved to be ours."""
    membership, choice, links = node.membership, node.choice, node.links
    attrs = publish(context.settings, membership, choice, links)
    sent_at_s = context.clock.now_s()
    try:
        seen = await context.registry.renew(node.lease.record)
        proved = await _act(context, node, duplicates, attrs, assess(node.lease, attrs, seen, sent_at_s))
    except RegistryError as error:
        context.registry_failed("lease", error, blocks=False)
        context.counters.renewals[False] += 1
        return False
    context.registry_works("lease")
    context.counters.renewals[proved] += 1
    return proved


async def _act(
    context: Context, node: Node, duplicates: DuplicateHolder, attrs: LeaseAttrs, finding: Assessment
) -> bool:
    match finding:
        case Confirmed(lease=lease):
            moved, node.lease = lease.record.lease_id != node.lease.record.lease_id, lease
            if moved:
                node.wake.lease.set()  # nobody has renewed that one yet
            if 0 < lease.ttl_s < SHORT * TTL_S:
                return await _take_back(context, node)
            context.conditions.resolve("lease")
            duplicates.has_our_value()
            return True
        case Rewrite(lease=lease, other=other):
            if other is None or duplicates.may_write(other):
                return await _rewrite(context, node, attrs, lease)
            node.lease = lease
            return True
        case Retake():
            return await _retake(context, node, attrs)
        case HeldByOther(by=holder):
            raise LeaseLost(f"our subnet {node.lease.subnet} is leased by {holder} now; it is not taken back by force")
        case Unreadable(why=why):
            subnet = node.lease.subnet
            text = (
                f"the lease of {subnet} carries a value that cannot be read; delete the key: this host takes it again"
            )
            context.conditions.report("lease", "lease.unreadable", text, why=why)
            return False
        case _:
            assert_never(finding)


async def _take_back(context: Context, node: Node) -> bool:
    """Put the key on an etcd lease of our own: this one is none of flannel's, and ends in a short outage."""
    lease = node.lease
    sent_at_s = context.clock.now_s()
    try:
        record = await context.registry.put_on_own_lease(lease.record, ttl_s=TTL_S)
    except RegistryError:
        text = f"the lease of {lease.key} is on an etcd lease of {lease.ttl_s:.0f} s: a short outage would end it"
        context.conditions.report("lease", "lease.shortened", text, blocks=False)
        raise
    if record is None:
        return False
    node.lease = confirmed(
        lease.subnet, lease.public_ip, record, TTL_S, sent_at_s, ipv6=lease.ipv6, public_ipv6=lease.public_ipv6
    )
    context.conditions.resolve("lease")
    context.log.warning("lease.taken_back", subnet=str(lease.key), was_ttl_s=lease.ttl_s, ttl_s=TTL_S)
    return True


async def _rewrite(context: Context, node: Node, attrs: LeaseAttrs, lease: OwnLease) -> bool:
    """Write what we publish: somebody has changed the value, or our address has changed."""
    record = await context.registry.rewrite_subnet(lease.record, encode_value(attrs, context.registry.api))
    if record is None:
        return False
    node.lease = replace(lease, record=record, public_ip=attrs.public_ip, public_ipv6=attrs.public_ipv6)
    context.conditions.resolve("lease")
    context.log.warning("lease.rewritten", subnet=str(lease.subnet), public_ip=str(attrs.public_ip))
    return True


def _lose_key(context: Context, node: Node) -> None:
    """Go by etcd's word that this host's key is gone: no peer routes here any more, and others may take the subnet."""
    node.lease = vanished(node.lease)
    text = f"the lease of {node.lease.key} is gone from etcd, so that no peer has a route here; taking it again"
    context.conditions.report("lease", "lease.vanished", text)


async def _retake(context: Context, node: Node, attrs: LeaseAttrs) -> bool:
    """Create the vanished key again, the same subnet; nothing changes on this host.

    What overlaps it and cannot be read is no host's, if it came while our key was there: no host would have taken it.
    """
    _lose_key(context, node)
    key, name = node.lease.key, node.lease.record.name
    subnet = key.ipv4
    for race in count():
        snapshot = await context.registry.list_subnets()
        if any(record.name == name for record in snapshot.records):
            return False  # somebody put it there: read it again
        for other in _overlapping(snapshot, key, node.networks):
            if not is_junk(other):
                taken = f"our subnet {key} overlaps {other.lease.key}, which is in etcd"
                raise LeaseLost(f"our lease has vanished, and {taken}")
            if other.incarnation not in node.junk_beside:
                _report_junk(context, node, other)
                return False
        sent_at_s = context.clock.now_s()
        record = await context.registry.create_subnet(
            name, encode_value(attrs, context.registry.api), ttl_s=TTL_S, listed=snapshot,
            beside=_names_beside(node, snapshot),
        )
        if record is not None:
            node.lease = confirmed(
                subnet, attrs.public_ip, record, TTL_S, sent_at_s, ipv6=key.ipv6, public_ipv6=attrs.public_ipv6
            )
            node.wake.lease.take(Change.LEASE_GONE)
            context.conditions.resolve("lease")
            context.counters.retaken += 1
            context.log.warning("lease.retaken", subnet=str(subnet), revision=record.create_revision)
            return True
        await asyncio.sleep(race_pause_s(race, context.rng))
    raise AssertionError("unreachable: count() does not end")


def _names_beside(node: Node, snapshot: Snapshot) -> list[bytes]:
    """Return what other hosts may create meanwhile, in a dual-stack network where all have lost their keys."""
    if node.subnet_range6 is None:
        return []
    pairs = first_pairs(snapshot.records, SubnetRequest(node.subnet_range), SubnetRequest(node.subnet_range6))
    return [encode_name(pair.ipv4, pair.ipv6) for pair in pairs]


def _report_junk(context: Context, node: Node, junk: Record) -> None:
    """Report a key without a readable value that may have come after ours had gone: it may be a live host's."""
    what = f"{junk.lease.key}, whose value cannot be read, overlaps it; delete it"
    text = f"the lease of {node.lease.key} is gone from etcd, and {what}"
    context.conditions.report("lease", "lease.overlapped", text, key=junk.name)


def _overlapping(snapshot: Snapshot, key: SubnetKey, networks: Collection[Network]) -> Iterator[Record]:
    """Yield what overlaps *key*; a half that claims all of a network of *networks* is nobody's lease."""
    for record in snapshot.records:
        other = record.lease.key
        if other is None:
            continue
        sound = [half for half in other.subnets if not any(inside(network, half) for network in networks)]
        if any(overlap(one, half) for one in key.subnets for half in sound):
            yield record
