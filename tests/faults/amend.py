"""Run some rows again, and put what they show into the page that a whole run has written."""

import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from tests.faults import report
from tests.faults.progress import HOLDS, Result
from tests.faults.rows import Row

_COUNT = re.compile(r"\d+ of \d+ rows hold")
_AGAIN = re.compile(r"^Run again since, for something was mended: (.*)\.\n", re.MULTILINE)


def amend(rows: Mapping[str, Row], results: Mapping[str, Result], on: date, page: Path = report.PAGE) -> None:
    """Replace the lines of *results*, add those that are new, and say that they come from another run."""
    _, text, _ = report.parts(report.FAULTS, page)
    for number, result in results.items():
        text = _with_line(text, rows[number], report.line(rows[number], result))
    held, known = text.count(f"| {HOLDS} |\n") + text.count(f"| {HOLDS} (simulated) |\n"), text.count("\n| F")
    report.put(report.FAULTS, _with_note(_COUNT.sub(f"{held} of {known} rows hold", text, 1), results, on), page)


def _with_line(text: str, row: Row, line: str) -> str:
    before, found, rest = text.partition(f"| {row.number} |")
    if found:
        return before + line + rest.partition("\n")[2]
    before, beginning, rest = text.partition(report.beginning(row.group))
    if not beginning:
        return f"{text.rstrip()}\n\n{report.beginning(row.group)}{line.rstrip()}\n"
    lines, gap, behind = rest.partition("\n\n")
    return f"{before}{beginning}{lines.rstrip()}\n{line.rstrip()}{gap or chr(10)}{behind}"


def _with_note(text: str, results: Mapping[str, Result], on: date) -> str:
    known = _AGAIN.search(text)
    named = dict(each.split(" ") for each in known[1].split(", ")) if known else {}
    named |= dict.fromkeys(results, f"({on.isoformat()})")
    note = "Run again since, for something was mended: " + ", ".join(" ".join(one) for one in sorted(named.items()))
    first, _, rest = _AGAIN.sub("", text).partition("\n")
    return f"{first}\n{note}.\n{rest}"
