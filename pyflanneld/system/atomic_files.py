"""Atomic, durable files: at any moment the old content or the new one, whatever crashes.

New content goes into a temporary file in the same directory, is synced to the disk, and replaces the old name in one
rename; the directory is synced last. All of that is relative to one open directory, so nobody can exchange it
meanwhile. Consumers source ``subnet.env`` as root: they must never see a part of it.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MAX_BYTES = 64 * 1024
_DIRECTORY_MODE = 0o755
_FILE_MODE = 0o644


class SubnetEnvFile:
    """``subnet.env``; its path is absolute or relative to the working directory.

    Attributes:
        ours: owner and mode of a file of ours: this user and 0644, or what the file system has made of that.
        synced: whether the directory was synced after the last replacement.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ours = (os.geteuid(), _FILE_MODE)
        self.synced = True

    def read(self) -> str | None:
        """Return the text, ``None`` when there is no file.

        Raises:
            OSError: unreadable, not a regular file, or longer than 64 KiB.
            UnicodeDecodeError: not UTF-8.
        """
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block us
        except FileNotFoundError:
            return None
        data = read_regular(fd, _MAX_BYTES + 1)
        if data is None:
            raise OSError(errno.EINVAL, "not a regular file", str(self._path))
        if len(data) > _MAX_BYTES:
            raise OSError(errno.EFBIG, f"longer than {_MAX_BYTES} bytes", str(self._path))
        return data.decode()

    def write(self, text: str) -> bool:
        """Write *text*, atomically and durably; create the directory (0755) if it is missing.

        A file of ours that already has *text* stays untouched, times included. Another user's file, or one with another
        mode, is replaced whatever it says; a symbolic link is replaced, not followed.

        Returns:
            Whether the file was written.

        Raises:
            PermissionError: everybody may write to the directory.
            OSError: the file is as before, or has *text*, which a power cut may undo; no temporary file is left.
        """
        data = text.encode()
        make_directories(self._path.parent)
        with open_directory(self._path.parent) as at:
            refuse_world_writable(at, self._path.parent, allow_sticky=True)
            remove_leftovers(at, self._path.name)
            if self._contains(at, data):
                if not self.synced:  # the last attempt may have failed after its rename
                    os.fsync(at)
                    self.synced = True
                return False
            self.synced = False
            made = replace_file(at, self._path.name, data, _FILE_MODE)
            self.ours, self.synced = (made.st_uid, stat.S_IMODE(made.st_mode)), True
        return True

    def _contains(self, at: int, data: bytes) -> bool:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self._path.name, flags, dir_fd=at)
        except OSError:
            return False  # absent, a symbolic link, unreadable: the write shows whether that matters
        status = os.fstat(fd)
        return read_regular(fd, len(data) + 1) == data and self.ours == (status.st_uid, stat.S_IMODE(status.st_mode))


def put_file(path: Path, text: str) -> None:
    """Put a file of ours with *text* at *path*, atomically and durably; create its directory (0755) if it is missing.

    The directory may be another user's: a symbolic link is replaced, not followed.

    Raises:
        OSError: nothing has changed, and no temporary file is left; ``EINVAL`` for a FIFO, a device and the like.
    """
    make_directories(path.parent)
    with open_directory(path.parent) as at:
        remove_leftovers(at, path.name)
        with suppress(FileNotFoundError):
            there = os.stat(path.name, dir_fd=at, follow_symlinks=False).st_mode
            if not (stat.S_ISREG(there) or stat.S_ISLNK(there)):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
        replace_file(at, path.name, text.encode(), _FILE_MODE)


def write_file(path: Path, text: str) -> None:
    """Write *text* to *path*, atomically and durably; create its directory (0755) if it is missing.

    For commands alone. Unlike ``subnet.env``, the file may be somebody else's: a symbolic link is followed, mode and
    owner stay, and a special file (``/dev/null``, a pipe) is written to in place.

    Raises:
        OSError: nothing has changed, and no temporary file is left.
    """
    data = text.encode()
    try:
        held = path.stat()
    except FileNotFoundError:
        held = None
    if held is not None and not stat.S_ISREG(held.st_mode):
        path.write_bytes(data)
        return
    path = path.resolve()
    make_directories(path.parent)
    with open_directory(path.parent) as at:
        if held is None:
            replace_file(at, path.name, data, _FILE_MODE)
        else:
            replace_file(at, path.name, data, stat.S_IMODE(held.st_mode), (held.st_uid, held.st_gid))


def refuse_world_writable(at: int, path: Path, *, allow_sticky: bool) -> None:
    """Raise ``PermissionError`` if any user may replace our file, which root reads, in the open directory *at*.

    The sticky bit, as of /tmp, prevents that for a file that exists; one that does not exist yet anybody may create.
    """
    mode = os.fstat(at).st_mode
    if mode & stat.S_IWOTH and not (allow_sticky and mode & stat.S_ISVTX):
        raise PermissionError(errno.EPERM, f"everybody may write to its directory: chmod o-w {path}", str(path))


def exposure(directory: Path) -> str:
    """Return why users other than root and this one may replace a file in *directory*; empty when none may.

    That goes for every directory above it too. Where the sticky bit is set, only the owner of a file may.
    """
    here = directory.resolve()
    for one in (here, *here.parents):
        try:
            status = one.stat()
        except FileNotFoundError:
            continue  # to be made by us
        if status.st_uid not in (0, os.geteuid()):
            return f"{one} belongs to uid {status.st_uid}: chown root {one}"
        if status.st_mode & stat.S_ISVTX:
            continue
        if status.st_mode & stat.S_IWOTH:
            return f"everybody may write to {one}: chmod o-w {one}"
        if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
            return f"the group {status.st_gid} may write to {one}: chmod g-w {one}"
    return ""


def remove_leftovers(at: int, name: str) -> None:
    """Remove temporary files of a process that was killed while it wrote *name*; the lock excludes a second writer."""
    leftover = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}")
    for found in os.listdir(at):
        if leftover.fullmatch(found):
            with suppress(OSError):
                os.unlink(found, dir_fd=at)


def replace_file(
    at: int, name: str, data: bytes, mode: int, owner: tuple[int, int] | None = None
) -> os.stat_result:
    """Replace *name* in the open directory *at* by *data*, atomically and durably; return the new file's status.

    Raises ``OSError``.
    """
    temporary = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=at)
    try:
        try:
            if owner is not None:
                with suppress(PermissionError):  # not root: the new file belongs to this user
                    os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            status = os.fstat(fd)
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=at)
        raise
    os.fsync(at)
    return status


@contextmanager
def open_directory(path: Path) -> Iterator[int]:
    """Open a directory for the block, so that nobody can exchange it meanwhile."""
    # Links are followed, but only here: /opt/flannel of the usual installation is one.
    fd = os.open(path.resolve(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def make_directories(path: Path, owner: tuple[int, int] | None = None) -> None:
    """Create *path* and its missing parents with mode 0755 whatever the umask, because Docker has to read there.

    A *path* that had to be created belongs to *owner*, a user and a group; an existing one stays as it is.
    """
    missing: list[Path] = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        directory.chmod(_DIRECTORY_MODE)
    if missing and owner is not None:
        os.chown(missing[0], *owner)


def read_regular(fd: int, limit: int) -> bytes | None:
    """Return up to *limit* bytes of a regular file, ``None`` for anything else; close *fd*."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read(limit)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
