"""Drops the rights that the daemon does not need: no core dump, and with ``--user`` CAP_NET_ADMIN alone.

Routes and firewall rules need CAP_NET_ADMIN; nothing needs more, not even the probes. What only root can do comes
first: create the directory of the subnet file, and bind a health port below 1024. Then, in this order:

* the bounding set loses all but CAP_NET_ADMIN, so that no program started from here can gain more;
* no supplementary groups, then the group, then the user, real, effective and saved, with the capabilities kept over it;
* effective, permitted, inheritable and ambient become CAP_NET_ADMIN. Ambient is for the firewall programs, the only
  ones that the daemon starts; ``firewall/command_runner.py`` is the place;
* no new privileges: a set-user-ID program is like any other from here on;
* no core dump, and no process may read our memory, which holds etcd's password: the change of user has undone that.

Capabilities belong to a thread (capabilities(7)), so all of it comes before the first thread.
"""

import grp
import os
import pwd
import resource
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

import pyflanneld
from pyflanneld.config.settings import Settings
from pyflanneld.errors import UsageError
from pyflanneld.system.atomic_files import make_directories
from pyflanneld.system.prctl import (
    AMBIENT_CLEAR_ALL,
    AMBIENT_IS_SET,
    AMBIENT_RAISE,
    CAP_NET_ADMIN,
    PR_CAP_AMBIENT,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    capabilities,
    parent_death_signal,
    prctl,
    set_capabilities,
    set_parent_death_signal,
)

_ONLY = 1 << CAP_NET_ADMIN
_PRIVILEGED_PORTS = 1024
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class Account:
    """The account that the daemon becomes; *name* is as the operator wrote it."""

    name: str
    uid: int
    gid: int


def restrict(settings: Settings, log: Any) -> None:
    """Drop the rights that are not needed, as ``--user`` says; only the health port may be in use by then.

    Raises:
        UsageError: a right is missing, or the user cannot read or write a file that the daemon needs.
    """
    need_net_admin()
    if settings.user is None:
        make_ambient()
        return
    who = account(settings.user)
    if settings.metrics_bind is not None and settings.metrics_bind[1] < _PRIVILEGED_PORTS:
        raise UsageError(f"--metrics-bind: port {settings.metrics_bind[1]} is root's: with --user, take one above 1023")
    if os.geteuid() == who.uid:
        make_ambient()
    else:
        if os.geteuid() == 0:
            for _, directory in _written(settings):
                make_directories(directory, (who.uid, who.gid))
        become(who)
    check_files(who.name, readable=_read(settings), writable=_written(settings))
    log.info("privileges.dropped", user=who.name, uid=who.uid, gid=who.gid, kept="CAP_NET_ADMIN")


def _read(settings: Settings) -> list[tuple[str, Path]]:
    """Return the files that the daemon reads, each with its flag; three modules stand for the program."""
    program = [("user", Path(module.__file__ or "")) for module in (os, pydantic, pyflanneld)]
    files = (
        ("etcd-cafile", settings.etcd_cafile), ("etcd-certfile", settings.etcd_certfile),
        ("etcd-keyfile", settings.etcd_keyfile),
    )  # fmt: skip
    return [*program, *((flag, path) for flag, path in files if path is not None)]


def _written(settings: Settings) -> list[tuple[str, Path]]:
    """Return the directories that the daemon writes to, each with the flag that names it or a file in it."""
    files = (("subnet-file", settings.subnet_file), ("metrics-textfile", settings.metrics_textfile))
    found = [(flag, path.parent) for flag, path in files if path is not None]
    return found if settings.state_dir is None else [*found, ("state-dir", settings.state_dir)]


