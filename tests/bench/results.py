"""What was measured, as values: every sample is kept, medians and percentiles are made of them. Pure."""

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FLOOR = "ip -batch"
OURS = "pyflanneld"
STATIC = "static routes"
HOST_GW, VXLAN = "host-gw", "vxlan"


class NotMeasuredError(Exception):
    """A contender has not done in time what was to be measured, or has ended; the message is for the table."""


def with_backend(name: str, backend: str) -> str:
    """Return the name under which a contender's figures with *backend* are kept; host-gw goes without saying."""
    return name if backend == HOST_GW else f"{name}, {backend}"


def backend_of(name: str) -> str:
    """Return the backend of a contender."""
    return VXLAN if name.endswith(f", {VXLAN}") else HOST_GW


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that at least *percent* of the samples do not exceed (nearest rank)."""
    rank = math.ceil(len(samples) * percent / 100)
    return sorted(samples)[max(rank, 1) - 1]


@dataclass(frozen=True, slots=True)
class Result:
    """One quantity of one contender.

    Attributes:
        case: what was measured, such as ``"start.routes"``.
        contender: whom.
        peers: how many peers there were.
        unit: ``"s"``, ``"B"``, ``"bit/s"``, ``"%"``, ``"times"``, a ratio, or ``"1"``, a number of things.
        samples: at least one, unless *note* says why there is none.
        note: for the reader.
    """

    case: str
    contender: str
    peers: int
    unit: str
    samples: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        """The median, or not a number."""
        return statistics.median(self.samples) if self.samples else math.nan

    @property
    def p99(self) -> float:
        """What 99 of 100 samples are at least as good as, or not a number; of throughput, more is better."""
        if not self.samples:
            return math.nan
        return percentile(self.samples, 1 if self.unit == "bit/s" else 99)


@dataclass(slots=True)
class Results:
    """All results of a run, in the order in which they were made."""

    about: dict[str, Any] = field(default_factory=dict)
    rows: list[Result] = field(default_factory=list)

    def add(
        self, case: str, contender: str, peers: int, unit: str, samples: Sequence[float], note: str = ""
    ) -> Result:
        """Add a result, or further samples of one that is there."""
        known = self.find(case, contender, peers)
        if known is not None:
            self.rows.remove(known)
            samples, note = (*known.samples, *samples), known.note or note
        made = Result(case, contender, peers, unit, tuple(samples), note)
        self.rows.append(made)
        return made

    def find(self, case: str, contender: str, peers: int) -> Result | None:
        """Return a result, if there is one."""
        wanted = case, contender, peers
        return next((row for row in self.rows if (row.case, row.contender, row.peers) == wanted), None)

    def median(self, case: str, contender: str = OURS, peers: int = 250) -> float:
        """Return a median; not a number where nothing was measured."""
        found = self.find(case, contender, peers)
        return math.nan if found is None else found.median

    def of(self, case: str) -> Iterator[Result]:
        """Yield the results of a case."""
        return (row for row in self.rows if row.case == case)

    def with_backend(self, backend: str) -> "Results":
        """Return those of one backend."""
        return Results(self.about, [row for row in self.rows if backend_of(row.contender) == backend])

    def contenders(self, case: str | None = None) -> list[str]:
        """Return who took part, in order; in one case or at all."""
        return list(dict.fromkeys(row.contender for row in self.rows if case in (None, row.case)))

    def peers(self, case: str) -> list[int]:
        """Return the numbers of peers with which a case was measured."""
        return sorted({row.peers for row in self.of(case)})

    def document(self) -> dict[str, Any]:
        """Return what the JSON file holds."""
        return {"about": self.about, "results": [_row(result) for result in self.rows]}

    def json(self) -> str:
        """Return the JSON file: one result a line."""
        document = self.document()
        rows = ",\n".join(json.dumps(row) for row in document["results"])
        return f'{{"about": {json.dumps(document["about"])},\n"results": [\n{rows}\n]}}\n'


def _row(result: Result) -> dict[str, Any]:
    return {
        **asdict(result),
        "samples": [_six_digits(sample) for sample in result.samples],
        "median": _six_digits(result.median) if result.samples else None,
        "p99": _six_digits(result.p99) if result.samples else None,
    }


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def from_document(document: Mapping[str, Any]) -> Results:
    """Read back what ``Results.document`` returned."""
    rows = [
        Result(row["case"], row["contender"], row["peers"], row["unit"], tuple(row["samples"]), row["note"])
        for row in document["results"]
    ]
    return Results(dict(document["about"]), rows)


def readable(value: float, unit: str) -> str:
    """Return a quantity as people read it: three digits that count, and the unit that suits."""
    if math.isnan(value):
        return "—"
    if unit == "1":
        return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:.2g}"
    if unit in ("%", "times"):
        return f"{three_digits(value)} {unit}"
    scale = {
        "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
        "B": ((1e6, "MB"), (1e3, "kB"), (1.0, "B")),
        "bit/s": ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")),
    }[unit]
    size, name = next(((size, name) for size, name in scale if abs(value) >= size), scale[-1])
    return f"{three_digits(value / size)} {name}"


def three_digits(value: float) -> str:
    """Return a number with the three digits that count."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
