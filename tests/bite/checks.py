"""Ask the checks about one copy of the tree: the simulated world, and the tests that a plant names."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SEEDS = 150
SIM_S, TESTS_S = 300.0, 600.0
_LINE_CHARS = 110


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one kind of check says.

    Attributes:
        caught: it has seen the fault.
        words: its first complaint, on one line.
    """

    caught: bool
    words: str


def simulated_world(tree: Path) -> Verdict:
    """Run the seeds until one fails."""
    code, output = _run(tree, SIM_S, "-m", "tests.sim", "--seeds", str(SEEDS))
    if code == 0:
        return Verdict(False, f"{SEEDS} seeds hold")
    complaint = re.search(r"^seed (\d+): (?!all holds)(.*)$", output, re.MULTILINE)
    return Verdict(True, f"seed {complaint[1]}: {complaint[2]}" if complaint else _last_line(output))


def tests(tree: Path, files: Sequence[str]) -> Verdict:
    """Run the tests until one fails."""
    there = [name for name in files if (tree / name.partition("::")[0]).exists()]
    options = ("-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-m", "not thorough")
    code, output = _run(tree, TESTS_S, "-m", "pytest", *options, *there)
    if code == 0:
        return Verdict(False, "all pass")
    complaint = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", output, re.MULTILINE)
    return Verdict(True, complaint[1] if complaint else _last_line(output))


def _run(tree: Path, timeout_s: float, *words: str) -> tuple[int, str]:
    """Run Python in the copy; no end in time is a failure as well."""
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=tree, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"no end within {timeout_s:g} s"
    return done.returncode, done.stdout + done.stderr


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1][:_LINE_CHARS] if lines else "no output"
