"""The real clock, in a time namespace whose time since boot is ahead of its running time, as after a sleep."""

import asyncio
import os
import subprocess
import sys
import time

import pytest

from pyflanneld.system.clock import SystemClock

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


def test_the_clock_is_boottime() -> None:
    """now_s does not go back, follows CLOCK_BOOTTIME, and the machine has slept no negative time."""
    clock = SystemClock()
    first = clock.now_s()
    assert first <= time.clock_gettime(time.CLOCK_BOOTTIME) <= clock.now_s()
    assert clock.suspended_s() > -0.1
    asyncio.run(clock.sleep(0))
