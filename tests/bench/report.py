"""The report: tables in Markdown, plots, the JSON file; and their places in ``docs/dev/performance.md``."""

import math
import os
import platform
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyflanneld import __version__
from pyflanneld.lab.run import run
from tests.bench.plot import Chart, Series
from tests.bench.results import FLOOR, HOST_GW, OURS, STATIC, VXLAN, Result, Results, readable, three_digits
from tests.bench.targets import FLOOR_VXLAN, OURS_VXLAN, TARGETS, VXLAN_TARGETS, Target, judged

DOCS = Path(__file__).parents[2] / "docs" / "dev"
PAGE = DOCS / "performance.md"
YARDSTICKS = (FLOOR, STATIC, FLOOR_VXLAN)

QUANTITIES = {
    "start.routes": "start to all routes",
    "start.ready": "start to ready",
    "start.spread": "first to last of these messages of a start",
    "list.routes": "list received to all routes in the kernel, within the process",
    "lease.new": "new lease to route in the kernel",
    "lease.gone": "removed lease to route gone",
    "lease.burst": "1,000 new leases at once to the last route",
    "repair.route": "route deleted by hand to repaired",
    "repair.neighbour": "neighbour deleted by hand to repaired",
    "repair.forwarding": "forwarding entry deleted by hand to repaired",
    "repair.device": "device deleted by hand to all objects on a new one",
    "repair.link": "link up to all routes back",
    "restart.ready": "restart with nothing changed, to ready",
    "restart.messages": "the kernel's messages of a restart with nothing changed",
    "cut.messages": "the kernel's messages after a cut from etcd in which one lease was added",
    "crowd.routes": "many hosts without a lease: configuration written to all routes on all hosts",
    "memory.resident": "resident memory",
    "idle.cpu": "idle, CPU of one core",
    "idle.children_cpu": "idle, CPU of the programs it starts",
    "idle.wakeups": "idle, wake-ups a second",
    "etcd.start.requests": "requests to etcd at a start",
    "etcd.start.lists": "bytes sent by etcd at a start, in lists of all subnets",
    "etcd.start.watches": "watches opened at a start",
    "etcd.renewal.requests": "requests to etcd at a renewal",
    "etcd.renewal.events": "watch events of a renewal",
    "renewal.messages": "the kernel's messages of a renewal",
    "traffic.throughput": "pod to pod across hosts, TCP",
    "traffic.rtt": "pod to pod across hosts, UDP round trip",
    "traffic.churn.throughput": "the same TCP while 100 leases a second come and go",
    "traffic.churn.rtt": "the same UDP while 100 leases a second come and go",
}
BLOCKS = {
    "start": ("start.routes", "start.ready", "start.spread", "list.routes"),
    "leases": ("lease.new", "lease.gone", "lease.burst"),
    "repair": (
        "repair.neighbour", "repair.forwarding", "repair.route", "repair.device", "repair.link", "restart.ready",
        "restart.messages", "cut.messages",
    ),
    "crowd": ("crowd.routes",),
    "costs": (
        "memory.resident", "idle.cpu", "idle.children_cpu", "idle.wakeups", "etcd.start.requests", "etcd.start.lists",
        "etcd.start.watches", "etcd.renewal.requests", "etcd.renewal.events", "renewal.messages",
    ),
    "traffic": ("traffic.throughput", "traffic.churn.throughput", "traffic.rtt", "traffic.churn.rtt"),
}  # fmt: skip


def about(*, quick: bool, whole: bool) -> dict[str, Any]:
    """Return what a reader has to know of the machine and the programs."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "pyflanneld": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "etcd": run("etcd", "--version").splitlines()[0].removeprefix("etcd Version: "),
        "iproute2": run("ip", "-V").split()[2].rstrip(","),
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "quick": quick,
        "whole": whole,
    }


# Tables


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table: the first column to the left, the others to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def targets_table(results: Results, targets: Sequence[Target] = TARGETS) -> str:
    """Return the table of the targets; empty if none of them was measured."""
    rows = judged(results, targets)
    return markdown(("target", "at most", "measured", ""), rows) if rows else ""


def ratios_table(results: Results, us: str = OURS, yardsticks: Sequence[str] = YARDSTICKS) -> str:
    """Return the ratios of the medians: of ours to the yardsticks, and of the other programs to ours."""
    others = [name for name in results.contenders() if name != us]
    rows = []
    for case, title in QUANTITIES.items():
        for peers in results.peers(case):
            ours = results.find(case, us, peers)
            if ours is None or not ours.median > 0 or case.endswith("messages"):
                continue
            ratios = [
                _ratio(ours.median, results.median(case, one, peers), is_yardstick=one in yardsticks)
                for one in others
            ]
            if not all(map(math.isnan, ratios)):
                cells = ["—" if math.isnan(ratio) else three_digits(ratio) for ratio in ratios]
                rows.append((title, f"{peers:,}", readable(ours.median, ours.unit), *cells))
    heads = [f"{us} / {other}" if other in yardsticks else f"{other} / {us}" for other in others]
    return markdown(("quantity, median", "peers", us, *heads), rows) if rows else ""


def _ratio(ours: float, other: float, *, is_yardstick: bool) -> float:
    """Return how many times the yardstick ours is, or how many times ours another program's is."""
    over, under = (ours, other) if is_yardstick else (other, ours)
    return over / under if under else math.nan


def case_table(results: Results, case: str) -> str:
    """Return one quantity for all contenders, by number of peers; empty where it was not measured."""
    names = results.contenders(case)
    rows = []
    for peers in results.peers(case):
        found = [results.find(case, name, peers) for name in names]
        rows.append((f"{peers:,}", *(_cell(one) for one in found)))
    if not rows:
        return ""
    return f"**{QUANTITIES[case].capitalize()}**\n\n{markdown(('peers', *names), rows)}"


