"""The tables of docs/scaling.md, and how they get there: between ``<!-- name -->`` and ``<!-- /name -->``."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.bench.scaling import model, simulate
from tests.bench.scaling.real import Report

PAGE_FILE = Path(__file__).parents[3] / "docs" / "scaling.md"
SIMULATED = (250, 1_000, 4_000, 10_000)
STARTED = (250, 500, 1_000, 2_000)
STARTS_UNTIL_S = 120.0


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; its first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def across(head: str, rows: Iterable[tuple[str, Callable[[model.Site], str]]]) -> str:
    """Return a table with a column for each size of ``model.SIZES``."""
    sites = [model.Site(nodes) for nodes in model.SIZES]
    return table([head, *(f"{site.nodes:,}" for site in sites)], [[what, *map(tell, sites)] for what, tell in rows])


def number(amount: float) -> str:
    """Return *amount* with two digits that count: ``0.067``, ``1.7``, ``210``, ``120,000``."""
    if amount == 0:
        return "0"
    digits = 1
    while digits < 9 and abs(amount) < 10 ** (2 - digits):
        digits += 1
    return f"{amount:,.{digits - 1}f}" if abs(amount) < 100 else f"{round(amount, 2 - len(str(int(abs(amount))))):,.0f}"


def size(amount: float) -> str:
    """Return bytes in the unit that fits."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if amount >= scale:
            return f"{number(amount / scale)} {unit}"
    return f"{number(amount)} B"


def span(seconds: float) -> str:
    """Return a time in the unit that fits."""
    for unit, scale in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * scale or (unit == "s" and seconds >= 1):
            return f"{number(seconds / scale)} {unit}"
    return f"{number(seconds * 1000)} ms"


def quiet_table() -> str:
    """Return what a cluster costs when nothing is wrong."""
    return across("nodes", [
        ("keep-alives a second", lambda site: number(model.load(site).keep_alives)),
        ("reads of the own key a second", lambda site: number(model.load(site).own_reads)),
        ("signs of life asked for a second", lambda site: number(model.load(site).signs_of_life)),
        ("pages of lists a second", lambda site: number(model.load(site).list_pages)),
        ("requests a second, together", lambda site: number(model.load(site).requests)),
        ("events sent a second", lambda site: number(model.load(site).events)),
        ("bytes sent a second", lambda site: size(model.load(site).sent_bytes)),
        ("of these, lists", lambda site: size(model.load(site).list_bytes)),
        ("period of the complete list", lambda site: span(site.list_period_s)),
        ("busy cores of etcd", lambda site: number(model.load(site).cores)),
        ("memory of a member", lambda site: size(model.etcd_memory_bytes(site))),
        ("database", lambda site: size(model.database_bytes(site))),
        ("memory of a node's daemon", lambda site: size(model.node_memory_bytes(site.nodes))),
        ("routes of a node", lambda site: f"{model.routes(site.nodes):,}"),
        ("their memory in the kernel", lambda site: size(model.route_memory_bytes(site.nodes))),
        ("all of them put at a start", lambda site: span(model.all_routes_s(site.nodes))),
        ("new lease to the last kernel", lambda site: span(model.convergence_s(site))),
    ])  # fmt: skip


def list_period_table() -> str:
    """Return what complete lists would cost with a fixed period, beside what they cost."""
    return across("nodes", [
        ("lists every 5 min: bytes a second", lambda site: size(_every(site, 300.0).list_bytes)),
        ("lists every 5 min: busy cores", lambda site: number(_every(site, 300.0).listed_keys * model.KEY_CPU_S)),
        ("as it is: period", lambda site: span(site.list_period_s)),
        ("as it is: bytes a second", lambda site: size(model.load(site).list_bytes)),
        ("as it is: busy cores", lambda site: number(model.load(site).listed_keys * model.KEY_CPU_S)),
    ])  # fmt: skip


def _every(site: model.Site, relist_s: float) -> model.Load:
    return model.load(model.Site(site.nodes, relist_s=relist_s))


