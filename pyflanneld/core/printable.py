"""The one place where text from outside is made safe and short, for every way out. Pure.

The ways out are the log, the reports, the probes, the service manager, and what commands print. Every host of the
cluster can write keys and values in etcd; whoever answers as etcd chooses its error texts. Nobody may forge a line with
them, control a terminal, tell the service manager that the node is ready, or fill a disk.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

FIELD_CHARS = 256
"""The most characters of one value in a log line."""
SENTENCE_CHARS = 1000
"""The most characters of one text in a report, an error or a message."""


def printable(text: str, limit: int = SENTENCE_CHARS) -> str:
    r"""Return *text* cut to *limit* characters, with unprintable ones written as ``\n``, ``\x1b``, ``\u202e``."""
    more = "…" if len(text) > limit else ""
    text = text[:limit]
    if not text.isprintable():
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text + more


def printable_report(value: Any) -> Any:
    """Return *value*, of dataclasses, collections and JSON's values, as JSON's values alone, each text printable."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): printable_report(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable_report(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {name: printable_report(getattr(value, name)) for name in _fields(type(value))}
    return value


@cache
def _fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
