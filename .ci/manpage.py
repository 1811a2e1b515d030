"""The man page, made from the declarations of flags and commands: man(7), only what groff and mandoc both know."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby

from manual import Manual

from pyflanneld import __version__
from pyflanneld.commands.catalogue import COMMANDS, Command
from pyflanneld.config.go_flags import Flag, FlagKind
from pyflanneld.config.settings import ETCD, FLAGS
from pyflanneld.config.usage import default_text

_COLUMNS = 70

_CODES = {
    "0": "Stopped as asked; \\-\\-version and \\-\\-help.",
    "1": "Failed at run time.",
    "2": "A wrong flag, variable or network configuration: a person has to fix it.",
    "73": "Another pyflanneld is here, or the health port that was asked for is in use.",
    "75": "The subnet belongs to another host now. The next start leases another one.",
}
_FILES = {
    "/run/flannel/subnet.env": "The leased subnet, for Docker; see \\-\\-subnet\\-file.",
    "/etc/default/pyflanneld": "FLANNELD_* variables, for the systemd unit.",
}


def page() -> str:
    """Return the whole page as roff."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield '.\\" Made by "make docs" from the declarations of flags and commands; do not edit.'
    yield f'.TH PYFLANNELD 8 "" "pyflanneld {__version__}" "System administration"'
    yield from (".SH NAME", "pyflanneld \\- container network agent: etcd leases and host\\-gw routes")
    yield ".SH SYNOPSIS"
    yield from (".B pyflanneld", ".RI [ flags ]")
    for command in COMMANDS:
        yield from (".br", f".B pyflanneld {roff_escaped(command.name)}")
        yield from [f".I {roff_escaped(command.arguments)}"] if command.arguments else []
    yield from (".SH DESCRIPTION", *_DESCRIPTION)
    yield ".SH FLAGS"
    yield from _wrapped(
        "Flags are written -x v, -x=v, --x v or --x=v. Each can be set by the variable shown; the command line wins."
    )
    for group, members in groupby(FLAGS, key=lambda flag: flag.group):
        yield from (f".SS {roff_escaped(group)}", *_flags(members))
    yield ".SH COMMANDS"
    for command in COMMANDS:
        yield from _command(command)
    yield from (".SH EXIT STATUS", *_terms(_CODES))
    yield from (".SH FILES", *_terms(_FILES))
    yield from (".SH SEE ALSO", ".BR etcdctl (1),", ".BR ip\\-route (8)")


_DESCRIPTION = (
    "As a daemon,",
    ".B pyflanneld",
    "leases a subnet of the cluster's network from etcd, writes it into a",
    "file for Docker, and keeps one route to each other host of the cluster.",
    "Without a word after its name it is the daemon.",
    ".PP",
    "Stopping it leaves lease, file, rules and routes in place.",
)


def _command(command: Command) -> Iterator[str]:
    manual = Manual.of_command(command)
    yield from (f".SS {roff_escaped(command.name)}", *_wrapped(_sentence(command.summary)))
    for form in manual.forms:
        yield from (".PP", f".B {roff_escaped(form.text)}")
        yield from (".br", *_wrapped(_sentence(form.meaning))) if form.meaning else ()
    for paragraph in manual.text:
        yield from (".PP", *_wrapped(paragraph))
    own = [flag for flag in manual.flags if flag.name != "help" and flag not in FLAGS]
    yield from _flags(own)
    if any(flag.group == ETCD for flag in manual.flags):
        yield from (".PP", "And the flags of etcd, see FLAGS.")


def _flags(flags: Iterable[Flag]) -> Iterator[str]:
    for flag in flags:
        dashes = "-" if len(flag.name) == 1 else "--"
        value = f"={flag.metavar}" if flag.metavar and len(flag.name) > 1 else f" {flag.metavar}".rstrip()
        yield from (".TP", f".B {roff_escaped(dashes + flag.name + value)}", *_wrapped(flag.text))
        if flag.from_env:
            facts = [f"default {default_text(flag)}"] if default_text(flag) else []
            facts += ["may be repeated"] if flag.kind is FlagKind.STRINGS else []
            yield from _wrapped(f"[{', '.join([*facts, f'${flag.env}'])}]")


def _terms(table: dict[str, str]) -> Iterator[str]:
    for term, meaning in table.items():
        yield from (".TP", f".B {term}", meaning)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}".rstrip(".") + "."


def _wrapped(text: str) -> list[str]:
    """Return *text* as roff, each sentence on lines of its own."""
    sentences = re.split(r"(?<=[.;:]) +", text.strip())
    return [roff_escaped(line) for one in sentences for line in textwrap.wrap(one, _COLUMNS, break_on_hyphens=False)]


def roff_escaped(text: str) -> str:
    """Return *text* so that roff prints it as it is: its escape, its hyphens, and a line that looks like a request."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{safe}" if safe[:1] in (".", "'") else safe
