"""Get a lease at the start."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from itertools import count
from math import inf
from random import Random

from pyflanneld.core.backoff import backoff, jittered, race_pause_s
from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.core.lease.allocation import (
    CHOICES,
    Choice,
    Claim,
    Discard,
    Exhausted,
    Reuse,
    SubnetRequest,
    choose,
    count_free,
)
from pyflanneld.core.lease.codec import TTL_S, LeaseAttrs, SubnetKey, encode_name, encode_value
from pyflanneld.core.lease.ownership import Confirmed, OwnLease, Rewrite, assess, confirmed
from pyflanneld.core.network.config import SubnetRange
from pyflanneld.errors import RegistryError
from pyflanneld.state.context import Context

RETRY_CAP_S = 10.0
EXHAUSTED_PAUSE_S = 4.0
BEAT_S = 60.0
TRIES = 4
"""How many subnets are tried by one list."""
WIDEST = 4


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """The lease to request.

    Attributes:
        subnet_range: where leases come from.
        attrs: what the lease is to publish.
        previous: the subnet of an earlier run.
        named_by: what names that, for messages.
        underlay: networks that no lease may overlap.
        around: networks that a lease should not be a part of; as in ``SubnetRequest``.
        ipv6: the IPv6 half of the request, in a dual-stack network.
    """

    subnet_range: SubnetRange[IPv4Network]
    attrs: LeaseAttrs
    previous: IPv4Network | None
    underlay: tuple[IPv4Network, ...]
    around: tuple[IPv4Network, ...] = ()
    ipv6: SubnetRequest[IPv6Network] | None = None
    named_by: str = "the subnet file"


async def acquire(context: Context, request: LeaseRequest) -> tuple[OwnLease, Snapshot] | None:
    """Return our lease, and the list of all leases that it was chosen from; waits for etcd as long as it takes.

    Returns:
        ``None``, after a report and a pause, when no subnet is free: the configuration may have changed meanwhile.
    """
    waits = backoff(0.5, RETRY_CAP_S, context.rng)
    for race in count():
        context.liveness.beat("acquire", BEAT_S)
        try:
            snapshot = await context.registry.list_subnets()
            choice = decide(request, snapshot.records, context.rng, width=spread(race))
            if isinstance(choice, Exhausted):
                context.registry_works("acquire")
                await _wait_for_a_free_one(context, request, len(snapshot.records))
                return None
            lease, request = await _try(context, request, snapshot, choice, race)
        except RegistryError as error:
            # The outcome of a write may be unknown now: the next list shows it, as a lease with our address.
            context.registry_failed("acquire", error, blocks=True)
            await context.pause(error, next(waits))
            continue
        context.registry_works("acquire")  # writes too
        if lease is not None:
            context.conditions.resolve("subnet")
            context.liveness.rest("acquire")
            return lease, snapshot
        await asyncio.sleep(race_pause_s(race, context.rng))
    raise AssertionError("unreachable: count() does not end")


async def _wait_for_a_free_one(context: Context, request: LeaseRequest, leases: int) -> None:
    network = request.subnet_range.network
    if count_free((), request.subnet_range, request.underlay):
        text = f"{network} has no free subnet left for this node; waiting for one"
    else:
        near = ", ".join(str(own) for own in request.underlay if own.overlaps(network))
        text = f"every subnet of {network} overlaps {near}, which this host needs itself; waiting for another network"
    context.conditions.report("subnet", "lease.exhausted", text, leases=leases)
    await asyncio.sleep(jittered(EXHAUSTED_PAUSE_S, 0.2, context.rng))
    context.liveness.rest("acquire")


def decide(
    request: LeaseRequest, records: Sequence[Record], rng: Random, *, lost: Sequence[SubnetKey] = (),
    width: int = CHOICES,
) -> Choice:
    """Return which lease the *records*, and what others have taken since, leave us; *width* as for ``choose``."""
    ipv4 = SubnetRequest(request.subnet_range, request.previous, request.underlay, request.around)
    return choose(records, request.attrs.public_ip, ipv4, request.ipv6, rng, lost=lost, width=width)


def spread(race: int) -> int:
    """Return over how many free subnets to spread: the more lost races there are, the more hosts want one at once."""
    return CHOICES << 3 * min(race, WIDEST)


async def _try(
    context: Context, request: LeaseRequest, snapshot: Snapshot, choice: Reuse | Discard | Claim, race: int
) -> tuple[OwnLease | None, LeaseRequest]:
    """Carry out the choice; ``None``: list again, with the request that is returned."""
    match choice:
        case Reuse(record=record, subnet=subnet, ipv6=ipv6):
            return await _reuse(context, request, record, SubnetKey(subnet, ipv6)), request
        case Discard(record=record, keep=keep):
            context.log.warning("lease.discarded", key=record.name, network=str(request.subnet_range.network))
            await context.registry.delete_subnet(record)
            return None, request if keep is None else replace(request, previous=keep)
        case Claim(previous_refused=refused):
            if refused is not None:
                context.log.warning("lease.previous_refused", subnet=str(request.previous), why=refused)
            return await _claim(context, request, snapshot, choice, race), request


async def _claim(
    context: Context, request: LeaseRequest, snapshot: Snapshot, claim: Claim, race: int
) -> OwnLease | None:
    """Create the key, or another one that the same list leaves: each is guarded by itself, so it needs no new list.

    A dual-stack key may be refused for anything new, so what is remembered is not given up for that.
    """
    lost: list[SubnetKey] = []
    while True:
        lease = await _create(context, request, snapshot, claim)
        lost.append(claim.key)
        unsure = claim.ipv6 is not None and (claim.subnet == request.previous or not claim.choices)
        if lease is not None or unsure or len(lost) == TRIES:
            return lease
        match decide(request, snapshot.records, context.rng, lost=lost, width=spread(race + len(lost))):
            case Claim() as claim:
                pass
            case _:
                return None


async def _reuse(context: Context, request: LeaseRequest, record: Record, key: SubnetKey) -> OwnLease | None:
    """Take over the lease that carries our address, without a write where its value is right already."""
    sent_at_s = context.clock.now_s()
    held = confirmed(
        key.ipv4, request.attrs.public_ip, record, 0.0, sent_at_s, ipv6=key.ipv6, public_ipv6=request.attrs.public_ipv6
    )
    match assess(held, request.attrs, await context.registry.renew(record), sent_at_s):
        case Confirmed(lease=lease):
            context.log.info("lease.reused", subnet=str(key), reserved=lease.reserved)
            return lease
        case Rewrite(lease=lease, other=LeaseAttrs()):  # the lease task decides whether to write over that
            return replace(lease, confirmed_until_s=-inf)
        case Rewrite(lease=lease):
            await context.registry.rewrite_subnet(lease.record, encode_value(request.attrs, context.registry.api))
            return None
        case _:
            return None  # it went away between the list and the renewal


async def _create(context: Context, request: LeaseRequest, snapshot: Snapshot, claim: Claim) -> OwnLease | None:
    sent_at_s, key = context.clock.now_s(), claim.key
    record = await context.registry.create_subnet(
        encode_name(key.ipv4, key.ipv6), encode_value(request.attrs, context.registry.api), ttl_s=TTL_S,
        listed=snapshot, beside=[encode_name(other.ipv4, other.ipv6) for other in claim.choices],
    )
    if record is None:
        context.log.debug("lease.race_lost", subnet=str(key))
        return None
    context.log.info("lease.acquired", subnet=str(key), revision=record.create_revision)
    return confirmed(
        key.ipv4, request.attrs.public_ip, record, TTL_S, sent_at_s,
        ipv6=key.ipv6, public_ipv6=request.attrs.public_ipv6,
    )
