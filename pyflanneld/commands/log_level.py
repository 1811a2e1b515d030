"""``pyflanneld log-level``: shows or changes how much the running daemon logs."""

import sys
from collections.abc import Sequence

from pyflanneld.commands import daemon_query
from pyflanneld.errors import UsageError

TITLE = """\
pyflanneld log-level: how much the running daemon logs; with a word, changes it until its next start.

Usage: pyflanneld log-level [debug|info|warning] [--subnet-file=PATH]

Changing it is for root and the user that the daemon runs as.

Exit codes: 0 done, 1 refused, 2 wrong usage or several daemons, 3 no daemon.
"""
LEVELS = ("debug", "info", "warning")
FLAGS = (daemon_query.SUBNET_FILE,)


def main(words: Sequence[str]) -> int:
    """Show or change the level; return the exit code."""
    return daemon_query.run_query("log-level", words, TITLE, FLAGS, _act, most_words=1)


def _act(order: daemon_query.Order) -> int:
    daemon = order.daemon
    if not set(order.words) <= set(LEVELS):
        raise UsageError(f"log-level {order.words[0]!a} is not usable: {', '.join(LEVELS)} is needed")
    answer = daemon.post("/log-level", {"level": order.words[0]}) if order.words else daemon.get("/log-level")
    sys.stdout.write(f"{answer['level']}\n")
    return 0
