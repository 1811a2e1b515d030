"""The simulated world: some seeds in each test run (more with ``make sim``), and that all runs of a seed are alike."""

import hashlib
import os
import subprocess
import sys

import pytest

from tests.sim.world import play

SEEDS = range(40)
ALIKE = range(60, 64)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_invariants_hold(seed: int) -> None:
    """Whatever happens in the world of this seed, safety holds all the while and everything comes right at the end."""
    outcome = play(seed)
    assert outcome.violation is None, outcome.trace


def _digest_elsewhere(hash_seed: int) -> str:
    """Return the digest of the stories of ``ALIKE`` as another process tells them."""
    tell = "import tests.unit.test_sim as this; print(this.digest())"
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    reported = subprocess.run([sys.executable, "-c", tell], env=environment, check=True, capture_output=True, text=True)
    return reported.stdout.strip()


def digest() -> str:
    """Return the digest of the stories of ``ALIKE``."""
    return hashlib.sha256("\n".join(play(seed).trace for seed in ALIKE).encode()).hexdigest()


def test_a_seed_can_be_replayed() -> None:
    """All runs of a seed are alike, to the millisecond, in whatever process (I24)."""
    here = digest()
    assert [_digest_elsewhere(hash_seed) for hash_seed in (1, 2)] == [here, here]
