"""The log's writer on real pipes, sockets, terminals and files: it never waits, and says what it has lost."""

import errno
import fcntl
import os
import pty
import socket
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pyflanneld.logs import writer as module
from pyflanneld.logs.writer import QUEUE_BYTES, RESERVED_BYTES, LogWriter

LINE = "x" * 999
FITS = (QUEUE_BYTES - RESERVED_BYTES) // 1000


class Reader:
    """The other end: it reads only when it is asked to."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._rest = b""

    def lines(self, count: int) -> list[str]:
        """Read until there are *count* whole lines, and return them; the beginning of the next one is kept."""
        while self._rest.count(b"\n") < count:
            got = os.read(self.descriptor, 65536)
            assert got, "the writer is gone"
            self._rest += got
        *whole, self._rest = self._rest.split(b"\n")
        return [line.rstrip(b"\r").decode() for line in whole]


@contextmanager
def a_pipe() -> Iterator[tuple[Reader, int]]:
    read, write = os.pipe()
    yield Reader(read), write
    os.close(write)
    os.close(read)


@contextmanager
def a_socket() -> Iterator[tuple[Reader, int]]:
    here, there = socket.socketpair()
    with here, there:
        yield Reader(there.fileno()), here.fileno()


@contextmanager
def a_terminal() -> Iterator[tuple[Reader, int]]:
    read, write = pty.openpty()
    yield Reader(read), write
    os.close(write)
    os.close(read)


Start = Callable[..., LogWriter]
Place = Callable[[], AbstractContextManager[tuple[Reader, int]]]
PLACES: list[Place] = [a_pipe, a_socket, a_terminal]


def eventually(happens: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 10
    while not happens():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def log_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "log"]


@pytest.fixture(name="logging_to")
def _logging_to() -> Iterator[Start]:
    """Make writers that log what was lost, as the daemon's does, and close what they have opened."""
    writers: list[LogWriter] = []

    def start(descriptor: int, *, threads: bool = True) -> LogWriter:
        writer = LogWriter(descriptor, lambda count: writer.write(f"lost {count}", urgent=True))
        writers.append(writer)
        if threads:
            writer.use_threads()
        return writer

    yield start
    for writer in writers:
        for opened in getattr(writer._write_at_once, "args", ()):
            os.close(opened if isinstance(opened, int) else opened.detach())


@pytest.mark.parametrize("place", PLACES)
def test_a_line_is_written_at_once(place: Place, logging_to: Start) -> None:
    """Where it can be, it is written before the caller goes on, without a thread."""
    with place() as (reader, descriptor):
        writer = logging_to(descriptor)
        writer.write("one \udc80")
        assert log_threads() == []
        assert reader.lines(1) == ["one \\udc80"]


@pytest.mark.parametrize("place", PLACES)
def test_nobody_reads(place: Place, logging_to: Start) -> None:
    """The writer goes on; what does not fit is counted; when somebody reads, all that was kept comes, then the count.

    The thread that waited is gone then, and the open file is as it was for others.
    """
    with place() as (reader, descriptor):
        writer, flags = logging_to(descriptor), fcntl.fcntl(descriptor, fcntl.F_GETFL)
        for number in range(3 * FITS):
            writer.write(f"{number:05}{LINE[5:]}")
        writer.write(f"urgent{LINE[6:]}", urgent=True)
        assert len(log_threads()) == 1
        kept = writer._queue[-1]
        assert kept.startswith(b"urgent")
        lines = reader.lines(len(writer._queue) + 1)
        while not lines[-1].startswith("lost"):
            lines += reader.lines(1)
        numbers = [int(line[:5]) for line in lines if line[:1].isdigit()]
        assert numbers == list(range(len(numbers))), "in order, without a gap, and none twice"
        assert lines[-2].startswith("urgent")
        assert lines[-1] == f"lost {3 * FITS - len(numbers)}"
        eventually(lambda: log_threads() == [])
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) == flags
        writer.write("again")
        assert reader.lines(1) == ["again"]


