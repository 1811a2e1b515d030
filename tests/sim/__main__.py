"""``python -m tests.sim``: run seeds, print the story of each that fails, exit 1 if one does."""

import argparse
import sys

from tests.sim.sweep import LINES, sweep, tell
from tests.sim.world import play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="how many (default: 200)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first seed (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--seed", type=int, help="run this one only, and tell its story if it fails")
    parser.add_argument("--timeline", action="store_true", help="with --seed: tell all of its story in any case")
    given = parser.parse_args()
    if given.seed is None:
        return sweep(range(given.first, given.first + given.seeds), given.jobs)
    outcome = play(given.seed)
    if given.timeline or outcome.violation:
        tell(outcome, sys.maxsize if given.timeline else LINES)
    return 1 if outcome.violation else 0


if __name__ == "__main__":
    sys.exit(main())