def crowd_table() -> str:
    """Return what the lists after a break cost."""
    return across("nodes", [
        ("a member lost: lists", lambda site: f"{model.lost_member(site).lists:,}"),
        ("bytes of these lists", lambda site: size(model.lost_member(site).bytes)),
        ("etcd busy with them, at once", lambda site: span(model.lost_member(site).at_once_s)),
        ("all of etcd away: bytes of all lists", lambda site: size(model.lost_etcd(site).bytes)),
        ("etcd busy with them, at once", lambda site: span(model.lost_etcd(site).at_once_s)),
        ("the round over which they spread", lambda site: span(model.lost_etcd(site).in_turn_s)),
        ("half of the nodes die: until revoked", lambda site: span(model.mass_death_s(site))),
    ])  # fmt: skip


def network_table() -> str:
    """Return how many hosts fit into a network, by ``SubnetLen``."""
    lengths = (22, 23, 24, 25, 26, 27, 28)
    rows = [
        [f"/{net}", *(f"{model.subnets(net, length):,}" for length in lengths)] for net in (8, 10, 12, 14, 16)
    ]  # fmt: skip
    return table(["Network", *(f"/{length}" for length in lengths)], rows)


def simulated_table(seed: int = 1) -> str:
    """Return what becomes of crowds, with turns and without."""
    rows = []
    for nodes in SIMULATED:
        site = model.Site(nodes)
        cells = [f"{nodes:,}"]
        for scene in (simulate.lost_member, simulate.lost_etcd):
            for in_turn in (False, True):
                out = scene(site, seed, in_turn=in_turn)
                away_s = 60.0 if scene is simulate.lost_etcd else 0.0
                watching = span(out.blind_s - away_s) if out.done == out.nodes else f"{out.done / out.nodes:.0%} ever"
                cells.append(f"{watching}, {out.timeouts:,}")
        rows.append(cells)
    head = ["nodes", "member lost, no turns", "member lost", "etcd away 1 min, no turns", "etcd away 1 min"]
    return table(head, rows)


def started_table(seed: int = 1) -> str:
    """Return what becomes of simultaneous starts."""
    rows = []
    for nodes in (*STARTED, 4_000, 10_000):
        site = model.Site(nodes)
        back = simulate.power_back(site, seed, until_s=STARTS_UNTIL_S)
        first = simulate.first_start(site, seed, within_s=1.0, until_s=STARTS_UNTIL_S)
        rows.append([f"{nodes:,}", _when(back), _when(first), number(first.mean_lists), f"{first.peak_requests:,}"])
    head = ["nodes", "power back within 30 s", "first start within 1 s", "lists for each", "busiest second"]
    return table(head, rows)


def _when(out: simulate.Outcome) -> str:
    return span(out.seconds) if out.done == out.nodes else f"only {out.done:,} in {span(STARTS_UNTIL_S)}"


def measured_table(report: Report) -> str:
    """Return what a real etcd has shown."""
    rows = [[row.what, number(row.said), number(row.measured), f"{row.ratio:.2f}"] for row in report.rows]
    return table(["on a real etcd", "model", "measured", "ratio"], rows)


MODEL_TABLES: dict[str, Callable[[], str]] = {
    "quiet": quiet_table,
    "periods": list_period_table,
    "crowds": crowd_table,
    "networks": network_table,
}
"""What a test compares with the page."""


def block(text: str, name: str) -> str:
    """Return what stands between the marks.

    Raises:
        ValueError: the marks are missing.
    """
    found = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", text, re.DOTALL)
    if found is None:
        raise ValueError(f"the marks <!-- {name} --> and <!-- /{name} --> are missing")
    return found[1]


def put(text: str, name: str, content: str) -> str:
    """Return the page with *content* between the marks."""
    block(text, name)
    return re.sub(
        rf"<!-- {name} -->\n.*?<!-- /{name} -->",
        lambda _: f"<!-- {name} -->\n{content}\n<!-- /{name} -->", text, count=1, flags=re.DOTALL,
    )  # fmt: skip
