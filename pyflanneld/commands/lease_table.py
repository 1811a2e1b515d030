"""Leases as rows: a table for people, JSON for programs. Pure."""

import json
from collections.abc import Mapping, Sequence

from pyflanneld.commands.output import columns, duration_text
from pyflanneld.core.etcd_types import TimeToLive
from pyflanneld.core.invalid import shown
from pyflanneld.core.lease.reservations import Reading

Row = Mapping[str, str | float | bool | None]

_HEAD = ("SUBNET", "PUBLIC IP", "BACKEND", "TTL LEFT", "RENEWED", "REVISION")


def row(reading: Reading, left: TimeToLive | None) -> Row:
    """Return one lease's facts by name; times in seconds, ``None`` where there is none."""
    key, attrs, record = reading.key, reading.attrs, reading.record
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
        "problem": reading.problem,
    }


def as_json(rows: Sequence[Row]) -> str:
    """Return a JSON array with one object per lease."""
    return json.dumps(list(rows), indent=2) + "\n"


def as_table(rows: Sequence[Row]) -> str:
    """Return the rows in columns, as wide as they have to be; what cannot be read says why behind its row."""
    cells = [_HEAD, *(_cells(one) for one in rows)]
    notes = ["", *(f"  ! {one['problem']}" if one["problem"] else "" for one in rows)]
    lines = [line + note for line, note in zip(columns(cells), notes, strict=True)]
    return "\n".join(lines) + "\n"


def _cells(one: Row) -> tuple[str, ...]:
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
