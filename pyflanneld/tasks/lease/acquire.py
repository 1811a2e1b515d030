"""Get a lease, at start and again when the key has vanished."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from itertools import count
from random import Random

from pyflanneld.core.backoff import around, backoff, race_pause_s
from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.core.lease.allocation import Choice, Claim, Demand6, Discard, Exhausted, Reuse, choose, count_free
from pyflanneld.core.lease.codec import TTL_S, LeaseAttrs, SubnetKey, encode_name, encode_value
from pyflanneld.core.lease.ownership import Confirmed, OwnLease, Rewrite, confirmed, judge
from pyflanneld.core.network.config import SubnetRange
from pyflanneld.errors import RegistryError
from pyflanneld.state.node import Context

RETRY_CAP_S = 10.0
EXHAUSTED_PAUSE_S = 4.0
BEAT_S = 60.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What we want to hold.

    Attributes:
        among: where leases come from.
        attrs: what the lease is to say.
        previous: the subnet that the subnet file remembers.
        underlay: networks that no lease may overlap.
        ipv6: what else we want in a dual-stack network.
    """

    among: SubnetRange
    attrs: LeaseAttrs
    previous: IPv4Network | None
    underlay: tuple[IPv4Network, ...]
    ipv6: Demand6 | None = None


async def acquire(context: Context, wish: Wish) -> tuple[OwnLease, Snapshot] | None:
    """Return our lease, and the list of all leases that it was chosen from; waits for etcd as long as it takes.

    Returns:
        ``None``, after a pause, when no subnet is free: it is said, and the configuration may have changed meanwhile.
    """
    waits = backoff(0.5, RETRY_CAP_S, context.rng)
    for race in count():
        context.heart.beat("acquire", BEAT_S)
        try:
            snapshot = await context.registry.list_subnets()
            context.registry_works("acquire")
            choice = decide(wish, snapshot.records, context.rng)
            if isinstance(choice, Exhausted):
                await _wait_for_a_free_one(context, wish, len(snapshot.records))
                return None
            lease, wish = await _try(context, wish, snapshot, choice)
        except RegistryError as error:
            # The outcome of a write may be unknown now: the next list shows it, as a lease with our address.
            context.registry_failed("acquire", error, blocks=True)
            await context.pause(error, next(waits))
            continue
        if lease is not None:
            context.problems.resolve("subnet")
            context.heart.rest("acquire")
            return lease, snapshot
        await asyncio.sleep(race_pause_s(race, context.rng))
    raise AssertionError("unreachable: count() does not end")


async def _wait_for_a_free_one(context: Context, wish: Wish, leases: int) -> None:
    network = wish.among.network
    if count_free((), wish.among, wish.underlay):
        text = f"{network} has no free subnet left for this node; waiting for one"
    else:
        near = ", ".join(str(own) for own in wish.underlay if own.overlaps(network))
        text = f"every subnet of {network} overlaps {near}, which this host needs itself; waiting for another network"
    context.problems.report("subnet", "lease.exhausted", text, leases=leases)
    await asyncio.sleep(around(EXHAUSTED_PAUSE_S, 0.2, context.rng))
    context.heart.rest("acquire")


def decide(wish: Wish, records: Sequence[Record], rng: Random) -> Choice:
    """Say what the *records* suggest."""
    return choose(
        records, wish.among, wish.attrs.public_ip,
        previous=wish.previous, underlay=wish.underlay, rng=rng, ipv6=wish.ipv6,
    )


async def _try(
    context: Context, wish: Wish, snapshot: Snapshot, choice: Reuse | Discard | Claim
) -> tuple[OwnLease | None, Wish]:
    """Do what the list suggests; ``None``: list again. What is wished for then may have changed."""
    match choice:
        case Reuse(record=record, subnet=subnet, ipv6=ipv6):
            return await _reuse(context, wish, record, SubnetKey(subnet, ipv6)), wish
        case Discard(record=record, keep=keep):
            context.log.warning("lease.discarded", key=record.name, network=str(wish.among.network))
            await context.registry.delete_subnet(record)
            return None, wish if keep is None else replace(wish, previous=keep)
        case Claim(subnet=subnet, previous_refused=refused, ipv6=ipv6):
            if refused is not None:
                context.log.warning("lease.previous_refused", subnet=str(wish.previous), why=refused)
            return await _create(context, wish, snapshot, SubnetKey(subnet, ipv6)), wish


async def _reuse(context: Context, wish: Wish, record: Record, key: SubnetKey) -> OwnLease | None:
    """Hold the lease that carries our address, without a write where its value is right already."""
    sent_at_s = context.clock.now_s()
    held = confirmed(
        key.ipv4, wish.attrs.public_ip, record, 0.0, sent_at_s, ipv6=key.ipv6, public_ipv6=wish.attrs.public_ipv6
    )
    match judge(held, wish.attrs, await context.registry.renew(record), sent_at_s):
        case Confirmed(lease=lease):
            context.log.info("lease.reused", subnet=str(key), reserved=lease.reserved)
            return lease
        case Rewrite(lease=lease):
            await context.registry.rewrite_subnet(lease.record, encode_value(wish.attrs, context.registry.api))
            return None
        case _:
            return None  # it went away between the list and the renewal


async def _create(context: Context, wish: Wish, snapshot: Snapshot, key: SubnetKey) -> OwnLease | None:
    sent_at_s = context.clock.now_s()
    record = await context.registry.create_subnet(
        encode_name(key.ipv4, key.ipv6), encode_value(wish.attrs, context.registry.api), ttl_s=TTL_S, listed=snapshot
    )
    if record is None:
        context.log.debug("lease.race_lost", subnet=str(key))
        return None
    context.log.info("lease.acquired", subnet=str(key), revision=record.create_revision)
    return confirmed(
        key.ipv4, wish.attrs.public_ip, record, TTL_S, sent_at_s, ipv6=key.ipv6, public_ipv6=wish.attrs.public_ipv6
    )
