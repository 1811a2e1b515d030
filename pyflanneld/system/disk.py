"""Work on files that may not answer: a slow disk, a frozen file system, a dead server, a FIFO.

The loop waits for it with a bound and reports what it waits for; the work goes on. Reading is done on a thread: the
kernel ends it with the process. Writing is not: a process cannot end before each of its threads that waits in fsync(2),
or for a frozen file system, and whoever stops the daemon waits for that. So a write is done in a child process, by
``fork``, which executes no program. It has no descriptor and gets no signal of ours, and the kernel kills it when the
daemon ends: a write that comes too late never takes the place of a newer one.
"""

import asyncio
import errno
import gc
import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pyflanneld.system.prctl import set_parent_death_signal
from pyflanneld.system.threads import DaemonThreads

T = TypeVar("T")

PATIENCE_S = 5.0
"""How long a task waits before it reports that a disk does not answer."""


class DiskLane:
    """Does the work on one file, one piece after the other."""

    def __init__(self) -> None:
        self._threads = DaemonThreads()
        self._under_way: Future[Any] | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """Return what *work* returns, on a thread; a piece of work that was given up before comes to its end first.

        Raises:
            OSError: whatever *work* raises; ``EAGAIN`` when it cannot be started; ``ETIMEDOUT`` when it, or the piece
                before it, has not ended within ``PATIENCE_S``. It goes on then.
        """
        if self._under_way is not None:
            await _end(self._under_way)
        self._under_way = started = self._threads.submit(work)
        await _end(started)
        return started.result()


async def _end(work: Future[Any]) -> None:
    waiting = asyncio.wrap_future(work)
    try:
        done, _ = await asyncio.wait([waiting], timeout=PATIENCE_S)
        if not done:
            raise OSError(errno.ETIMEDOUT, f"no answer within {PATIENCE_S:g} s")
        waiting.exception()  # the caller takes it from *work*
    finally:
        waiting.cancel()


def in_child(work: Callable[[], T]) -> T:
    """Return what *work* returns, in a child process; it has to be JSON.

    Raises:
        OSError: whatever *work* raises, or the child cannot be started, or it was killed.
    """
    parent, (ours, theirs) = os.getpid(), os.pipe2(os.O_CLOEXEC)
    with os.fdopen(ours, "rb") as answer:
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            child = os.fork()
            if child == 0:
                _be_the_child(work, theirs, parent)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            os.close(theirs)
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if not text:
        code = os.waitstatus_to_exitcode(status)
        raise OSError(errno.EIO, f"the child process that does the work ended with {code}")
    outcome = json.loads(text)
    if "defect" in outcome:
        raise RuntimeError(f"the child process failed: {outcome['defect']}")
    if "errno" in outcome:
        raise OSError(outcome["errno"], outcome["why"], outcome["file"] or None)
    result: T = outcome["result"]
    return result


def _be_the_child(work: Callable[[], Any], answer_to: int, parent: int) -> NoReturn:
    """Do the work and end; all signals stay blocked."""
    try:
        gc.disable()  # a search would touch, and so copy, the whole memory
        os.setsid()
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == parent:
            _close_all_but(answer_to)
            os.write(answer_to, json.dumps(_outcome(work)).encode())
    finally:
        os._exit(0)


def _close_all_but(kept: int) -> None:
    """Close every descriptor, so that no lock, port or pipe of the daemon's stays open; nothing takes their place."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in {0, 1, 2} - {kept}:
        os.dup2(null, fd)
    for fd in {int(found.name) for found in Path("/proc/self/fd").iterdir()} - {0, 1, 2, kept}:
        with suppress(OSError):  # the one of the list itself
            os.close(fd)


def _outcome(work: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"result": work()}
    except OSError as error:
        return {"errno": error.errno, "why": error.strerror or str(error), "file": str(error.filename or "")}
    except Exception as error:  # a defect, which is raised where the daemon can log it
        return {"defect": repr(error)}