def test_a_stopped_terminal(logging_to: Start) -> None:
    """After Ctrl-S lines are kept, after Ctrl-Q they come."""
    with a_terminal() as (reader, descriptor):
        writer = logging_to(descriptor)
        termios.tcflow(descriptor, termios.TCOOFF)
        writer.write("while stopped")
        assert len(writer._queue) == 1
        termios.tcflow(descriptor, termios.TCOON)
        assert reader.lines(1) == ["while stopped"]


def test_a_file_is_left_to_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_to: Start) -> None:
    """A file system may be frozen: the write happens elsewhere; without another thread it happens here."""
    path, started = tmp_path / "log", threading.Event()
    go_on, write = threading.Event(), os.write

    def frozen(descriptor: int, data: bytes) -> int:
        started.set()
        assert go_on.wait(10)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", frozen)
    with path.open("ab") as file:
        writer = logging_to(file.fileno())
        writer.write("one")
        assert started.wait(10)
        writer.write("two")
        assert path.read_bytes() == b""
        go_on.set()
        writer.close()
        assert path.read_text() == "one\ntwo\n"
        eventually(lambda: log_threads() == [])


@pytest.mark.parametrize("threads", [True, False])
def test_no_threads_can_be_had(
    threads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_to: Start
) -> None:
    """A file is written all the same; a pipe's lines are kept, and come with the next one that fits."""

    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with (tmp_path / "log").open("ab") as file:
        logging_to(file.fileno(), threads=threads).write("one")
        assert (tmp_path / "log").read_text() == "one\n"
    with a_pipe() as (reader, descriptor):
        writer = logging_to(descriptor, threads=threads)
        for _ in range(100):
            writer.write(LINE)
        assert writer._queue
        reader.lines(100 - len(writer._queue))
        writer.write("last")
        assert not writer._queue
        assert log_threads() == []


@pytest.mark.parametrize("place", PLACES)
def test_the_end_does_not_wait_for_readers(place: Place, monkeypatch: pytest.MonkeyPatch, logging_to: Start) -> None:
    """What can be written in a moment is; then it gives up."""
    monkeypatch.setattr(module, "CLOSE_S", 0.1)
    with place() as (reader, descriptor):
        writer = logging_to(descriptor)
        for _ in range(FITS):
            writer.write(LINE)
        writer.close()
        assert writer._queue
        assert len(reader.lines(FITS)) == FITS
        writer.close()
        assert not writer._queue
        assert log_threads() == []


def test_what_cannot_be_written_is_counted(monkeypatch: pytest.MonkeyPatch, logging_to: Start) -> None:
    """A full disk, a reader that is gone: nothing is raised and nothing piles up; later lines bring the count."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = logging_to(full.fileno())
        for _ in range(10_000):
            writer.write("x")
        assert not writer._queue
        assert log_threads() == []
    with a_pipe() as (reader, descriptor):
        writer = logging_to(descriptor)
        broken = [OSError(errno.ENOSPC, "No space left on device")] * 3
        write = writer._write_at_once

        def sometimes(data: bytes) -> int:
            if broken:
                raise broken.pop()
            return write(data)

        monkeypatch.setattr(writer, "_write_at_once", sometimes)
        for word in ("a", "b", "c", "d"):
            writer.write(word)
        assert reader.lines(2) == ["d", "lost 3"]


def test_threads_that_log_at_the_same_time(logging_to: Start) -> None:
    """Every line comes, whole and once."""
    with a_pipe() as (reader, descriptor):
        writer = logging_to(descriptor)
        writers = [
            threading.Thread(target=lambda name=name: [writer.write(f"{name}{number}") for number in range(500)])
            for name in "abcd"
        ]
        for each in writers:
            each.start()
        lines = reader.lines(2000)
        for each in writers:
            each.join()
        assert sorted(lines) == sorted(f"{name}{number}" for name in "abcd" for number in range(500))
