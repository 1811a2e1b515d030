"""What a daemon uses, read every few seconds from outside: from /proc, from the size of its log, from its metrics."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from pyflanneld.lab.node import LabHost
from tests.bench import proc
from tests.support.etcd.counters import METRICS_PORT, Counters
from tests.support.lab.testbed import http_answer, pid_of

MIB = float(1 << 20)
SCRAPE = b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Sample:
    """One host's daemon at one moment.

    Attributes:
        at_s: since the soak began.
        memory_mib: resident (VmRSS).
        descriptors: open files and sockets.
        threads: of the process.
        tasks: of its event loop, by its own metrics; ``None`` when it did not answer.
        log_bytes: written since it was started.
        log_lines: the same in lines.
        cpu_s: used since it was started.
    """

    at_s: float
    memory_mib: float
    descriptors: int
    threads: int
    tasks: int | None
    log_bytes: int
    log_lines: int
    cpu_s: float


QUANTITIES = tuple(field.name for field in fields(Sample) if field.name != "at_s")


class Log:
    """A log's size in bytes and lines; what was counted once is not read again."""

    def __init__(self, node: LabHost) -> None:
        self._file = node.process.log
        self.bytes = self.lines = 0

    def look(self) -> None:
        """Count what has come."""
        with self._file.open("rb") as log:
            log.seek(self.bytes)
            more = log.read()
        self.bytes += len(more)
        self.lines += more.count(b"\n")


class Sampler:
    """Takes a sample of each host every few seconds, in a thread, for the length of a block.

    Attributes:
        samples: by host.
    """

    def __init__(self, nodes: Sequence[LabHost], period_s: float, now_s: Callable[[], float]) -> None:
        self._nodes, self._period_s, self._now_s = nodes, period_s, now_s
        self._logs = {node.name: Log(node) for node in nodes}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")
        self.samples: dict[str, list[Sample]] = {node.name: [] for node in nodes}

    def __enter__(self) -> "Sampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._over.wait(max(0.0, next_s - time.monotonic())):
            next_s += self._period_s
            for node in self._nodes:
                with contextlib.suppress(OSError, AssertionError):  # it has just ended, or a thread of it
                    self.samples[node.name].append(self._look(node))

    def _look(self, node: LabHost) -> Sample:
        pid, log = pid_of(node), self._logs[node.name]
        told = scrape(node)
        tasks = told.total("pyflanneld_process_tasks") or None if told else None
        log.look()
        return Sample(
            self._now_s(), proc.resident_bytes(pid) / MIB, proc.descriptors(pid), proc.threads(pid), tasks,
            log.bytes, log.lines, proc.cost(pid).cpu_s,
        )  # fmt: skip


def scrape(node: LabHost) -> Counters | None:
    """Return what the daemon tells of itself now; ``None`` when it does not answer, being stopped or busy."""
    try:
        return Counters(http_answer(node.namespace, METRICS_PORT, SCRAPE).decode())
    except OSError:
        return None
