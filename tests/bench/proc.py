"""What a process costs, read from /proc; proc(5)."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has used up to now.

    Attributes:
        cpu_s: processor time of its threads that are alive, in seconds.
        children_cpu_s: of the programs that it has started and that have ended, in seconds.
        wakeups: how often its threads went to sleep and were woken.
    """

    cpu_s: float
    children_cpu_s: float
    wakeups: int

    def since(self, before: "Cost") -> "Cost":
        """Return what was used between *before* and this."""
        return Cost(
            self.cpu_s - before.cpu_s, self.children_cpu_s - before.children_cpu_s, self.wakeups - before.wakeups
        )


def cost(pid: int) -> Cost:
    """Return what a process has used."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    # In nanoseconds; utime and stime of stat are rounded to hundredths of a second.
    cpu_ns = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    children = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
    wakeups = sum(_field(task / "status", "voluntary_ctxt_switches") for task in tasks)
    return Cost(cpu_ns / 1e9, sum(map(int, children)) / os.sysconf("SC_CLK_TCK"), wakeups)


def resident_bytes(pid: int) -> int:
    """Return how much memory a process occupies, shared pages included (VmRSS)."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS") * 1024


def threads(pid: int) -> int:
    """Return how many threads a process has."""
    return _field(Path(f"/proc/{pid}/status"), "Threads")


def descriptors(pid: int) -> int:
    """Return how many files and sockets a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names alone


def _field(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])
