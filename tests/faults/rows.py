"""The fault matrix: every fault, what flanneld does about it, what the daemon does here, and how it is injected.

The rows are in ``rows.toml``. A row is tested by the functions of this folder that bear its number: ``test_f20_…``, or
``test_f03_f05_…`` for two rows.
"""

import ast
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NUMBERED = re.compile(r"test((?:_f1?\d\d)+)(?:_|$)")


@dataclass(frozen=True, slots=True)
class Row:
    """A fault.

    Attributes:
        number: "F01" and so on; numbers are never given twice.
        group: the heading that it stands under.
        fault: what happens.
        flanneld: what it does then, and how that is known.
        here: what the daemon does: the promise.
        simulated: what is not real in the test, and why; empty when the fault happens to real parts.
        elsewhere: tests outside of this folder that belong to the row, as pytest names them.
    """

    number: str
    group: str
    fault: str
    flanneld: str
    here: str
    simulated: str = ""
    elsewhere: tuple[str, ...] = ()


def read(path: Path) -> dict[str, Row]:
    """Return the rows of a file by their numbers, in its order; a number that is there twice is a ``ValueError``."""
    rows: dict[str, Row] = {}
    for table in tomllib.loads(path.read_text("utf-8"))["row"]:
        row = Row(**(table | {"elsewhere": tuple(table.get("elsewhere", ()))}))
        if row.number in rows:
            raise ValueError(f"two rows {row.number}")
        rows[row.number] = row
    return rows


ROWS = read(HERE / "rows.toml")


def rows_of(name: str) -> tuple[str, ...]:
    """Return the rows that a test is for, by its name: ``("F03", "F05")``; none for a test without a number."""
    found = NUMBERED.match(name)
    return tuple(part.upper() for part in found[1].split("_")[1:]) if found else ()


def functions(path: Path) -> Iterator[str]:
    """Yield the names of a file's test functions, those in classes too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield node.name


def by_row(folder: Path) -> dict[str, list[str]]:
    """Return the tests of a folder by the rows that their names claim."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("test_*.py")):
        for name in functions(path):
            for number in rows_of(name):
                found.setdefault(number, []).append(f"{path.name}::{name}")
    return found


def missing_elsewhere(row: Row) -> list[str]:
    """Return the tests that a row names and that do not exist."""
    missing = []
    for node in row.elsewhere:
        path, _, name = node.partition("::")
        if not ((ROOT / path).exists() and name.rpartition("::")[2] in functions(ROOT / path)):
            missing.append(node)
    return missing


def untested(rows: Mapping[str, Row], tests: Collection[str]) -> set[str]:
    """Return the rows that no test is for; *tests* are the numbers that tests claim."""
    return {number for number, row in rows.items() if not row.elsewhere and number not in tests}
