"""Tool: output of the demonstration: numbered steps, aligned values, a verdict for each claim."""

import sys
from collections.abc import Sequence
from typing import TextIO

from pyflanneld.commands.output import BOLD, DIM, GREEN, RED, Paint, columns
from pyflanneld.lab.run import LabError


class ClaimFailed(LabError):
    """A claim of the demonstration does not hold."""


class Terminal:
    """Prints the demonstration; in colour only on a terminal."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._paint = Paint(self._out)
        self.steps = 0
        self.claims = 0

    def title(self, text: str) -> None:
        """Print the headline."""
        self._line(self._paint(text, BOLD))

    def step(self, text: str) -> None:
        """Begin the next step."""
        self.steps += 1
        self._line()
        self._line(f"{self.steps:2}  {self._paint(text, BOLD)}")

    def fact(self, text: str) -> None:
        """Print something observed."""
        self._line(f"      {text}")

    def table(self, rows: Sequence[Sequence[object]]) -> None:
        """Print rows with aligned columns; the first row is the heading."""
        for number, text in enumerate(columns(rows)):
            self.fact(text if number else self._paint(text, DIM))

    def claim(self, text: str, true: bool, measured: str = "") -> None:
        """Print a claim with its verdict, and the measured value at the right.

        Raises:
            ClaimFailed: the claim does not hold.
        """
        self.claims += 1
        mark = self._paint("✓", GREEN) if true else self._paint("✗", RED)
        self._line(f"    {mark} {text:<78}{measured:>14}".rstrip())
        if not true:
            raise ClaimFailed(f"step {self.steps}, not shown: {text}" + (f" ({measured})" if measured else ""))

    def _line(self, text: str = "") -> None:
        print(text, file=self._out, flush=True)
