"""Only the rights that the daemon needs: no core dump, and with ``--user`` CAP_NET_ADMIN alone. Shell side, audited.

Routes and firewall rules need CAP_NET_ADMIN; nothing needs more, not the probes either. What root can do beyond that is
done first: create the directory of the subnet file, and bind a health port below 1024. Then, in this order:

* the bounding set loses all but CAP_NET_ADMIN, so that no program started from here can gain more;
* no supplementary groups, then the group, then the user, real, effective and saved, with the capabilities kept over it;
* effective, permitted, inheritable and ambient become CAP_NET_ADMIN. Ambient is for the firewall programs, the only
  ones that the daemon starts; ``firewall/command_runner.py`` is the place;
* no new privileges: a set-user-ID program is like any other from here on;
* no core dump and no look at the memory, which holds etcd's password; a change of the user has undone that.

Capabilities belong to a thread (capabilities(7)), so all of it comes before the first thread. Numbers are those of
linux/prctl.h and linux/capability.h.
"""

import ctypes
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

CAP_NET_ADMIN = 12
_ONLY = 1 << CAP_NET_ADMIN
_PRIVILEGED_PORTS = 1024

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 1, 2, 4, 8
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 23, 24, 38, 47
_AMBIENT_IS_SET, _AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 1, 2, 4
_CAPABILITY_VERSION_3 = 0x20080522
_TASKS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the daemon becomes; *name* is as the operator wrote it."""

    name: str
    uid: int
    gid: int


def restrict(settings: Settings, log: Any) -> None:
    """Give up what is not needed, as ``--user`` says; nothing has been touched yet but the health port.

    Raises:
        UsageError: a right is missing, or the user cannot do with the files what the daemon has to.
    """
    need_net_admin()
    if settings.user is None:
        hand_on()
        return
    who = account(settings.user)
    if settings.metrics_bind is not None and settings.metrics_bind[1] < _PRIVILEGED_PORTS:
        raise UsageError(f"--metrics-bind: port {settings.metrics_bind[1]} is root's: with --user, take one above 1023")
    if os.geteuid() == who.uid:
        hand_on()
    else:
        if os.geteuid() == 0:
            for _, directory in _written(settings):
                make_directories(directory, (who.uid, who.gid))
        become(who)
    _need_files(settings, who.name)
    log.info("privileges.dropped", user=who.name, uid=who.uid, gid=who.gid, kept="CAP_NET_ADMIN")


def _need_files(settings: Settings, who: str) -> None:
    program = [("user", Path(module.__file__ or "")) for module in (os, pydantic, pyflanneld)]
    files = (
        ("etcd-cafile", settings.etcd_cafile), ("etcd-certfile", settings.etcd_certfile),
        ("etcd-keyfile", settings.etcd_keyfile),
    )  # fmt: skip
    readable = [*program, *((flag, path) for flag, path in files if path is not None)]
    need_files(who, readable=readable, writable=_written(settings))


def _written(settings: Settings) -> list[tuple[str, Path]]:
    """Return the flags that name files which are written, and the directories of these."""
    files = (("subnet-file", settings.subnet_file), ("metrics-textfile", settings.metrics_textfile))
    found = [(flag, path.parent) for flag, path in files if path is not None]
    return found if settings.state_dir is None else [*found, ("state-dir", settings.state_dir)]


def forbid_core_dumps() -> None:
    """Let no core file, and no other process of the same user, show what is in memory; the log is not concerned."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)


