"""Under supervisor, behind a start script without ``exec``: end when the script ends. Shell side.

supervisord starts the script, and it is the script that it signals. A shell that waits for the daemon passes no signal
on: it dies of it, or ignores it (bash does so with QUIT) and is killed when ``stopwaitsecs`` are over. The daemon would
live on as an orphan that nobody watches, reported as stopped. So the kernel is asked to say when our parent ends
(PR_SET_PDEATHSIG, Linux; see prctl(2)). By then supervisord has closed its end of our log: what we say is lost.

supervisord makes each process that it starts the leader of a group, so it shows who was started. We lead: the script
used ``exec``, or there is none, and the signals come to us. We do not lead: a script started us, and as long as it
lives, our parent is in the same group; afterwards it is init or whoever takes in orphans. A shell that somebody types
into makes us the leader of a group of our own: it may come and go.

The news is a signal of its own. When supervisord signals the whole group (``stopasgroup``), the end of the script
follows the request to stop, and must not pass for a second request, which ends the process at once.
"""

import os
import signal
from collections.abc import Mapping

# Before the daemon handles it, it ends the process, as a stop signal does then: nothing has been done yet.
ENDED = signal.SIGRTMIN
_PR_SET_PDEATHSIG = 1


def is_start_script(environ: Mapping[str, str]) -> bool:
    """Say whether supervisord started a script, still there or not, and the script started us."""
    return "SUPERVISOR_ENABLED" in environ and os.getpgrp() != os.getpid()


def signal_its_end() -> bool:
    """Have ``ENDED`` sent to this process when its parent ends; return whether the script is still there.

    The script means the thread of it that started us, the only one that a shell has.

    Raises:
        OSError: the kernel refused.
    """
    import ctypes  # late: only this one case needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(ENDED), *(ctypes.c_ulong(0) for _ in range(3))) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    # Looked at after the request: of an end before it, the kernel says nothing.
    return _parent_is_in_our_group()


def _parent_is_in_our_group() -> bool:
    try:
        return os.getpgid(os.getppid()) == os.getpgrp()
    except OSError:  # not ours to look at, so not of the script's making
        return False
