"""JSON from outside, read as Go reads it and within bounds.

Go's ``encoding/json`` matches the names of known fields without regard to case and lets the last one win; so do we.
Beyond that this is stricter: it refuses size, nesting, NaN and huge numbers; who reads the fields checks types.
"""

import json
from math import isfinite
from typing import NamedTuple

from pyflanneld.core.invalid import Invalid

MAX_BYTES = 64 * 1024
MAX_BRACKETS = 256
_SPACE = frozenset(" \t\n\r")


class Member(NamedTuple):
    """A top-level member of an object: its name in lower case, its value, and the text of that value."""

    name: str
    value: object
    raw: str


def parse_object(
    data: bytes, field: str, *, max_bytes: int = MAX_BYTES, max_brackets: int = MAX_BRACKETS
) -> dict[str, object]:
    """Return the JSON object in *data* with its top-level names in lower case.

    Args:
        data: UTF-8 text.
        field: what to call this text in an error.
        max_bytes: how long it may be.
        max_brackets: how many opening brackets it may have, which bounds the nesting.

    Raises:
        Invalid: reason ``"too_large"``, ``"not_json"`` or ``"not_an_object"``.
    """
    if len(data) > max_bytes:
        raise Invalid("too_large", field, f"{len(data)} bytes", f"at most {max_bytes} bytes")
    if brackets(data) > max_brackets:
        raise Invalid("too_large", field, data, f"at most {max_brackets} objects and lists")
    try:
        document = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise Invalid("not_json", field, data, "a JSON object in UTF-8") from error
    if not isinstance(document, dict):
        raise Invalid("not_an_object", field, data, "a JSON object in UTF-8")
    return {_folded(name): value for name, value in document.items()}


def parse_members(data: bytes, field: str) -> list[Member]:
    """Return the top-level members of the JSON object in *data* as they come, one given twice included.

    Raises:
        Invalid: as ``parse_object``.
    """
    parse_object(data, field)
    text, found = data.decode(), []
    at = _start(text, _start(text, 0) + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        start = _start(text, _start(text, at) + 1)
        value, end = _DECODER.raw_decode(text, start)
        found.append(Member(_folded(name), value, text[start:end]))
        at = _start(text, end)
        at = _start(text, at + 1) if text[at] == "," else at
    return found


def _start(text: str, at: int) -> int:
    """Return where the next token begins."""
    while text[at : at + 1] in _SPACE:
        at += 1
    return at


def _folded(name: str) -> str:
    """Return *name* as it is compared: Go takes the long s for an s, which ``lower`` does not."""
    return name.lower().replace("\u017f", "s")


def brackets(data: bytes) -> int:
    """Return how many objects and lists *data* can have at most."""
    return data.count(b"[") + data.count(b"{")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return the members in the order of their last mention, so that the last one wins across spellings as well."""
    members: dict[str, object] = {}
    for name, value in pairs:
        members.pop(name, None)
        members[name] = value
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number is out of range")
    return number


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(  # made once: making one takes longer than reading a lease
    object_pairs_hook=_members, parse_float=_finite, parse_constant=_refuse_constant
)
