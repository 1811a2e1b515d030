"""Proof that the checks bite: the daemon is spoiled on purpose, one fault at a time, and some check has to see it.

    make bite                    # all planted faults, and docs/dev/planted-faults.md
    make bite ARGS="B08 guard"   # those whose names contain one of these
"""
