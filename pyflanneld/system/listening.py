"""Sockets that listen."""

import socket

BACKLOG = 1024  # clients that wait in the kernel, at no cost; one beyond them tries again after a second


def listening(sock: socket.socket, address: str | tuple[str, int]) -> socket.socket:
    """Bind *sock* to *address*, and listen; it is closed if that fails. Raises ``OSError``."""
    try:
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(BACKLOG)  # at once: two sockets that are only bound may share an address
    except OSError:
        sock.close()
        raise
    return sock


def bind_abstract(name: str) -> socket.socket:
    """Return a socket that listens on the abstract *name* (with its leading NUL). Raises ``OSError``."""
    return listening(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), name)
