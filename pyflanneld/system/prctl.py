"""prctl(2), capget(2) and capset(2), for which Python has no functions. Audited: of the daemon, only this calls C.

Capabilities belong to a thread (capabilities(7)): these calls concern the one that makes them. Numbers are those of
linux/prctl.h and linux/capability.h. Every function raises ``OSError`` where the kernel refuses.
"""

import ctypes
import os

CAP_NET_ADMIN = 12

PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 4, 8, 38
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_CAP_AMBIENT, AMBIENT_IS_SET, AMBIENT_RAISE, AMBIENT_CLEAR_ALL = 47, 1, 2, 4
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, *arguments: int) -> int:
    """Call prctl(2) with up to four *arguments* and return its result."""
    words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
    return _checked(_libc.prctl(option, *words))


def parent_death_signal() -> int:
    """Return the number of the signal that this process gets when its parent ends; 0 for none."""
    number = ctypes.c_int(0)
    _checked(_libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(number), *(ctypes.c_ulong(0) for _ in range(3))))
    return number.value


def set_parent_death_signal(number: int) -> None:
    """Have the signal sent to this process when its parent (the thread that started it) ends."""
    prctl(_PR_SET_PDEATHSIG, number)


def capabilities() -> tuple[int, int, int]:
    """Return this thread's effective, permitted and inheritable capabilities, each as a mask of bits."""
    header, halves = _Header(_CAPABILITY_VERSION_3, 0), (_Sets * 2)()
    _checked(_libc.capget(ctypes.byref(header), halves))
    low, high = halves
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's capabilities, each as a mask of bits."""
    masks = (effective, permitted, inheritable)
    halves = (_Sets * 2)(_Sets(*(mask & 0xFFFFFFFF for mask in masks)), _Sets(*(mask >> 32 for mask in masks)))
    _checked(_libc.capset(ctypes.byref(_Header(_CAPABILITY_VERSION_3, 0)), halves))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
