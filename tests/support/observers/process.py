"""Observer O6: how much a daemon uses, and when and how it ends."""

import contextlib
import time
from pathlib import Path

from pyflanneld.lab.node import LabHost
from tests.support.observers.record import Host, Run


class Life:
    """Follows the daemons that run one after the other on a host."""

    def __init__(self, host: Host, node: LabHost) -> None:
        self._host, self._node = host, node
        self.run: Run | None = None

    def pid(self) -> int | None:
        """Return the process id of the daemon that runs now."""
        return self._node.process.pid()

    def tick(self) -> None:
        """Look at the daemon, and notice that it is another one or gone."""
        pid = self.pid()
        if self.run is not None and pid != self.run.pid:
            self._end(self.run)
        if self.run is None and pid is not None:
            self.run = Run(pid, time.monotonic())
            self._host.runs.append(self.run)
        if self.run is not None:
            measure(self.run)

    def _end(self, run: Run) -> None:
        run.ended_s = time.monotonic()
        if self._node.process.pid() is None:
            run.code = self._node.process.exit_code()
        self.run = None


def measure(run: Run) -> None:
    """Put the process's figures into its record, when they are larger."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{run.pid}/status").read_text().splitlines())
        run.anon_bytes = max(run.anon_bytes, int(status["RssAnon"].split()[0]) * 1024)
        run.threads = max(run.threads, int(status["Threads"]))
        run.descriptors = max(run.descriptors, sum(1 for _ in Path(f"/proc/{run.pid}/fd").iterdir()))
