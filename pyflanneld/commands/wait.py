"""``pyflanneld wait``: block until the daemon is ready, for services that start after it."""

import sys
import time
from collections.abc import Sequence

from pyflanneld.commands.common_flags import OWN
from pyflanneld.commands.daemon_client import SUBNET_FILE, find_daemon, read_or_help
from pyflanneld.config.go_flags import Flag, FlagKind
from pyflanneld.errors import NoDaemon, RequestRefused, UsageError

TITLE = """\
pyflanneld wait: waits until the daemon of this host is ready, also if it has not started yet.

Usage: pyflanneld wait [--timeout=SECONDS] [--subnet-file=PATH]

Exit codes: 0 ready, 1 not ready in time (says why), 2 wrong usage or several daemons, 3 no daemon in time.
"""
_TIMEOUT = Flag("timeout", FlagKind.INT, 60, "How long to wait, in seconds.", "SECONDS", OWN, from_env=False)
FLAGS = (_TIMEOUT, SUBNET_FILE)
POLL_S = 0.2


def main(words: Sequence[str]) -> int:
    """Wait; return the exit code."""
    read = read_or_help("wait", words, TITLE, FLAGS)
    if read is None:
        return 0
    given = read[1]
    timeout = given["timeout"]
    if not isinstance(timeout.value, int) or timeout.value < 0:
        raise UsageError(f"{timeout.written}: {timeout.value} is not a number of seconds")
    give_up_at = time.monotonic() + timeout.value
    while True:
        try:
            health = find_daemon(given[SUBNET_FILE.name]).get("/health")
        except (NoDaemon, RequestRefused) as error:
            code, why = error.exit_code, str(error)
        else:
            if health["ready"]:
                return 0
            code, why = 1, f"not ready: {'; '.join(health['not_ready'])}"
        if time.monotonic() >= give_up_at:
            sys.stderr.write(f"pyflanneld wait: after {timeout.value} s: {why}\n")
            return code
        time.sleep(min(POLL_S, max(0.0, give_up_at - time.monotonic())))
