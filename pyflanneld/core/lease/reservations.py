"""Reserving and releasing subnets by hand: what may be done, and why something may not. Pure.

A reservation is a lease key without a TTL (flannel ``Documentation/reservations.md``). A node finds it by its public
address: at its next start, or at once if it leases that subnet now.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.lease.codec import LeaseAttrs, SubnetKey
from pyflanneld.core.network.config import NetworkConfig


@dataclass(frozen=True, slots=True)
class CreateReservation:
    """The subnet is free: create its key without a TTL.

    Attributes:
        elsewhere: another lease of the same node, which it prefers as long as its subnet file names it.
    """

    elsewhere: SubnetKey | None


@dataclass(frozen=True, slots=True)
class MakeReservation:
    """It is this node's lease: remove its TTL."""

    record: Record


@dataclass(frozen=True, slots=True)
class AlreadyReserved:
    """It is this node's reservation."""


@dataclass(frozen=True, slots=True)
class Release:
    """The key may be deleted."""

    record: Record


@dataclass(frozen=True, slots=True)
class ReservationRefused:
    """The request must not be carried out, for the reason *why*."""

    why: str


def decide_reservation(
    records: Iterable[Record], key: SubnetKey, attrs: LeaseAttrs, config: NetworkConfig
) -> CreateReservation | MakeReservation | AlreadyReserved | ReservationRefused:
    """Decide how *key* becomes a reservation for the node with the addresses of *attrs*."""
    why = _unfit(key, attrs, config)
    if why is not None:
        return ReservationRefused(why)
    known = list(records)
    same = next((record for record in known if record.lease.key == key), None)
    if same is not None:
        return _of_known(same, attrs)
    leases = [record.lease for record in known]
    for one in leases:
        if one.key is not None and one.key.overlaps(key):
            holder = f"leased by {one.attrs.public_ip}" if one.attrs else "a lease that cannot be read"
            return ReservationRefused(f"{key} overlaps {one.key}, {holder}")
    theirs = (one.key for one in leases if one.attrs and one.attrs.public_ip == attrs.public_ip)
    return CreateReservation(elsewhere=next(theirs, None))


def _unfit(key: SubnetKey, attrs: LeaseAttrs, config: NetworkConfig) -> str | None:
    """Return why no node would take *key*; ``None`` if the node with *attrs* would."""
    if config.ipv4 is None or not config.ipv4.admits(key.ipv4):
        return f"{key.ipv4} is not one of the subnets that the network configuration offers{_offer(config)}"
    if attrs.public_ip in key.ipv4:
        return f"the public address {attrs.public_ip} is inside the subnet {key.ipv4} itself"
    return _unfit6(key, attrs, config)


def _unfit6(key: SubnetKey, attrs: LeaseAttrs, config: NetworkConfig) -> str | None:
    ipv6, subnet, address = config.ipv6, key.ipv6, attrs.public_ipv6
    if ipv6 is None:
        return "the network configuration has no IPv6" if subnet or address else None
    if subnet is None or address is None:
        return "the network is dual-stack: the reservation needs SUBNET,IPV6_SUBNET and PUBLIC_IP,PUBLIC_IPV6"
    if not ipv6.admits(subnet):
        offer = f"/{ipv6.subnet_len} from {ipv6.subnet_min} to {ipv6.subnet_max}"
        return f"{subnet} is not one of the subnets that the network configuration offers: {offer}"
    if address in subnet:
        return f"the public address {address} is inside the subnet {subnet} itself"
    return None


def _offer(config: NetworkConfig) -> str:
    ipv4 = config.ipv4
    return f": /{ipv4.subnet_len} from {ipv4.subnet_min} to {ipv4.subnet_max}" if ipv4 else ""


def _of_known(record: Record, attrs: LeaseAttrs) -> MakeReservation | AlreadyReserved | ReservationRefused:
    same = record.lease
    if same.attrs is None:
        return ReservationRefused(f"{same.key} has a lease that cannot be read: {same.problem}")
    if same.attrs.public_ip != attrs.public_ip:
        return ReservationRefused(f"{same.key} is leased by {same.attrs.public_ip}")
    return MakeReservation(record) if record.lease_id else AlreadyReserved()


def decide_release(records: Iterable[Record], subnet: IPv4Network, *, force: bool) -> Release | ReservationRefused:
    """Decide whether the lease of *subnet* may be deleted; a live one, with a TTL, only with *force*."""
    found = next((one for one in records if one.lease.key is not None and one.lease.key.ipv4 == subnet), None)
    if found is None:
        return ReservationRefused(f"there is no lease of {subnet}")
    if found.lease_id and not force:
        holder = found.lease.attrs.public_ip if found.lease.attrs else "a value that cannot be read"
        return ReservationRefused(f"{found.lease.key} is a live lease of {holder}; --force deletes it nevertheless")
    return Release(found)
