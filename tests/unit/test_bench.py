"""The benchmark: what it concludes from its figures, and that its page has a place for each of them."""

import io
import json

import pytest

from tests.bench import report
from tests.bench.bench import QUICK, Bench, Case, Progress
from tests.bench.report import machine
from tests.bench.results import FLOOR, HOST_GW, OURS, VXLAN, NotMeasuredError, Result, Results, from_document
from tests.bench.targets import FLOOR_VXLAN, OURS_VXLAN, TARGETS, VXLAN_TARGETS, judged


def test_the_unlucky_one_of_a_hundred() -> None:
    """Of times it is the longest, of throughput the least."""
    assert Result("lease.new", OURS, 250, "s", (1.0, 3.0, 2.0)).p99 == 3
    assert Result("traffic.throughput", OURS, 250, "bit/s", (1.0, 3.0, 2.0)).p99 == 1


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


def test_vxlan_has_a_part_of_its_own() -> None:
    """Its targets are ratios to host-gw and iproute2 in the same run; no table of host-gw shows its figures."""
    results = two_starts()
    for name, list_s, start_s in ((OURS_VXLAN, 0.021, 0.9), (FLOOR_VXLAN, 0.01, 0.02), ("flanneld, vxlan", 0.05, 0.3)):
        results.add("list.routes", name, 250, "s", [list_s])
        results.add("start.routes", name, 250, "s", [start_s])
    verdicts = {what: (measured, met) for what, _, measured, met in judged(results, VXLAN_TARGETS)}
    assert verdicts == {
        "list received to all objects, 250 peers": ("2.10 times", "**not met**"),
        "start to all objects, 250 peers": ("2.25 times", "**not met**"),
    }
    assert "| start to all routes | 250 | 900 ms | 2.25 | 45.0 | 0.333 |" in report.vxlan_block(results)
    assert VXLAN not in report.ratios_table(results.with_backend(HOST_GW))


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


def test_the_page_has_a_place_for_each_table() -> None:
    """docs/dev/performance.md can be renewed by a whole run."""
    found = dict.fromkeys(["about", "targets", "ratios", "vxlan", *report.BLOCKS], "x")
    assert report.renewed(report.PAGE.read_text("utf-8"), found).count("\nx\n") == len(found)


async def test_a_case_that_fails_does_not_end_the_run() -> None:
    """What it has measured is kept and shown, and the report says that it was given up, and why."""

    async def failing(bench: Bench, peers: int) -> None:
        bench.record("start.ready", "pyflanneld", peers, "s", [0.5])
        raise NotMeasuredError("no route within 15 s")

    keys = ("date", "pyflanneld", "python", "kernel", "etcd", "iproute2", "cores", "processor", "quick")
    out, results = io.StringIO(), Results(dict.fromkeys(keys, "x"))
    bench = Bench(None, (), QUICK, results, Progress(out))  # type: ignore[arg-type]
    await bench.do(Case("start", (), failing), 250)
    assert results.median("start.ready") == 0.5
    assert "given up: start with 250 peers: no route within 15 s" in out.getvalue()
    assert "start.ready" in out.getvalue()
    assert machine(results).endswith("Given up: start with 250 peers: no route within 15 s.")
