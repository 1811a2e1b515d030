"""Decides what ``pyflanneld migrate`` does, from what both APIs hold. Pure.

A lease of v2 is copied when nothing in v3 overlaps it. A lease that v3 holds already with the same value is left as it
is; everything else in its place is a conflict for the operator to solve: v3 is never overwritten.
"""

import enum
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import parse_key_name, parse_value


@dataclass(frozen=True, slots=True)
class OldKey:
    """A key in v2.

    Attributes:
        name: the subnet's, after ``<prefix>/subnets/``.
        ttl_s: its remaining time to live in seconds; ``None`` for a reservation.
    """

    name: bytes
    value: bytes
    ttl_s: int | None


class MigrationFate(enum.Enum):
    """What is done with a key."""

    COPY = "copy"
    THERE = "there already"
    CONFLICT = "conflict"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class MigrationStep:
    """One key and what is done with it.

    Attributes:
        value: for v3; the old value where that cannot be read.
        why: the reason for a conflict, or for leaving the key out.
    """

    key: OldKey
    fate: MigrationFate
    value: bytes
    why: str = ""


def convert(value: bytes) -> bytes:
    """Return a lease's value as current flannel writes it: with ``PublicIPv6``, otherwise unchanged.

    Raises:
        Invalid: *value* is no lease.
    """
    parse_value(value)
    document: dict[str, object] = json.loads(value)
    if all(name.lower() != "publicipv6" for name in document):
        fields = list(document.items())
        at = next(number for number, (name, _) in enumerate(fields, 1) if name.lower() == "publicip")
        document = dict([*fields[:at], ("PublicIPv6", None), *fields[at:]])
    return json.dumps(document, separators=(",", ":")).encode()


def plan_migration(old: Iterable[OldKey], new: Sequence[Record]) -> tuple[MigrationStep, ...]:
    """Return what to do with each key of v2, given the *new* ones of v3."""
    return tuple(_step(key, new) for key in old)


def _step(key: OldKey, new: Sequence[Record]) -> MigrationStep:
    try:
        subnets, value = parse_key_name(key.name), convert(key.value)
    except Invalid as error:
        return MigrationStep(key, MigrationFate.LEFT_OUT, key.value, str(error))
    for record in new:
        if record.name == key.name:
            return _compare(key, value, record)
        there = record.lease.key
        if there is not None and there.overlaps(subnets):
            return MigrationStep(
                key, MigrationFate.CONFLICT, value, f"v3 has {record.name.decode()}, which overlaps it"
            )
    return MigrationStep(key, MigrationFate.COPY, value)


def _compare(key: OldKey, value: bytes, record: Record) -> MigrationStep:
    """Compare a key with the one of the same name in v3."""
    try:
        same = json.loads(convert(record.value)) == json.loads(value)
    except Invalid:
        same = False
    if not same:
        return MigrationStep(key, MigrationFate.CONFLICT, value, f"v3 says {record.value.decode(errors='replace')}")
    if (key.ttl_s is None) != (record.lease_id == 0):
        where = "in v2, but not in v3" if key.ttl_s is None else "in v3, but not in v2"
        return MigrationStep(key, MigrationFate.CONFLICT, value, f"it is a reservation (no TTL) {where}")
    return MigrationStep(key, MigrationFate.THERE, value)


def same_config(one: bytes, other: bytes) -> bool:
    """Return whether two network configurations are equal, apart from spaces and order."""
    try:
        return one == other or bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False
