"""Threads that hold up nothing: neither the end of the process nor a task when there is no room for one more.

``asyncio.to_thread``, and asyncio's own resolver, use the executor of the loop. The usual one has threads that the
interpreter waits for at its end, whatever they wait for, and asyncio starts one more thread just to wait for them. So
the daemon's loop has an executor of its own: a daemon thread for each call, a bound on their number, and ``OSError``
(``EAGAIN``) where the system has none left, which whoever calls reports and tries again.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MOST = 64
"""How many at once: all listeners' clients together, and a few that a disk or a name server keeps waiting."""


class DaemonThreads(ThreadPoolExecutor):  # the only kind of executor that a loop takes
    """Runs each call on a thread that nobody waits for."""

    def __init__(self) -> None:
        super().__init__(max_workers=MOST)
        self._room = threading.BoundedSemaphore(MOST)

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start *call*. Raises ``OSError`` when no thread can be had for it."""
        if not self._room.acquire(blocking=False):
            raise OSError(errno.EAGAIN, f"{MOST} threads are busy")
        future: Future[T] = Future()

        def run() -> None:
            try:
                if future.set_running_or_notify_cancel():
                    future.set_result(call(*args, **kwargs))
            except BaseException as error:  # it is raised where the result is taken
                future.set_exception(error)
            finally:
                self._room.release()

        try:
            threading.Thread(target=run, name="pyflanneld", daemon=True).start()
        except RuntimeError as error:
            self._room.release()
            raise OSError(errno.EAGAIN, "no thread can be started") from error
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for nothing."""


class DaemonLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with ``DaemonThreads``; it ends without waiting for any of them."""

    def __init__(self) -> None:
        super().__init__()
        self.set_default_executor(DaemonThreads())

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for nothing: asyncio's own would start a thread to wait in, and wait for ever."""
