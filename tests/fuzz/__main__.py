"""``python -m tests.fuzz``: search each target for an input that breaks it, guided by coverage; keep what teaches more.

libFuzzer never returns from a search, so each target has a process of its own (``tests.fuzz.search``).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

SLACK_S = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, metavar="N", help="for each target (default: 60)")
    parser.add_argument("--target", choices=sorted(TARGETS), help="only this one")
    given = parser.parse_args()
    broken = [name for name in TARGETS if given.target in (None, name) and not search(name, given.seconds)]
    print(f"broken: {', '.join(broken)}" if broken else "no target is broken")
    return 1 if broken else 0


def search(target: str, seconds: int) -> bool:
    """Search one target; keep the smallest set of inputs that covers what was reached. Return whether it has held."""
    known = corpus.load(target)
    with tempfile.TemporaryDirectory(prefix="pyflanneld-fuzz-") as folder:
        found, least = Path(folder, "found"), Path(folder, "least")
        found.mkdir()
        least.mkdir()
        for number, data in enumerate(known):
            (found / f"known-{number}").write_bytes(data)
        run = _fuzzer(target, f"-max_total_time={seconds}", str(found), folder=folder, timeout_s=seconds + SLACK_S)
        if run.returncode:
            _tell(target, run.stdout)
            return False
        merged = _fuzzer(target, "-merge=1", str(least), str(found), folder=folder, timeout_s=seconds + SLACK_S)
        if merged.returncode or not any(least.iterdir()):
            _tell(target, merged.stdout)
            return False
        kept = {path.read_bytes() for path in least.iterdir()} | set(known)
    corpus.save(target, list(kept))
    print(f"{target}: held for {seconds} s, {len(kept)} inputs kept ({len(known)} before)", flush=True)
    return True


def _fuzzer(target: str, *words: str, folder: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    limits = (f"-max_len={corpus.LONGEST_BYTES}", "-timeout=5", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/")
    # The search runs itself anew to merge, by the name that it was run by; so this is one program.
    program = Path(folder, target)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.fuzz.search {target} "$0" "$@"\n')
    program.chmod(0o755)
    return subprocess.run(
        [str(program), *limits, *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout_s, check=False,
    )


def _tell(target: str, output: str) -> None:
    print(f"{target}: BROKEN")
    print("\n".join(output.splitlines()[-40:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
