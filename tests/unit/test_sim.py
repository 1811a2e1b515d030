"""The simulated world: some seeds in each test run (more with ``make sim``), and that two runs of a seed are alike."""

import pytest

from tests.sim.world import play

SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_invariants_hold(seed: int) -> None:
    """Whatever happens in the world of this seed, safety holds all the while and everything comes right at the end."""
    outcome = play(seed)
    assert outcome.violation is None, outcome.trace


def test_a_seed_can_be_replayed() -> None:
    """Two runs of one seed are alike, to the millisecond (I24)."""
    assert play(7).trace == play(7).trace
