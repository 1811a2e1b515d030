"""What the commands that ask the daemon have in common: flags, help, and how their failures end."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyflanneld.commands import daemon_client
from pyflanneld.commands.common_flags import OUTPUT, wants_json
from pyflanneld.commands.daemon_client import SUBNET_FILE, DaemonClient, RequestRefused
from pyflanneld.config import usage
from pyflanneld.config.go_flags import Flag, Given, HelpAsked, fill_in, read_mixed
from pyflanneld.errors import NoDaemon, UsageError

__all__ = ["OUTPUT", "SUBNET_FILE", "Order", "run_query"]


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for: of whom, in which form, with which other flags and words."""

    daemon: DaemonClient
    output: str
    given: dict[str, Given]
    words: list[str] = field(default_factory=list)


def run_query(
    command: str,
    words: Sequence[str],
    title: str,
    flags: Sequence[Flag],
    act: Callable[[Order], int],
    most_words: int = 0,
) -> int:
    """Read the command line, find the daemon, *act*; return the exit code.

    Raises:
        UsageError: the command line is wrong.
    """
    read = read_or_help(command, words, title, flags, most_words)
    if read is None:
        return 0
    plain, given = read
    output = "json" if OUTPUT.name in given and wants_json(given) else "text"
    try:
        return act(Order(daemon_client.chosen(given[SUBNET_FILE.name]), output, given, plain))
    except (NoDaemon, RequestRefused) as error:
        sys.stderr.write(f"pyflanneld {command}: {error}\n")
        return error.exit_code


def read_or_help(
    command: str, words: Sequence[str], title: str, flags: Sequence[Flag], most_words: int = 0
) -> tuple[list[str], dict[str, Given]] | None:
    """Split the command line into its words and all flags; ``None``: help was asked for, and given.

    Raises:
        UsageError: it is wrong.
    """
    try:
        found, plain = read_mixed(words, flags)
    except HelpAsked:
        sys.stdout.write(usage.usage(title, flags))
        return None
    if len(plain) > most_words:
        raise UsageError(f"{command} does not take {plain[most_words]!a}")
    return plain, fill_in(found, {}, flags)
