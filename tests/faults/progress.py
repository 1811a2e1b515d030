"""What a run of the fault matrix says while it runs: a line per row, as soon as the row's last test has ended."""

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.rows import Row, rows_of

HOLDS, FAILS, NOT_RUN = "holds", "FAILS", "not run"
OTHER = "-"  # tests without a number


@dataclass
class Result:
    """What came of a row's tests.

    Attributes:
        waiting: the tests that have not ended.
        tests: how many have.
        failed: the first words of each failure.
        skipped: whether a test was skipped.
        took_s: how long they took, with all that had to be put up for them.
        measured: what they measured, in their words, each once.
        observed: how much the observers had to judge.
        blind: why they could not see all of etcd's history, and of how many tests.
    """

    waiting: set[str] = field(default_factory=set)
    tests: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: bool = False
    took_s: float = 0.0
    measured: list[str] = field(default_factory=list)
    observed: Counter[str] = field(default_factory=Counter)
    blind: Counter[str] = field(default_factory=Counter)

    @property
    def verdict(self) -> str:
        """Say what the row's tests have shown; a row without tests, or with one that was skipped, has shown nothing."""
        if self.failed:
            return FAILS
        return NOT_RUN if self.skipped or self.waiting or not self.tests else HOLDS

    def add(self, report: pytest.TestReport) -> None:
        """Take the report of one phase of a test."""
        self.took_s += report.duration
        self.skipped |= report.skipped
        if report.failed:
            self.failed.append(f"{report.nodeid.rpartition('::')[2]}: {first_words(report)}")
        if report.when == "teardown":
            self.waiting.discard(report.nodeid)
            self.tests += 1
            self._take(report.user_properties)

    def _take(self, properties: Iterable[tuple[str, Any]]) -> None:
        for name, value in properties:
            if name == "measured" and value not in self.measured:
                self.measured.append(str(value))
            elif name == "observed":
                self.observed.update(value)
            elif name == "blind":
                self.blind[value] += 1


def first_words(report: pytest.TestReport) -> str:
    """Return the line that says why a test failed."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return " ".join((crash.message if crash else str(report.longrepr)).split())[:400]


class Progress:
    """A plugin for pytest that runs the tests of some rows and prints a line for each row.

    Args:
        rows: the matrix.
        wanted: the rows to run; empty for all, and for the tests without a number.
        say: prints a line.
    """

    def __init__(self, rows: Mapping[str, Row], wanted: Collection[str], say: Callable[[str], None] = print) -> None:
        self.rows, self.wanted = rows, wanted
        self.results: dict[str, Result] = {number: Result() for number in rows if not wanted or number in wanted}
        self._say = say
        self._rows_of: dict[str, tuple[str, ...]] = {}
        self.whole = Result()  # of each test once, whatever rows it is for

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the tests that are wanted, each once, and remember which rows they are for."""
        kept = []
        for item in items:
            mine = tuple(number for number in self._numbers(item) if number in self.results)
            if not mine and not self.wanted:
                mine = (OTHER,)
            if mine and item.nodeid not in self._rows_of:
                kept.append(item)
                self._rows_of[item.nodeid] = mine
                for number in mine:
                    self.results.setdefault(number, Result()).waiting.add(item.nodeid)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def _numbers(self, item: pytest.Item) -> tuple[str, ...]:
        own = rows_of(item.name) if item.nodeid.startswith("tests/faults/") else ()
        node = item.nodeid.partition("[")[0]
        return own + tuple(row.number for row in self.rows.values() if node in row.elsewhere)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add what a phase of a test brought, and print the rows that are complete with it."""
        self.whole.add(report)
        for number in self._rows_of.get(report.nodeid, ()):
            result = self.results[number]
            result.add(report)
            if report.when == "teardown" and not result.waiting:
                self._say(self.line(number))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str]:
        """Print no dots."""
        return ("" if report.passed and report.when != "call" else report.outcome), "", ""

    def line(self, number: str) -> str:
        """Return what is said of a row."""
        result, row = self.results[number], self.rows.get(number)
        words = [row.fault] if row else [f"{result.tests} tests without a number"]
        words += result.measured or ([] if row is None else [f"{result.tests} tests"])
        words += [f"\n      {reason}" for reason in result.failed]
        return f"{number:<4} {result.verdict:<8} {result.took_s:7.1f} s  {'; '.join(words)}"

    @property
    def failed(self) -> bool:
        """Return whether a row does not hold, whatever the reason."""
        return any(result.verdict != HOLDS for result in self.results.values())


def say(text: str) -> None:
    """Print a line at once, even into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
