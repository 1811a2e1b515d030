"""The command: ``pyflanneld --iface eth1 …`` is the daemon, a word first is a sub-command."""

import os
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


def _sub_command(word: str) -> Callable[[list[str]], int]:
    if word not in SUB_COMMANDS:
        near = get_close_matches(word, SUB_COMMANDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there is: {', '.join(SUB_COMMANDS)}"
        raise UsageError(f"{word!r} is not a sub-command, and flags begin with '-'{hint}")
    return SUB_COMMANDS[word]


def _cleanup(words: list[str]) -> int:
    from pyflanneld.commands.cleanup import main as cleanup

    return cleanup(words)


def _config(words: list[str]) -> int:
    from pyflanneld.assembly import registry
    from pyflanneld.commands.config import main as config

    return config(words, connect=registry)


def _daemon(words: list[str]) -> int:
    from pyflanneld.settings import load  # late, like all that follows: each command needs only its own parts

    settings = load(words, os.environ)
    from pyflanneld.process import run_daemon

    return run_daemon(settings)


def _docker_opts(words: list[str]) -> int:
    from pyflanneld.docker.command import main as docker_opts

    return docker_opts(words)


def _lab(words: list[str]) -> int:
    from pyflanneld.lab.command import main as lab

    return lab(words)


def _doctor(words: list[str]) -> int:
    from pyflanneld.commands.doctor import main as doctor

    return doctor(words)


def _leases(words: list[str]) -> int:
    from pyflanneld.assembly import registry
    from pyflanneld.commands.leases import main as leases

    return leases(words, os.environ, connect=registry)


def _migrate(words: list[str]) -> int:
    from pyflanneld.commands.migrate import main as migrate

    return migrate(words)


def _plan(words: list[str]) -> int:
    from pyflanneld.commands.plan import main as plan

    return plan(words)


SUB_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "cleanup": _cleanup, "config": _config, "docker-opts": _docker_opts, "doctor": _doctor, "lab": _lab,
    "leases": _leases, "migrate": _migrate, "plan": _plan,
}
