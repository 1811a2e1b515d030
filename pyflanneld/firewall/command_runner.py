"""Runs programs. No other module of the daemon does.

A program is found by name in absolute directories; its path is cached. It runs without a shell, with constant
arguments, in a minimal environment (the C locale, no secrets), and in a session of its own, so that a signal to the
daemon's process group does not interrupt it. After its deadline it is killed with all its children. Variable data goes
to its standard input.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pyflanneld.errors import FirewallError, ProgramMissing

DEADLINE_S = 10.0
KILLED_S = 1.0
_ADMIN_DIRECTORIES = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not in the PATH of every service manager
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_SHOWN_CHARS = 160


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
            FirewallError: it cannot be started, or did not end in time.
        """
        path = self.find(name)
        try:
            process = await asyncio.create_subprocess_exec(
                path, *arguments,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
                env=_ENVIRONMENT, cwd="/", start_new_session=True,
            )
        except OSError as error:
            self._found.pop(name, None)  # search for it again the next time
            raise FirewallError(f"{path} cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._deadline_s):
                stdout, stderr = await process.communicate(stdin.encode())
        except TimeoutError as error:
            raise FirewallError(f"{name} did not end within {self._deadline_s:g} s") from error
        finally:
            await _kill(process)
        assert process.returncode is not None  # noqa: S101 - communicate waits for the end
        return Output(process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a program that still runs, with its children, and wait a moment for its end."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(KILLED_S):
            await process.communicate()
