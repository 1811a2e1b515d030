"""``python -m tests.bite``: spoil the daemon, one planted fault after another, and see which check notices."""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bite import checks
from tests.bite.plants import PLANTS, Plant, spoiled
from tests.bite.table import amend, write

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/dev/planted-faults.md"


@dataclass(frozen=True, slots=True)
class Result:
    """What the checks say about a plant."""

    plant: Plant
    world: checks.Verdict
    tests: checks.Verdict

    @property
    def caught(self) -> bool:
        """Whether any of them has seen it."""
        return self.world.caught or self.tests.caught


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bite", description=__doc__)
    parser.add_argument("names", nargs="*", help="only plants whose names contain one of these")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (default: 2)")
    parser.add_argument("--amend", action="store_true", help="put these into the page that a whole run has written")
    given = parser.parse_args()
    chosen = [plant for plant in PLANTS if not given.names or any(word in plant.name for word in given.names)]
    if not sound(chosen):
        return 1
    with ThreadPoolExecutor(given.jobs) as pool:
        results = list(pool.map(plant_and_look, chosen))
    survivors = [result.plant.name for result in results if not result.caught]
    print(f"{len(results)} planted faults, {len(survivors)} not caught {survivors or ''}")
    if len(chosen) == len(PLANTS):
        write(PAGE, results)
    elif given.amend:
        amend(PAGE, results)
    return 1 if survivors or not results else 0


def sound(chosen: Sequence[Plant]) -> bool:
    """Make sure that the checks pass where nothing is planted: one that always fails would catch everything."""
    files = list(dict.fromkeys(name for plant in chosen for name in plant.tests))
    with copy_of_the_tree() as tree:
        for verdict in (checks.simulated_world(tree), checks.tests(tree, files)):
            if verdict.caught:
                print(f"the checks fail without any fault planted: {verdict.words}")
                return False
    return True


def plant_and_look(plant: Plant) -> Result:
    """Spoil a copy and ask the checks."""
    with copy_of_the_tree() as tree:
        spoil(tree, plant)
        result = Result(plant, checks.simulated_world(tree), checks.tests(tree, plant.tests))
    seen = "caught" if result.caught else "NOT CAUGHT"
    print(f"{seen:11}{plant.name}\n    world: {result.world.words}\n    tests: {result.tests.words}", flush=True)
    return result


def spoil(tree: Path, plant: Plant) -> None:
    """Plant the fault. Raises ``ValueError`` as ``spoiled`` does."""
    path = tree / "pyflanneld" / plant.file
    path.write_text(spoiled(plant, path.read_text()))


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """Have a copy of what git knows and of what is new here."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )
    with tempfile.TemporaryDirectory(prefix="pyflanneld-bite-") as folder:
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                target = Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
