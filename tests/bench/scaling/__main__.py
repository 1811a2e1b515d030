"""Print the tables of docs/scaling.md, made anew: the model, the simulation, and the check on a real etcd.

    python -m tests.bench.scaling [--write] [--model] [--nodes N]

``--write`` puts them into the page, ``--model`` leaves out all that takes time.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.scaling import page
from tests.bench.scaling.real import Report, run_check


def main() -> int:
    """Run what is asked for; 1 when the daemons made more lists than they may."""
    parser = argparse.ArgumentParser(prog="tests.bench.scaling", description="How far a cluster can grow.")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    parser.add_argument("--model", action="store_true", help="only what the formulas say")
    parser.add_argument("--nodes", type=int, default=200, help="nodes on the real etcd")
    asked = parser.parse_args()
    reports: list[Report] = []

    def measured() -> str:
        with tempfile.TemporaryDirectory(prefix="pyflanneld-scaling-") as where:
            reports.append(run_check(Path(where), nodes=asked.nodes, members=3))
        return page.measured_table(reports[-1])

    slow: dict[str, Callable[[], str]] = {
        "simulated": page.simulated_table, "started": page.started_table, "measured": measured,
    }
    text = page.PAGE_FILE.read_text("utf-8") if asked.write else ""
    for name, make in (page.MODEL_TABLES | ({} if asked.model else slow)).items():
        began = time.monotonic()
        made = make()
        print(f"{made}\n({name}, {time.monotonic() - began:.0f} s)\n", flush=True)
        text = page.put(text, name, made) if asked.write else ""
    if asked.write:
        page.PAGE_FILE.write_text(text, "utf-8")
    return max((_verdict(report) for report in reports), default=0)


def _verdict(report: Report) -> int:
    most = max(report.lists_after_break, default=0)
    print(
        f"leader lost: {report.broken} watches broke and were open again within {report.blind_s:.1f} s; "
        f"at most {most} list(s) by one node; {report.vanished} leases vanished"
    )
    return 0 if most <= 1 and not report.vanished else 1


if __name__ == "__main__":
    sys.exit(main())
