"""How long to wait before the next try. Sleeping is the caller's."""

from collections.abc import Iterator
from random import Random


def backoff(first_s: float, cap_s: float, rng: Random) -> Iterator[float]:
    """Yield waits in seconds, for ever: jittered over a ceiling that starts at *first_s* and doubles up to *cap_s*."""
    ceiling = min(first_s, cap_s)
    while True:
        yield rng.uniform(ceiling / 2, ceiling)
        ceiling = min(ceiling * 2, cap_s)


def around(period_s: float, share: float, rng: Random) -> float:
    """Return *period_s* give or take *share* of it (0.2 for ±20 %), so that many nodes do not march in step."""
    return period_s * rng.uniform(1 - share, 1 + share)


def race_pause_s(lost: int, rng: Random) -> float:
    """Return how long to wait after the *lost*-th race in a row (from 0), in seconds: soon, and spread ever wider."""
    return rng.uniform(0, min(2.0, 0.02 * 2 ** min(lost, 7)))
