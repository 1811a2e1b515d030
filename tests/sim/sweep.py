"""Many seeds in several processes: how far it has come, the stories of the first that fail, and what there was."""

import gc
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations

from tests.sim.troubles import TROUBLES
from tests.sim.vxlan_troubles import VXLAN_TROUBLES
from tests.sim.world import Outcome, play

LINES = 60
"""A page: how much of a story is told."""
FAILURES = 5
PROGRESS_S = 30.0
SEEDS_AT_A_TIME = 8


class Sum:
    """What many seeds came to.

    Attributes:
        pairs: kinds of trouble that were met with in one world.
    """

    def __init__(self) -> None:
        self.seeds = 0
        self.failed: list[int] = []
        self.virtual_s = 0.0
        self.counts: Counter[str] = Counter()
        self.pairs: set[tuple[str, str]] = set()

    def add(self, outcome: Outcome) -> None:
        """Take note of one more."""
        self.seeds += 1
        self.virtual_s += outcome.virtual_s
        self.counts += outcome.counts
        self.pairs.update(combinations(sorted(outcome.troubles), 2))
        if outcome.violation:
            self.failed.append(outcome.seed)


def sweep(seeds: Sequence[int], jobs: int) -> int:
    """Run *seeds*, say how it went, and return the exit code; the first failures end it."""
    began, delivered = time.monotonic(), time.monotonic()
    total = Sum()
    with _outcomes(seeds, jobs) as outcomes:
        for outcome in outcomes:
            total.add(outcome)
            if outcome.violation:
                tell(outcome)
                if len(total.failed) >= FAILURES:
                    break
            if time.monotonic() - delivered >= PROGRESS_S:
                delivered = time.monotonic()
                print(_progress(total, len(seeds), delivered - began), flush=True)
    print(_summary(total, time.monotonic() - began))
    return 1 if total.failed else 0


@contextmanager
def _outcomes(seeds: Sequence[int], jobs: int) -> Iterator[Iterable[Outcome]]:
    """Play the seeds; in several processes, which give way to others, they come in no certain order."""
    if jobs == 1:
        yield map(_play, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_begin) as pool:
        yield pool.imap_unordered(_play, seeds, chunksize=SEEDS_AT_A_TIME)


def _begin() -> None:
    os.nice(5)
    gc.set_threshold(50_000, 20, 100)  # a world makes many small circles: looking for them less often saves a tenth


def _play(seed: int) -> Outcome:
    outcome = play(seed)
    return outcome if outcome.violation else replace(outcome, timeline=[])


def tell(outcome: Outcome, lines: int = LINES) -> None:
    """Print the story of a seed, its last *lines*."""
    print(f"seed {outcome.seed}: {outcome.violation or 'all holds'}")
    for line in outcome.timeline[-lines:]:
        print(f"  {line}")
    if outcome.violation:
        print(f"  all of it: make sim SEED={outcome.seed}", flush=True)


def _progress(total: Sum, seeds: int, passed_s: float) -> str:
    left_s = passed_s / total.seeds * (seeds - total.seeds)
    return (
        f"{total.seeds} of {seeds} seeds, {len(total.failed)} violations, "
        f"{passed_s:.0f} s, about {left_s / 60:.0f} min left"
    )


def _summary(total: Sum, passed_s: float) -> str:
    kinds = [trouble.__name__ for trouble in (*TROUBLES, *VXLAN_TROUBLES)]
    pairs = len(kinds) * (len(kinds) - 1) // 2
    seen = {name: count for name, count in sorted(total.counts.items()) if name not in kinds}
    failed = f": {' '.join(map(str, sorted(total.failed)))}" if total.failed else ""
    return "\n".join([
        "troubles made:", *(f"  {total.counts[kind]:9} {kind}" for kind in kinds),
        f"  {len(total.pairs)} of {pairs} pairs of them met in one world",
        "what the daemons went through:", *(f"  {count:9} {name}" for name, count in seen.items()),
        f"{total.seeds} seeds in {passed_s:.0f} s, {total.virtual_s / 86400:.1f} days for those who live there: "
        f"{len(total.failed)} violations{failed}",
    ])  # fmt: skip