def account(text: str) -> Account:
    """Return the account that ``NAME|UID[:GROUP|GID]`` means.

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
    """Raise ``UsageError`` where routes could not be set: better said at once than by each of them."""
    if _effective() & _ONLY:
        return
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    raise UsageError(
        f"{who} lacks CAP_NET_ADMIN, which routes need: start as root (with --user=NAME to give up the rest), "
        "by a systemd unit with AmbientCapabilities=CAP_NET_ADMIN, or in a container with --cap-add=NET_ADMIN"
    )


def hand_on() -> None:
    """Let the firewall programs have CAP_NET_ADMIN where the daemon is not root and nobody has seen to that.

    A system call filter may refuse it, as that of the unit, which has seen to it; elsewhere the programs will complain.
    """
    if os.geteuid() == 0 or _prctl(_PR_CAP_AMBIENT, _AMBIENT_IS_SET, CAP_NET_ADMIN):
        return
    effective, permitted, inheritable = _capabilities()
    with suppress(OSError):
        _set_capabilities(effective, permitted, inheritable | _ONLY)
        _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, CAP_NET_ADMIN)


def become(who: Account) -> None:
    """Become *who* with CAP_NET_ADMIN alone.

    Raises:
        UsageError: that takes root, or more rights than this root has.
    """
    if os.geteuid() != 0:
        raise UsageError(f"--user: only root can become {who.name}; this is uid {os.geteuid()}: leave --user out")
    if len(list(_TASKS.iterdir())) != 1:
        raise RuntimeError("there are threads already, which would keep root's capabilities")
    parent, at_its_end = os.getppid(), _signal_at_parents_end()
    try:
        _give_up(who)
    except OSError as error:
        raise UsageError(
            f"--user: cannot become {who.name} ({error.strerror}): root needs CAP_SETUID, CAP_SETGID and CAP_SETPCAP"
        ) from error
    forbid_core_dumps()
    _follow_again(parent, at_its_end)
    if _capabilities() != (_ONLY, _ONLY, _ONLY) or os.getresuid() != (who.uid,) * 3 or os.getgroups():
        raise RuntimeError("not all rights are given up")


def _give_up(who: Account) -> None:
    for number in range(64):
        if number != CAP_NET_ADMIN and _has_in_bounds(number):
            _prctl(_PR_CAPBSET_DROP, number)
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    _set_capabilities(_ONLY, _ONLY, _ONLY)
    _prctl(_PR_SET_KEEPCAPS, 0)
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, CAP_NET_ADMIN)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _follow_again(parent: int, number: int) -> None:
    """Ask again for the signal at the parent's end (``start_script``): a change of user makes the kernel forget it."""
    if number == 0:
        return
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it has ended in between, without a word
        os.kill(os.getpid(), number)


def need_files(who: str, readable: Iterable[tuple[str, Path]], writable: Iterable[tuple[str, Path]]) -> None:
    """Look whether this process, being *who*, can read these files and put new ones into these directories.

    Args:
        who: for the message.
        readable: a flag and its file.
        writable: a flag and the directory of its file.

    Raises:
        UsageError: it names the flag, the path, and the command that mends it.
    """
    for flag, path in readable:
        _need_way(who, flag, path)
        if not os.access(path, os.R_OK):
            raise UsageError(f"--{flag}: {path} cannot be read by {who}: chown {who} {path}")
    for flag, path in writable:
        _need_way(who, flag, path)
        if not os.access(path, os.W_OK | os.X_OK):
            raise UsageError(f"--{flag}: {who} cannot write to the directory {path}: chown {who} {path}")


def _need_way(who: str, flag: str, path: Path) -> None:
    """Raise ``UsageError`` for the first directory above *path* that may not be passed."""
    for above in reversed(path.absolute().parents):
        if not os.access(above, os.X_OK):
            raise UsageError(f"--{flag}: {who} does not get to {path}: chmod o+x {above}")


# The kernel


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Word(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *arguments: int) -> int:
    words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(option, *words))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _has_in_bounds(number: int) -> bool:
    try:
        return _prctl(_PR_CAPBSET_READ, number) == 1
    except OSError:
        return False  # more than this kernel has


def _signal_at_parents_end() -> int:
    number = ctypes.c_int(0)
    _checked(_libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), *(ctypes.c_ulong(0) for _ in range(3))))
    return number.value


def _effective() -> int:
    return _capabilities()[0]


def _capabilities() -> tuple[int, int, int]:
    """Return this thread's effective, permitted and inheritable set."""
    header, words = _Header(_CAPABILITY_VERSION_3, 0), (_Word * 2)()
    _checked(_libc.capget(ctypes.byref(header), words))
    low, high = words
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def _set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    sets = (effective, permitted, inheritable)
    words = (_Word * 2)(_Word(*(each & 0xFFFFFFFF for each in sets)), _Word(*(each >> 32 for each in sets)))
    _checked(_libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), words))
