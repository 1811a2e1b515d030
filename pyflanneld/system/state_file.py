"""The file below ``--state-dir``: what a boot without etcd goes by. Shell side.

It is written as ``subnet.env`` is, but for the daemon alone (mode 0600), and on a thread: a disk may take its time,
no loop has to. It is read only where nobody but root and the daemon's own user can have put it.
"""

import asyncio
import errno
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

from pyflanneld.core.lease.saved_state import MAX_BYTES, SavedState, decode_state, encode_state
from pyflanneld.system.atomic_files import (
    content_of,
    make_directories,
    open_directory,
    refuse_everyones,
    remove_leftovers,
    replace_file,
)

NAME = "last-good.json"
_MODE = 0o600
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not block us


class StateFile:
    """Implements ``ports.SavedStateFile`` in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writing = threading.Lock()
        self._forgotten = False

    @property
    def path(self) -> str:
        """The file's path, for messages."""
        return str(self._directory / NAME)

    async def read(self) -> SavedState | None:
        """Return what was saved, ``None`` when there is no file; raises as the port says."""
        return await asyncio.to_thread(self._read)

    async def write(self, state: SavedState) -> None:
        """Put *state* there, atomically and durably; create the directory (0755) if it is missing."""
        await asyncio.to_thread(self._write, state)

    async def forget(self) -> None:
        """Remove the file, and write no more."""
        await asyncio.to_thread(self._forget)

    def _forget(self) -> None:
        with self._writing:  # behind a write that is under way
            self._forgotten = True
            with suppress(FileNotFoundError), open_directory(self._directory) as at:
                os.unlink(NAME, dir_fd=at)
                os.fsync(at)

    def _read(self) -> SavedState | None:
        try:
            with open_directory(self._directory) as at:
                refuse_everyones(at, self._directory, sticky_will_do=False)
                fd = os.open(NAME, _FLAGS, dir_fd=at)
                _refuse_foreign(fd, self.path)
                data = content_of(fd, MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        if data is None:
            raise OSError(errno.EINVAL, "it is no regular file", self.path)
        return decode_state(data)

    def _write(self, state: SavedState) -> None:
        data = encode_state(state)
        with self._writing:
            if self._forgotten:
                return
            make_directories(self._directory)
            with open_directory(self._directory) as at:
                refuse_everyones(at, self._directory, sticky_will_do=False)
                remove_leftovers(at, NAME)
                replace_file(at, NAME, data, _MODE)


def _refuse_foreign(fd: int, path: str) -> None:
    """Raise ``PermissionError``, and close *fd*, for a file that somebody else has put there or may write to."""
    status = os.fstat(fd)
    why = ""
    if status.st_uid not in (0, os.geteuid()):
        why = f"it belongs to uid {status.st_uid}, not to root or this user"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        why = "others than its owner may write to it"
    if why:
        os.close(fd)
        raise PermissionError(errno.EPERM, why, path)
