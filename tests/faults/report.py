"""The table of docs/reliability.md: what a whole run of the fault matrix has shown."""

import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import date
from itertools import groupby
from pathlib import Path

from tests.faults.progress import HOLDS, Result
from tests.faults.rows import ROOT, Row

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
HEAD = "| row | fault | flanneld | pyflanneld | measured | verdict |\n|---|---|---|---|---|---|\n"
PHRASES = 3  # of what was measured; a row with many tests would fill the page


def cell(text: str) -> str:
    """Return *text* for a cell: in one line, and with no bar that would end it."""
    return " ".join(text.split()).replace("|", "\\|")


def line(row: Row, result: Result) -> str:
    """Return a row of the table."""
    measured = "; ".join(result.measured[:PHRASES])
    verdict = result.verdict + (" (simulated)" if row.simulated else "")
    return "| " + " | ".join(map(cell, (row.number, row.fault, row.flanneld, row.here, measured, verdict))) + " |\n"


def table(rows: Mapping[str, Row], results: Mapping[str, Result]) -> str:
    """Return a table for each group of rows, under its heading."""
    parts = []
    for group, members in groupby(rows.values(), lambda row: row.group):
        heading = group[0].upper() + group[1:] if group != "etcd" else group
        lines = "".join(line(row, results[row.number]) for row in members)
        parts.append(f"### {heading}\n\n{HEAD}{lines}")
    return "\n".join(parts)


def summary(results: Mapping[str, Result], took_s: float, on: date) -> str:
    """Return the sentence above the tables."""
    held = sum(result.verdict == HOLDS for result in results.values())
    tests = sum(result.tests for result in results.values())
    where = f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, etcd {etcd_version()}"
    return f"{on.isoformat()}: {held} of {len(results)} rows hold; {tests} tests, {took_s / 60:.0f} minutes; {where}.\n"


def etcd_version() -> str:
    """Return the version of the etcd that the tests start."""
    told = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"etcd Version: (\S+)", told)
    return found[1] if found else "of unknown version"


def put(text: str, page: Path = PAGE) -> None:
    """Put the tables into the page, between the marks."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page.name}: the marks {BEGIN} and {END} are missing")
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}", "utf-8")
