"""The service manager that started the daemon: systemd's notifications, and the start script under supervisor.

systemd (sd_notify(3), without its library): a datagram ``KEY=value`` to the socket in ``$NOTIFY_SOCKET``, a path, or an
abstract name after ``@``. Under supervisor, or by hand, there is no such variable and nothing is sent.

supervisor, with a start script without ``exec``: supervisord starts and signals the script. A shell that waits for the
daemon passes no signal on: it dies of it, or ignores it (bash ignores QUIT) and is killed after ``stopwaitsecs``. The
daemon would live on as an orphan, reported as stopped. So the kernel signals the end of our parent
(PR_SET_PDEATHSIG; prctl(2)). By then supervisord has closed its end of our log: what we log is lost.

supervisord makes each process that it starts the leader of a process group. So if we lead our group, there is no script
or it used ``exec``, and the signals come to us. If we do not, a script started us: our parent is in the same group as
long as the script lives, and afterwards is init or a subreaper. An interactive shell makes us the leader of a group,
so its end does not concern us.

``SCRIPT_ENDED`` is a signal of its own: when supervisord signals the whole group (``stopasgroup``), the end of the
script follows the request to stop. It must not count as a second request, which ends the process at once.
"""

import os
import signal
import socket
from collections.abc import Mapping

from pyflanneld.core.printable import printable
from pyflanneld.system.prctl import set_parent_death_signal

# Before the daemon handles it, it ends the process, as a stop signal does then: nothing has been done yet.
SCRIPT_ENDED = signal.SIGRTMIN
_SEND_TIMEOUT_S = 0.2  # a manager that does not read must not hold up the daemon


class SdNotifier:
    """Implements ``ports.Notifier``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        target = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + target[1:] if target.startswith("@") else target
        self.enabled = target.startswith(("/", "@")) and len(target) > 1

    def send(self, state: str) -> None:
        """Send one *state* (``"READY=1"``, ``"STATUS=…"``); it is lost when nobody listens. Never raises.

        It stays one line: what a status quotes from etcd must not be taken for ``READY=1`` or ``MAINPID=…``.
        """
        if not self.enabled:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_SEND_TIMEOUT_S)
                sock.sendto(printable(state).encode(), self._address)
        except (OSError, ValueError):
            return


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how often to send ``WATCHDOG=1``, in seconds: half of what the manager tolerates.

    Args:
        environ: where ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are read.
        pid: our own process id; a watchdog for another process is not ours.

    Returns:
        ``None`` when no watchdog is requested.
    """
    for_pid, usec = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if for_pid and for_pid != str(pid):
        return None
    if not (usec.isascii() and usec.isdecimal()) or not 0 < len(usec) <= 18 or int(usec) == 0:
        return None
    return int(usec) / 2_000_000


def has_start_script(environ: Mapping[str, str]) -> bool:
    """Return whether supervisord started a script, which may have ended, and the script started us."""
    return "SUPERVISOR_ENABLED" in environ and os.getpgrp() != os.getpid()


def follow_start_script() -> bool:
    """Have ``SCRIPT_ENDED`` sent to this process when its parent ends; return whether the script still runs.

    Raises:
        OSError: the kernel refused.
    """
    set_parent_death_signal(SCRIPT_ENDED)
    try:  # checked after the request, because the kernel does not signal an end before it
        return os.getpgid(os.getppid()) == os.getpgrp()
    except OSError:  # the parent is not visible to us, so it is not the script
        return False
