"""``subnet.env``, and files for Docker: at every moment the old text or the new one, whatever crashes. Shell side.

A new text goes into a temporary file beside it, to the disk, and over the old name in one rename; the directory is
synced last. All of it happens relative to one open directory, so nothing can be swapped in between. Consumers source
the file as root: they must never see half of it.
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
    """Implements ``ports.SubnetFile`` for one path, absolute or relative to the working directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._synced = True

    def read(self) -> str | None:
        """Return the text, ``None`` when there is no file.

        Raises:
            OSError: not readable, no regular file, or longer than 64 KiB.
            UnicodeDecodeError: not UTF-8.
        """
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not block us
        except FileNotFoundError:
            return None
        data = content_of(fd, _MAX_BYTES + 1)
        if data is None:
            raise OSError(errno.EINVAL, "not a regular file", str(self._path))
        if len(data) > _MAX_BYTES:
            raise OSError(errno.EFBIG, f"longer than {_MAX_BYTES} bytes", str(self._path))
        return data.decode()

    def write(self, text: str) -> bool:
        """Put *text* there, atomically and durably; create the directory (0755) if it is missing.

        A file that already holds *text* is left alone, times included. A symbolic link is replaced, not followed.

        Returns:
            Whether anything had to be written.

        Raises:
            PermissionError: everybody may write to the directory.
            OSError: the file is as it was, or has *text* which a power cut may take back; no temporary file is left.
        """
        data = text.encode()
        make_directories(self._path.parent)
        with open_directory(self._path.parent) as at:
            refuse_everyones(at, self._path.parent, sticky_will_do=True)
            remove_leftovers(at, self._path.name)
            if self._holds(at, data):
                if not self._synced:  # the last attempt may have failed behind its rename
                    os.fsync(at)
                    self._synced = True
                return False
            self._synced = False
            replace_file(at, self._path.name, data, _FILE_MODE)
            self._synced = True
        return True

    def _holds(self, at: int, data: bytes) -> bool:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self._path.name, flags, dir_fd=at)
        except OSError:
            return False  # absent, a symbolic link, unreadable: writing will show whether that is a problem
        return content_of(fd, len(data) + 1) == data


def write_file(path: Path, text: str) -> None:
    """Make *text* the content of *path*, atomically and durably; create its directory (0755) if it is missing.

    Other than ``subnet.env``, whose place is ours, this may be anybody's file: a symbolic link is followed, mode and
    owner stay, and what is no regular file (``/dev/null``, a pipe) is simply written to.

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


def refuse_everyones(at: int, path: Path, *, sticky_will_do: bool) -> None:
    """Raise ``PermissionError`` where anybody could put a file of his own in our file's place, for root to source.

    With the sticky bit, as in /tmp, nobody can; but where there is no file yet, anybody can put one.
    """
    mode = os.fstat(at).st_mode
    if mode & stat.S_IWOTH and not (sticky_will_do and mode & stat.S_ISVTX):
        raise PermissionError(errno.EPERM, f"everybody may write to its directory: chmod o-w {path}", str(path))


def remove_leftovers(at: int, name: str) -> None:
    """Remove temporary files of a process that was killed while writing *name*; the lock keeps a second one away."""
    leftover = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}")
    for found in os.listdir(at):
        if leftover.fullmatch(found):
            with suppress(OSError):
                os.unlink(found, dir_fd=at)


def replace_file(at: int, name: str, data: bytes, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Put *data* in the place of *name* in the open directory *at*, atomically and durably. Raises ``OSError``."""
    temporary = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=at)
    try:
        try:
            if owner is not None:
                with suppress(PermissionError):  # not root: the new file is ours
                    os.fchown(fd, *owner)
            os.fchmod(fd, mode)
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


@contextmanager
def open_directory(path: Path) -> Iterator[int]:
    """Hold a directory open for the length of the block, so that nothing can be swapped in between."""
    # A symbolic link as the directory is followed, once: /opt/flannel of the usual installation is one.
    fd = os.open(path.resolve(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def make_directories(path: Path, owner: tuple[int, int] | None = None) -> None:
    """Create *path* and its missing parents with mode 0755 whatever the umask, as Docker's side has to read there.

    A *path* that had to be created belongs to *owner*, a user and a group; one that was there is left as it is.
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


def content_of(fd: int, limit: int) -> bytes | None:
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
