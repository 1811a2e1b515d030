"""Write ``docs/dev/planted-faults.md``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bite.__main__ import Result
    from tests.bite.checks import Verdict

_TOP = """\
# Planted faults

Do the checks bite? `make bite` answers that: it makes a copy of the daemon, plants one fault in it, asks the
[simulated world](testing.md#the-simulated-world) and the tests of the room concerned, and goes on with the next one.
A fault whose name begins with `B` and a number puts back a mistake that flannel v0.28.9 makes, or one of its kind; the
others are mistakes that we could have made. Before it begins, all these checks have to pass on the daemon as it is.

"""
_BOTTOM = """
"no": this kind of check does not see the fault; most of these live in a part that the other kind does not
have (the simulated world has no gRPC and no log). To add one: an entry in `tests/bite/plants.py`.
`tests/unit/test_plants.py` fails when the function that a fault changes, or
what it changes there, is gone.
"""


def write(path: Path, results: "Sequence[Result]") -> None:
    """Write the page."""
    rows = [_row(result) for result in results]
    _put(path, rows, "")


def amend(path: Path, results: "Sequence[Result]") -> None:
    """Replace the rows of faults that were planted again, and say so; the page has a row for each."""
    again = {f"| {result.plant.name} |": _row(result) for result in results}
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")][1:]
    for start in again:
        if not any(line.startswith(start) for line in lines):
            raise ValueError(f"{path.name} has no row {start}: it takes a whole run")
    rows = [next((row for start, row in again.items() if line.startswith(start)), line) for line in lines]
    _put(path, rows, f" Planted again since: {', '.join(result.plant.name for result in results)}.")


def _put(path: Path, rows: Sequence[str], more: str) -> None:
    missed = sum(row.endswith("| no | no |") for row in rows)
    head = f"Last full run: {len(rows)} faults planted, {len(rows) - missed} caught, {missed} not.{more}\n\n"
    table = "| fault | what the spoiled daemon does | simulated world | tests |\n|---|---|---|---|\n"
    path.write_text(_TOP + head + table + "\n".join(rows) + "\n" + _BOTTOM)


def _row(result: "Result") -> str:
    cells = (result.plant.name, result.plant.what, _cell(result.world), _cell(result.tests))
    return f"| {' | '.join(cells)} |"


def _cell(verdict: "Verdict") -> str:
    if not verdict.caught:
        return "no"
    words = verdict.words if len(verdict.words) <= 90 else verdict.words[:89] + "…"
    return "`" + words.replace("`", "'").replace("|", "/") + "`"
