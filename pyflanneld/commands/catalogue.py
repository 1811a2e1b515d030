"""All sub-commands, declared once: the dispatch, the help, the man page and the completion are all made from here.

One more command is one more ``Command``. Imports are late: a command loads its own parts and nothing else.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from pyflanneld.commands.manual import Manual


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command.

    Attributes:
        name: the word.
        arguments: what follows it, in short, for the list of all.
        summary: one line without a full stop.
        run: does what the words after the name ask for; returns the exit code.
        manual: says what it has to say of itself.
    """

    name: str
    arguments: str
    summary: str
    run: Callable[[list[str]], int]
    manual: Callable[[], Manual]


def _completion(words: list[str]) -> int:
    from pyflanneld.commands.completion import main

    return main(words)


def _completion_manual() -> Manual:
    from pyflanneld.commands.completion import TITLE

    return Manual.read(TITLE, ())


def _docker_opts(words: list[str]) -> int:
    from pyflanneld.docker.command import main

    return main(words)


def _docker_opts_manual() -> Manual:
    from pyflanneld.docker.command import parser

    return Manual.of_parser(parser())


def _lab(words: list[str]) -> int:
    from pyflanneld.lab.command import main

    return main(words)


def _lab_manual() -> Manual:
    from pyflanneld.lab.command import parser

    return Manual.of_parser(parser())


def _leases(words: list[str]) -> int:
    from pyflanneld.assembly import registry
    from pyflanneld.commands.leases import main

    return main(words, os.environ, connect=registry)


def _leases_manual() -> Manual:
    from pyflanneld.commands.leases import LEASES_FLAGS, TITLE

    return Manual.read(TITLE, LEASES_FLAGS)


def _migrate(words: list[str]) -> int:
    from pyflanneld.commands.migrate import main

    return main(words)


def _migrate_manual() -> Manual:
    from pyflanneld.commands.migrate import MIGRATE_FLAGS, TITLE

    return Manual.read(TITLE, MIGRATE_FLAGS)


COMMANDS: tuple[Command, ...] = (
    Command("completion", "SHELL", "print what completes command lines in bash, zsh or fish",
            _completion, _completion_manual),
    Command("docker-opts", "...", "write Docker's options, as flannel's mk-docker-opts.sh does",
            _docker_opts, _docker_opts_manual),
    Command("lab", "...", "try it out: a cluster in network namespaces on this machine", _lab, _lab_manual),
    Command("leases", "...", "list, reserve and release subnets", _leases, _leases_manual),
    Command("migrate", "", "copy configuration and leases from etcd's v2 API to v3", _migrate, _migrate_manual),
)  # fmt: skip


def usage_lines() -> list[str]:
    """Return one line for each command, the daemon first, for the help of the program as a whole."""
    heads = {"pyflanneld [flags]": "be the daemon"}
    heads |= {f"pyflanneld {command.name} {command.arguments}".rstrip(): command.summary for command in COMMANDS}
    width = max(map(len, heads)) + 2
    return [f"{head:<{width}}{summary}" for head, summary in heads.items()]
