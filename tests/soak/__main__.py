"""The soak: ``python -m tests.soak --minutes 20 --seed 1``, as root; ``--help`` tells the rest.

Exit code 1 when after a fault something did not get right again, or when something did not stay flat.
"""

import argparse
import json
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from random import Random

from pyflanneld.lab.cluster import ROOT, Lab
from pyflanneld.lab.run import LabError
from tests.soak import report
from tests.soak.faults import FAULTS, Fault
from tests.soak.run import Story, soak
from tests.soak.site import built
from tests.soak.stopping import stopped_by_signals

PEERS = 1000
WRITTEN_FROM_S = 0.98 * 20 * 60  # the last sample comes a little before the end
CHURN_S = 0.5


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Hours of trouble: what does it leave?")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (%(default)g)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="decides about the faults")
    parser.add_argument("--peers", type=int, default=PEERS, help="how many (%(default)d)")
    parser.add_argument("--pace", type=float, default=1.0, help="how long faults last; 0.2: a fifth of the usual times")
    parser.add_argument("--fault", type=_fault, action="append", metavar="NAME", help="only these; may be repeated")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write samples, plots and the daemons' logs there")
    parser.add_argument("--report", type=_story, metavar="FILE", help="do nothing, report what this soak.json holds")
    parser.add_argument("--name", default="soak", help="of the laboratory")
    parser.add_argument("--root", type=Path, default=ROOT, help="where its files are while it runs")
    return parser.parse_args(argv)


def _fault(name: str) -> Fault:
    for fault in FAULTS:
        if fault.act.__name__ == name:
            return fault
    raise argparse.ArgumentTypeError(f"no such fault; there are {', '.join(fault.act.__name__ for fault in FAULTS)}")


def _story(value: str) -> Story:
    try:
        return Story.read(json.loads(Path(value).read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{value}: not the samples of a soak: {error}") from error


def main(argv: Sequence[str]) -> int:
    """Run it, tell what came of it, and return the exit code."""
    args = parse(argv)
    if args.report:
        return conclude(args.report)
    story = Story(args.seed, args.peers)
    say(f"seed {args.seed}: {args.minutes:g} minutes, {args.peers} peers")
    try:
        with stopped_by_signals() as check:
            run(args, story, check)
    except (LabError, TimeoutError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsoak: stopped; everything is removed again", file=sys.stderr)
        return 130
    return conclude(story)


def run(args: argparse.Namespace, story: Story, check: Callable[[], None]) -> None:
    """Put everything up, soak, and take everything away; *check* raises what ends it early."""
    rng = Random(f"{args.seed} peers")
    with built(
        args.name, args.root, peers=args.peers, period_s=CHURN_S * args.pace, pace=args.pace, rng=rng
    ) as site:
        say("all routes are there")
        try:
            soak(site, story, duration_s=60 * args.minutes, faults=args.fault or FAULTS, say=say, check=check)
        finally:
            if args.out:
                report.write(story, args.out)
                keep_logs(site.lab, args.out)


def conclude(story: Story) -> int:
    """Tell what came of it; renew the page when the run was a long one with everything in it."""
    found, today = report.verdict(story), datetime.now().astimezone().date()
    say(report.text(story, found, today))
    whole = {each.fault for each in story.injections} >= {fault.name for fault in FAULTS} and story.peers >= PEERS
    if whole and story.lasted_s >= WRITTEN_FROM_S:
        report.write_docs(story, found, today, say)
    return 1 if found.complaints else 0


def keep_logs(lab: Lab, folder: Path) -> None:
    """Copy the daemons' logs to where they outlive the laboratory."""
    for node in lab.nodes:
        shutil.copy(node.process.log, folder / f"{node.name}.log")


def say(what: str) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
