"""The planted faults of ``make bite`` can still be planted; what catches them is shown by that run."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.bite.plants import PLANTS, Plant, spoiled

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pyflanneld"
IDS = [plant.name.replace(" ", "-") for plant in PLANTS]


@pytest.mark.parametrize("plant", PLANTS, ids=IDS)
def test_it_can_be_planted(plant: Plant) -> None:
    """What it changes is there, and what comes of it is other code."""
    text = (PACKAGE / plant.file).read_text()
    assert spoiled(plant, text) != ast.unparse(ast.parse(text)) + "\n"


def test_no_fault_is_a_misspelt_name(tmp_path: Path) -> None:
    """Every name and attribute in the spoiled code exists: a ``NameError`` would be caught by any check."""
    known = words("\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))) | set(dir(os))
    for number, plant in enumerate(PLANTS):
        text = spoiled(plant, (PACKAGE / plant.file).read_text())
        (tmp_path / f"plant_{number}.py").write_text(text)
        assert words(text) <= known, f"{plant.name}: {words(text) - known}"
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def words(text: str) -> set[str]:
    """Return the names of attributes and keywords."""
    nodes = list(ast.walk(ast.parse(dedent(text))))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}


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