def forbid_core_dumps() -> None:
    """Keep the memory out of core files and away from other processes of the same user; faulthandler's log stays."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(PR_SET_DUMPABLE, 0)


def account(text: str) -> Account:
    """Return the account of ``NAME|UID[:GROUP|GID]``.

    Raises:
        UsageError: there is none, or it is root's.
    """
    user, _, group = text.partition(":")
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        entry = None
    if entry is None and not (user.isdecimal() and group):
        more = ", and a number without a name needs its group too, as in 990:990" if user.isdecimal() else ""
        raise UsageError(f"--user: there is no user {user} on this host{more}")
    uid = entry.pw_uid if entry is not None else int(user)
    gid = _group(group) if group or entry is None else entry.pw_gid
    if uid == 0 or gid == 0:
        raise UsageError(f"--user: {text} is root or root's group, whose rights are to be given up: name another")
    return Account(user, uid, gid)


def _group(text: str) -> int:
    try:
        return int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise UsageError(f"--user: there is no group {text} on this host") from None


def need_net_admin() -> None:
    """Raise ``UsageError`` without CAP_NET_ADMIN: one error at the start instead of one for each route."""
    if capabilities()[0] & _ONLY:
        return
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    raise UsageError(
        f"{who} lacks CAP_NET_ADMIN, which routes need: start as root (with --user=NAME to give up the rest), "
        "by a systemd unit with AmbientCapabilities=CAP_NET_ADMIN, or in a container with --cap-add=NET_ADMIN"
    )


def make_ambient() -> None:
    """Let the firewall programs inherit CAP_NET_ADMIN where the daemon is not root and they would not.

    A system call filter may refuse that. The filter of our unit does, and the unit sets the ambient capability itself;
    anywhere else the programs will report the missing right.
    """
    if os.geteuid() == 0 or prctl(PR_CAP_AMBIENT, AMBIENT_IS_SET, CAP_NET_ADMIN):
        return
    effective, permitted, inheritable = capabilities()
    with suppress(OSError):
        set_capabilities(effective, permitted, inheritable | _ONLY)
        prctl(PR_CAP_AMBIENT, AMBIENT_RAISE, CAP_NET_ADMIN)


def become(who: Account) -> None:
    """Become *who* with CAP_NET_ADMIN alone.

    Raises:
        UsageError: this process is not root, or a root without the rights for it.
    """
    if os.geteuid() != 0:
        raise UsageError(f"--user: only root can become {who.name}; this is uid {os.geteuid()}: leave --user out")
    if len(list(_TASKS.iterdir())) != 1:
        raise RuntimeError("other threads run already and would keep root's capabilities")
    parent, death_signal = os.getppid(), parent_death_signal()
    try:
        _drop_rights(who)
    except OSError as error:
        raise UsageError(
            f"--user: cannot become {who.name} ({error.strerror}): root needs CAP_SETUID, CAP_SETGID and CAP_SETPCAP"
        ) from error
    forbid_core_dumps()
    _restore_death_signal(parent, death_signal)
    if capabilities() != (_ONLY, _ONLY, _ONLY) or os.getresuid() != (who.uid,) * 3 or os.getgroups():
        raise RuntimeError("not all rights are dropped")


def _drop_rights(who: Account) -> None:
    for number in range(64):
        if number != CAP_NET_ADMIN and _in_bounding_set(number):
            prctl(PR_CAPBSET_DROP, number)
    prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    set_capabilities(_ONLY, _ONLY, _ONLY)
    prctl(PR_SET_KEEPCAPS, 0)
    prctl(PR_CAP_AMBIENT, AMBIENT_CLEAR_ALL)
    prctl(PR_CAP_AMBIENT, AMBIENT_RAISE, CAP_NET_ADMIN)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _restore_death_signal(parent: int, number: int) -> None:
    """Request the signal at the parent's end again (``service_manager``): a change of user clears it."""
    if number == 0:
        return
    set_parent_death_signal(number)
    if os.getppid() != parent:  # it ended in between, without the signal
        os.kill(os.getpid(), number)


def check_files(who: str, readable: Iterable[tuple[str, Path]], writable: Iterable[tuple[str, Path]]) -> None:
    """Check that this process, running as *who*, can read these files and create files in these directories.

    Args:
        who: for the message.
        readable: a flag and its file.
        writable: a flag and the directory of its file.

    Raises:
        UsageError: with the flag, the path, and the command that fixes it.
    """
    for flag, path in readable:
        _check_reachable(who, flag, path)
        if not os.access(path, os.R_OK):
            raise UsageError(f"--{flag}: {path} cannot be read by {who}: chown {who} {path}")
    for flag, path in writable:
        _check_reachable(who, flag, path)
        if not os.access(path, os.W_OK | os.X_OK):
            raise UsageError(f"--{flag}: {who} cannot write to the directory {path}: chown {who} {path}")


def _check_reachable(who: str, flag: str, path: Path) -> None:
    """Raise ``UsageError`` for the first directory above *path* that this process may not enter."""
    for above in reversed(path.absolute().parents):
        if not os.access(above, os.X_OK):
            raise UsageError(f"--{flag}: {path} cannot be reached by {who}: chmod o+x {above}")


def _in_bounding_set(number: int) -> bool:
    try:
        return prctl(PR_CAPBSET_READ, number) == 1
    except OSError:
        return False  # more than this kernel has
