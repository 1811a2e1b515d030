"""What the project has set itself, and whether a run has reached it. Pure.

A target is measured on pyflanneld alone; relations hold within one run, on one machine.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.bench.results import FLOOR, OURS, VXLAN, Result, Results, readable, with_backend

OURS_VXLAN, FLOOR_VXLAN = with_backend(OURS, VXLAN), with_backend(FLOOR, VXLAN)

Finding = tuple[str, bool] | None
"""What was measured, as text, and whether the target is met; ``None`` where nothing was measured."""


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table."""

    what: str
    limit: str
    judge: Callable[[Results], Finding]


def at_most(
    case: str, peers: int, limit: float, *, p99: bool = False, contender: str = OURS
) -> Callable[[Results], Finding]:
    """Return the judgement that the median, or the 99th percentile, is not above *limit*."""

    def judge(results: Results) -> Finding:
        found = results.find(case, contender, peers)
        if found is None or not found.samples:
            return None
        value = found.p99 if p99 else found.median
        return readable(value, found.unit), value <= limit

    return judge


def ratio_at_most(
    limit: float, over: Callable[[Results], float], under: Callable[[Results], float]
) -> Callable[[Results], Finding]:
    """Return the judgement that one figure is at most *limit* times another."""

    def judge(results: Results) -> Finding:
        ratio = over(results) / under(results)
        return None if math.isnan(ratio) else (f"{ratio:.2f} times", ratio <= limit)

    return judge


def _median(case: str, peers: int, contender: str = OURS) -> Callable[[Results], float]:
    return lambda results: results.median(case, contender, peers)


def _growth(results: Results) -> Finding:
    grown = [
        results.median("start.routes", contender, 4000) - results.median("start.routes", contender, 250)
        for contender in (OURS, FLOOR)
    ]
    more = grown[0] - grown[1]
    return None if math.isnan(more) else (f"{more:.2f} s", more <= 0.8)


def _start_at_etcd(results: Results) -> Finding:
    """One list, whose size is that of the leases, and one watch, for any number of peers."""
    lists, watches = list(_ours(results, "etcd.start.lists")), list(_ours(results, "etcd.start.watches"))
    if not lists or not watches:
        return None
    text = "; ".join(
        f"{one.peers:,} peers: {one.median:.2f} lists, {watch.median:.0f} watches"
        for one, watch in zip(lists, watches, strict=True)
    )
    return text, all(one.median < 1.5 for one in lists) and all(watch.median == 1 for watch in watches)


def _ours(results: Results, case: str, contender: str = OURS) -> Iterator[Result]:
    return (row for row in results.of(case) if row.contender == contender and row.samples)


def _exactly(case: str, count: int, contender: str = OURS) -> Callable[[Results], Finding]:
    def judge(results: Results) -> Finding:
        counts = {int(sample) for row in _ours(results, case, contender) for sample in row.samples}
        return (" or ".join(map(str, sorted(counts))), counts == {count}) if counts else None

    return judge


TARGETS = (
    *(
        Target(
            f"list received to all routes, {peers:,} peers", "2 times ip -batch",
            ratio_at_most(2, _median("list.routes", peers), _median("list.routes", peers, FLOOR)),
        )
        for peers in (250, 1000, 4000)
    ),
    Target("start to all routes, 250 peers", "0.5 s", at_most("start.routes", 250, 0.5)),
    Target("growth of that to 4,000 peers, beyond ip -batch's", "0.8 s", _growth),
    Target("start to all routes, 16,000 peers", "3 s", at_most("start.routes", 16_000, 3)),
    Target("new lease to route, 250 peers, median", "1.5 ms", at_most("lease.new", 250, 1.5e-3)),
    Target("new lease to route, 250 peers, p99", "5 ms", at_most("lease.new", 250, 5e-3, p99=True)),
    Target(
        "median of that with 4,000 peers", "1.3 times 250 peers",
        ratio_at_most(1.3, _median("lease.new", 4000), _median("lease.new", 250)),
    ),
    Target("deleted route to repaired, median", "2 ms", at_most("repair.route", 250, 2e-3)),
    Target("link up to 250 routes back, median", "50 ms", at_most("repair.link", 250, 0.05)),
    Target("resident memory, 250 peers", "88 MB", at_most("memory.resident", 250, 88e6)),
    Target("resident memory, 4,000 peers", "100 MB", at_most("memory.resident", 4000, 100e6)),
    *(
        Target(f"idle CPU, {peers:,} peers", "0.1 % of a core", at_most("idle.cpu", peers, 0.1))
        for peers in (250, 4000)
    ),
    *(
        Target(f"wake-ups a second, idle, {peers:,} peers", "1", at_most("idle.wakeups", peers, 1))
        for peers in (250, 4000)
    ),
    Target("a start at etcd", "1 list, 1 watch", _start_at_etcd),
    Target("watch events of a renewal", "0", _exactly("etcd.renewal.events", 0)),
    Target("route messages of a restart", "0", _exactly("restart.messages", 0)),
    Target("route messages after a cut with 1 change", "1", _exactly("cut.messages", 1)),
)  # fmt: skip


def _beside_host_gw(case: str, peers: int, limit: float) -> Callable[[Results], Finding]:
    return ratio_at_most(limit, _median(case, peers, OURS_VXLAN), _median(case, peers))


VXLAN_TARGETS = (
    *(
        Target(
            f"list received to all objects, {peers:,} peers", "2 times ip and bridge -batch",
            ratio_at_most(2, _median("list.routes", peers, OURS_VXLAN), _median("list.routes", peers, FLOOR_VXLAN)),
        )
        for peers in (250, 1000, 4000)
    ),
    *(
        Target(
            f"start to all objects, {peers:,} peers", f"{limit:g} times host-gw",
            _beside_host_gw("start.routes", peers, limit),
        )
        for peers, limit in ((250, 2.0), (1000, 2.1), (4000, 3.1))
    ),
    *(
        Target(
            f"new lease to its last object, {peers:,} peers, median", "1.3 times host-gw",
            _beside_host_gw("lease.new", peers, 1.3),
        )
        for peers in (250, 1000, 4000)
    ),
    *(
        Target(f"deleted {what} to repaired, median", "3 ms", at_most(case, 250, 3e-3, contender=OURS_VXLAN))
        for what, case in (
            ("neighbour", "repair.neighbour"), ("forwarding entry", "repair.forwarding"), ("route", "repair.route"),
        )
    ),
    Target("idle CPU, 4,000 peers", "0.4 % of a core", at_most("idle.cpu", 4000, 0.4, contender=OURS_VXLAN)),
    Target("messages of a renewal", "0", _exactly("renewal.messages", 0, OURS_VXLAN)),
    Target("messages of a restart", "0", _exactly("restart.messages", 0, OURS_VXLAN)),
)  # fmt: skip


def judged(results: Results, targets: Sequence[Target] = TARGETS) -> list[tuple[str, str, str, str]]:
    """Return the table: what, at most, measured, met; of a run that was not to measure all, what it has measured."""
    rows = []
    for target in targets:
        finding = target.judge(results)
        if finding is None and not results.about.get("whole"):
            continue
        measured, met = ("not measured", True) if finding is None else finding
        rows.append((target.what, target.limit, measured, "—" if finding is None else "met" if met else "**not met**"))
    return rows
