"""The text of ``--help``, made from the declarations of the flags. Pure."""

import textwrap
from collections.abc import Sequence
from itertools import groupby

from pyflanneld.config.go_flags import Flag, FlagKind

_COLUMNS = 100
_INDENT = 34


def usage(title: str, flags: Sequence[Flag]) -> str:
    """Return the help text: *title*, then the flags under their groups, no line longer than 100 columns."""
    parts = [title.rstrip(), ""]
    for group, members in groupby(flags, key=lambda flag: flag.group):
        parts += [f"{group}:", *(_entry(flag) for flag in members), ""]
    return "\n".join(parts)


def default_text(flag: Flag) -> str:
    """Return the default as an operator would write it; empty when there is none."""
    match flag.default:
        case bool():
            return str(flag.default).lower()
        case tuple():
            return ",".join(flag.default)
        case _:
            return str(flag.default)


def head(flag: Flag) -> str:
    """Return the flag as it is written, with its value's name: ``"--etcd-prefix=KEY"``."""
    dashes = "-" if len(flag.name) == 1 else "--"
    return f"{dashes}{flag.name}={flag.metavar}" if flag.metavar else f"{dashes}{flag.name}"


def _entry(flag: Flag) -> str:
    facts = [f"default {default_text(flag)}"] if default_text(flag) and flag.from_env else []
    facts += ["may be repeated"] if flag.kind is FlagKind.STRINGS else []
    facts += [f"${flag.env}"] if flag.from_env else []
    paragraphs = [flag.text, f"[{', '.join(facts)}]"] if facts else [flag.text]
    width = _COLUMNS - _INDENT
    lines = [line for text in paragraphs for line in textwrap.wrap(text, width, break_on_hyphens=False)]
    first = f"  {head(flag)}"
    if len(first) < _INDENT - 1:
        first = first.ljust(_INDENT) + lines.pop(0)
    return first + "".join(f"\n{'':{_INDENT}}{line}" for line in lines)
