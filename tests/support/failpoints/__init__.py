"""The daemon with named points at which something may be made to happen, from outside: the shipped package has none.

    PYFLANNELD_FAILPOINTS='txn.reply=drop;env.before_rename=errno:ENOSPC*3' python -m tests.support.failpoints FLAGS...

``plan`` says what can happen, ``hooks`` where the points are.
"""

PLAN = "PYFLANNELD_FAILPOINTS"
TTL = "PYFLANNELD_FAILPOINTS_TTL_S"  # of its leases, in the place of a day
PASSED = "PYFLANNELD_FAILPOINTS_PASSED"  # a file: each point, and the monotonic time when it is passed first
