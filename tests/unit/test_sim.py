"""The simulated world: some seeds in each test run (more with ``make sim``), and that all runs of a seed are alike."""

import hashlib
import os
import subprocess
import sys

import pytest

from tests.sim.sweep import Sum, sweep
from tests.sim.troubles import TROUBLES
from tests.sim.world import Outcome, play

SEEDS = range(60)
ALIKE = range(60, 72)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_invariants_hold(seed: int) -> None:
    """Whatever happens in the world of this seed, safety holds all the while and everything comes right at the end."""
    outcome = play(seed)
    assert outcome.violation is None, outcome.trace


def _digest_elsewhere(hash_seed: int) -> str:
    """Return the digest of the stories of ``ALIKE`` as another process tells them."""
    tell = "import tests.unit.test_sim as this; print(this.digest())"
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    told = subprocess.run([sys.executable, "-c", tell], env=environment, check=True, capture_output=True, text=True)
    return told.stdout.strip()


def digest() -> str:
    """Return the digest of the stories of ``ALIKE``."""
    return hashlib.sha256("\n".join(play(seed).trace for seed in ALIKE).encode()).hexdigest()


def test_a_seed_can_be_replayed() -> None:
    """All runs of a seed are alike, to the millisecond, in whatever process (I24)."""
    here = digest()
    assert [_digest_elsewhere(hash_seed) for hash_seed in (1, 2)] == [here, here]


def test_a_sweep_tells_how_many_of_what(capsys: pytest.CaptureFixture[str]) -> None:
    """Several processes play each seed once; at the end stands what there was of each trouble."""
    assert sweep(range(16), jobs=2) == 0
    told = capsys.readouterr().out
    assert "16 seeds in " in told
    assert all(trouble.__name__ in told for trouble in TROUBLES)
    total = Sum()
    for seed in range(16):
        total.add(play(seed))
    assert f"{total.counts['route.put']:9} route.put" in told


def test_a_sweep_ends_with_the_first_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A seed that fails is told of, with how to replay it; the fifth ends the sweep, which then is no success."""
    monkeypatch.setattr("tests.sim.sweep.play", lambda seed: Outcome(seed, "I1: broken", ["    1.000 it happened"]))
    assert sweep(range(100), jobs=1) == 1
    told = capsys.readouterr().out
    assert told.count("it happened") == 5
    assert "make sim SEED=4\n" in told
    assert "5 violations: 0 1 2 3 4" in told
