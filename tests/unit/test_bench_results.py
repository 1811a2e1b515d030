"""The benchmark's arithmetic, tables and targets."""

import json
import math

import pytest

from tests.bench import report
from tests.bench.results import FLOOR, OURS, Result, Results, from_document, percentile, readable
from tests.bench.targets import TARGETS, judged


def test_percentile_is_a_sample() -> None:
    """The nearest rank: of a hundred samples the 99th, of fewer the worst, whatever their order."""
    hundred = [float(number) for number in range(100, 0, -1)]
    assert percentile(hundred, 99) == 99
    assert percentile(hundred, 50) == 50
    assert percentile([3.0, 1.0, 2.0], 99) == 3
    assert percentile([7.0], 0) == 7


def test_the_unlucky_one_of_a_hundred() -> None:
    """Of times it is the longest, of throughput the least."""
    assert Result("lease.new", OURS, 250, "s", (1.0, 3.0, 2.0)).p99 == 3
    assert Result("traffic.throughput", OURS, 250, "bit/s", (1.0, 3.0, 2.0)).p99 == 1


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123456, "s", "12.3 ms"), (1.5, "s", "1.50 s"), (93e-6, "s", "93.0 µs"), (0.0, "s", "0 µs"),
        (82_100_000, "B", "82.1 MB"), (9.35e9, "bit/s", "9.35 Gbit/s"), (0.0999, "%", "0.0999 %"),
        (1.06, "times", "1.06 times"), (12.0, "1", "12"), (0.25, "1", "0.25"), (16_000.0, "1", "16,000"),
        (math.nan, "s", "—"),
    ],
)  # fmt: skip
def test_quantities_read_well(value: float, unit: str, text: str) -> None:
    """Three digits that count, in the unit that suits."""
    assert readable(value, unit) == text


def test_samples_of_one_quantity_are_kept_together() -> None:
    """What is measured in several turns is one result; a note says why samples are missing."""
    results = Results()
    results.add("start.routes", OURS, 250, "s", [1.0])
    results.add("start.routes", FLOOR, 250, "s", [0.5])
    results.add("start.routes", OURS, 250, "s", [3.0, 2.0], "late")
    found = results.find("start.routes", OURS, 250)
    assert found is not None
    assert (found.samples, found.median, found.p99, found.note) == ((1.0, 3.0, 2.0), 2.0, 3.0, "late")
    assert len(results.rows) == 2
    assert math.isnan(results.median("start.routes", OURS, 1000))


def test_the_document_reads_back() -> None:
    """The JSON file holds every sample, and what was not measured as null, which is JSON for every reader."""
    results = Results({"quick": True})
    results.add("lease.new", OURS, 250, "s", [0.001234, 0.002])
    results.add("lease.new", "other", 250, "s", [], "not within 30 s")
    document = json.loads(results.json(), parse_constant=pytest.fail)
    assert document["results"][0]["median"] == 0.001617
    assert document["results"][1]["median"] is None
    assert from_document(document) == results


def two_starts() -> Results:
    """Return what a run with two contenders and the floor might have measured."""
    results = Results({"whole": False})
    for peers, ours, floor, other in ((250, 0.4, 0.01, 0.15), (4000, 1.0, 0.25, 11.6)):
        results.add("start.routes", OURS, peers, "s", [ours])
        results.add("start.routes", FLOOR, peers, "s", [floor])
        results.add("start.routes", "flanneld", peers, "s", [other])
    return results


def test_ratios_are_of_ours_to_the_floor_and_of_others_to_ours() -> None:
    """Both are larger than one where there is something to be said, and a missing figure is a dash."""
    results = two_starts()
    results.add("memory.resident", OURS, 250, "B", [80e6])
    results.add("memory.resident", "flanneld", 250, "B", [28e6])
    table = report.ratios_table(results).splitlines()
    assert table[0] == "| quantity, median | peers | pyflanneld | pyflanneld / ip -batch | flanneld / pyflanneld |"
    assert table[2] == "| start to all routes | 250 | 400 ms | 40.0 | 0.375 |"
    assert table[3] == "| start to all routes | 4,000 | 1.00 s | 4.00 | 11.6 |"
    assert table[4] == "| resident memory | 250 | 80.0 MB | — | 0.350 |"


