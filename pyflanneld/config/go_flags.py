"""Command-line flags the Go way, so that a command line written for flanneld means the same here. Shell side, no I/O.

The rules are those of Go's ``flag`` package and of flannel's ``SetFlagsFromEnv``:

* ``-x v``, ``-x=v``, ``--x v`` and ``--x=v`` are one and the same; a bool is bare (``--x``) or takes ``=``;
* ``--`` or the first word that is no flag ends the flags; of a flag given twice the last one counts;
* what the command line leaves out is looked up in ``FLANNELD_<NAME>``, where empty counts as unset, and a repeatable
  flag gets exactly one element.

Three answers differ from flanneld, on purpose: an unknown flag is an error and not exit 0, so is a bad value in a
variable, which flanneld skips, and words that follow the flags are refused instead of ignored.
"""

import difflib
import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyflanneld.core.invalid import shown
from pyflanneld.errors import UsageError

Value = str | int | bool | tuple[str, ...]

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_HELP = ("h", "help")


class FlagKind(enum.Enum):
    """How a flag's value is read."""

    STRING = "text"
    INT = "number"
    BOOL = "true or false"
    STRINGS = "text, repeatable"


@dataclass(frozen=True, slots=True)
class Flag:
    """The declaration of one flag.

    Attributes:
        name: without dashes, ``"etcd-prefix"``.
        kind: how its value is read.
        default: the value when it is given nowhere, of the type that *kind* yields.
        text: what it does, for ``--help`` and the documentation.
        metavar: what its value is called there, ``"URL,…"``; empty for a bool.
        group: the heading it is listed under.
        from_env: whether its ``FLANNELD_*`` variable is read.
        choices: the values that are accepted, where they can be listed.
        hidden: accepted, but neither listed by ``--help`` nor suggested.
        old_names: former names, which are accepted with a warning.
        needed: what would be right, for messages about a wrong value.
        field: the field of the settings that the value goes to; empty for a flag of a sub-command alone.
        factor: what turns the number into the field's unit.
    """

    name: str
    kind: FlagKind
    default: Value
    text: str
    metavar: str = ""
    group: str = ""
    from_env: bool = True
    choices: tuple[str, ...] = ()
    hidden: bool = False
    old_names: tuple[str, ...] = ()
    needed: str = ""
    field: str = ""
    factor: int = 1

    @property
    def env(self) -> str:
        """The variable that stands in for this flag, ``"FLANNELD_ETCD_PREFIX"``."""
        return "FLANNELD_" + self.name.upper().replace("-", "_")


@dataclass(frozen=True, slots=True)
class Given:
    """A flag's value and where it came from.

    Attributes:
        value: of the type that the flag's kind yields.
        written: the flag or variable as the operator wrote it (``"-iface"``, ``"FLANNELD_IFACE"``); for a default,
            the flag with two dashes.
        is_default: given neither on the command line nor in the environment.
        in_argv: given on the command line, where every user of the machine can read it.
    """

    value: Value
    written: str
    is_default: bool = False
    in_argv: bool = False


class HelpAsked(Exception):
    """``-h`` or ``--help`` was met while reading the command line."""


def parse_flags(argv: Sequence[str], environ: Mapping[str, str], flags: Sequence[Flag]) -> dict[str, Given]:
    """Return every flag's value by name, from the command line, the environment or its default.

    Raises:
        HelpAsked: help is wanted.
        UsageError: in one line, what is wrong and what would be right.
    """
    on_line, rest = read_argv(argv, flags)
    refuse_words(rest, flags)
    return fill_in(on_line, environ, flags)


def read_argv(argv: Sequence[str], flags: Sequence[Flag]) -> tuple[dict[str, Given], list[str]]:
    """Read the flags at the start of *argv* (without the program's name).

    Returns:
        The values of the flags that were given, by name, and the words after the flags.
    """
    by_name = {flag.name: flag for flag in flags}
    found: dict[str, Given] = {}
    words = list(argv)
    while words:
        word = words[0]
        if len(word) < 2 or not word.startswith("-"):
            break
        del words[0]
        if word == "--":
            break
        written, name, text = _split(word)
        if name in _HELP:
            raise HelpAsked
        flag = by_name.get(name)
        if flag is None:
            raise _unknown(written, name, flags)
        if text is None:
            text = _next_word(flag, written, words)
        found[name] = _merged(found.get(name), flag, written, text)
    return found, words


