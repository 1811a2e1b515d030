"""What the benchmark shows while it runs, what it does with a case that fails, and how it reads /proc."""

import io
import os
import subprocess
import sys
import time

from tests.bench.bench import QUICK, Bench, Case, Progress, summary
from tests.bench.proc import cost, resident_bytes
from tests.bench.report import machine
from tests.bench.results import NotMeasuredError, Result, Results


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_shows_what_is_being_done() -> None:
    """In a file there are the results, one a line, and nothing that was overwritten."""
    terminal, file = Terminal(), io.StringIO()
    for out in (terminal, file):
        progress = Progress(out)
        progress.doing("start, 250 peers")
        progress.done("0.4 s")
    assert file.getvalue() == "[   0 s] 0.4 s\n"
    assert terminal.getvalue() == "\r\033[K[   0 s] start, 250 peers\r\033[K[   0 s] 0.4 s\n"


def test_a_result_in_one_line() -> None:
    """Median, p99 and the number of samples; a reason where there are none."""
    line = " ".join(summary(Result("lease.new", "pyflanneld", 1000, "s", (0.001, 0.002, 0.009))).split())
    assert line == "lease.new 1,000 peers pyflanneld 2.00 ms p99 9.00 ms of 3"
    line = " ".join(summary(Result("start.routes", "flanneld", 16_000, "s", (), "not within 30 s")).split())
    assert line == "start.routes 16,000 peers flanneld not measured: not within 30 s"


async def test_a_case_that_fails_does_not_end_the_run() -> None:
    """What it has measured is kept and shown, and the report says that it was given up, and why."""

    async def failing(bench: Bench, peers: int) -> None:
        bench.record("start.ready", "pyflanneld", peers, "s", [0.5])
        raise NotMeasuredError("no route within 15 s")

    keys = ("date", "pyflanneld", "python", "kernel", "etcd", "iproute2", "cores", "processor", "quick")
    out, results = io.StringIO(), Results(dict.fromkeys(keys, "x"))
    bench = Bench(None, (), QUICK, results, Progress(out))  # type: ignore[arg-type]
    await bench.do(Case("start", (), failing), 250)
    assert results.median("start.ready") == 0.5
    assert "given up: start with 250 peers: no route within 15 s" in out.getvalue()
    assert "start.ready" in out.getvalue()
    assert machine(results).endswith("Given up: start with 250 peers: no route within 15 s.")


def test_the_cost_of_a_process() -> None:
    """Processor time of its own and of its children apart, wake-ups, memory; only the difference counts."""
    before = cost(os.getpid())
    while cost(os.getpid()).since(before).cpu_s < 0.01:
        pass
    busy = "import time; t = time.process_time()\nwhile time.process_time() - t < 0.05: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    time.sleep(0.001)
    used = cost(os.getpid()).since(before)
    assert used.cpu_s >= 0.01
    assert used.children_cpu_s >= 0.04
    assert used.wakeups >= 1
    assert 1e6 < resident_bytes(os.getpid()) < 1e10
