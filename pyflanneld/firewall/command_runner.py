"""Runs programs. No other module of the daemon does.

A program is found by name in absolute directories; its path is cached. It runs without a shell, with constant
arguments, in a minimal environment (the C locale, no secrets), and in a session of its own, so that a signal to the
daemon's process group does not interrupt it. Variable data goes to its standard input.

Input and output are files in memory that cannot grow beyond their bound (``F_SEAL_GROW``), not pipes: no output costs
more, and a child that outlives the program holds nothing of ours open. Its end is what counts, and comes through a
pidfd, so no thread is needed. Then, or at the deadline, its whole process group is killed.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pyflanneld.errors import FirewallError, ProgramMissing

DEADLINE_S = 10.0
KILLED_S = 1.0
REAPED_S = 0.1  # it was killed, and nearly always has ended by now
STDOUT_BYTES = 32 << 20  # the rules of a host with tens of thousands of services
STDERR_BYTES = 2 << 20  # multiples of 2 MiB: the kernel refuses a whole huge page that would cross the bound
_ADMIN_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not in the PATH of every service manager
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_SHOWN_CHARS = 160
_POLL_S = 0.02  # where there is no pidfd


def program_directories(environ: Mapping[str, str]) -> list[str]:
    """Return the absolute directories in ``PATH``, and those of administrators' programs."""
    named = environ.get("PATH", "").split(os.pathsep)
    return [directory for directory in (*named, *_ADMIN_DIRECTORIES) if directory.startswith("/")]


@dataclass(frozen=True, slots=True)
class Output:
    """The result of a program: its exit code (negative: the signal that ended it) and its output."""

    code: int
    stdout: str
    stderr: str

    @property
    def message(self) -> str:
        """Its error message, on one line of printable ASCII."""
        return ascii(" ".join((self.stderr or self.stdout).split())[:_SHOWN_CHARS])[1:-1] or "no message"


def success(name: str, output: Output) -> str:
    """Return what *name* printed. Raises ``FirewallError`` if its exit code is not 0."""
    if output.code != 0:
        raise FirewallError(f"{name} failed with exit code {output.code}: {output.message}")
    return output.stdout


class Programs:
    """Finds and runs programs by name.

    Args:
        directories: where to find them, in this order.
        deadline_s: how long a program may run.
    """

    def __init__(self, directories: Sequence[str], *, deadline_s: float = DEADLINE_S) -> None:
        self._path = os.pathsep.join(dict.fromkeys(directories))
        self._deadline_s = deadline_s
        self._found: dict[str, str] = {}
        self._killed: dict[str, subprocess.Popen[bytes]] = {}  # not ended yet

    def find(self, name: str) -> str:
        """Return the absolute path of a program. Raises ``ProgramMissing``."""
        if name not in self._found:
            path = shutil.which(name, path=self._path)
            if path is None:
                where = ", ".join(("PATH", *_ADMIN_DIRECTORIES))  # a PATH may be longer than a line of the log
                raise ProgramMissing(f"there is no program {name} in {where}")
            self._found[name] = path
        return self._found[name]

    async def run(self, name: str, *arguments: str, stdin: str = "") -> Output:
        """Run a program to its end.

        Raises:
            ProgramMissing: it is not found.
            FirewallError: it cannot be started, did not end in time, or has printed too much.
        """
        path = self.find(name)
        self._refuse_another(name)
        try:
            with _file_in_memory(stdin) as source, _bounded(STDOUT_BYTES) as out, _bounded(STDERR_BYTES) as errors:
                process = subprocess.Popen(  # noqa: S603, ASYNC220 - as the module says; it returns at once
                    (path, *arguments), stdin=source, stdout=out, stderr=errors, env=_ENVIRONMENT, cwd="/",
                    start_new_session=True,
                )  # fmt: skip
                await self._end(name, process)
                stdout, stderr = _content(name, out, STDOUT_BYTES), _content(name, errors, STDERR_BYTES)
        except OSError as error:
            self._found.pop(name, None)  # search for it again the next time
            raise FirewallError(f"{path} cannot be started: {error.strerror}") from error
        return Output(process.returncode, stdout, stderr)

    def _refuse_another(self, name: str) -> None:
        """Raise ``FirewallError`` while the one that was killed has not ended: the kernel may hold it for long."""
        killed = self._killed.get(name)
        if killed is not None and killed.poll() is None:
            raise FirewallError(f"{name} (pid {killed.pid}) was killed and has not ended yet")
        self._killed.pop(name, None)

    async def _end(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of a program, kill what is left of its process group, and collect its exit code."""
        try:
            async with asyncio.timeout(self._deadline_s):
                await _ended(process.pid)
        except TimeoutError as error:
            raise FirewallError(f"{name} did not end within {self._deadline_s:g} s") from error
        finally:
            with suppress(ProcessLookupError):  # it has not been collected: the number is still its own
                os.killpg(process.pid, signal.SIGKILL)
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(KILLED_S):
                        await _ended(process.pid)
            finally:  # cancelled again
                with suppress(subprocess.TimeoutExpired):
                    process.wait(REAPED_S)
                if process.returncode is None:
                    self._killed[name] = process


async def _ended(pid: int) -> None:
    """Return when a child has ended; it is not collected."""
    try:
        end = os.pidfd_open(pid)
    except OSError:  # an old kernel, a filter of system calls, no descriptor left
        while not _has_ended(pid):  # noqa: ASYNC110 - nothing would set an event
            await asyncio.sleep(_POLL_S)
        return
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(end, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(end)
        os.close(end)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@contextmanager
def _file_in_memory(text: str) -> Iterator[int]:
    """Provide *text* as a file that is read from its beginning."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(text.encode())
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _bounded(limit: int) -> Iterator[int]:
    """Provide an empty file that takes *limit* bytes: a write beyond them fails."""
    fd = os.memfd_create("output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, limit)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        yield fd
    finally:
        os.close(fd)


def _content(name: str, fd: int, limit: int) -> str:
    """Return what was written to a bounded file. Raises ``FirewallError`` when that is all that it takes."""
    length = os.lseek(fd, 0, os.SEEK_CUR)  # the position is shared with the program
    if length >= limit:
        raise FirewallError(f"{name} printed more than {limit >> 20} MiB")
    return os.pread(fd, length, 0).decode(errors="replace")
