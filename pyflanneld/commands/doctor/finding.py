"""What a check has found."""

import enum
from dataclasses import dataclass


class Verdict(enum.Enum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question.

    Attributes:
        check: what was looked at, ``"forwarding"``.
        seen: what was found there; of a skipped check, why it was.
        why: why it matters; empty when all is well.
        mend: the command, or the deed, that mends it.
    """

    check: str
    verdict: Verdict
    seen: str
    why: str = ""
    mend: str = ""


def ok(check: str, seen: str) -> Finding:
    """Say that all is well."""
    return Finding(check, Verdict.OK, seen)


def skipped(check: str, why: str) -> Finding:
    """Say that nobody looked, and why."""
    return Finding(check, Verdict.SKIPPED, why)


def warn(check: str, seen: str, why: str, mend: str = "") -> Finding:
    """Say that it works, and should be mended."""
    return Finding(check, Verdict.WARN, seen, why, mend)


def bad(check: str, seen: str, why: str, mend: str = "") -> Finding:
    """Say that it does not work."""
    return Finding(check, Verdict.BAD, seen, why, mend)
