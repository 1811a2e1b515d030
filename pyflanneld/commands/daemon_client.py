"""Find the daemons of this network namespace, and ask one. Shell side; imports little, to start quickly.

The daemons' sockets and locks are abstract (``http.operator``, ``system.lock``), so /proc/net/unix lists them, for this
namespace alone. Any user can bind such a name: who may not be a daemon (``system.unix_peers``) is not asked.
"""

import errno
import http.client
import json
import re
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyflanneld.commands.common_flags import OUTPUT, OWN, wants_json
from pyflanneld.config import usage
from pyflanneld.config.go_flags import Flag, FlagKind, Given, HelpAsked, fill_in, read_mixed
from pyflanneld.core.host import Process
from pyflanneld.core.printable import printable, printable_report
from pyflanneld.errors import NoDaemon, RequestRefused, UsageError
from pyflanneld.system import lock, procfs
from pyflanneld.system.unix_peers import listener, peer_of

if TYPE_CHECKING:
    from pyflanneld.config.settings import Settings

TIMEOUT_S = 5.0
BUSY_S = 0.2
_WHICH = "Which daemon: the one with this subnet file."
SUBNET_FILE = Flag("subnet-file", FlagKind.STRING, "", _WHICH, "PATH", OWN, from_env=False)
_SOCKET = re.compile(r"pyflanneld/operator/[0-9a-f]{32}(/[0-9a-f]{16})?")


class DaemonClient:
    """One daemon, by the abstract name of its socket (without the NUL)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"the daemon behind @{self.name}"

    def get(self, path: str) -> Any:
        """Return the JSON at *path*. Raises ``NoDaemon``, ``RequestRefused``."""
        return self._ask("GET", path, None)

    def post(self, path: str, value: object) -> Any:
        """Send *value* to *path* as JSON and return the answer. Raises ``NoDaemon``, ``RequestRefused``."""
        return self._ask("POST", path, json.dumps(value))

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        """Ask, and ask again when the daemon hangs up: it does so while it has too many clients."""
        give_up_at = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return self._ask_once(method, path, body)
            except (ConnectionResetError, BrokenPipeError) as error:
                if time.monotonic() > give_up_at:
                    raise NoDaemon(f"the daemon does not answer: {error}") from error
            time.sleep(BUSY_S)

    def _ask_once(self, method: str, path: str, body: str | None) -> Any:
        connection = _Connection(self.name)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read().decode()
            if response.status != http.client.OK:
                raise RequestRefused(printable(text))
            return printable_report(json.loads(text))
        except (ConnectionResetError, BrokenPipeError):
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoDaemon(f"the daemon does not answer: {error}") from error
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    """HTTP over an abstract AF_UNIX socket."""

    def __init__(self, name: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._name = name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(f"\0{self._name}")
        if not (peer := peer_of(self.sock)).trusted:
            raise PermissionError(errno.EPERM, f"its socket is another user's ({peer})")


@dataclass(frozen=True, slots=True)
class Query:
    """What a command asks: which daemon, in which output format, with which other flags and words."""

    daemon: DaemonClient
    output: str
    given: dict[str, Given]
    words: list[str] = field(default_factory=list)


def run_query(
    command: str,
    words: Sequence[str],
    title: str,
    flags: Sequence[Flag],
    act: Callable[[Query], int],
    most_words: int = 0,
    act_on_all: Callable[[Sequence[Query]], int] | None = None,
) -> int:
    """Read the command line, find the daemon, *act*; return the exit code.

    With *act_on_all*, several daemons of which none is named are no error: it acts on all.

    Raises:
        UsageError: the command line is wrong.
    """
    read = read_or_help(command, words, title, flags, most_words)
    if read is None:
        return 0
    plain, given = read
    output = "json" if OUTPUT.name in given and wants_json(given) else "text"
    several = daemon_sockets() if act_on_all and not given[SUBNET_FILE.name].value else []
    try:
        if act_on_all is not None and len(several) > 1:
            return act_on_all([Query(DaemonClient(name), output, given, plain) for name in several])
        return act(Query(find_daemon(given[SUBNET_FILE.name]), output, given, plain))
    except (NoDaemon, RequestRefused) as error:
        sys.stderr.write(f"pyflanneld {command}: {error}\n")
        return error.exit_code


def read_or_help(
    command: str, words: Sequence[str], title: str, flags: Sequence[Flag], most_words: int = 0
) -> tuple[list[str], dict[str, Given]] | None:
    """Split the command line into its words and all flags; ``None`` after ``--help`` was answered.

    Raises:
        UsageError: the command line is wrong.
    """
    try:
        found, plain = read_mixed(words, flags)
    except HelpAsked:
        sys.stdout.write(usage.usage(title, flags))
        return None
    if len(plain) > most_words:
        raise UsageError(f"{command} does not take {plain[most_words]!a}")
    return plain, fill_in(found, {}, flags)


def find_daemon(subnet_file: Given) -> DaemonClient:
    """Return the daemon with this subnet file.

    Args:
        subnet_file: the flag ``SUBNET_FILE``; its default means: the only daemon there is.

    Raises:
        NoDaemon: there is none.
        UsageError: there are several, and none was named.
    """
    names = daemon_sockets()
    if subnet_file.value:
        path = Path(str(subnet_file.value))
        name = lock.abstract_name("operator", lock.file_key(path))[1:]
        named = [one for one in names if one == name or one.startswith(f"{name}/")]
        if not named:
            raise NoDaemon(f"no pyflanneld with the subnet file {path} runs in this network namespace{_list(names)}")
        return DaemonClient(named[0])
    match names:
        case []:
            raise NoDaemon(
                "no pyflanneld runs in this network namespace: start it, or find its namespace with `ip netns`"
            )
        case [name]:
            return DaemonClient(name)
    raise UsageError(f"several daemons run here; name one with --subnet-file:{_list(names)}")


def daemon_sockets() -> list[str]:
    """Return the socket names of the daemons in this network namespace."""
    give_up_at = time.monotonic() + TIMEOUT_S
    found = sorted(name for name in procfs.abstract_names() if _SOCKET.fullmatch(name))
    return [name for name in found if (peer := listener(name, give_up_at)) is not None and peer.trusted]


def _list(names: Sequence[str]) -> str:
    """Return one line for each daemon, with its subnet file."""
    lines = []
    for name in names:
        try:
            report = DaemonClient(name).get("/status")
        except (NoDaemon, RequestRefused):
            continue
        lines.append(f"\n  --subnet-file={report['file']['path']}  (pid {report['pid']})")
    return "".join(lines)


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A daemon: what it serves, and its process where that can be found."""

    what: str
    process: Process | None

    def __str__(self) -> str:
        return f"a pyflanneld{f' (pid {self.process.pid})' if self.process else ''} serves {self.what}"


def go_daemons() -> list[Process]:
    """Return the Go daemons that run on this host."""
    return [process for process in procfs.processes() if process.name == "flanneld"]


def daemon_here(settings: "Settings") -> RunningDaemon | None:
    """Return the daemon that holds the lock which a daemon with these settings would take; takes no lock itself."""
    network = lock.network_key(settings.etcd_prefix, settings.etcd_endpoints)
    for name, what in lock.lock_names(network, settings.subnet_file, settings.state_dir).items():
        if (holder := lock.trusted_holder(name)) is not None:
            return RunningDaemon(what, procfs.process(holder.pid))
    return None
