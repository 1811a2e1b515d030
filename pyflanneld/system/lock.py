"""One daemon for one network and one subnet file, per network namespace. Shell side.

The lock is a listening AF_UNIX socket with an abstract name. Such names belong to the network namespace, exactly what
the routes belong to; no file is left behind, and the kernel frees the name with the process, however it ended. The
listener never accepts: it is there so that a second daemon can ask the kernel who holds the name (SO_PEERCRED).
"""

import errno
import hashlib
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyflanneld.errors import AlreadyRunning

_LOOK_AGAIN_S = 0.05
_BACKLOG = 128  # each curious second daemon takes up one place; afterwards the holder's pid is not told any more


def network_key(etcd_prefix: str, etcd_endpoints: Iterable[str]) -> str:
    """Return what identifies a network: the same whatever the order of the endpoints."""
    return "\n".join([etcd_prefix, *sorted(set(etcd_endpoints))])


def file_key(subnet_file: Path) -> str:
    """Return what identifies a subnet file: its directory's real path, and its name.

    The name itself is not resolved: writing replaces a symbolic link there, it does not follow it.
    """
    return os.path.realpath(subnet_file.parent) + "/" + subnet_file.name


def abstract_name(kind: str, key: str) -> str:
    """Return the abstract socket name for a *key*, which is hashed: such a name has room for 107 bytes."""
    return f"\0pyflanneld/{kind}/{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}"


@contextmanager
def hold(network: str, subnet_file: Path, *, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the network and the subnet file for as long as the block runs.

    Args:
        network: as made by ``network_key``.
        subnet_file: need not exist; compared by its directory's real path and its name.
        patience_s: how long to wait, blocking, for a process that holds one of them.

    Raises:
        AlreadyRunning: another process of this network namespace holds one of them; the message says which, and who.
    """
    (first, what), (second, other) = lock_names(network, subnet_file).items()
    with _listen(first, what, patience_s), _listen(second, other, patience_s):
        yield


def lock_names(network: str, subnet_file: Path) -> dict[str, str]:
    """Return the names, without the zero byte that makes them abstract, and what each stands for."""
    file = file_key(subnet_file)
    return {
        abstract_name("network", network)[1:]: "this etcd prefix and endpoints",
        abstract_name("file", file)[1:]: f"the subnet file {file}",
    }


@contextmanager
def _listen(plain: str, what: str, patience_s: float) -> Iterator[None]:
    name = f"\0{plain}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _bind(sock, name, patience_s)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise AlreadyRunning(f"another pyflanneld{_holder(name)} already serves {what}") from error
        sock.listen(_BACKLOG)
        yield


def _bind(sock: socket.socket, name: str, patience_s: float) -> None:
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            return sock.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= give_up_at:
                raise
        time.sleep(_LOOK_AGAIN_S)


def _holder(name: str) -> str:
    """Return ``" (pid 123, uid 0)"`` of the process that listens on *name*; empty when the kernel does not tell."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.connect(name)
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return ""
    pid, uid, _ = struct.unpack("3i", credentials)
    return f" (pid {pid}, uid {uid})" if pid else ""
