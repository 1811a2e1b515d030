"""Who is measured: pyflanneld as the process that it is in life, and any program that takes flanneld's flags."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from pyflanneld.lab.run import clean_environment
from pyflanneld.lab.topology import connect_namespaces
from tests.bench.leases import NETWORK, Peer
from tests.bench.results import FLOOR, HOST_GW, OURS, STATIC, NotMeasuredError, with_backend
from tests.support.network.namespaces import Namespace

HEALTH_PORT = 2401
STOP_S = 10.0
READY_POLL_S = 0.005


@dataclass(slots=True)
class Contender:
    """A program, with one backend.

    Attributes:
        name: for the tables.
        command: what starts it, without flags.
        api: the API of etcd that it reads, 3 or 2.
        notifies: it says ``READY=1``; where one does not, ``/readyz`` is asked instead.
        backend: that of its network.
    """

    name: str
    command: tuple[str, ...]
    api: int = 3
    notifies: bool = True
    backend: str = HOST_GW


def ours() -> Contender:
    """Return pyflanneld as it lies in this tree."""
    return Contender(OURS, (sys.executable, "-m", "pyflanneld"))


def parse_against(text: str) -> Contender:
    """Read ``PATH[:api]``; the API is 3 where none is given.

    Raises:
        ValueError: no such program, or no such API.
    """
    path, colon, api = text.rpartition(":")
    if not colon or not (api.isdigit() and len(api) == 1):
        path, api = text, "3"
    if api not in ("2", "3"):
        raise ValueError(f"{text}: the API of etcd is 2 or 3")
    program = shutil.which(path)
    if program is None:
        raise ValueError(f"{path}: there is no such program, or it cannot be executed")
    return Contender(Path(program).name, (str(Path(program).absolute()),), int(api))


def with_names_of_their_own(contenders: Sequence[Contender]) -> list[Contender]:
    """Return the contenders with names that differ: the API and then a number are added where they do not."""
    taken: set[str] = {FLOOR, STATIC}
    for one in contenders:
        names = [one.name, f"{one.name} (v{one.api})", *(f"{one.name} {number}" for number in range(2, 100))]
        one.name = next(name for name in names if name not in taken)
        taken.add(one.name)
    return list(contenders)


def with_backends(contenders: Sequence[Contender], backends: Sequence[str]) -> list[Contender]:
    """Return each contender with each of the backends, in this order."""
    return [
        replace(one, name=with_backend(one.name, backend), backend=backend)
        for backend in backends for one in contenders
    ]  # fmt: skip


class Daemon:
    """A contender's process on one host. Gets none but the flags that flanneld v0.11.0 has.

    Args:
        contender: what is run.
        space: the host.
        me: the host's address, and the subnet that the daemon is to wish for.
        prefix: in etcd.
        etcd_url: where that is.
        folder: an existing directory for its files.
    """

    def __init__(
        self, contender: Contender, space: Namespace, me: Peer, *, prefix: str, etcd_url: str, folder: Path
    ) -> None:
        self.contender = contender
        self._space = space
        self._subnet_file = folder / "subnet.env"
        self._log = folder / "log"
        self._notify_path = folder / "notify"
        self._flags = [
            "--iface=eth1", f"--public-ip={me.gateway}", f"--etcd-endpoints={etcd_url}", f"--etcd-prefix={prefix}",
            f"--subnet-file={self._subnet_file}", f"--healthz-port={HEALTH_PORT}",
        ]  # fmt: skip
        self._subnet_file.write_text(
            f"FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET={me.subnet[1]}/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
        )
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.setblocking(False)
        self._notified.bind(str(self._notify_path))
        self._process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    @property
    def pid(self) -> int:
        """The process's id; it must have been started."""
        assert self._process is not None
        return self._process.pid

    def start(self, *more: str) -> float:
        """Start it and return when, as of ``time.monotonic``."""
        environment = {**clean_environment(os.environ), "NOTIFY_SOCKET": str(self._notify_path)}
        # The kernel kills it when this process goes, even when that is killed itself.
        command = ["setpriv", "--pdeathsig", "KILL", *self.contender.command, *self._flags, *more]
        self._drain()
        with self._space.inside(), self._log.open("ab") as log:
            self.started_at = time.monotonic()
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        return self.started_at

    async def ready(self, timeout_s: float) -> float:
        """Wait until it is ready, and return when it said so.

        Raises:
            NotMeasuredError: not in time, or it has ended.
        """
        give_up_at = time.monotonic() + timeout_s
        while time.monotonic() < give_up_at:
            self.check()
            if "READY=1" in self._drain() if self.contender.notifies else self._readyz():
                return time.monotonic()
            await asyncio.sleep(0.001 if self.contender.notifies else READY_POLL_S)
        raise NotMeasuredError(f"{self.contender.name}: not ready within {timeout_s:g} s")

    def check(self) -> None:
        """See that it runs. Raises ``NotMeasuredError`` with its last words."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        raise NotMeasuredError(f"{self.contender.name} has ended with exit code {code}: {self._last_words()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and what it has started: first as asked, then by force."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_S)
            self._process = None

    def close(self) -> None:
        """End it at once, and clean up."""
        self.stop(signal.SIGKILL)
        self._notified.close()
        self._notify_path.unlink(missing_ok=True)

    def pause(self) -> None:
        """Freeze it."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        os.kill(self.pid, signal.SIGCONT)

    def _drain(self) -> str:
        told = []
        with suppress(BlockingIOError):
            while True:
                told.append(self._notified.recv(4096).decode(errors="replace"))
        return "\n".join(told)

    def _readyz(self) -> bool:
        connection = HTTPConnection("127.0.0.1", HEALTH_PORT)
        try:
            connection.sock = connect_namespaces(self._space.name, "127.0.0.1", HEALTH_PORT, 0.5)
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return " | ".join(lines[-3:])[-500:] or "(nothing logged)"
