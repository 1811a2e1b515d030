"""libfaketime under Python's threads, as the tests use it for a daemon whose clock is wrong."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.faketime import faked_clock, put_clock

MOST_READS = 5_000  # of the file with the time, which each wait for the interpreter reads: two hundred a second
HOUR_S, DAY_S = 3600, 86400
BUSY = """
import threading, time

def work():
    for _ in range(6_000_000):
        pass

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
reads = next(line for line in open("/proc/self/io") if line.startswith("syscr"))
print(int(reads.split()[1]), time.time())
"""


@pytest.mark.parametrize("monotonic", [False, True])
@pytest.mark.parametrize(("offset", "ahead"), [("-10d", -10 * DAY_S), ("+0", 0), ("+1h", HOUR_S)])
def test_a_thread_that_waits_for_the_interpreter_sleeps(
    offset: str, ahead: int, monotonic: bool, tmp_path: Path
) -> None:
    """Otherwise the one that has the interpreter cannot give it away, and the whole process stands still."""
    file = tmp_path / "time"
    put_clock(file, offset)
    env = os.environ | faked_clock(file, monotonic=monotonic)
    done = subprocess.run([sys.executable, "-c", BUSY], env=env, capture_output=True, text=True, timeout=60, check=True)
    reads, now = done.stdout.split()
    assert int(reads) < MOST_READS
    assert float(now) - time.time() == pytest.approx(ahead, abs=60)
