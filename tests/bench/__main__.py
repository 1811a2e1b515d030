"""The benchmark: ``python -m tests.bench --help``, as root."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pyflanneld.lab.run import LabError, require_machine
from tests.bench.bench import QUICK, Bench, Case, Plan, Progress
from tests.bench.cases import BOTH, CASES
from tests.bench.contenders import Contender, ours, parse_against, with_backends, with_names_of_their_own
from tests.bench.leases import MOST_PEERS
from tests.bench.report import about, text, write, write_docs
from tests.bench.results import Results, from_document
from tests.bench.site import Site


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    names = ", ".join(case.name for case in CASES)
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="How fast, beside others, in one run.")
    parser.add_argument(
        "--against", type=_contender, action="append", default=[], metavar="PATH[:API]",
        help="measure this flanneld-compatible program too, on API 3 (default) or 2 of etcd; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--only", type=_cases, action="extend", default=[], metavar="CASE,…", help=f"only these: {names}"
    )
    parser.add_argument(
        "--backend", type=_backends, default=BOTH, metavar="BACKEND,…", help=f"only these: {', '.join(BOTH)}"
    )
    parser.add_argument("--peers", type=_sizes, metavar="N,…", help="other numbers of peers than the usual ones")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--write", action="store_true", help="renew docs/dev/performance.md and docs/dev/performance/")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write results.json, report.md and the plots there")
    parser.add_argument("--report", type=_results, metavar="FILE", help="measure nothing, report what this holds")
    args = parser.parse_args(argv)
    args.whole = not (args.only or args.peers) and set(args.backend) == set(BOTH)
    if args.write and not args.whole:
        parser.error("--write is for whole runs: without --only, --peers and --backend")
    return args


def _contender(value: str) -> Contender:
    try:
        return parse_against(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _cases(value: str) -> list[str]:
    return _some_of("case", [case.name for case in CASES], value)


def _backends(value: str) -> list[str]:
    return _some_of("backend", BOTH, value)


def _some_of(what: str, known: Sequence[str], value: str) -> list[str]:
    wanted = list(dict.fromkeys(value.split(",")))
    if unknown := [name for name in wanted if name not in known]:
        raise argparse.ArgumentTypeError(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    return wanted


def _sizes(value: str) -> list[int]:
    try:
        sizes = sorted({int(number) for number in value.split(",")})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"numbers of peers are wanted, not {value!r}") from error
    if sizes[0] < 0 or sizes[-1] > MOST_PEERS:
        raise argparse.ArgumentTypeError(f"0 to {MOST_PEERS} peers are possible")
    return sizes


def _results(value: str) -> Results:
    try:
        return from_document(json.loads(Path(value).read_text("utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise argparse.ArgumentTypeError(f"{value}: not results of this benchmark: {error}") from error


def schedule(only: Sequence[str], sizes: Sequence[int] | None) -> list[tuple[Case, int]]:
    """Return what to measure, with how many peers, the small numbers first: so etcd has to be filled only once."""
    cases = [case for case in CASES if not only or case.name in only]
    wanted = sizes if sizes is not None else sorted({size for case in cases for size in case.sizes})
    return [(case, size) for size in wanted for case in cases if size in case.sizes or (sizes is not None and size)]


def measured(args: argparse.Namespace) -> Results:
    """Measure everything, where that is possible."""
    require_machine()
    sys.setswitchinterval(0.0005)  # the observers' threads are to take their times without delay
    return asyncio.run(run(args))


async def run(args: argparse.Namespace) -> Results:
    """Measure everything, and return what came of it."""
    for number in (signal.SIGINT, signal.SIGTERM):  # of its own for INT: a shell ignores it for what runs beside it
        asyncio.get_running_loop().add_signal_handler(number, _this_task().cancel)
    contenders = with_backends(with_names_of_their_own([ours(), *args.against]), args.backend)
    progress, results = Progress(), Results(about(quick=args.quick, whole=args.whole))
    async with Site.built(v2=any(one.api == 2 for one in contenders)) as site:
        bench = Bench(site, contenders, QUICK if args.quick else Plan(), results, progress)
        for case, peers in schedule(args.only, args.peers):
            await bench.do(case, peers)
    progress.done("done")
    return results


def _this_task() -> asyncio.Task[Results]:
    task = asyncio.current_task()
    assert task is not None
    return task


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0 when it was run to its end, whatever the figures are."""
    args = parse(argv)
    try:
        results = args.report or measured(args)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nbench: stopped; everything is removed again", file=sys.stderr)
        return 130
    print(text(results))
    if args.out:
        write(results, args.out)
    if args.write:
        write_docs(results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