def read_mixed(argv: Sequence[str], flags: Sequence[Flag]) -> tuple[dict[str, Given], list[str]]:
    """Read flags wherever they stand among other words; return them and the words."""
    found: dict[str, Given] = {}
    plain: list[str] = []
    rest = list(argv)
    while rest:
        given, rest = read_argv(rest, flags)
        found.update(given)
        plain += rest[:1]
        rest = rest[1:]
    return found, plain


def fill_in(on_line: Mapping[str, Given], environ: Mapping[str, str], flags: Sequence[Flag]) -> dict[str, Given]:
    """Complete *on_line* from the environment and the defaults."""
    values = dict(on_line)
    for flag in flags:
        if flag.name in values:
            continue
        text = environ.get(flag.env, "") if flag.from_env else ""
        if text:
            values[flag.name] = Given(_read(flag, flag.env, text), flag.env)
        else:
            values[flag.name] = Given(flag.default, f"--{flag.name}", is_default=True)
    return values


def refuse_words(rest: Sequence[str], flags: Sequence[Flag]) -> None:
    """Raise ``UsageError`` when words are left after the flags; flanneld would ignore them and all that follows."""
    if not rest:
        return
    hint = "all settings are flags, and --help lists them"
    if rest[0] in _TRUE | _FALSE and any(flag.kind is FlagKind.BOOL for flag in flags):
        hint = f"a true-or-false flag takes its value with '=', as in --flag={rest[0]}"
    raise UsageError(f"unexpected word {shown(rest[0])} after the flags: {hint}")


def unusable(written: str, value: object, needed: str) -> UsageError:
    """Return the error for a wrong value of a flag, as it was *written*: *needed* says what would be right."""
    without_login = re.sub(r"(://|:(?!//)).*@", r"\1***@", value) if isinstance(value, str) else value
    return UsageError(f"{written}: {shown(without_login)} is not usable: {needed}")


def unread_variables(environ: Mapping[str, str], flags: Sequence[Flag]) -> tuple[str, ...]:
    """Return the names of non-empty ``FLANNELD_*`` variables that no flag reads, sorted."""
    read = {flag.env for flag in flags}
    found = {name for name, text in environ.items() if text and name.startswith("FLANNELD_")}
    return tuple(sorted(found - read))


def _split(word: str) -> tuple[str, str, str | None]:
    """Return the flag as written, its name, and the text after ``=`` if there is one."""
    written, equals, text = word.partition("=")
    name = written.removeprefix("-").removeprefix("-")
    if not name or name.startswith("-"):
        raise UsageError(f"{shown(word)} is no flag: write --name=value, and --help lists the names")
    return written, name, text if equals else None


def _next_word(flag: Flag, written: str, words: list[str]) -> str:
    """Take the value of a flag that was written without ``=``."""
    if flag.kind is FlagKind.BOOL:
        return "true"
    if not words:
        raise UsageError(f"{written} needs a value: {written}={flag.metavar or flag.kind.value}")
    return words.pop(0)


def _merged(before: Given | None, flag: Flag, written: str, text: str) -> Given:
    value = _read(flag, written, text)
    if before is not None and isinstance(before.value, tuple) and isinstance(value, tuple):
        value = before.value + value
    return Given(value, written, in_argv=True)


def _read(flag: Flag, written: str, text: str) -> Value:
    match flag.kind:
        case FlagKind.STRING:
            if flag.choices and text not in flag.choices:
                raise unusable(written, text, f"{', '.join(flag.choices[:-1])} or {flag.choices[-1]} is needed")
            return text
        case FlagKind.STRINGS:
            return (text,)
        case FlagKind.BOOL:
            if text not in _TRUE | _FALSE:
                raise unusable(written, text, "true or false is needed")
            return text in _TRUE
        case FlagKind.INT:
            number = _go_int(text)
            if number is None:
                raise unusable(written, text, "a whole number is needed")
            return number


def _go_int(text: str) -> int | None:
    """Read an integer as Go's ``ParseInt(text, 0, 64)`` does: signs, 0x, 0o, 0b and a leading 0 for octal."""
    if not re.fullmatch(r"[+-]?[0-9][0-9a-fA-FxXoO_]*", text):
        return None
    octal = re.fullmatch(r"([+-]?)0([0-7]+)", text)
    try:
        number = int(f"{octal[1]}0o{octal[2]}" if octal else text, 0)
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None


def _unknown(written: str, name: str, flags: Sequence[Flag]) -> UsageError:
    listed = [flag.name for flag in flags if not flag.hidden]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), listed, n=1)
    hint = f"did you mean --{near[0]}?" if near else "--help lists all flags"
    return UsageError(f"unknown flag {shown(written)}: {hint}")