def test_a_table_says_why_a_figure_is_missing() -> None:
    """Who did not get there has the reason in the place of the figure; several samples have their p99."""
    results = Results()
    results.add("start.routes", OURS, 250, "s", [0.4, 0.5, 0.6])
    results.add("start.routes", "flanneld", 250, "s", [], "250 routes: not within 30 s")
    row = report.case_table(results, "start.routes").splitlines()[-1]
    assert row == "| 250 | 500 ms (p99 600 ms) | 250 routes: not within 30 s |"


def test_targets_are_judged() -> None:
    """Limits, relations and counts, each met or not; a part of a run shows only what it has measured."""
    results = two_starts()
    results.add("lease.new", OURS, 250, "s", [0.0010, 0.0011, 0.0060])
    results.add("lease.new", OURS, 4000, "s", [0.0015])
    results.add("restart.messages", OURS, 250, "1", [0, 0])
    results.add("cut.messages", OURS, 250, "1", [1, 251])
    verdicts = {what: (measured, met) for what, _, measured, met in judged(results)}
    assert verdicts == {
        "start to all routes, 250 peers": ("400 ms", "met"),
        "growth of that to 4,000 peers, beyond ip -batch's": ("0.36 s", "met"),
        "new lease to route, 250 peers, median": ("1.10 ms", "met"),
        "new lease to route, 250 peers, p99": ("6.00 ms", "**not met**"),
        "median of that with 4,000 peers": ("1.36 times", "**not met**"),
        "route messages of a restart": ("0", "met"),
        "route messages after a cut with 1 change": ("1 or 251", "**not met**"),
    }


@pytest.mark.parametrize(("lists", "watches", "met"), [(1.1, 1, True), (2.1, 1, False), (1.1, 2, False)])
def test_one_list_and_one_watch_a_start(lists: float, watches: int, met: bool) -> None:
    """A second list, or a second watch, with any number of peers, is too much."""
    results = Results()
    for peers, lists_seen, watches_seen in ((250, 1.0, 1), (4000, lists, watches)):
        results.add("etcd.start.lists", OURS, peers, "times", [lists_seen])
        results.add("etcd.start.watches", OURS, peers, "1", [watches_seen])
    assert [row[-1] for row in judged(results)] == ["met" if met else "**not met**"]


def test_a_whole_run_shows_what_it_could_not_measure() -> None:
    """No target drops out of sight."""
    rows = judged(Results({"whole": True}))
    assert len(rows) == len(TARGETS)
    assert {row[2:] for row in rows} == {("not measured", "—")}


def test_every_quantity_has_its_table() -> None:
    """What a case measures is in one block of the page."""
    shown = [case for cases in report.BLOCKS.values() for case in cases]
    assert sorted(shown) == sorted(report.QUANTITIES)


def test_the_page_is_renewed_between_its_marks() -> None:
    """What stands between the marks is replaced, the rest stays, and a forgotten place is an error."""
    page = (
        "Before.\n<!-- bench:start -->\nold\n<!-- /bench:start -->\nBetween.\n"
        "<!-- bench:about -->\n<!-- /bench:about -->\n"
    )
    new = report.renewed(page, {"start": r"| 1 \1 |", "about": "Here."})
    assert new == (
        "Before.\n<!-- bench:start -->\n| 1 \\1 |\n<!-- /bench:start -->\nBetween.\n"
        "<!-- bench:about -->\nHere.\n<!-- /bench:about -->\n"
    )
    with pytest.raises(ValueError, match="places"):
        report.renewed(page, {"start": "x"})


def test_the_page_has_a_place_for_each_table() -> None:
    """docs/dev/performance.md can be renewed by a whole run."""
    found = dict.fromkeys(["about", "targets", "ratios", *report.BLOCKS], "x")
    assert report.renewed(report.PAGE.read_text("utf-8"), found).count("\nx\n") == len(found)
