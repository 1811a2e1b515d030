"""Finding the daemons of this network namespace, and asking one. Shell side; the standard library only, to be quick.

The daemons' sockets are abstract (``http.operator``), so /proc/net/unix lists them, for this namespace alone.
"""

import http.client
import json
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyflanneld.commands.common_flags import OWN
from pyflanneld.config.go_flags import Flag, FlagKind, Given
from pyflanneld.errors import NoDaemon, PyflanneldError, UsageError
from pyflanneld.system import lock

TIMEOUT_S = 5.0
BUSY_S = 0.2
_WHICH = "Which daemon: the one with this subnet file."
SUBNET_FILE = Flag("subnet-file", FlagKind.STRING, "", _WHICH, "PATH", OWN, from_env=False)
_SOCKET = re.compile(r"@(pyflanneld/operator/[0-9a-f]{32})$")


class RequestRefused(PyflanneldError):
    """The daemon answers that it will not, or cannot."""


class DaemonClient:
    """One daemon, by the abstract name of its socket (without the NUL)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def get(self, path: str) -> Any:
        """Return the JSON at *path*. Raises ``NoDaemon``, ``RequestRefused``."""
        return self._ask("GET", path, None)

    def post(self, path: str, value: object) -> Any:
        """Send *value* there as JSON and return the answer. Raises ``NoDaemon``, ``RequestRefused``."""
        return self._ask("POST", path, json.dumps(value))

    def _ask(self, method: str, path: str, body: str | None) -> Any:
        """Ask, and ask again where the daemon hangs up: it does so while too many ask at the same time."""
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
                raise RequestRefused(text)
            return json.loads(text)
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


def chosen(subnet_file: Given) -> DaemonClient:
    """Return the daemon that is meant.

    Args:
        subnet_file: the flag ``SUBNET_FILE``; its default means: the only one there is.

    Raises:
        NoDaemon: there is none.
        UsageError: there are several, and none was named.
    """
    names = running()
    if subnet_file.value:
        path = Path(str(subnet_file.value))
        name = lock.abstract_name("operator", lock.file_key(path))[1:]
        if name not in names:
            raise NoDaemon(f"no pyflanneld with the subnet file {path} runs in this network namespace{_others(names)}")
        return DaemonClient(name)
    match names:
        case []:
            raise NoDaemon(
                "no pyflanneld runs in this network namespace: start it, or look with `ip netns` for the one it runs in"
            )
        case [name]:
            return DaemonClient(name)
    raise UsageError(f"several daemons run here; name one with --subnet-file:{_others(names)}")


def running() -> list[str]:
    """Return the socket names of the daemons in this network namespace."""
    lines = Path("/proc/net/unix").read_text("utf-8", "replace").splitlines()
    found = (match[1] for line in lines if (match := _SOCKET.search(line)))
    return sorted(set(found))


def _others(names: Sequence[str]) -> str:
    """Return one line for each daemon, with its subnet file."""
    lines = []
    for name in names:
        try:
            report = DaemonClient(name).get("/status")
        except (NoDaemon, RequestRefused):
            continue
        lines.append(f"\n  --subnet-file={report['file']['path']}  (pid {report['pid']})")
    return "".join(lines)
