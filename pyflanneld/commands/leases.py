"""``pyflanneld leases``: who holds which subnet, and the reservations. Shell side; ``core/lease`` decides.

Every change is conditional on the list read just before: a key that somebody changed meanwhile is not touched.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import assert_never

from pyflanneld.backends import BACKENDS
from pyflanneld.commands.common_flags import OWN, own_switch
from pyflanneld.commands.output import columns, duration_text, json_text
from pyflanneld.config.go_flags import Flag, FlagKind, Given
from pyflanneld.config.load import load_words
from pyflanneld.config.settings import ETCD, FLAGS, Settings
from pyflanneld.config.types import parse_public_ip, parse_public_ipv6
from pyflanneld.core.etcd_types import Record, TimeToLive
from pyflanneld.core.invalid import Invalid, shown
from pyflanneld.core.lease import reservations
from pyflanneld.core.lease.codec import LeaseAttrs, SubnetKey, encode_name, encode_value
from pyflanneld.core.lease.reservations import (
    AlreadyReserved,
    CreateReservation,
    MakeReservation,
    ReservationRefused,
)
from pyflanneld.core.network.config import NetworkConfig, parse_config
from pyflanneld.errors import RegistryError, RequestRefused, UsageError
from pyflanneld.logs.setup import configure_logging
from pyflanneld.ports import FullRegistry

TRIES = 5

TITLE = """\
pyflanneld leases: the subnets of the network, who holds them, and reservations.

Usage: pyflanneld leases [list] [--output=table|json] [flags]
       pyflanneld leases reserve SUBNET PUBLIC_IP [flags]
       pyflanneld leases release SUBNET [--force] [flags]

In a dual-stack network write both families: SUBNET,IPV6_SUBNET and PUBLIC_IP,PUBLIC_IPV6.

A reservation is a lease that never expires: the node with that public address takes that subnet at its next start.
Reserving the subnet that this node leases now removes the lease's time to live. Release deletes a reservation, or with
--force a live lease, which a running node takes again at once.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
"""

_OUTPUT = Flag(
    "output", FlagKind.STRING, "table", "table or json, for list.", "FORMAT", OWN, from_env=False,
    choices=("table", "json"),
)  # fmt: skip
_FORCE = own_switch("force", "Release a live lease.")
_HEAD = ("SUBNET", "PUBLIC IP", "BACKEND", "TTL LEFT", "RENEWED", "REVISION")
LEASES_FLAGS = (_OUTPUT, _FORCE, *(flag for flag in FLAGS if flag.group == ETCD))


LeaseRow = Mapping[str, str | float | bool | None]
_Connect = Callable[[Settings], AbstractAsyncContextManager[FullRegistry]]


@dataclass(frozen=True, slots=True)
class ListRequest:
    """List all leases, as ``table`` or ``json``."""

    output: str


@dataclass(frozen=True, slots=True)
class ReserveRequest:
    """Reserve *key* for the node with *public_ip*, and *public_ipv6* in a dual-stack network."""

    key: SubnetKey
    public_ip: IPv4Address
    public_ipv6: IPv6Address | None


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Delete the lease of *subnet*."""

    subnet: IPv4Network
    force: bool


LeasesRequest = ListRequest | ReserveRequest | ReleaseRequest


def main(words: Sequence[str], environ: Mapping[str, str], *, connect: _Connect) -> int:
    """Run the command with *words*, those after ``leases``; return the exit code.

    Raises:
        UsageError: the command line is wrong.
        SystemExit: 0, after ``--help`` was answered.
    """
    plain, settings, given = load_words(words, environ, title=TITLE, flags=LEASES_FLAGS)
    request = _read_request(plain, given)
    configure_logging(settings.log_format, settings.verbosity)
    try:
        asyncio.run(_carry_out(request, settings, connect))
    except (RegistryError, RequestRefused) as error:
        sys.stderr.write(f"pyflanneld leases: {error}\n")
        return 1
    return 0


def _read_request(plain: Sequence[str], own: Mapping[str, Given]) -> LeasesRequest:
    output, force = str(own["output"].value), own["force"].value is True
    match list(plain):
        case [] | ["list"]:
            return ListRequest(output)
        case ["reserve", subnet, public_ip]:
            return _reservation(*subnet.partition(",")[::2], *public_ip.partition(",")[::2])
        case ["release", subnet]:
            return ReleaseRequest(_subnet(subnet), force)
        case ["reserve" | "release" as word, *_]:
            needs = "SUBNET PUBLIC_IP" if word == "reserve" else "SUBNET"
            raise UsageError(f"leases {word} needs: {needs}")
        case [word, *_]:
            raise UsageError(f"leases has no {word!a}; there is: list, reserve, release")
    raise AssertionError("unreachable: a list is empty or has a first word")


def _reservation(subnet: str, subnet6: str, public_ip: str, public_ip6: str) -> ReserveRequest:
    key = SubnetKey(_subnet(subnet), _subnet6(subnet6) if subnet6 else None)
    try:
        address6 = parse_public_ipv6(public_ip6) if public_ip6 else None
    except ValueError as error:
        raise UsageError(f"{public_ip6!a} is not usable: {error}") from None
    return ReserveRequest(key, _public_ip(public_ip), address6)


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


async def _carry_out(request: LeasesRequest, settings: Settings, connect: _Connect) -> None:
    async with connect(settings) as store:
        match request:
            case ListRequest(output):
                await _list(store, output)
            case ReserveRequest():
                await _reserve(store, request, settings.etcd_prefix)
            case ReleaseRequest(subnet, force):
                await _release(store, subnet, force=force)
            case _:
                assert_never(request)


