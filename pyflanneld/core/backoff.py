"""How long to wait before the next try. Sleeping is the caller's."""

from collections.abc import Iterator
from random import Random

LISTED_KEYS_PER_S = 100_000
"""What all nodes of a cluster together may read by listing it: about one core of etcd, over all its members."""


def backoff(first_s: float, cap_s: float, rng: Random) -> Iterator[float]:
    """Yield waits in seconds, for ever: jittered over a ceiling that starts at *first_s* and doubles up to *cap_s*."""
    ceiling = min(first_s, cap_s)
    while True:
        yield rng.uniform(ceiling / 2, ceiling)
        ceiling = min(ceiling * 2, cap_s)


def jittered(period_s: float, share: float, rng: Random) -> float:
    """Return *period_s* give or take *share* of it (0.2 for ±20 %), so that many nodes do not act at once."""
    return period_s * rng.uniform(1 - share, 1 + share)


def race_pause_s(lost: int, rng: Random) -> float:
    """Return how long to wait after the *lost*-th race in a row (from 0), in seconds: soon, and spread ever wider."""
    return rng.uniform(0, min(2.0, 0.02 * 2 ** min(lost, 7)))


def list_round_s(nodes: int) -> float:
    """Return the time in which each of so many *nodes* can list all of them once, at ``LISTED_KEYS_PER_S`` together.

    It grows with their square: 10 s for 1,000 nodes, 160 s for 4,000.
    """
    return nodes * nodes / LISTED_KEYS_PER_S
