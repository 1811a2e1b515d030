"""``python -m tests.sim``: run seeds, print the story of the first that fails, exit 1 if one does."""

import argparse
import sys
import time

from tests.sim.world import Outcome, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="how many (default: 200)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first seed (default: 0)")
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--timeline", action="store_true", help="tell the story also when all holds")
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds) if given.seed is None else [given.seed]
    began, failed = time.monotonic(), []
    for seed in seeds:
        outcome = play(seed)
        if outcome.violation or given.timeline:
            tell(outcome)
        if outcome.violation:
            failed.append(seed)
            if len(failed) >= 5:
                break
    print(f"{len(seeds)} seeds, {len(failed)} failed {failed or ''} in {time.monotonic() - began:.1f} s")
    return 1 if failed else 0


def tell(outcome: Outcome) -> None:
    print(f"seed {outcome.seed}: {outcome.violation or 'all holds'}")
    for line in outcome.timeline[-60:]:
        print(f"  {line}")


if __name__ == "__main__":
    sys.exit(main())
