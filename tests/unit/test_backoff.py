"""How long to wait: within bounds, doubling to a cap, and spread."""

from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.backoff import LISTED_KEYS_PER_S, backoff, jittered, list_round_s, race_pause_s

RNGS = st.integers(0, 2**32).map(Random)


@given(st.floats(0.001, 100), st.floats(1, 1e4), RNGS)
def test_waits_double_up_to_the_cap(first_s: float, factor: float, rng: Random) -> None:
    """The n-th wait is between half and all of first * 2**n, and never above the cap."""
    cap_s = first_s * factor
    for number, wait_s in enumerate(islice(backoff(first_s, cap_s, rng), 40)):
        ceiling_s = min(first_s * 2**number, cap_s)
        assert ceiling_s / 2 <= wait_s <= ceiling_s


def test_waits_go_on_for_ever() -> None:
    """The cap is an end of the doubling, not of the waits."""
    assert 15 <= list(islice(backoff(0.2, 30, Random(1)), 5000))[-1] <= 30


def test_a_cap_below_the_first_wait_holds() -> None:
    """The cap is kept from the first wait on."""
    assert all(wait_s <= 1 for wait_s in islice(backoff(5, 1, Random(1)), 20))


@given(RNGS)
def test_two_nodes_do_not_march_in_step(rng: Random) -> None:
    """Waits are spread: two nodes with seeds of their own part ways at once."""
    assert list(islice(backoff(1, 60, rng), 8)) != list(islice(backoff(1, 60, Random("another")), 8))


@given(st.floats(0.1, 1e5), st.floats(0, 1), RNGS)
def test_a_period_varies_by_its_share(period_s: float, share: float, rng: Random) -> None:
    """±20 % of 300 s is between 240 s and 360 s, and so for any period and share."""
    slack = 1e-9 * period_s
    assert period_s * (1 - share) - slack <= jittered(period_s, share, rng) <= period_s * (1 + share) + slack


def test_a_period_varies_to_both_sides() -> None:
    """Nodes spread over nearly the whole of the span, early and late."""
    periods = [jittered(300, 0.2, Random(seed)) for seed in range(100)]
    assert min(periods) < 245
    assert max(periods) > 355


@given(st.integers(0, 10**6), RNGS)
def test_a_lost_race_is_run_again_soon(lost: int, rng: Random) -> None:
    """After any number of lost races the pause is at most 2 s, and 20 ms after the first."""
    assert 0 <= race_pause_s(lost, rng) <= min(2.0, 0.02 * 2 ** min(lost, 10))


@pytest.mark.parametrize(("lost", "at_least_s"), [(0, 0.015), (3, 0.12), (7, 1.5), (100, 1.5)])
def test_the_pauses_of_many_spread_over_the_whole_span(lost: int, at_least_s: float) -> None:
    """Fifty nodes that lost together do not come back together."""
    pauses = [race_pause_s(lost, Random(seed)) for seed in range(50)]
    assert max(pauses) >= at_least_s
    assert len(set(pauses)) == 50


@given(st.integers(1, 10**6))
def test_a_round_of_lists_keeps_within_what_may_be_read(nodes: int) -> None:
    """Each of N nodes lists N keys once a round: together that is the budget, whatever N."""
    assert nodes * nodes / list_round_s(nodes) == pytest.approx(LISTED_KEYS_PER_S)


def test_small_clusters_do_not_wait_for_a_turn() -> None:
    """A dozen hosts list at once, a thousand within ten seconds."""
    assert list_round_s(12) < 0.01
    assert list_round_s(1000) <= 10
