"""``pyflanneld wait``: until the daemon is ready, for what has to start behind it."""

import sys
import time
from collections.abc import Sequence

from pyflanneld.commands import daemon_client, daemon_query
from pyflanneld.commands.common_flags import OWN
from pyflanneld.config.go_flags import Flag, FlagKind
from pyflanneld.errors import NoDaemon, UsageError

TITLE = """\
pyflanneld wait: waits until the daemon of this host is ready; also for a daemon that has yet to start.

Usage: pyflanneld wait [--timeout=SECONDS] [--subnet-file=PATH]

Exit codes: 0 ready, 1 not ready in time (says why), 2 wrong usage or several daemons, 3 no daemon in time.
"""
_TIMEOUT = Flag("timeout", FlagKind.INT, 60, "How long to wait, in seconds.", "SECONDS", OWN, from_env=False)
FLAGS = (_TIMEOUT, daemon_query.SUBNET_FILE)
POLL_S = 0.2


def main(words: Sequence[str]) -> int:
    """Wait; return the exit code."""
    read = daemon_query.read_or_help("wait", words, TITLE, FLAGS)
    if read is None:
        return 0
    given = read[1]
    timeout = given["timeout"]
    if not isinstance(timeout.value, int) or timeout.value < 0:
        raise UsageError(f"{timeout.written}: {timeout.value} is not a number of seconds")
    give_up_at = time.monotonic() + timeout.value
    while True:
        try:
            health = daemon_client.chosen(given[daemon_query.SUBNET_FILE.name]).get("/health")
        except (NoDaemon, daemon_client.RequestRefused) as error:
            code, why = error.exit_code, str(error)
        else:
            if health["ready"]:
                return 0
            code, why = 1, f"not ready: {'; '.join(health['not_ready'])}"
        if time.monotonic() >= give_up_at:
            sys.stderr.write(f"pyflanneld wait: after {timeout.value} s: {why}\n")
            return code
        time.sleep(min(POLL_S, max(0.0, give_up_at - time.monotonic())))
