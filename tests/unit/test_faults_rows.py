"""The fault matrix is complete: every row has its test, every numbered test its row; and what a run says of them."""

import re
from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.faults import report
from tests.faults.amend import amend
from tests.faults.progress import FAILS, HOLDS, NOT_RUN, OTHER, Progress, Result
from tests.faults.rows import ROWS, Row, by_row, missing_elsewhere, read, rows_of, untested

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
    assert re.fullmatch(r"F\d\d", row.number)
    assert row.flanneld == "unknown" or re.search(r"\((read|observed|observed; read)\)$", row.flanneld)
    assert row.fault
    assert row.here
    assert not row.simulated or ":" in row.simulated


def test_a_row_without_a_test_is_found() -> None:
    """The check above sees what is missing, and takes a test elsewhere for one."""
    rows = {"F01": ROW, "F02": Row("F02", "etcd", "x", "unknown", "y", elsewhere=("tests/unit/test_x.py::test_y",))}
    assert untested(rows, set()) == {"F01"}
    assert untested(rows, {"F01"}) == set()
    assert missing_elsewhere(rows["F02"]) == ["tests/unit/test_x.py::test_y"]


def test_a_number_is_given_once(tmp_path: Path) -> None:
    """Two rows with one number are an error."""
    text = '[[row]]\nnumber = "F01"\ngroup = "g"\nfault = "f"\nflanneld = "unknown"\nhere = "h"\n'
    (tmp_path / "rows.toml").write_text(text * 2)
    with pytest.raises(ValueError, match="two rows F01"):
        read(tmp_path / "rows.toml")


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


def phase(node: str, when: str, outcome: str = "passed", **more: object) -> SimpleNamespace:
    """A report as pytest makes it."""
    facts = {"nodeid": f"tests/faults/test_x.py::{node}", "when": when, "duration": 1.0, "user_properties": []}
    passed = {"passed": outcome == "passed", "failed": outcome == "failed", "skipped": outcome == "skipped"}
    return SimpleNamespace(**facts | passed | {"outcome": outcome, "longrepr": None} | more)


def play(progress: Progress, tests: dict[str, list[SimpleNamespace]]) -> None:
    """Let a plugin see tests with these reports."""
    items = [SimpleNamespace(name=name, nodeid=f"tests/faults/test_x.py::{name}") for name in tests]
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: None))  # noqa: ARG005
    progress.pytest_collection_modifyitems(config, items)  # type: ignore[arg-type]
    for item in items:
        for each in tests[item.name]:
            progress.pytest_runtest_logreport(each)  # type: ignore[arg-type]


def run_of(name: str, call: str = "passed", **more: object) -> dict[str, list[SimpleNamespace]]:
    return {name: [phase(name, "setup"), phase(name, "call", call, **more), phase(name, "teardown", **more)]}


def test_a_line_for_a_row_when_its_last_test_has_ended() -> None:
    """Two tests of one row make one line, with what both measured; a test of two rows counts for both."""
    said: list[str] = []
    rows = {"F01": ROW, "F02": Row("F02", "etcd", "x", "unknown", "y")}
    progress = Progress(rows, [], said.append)
    one = run_of("test_f01_a", user_properties=[("measured", "1 ms")])
    play(progress, one | run_of("test_f01_f02_b", user_properties=[("measured", "2 ms")]) | run_of("test_c"))
    assert [line.split()[:2] for line in said] == [["F01", HOLDS], ["F02", HOLDS], [OTHER, HOLDS]]
    assert "6.0 s  a | fault; 1 ms; 2 ms" in said[0]
    assert progress.whole.tests == 3
    assert not progress.failed


@pytest.mark.parametrize(("outcome", "verdict"), [("failed", FAILS), ("skipped", NOT_RUN)])
def test_a_row_holds_only_if_all_its_tests_pass(outcome: str, verdict: str) -> None:
    """One failure is a failure, with its reason; one skipped test has shown nothing."""
    said: list[str] = []
    progress = Progress({"F01": ROW}, [], said.append)
    play(progress, run_of("test_f01_a") | run_of("test_f01_b", outcome, longrepr="E: it broke\nmore"))
    assert progress.results["F01"].verdict == verdict
    assert progress.failed
    assert ("test_f01_b: E: it broke" in said[0]) == (outcome == "failed")


