"""Writes the daemon's log without ever waiting for whoever reads it.

A pipe that nobody reads, a hung journal, a terminal after Ctrl-S, a frozen file system: there a plain write(2) waits,
and with it the loop, the probes and the repairs. So a line goes into a queue, and from there it is written at once if
that cannot wait. What is left is written by a thread, which lives only until the queue is empty. Lines that do not fit
into the queue are counted, and the count is logged when the output takes lines again.

O_NONBLOCK is a property of the open file, which other processes share. So a pipe or a terminal is opened once more, by
/proc/self/fd, and a socket gets MSG_DONTWAIT. A regular file has neither; it is left to the thread.

Nothing here waits for a lock: the garbage collector may log in the middle of anything. Whoever gets the turn writes,
and looks again after it.
"""

import os
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

QUEUE_BYTES = 512 * 1024
RESERVED_BYTES = QUEUE_BYTES // 4
"""The part of the queue that is for urgent lines only."""
CLOSE_S = 1.0
_POLL_S = 0.02

Write = Callable[[bytes], int]


class LogWriter:
    """Takes lines from any thread, and returns at once. It starts no thread of its own before ``use_threads``.

    Args:
        descriptor: where the lines go; it stays open, and as it is for the processes that share it.
        on_loss: called with the number of lost lines, as soon as lines are written again.
    """

    def __init__(self, descriptor: int, on_loss: Callable[[int], None]) -> None:
        self._on_loss = on_loss
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._write_at_once = _without_waiting(descriptor)
        self._write = partial(os.write, descriptor)
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._lost = 0
        self._works = True  # the last line was written
        self._may_start = False
        self._turn = threading.Lock()  # who has it takes from the queue

    def write(self, line: str, *, urgent: bool = False) -> None:
        """Write *line*, now or later. *urgent* lines still fit when others do not. Never raises."""
        data = (line + "\n").encode(errors="backslashreplace")
        if self._queued_bytes + len(data) <= QUEUE_BYTES - (0 if urgent else RESERVED_BYTES):
            self._queued_bytes += len(data)
            self._queue.append(data)
        else:
            self._lost += 1
        self._go_on()

    def use_threads(self) -> None:
        """Allow threads: from now on they have no more rights than they need. Until then a file is written directly."""
        self._may_start = True
        self._go_on()

    def close(self) -> None:
        """Write what is queued, for at most ``CLOSE_S``."""
        self.flush(CLOSE_S)

    def flush(self, within_s: float) -> None:
        """Write what is queued, for at most *within_s*, in which the caller waits."""
        give_up_at = time.monotonic() + within_s
        while (self._queue or self._turn.locked()) and time.monotonic() < give_up_at:
            self._go_on()
            with suppress(OSError):  # clocks that others set have made it fail
                time.sleep(_POLL_S)

    def _go_on(self) -> None:
        """Write what can be written at once, and leave the rest to a thread."""
        while self._queue and self._turn.acquire(blocking=False):
            if not self._empty_queue(self._write_at_once):
                if self._thread_started():
                    return
                if not self._is_file:
                    self._turn.release()
                    return
                self._empty_queue(self._write)  # this hardly ever waits, and the log has to say that threads fail
            self._end_turn()

    def _thread_started(self) -> bool:
        """Hand the turn over to a thread; return whether there is one."""
        if not self._may_start:
            return False
        try:
            threading.Thread(target=self._write_patiently, name="log", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _write_patiently(self) -> None:
        while not self._empty_queue(self._write):
            time.sleep(_POLL_S)  # somebody who shares the open file has made it non-blocking
        self._end_turn()
        self._go_on()

    def _empty_queue(self, write: Write) -> bool:
        """Write line after line; return whether that was possible without waiting."""
        while self._queue:
            data = self._queue[0]
            try:
                written = write(data)
            except BlockingIOError:
                return False
            except OSError:  # the disk is full, or nobody reads any more
                written, self._works = len(data), False
                self._lost += 1
            else:
                self._works = True
            self._queue.popleft()
            if written < len(data):
                self._queue.appendleft(data[written:])
            self._queued_bytes -= written
        self._queued_bytes = 0  # threads that write at the same time may have miscounted
        return True

    def _end_turn(self) -> None:
        lost = self._lost if self._works else 0
        self._lost -= lost
        self._turn.release()
        if lost:
            self._on_loss(lost)


def _without_waiting(descriptor: int) -> Write:
    """Return what writes to *descriptor* and raises ``BlockingIOError`` where it would have to wait."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return partial(_send, socket.socket(fileno=os.dup(descriptor)))
    if stat.S_ISREG(mode):
        return _would_wait
    try:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return partial(os.write, os.open(f"/proc/self/fd/{descriptor}", flags))
    except OSError:  # another user's terminal, no /proc
        return _would_wait


def _send(sock: socket.socket, data: bytes) -> int:
    return sock.send(data, socket.MSG_DONTWAIT)


def _would_wait(_data: bytes) -> int:
    raise BlockingIOError
