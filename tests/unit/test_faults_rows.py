"""The fault matrix is complete: every row has its test, every numbered test its row; and what a run says of them."""

import re
from pathlib import Path

import pytest

from tests.faults import report
from tests.faults.rows import ROWS, Row, by_row, missing_elsewhere, rows_of, untested

FAULTS = Path(__file__).parents[1] / "faults"
ROW = Row("F01", "etcd", "a | fault", "unknown", "goes on")


def test_every_row_has_a_test() -> None:
    """No fault is promised to be survived without a test that bears its number, or is named by the row."""
    assert untested(ROWS, by_row(FAULTS)) == set()


def test_no_test_names_a_row_that_is_not_there() -> None:
    """The number in a test's name is one of the matrix."""
    assert set(by_row(FAULTS)) - set(ROWS) == set()


def test_the_tests_that_rows_name_exist() -> None:
    """A row that points to a test in another folder points to one."""
    assert [missing_elsewhere(row) for row in ROWS.values() if missing_elsewhere(row)] == []


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.number)
def test_each_row_says_how_it_is_known(row: Row) -> None:
    """What flanneld does was read or observed, or is unknown; who simulates says what and why."""
    assert re.fullmatch(r"F1?\d\d", row.number)
    assert row.flanneld == "unknown" or re.search(r"\((read|observed|observed; read)\)$", row.flanneld)
    assert row.fault
    assert row.here
    assert not row.simulated or ":" in row.simulated


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("test_f20_own_lease", ("F20",)), ("test_f03_f05_etcd_stops", ("F03", "F05")), ("test_f01", ("F01",)),
        ("test_f20_x[f99]", ("F20",)), ("test_restart", ()), ("test_of_f20", ()), ("test_f2_x", ()),
        ("test_f200_x", ()), ("test_f20x", ()),
    ],
)  # fmt: skip
def test_a_name_tells_its_rows(name: str, rows: tuple[str, ...]) -> None:
    """One number or several, right behind the word test."""
    assert rows_of(name) == rows


# What a run says


def test_the_page_has_the_marks() -> None:
    """docs/dev/reliability.md can take the tables of a run, and says now what is simulated and why."""
    assert report.parts(report.FAULTS, report.PAGE)
    assert report.parts(report.SIMULATED, report.PAGE)[1] == report.simulated(ROWS), "write there what it returns"
