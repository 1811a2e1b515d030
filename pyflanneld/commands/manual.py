"""What a command says of itself, as values: its forms, its text and its flags; from its help text, or from argparse.

The help texts all have one shape: a line ``pyflanneld NAME: what it is.``, a paragraph ``Usage: …`` with one form on
each line (its meaning after two spaces, if it has one), and paragraphs of text.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from pyflanneld.commands.common_flags import OWN
from pyflanneld.config.go_flags import Flag, FlagKind

PROGRAM = "pyflanneld"


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write the command: ``pyflanneld leases release SUBNET [flags]``, and what that does."""

    text: str
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Manual:
    """A command's own description.

    Attributes:
        head: one sentence.
        forms: how it is written.
        text: paragraphs.
        flags: those it knows; ``--help`` goes without saying.
    """

    head: str
    forms: tuple[Form, ...]
    text: tuple[str, ...]
    flags: tuple[Flag, ...]

    @classmethod
    def read(cls, title: str, flags: Sequence[Flag]) -> Self:
        """Take a help text apart."""
        paragraphs = title.strip().split("\n\n")
        forms = [part for part in paragraphs if part.startswith("Usage:")]
        lines = [line.strip() for part in forms for line in part.removeprefix("Usage:").splitlines()]
        halves = [re.split(r"  +", line, maxsplit=1) for line in lines]
        head, *text = (" ".join(part.split()) for part in paragraphs if part not in forms)
        return cls(head.partition(": ")[2], tuple(Form(*half) for half in halves), tuple(text), tuple(flags))

    @classmethod
    def of_parser(cls, parser: argparse.ArgumentParser) -> Self:
        """Read an argparse parser, with those of its sub-commands."""
        below = _sub_parsers(parser)
        parsers = [one for one, _ in below.values()] or [parser]
        forms = [_form(one, below.get(one.prog.split()[-1], (one, ""))[1]) for one in parsers]
        flags: dict[str, Flag] = {}
        for flag in (flag for one in parsers for flag in _flags(one)):
            flags.setdefault(flag.name, flag)
        return cls(parser.description or "", tuple(forms), (), tuple(flags.values()))

    @property
    def words(self) -> tuple[str, ...]:
        """The fixed words of which one may follow the command's name: ``("list", "reserve", "release")``."""
        found: dict[str, None] = {}
        for form in self.forms:
            second = [part for part in form.text.split()[2:3] if part != "[flags]"]
            found |= {word: None for part in second for word in re.findall(r"^[a-z][a-z|-]*$", part.strip("[]"))}
        return tuple(word for part in found for word in part.split("|"))


def _sub_parsers(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Return the parsers of a parser's sub-commands with their help; argparse has no public way to ask for them."""
    found: dict[str, tuple[argparse.ArgumentParser, str]] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            meanings = {choice.dest: choice.help or "" for choice in action._choices_actions}
            found |= {name: (one, meanings.get(name, "")) for name, one in action.choices.items()}
    return found


def _form(parser: argparse.ArgumentParser, meaning: str) -> Form:
    words = [str(action.metavar or action.dest) for action in parser._actions if not action.option_strings]
    return Form(" ".join([parser.prog, "[flags]", *words]), meaning)


def _flags(parser: argparse.ArgumentParser) -> Iterator[Flag]:
    for action in parser._actions:
        for name in {option.lstrip("-"): None for option in action.option_strings if option not in ("-h", "--help")}:
            yield Flag(
                name,
                _kind(action),
                "" if action.nargs != 0 else False,
                (action.help or "") % vars(action),
                _metavar(action),
                OWN,
                from_env=False,
                choices=tuple(map(str, action.choices or ())),
            )


def _kind(action: argparse.Action) -> FlagKind:
    if action.nargs == 0:
        return FlagKind.BOOL
    return FlagKind.STRINGS if isinstance(action, argparse._AppendAction) else FlagKind.STRING


def _metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return str(action.metavar or ("FORMAT" if action.choices else "FILE" if action.dest == "root" else "NAME"))
