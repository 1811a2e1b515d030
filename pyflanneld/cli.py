"""The command: ``pyflanneld --iface eth1 …`` is the daemon, a word first is a sub-command.

Imports are deferred here: usage errors, ``--help`` and each sub-command load only their own parts.
"""

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from pyflanneld.errors import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run what *argv* (by default the process's own, without its name) asks for; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and not words[0].startswith("-"):
            return _sub_command(words[0])(words[1:])
        return _daemon(words)
    except UsageError as error:
        sys.stderr.write(f"pyflanneld: {error}\n")
        return error.exit_code


def sub_commands() -> dict[str, Callable[[list[str]], int]]:
    """Return what runs each sub-command, by its name."""
    from pyflanneld.commands.catalogue import COMMANDS

    return {command.name: command.run for command in COMMANDS}


def _sub_command(word: str) -> Callable[[list[str]], int]:
    known = sub_commands()
    if word not in known:
        near = get_close_matches(word, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there is: {', '.join(known)}"
        raise UsageError(f"{word!r} is not a sub-command, and flags begin with '-'{hint}")
    return known[word]


def _daemon(words: list[str]) -> int:
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # looking for some reads about every package there is
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, _wait)  # "process" has better handlers, as soon as it is loaded
    gc.disable()  # until the first routes are placed: a start makes no garbage worth the search
    try:
        return _run_daemon(words)
    finally:
        gc.enable()


def _wait(_number: int, _frame: object) -> None:
    """Do nothing: the files that SIGHUP asks to read again are about to be read, and there is no state to log yet."""


def _run_daemon(words: list[str]) -> int:
    from pyflanneld.config.load import load

    settings = load(words, os.environ, forms=_forms)
    os.environ.pop("FLANNELD_ETCD_PASSWORD", None)  # nothing that is started from here shall inherit it
    from pyflanneld.daemon.process import run_daemon

    return run_daemon(settings)


def _forms() -> list[str]:
    from pyflanneld.commands.catalogue import usage_lines

    return usage_lines()
