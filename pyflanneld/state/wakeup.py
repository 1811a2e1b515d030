"""One task wakes another, now or within a time, and says what has changed."""

import asyncio
from contextlib import suppress

from pyflanneld.ports import Change


class WakeUp:
    """Wakes one task. Every task may set it; only the task that it belongs to waits, and takes the changes."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._changes = Change(0)
        self._timeout: asyncio.Timeout | None = None

    @property
    def changes(self) -> Change:
        """What has changed and was not taken yet."""
        return self._changes

    def set(self, changes: Change = Change(0), *, within_s: float = 0.0) -> None:  # noqa: B008 - a constant
        """Wake the task, because of *changes*; a block that ``timeout`` limits ends within *within_s* seconds."""
        self._changes |= changes
        self._event.set()
        if self._timeout is not None:
            end = asyncio.get_running_loop().time() + within_s
            with suppress(RuntimeError):  # the block has ended
                self._timeout.reschedule(min(end, self._timeout.when() or end))

    def take(self, changes: Change) -> Change:
        """Return which of *changes* have come since they were last taken."""
        taken = self._changes & changes
        self._changes &= ~changes
        return taken

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait until it is set, at most *timeout_s* (``None``: without limit); return whether it was."""
        was_set = await set_within(self._event, timeout_s)
        self._event.clear()
        return was_set

    def timeout(self, timeout_s: float | None) -> asyncio.Timeout:
        """Return what limits a block to *timeout_s*, or less when the task is woken: ``TimeoutError`` ends it.

        ``None``: only that ends it.
        """
        self._timeout = asyncio.timeout(timeout_s)
        return self._timeout


async def set_within(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait for *event*, at most *timeout_s* (``None``: without limit); return whether it is set."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
