"""All sub-commands, declared once: the dispatch, the help, the man page and the completion are made from here.

A new command is one more entry, and a module with ``main(words) -> int`` that describes itself: a help text ``TITLE``
and its flags, ``FLAGS`` or ``<NAME>_FLAGS``; or an argparse ``parser()``. It is imported when it runs.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command.

    Attributes:
        name: the word.
        arguments: what follows it, in short, for the list of all.
        summary: one line without a full stop.
        module: the module that holds it.
        run: does what the words after the name ask for; returns the exit code.
    """

    name: str
    arguments: str
    summary: str
    module: str
    run: Callable[[list[str]], int]


def _config(words: list[str]) -> int:
    from pyflanneld.commands.config import main
    from pyflanneld.daemon.wiring import registry

    return main(words, connect=registry)


def _leases(words: list[str]) -> int:
    from pyflanneld.commands.leases import main
    from pyflanneld.daemon.wiring import registry

    return main(words, os.environ, connect=registry)


def _command(
    name: str, arguments: str, summary: str, *, module: str = "", run: Callable[[list[str]], int] | None = None
) -> Command:
    """Return a command that *run* runs, by default the ``main`` of its module, which by default has its name."""
    module = module or f"pyflanneld.commands.{name.replace('-', '_')}"

    def run_main(words: list[str]) -> int:
        code: int = import_module(module).main(words)
        return code

    return Command(name, arguments, summary, module, run or run_main)


COMMANDS: tuple[Command, ...] = (
    _command("cleanup", "...", "remove what the daemon has left on this host"),
    _command("completion", "SHELL", "print the script that completes command lines in bash, zsh or fish"),
    _command("config", "...", "check, show and write the network configuration", run=_config),
    _command("docker-opts", "...", "write Docker's options, as flannel's mk-docker-opts.sh does"),
    _command("doctor", "...", "check this host, its etcd and its peers, and change nothing",
             module="pyflanneld.commands.doctor.main"),
    _command("lab", "...", "try it out: a cluster in network namespaces on this machine",
             module="pyflanneld.lab.command"),
    _command("leases", "...", "list, reserve and release subnets", run=_leases),
    _command("log-level", "[LEVEL]", "show or change how much the running daemon logs"),
    _command("migrate", "", "copy configuration and leases from etcd's v2 API to v3"),
    _command("peers", "", "list the peers that the running daemon knows, and the state of each"),
    _command("plan", "...", "show what the daemon would do here, and change nothing"),
    _command("routes", "[--diff]", "list the routes of the running daemon, or what is not as it should be"),
    _command("status", "", "what the running daemon does, what is wrong, and what to do about it"),
    _command("wait", "", "wait until the running daemon is ready"),
)  # fmt: skip


def usage_lines() -> list[str]:
    """Return one line for each command, the daemon first, for the help of the program as a whole."""
    heads = {"pyflanneld [flags]": "be the daemon"}
    heads |= {f"pyflanneld {command.name} {command.arguments}".rstrip(): command.summary for command in COMMANDS}
    width = max(map(len, heads)) + 2
    return [f"{head:<{width}}{summary}" for head, summary in heads.items()]
