"""The table of docs/dev/reliability.md: what a whole run of the fault matrix has shown."""

import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import date
from itertools import groupby
from pathlib import Path

from tests.faults.progress import HOLDS, Result
from tests.faults.rows import ROOT, Row

PAGE = ROOT / "docs" / "dev" / "reliability.md"
FAULTS, SIMULATED = "faults", "simulated"  # the marks of the page
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
        lines = "".join(line(row, results[row.number]) for row in members)
        parts.append(f"{beginning(group)}{lines}")
    return "\n".join(parts)


def beginning(group: str) -> str:
    """Return what stands above the rows of a group."""
    heading = group[0].upper() + group[1:] if group != "etcd" else group
    return f"### {heading}\n\n{HEAD}"


def summary(results: Mapping[str, Result], whole: Result, took_s: float, on: date) -> str:
    """Return the sentences above the tables: on the rows, on the observers, and on what these could not see."""
    held = sum(result.verdict == HOLDS for result in results.values())
    where = f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, etcd {etcd_version()}"
    tests = f"{whole.tests} tests, {took_s / 60:.0f} minutes"
    lines = [f"{on.isoformat()}: {held} of {len(results)} rows hold; {tests}; {where}."]
    if whole.observed:
        seen = ", ".join(f"{count:,} {what}" for what, count in whole.observed.items())
        lines.append(f"The observers have checked {seen}.")
    for why, count in group_blind(whole.blind).items():
        lines.append(f"They could not see all of etcd's history in {count} tests: {why}.")
    return "\n".join(lines) + "\n"


def group_blind(blind: Mapping[str, int]) -> dict[str, int]:
    """Return the reasons with their counts, whatever revisions they speak of."""
    grouped: dict[str, int] = {}
    for why, count in blind.items():
        reason = re.sub(r"revisions \d+ to \d+", "revisions", why)
        grouped[reason] = grouped.get(reason, 0) + count
    return grouped


def etcd_version() -> str:
    """Return the version of the etcd that the tests start."""
    told = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"etcd Version: (\S+)", told)
    return found[1] if found else "of unknown version"


def simulated(rows: Mapping[str, Row]) -> str:
    """Return the list of what is not real, and why."""
    return "".join(f"* {row.number}: {row.simulated}.\n" for row in rows.values() if row.simulated)


def parts(mark: str, page: Path) -> tuple[str, str, str]:
    """Return what stands before, between and behind two marks of a page."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- /{mark} -->"
    before, found, rest = page.read_text("utf-8").partition(begin)
    between, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page.name}: the marks of {mark} are missing")
    return before + begin, between, end + after


def put(mark: str, text: str, page: Path = PAGE) -> None:
    """Put a text into the page, between its marks."""
    before, _, after = parts(mark, page)
    page.write_text(before + text + after, "utf-8")
