"""The real clock."""

import asyncio
import time


class SystemClock:
    """Implements ``ports.Clock`` with CLOCK_BOOTTIME, which runs while the machine sleeps; asyncio's timers do not."""

    def now_s(self) -> float:
        """Return seconds since boot, suspended time included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def suspended_s(self) -> float:
        """Return how many seconds the machine has slept since boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

    def wall_s(self) -> float:
        """Return the time of day in seconds since 1970."""
        return time.time()

    async def sleep(self, delay_s: float) -> None:
        """Wait *delay_s* seconds of running time; the time that the machine sleeps is added."""
        await asyncio.sleep(delay_s)
