"""The lock: one daemon for one network, one subnet file and one state directory, per network namespace.

It is a listening AF_UNIX socket with an abstract name. Such a name belongs to the network namespace, as routes do; it
leaves no file, and the kernel frees it when the process ends, however it ends. A second daemon asks the kernel who the
holder is, by connecting (``unix_peers``).

Any user can bind such a name. So only a holder that may be a daemon keeps others out, and where anybody else has the
name, the lock is that name with a random end. Each daemon binds and listens first, and looks for others, under every
such name, afterwards: of two that start at once, at least one sees the other.
"""

import asyncio
import errno
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyflanneld.errors import AlreadyRunning
from pyflanneld.system import procfs
from pyflanneld.system.unix_peers import Peer, listener

_RETRY_S = 0.05
_CLOSED_S = 2.0
_ASK_S = 1.0
_BACKLOG = 128  # of those that ask; ``answer`` empties it


@dataclass(frozen=True, slots=True)
class Held:
    """The locks that are held.

    Attributes:
        sockets: to be given to ``answer`` as soon as there is a loop.
        strangers: other users' processes that have bound our names; they keep nobody out.
    """

    sockets: tuple[socket.socket, ...]
    strangers: tuple[Peer, ...]


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


def own_name(name: str) -> str:
    """Return a name for the same that nobody can have bound before."""
    return f"{name}/{secrets.token_hex(8)}"


def names_like(name: str) -> list[str]:
    """Return the abstract names (all without their NUL) that are bound now and stand for *name*, itself first."""
    return sorted(found for found in procfs.abstract_names() if found == name or found.startswith(f"{name}/"))


@contextmanager
def hold(
    network: str, subnet_file: Path, state_dir: Path | None = None, *, wait_s: float = 0.0
) -> Iterator[Held]:
    """Hold the locks of the network, the subnet file and the state directory while the block runs.

    Args:
        network: as made by ``network_key``.
        subnet_file: need not exist; compared by its directory's real path and its name.
        state_dir: ``None``: no state is kept.
        wait_s: how long to wait, blocking, for another holder to end.

    Raises:
        AlreadyRunning: another process of this network namespace holds one of them; the message names both.
    """
    with ExitStack() as stack:
        names = lock_names(network, subnet_file, state_dir)
        held = [stack.enter_context(_listen(name, what, wait_s)) for name, what in names.items()]
        strangers = dict.fromkeys(stranger for one in held for stranger in one.strangers)
        yield Held(tuple(sock for one in held for sock in one.sockets), tuple(strangers))


def lock_names(network: str, subnet_file: Path, state_dir: Path | None = None) -> dict[str, str]:
    """Return the names, without the zero byte of abstract ones, and the description of each."""
    file = file_key(subnet_file)
    names = {
        abstract_name("network", network)[1:]: "this etcd prefix and endpoints",
        abstract_name("file", file)[1:]: f"the subnet file {file}",
    }
    if state_dir is not None:
        state = os.path.realpath(state_dir)
        names[abstract_name("state", state)[1:]] = f"the state directory {state}"
    return names


def holders(name: str, *, but: str = "") -> list[Peer]:
    """Return who listens on *name*, or on a name like it, other than on *but*; changes nothing."""
    give_up_at = time.monotonic() + _ASK_S
    found = (listener(one, give_up_at) for one in names_like(name) if one != but)
    return [peer for peer in found if peer is not None]


def trusted_holder(name: str, *, but: str = "") -> Peer | None:
    """Return which of the ``holders`` may be a daemon."""
    return next((one for one in holders(name, but=but) if one.trusted), None)


def answer(sock: socket.socket) -> None:
    """Take, in the running loop, whoever asks who holds the lock from the queue, so that the next finds room in it."""
    loop = asyncio.get_running_loop()

    def take() -> None:
        try:
            sock.accept()[0].close()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor left: the queue can wait
            loop.remove_reader(sock)
            loop.call_later(_ASK_S, answer, sock)

    with suppress(ValueError):  # it was closed meanwhile
        loop.add_reader(sock, take)


@contextmanager
def _listen(name: str, what: str, wait_s: float) -> Iterator[Held]:
    give_up_at = time.monotonic() + wait_s
    while True:
        with _bound(name) as (sock, bound):
            others = holders(name, but=bound)
            holder = next((one for one in others if one.trusted), None)
            if holder is None:
                yield Held((sock,), tuple(others))
                return
        ended = bool(holder.pid) and procfs.has_ended(holder.pid)
        if time.monotonic() >= give_up_at + ended * _CLOSED_S:  # the kernel may close what a process had after its end
            raise AlreadyRunning(f"another pyflanneld ({holder}) already serves {what}")
        time.sleep(_RETRY_S)


@contextmanager
def _bound(name: str) -> Iterator[tuple[socket.socket, str]]:
    """Listen on *name*, or on one of our own if somebody has that; provide the socket and its name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.bind(f"\0{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            name = own_name(name)
            sock.bind(f"\0{name}")
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        yield sock, name