def _cell(result: Result | None) -> str:
    if result is None:
        return "—"
    if not result.samples:
        return result.note or "—"
    text = readable(result.median, result.unit)
    return f"{text} (p99 {readable(result.p99, result.unit)})" if result.p99 != result.median else text


def machine(results: Results) -> str:
    """Return the sentence about where and when."""
    a = results.about
    return (
        f"Measured on {a['date']}{' (a quick run)' if a['quick'] else ''}: pyflanneld {a['pyflanneld']} on Python "
        f"{a['python']}, Linux {a['kernel']}, etcd {a['etcd']}, {a['iproute2']}, {a['cores']} cores of "
        f"{a['processor']}."
    ) + "".join(f" Given up: {told}." for told in a.get("given_up", ()))


def blocks(results: Results) -> dict[str, str]:
    """Return the tables by the name that ``docs/dev/performance.md`` has for their place."""
    host_gw = results.with_backend(HOST_GW)
    found = {
        "about": machine(results),
        "targets": targets_table(host_gw),
        "ratios": ratios_table(host_gw),
    }
    for name, cases in BLOCKS.items():
        found[name] = "\n\n".join(table for case in cases if (table := case_table(host_gw, case)))
    found["vxlan"] = vxlan_block(results)
    return {name: text for name, text in found.items() if text}


def vxlan_block(results: Results) -> str:
    """Return the tables of vxlan, with pyflanneld's host-gw beside it; empty where it was not measured."""
    vxlan = results.with_backend(VXLAN)
    cases, names = {row.case for row in vxlan.rows}, {OURS, *vxlan.contenders()}
    if not cases:
        return ""
    rows = [row for row in results.rows if row.case in cases and row.contender in names]
    beside = Results(results.about, rows)
    tables = [targets_table(results, VXLAN_TARGETS), ratios_table(beside, OURS_VXLAN, (*YARDSTICKS, OURS))]
    return "\n\n".join(table for table in (*tables, *(case_table(beside, case) for case in QUANTITIES)) if table)


def text(results: Results) -> str:
    """Return the whole report, ratios first."""
    found = blocks(results)
    order = ("ratios", "targets", "about", *BLOCKS, "vxlan")
    return "\n\n".join(found[name] for name in order if name in found)


# Plots


def charts(results: Results) -> Iterator[tuple[str, Chart]]:
    """Yield the plots, with the names of their files."""
    results = results.with_backend(HOST_GW)
    by_list, names = "List received to all routes in the kernel", results.contenders()
    yield "start", _by_peers(results, "Start to all routes", "seconds (median)", "start.routes")
    yield "list", _by_peers(results, by_list, "seconds (median)", "list.routes")
    latency = [
        Series(
            f"{name}, {what}", _points(results, "lease.new", name, p99=what == "p99", scale=1e3),
            dashed=what == "p99", colour=names.index(name),
        )
        for name in results.contenders("lease.new")
        for what in ("median", "p99")
    ]  # fmt: skip
    present = results.peers("lease.new")
    yield "lease", Chart("New lease to route in the kernel", "peers present", "milliseconds", latency, x_ticks=present)
    # Whoever has no peers at all has no place on a logarithmic scale.
    yield "memory", _by_peers(results, "Resident memory", "MB", "memory.resident", scale=1e-6, log_y=False)


def _by_peers(
    results: Results, title: str, y_label: str, case: str, *, scale: float = 1.0, log_y: bool = True
) -> Chart:
    lines = [
        Series(name, _points(results, case, name, scale=scale), colour=colour)
        for colour, name in enumerate(results.contenders())
        if name in results.contenders(case)
    ]
    return Chart(title, "peers", y_label, lines, log_y=log_y, x_ticks=[n for n in results.peers(case) if n])


def _points(
    results: Results, case: str, name: str, *, p99: bool = False, scale: float = 1.0
) -> list[tuple[float, float]]:
    found = sorted((row for row in results.of(case) if row.contender == name), key=lambda row: row.peers)
    return [(row.peers, (row.p99 if p99 else row.median) * scale) for row in found]


# Files


def write(results: Results, folder: Path) -> None:
    """Write the JSON file, the report and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(results.json())
    (folder / "report.md").write_text(text(results) + "\n")
    for name, chart in charts(results):
        if any(series.points for series in chart.series):
            (folder / f"{name}.svg").write_text(chart.svg())


def write_docs(results: Results) -> None:
    """Renew the tables of ``docs/dev/performance.md``, and what it shows."""
    write(results, DOCS / "performance")
    (DOCS / "performance" / "report.md").unlink()
    PAGE.write_text(renewed(PAGE.read_text("utf-8"), blocks(results)), "utf-8")


def renewed(page: str, found: dict[str, str]) -> str:
    """Return *page* with each block between ``<!-- bench:name -->`` and ``<!-- /bench:name -->`` renewed.

    Raises:
        ValueError: a block has no place, or a place no block.
    """
    places = re.findall(r"<!-- bench:(\w+) -->", page)
    if sorted(places) != sorted(found):
        raise ValueError(f"the page has places for {sorted(places)}, and there are {sorted(found)}")
    for name, block in found.items():
        mark, end = f"<!-- bench:{name} -->\n", f"<!-- /bench:{name} -->"
        before, _, rest = page.partition(mark)
        page = f"{before}{mark}{block}\n{end}{rest.partition(end)[2]}"
    return page
