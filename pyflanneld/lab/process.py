"""Tool: a background program in a namespace, with a log, and a pid file for later commands.

It has its own session, so Ctrl-C on the terminal reaches only the laboratory, which then ends its programs in order.
"""

import os
import signal
import subprocess
from pathlib import Path

from pyflanneld.lab.run import LabError, clean_environment, until
from pyflanneld.lab.topology import kill

LOG_WORDS = 300


class Background:
    """One program with its folder: ``<folder>/log`` and ``<folder>/pid``.

    A later command (``lab status`` after ``lab up``) finds it by the pid file, and trusts the number only if the
    process's command line names the folder.
    """

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace = namespace
        self.folder = folder
        self.log = folder / "log"
        self._pid_file = folder / "pid"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, *command: str) -> None:
        """Start *command*, which must name the folder somewhere in its arguments.

        Raises:
            LabError: it is running already.
        """
        if self.pid() is not None:
            raise LabError(f"{command[0]} is running already in {self.namespace}")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=clean_environment(os.environ),
            )
        self._pid_file.write_text(f"{self._child.pid}\n")

    def pid(self) -> int | None:
        """Return the process's id, ``None`` if it does not run."""
        if self._child is not None:
            return self._child.pid if self._child.poll() is None else None
        return recorded_pid(self._pid_file)

    def exit_code(self) -> int | None:
        """Return the exit code (negative: killed by that signal), ``None`` while it runs or if it is not our child."""
        return None if self._child is None else self._child.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if (pid := self.pid()) is not None:
            kill(pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0) -> int | None:
        """Send a signal, wait for the end and return the exit code (``None`` if it is not our child).

        Raises:
            LabError: it still runs after *timeout_s*.
        """
        self.send(number)
        until(lambda: self.pid() is None, f"{self.namespace}: end after {number.name}", timeout_s)
        self._pid_file.unlink(missing_ok=True)
        return self.exit_code()

    def last_log_line(self) -> str:
        """Return the last line of the log, shortened; for error messages."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.exists() else []
        return next((line.strip()[:LOG_WORDS] for line in reversed(lines) if line.strip()), "(nothing logged)")


def recorded_pid(pid_file: Path) -> int | None:
    """Return the id of the running process that a pid file names, ``None`` if it has ended."""
    try:
        pid = int(pid_file.read_text())
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(pid_file.parent) in command_line else None
