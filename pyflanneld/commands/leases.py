"""``pyflanneld leases``: who holds which subnet, and the reservations. Shell side; decisions are in ``core``.

Every change is guarded by what was listed a moment before: what somebody else has changed meanwhile is not touched.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol, assert_never

from pyflanneld.backends import BACKENDS
from pyflanneld.commands import lease_table
from pyflanneld.commands.common_flags import OWN, own_switch
from pyflanneld.config.go_flags import Flag, FlagKind, Given
from pyflanneld.config.load import load_words
from pyflanneld.config.settings import ETCD, FLAGS, Settings
from pyflanneld.config.types import parse_public_ip, parse_public_ipv6
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease import reservations
from pyflanneld.core.lease.codec import LeaseAttrs, SubnetKey, encode_name, encode_value
from pyflanneld.core.lease.reservations import AlreadyReserved, MakeReservation, ReservationRefused, ReserveRequest
from pyflanneld.core.network.config import NetworkConfig, parse_config
from pyflanneld.errors import PyflanneldError, RegistryError, UsageError
from pyflanneld.logs import setup
from pyflanneld.ports import Administration, Registry

TRIES = 5

TITLE = """\
pyflanneld leases: the subnets of the network, who holds them, and reservations.

Usage: pyflanneld leases [list] [--output=table|json] [flags]
       pyflanneld leases reserve SUBNET PUBLIC_IP [flags]
       pyflanneld leases release SUBNET [--force] [flags]

In a dual-stack network write both halves: SUBNET,IPV6_SUBNET and PUBLIC_IP,PUBLIC_IPV6.

A reservation is a lease that never expires: the node with that public address takes that subnet, at its next start.
Reserving what that very node leases already takes the time to live away. Release deletes a reservation, or with
--force a live lease, which a running node takes again at once.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

_OUTPUT = Flag(
    "output", FlagKind.STRING, "table", "table or json, for list.", "FORMAT", OWN, from_env=False,
    choices=("table", "json"),
)  # fmt: skip
_FORCE = own_switch("force", "Release a live lease.")
LEASES_FLAGS = (_OUTPUT, _FORCE, *(flag for flag in FLAGS if flag.group == ETCD))


class LeaseStore(Registry, Administration, Protocol):
    """What the command needs of a registry."""


class Refusal(PyflanneldError):
    """What was asked for must not be done, or somebody was quicker."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Show what there is."""

    output: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """Reserve *key* for the node with *public_ip*, and *public_ipv6* in a dual-stack network."""

    key: SubnetKey
    public_ip: IPv4Address
    public_ipv6: IPv6Address | None


@dataclass(frozen=True, slots=True)
class Releasing:
    """Delete the lease of *subnet*."""

    subnet: IPv4Network
    force: bool


Order = ListRequest | Reservation | Releasing


def main(words: Sequence[str], environ: Mapping[str, str], *, connect: Callable[[Settings], LeaseStore]) -> int:
    """Do what *words* (those after ``leases``) ask for; return the exit code.

    Raises:
        UsageError: they cannot be understood.
        SystemExit: 0, after ``--help`` was answered.
    """
    plain, settings, given = load_words(words, environ, title=TITLE, flags=LEASES_FLAGS)
    order = _order(plain, given)
    setup.configure(settings.log_format, settings.verbosity)
    try:
        asyncio.run(_carry_out(order, settings, connect))
    except (RegistryError, Refusal) as error:
        sys.stderr.write(f"pyflanneld leases: {error}\n")
        return 1
    return 0


def _order(plain: Sequence[str], own: Mapping[str, Given]) -> Order:
    output, force = str(own["output"].value), own["force"].value is True
    match list(plain):
        case [] | ["list"]:
            return ListRequest(output)
        case ["reserve", subnet, public_ip]:
            return _reservation(*subnet.partition(",")[::2], *public_ip.partition(",")[::2])
        case ["release", subnet]:
            return Releasing(_subnet(subnet), force)
        case ["reserve" | "release" as word, *_]:
            needs = "SUBNET PUBLIC_IP" if word == "reserve" else "SUBNET"
            raise UsageError(f"leases {word} needs: {needs}")
        case [word, *_]:
            raise UsageError(f"leases has no {word!a}; there is: list, reserve, release")
    raise AssertionError("unreachable: a list is empty or has a first word")


def _reservation(subnet: str, subnet6: str, public_ip: str, public_ip6: str) -> Reservation:
    key = SubnetKey(_subnet(subnet), _subnet6(subnet6) if subnet6 else None)
    try:
        address6 = parse_public_ipv6(public_ip6) if public_ip6 else None
    except ValueError as error:
        raise UsageError(f"{public_ip6!a} is not usable: {error}") from None
    return Reservation(key, _public_ip(public_ip), address6)


