"""Tells the service manager how we are: systemd's sd_notify protocol, without its library. Shell side.

One datagram of ``KEY=value`` lines to the socket in ``$NOTIFY_SOCKET``: a path, or an abstract name after ``@``.
See sd_notify(3). Under supervisor, or by hand, there is no such variable and nothing is sent.
"""

import socket
from collections.abc import Mapping

_SEND_TIMEOUT_S = 0.2  # a manager that does not read must not hold up the daemon


class SdNotifier:
    """Implements ``ports.Notifier``."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        target = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + target[1:] if target.startswith("@") else target
        self.enabled = target.startswith(("/", "@")) and len(target) > 1

    def send(self, state: str) -> None:
        """Pass on *state* (``"READY=1"``, ``"STATUS=…"``); never raises, and loses it when nobody listens."""
        if not self.enabled:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_SEND_TIMEOUT_S)
                sock.sendto(state.encode(errors="replace"), self._address)
        except (OSError, ValueError):
            return


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how often to send ``WATCHDOG=1``, in seconds: half of what the manager tolerates.

    Args:
        environ: ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked at.
        pid: our own process id; a watchdog meant for another process is not ours.

    Returns:
        ``None`` when no watchdog is asked for.
    """
    for_pid, usec = environ.get("WATCHDOG_PID", ""), environ.get("WATCHDOG_USEC", "")
    if for_pid and for_pid != str(pid):
        return None
    if not (usec.isascii() and usec.isdecimal()) or not 0 < len(usec) <= 18 or int(usec) == 0:
        return None
    return int(usec) / 2_000_000
