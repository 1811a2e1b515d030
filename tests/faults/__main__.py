"""Run the fault matrix: a line per row while it runs, the table of docs/dev/reliability.md at the end.

    python -m tests.faults                 # everything; writes the table
    python -m tests.faults F20 F21         # these rows; writes nothing
    python -m tests.faults --amend F20     # this row; puts its line into the page that a whole run has written

Exit code 1 when a row does not hold, or has not been run.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from datetime import date, datetime

import pytest

from tests.faults import report
from tests.faults.amend import amend
from tests.faults.progress import OTHER, Progress, say
from tests.faults.rows import ROOT, ROWS

QUIET = ("-qq", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers --strict-config")


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and return the exit code."""
    parser = argparse.ArgumentParser(prog="tests.faults", description="the fault matrix")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="F01 and so on; default: all")
    parser.add_argument("--amend", action="store_true", help="put these rows into the page of a whole run")
    options = parser.parse_args(argv)
    if unknown := [number for number in options.rows if number not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}")
    progress = Progress(ROWS, options.rows, say)
    elsewhere = [node for number in progress.results for node in ROWS[number].elsewhere]
    os.environ["PYFLANNELD_OBSERVE"] = "1"
    began = time.monotonic()
    code = pytest.main([*QUIET, "tests/faults", *elsewhere], plugins=[progress])
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not options.rows:
        write(progress, time.monotonic() - began)
    if options.amend and options.rows:
        amend(ROWS, {number: progress.results[number] for number in options.rows}, today())
    for number, result in progress.results.items():
        if not result.tests:
            say(progress.line(number))
    return int(code) or int(progress.failed)


def write(progress: Progress, took_s: float) -> None:
    """Write the table of a whole run."""
    rows = {number: result for number, result in progress.results.items() if number != OTHER}
    summary = report.summary(rows, progress.whole, took_s, today())
    report.put(report.SIMULATED, report.simulated(ROWS))
    report.put(report.FAULTS, f"{summary}\n{report.table(ROWS, rows)}")
    say(f"written: {report.PAGE.relative_to(ROOT)}")


def today() -> date:
    """Return the day of the run."""
    return datetime.now().astimezone().date()


if __name__ == "__main__":
    sys.exit(main())
