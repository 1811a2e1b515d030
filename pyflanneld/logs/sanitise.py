"""What a log line may contain: printable text of bounded length (``core.printable``), without secrets. Pure."""

import math
import re
from collections.abc import Mapping
from itertools import islice

from pydantic import SecretBytes, SecretStr

from pyflanneld.core.printable import FIELD_CHARS, printable

MAX_ITEMS = 20
MAX_TRACE_LINES = 60
_MAX_DEPTH = 4
_SECRET_NAME = re.compile(r"(pass(word|wd|phrase)?|secret|token|credentials?|authorization|private_?key)$", re.I)


def safe(name: str, value: object, depth: int = 0) -> object:
    """Return *value* as printable data that JSON can encode.

    Args:
        name: the field's name; when it is that of a secret (``etcd_password``), the value becomes ``"***"``.
        value: anything. Numbers, booleans and ``None`` stay, collections keep their shape, the rest becomes text.
        depth: how many collections contain the value; a collection within four others becomes ``"…"``.
    """
    if isinstance(value, SecretStr | SecretBytes) or (_SECRET_NAME.search(name) and value not in (None, "")):
        return "***"
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping() | list() | tuple() | set() | frozenset() if depth >= _MAX_DEPTH:
            return "…"
        case Mapping():
            inside = {
                printable(str(key), FIELD_CHARS): safe(str(key), item, depth + 1)
                for key, item in islice(value.items(), MAX_ITEMS)
            }
            return inside | ({"…": len(value) - MAX_ITEMS} if len(value) > MAX_ITEMS else {})
        case list() | tuple() | set() | frozenset():
            items = [safe(name, item, depth + 1) for item in islice(value, MAX_ITEMS)]
            return items + ([f"… {len(value) - MAX_ITEMS} more"] if len(value) > MAX_ITEMS else [])
        case _:
            return printable(_text(value), FIELD_CHARS)


def trace_lines(text: str) -> list[str]:
    """Return the lines of a traceback, each safe; of a very long one only the first and the last lines."""
    lines = text.splitlines()
    if len(lines) > MAX_TRACE_LINES:
        half = MAX_TRACE_LINES // 2
        lines = [*lines[:half], f"… {len(lines) - 2 * half} lines left out …", *lines[-half:]]
    return [printable(line, FIELD_CHARS) for line in lines]


def _text(value: object) -> str:
    try:
        match value:
            case str():
                return value
            case bytes() | bytearray() | memoryview():
                head = bytes(value[: FIELD_CHARS + 1])
                return ascii(head)[2:-1]
            case BaseException():
                return f"{type(value).__name__}: {value}" if str(value) else type(value).__name__
        return str(value)
    except Exception:  # a value without a text must not stop its logger
        return f"<{type(value).__name__} that cannot be shown>"
