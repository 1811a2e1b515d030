"""All sub-commands, declared once: the dispatch, the help, the man page and the completion are all made from here.

One more command is one more ``Command``. Imports are late: a command loads its own parts and nothing else.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

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


def _main(module: str) -> Callable[[list[str]], int]:
    """Return what runs *module*'s ``main``, loaded when it is needed."""

    def run(words: list[str]) -> int:
        code: int = import_module(module).main(words)
        return code

    return run


def _titled(module: str, flags: str) -> Callable[[], Manual]:
    """Return what reads the manual from *module*'s ``TITLE`` and its *flags*."""

    def manual() -> Manual:
        loaded = import_module(module)
        return Manual.read(loaded.TITLE, getattr(loaded, flags))

    return manual


def _parsed(module: str) -> Callable[[], Manual]:
    """Return what reads the manual from *module*'s ``parser``."""
    return lambda: Manual.of_parser(import_module(module).parser())


def _config(words: list[str]) -> int:
    from pyflanneld.commands.config import main
    from pyflanneld.daemon.wiring import registry

    return main(words, connect=registry)


def _leases(words: list[str]) -> int:
    from pyflanneld.commands.leases import main
    from pyflanneld.daemon.wiring import registry

    return main(words, os.environ, connect=registry)


def _command(
    name: str, arguments: str, summary: str, *, run: Callable[[list[str]], int] | None = None, flags: str = "FLAGS"
) -> Command:
    """Return a command of this room, in the module of its name."""
    module = f"pyflanneld.commands.{name.replace('-', '_')}"
    return Command(name, arguments, summary, run or _main(module), _titled(module, flags))


COMMANDS: tuple[Command, ...] = (
    _command("cleanup", "...", "take away what the daemon has left on this host", flags="CLEANUP_FLAGS"),
    _command("completion", "SHELL", "print what completes command lines in bash, zsh or fish"),
    _command("config", "...", "check, show and write the network configuration", run=_config, flags="CONFIG_FLAGS"),
    Command("docker-opts", "...", "write Docker's options, as flannel's mk-docker-opts.sh does",
            _main("pyflanneld.commands.docker_opts"), _parsed("pyflanneld.commands.docker_opts")),
    Command("doctor", "...", "examine this host, its etcd and its peers, and touch nothing",
            _main("pyflanneld.commands.doctor.main"), _titled("pyflanneld.commands.doctor.main", "DOCTOR_FLAGS")),
    Command("lab", "...", "try it out: a cluster in network namespaces on this machine",
            _main("pyflanneld.lab.command"), _parsed("pyflanneld.lab.command")),
    _command("leases", "...", "list, reserve and release subnets", run=_leases, flags="LEASES_FLAGS"),
    _command("log-level", "[LEVEL]", "show or change how much the running daemon logs"),
    _command("migrate", "", "copy configuration and leases from etcd's v2 API to v3", flags="MIGRATE_FLAGS"),
    _command("peers", "", "list the peers that the running daemon knows, and what became of each"),
    _command("plan", "...", "say what the daemon would do here, and touch nothing", flags="PLAN_FLAGS"),
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
