"""Output for people: aligned columns, readable times, colour only on a terminal.

Not rich: it cuts tables at 80 columns in a pipe, and takes 14 MB and 46 ms to do less plainly what stands here.
"""

import json
import os
from collections.abc import Sequence
from typing import TextIO

GREEN, RED, YELLOW, BOLD, DIM = "32", "31", "33", "1", "2"


class Paint:
    """Colours text for *out*; leaves it plain when *out* is no terminal or ``NO_COLOR`` is set."""

    def __init__(self, out: TextIO) -> None:
        self._colour = out.isatty() and "NO_COLOR" not in os.environ

    def __call__(self, text: str, code: str) -> str:
        """Return *text* in the colour or weight *code*."""
        return f"\033[{code}m{text}\033[0m" if self._colour else text


def json_text(value: object) -> str:
    """Return *value* as indented JSON, with a line end."""
    return json.dumps(value, indent=2) + "\n"


def columns(rows: Sequence[Sequence[object]]) -> list[str]:
    """Return one line per row, with aligned columns; nothing is cut or wrapped."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell!s:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def duration_text(seconds: float) -> str:
    """Return a duration such as ``23h59m``, ``4m05s`` or ``9s``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02}m"
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