def test_a_row_without_tests_does_not_hold() -> None:
    """A row that nothing was run for makes the run fail."""
    progress = Progress({"F01": ROW}, ["F01"])
    play(progress, run_of("test_f02_a"))
    assert progress.results["F01"].verdict == NOT_RUN
    assert progress.failed


def test_only_the_wanted_rows_are_run() -> None:
    """Others, and tests without a number, are left out."""
    progress = Progress({"F01": ROW, "F02": ROW}, ["F01"], lambda line: None)  # noqa: ARG005
    play(progress, run_of("test_f01_a") | run_of("test_f02_b") | run_of("test_c"))
    assert set(progress.results) == {"F01"}


def test_the_tables_are_put_between_the_marks(tmp_path: Path) -> None:
    """What stands there goes, what stands around stays; a bar in a text does not end its cell."""
    page = tmp_path / "reliability.md"
    page.write_text("before\n<!-- faults -->\nold\n<!-- /faults -->\nafter\n")
    result = Result(tests=2, measured=["1 ms", "2 ms"])
    report.put(report.FAULTS, report.table({"F01": ROW}, {"F01": result}), page)
    assert page.read_text() == (
        f"before\n<!-- faults -->\n### etcd\n\n{report.HEAD}"
        "| F01 | a \\| fault | unknown | goes on | 1 ms; 2 ms | holds |\n<!-- /faults -->\nafter\n"
    )
    page.write_text("nothing")
    with pytest.raises(ValueError, match="are missing"):
        report.put(report.FAULTS, "", page)


def test_rows_that_are_run_again_are_put_into_the_tables(tmp_path: Path) -> None:
    """Their lines are replaced, a new one is added to its group, the count is made anew, and the page says so."""
    page, rows = tmp_path / "reliability.md", {number: replace(ROW, number=number) for number in ("F01", "F02", "F03")}
    results = {"F01": Result(tests=1, failed=["x"]), "F02": Result(tests=1)}
    between = "2026-01-01: 1 of 2 rows hold; 2 tests.\n\n" + report.table({n: rows[n] for n in results}, results)
    page.write_text(f"<!-- faults -->\n{between}\n### Others\n<!-- /faults -->\n")
    amend(rows, {"F01": Result(tests=1, measured=["1 ms"])}, date(2026, 1, 2), page)
    amend(rows, {"F03": Result(tests=1)}, date(2026, 1, 3), page)
    lines = report.parts(report.FAULTS, page)[1].splitlines()
    assert lines[0].startswith("2026-01-01: 3 of 3 rows hold;")
    assert lines[1] == "Run again since, for something was mended: F01 (2026-01-02), F03 (2026-01-03)."
    assert [line.split(" | ")[0::5] for line in lines if line.startswith("| F")] == [
        ["| F01", "holds |"], ["| F02", "holds |"], ["| F03", "holds |"],
    ]  # fmt: skip
    assert lines[-2:] == ["", "### Others"]


def test_the_page_has_the_marks() -> None:
    """docs/dev/reliability.md can take the tables of a run, and says now what is simulated and why."""
    assert report.parts(report.FAULTS, report.PAGE)
    assert report.parts(report.SIMULATED, report.PAGE)[1] == report.simulated(ROWS), "write there what it returns"


@pytest.mark.etcd
def test_the_summary_counts_what_holds() -> None:
    """The sentence says how many rows hold, and on what."""
    results = {"F01": Result(tests=2), "F02": Result(tests=1, failed=["x"])}
    whole = Result(tests=3, observed=Counter({"route messages": 1234}))
    whole.blind.update(["revisions 1 to 5 were compacted", "revisions 7 to 8 were compacted"])
    first, *rest = report.summary(results, whole, 120.0, date(2026, 1, 2)).splitlines()
    assert first.startswith("2026-01-02: 1 of 2 rows hold; 3 tests, 2 minutes; Linux ")
    assert rest == [
        "The observers have judged 1,234 route messages.",
        "They could not see all of etcd's history in 2 tests: revisions were compacted.",
    ]
