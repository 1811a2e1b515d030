"""Threads that end with their work."""

import asyncio
import threading

import pytest

from pyflanneld.system.threads import DaemonThreads
from tests.support.polling import eventually


async def test_work_on_a_thread() -> None:
    """Results and errors come back, several pieces of work run at the same time, and no thread stays."""
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    before = threading.active_count()
    meeting = threading.Barrier(3)

    def fail() -> None:
        raise OSError("full")

    async with asyncio.timeout(10):
        await asyncio.gather(*(asyncio.to_thread(meeting.wait) for _ in range(3)))
    assert await asyncio.to_thread(sum, [1, 2]) == 3
    with pytest.raises(OSError, match="full"):
        await asyncio.to_thread(fail)
    await eventually(lambda: threading.active_count() == before)
