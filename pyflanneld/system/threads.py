"""Threads for what would hold the event loop up, and only while it takes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class PassingThreads(ThreadPoolExecutor):
    """An executor for ``asyncio.to_thread`` that gives each piece of work a thread, which ends with it.

    The threads of a pool stay. The daemon needs one now and then, and is at rest on its own.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Begin *fn*. Raises ``RuntimeError`` where no thread can be started."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, name="passing").start()
        return future
