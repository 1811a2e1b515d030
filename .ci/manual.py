"""What each sub-command says of itself, read for the man page and the completion: its forms, its text and its flags.

The help texts all have one shape: a line ``pyflanneld NAME: what it is.``, a paragraph ``Usage: ...`` with one form on
each line (its meaning after two spaces, if it has one), and paragraphs of text. Two commands have an argparse parser.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Self

from pyflanneld.commands.catalogue import Command
from pyflanneld.commands.common_flags import OWN
from pyflanneld.config.go_flags import Flag, FlagKind


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
        flags: those it knows; not always ``--help``, which each one has.
    """

    head: str
    forms: tuple[Form, ...]
    text: tuple[str, ...]
    flags: tuple[Flag, ...]

    @classmethod
    def of_command(cls, command: Command) -> Self:
        """Read what the command's module declares."""
        module = import_module(command.module)
        if hasattr(module, "parser"):
            return cls.of_parser(module.parser())
        own = f"{command.name.replace('-', '_').upper()}_FLAGS"
        return cls.of_text(module.TITLE, getattr(module, own if hasattr(module, own) else "FLAGS"))

    @classmethod
    def of_text(cls, title: str, flags: Sequence[Flag]) -> Self:
        """Split a help text."""
        paragraphs = title.strip().split("\n\n")
        forms = [part for part in paragraphs if part.startswith("Usage:")]
        lines = [line.strip() for part in forms for line in part.removeprefix("Usage:").splitlines()]
        halves = [re.split(r"  +", line, maxsplit=1) for line in lines]
        head, *text = (" ".join(part.split()) for part in paragraphs if part not in forms)
        return cls(head.partition(": ")[2], tuple(Form(*half) for half in halves), tuple(text), tuple(flags))

    @classmethod
    def of_parser(cls, parser: argparse.ArgumentParser) -> Self:
        """Read an argparse parser, with those of its sub-commands."""
        parsers = list(_sub_parsers(parser)) or [(parser, "")]
        flags: dict[str, Flag] = {}
        for flag in (flag for one, _ in parsers for flag in _flags(one)):
            flags.setdefault(flag.name, flag)
        return cls(parser.description or "", tuple(_form(*one) for one in parsers), (), tuple(flags.values()))

    @property
    def words(self) -> tuple[str, ...]:
        """The fixed words of which one may follow the command's name: ``("list", "reserve", "release")``."""
        second = (part.strip("[]") for form in self.forms for part in form.text.split()[2:3] if part != "[flags]")
        found = dict.fromkeys(part for part in second if re.fullmatch(r"[a-z][a-z|-]*", part))
        return tuple(word for part in found for word in part.split("|"))


def _sub_parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """Yield the parsers of a parser's sub-commands with their help; argparse has no public way to ask for them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            meanings = {choice.dest: choice.help or "" for choice in action._choices_actions}
            yield from ((one, meanings.get(name, "")) for name, one in action.choices.items())


def _form(parser: argparse.ArgumentParser, meaning: str) -> Form:
    words = [str(action.metavar or action.dest) for action in parser._actions if not action.option_strings]
    return Form(" ".join([parser.prog, "[flags]", *words]), meaning)


def _flags(parser: argparse.ArgumentParser) -> Iterator[Flag]:
    for action in parser._actions:
        names = {option.lstrip("-"): None for option in action.option_strings if option not in ("-h", "--help")}
        text, choices = (action.help or "") % vars(action), tuple(map(str, action.choices or ()))
        for name in names:
            yield Flag(name, _kind(action), "", text, _metavar(action), OWN, from_env=False, choices=choices)


def _kind(action: argparse.Action) -> FlagKind:
    if action.nargs == 0:
        return FlagKind.BOOL
    return FlagKind.STRINGS if isinstance(action, argparse._AppendAction) else FlagKind.STRING


def _metavar(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return str(action.metavar or ("FORMAT" if action.choices else "FILE" if action.dest == "root" else "NAME"))
