"""``pyflanneld log-level``: show or change how much the running daemon logs."""

import sys
from collections.abc import Sequence

from pyflanneld.commands.daemon_client import SUBNET_FILE, Query, run_query
from pyflanneld.errors import UsageError

TITLE = """\
pyflanneld log-level: how much the running daemon logs; with a level, changes it until its next start.

Usage: pyflanneld log-level [debug|info|warning] [--subnet-file=PATH]

Only root and the user that the daemon runs as may change it.

Exit codes: 0 done, 1 refused, 2 wrong usage or several daemons, 3 no daemon.
"""
LEVELS = ("debug", "info", "warning")
FLAGS = (SUBNET_FILE,)


def main(words: Sequence[str]) -> int:
    """Show or change the level; return the exit code."""
    return run_query("log-level", words, TITLE, FLAGS, _act, most_words=1)


def _act(query: Query) -> int:
    daemon = query.daemon
    if not set(query.words) <= set(LEVELS):
        raise UsageError(f"log-level {query.words[0]!a} is not usable: {', '.join(LEVELS)} is needed")
    answer = daemon.post("/log-level", {"level": query.words[0]}) if query.words else daemon.get("/log-level")
    sys.stdout.write(f"{answer['level']}\n")
    return 0
