"""Whether a quantity stays flat: a rule that can fail, over samples of it. Pure.

The first quarter of the time is warm-up and does not count. Of the rest, two numbers are looked at:

* the *rise*: the median of the last quarter less that of the second one. It shows a step, whenever that came.
* the *trend*: the median of the slopes between all pairs of samples (Theil and Sen), which single outliers do not move,
  told as what it would be in a day. It shows a leak. It counts only as far as it is more than noise: over the time that
  is judged, it must be more than the samples scatter about it (twice the median distance), or else it is 0. And the
  rise must be more than what is known to come and go, such as the garbage between two rounds of Python's collector.

A longer run finds smaller leaks: the same noise is then less in a day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

DAY_S = 86400.0
QUARTERS = 4
MOST_POINTS = 400  # for the slopes between all pairs
NOISE = 2.0

Points = Sequence[tuple[float, float]]
"""Samples in the order of time: seconds since the start, and the value."""


@dataclass(frozen=True, slots=True)
class Limit:
    """How much more is still flat.

    Attributes:
        rise: between the second quarter and the last, in the quantity's unit.
        share: so much of the second quarter's median is allowed besides; for what goes up and down by chance.
        per_day: the trend, in the unit; ``None``: none is looked at.
        tooth: what comes and goes, in the unit: without a rise of more than this there is no trend.
    """

    rise: float
    share: float = 0.0
    per_day: float | None = None
    tooth: float = 0.0


@dataclass(frozen=True, slots=True)
class Flatness:
    """What came out for one quantity: the two medians, the trend in a day, and why it is not flat (nothing: it is)."""

    early: float
    late: float
    per_day: float
    faults: tuple[str, ...]

    @property
    def flat(self) -> bool:
        """Return whether it is within its limit."""
        return not self.faults


def judge(points: Points, limit: Limit) -> Flatness:
    """Return whether a quantity is flat. Raises ``ValueError`` when a quarter has no sample."""
    if not points:
        raise ValueError("there is no sample")
    start, end = points[0][0], points[-1][0]
    quarters = [_part(points, start + (end - start) * at / QUARTERS, start + (end - start) * (at + 1) / QUARTERS)
                for at in range(QUARTERS)]  # fmt: skip
    if not all(quarters):
        raise ValueError("a quarter of the time has no sample")
    early, late = (median(value for _, value in quarters[at]) for at in (1, 3))
    trend = per_day(_thinned([point for quarter in quarters[1:] for point in quarter]))
    faults = []
    if late - early > limit.rise + limit.share * early:
        faults.append("the last quarter is higher than the second")
    if limit.per_day is not None and trend > limit.per_day and late - early > limit.tooth:
        faults.append("it grows all the time")
    return Flatness(early, late, trend, tuple(faults))


def per_day(points: Points) -> float:
    """Return how much more there would be after a day, by the trend; 0 when the scatter about it is larger."""
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x2 > x1]
    if not slopes:
        return 0.0
    slope = median(slopes)
    level = median(y - slope * x for x, y in points)
    scatter = median(abs(y - slope * x - level) for x, y in points)
    within = slope * (points[-1][0] - points[0][0])
    return slope * DAY_S if abs(within) > NOISE * scatter else 0.0


def rates(points: Points, bin_s: float = 60.0) -> list[tuple[float, float]]:
    """Turn a count that only goes up into what was added a minute, bin by bin; the last, incomplete bin is left out."""
    found: list[tuple[float, float]] = []
    start_s, begun = points[0] if points else (0.0, 0.0)
    for at_s, count in points:
        if at_s - start_s >= bin_s:
            found.append(((start_s + at_s) / 2, (count - begun) * 60.0 / (at_s - start_s)))
            start_s, begun = at_s, count
    return found


def _part(points: Points, start: float, end: float) -> list[tuple[float, float]]:
    last = points[-1][0]
    return [(x, y) for x, y in points if start <= x < end or (x == end == last)]


def _thinned(points: Points) -> Points:
    """Return at most ``MOST_POINTS`` of them, evenly spread."""
    step = -(-len(points) // MOST_POINTS)
    return points[::step]