async def _list(store: FullRegistry, output: str) -> None:
    records = (await store.list_subnets()).records
    left = await store.times_to_live(records)
    rows = [lease_row(record, left.get(record.name)) for record in records]
    sys.stdout.write(json_text(rows) if output == "json" else as_table(rows))


async def _reserve(store: FullRegistry, request: ReserveRequest, prefix: str) -> None:
    config = await _config(store, prefix)
    attrs = LeaseAttrs(request.public_ip, BACKENDS[config.backend_type].lease_type, request.public_ipv6)
    for _ in range(TRIES):
        listed = await store.list_subnets()
        match reservations.decide_reservation(listed.records, request.key, attrs, config):
            case ReservationRefused(why):
                raise RequestRefused(why)
            case AlreadyReserved():
                return print(f"{request.key} is reserved for {attrs.public_ip} already")
            case MakeReservation(record):
                if await store.make_reservation(record) is not None:
                    return print(f"{request.key}, the lease of {attrs.public_ip}, is a reservation now")
            case CreateReservation(elsewhere):
                name = encode_name(request.key.ipv4, request.key.ipv6)
                if await store.reserve_subnet(name, encode_value(attrs, store.api), listed=listed) is not None:
                    return _report_reserved(request.key, attrs, elsewhere)
    raise RequestRefused(f"the leases changed during each of {TRIES} tries; nothing was changed")


def _report_reserved(key: SubnetKey, attrs: LeaseAttrs, elsewhere: SubnetKey | None) -> None:
    print(f"{key} is reserved for {attrs.public_ip}")
    if elsewhere is not None:
        sys.stderr.write(
            f"pyflanneld leases: that node holds {elsewhere} as well, and prefers what its subnet file names: "
            f"to move it, stop it, release {elsewhere}, put {key} into its subnet file or delete that, and start it\n"
        )


async def _config(store: FullRegistry, prefix: str) -> NetworkConfig:
    value = (await store.read_config()).value
    if value is None:
        raise RequestRefused(f"there is no network configuration at {prefix}/config to check the reservation against")
    try:
        config = parse_config(value)
    except Invalid as error:
        raise RequestRefused(f"the network configuration at {prefix}/config is not usable: {error}") from error
    if config.backend_type not in BACKENDS:
        text = f"the network configuration asks for the backend {config.backend_type!a}, which pyflanneld does not have"
        raise RequestRefused(text)
    return config


async def _release(store: FullRegistry, subnet: IPv4Network, *, force: bool) -> None:
    listed = await store.list_subnets()
    decision = reservations.decide_release(listed.records, subnet, force=force)
    if isinstance(decision, ReservationRefused):
        raise RequestRefused(decision.why)
    record, lease = decision.record, decision.record.lease
    if not await store.delete_subnet(record):
        raise RequestRefused(f"{lease.key} was changed by somebody else at this moment; nothing was done")
    kind = "lease" if record.lease_id else "reservation"
    holder = f", it was held by {lease.attrs.public_ip}" if lease.attrs else ""
    print(f"the {kind} of {lease.key} is deleted{holder}")


def lease_row(record: Record, left: TimeToLive | None) -> LeaseRow:
    """Return one lease as field names and values; times in seconds, ``None`` where a value is missing."""
    key, attrs, problem = record.lease.key, record.lease.attrs, record.lease.problem
    return {
        "key": shown(record.name)[2:-1],
        "subnet": str(key.ipv4) if key else None,
        "ipv6_subnet": str(key.ipv6) if key and key.ipv6 else None,
        "public_ip": str(attrs.public_ip) if attrs else None,
        "public_ipv6": str(attrs.public_ipv6) if attrs and attrs.public_ipv6 else None,
        "backend": attrs.backend_type if attrs else None,
        "reserved": record.lease_id == 0,
        "ttl_s": left.left_s if left else None,
        "renewed_s_ago": max(0.0, left.granted_s - left.left_s) if left else None,
        "created_revision": record.create_revision,
        "revision": record.mod_revision,
        "problem": problem or None,
    }


def as_table(rows: Sequence[LeaseRow]) -> str:
    """Return the rows in aligned columns; behind a row that cannot be read, the reason."""
    cells = [_HEAD, *(_cells(one) for one in rows)]
    notes = ["", *(f"  ! {one['problem']}" if one["problem"] else "" for one in rows)]
    lines = [line + note for line, note in zip(columns(cells), notes, strict=True)]
    return "\n".join(lines) + "\n"


def _cells(one: LeaseRow) -> tuple[str, ...]:
    subnets = (one["subnet"] or one["key"], one["ipv6_subnet"])
    addresses = (one["public_ip"] or "?", one["public_ipv6"])
    backend = "?" if one["backend"] is None else shown(one["backend"] or "-")[1:-1]
    ttl, renewed = one["ttl_s"], one["renewed_s_ago"]
    return (
        " & ".join(str(part) for part in subnets if part),
        " & ".join(str(part) for part in addresses if part),
        backend,
        "reserved" if one["reserved"] else _span(ttl),
        "-" if renewed is None else f"{_span(renewed)} ago",
        str(one["revision"]),
    )


def _span(seconds: object) -> str:
    return duration_text(seconds) if isinstance(seconds, float | int) else "?"