def _subnet6(text: str) -> IPv6Network:
    try:
        if "/" not in (slashed := text.replace("-", "/", 1)) or "%" in text:
            raise ValueError("no prefix length, or a zone")
        return IPv6Network(slashed)
    except ValueError as error:
        raise UsageError(f"{text!a} is not a subnet such as 2001:db8:0:7::/64: {error}") from None


def _subnet(text: str) -> IPv4Network:
    """Read ``"172.7.21.0/24"``, or as the key has it, ``"172.7.21.0-24"``."""
    try:
        if "/" not in (slashed := text.replace("-", "/", 1)):
            raise ValueError("no prefix length")
        return IPv4Network(slashed)
    except ValueError as error:
        raise UsageError(f"{text!a} is not a subnet such as 172.7.21.0/24: {error}") from None


def _public_ip(text: str) -> IPv4Address:
    if not text:
        raise UsageError("an empty public address is not usable: an IPv4 address such as 192.168.14.21 is needed")
    try:
        return parse_public_ip(text)
    except ValueError as error:
        raise UsageError(f"{text!a} is not usable: {error}") from None


async def _carry_out(order: Order, settings: Settings, connect: Callable[[Settings], LeaseStore]) -> None:
    store = connect(settings)
    try:
        match order:
            case ListRequest(output):
                await _list(store, output)
            case Reservation():
                await _reserve(store, order, settings.etcd_prefix)
            case Releasing(subnet, force):
                await _release(store, subnet, force=force)
            case _:
                assert_never(order)
    finally:
        await store.close()


async def _list(store: LeaseStore, output: str) -> None:
    records = (await store.list_subnets()).records
    left = await store.times_to_live(records)
    rows = [lease_table.row(reservations.read_lease(record), left.get(record.name)) for record in records]
    sys.stdout.write(lease_table.as_json(rows) if output == "json" else lease_table.as_table(rows))


async def _reserve(store: LeaseStore, order: Reservation, prefix: str) -> None:
    config = await _config(store, prefix)
    attrs = LeaseAttrs(order.public_ip, BACKENDS[config.backend_type].lease_type, order.public_ipv6)
    for _ in range(TRIES):
        listed = await store.list_subnets()
        match reservations.decide_reservation(listed.records, order.key, attrs, config):
            case ReservationRefused(why):
                raise Refusal(why)
            case AlreadyReserved():
                return _say(f"{order.key} is reserved for {attrs.public_ip} already")
            case MakeReservation(record):
                if await store.make_reservation(record) is not None:
                    return _say(f"{order.key}, the lease of {attrs.public_ip}, is a reservation now")
            case ReserveRequest(elsewhere):
                name = encode_name(order.key.ipv4, order.key.ipv6)
                if await store.reserve_subnet(name, encode_value(attrs, store.api), listed=listed) is not None:
                    return _say_reserved(order.key, attrs, elsewhere)
    raise Refusal(f"the leases changed {TRIES} times while this was tried; nothing was done")


def _say_reserved(key: SubnetKey, attrs: LeaseAttrs, elsewhere: SubnetKey | None) -> None:
    _say(f"{key} is reserved for {attrs.public_ip}")
    if elsewhere is not None:
        sys.stderr.write(
            f"pyflanneld leases: that node holds {elsewhere} as well, and prefers what its subnet file names: "
            f"to move it, stop it, release {elsewhere}, put {key} into its subnet file or delete that, and start it\n"
        )


async def _config(store: LeaseStore, prefix: str) -> NetworkConfig:
    value = (await store.read_config()).value
    if value is None:
        raise Refusal(f"there is no network configuration at {prefix}/config, which says what can be reserved")
    try:
        config = parse_config(value)
    except Invalid as error:
        raise Refusal(f"the network configuration at {prefix}/config is not usable: {error}") from error
    if config.backend_type not in BACKENDS:
        raise Refusal(f"the network configuration asks for the backend {config.backend_type!a}; no node here has it")
    return config


async def _release(store: LeaseStore, subnet: IPv4Network, *, force: bool) -> None:
    listed = await store.list_subnets()
    decision = reservations.decide_release(listed.records, subnet, force=force)
    if isinstance(decision, ReservationRefused):
        raise Refusal(decision.why)
    reading = decision.reading
    if not await store.delete_subnet(reading.record):
        raise Refusal(f"{reading.key} was changed by somebody else this moment; nothing was done")
    kind = "lease" if reading.record.lease_id else "reservation"
    _say(f"the {kind} of {reading.key} is deleted" + (f", it was {reading.attrs.public_ip}'s" if reading.attrs else ""))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
