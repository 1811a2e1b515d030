"""Work on files that may not answer, and threads that cannot be had: nobody waits for long, and nothing is lost."""

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pyflanneld.system import disk
from pyflanneld.system.disk import DiskLane, in_child
from pyflanneld.system.subnet_file import SubnetFileOnDisk
from pyflanneld.system.threads import DaemonLoop, DaemonThreads
from tests.bench.proc import descriptors
from tests.support.polling import eventually

LONG_S = 60.0


def refuse(_self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_a_piece_that_does_not_end_is_reported_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error after a moment; the next piece begins only when it has ended, and has its own result."""
    monkeypatch.setattr(disk, "PATIENCE_S", 0.1)
    lane, may_end, done = DiskLane(), threading.Event(), []

    def hang() -> None:
        may_end.wait(LONG_S)
        done.append("first")

    for work in (hang, partial(done.append, "second"), partial(done.append, "third")):
        with pytest.raises(TimeoutError, match="no answer within"):
            await lane.run(work)
    assert done == []
    may_end.set()
    await lane.run(partial(done.append, "fourth"))
    assert done == ["first", "fourth"]


def test_a_child_returns_what_it_has_found(tmp_path: Path) -> None:
    """Results and errors are those of the work; a defect and a death are told from them."""
    assert in_child(lambda: [True, 1, "x"]) == [True, 1, "x"]
    assert in_child(os.getpid) != os.getpid()
    with pytest.raises(FileNotFoundError) as missing:
        in_child((tmp_path / "none").read_text)
    assert missing.value.filename == str(tmp_path / "none")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        in_child(lambda: 1 // 0)
    with pytest.raises(OSError, match="ended with -9"):
        in_child(lambda: os.kill(os.getpid(), signal.SIGKILL))


def open_files() -> list[str]:
    found = [path for path in Path("/proc/self/fd").iterdir() if path.exists() or path.is_symlink()]
    return sorted({str(path.readlink()).partition(":")[0] for path in found if path.exists()})


def test_a_child_has_nothing_of_ours(tmp_path: Path) -> None:
    """No descriptor, so that no lock and no port outlives us; no signal of our terminal or our service manager."""
    with (tmp_path / "lock").open("w"):
        assert in_child(open_files) in (["/dev/null"], ["/dev/null", "pipe"])
    assert in_child(partial(os.getsid, 0)) != os.getsid(0)
    assert in_child(lambda: signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_what_cannot_be_started_is_an_error_to_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a limit of processes: ``BlockingIOError``, from a thread as from a process."""

    async def scenario() -> None:
        with pytest.raises(BlockingIOError):
            await asyncio.to_thread(int)
        with pytest.raises(BlockingIOError):
            await DiskLane().run(int)

    def fork() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    with asyncio.Runner(loop_factory=DaemonLoop) as runner:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            runner.run(scenario())
        monkeypatch.setattr(os, "fork", fork)
        before = descriptors(os.getpid())
        with pytest.raises(BlockingIOError):
            in_child(int)
        assert descriptors(os.getpid()) == before


def test_threads_are_bounded() -> None:
    """One more than there is room for is an error; room comes back with the end of each."""
    threads, may_end = DaemonThreads(), threading.Event()
    running = [threads.submit(may_end.wait, LONG_S) for _ in range(64)]
    with pytest.raises(BlockingIOError, match="64 threads are busy"):
        threads.submit(int)
    may_end.set()
    assert all(one.result(LONG_S) for one in running)
    assert asyncio.run(eventually_result(threads)) == 0


async def eventually_result(threads: DaemonThreads) -> int:
    """Return what a thread returns as soon as there is room for it."""
    found: list[int] = []

    def tries() -> bool:
        try:
            found.append(threads.submit(int).result(LONG_S))
        except BlockingIOError:
            return False
        return True

    await eventually(tries)
    return found[0]


# The process ends, whatever a thread or a child waits for.

SCRIPT = """
import asyncio, os, sys, time
from functools import partial
from pathlib import Path
from pyflanneld.system.disk import DiskLane, in_child
from pyflanneld.system.threads import DaemonLoop

def hang():
    Path(sys.argv[2], str(os.getpid())).touch()
    time.sleep(1000)

async def main():
    lane = DiskLane()
    kinds = {"thread": lambda: asyncio.to_thread(hang), "read": lambda: lane.run(hang),
             "write": lambda: lane.run(partial(in_child, hang))}
    waiting = asyncio.ensure_future(kinds[sys.argv[1]]())
    while not os.listdir(sys.argv[2]):
        await asyncio.sleep(0.01)

with asyncio.Runner(loop_factory=DaemonLoop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("kind", ["thread", "read", "write"])
def test_the_end_waits_for_nothing(kind: str, tmp_path: Path) -> None:
    """A thread or a child that hangs delays no end, and a child does not outlive us."""
    command = [sys.executable, "-c", SCRIPT, kind, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    [pid] = [int(path.name) for path in tmp_path.iterdir()]
    asyncio.run(eventually(lambda: not Path(f"/proc/{pid}").exists()))


# subnet.env


async def test_a_slow_disk_holds_up_nothing_and_is_written_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write is reported while its fsync takes long, and goes on; the next attempt finds the text in place."""
    monkeypatch.setattr(disk, "PATIENCE_S", 0.1)
    file, fsync = SubnetFileOnDisk(tmp_path / "subnet.env"), os.fsync

    def slow(fd: int) -> None:
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    for _ in range(2):
        with pytest.raises(TimeoutError, match="no answer"):
            await file.write("FLANNEL_MTU=1500\n")
    assert not (tmp_path / "subnet.env").exists()
    (tmp_path / "go").touch()
    monkeypatch.setattr(disk, "PATIENCE_S", LONG_S)
    assert await file.write("FLANNEL_MTU=1500\n") is False
    assert (tmp_path / "subnet.env").read_text() == "FLANNEL_MTU=1500\n"


async def test_a_directory_that_could_not_be_synced_is_synced_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child's failure is remembered by its parent, so that a right text in place is not taken for a durable one."""
    file = SubnetFileOnDisk(tmp_path / "subnet.env")

    def noting(fail: bool) -> Callable[[int], None]:
        def fsync(fd: int) -> None:
            with (tmp_path / "synced").open("a") as notes:
                notes.write("x")
            if fail and stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        return fsync

    monkeypatch.setattr(os, "fsync", noting(fail=True))
    with pytest.raises(OSError, match="Input/output"):
        await file.write("A=1\n")
    monkeypatch.setattr(os, "fsync", noting(fail=False))
    (tmp_path / "synced").unlink()
    assert await file.write("A=1\n") is False
    assert (tmp_path / "synced").read_text() == "x"
    assert await file.write("A=1\n") is False
    assert (tmp_path / "synced").read_text() == "x"
