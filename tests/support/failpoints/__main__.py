"""``python -m tests.support.failpoints``: put the points in, and run the daemon."""

import os
import sys
from pathlib import Path

from pyflanneld.cli import main
from tests.support.failpoints import PASSED, PLAN, TTL
from tests.support.failpoints.hooks import install, lease_for
from tests.support.failpoints.plan import Plan, parse

if __name__ == "__main__":
    passed = os.environ.get(PASSED)
    install(Plan(parse(os.environ.get(PLAN, "")), Path(passed) if passed else None))
    if ttl_s := os.environ.get(TTL):
        lease_for(int(ttl_s))
    sys.exit(main())
