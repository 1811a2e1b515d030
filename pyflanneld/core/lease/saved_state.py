"""A node's last good state, as ``--state-dir`` keeps it for a boot without etcd: a value, and its text. Pure.

It holds raw values from etcd: whoever reads it back validates configuration, lease and peers by the same rules again.
The text is one JSON object with exactly the fields of the format; every one of them is checked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import parse_key_name, parse_value
from pyflanneld.core.strict_json import brackets, parse_object

FORMAT = 1
MAX_BYTES = 8 * 1024 * 1024
MAX_BRACKETS = 4 * 65536
"""A peer has two: its own list, and the object in its value."""
MAX_VALUE_BYTES = 512
"""A peer's longer value is not kept: flannel's are a third of that, and one host must not fill the file of all."""
NOT_KEPT = -1
"""Stands for the etcd lease of a peer's key, which changes without any other change and is not kept."""
_FIELDS = ("format", "saved_at", "lease_end", "prefix", "api", "cluster", "revision", "config", "own", "peers")
_LATEST_S = 1e11  # the year 5138
_U64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class SavedState:
    """What a node knew while its lease was confirmed.

    Attributes:
        saved_at_s: when etcd last confirmed it, in seconds since 1970.
        lease_end_s: when this host's lease ends if nobody renews it, in seconds since 1970; ``None`` for a reservation.
        prefix: ``--etcd-prefix``.
        api: the API of etcd that it was read through, 2 or 3.
        cluster_id: of the etcd cluster.
        revision: of the last complete list.
        config: the network configuration as it was read.
        own: this host's key.
        peers: the keys that were valid, as ``as_kept`` returns them.
    """

    saved_at_s: float
    lease_end_s: float | None
    prefix: str
    api: int
    cluster_id: int
    revision: int
    config: bytes
    own: Record
    peers: tuple[Record, ...]

    def differs_from(self, before: "SavedState") -> bool:
        """Return whether this differs from *before* in more than its times and revisions."""
        return _lasting(self) != _lasting(before)


def _lasting(state: SavedState) -> tuple[object, ...]:
    own = state.own
    return (
        state.prefix, state.api, state.cluster_id, state.config, state.peers,
        own.name, own.value, own.create_revision, own.lease_id,
    )  # fmt: skip


def as_kept(record: Record) -> Record:
    """Return what is kept of a peer's key: its name, value and age."""
    return Record(record.name, record.value, record.create_revision, record.create_revision, NOT_KEPT)


def encode_state(state: SavedState) -> bytes:
    """Return the text.

    Raises:
        Invalid: reason ``"too_large"``, or ``"bad_state"`` for a key or a value that is no text.
    """
    own = state.own
    document = {
        "format": FORMAT, "saved_at": state.saved_at_s, "lease_end": state.lease_end_s,
        "prefix": state.prefix, "api": state.api, "cluster": state.cluster_id, "revision": state.revision,
        "config": _text("config", state.config),
        "own": [_text("own", own.name), _text("own", own.value), own.create_revision, own.mod_revision, own.lease_id],
        "peers": [
            [_text("peers", peer.name), _text("peers", peer.value), peer.create_revision] for peer in state.peers
        ],
    }  # fmt: skip
    data = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    if len(data) > MAX_BYTES or brackets(data) > MAX_BRACKETS:  # decode would refuse it
        what = f"{len(data)} bytes, {brackets(data)} objects and lists"
        raise Invalid("too_large", "peers", what, f"at most {MAX_BYTES} bytes and {MAX_BRACKETS} objects and lists")
    return data


def decode_state(data: bytes) -> SavedState:
    """Read the text back.

    Raises:
        Invalid: it names the field, its value and what would be right; reasons ``"bad_state"``, ``"bad_format"``, and
            those of ``parse_object``, of ``parse_key_name`` and of ``parse_value`` for this host's key.
    """
    document = parse_object(data, "the saved state", max_bytes=MAX_BYTES, max_brackets=MAX_BRACKETS)
    number = document.get("format")
    if type(number) is not int or number != FORMAT:
        raise Invalid("bad_format", "format", number, f"{FORMAT}, the one that this release reads")
    if document.keys() != set(_FIELDS):
        odd = ", ".join(sorted(document.keys() ^ set(_FIELDS)))
        raise _bad("fields", odd, "each of the format's fields, and no other")
    own = _record("own", document["own"], 5)
    parse_key_name(own.name)
    parse_value(own.value)
    return SavedState(
        saved_at_s=_time(document, "saved_at"),
        lease_end_s=None if document["lease_end"] is None else _time(document, "lease_end"),
        prefix=_string("prefix", document["prefix"]),
        api=_whole("api", document["api"], 2, 3),
        cluster_id=_whole("cluster", document["cluster"]),
        revision=_whole("revision", document["revision"]),
        config=_bytes("config", document["config"]),
        own=own,
        peers=tuple(_record("peers", peer, 3) for peer in _list("peers", document["peers"])),
    )


def _record(field: str, value: object, length: int) -> Record:
    """Read a key: name, value and create revision, and of our own the modification's revision and the etcd lease."""
    parts = _list(field, value)
    if len(parts) != length:
        raise _bad(field, value, f"a list of {length}, such as the daemon writes")
    name, content, created = _bytes(field, parts[0]), _bytes(field, parts[1]), _whole(field, parts[2])
    modified, lease_id = (_whole(field, part) for part in parts[3:]) if length > 3 else (created, NOT_KEPT)
    return Record(name, content, created, modified, lease_id)


def _time(document: Mapping[str, object], field: str) -> float:
    value = document[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST_S:
        raise _bad(field, value, "seconds since 1970")
    return float(value)


def _whole(field: str, value: object, least: int = 0, most: int = _U64) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _bad(field, value, f"a whole number from {least} to {most}")
    return value


def _list(field: str, value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise _bad(field, value, "a list")
    return value


def _string(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise _bad(field, value, "text in quotes")
    return value


def _bytes(field: str, value: object) -> bytes:
    try:
        return _string(field, value).encode()
    except UnicodeEncodeError as error:  # half a surrogate pair
        raise _bad(field, value, "text in UTF-8") from error


def _text(field: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _bad(field, data, "text in UTF-8") from error


def _bad(field: str, value: object, expected: str) -> Invalid:
    return Invalid("bad_state", field, value, expected)
