"""A simulated disk below the real ``system/atomic_files.py``: processes die between two steps, and power fails.

A process that is killed leaves what it has done so far. When the power fails, of all that was not synced any part may
be lost: of a file's bytes any but the first few, or all of them zeros; of the changes of the directory any selection.
"""

import errno
import io
import os
import stat
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from pyflanneld.system import atomic_files
from pyflanneld.system.atomic_files import SubnetEnvFile

_NAME = "subnet.env"
_DIRECTORY = 1000
STEPS = 6
"""Of a write: create, mode, write, sync, rename, sync of the directory."""


class Killed(Exception):
    """The process that wrote is no more."""


class SimDisk:
    """One directory: it stands in the place of ``os`` for ``pyflanneld.system.atomic_files``.

    Attributes:
        full: each write fails behind the step *fails_at*, for want of space.
        dies_at: the step at which the process dies, counted from now on; ``None``: it does not.
    """

    def __init__(self, text: str | None = None) -> None:
        self.full = False
        self.fails_at = 0
        self.dies_at: int | None = None
        self._dead = False
        self._step = 0
        self._contents: list[bytes] = []
        self._synced: set[int] = set()
        self._names: dict[str, int] = {}
        self._lasting: dict[str, int] = {}
        self._pending: list[tuple[str, str, int]] = []  # of the directory: what, name, file
        self._open: dict[int, str | int] = {}
        if text is not None:
            self._contents.append(text.encode())
            self._synced.add(0)
            self._names, self._lasting = {_NAME: 0}, {_NAME: 0}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)  # constants

    @property
    def content(self) -> bytes | None:
        """What stands in the file, ``None`` when there is none."""
        held = self._names.get(_NAME)
        return None if held is None else self._contents[held]

    def begin(self) -> None:
        """Let a process begin to write."""
        self._step = 0

    def revive(self) -> None:
        """Let another process come in the place of one that has died."""
        self._dead, self.dies_at = False, None
        self._open.clear()

    def lose_power(self, rng: Random) -> None:
        """Lose whatever may be lost."""
        names = dict(self._lasting)
        for what, name, file in self._pending:
            if rng.random() < 0.5:
                names.pop(name, None) if what == "remove" else names.__setitem__(name, file)
        for file in names.values():
            if file not in self._synced:
                data = self._contents[file]
                self._contents[file] = rng.choice((data, data[: rng.randrange(len(data) + 1)], b"\0" * len(data)))
        self._names, self._lasting, self._pending = names, dict(names), []
        self.revive()

    # What ``files`` calls.

    def open(self, path: Path | str, flags: int, _mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        number = _DIRECTORY + 1 + len(self._open)
        if flags & os.O_DIRECTORY:
            self._open[number] = ""
            return number
        name = path if dir_fd is not None else Path(path).name
        assert isinstance(name, str)
        if flags & os.O_CREAT:
            self._take_step()
            if flags & os.O_TRUNC and name in self._names:
                self._contents[self._names[name]] = b""
                self._synced.discard(self._names[name])
            else:
                self._contents.append(b"")
                self._change("put", name, len(self._contents) - 1)
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        self._open[number] = self._names[name]
        return number

    def close(self, _fd: int) -> None:
        """Forget nothing: numbers are not used again while a process lives."""

    def fstat(self, fd: int) -> SimpleNamespace:
        mode = stat.S_IFDIR | 0o755 if self._open[fd] == "" else stat.S_IFREG | 0o644
        return SimpleNamespace(st_mode=mode, st_uid=os.geteuid())

    def fdopen(self, fd: int, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._contents[self._file(fd)])

    def listdir(self, _fd: int) -> list[str]:
        return list(self._names)

    def fchmod(self, _fd: int, _mode: int) -> None:
        self._take_step()

    def write(self, fd: int, data: memoryview) -> int:
        self._take_step()
        file = self._file(fd)
        self._contents[file] += bytes(data)
        self._synced.discard(file)
        return len(data)

    def fsync(self, fd: int) -> None:
        self._take_step()
        if self._open[fd] == "":
            self._lasting, self._pending = dict(self._names), []
        else:
            self._synced.add(self._file(fd))

    def rename(self, old: str, new: str, **_: int) -> None:
        self._take_step()
        file = self._names[old]
        self._change("remove", old, file)
        self._change("put", new, file)

    def unlink(self, name: str, **_: int) -> None:
        if self._dead:
            raise Killed
        self._change("remove", name, self._names[name])

    def _file(self, fd: int) -> int:
        file = self._open[fd]
        assert isinstance(file, int)
        return file

    def _change(self, what: str, name: str, file: int) -> None:
        if what == "remove":
            self._names.pop(name, None)
        else:
            self._names[name] = file
        self._pending.append((what, name, file))

    def _take_step(self) -> None:
        """Fail here, or die here, if somebody wants that."""
        if self.dies_at is not None:
            self.dies_at -= 1
            self._dead |= self.dies_at < 0
        if self._dead:
            raise Killed
        self._step += 1
        if self.full and self._step > self.fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class SimFile:
    """``ports.SubnetFile``: the daemon's own code on a simulated disk; the attributes are those of ``MemoryFile``."""

    def __init__(self, text: str | None = None) -> None:
        self.disk = SimDisk(text)
        self.writes = 0
        self._file = SubnetEnvFile(Path("/") / _NAME)

    @property
    def text(self) -> str | None:
        """What stands there."""
        content = self.disk.content
        return None if content is None else content.decode(errors="replace")

    async def read(self) -> str | None:
        with _on(self.disk):
            return self._file.read()

    async def exposure(self) -> str:
        return ""

    async def write(self, text: str) -> bool:
        self.disk.begin()
        with _on(self.disk):
            changed = self._file.write(text)
        self.writes += changed
        return changed


class _on:
    """Have ``files`` work on a simulated disk within the block; nothing in it waits."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk

    def __enter__(self) -> None:
        atomic_files.os = self._disk

    def __exit__(self, *_: object) -> None:
        atomic_files.os = os
