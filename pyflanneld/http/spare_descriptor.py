"""A descriptor that is kept for the time when the process has no more: it makes room for one connection."""

import errno
import os
import socket

NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Why a connection cannot be accepted now although it waits."""


class SpareDescriptor:
    """One descriptor, or none while it is in use."""

    def __init__(self) -> None:
        self._fd: int | None = None

    def fill(self) -> None:
        """Have one again, if that is possible."""
        if self._fd is None:
            try:
                self._fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return

    def accept(self, listening: socket.socket) -> socket.socket | None:
        """Accept a connection in the reserve's place; ``None`` when there is none, or it does not help."""
        if self._fd is None:
            return None
        self.close()
        try:
            return listening.accept()[0]
        except OSError:
            self.fill()
            return None

    def close(self) -> None:
        """Have none any more."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
