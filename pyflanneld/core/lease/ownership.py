"""This host's lease: what each renewal proves about it, and what to do.

    HELD ⇄ uncertain        no confirmation for a while: change nothing, wait, verify
    HELD → retake           the key is gone: create it again, the same subnet
    HELD → rewrite          the key is ours, its value is not what we publish
    HELD → held by other    the key carries another node's address: never touch it again
    HELD → unreadable       nobody's: keep everything as it is and report it

A lease is ours when its key is attached to the etcd lease that we keep alive, or carries the address that we publish.
Ownership lasts, once confirmed, until the moment the request was sent plus its time to live, less a margin for clock
drift.
"""

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from math import inf

from pyflanneld.core.etcd_types import Record, Renewal
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import LeaseAttrs, SubnetKey, parse_value

DRIFT_MARGIN_S = 2.0
LONGEST_INTERVAL_S = 300.0
SHORT = 0.5
"""A lease that was granted for less than this share of flannel's TTL is none of flannel's."""


@dataclass(frozen=True, slots=True)
class OwnLease:
    """The lease that we hold.

    Attributes:
        record: the key as it was last read.
        public_ip: the address that its value carries.
        ipv6: its IPv6 subnet, and *public_ipv6* the address for that, in a dual-stack network.
        absent: whether etcd has said that the key is gone, and not yet that it is back.
        ttl_s: the last granted time to live in seconds, infinite for a reservation.
        confirmed_at_s: when it was last proved to be ours, on the clock that does not stop in suspend.
        confirmed_until_s: until when that proof holds.
    """

    subnet: IPv4Network
    public_ip: IPv4Address
    record: Record
    ttl_s: float
    confirmed_at_s: float
    confirmed_until_s: float
    ipv6: IPv6Network | None = None
    public_ipv6: IPv6Address | None = None
    absent: bool = False

    @property
    def key(self) -> SubnetKey:
        """What is leased, of both families."""
        return SubnetKey(self.subnet, self.ipv6)

    @property
    def reserved(self) -> bool:
        """Whether the key has no TTL: an operator's reservation, which stays one."""
        return self.record.lease_id == 0


@dataclass(frozen=True, slots=True)
class Confirmed:
    """It is ours."""

    lease: OwnLease


@dataclass(frozen=True, slots=True)
class Rewrite:
    """It is ours, but its value is not what we publish: write ours, guarded.

    Attributes:
        other: what the value says where it is that of another host with our IPv4 address.
    """

    lease: OwnLease
    other: LeaseAttrs | None = None


@dataclass(frozen=True, slots=True)
class Retake:
    """The key is gone: create it again."""


@dataclass(frozen=True, slots=True)
class HeldByOther:
    """The key carries another node's address."""

    by: IPv4Address


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The value cannot be read, and nothing proves it ours."""

    why: str


Assessment = Confirmed | Rewrite | Retake | HeldByOther | Unreadable


def confirmed(
    subnet: IPv4Network,
    public_ip: IPv4Address,
    record: Record,
    ttl_s: float | None,
    sent_at_s: float,
    *,
    ipv6: IPv6Network | None = None,
    public_ipv6: IPv6Address | None = None,
) -> OwnLease:
    """Return the lease as confirmed by the response to a request sent at *sent_at_s*."""
    ttl = inf if record.lease_id == 0 else ttl_s or 0.0
    until_s = sent_at_s + ttl - DRIFT_MARGIN_S
    return OwnLease(subnet, public_ip, record, ttl, sent_at_s, until_s, ipv6, public_ipv6)


def vanished(held: OwnLease) -> OwnLease:
    """Return *held* whose key is gone, by etcd's word: whatever was granted, nothing is proved from now on."""
    return replace(held, absent=True, confirmed_until_s=-inf)


def assess(held: OwnLease, publish: LeaseAttrs, seen: Renewal, sent_at_s: float) -> Assessment:
    """Return what a renewal has shown.

    Args:
        held: the lease as it was.
        publish: what its value should say.
        seen: the response.
        sent_at_s: when the request was sent.
    """
    record = seen.record
    if record is None:
        return Retake()
    same_lease = record.lease_id == held.record.lease_id
    try:
        attrs = parse_value(record.value)
    except Invalid as error:
        if not (same_lease and record.lease_id):
            return Unreadable(str(error))
        attrs = None
    ours = (same_lease and record.lease_id != 0) or (
        attrs is not None and attrs.public_ip in (publish.public_ip, held.public_ip)
    )
    if not ours:
        assert attrs is not None  # noqa: S101 - an unreadable value that is not ours was answered above
        return HeldByOther(attrs.public_ip)
    # Another lease (the key was put again) was not renewed this time: the next renewal does, so it is due now.
    ttl_s = seen.ttl_s if same_lease else 0.0
    proved = confirmed(
        held.subnet, held.public_ip, record, ttl_s, sent_at_s, ipv6=held.ipv6, public_ipv6=held.public_ipv6
    )
    if attrs == publish:
        return Confirmed(replace(proved, public_ip=publish.public_ip, public_ipv6=publish.public_ipv6))
    others = attrs is not None and attrs.public_ipv6 not in (publish.public_ipv6, held.public_ipv6)
    return Rewrite(proved, attrs if others else None)


def is_junk(record: Record) -> bool:
    """Return whether a key's value is none that a host has written: not readable, or without a host's address."""
    attrs = record.lease.attrs
    if attrs is None:
        return True
    ip = attrs.public_ip
    return ip.is_unspecified or ip.is_loopback or ip.is_multicast or ip.is_reserved


def renewal_interval_s(ttl_s: float, margin_s: float) -> float:
    """Return how long to wait between renewals, in seconds: a tenth of the TTL, five minutes, or the operator's margin.

    Args:
        ttl_s: the granted time to live.
        margin_s: ``--subnet-lease-renew-margin``: renew no later than this long before the end.
    """
    return max(1.0, min(LONGEST_INTERVAL_S, ttl_s / 10, ttl_s - margin_s))
