"""The daemon on a machine that seems to have slept: ``$NAP`` names a file with the seconds that it was asleep for.

    python -m tests.faults.napping FLAGS...

What a sleep shows itself by is that the clock that goes on (``CLOCK_BOOTTIME``) is ahead of the one that stops. Nothing
else is changed. A machine that really slept could not run a test.
"""

import os
import sys
from pathlib import Path

from pyflanneld import cli
from pyflanneld.system import clock
from tests.support.failpoints import TTL
from tests.support.failpoints.hooks import lease_for

NAP = Path(os.environ["NAP"])


def nap_s() -> float:
    return float(NAP.read_text()) if NAP.exists() else 0.0


class NappingClock(clock.SystemClock):
    """The daemon's clock, ahead by the nap."""

    def now_s(self) -> float:
        return super().now_s() + nap_s()

    def suspended_s(self) -> float:
        return super().suspended_s() + nap_s()


def main() -> int:
    """Put the clock in, and run the daemon."""
    clock.SystemClock = NappingClock  # type: ignore[misc]
    if ttl_s := os.environ.get(TTL):
        lease_for(int(ttl_s))
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
