"""The real clock, in a time namespace whose time since boot is ahead of its running time, as after a sleep."""

import os
import subprocess
import sys

import pytest

SLEPT_S = 100_000
SCRIPT = """
import time
from pyflanneld.system.clock import SystemClock
clock = SystemClock()
print(clock.now_s() - time.monotonic(), clock.suspended_s())
"""


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="a time namespace needs root")
def test_sleep_counts() -> None:
    """Time goes on while the machine sleeps, and how long it has slept can be told apart."""

    def measured(*prefix: str) -> list[float]:
        done = subprocess.run(
            [*prefix, sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True
        )
        return [float(word) for word in done.stdout.split()]

    here, slept = measured(), measured("unshare", "--time", "--fork", "--boottime", str(SLEPT_S))
    assert [round(there - now, -1) for there, now in zip(slept, here, strict=True)] == [SLEPT_S, SLEPT_S]
