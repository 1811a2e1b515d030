"""Who is at the other end of a UNIX socket, and whether that may be a daemon of ours.

Every user of a network namespace can bind an abstract name there. So a name proves nothing. What counts is who listens,
by the kernel's word (``SO_PEERCRED``, unix(7)): root, this user, or a process with CAP_NET_ADMIN in this user
namespace, without which no daemon runs and which nobody has but by root's doing.
"""

import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from pyflanneld.system import procfs
from pyflanneld.system.prctl import CAP_NET_ADMIN

_RETRY_S = 0.01
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end: who called connect(2) or listen(2); *pid* is 0 for one that is not visible here."""

    pid: int
    uid: int

    def __str__(self) -> str:
        return f"pid {self.pid}, uid {self.uid}"

    @property
    def trusted(self) -> bool:
        """Whether it is root, this user, or may change routes as a daemon may."""
        return self.uid in (0, os.geteuid()) or _may_change_routes(self)


def peer_of(sock: socket.socket) -> Peer:
    """Return who is at the other end of a connected socket. Raises ``OSError``."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid, uid)


def listener(name: str, give_up_at: float = 0.0) -> Peer | None:
    """Return who listens on the abstract *name* (without its NUL); ``None`` for nobody.

    Also ``None`` for somebody with whom too many wait already, until *give_up_at* of the monotonic clock.
    """
    while True:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.setblocking(False)
                sock.connect(f"\0{name}")
                return peer_of(sock)
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                return None
        except OSError:
            return None
        time.sleep(_RETRY_S)


def _may_change_routes(peer: Peer) -> bool:
    """Return whether its process has CAP_NET_ADMIN, is nobody else's, and is of this user namespace.

    A program that has its rights from its file (set-user-ID) is not all of one user. In a namespace of its own, a
    process has every right, and another map of users.
    """
    folder = procfs.PROC / str(peer.pid)
    try:
        lines = (folder / "status").read_text(errors="replace").splitlines()
        same_users = (folder / "uid_map").read_text() == Path("/proc/self/uid_map").read_text()
    except OSError:
        return False
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    users, effective = {int(uid) for uid in fields["Uid"].split()}, int(fields["CapEff"], 16)
    return same_users and users == {peer.uid} and bool(effective >> CAP_NET_ADMIN & 1)
