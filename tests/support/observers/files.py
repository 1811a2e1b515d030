"""Observer O5: every content that ``subnet.env`` has, told by inotify the moment that it is put there."""

import contextlib
import ctypes
import os
import struct
import time
from pathlib import Path

from tests.support.observers.record import Host, Version

MODIFY, MOVED_FROM, MOVED_TO, CREATE, DELETE, IGNORED = 0x2, 0x40, 0x80, 0x100, 0x200, 0x8000
MASK = MODIFY | MOVED_FROM | MOVED_TO | CREATE | DELETE
NONBLOCK, CLOEXEC = 0o4000, 0o2000000
LONGEST_BYTES = 65536
_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("=iIII")


class Folder:
    """Watches the folder of one host's file. The folder may go and come."""

    def __init__(self, host: Host, path: Path) -> None:
        self._host, self._path = host, path
        self.fd = _libc.inotify_init1(NONBLOCK | CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._watched = False
        self.tick()
        if path.is_file():
            self._add("there")

    def tick(self) -> None:
        """Watch the folder, if it is there and not watched."""
        if not self._watched:
            self._watched = _libc.inotify_add_watch(self.fd, os.fsencode(self._path.parent), MASK) >= 0

    def read(self) -> None:
        """Take what has happened."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            at += _EVENT.size + length
            if mask & IGNORED:
                self._watched = False
            elif os.fsdecode(name) == self._path.name:
                self._changed(mask)

    def _changed(self, mask: int) -> None:
        if mask & MOVED_TO:
            self._add("renamed")
        elif mask & (DELETE | MOVED_FROM):
            self._host.versions.append(Version(time.monotonic(), "gone", None))
        else:
            self._add("written")

    def _add(self, how: str) -> None:
        content = None
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            content = file.read(LONGEST_BYTES)
        self._host.versions.append(Version(time.monotonic(), how, content))

    def close(self) -> None:
        """Stop watching."""
        os.close(self.fd)
