"""The soak's rule for what is flat, on series that are made up."""

from collections.abc import Callable
from random import Random

import pytest

from tests.soak.verdict import DAY_S, Limit, judge, per_day, rates

LIMIT = Limit(rise=3.0, per_day=64.0, tooth=1.5)  # of memory, in MiB
MINUTES = 20


def series(value: Callable[[float], float], *, noise: float = 0, minutes: float = MINUTES) -> list[tuple[float, float]]:
    """Return a sample every three seconds: *value* of the share of the time that is over, and noise."""
    rng, count = Random(1), int(minutes * 20)
    return [(3.0 * at, value(at / count) + rng.gauss(0, noise)) for at in range(count + 1)]


def leak(mib_a_day: float, minutes: float = MINUTES) -> Callable[[float], float]:
    return lambda share: 70 + mib_a_day * share * minutes / 60 / 24


@pytest.mark.parametrize(
    "value",
    [
        lambda _: 70.0,
        lambda share: 40 + 30 * min(1, share * 4.2),  # warming up
        lambda share: 70 - 5 * share,  # what falls does not leak
        lambda share: 70 + 20 * (0.6 < share < 0.63),  # a fault that passes
        lambda share: 70 + 2.5 * (share > 0.9),  # a small step
        lambda share: 74 + 1.2 * (share * 1.8 % 1),  # garbage, collected every eleven minutes
        leak(5),
    ],
    ids=["constant", "warm-up", "falling", "a peak", "a small step", "garbage", "a trickle"],
)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_flat(value: Callable[[float], float], noise: float) -> None:
    """What stays where it is after the warm-up is flat, with noise too."""
    found = judge(series(value, noise=noise), LIMIT)
    assert found.flat, found


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_leak_is_found(noise: float) -> None:
    """Growth that would be too much after a day, though it is 3 MiB in the run."""
    found = judge(series(leak(240), noise=noise), LIMIT)
    assert found.faults == ("it grows all the time",)
    assert found.per_day == pytest.approx(240, rel=0.2)


def test_a_longer_run_sees_through_the_garbage() -> None:
    """Garbage that comes and goes hides a slow leak for twenty minutes, and not for a night."""

    def value(share: float, minutes: float) -> float:
        return leak(100, minutes)(share) + 1.2 * (share * minutes / 11 % 1)

    assert judge(series(lambda share: value(share, MINUTES)), LIMIT).flat
    assert not judge(series(lambda share: value(share, 480), minutes=480), LIMIT).flat


@pytest.mark.parametrize("at", [0.4, 0.6, 0.74])
def test_a_step_is_found(at: float) -> None:
    """A rise that stays, when it came after the warm-up, whatever the trend says."""
    found = judge(series(lambda share: 70 + 5 * (share > at), noise=0.3), Limit(rise=3.0))
    assert found.faults == ("the last quarter is higher than the second",)
    assert (round(found.early), round(found.late)) in {(70, 75)}


def test_small_numbers_that_are_whole() -> None:
    """A descriptor that is lost now and then, and one that comes and goes."""
    limit = Limit(rise=1.0, per_day=48.0)
    lost = judge(series(lambda share: 20 + int(share * 4)), limit)
    assert lost.faults
    assert judge(series(lambda share: 20 + (int(share * 1000) % 7 == 0)), limit).flat


def test_a_longer_run_finds_less() -> None:
    """A leak that drowns in the noise of 20 minutes shows in eight hours."""
    limit = Limit(rise=8.0, per_day=16.0)
    assert judge(series(leak(20), noise=2.0), limit).flat
    assert not judge(series(leak(20, 480), noise=2.0, minutes=480), limit).flat


def test_noise_is_no_trend() -> None:
    """The trend is 0 when the samples scatter more than it amounts to."""
    assert per_day(series(lambda share: 70 + 0.1 * share, noise=1.0)) == 0
    assert per_day(series(leak(100))) == pytest.approx(100)
    assert per_day([(0.0, 1.0)]) == 0


def test_a_share_is_allowed_where_chance_rules() -> None:
    """So many lines a minute vary; twice as many are too many."""
    limit = Limit(rise=10.0, share=0.5)
    assert judge(series(lambda share: 100 + 40 * share, noise=10), limit).flat
    assert not judge(series(lambda share: 100 + 100 * (share > 0.5), noise=10), limit).flat


def test_what_cannot_be_judged_is_an_error() -> None:
    """No sample, or a quarter without one, is not flat but a run that went wrong."""
    with pytest.raises(ValueError, match="no sample"):
        judge([], LIMIT)
    with pytest.raises(ValueError, match="a quarter"):
        judge([(0.0, 1.0), (1.0, 1.0), (100.0, 1.0)], LIMIT)


def test_counts_become_rates() -> None:
    """What was added a minute, each minute; a rest at the end is left out."""
    assert rates([(0, 5), (30, 10), (60, 25), (90, 25), (120, 35), (150, 99)]) == [(30.0, 20.0), (90.0, 10.0)]
    assert rates([]) == []
    assert DAY_S == 24 * 60 * 60
