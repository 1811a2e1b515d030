"""The lock: one daemon for one network and one subnet file, per network namespace.

It is a listening AF_UNIX socket with an abstract name. Such a name belongs to the network namespace, as routes do; it
leaves no file, and the kernel frees it when the process ends, however it ends. The listener never accepts. It lets a
second daemon ask the kernel for the holder of the name (SO_PEERCRED).
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

_RETRY_S = 0.05
_BACKLOG = 128  # each second daemon that asks takes one place; with none left, the holder's pid stays unknown


def network_key(etcd_prefix: str, etcd_endpoints: Iterable[str]) -> str:
    """Return the key of a network; the order of the endpoints does not matter."""
    return "\n".join([etcd_prefix, *sorted(set(etcd_endpoints))])


def file_key(subnet_file: Path) -> str:
    """Return the key of a subnet file: the real path of its directory, and its name.

    The name is not resolved, because a write replaces a symbolic link and does not follow it.
    """
    return os.path.realpath(subnet_file.parent) + "/" + subnet_file.name


def abstract_name(kind: str, key: str) -> str:
    """Return the abstract socket name for *key*, which is hashed because such a name has at most 107 bytes."""
    return f"\0pyflanneld/{kind}/{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}"


@contextmanager
def hold(network: str, subnet_file: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the locks of the network and the subnet file while the block runs.

    Args:
        network: as made by ``network_key``.
        subnet_file: need not exist; compared by its directory's real path and its name.
        wait_s: how long to wait, blocking, for another holder to end.

    Raises:
        AlreadyRunning: another process of this network namespace holds one of them; the message names both.
    """
    (first, what), (second, other) = lock_names(network, subnet_file).items()
    with _listen(first, what, wait_s), _listen(second, other, wait_s):
        yield


def lock_names(network: str, subnet_file: Path) -> dict[str, str]:
    """Return the two names, without the zero byte of abstract ones, and the description of each."""
    file = file_key(subnet_file)
    return {
        abstract_name("network", network)[1:]: "this etcd prefix and endpoints",
        abstract_name("file", file)[1:]: f"the subnet file {file}",
    }


@contextmanager
def _listen(plain: str, what: str, wait_s: float) -> Iterator[None]:
    name = f"\0{plain}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            _bind(sock, name, wait_s)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise AlreadyRunning(f"another pyflanneld{_holder(name)} already serves {what}") from error
        sock.listen(_BACKLOG)
        yield


def _bind(sock: socket.socket, name: str, wait_s: float) -> None:
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            return sock.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= give_up_at:
                raise
        time.sleep(_RETRY_S)


def _holder(name: str) -> str:
    """Return ``" (pid 123, uid 0)"`` of the process that listens on *name*; empty when it is unknown."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.connect(name)
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return ""
    pid, uid, _ = struct.unpack("3i", credentials)
    return f" (pid {pid}, uid {uid})" if pid else ""
