"""The file in ``--state-dir``, from which a boot without etcd restores the last good state.

It is written as ``subnet.env`` is, but readable for the daemon alone (mode 0600). It is read only if nobody but root
and the daemon's own user can have written it.
"""

import errno
import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path

from pyflanneld.core.lease.saved_state import MAX_BYTES, SavedState, decode_state, encode_state
from pyflanneld.system.atomic_files import (
    make_directories,
    open_directory,
    read_regular,
    refuse_world_writable,
    remove_leftovers,
    replace_file,
)
from pyflanneld.system.disk import DiskLane, in_child

NAME = "last-good.json"
_MODE = 0o600
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO must not block us


class StateFile:
    """Implements ``ports.SavedStateFile`` in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lane = DiskLane()
        self._forgotten = False

    @property
    def path(self) -> str:
        """The file's path, for messages."""
        return str(self._directory / NAME)

    async def read(self) -> SavedState | None:
        """Return the saved state, ``None`` when there is no file. Raises as the port says."""
        return await self._lane.run(self._read)

    async def write(self, state: SavedState) -> None:
        """Write *state*, atomically and durably; create the directory (0755) if it is missing."""
        if not self._forgotten:
            await self._lane.run(partial(self._encode_and_write, state))

    async def forget(self) -> None:
        """Remove the file, after a write that is under way, and ignore every later ``write``."""
        self._forgotten = True
        await self._lane.run(partial(in_child, self._remove))

    def _remove(self) -> None:
        with suppress(FileNotFoundError), open_directory(self._directory) as at:
            os.unlink(NAME, dir_fd=at)
            os.fsync(at)

    def _read(self) -> SavedState | None:
        try:
            with open_directory(self._directory) as at:
                refuse_world_writable(at, self._directory, allow_sticky=False)
                fd = os.open(NAME, _FLAGS, dir_fd=at)
                _refuse_untrusted(fd, self.path)
                data = read_regular(fd, MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        if data is None:
            raise OSError(errno.EINVAL, "it is not a regular file", self.path)
        return decode_state(data)

    def _encode_and_write(self, state: SavedState) -> None:
        in_child(partial(self._write, encode_state(state)))

    def _write(self, data: bytes) -> None:
        make_directories(self._directory)
        with open_directory(self._directory) as at:
            refuse_world_writable(at, self._directory, allow_sticky=False)
            remove_leftovers(at, NAME)
            replace_file(at, NAME, data, _MODE)


def _refuse_untrusted(fd: int, path: str) -> None:
    """Raise ``PermissionError``, and close *fd*, for a file of another user, or one that others may write to."""
    status = os.fstat(fd)
    why = ""
    if status.st_uid not in (0, os.geteuid()):
        why = f"it belongs to uid {status.st_uid}, not to root or this user"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        why = "users other than its owner may write to it"
    if why:
        os.close(fd)
        raise PermissionError(errno.EPERM, why, path)
