"""The planted faults of ``make bite`` can still be planted; what catches them is shown by that run."""

import ast
from pathlib import Path

import pytest

from tests.bite.plants import PLANTS, Plant

ROOT = Path(__file__).parents[2]
IDS = [plant.name.replace(" ", "-") for plant in PLANTS]


@pytest.mark.parametrize("plant", PLANTS, ids=IDS)
def test_it_can_be_planted(plant: Plant) -> None:
    """The text that it replaces is there once, what comes of it is Python, and it is something else."""
    text = (ROOT / "pyflanneld" / plant.file).read_text()
    assert text.count(plant.old) == 1
    spoiled = text.replace(plant.old, plant.new)
    assert ast.dump(ast.parse(spoiled)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("plant", PLANTS, ids=IDS)
def test_its_checks_exist(plant: Plant) -> None:
    """Each file of tests that is to catch it is there."""
    assert plant.tests
    assert [name for name in plant.tests if not (ROOT / name.partition("::")[0]).exists()] == []


def test_there_are_enough_of_them() -> None:
    """At least 25, each under a name of its own, and most of them flannel's."""
    names = {plant.name for plant in PLANTS}
    assert len(names) == len(PLANTS) >= 25
    assert sum(name.startswith("B") for name in names) >= 25
