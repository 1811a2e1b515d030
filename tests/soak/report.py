"""What a soak has shown: the verdict, docs/dev/soak.md between its marks, and the plots."""

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from tests.bench.plot import Chart, Series
from tests.bench.report import markdown
from tests.faults.report import etcd_version, put
from tests.soak.faults import FAULTS
from tests.soak.run import Injection, Story
from tests.soak.samples import Sample
from tests.soak.verdict import Flatness, Limit, Points, judge, rates

ROOT = Path(__file__).parents[2]
PAGE, IMAGES = ROOT / "docs" / "dev" / "soak.md", ROOT / "docs" / "dev" / "images"
MARK = "soak"
JUDGED_FROM_S = 600.0  # a shorter run is nothing but warm-up
LINES_A_FAULT, LINES_A_CHANGE = 60, 2


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that has to stay flat.

    Attributes:
        name: for the report, with its unit.
        field: of a sample.
        limit: how flat.
        scale: from the field's unit to the report's.
        rate: the field is a count that goes up; what is judged is how much it does in a minute.
    """

    name: str
    field: str
    limit: Limit
    scale: float = 1.0
    rate: bool = False

    def points(self, samples: Sequence[Sample]) -> Points:
        """Return what is judged and drawn: seconds, and the value in the report's unit."""
        read = ((sample.at_s, getattr(sample, self.field)) for sample in samples)
        found = [(at_s, value * self.scale) for at_s, value in read if value is not None]
        return rates(found) if self.rate else found

    def allowed(self) -> str:
        """Return the limit in words."""
        share = f" + {self.limit.share:.0%}" if self.limit.share else ""
        trend = "" if self.limit.per_day is None else f", {self.limit.per_day:g} in a day"
        trend += f" from a rise of {self.limit.tooth:g} on" if self.limit.tooth else ""
        return f"{self.limit.rise:g}{share}{trend}"


QUANTITIES = (
    Quantity("memory, MiB", "memory_mib", Limit(rise=4.0, per_day=32.0, tooth=1.5)),
    Quantity("descriptors", "descriptors", Limit(rise=1.0, per_day=96.0)),
    Quantity("threads", "threads", Limit(rise=1.0, per_day=96.0)),
    Quantity("tasks", "tasks", Limit(rise=1.0, per_day=96.0)),
    Quantity("log, lines a minute", "log_lines", Limit(rise=20.0, share=0.5), rate=True),
    Quantity("log, KiB a minute", "log_bytes", Limit(rise=8.0, share=0.5), scale=1 / 1024, rate=True),
    Quantity("processor, % of one core", "cpu_s", Limit(rise=2.0, share=0.5), scale=100 / 60, rate=True),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was judged: the flatness of each quantity on each host, and the faults that cost too many lines of log."""

    flatness: Mapping[tuple[str, str], Flatness]
    talkative: Sequence[Injection]

    @property
    def complaints(self) -> list[str]:
        """What is not as it should be, a sentence each."""
        found = [f"{host}: {name}: {why}" for (name, host), one in self.flatness.items() for why in one.faults]
        return found + [f"{each.at_s:.0f} s: {each.fault}: {each.lines} lines of log" for each in self.talkative]


def verdict(story: Story) -> Verdict:
    """Judge a run; one that was too short has nothing in it to be judged by but the log's length."""
    flatness = {}
    if story.lasted_s >= JUDGED_FROM_S:
        for quantity in QUANTITIES:
            for host, samples in story.samples.items():
                flatness[quantity.name, host] = judge(quantity.points(samples), quantity.limit)
    talkative = [each for each in story.injections if each.lines > LINES_A_FAULT + LINES_A_CHANGE * each.changes]
    return Verdict(flatness, talkative)


# Text


def flat_table(found: Verdict) -> str:
    """Return the table of the quantities."""
    by_name = {quantity.name: quantity for quantity in QUANTITIES}
    rows = [
        (name, host, f"{one.early:.1f}", f"{one.late:.1f}", f"{one.per_day:+.1f}", by_name[name].allowed(),
         "flat" if one.flat else "; ".join(one.faults))
        for (name, host), one in found.flatness.items()
    ]  # fmt: skip
    head = ("quantity", "host", "2nd quarter", "last quarter", "trend in a day", "allowed rise", "")
    return markdown(head, rows) if rows else ""


def fault_table(story: Story) -> str:
    """Return the table of the faults: how often, how fast all was right again, how long the log got."""
    rows = []
    for fault in FAULTS:
        injections = [each for each in story.injections if each.fault == fault.name]
        if injections:
            slowest, most = max(each.settled_s for each in injections), max(each.lines for each in injections)
            rows.append((fault.name, str(len(injections)), f"{slowest:.1f} s", f"{fault.bound_s:.0f} s", str(most)))
    return markdown(("fault", "times", "right again within", "bound", "lines of log at most"), rows)


def summary(story: Story, found: Verdict, on: date) -> str:
    """Return the sentences about the run and what came out."""
    changes = sum(each.changes for each in story.injections)
    where = f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}, etcd {etcd_version()}"
    told = (
        f"{on.isoformat()}, {where}: {story.lasted_s / 60:.0f} minutes, {story.peers:,} peers, seed {story.seed}. "
        f"{len(story.injections)} faults, {changes:,} changes of peers during them; after each fault both hosts had "
        "exactly the routes of etcd within its bound."
    )
    said = [f"* {complaint}" for complaint in found.complaints]
    outcome = "All quantities stayed flat." if not said else "\n".join(("Not as it should be:\n", *said))
    return f"{told} {outcome}\n" if found.flatness or said else f"{told} The run was too short to say what is flat.\n"


def text(story: Story, found: Verdict, on: date) -> str:
    """Return the whole report, without the plots."""
    parts = (summary(story, found, on), flat_table(found), fault_table(story))
    return "\n".join(part.rstrip() + "\n" for part in parts if part)


# Plots


def charts(story: Story) -> Iterator[tuple[str, Chart]]:
    """Yield the plots over time, with the names of their files."""
    plots = (
        ("soak-memory", "Memory", "MiB", QUANTITIES[:1]),
        ("soak-counts", "Descriptors, threads, tasks", "number", QUANTITIES[1:4]),
        ("soak-log", "Log", "lines a minute", QUANTITIES[4:5]),
        ("soak-processor", "Processor", "% of one core", QUANTITIES[6:]),
    )
    for name, title, unit, quantities in plots:
        series = [line for quantity in quantities for line in _lines(story, quantity, named=len(quantities) > 1)]
        yield name, Chart(f"{title}, {story.peers:,} peers", "minutes", unit, series, log_x=False, log_y=False)


def pictures(story: Story) -> str:
    """Return the links of the page to the plots."""
    return "".join(f"![{chart.title}](images/{name}.svg)\n" for name, chart in charts(story))


def _lines(story: Story, quantity: Quantity, *, named: bool) -> Iterator[Series]:
    colour = QUANTITIES.index(quantity) if named else 0
    for number, (host, samples) in enumerate(story.samples.items()):
        points = [(at_s / 60, value) for at_s, value in quantity.points(samples)]
        name = f"{quantity.name}, {host}" if named else host
        yield Series(name, points, dashed=number > 0, colour=colour + (0 if named else number), marked=False)


# Files


def write(story: Story, folder: Path) -> None:
    """Write the samples and faults as JSON, and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "soak.json").write_text(json.dumps(asdict(story)) + "\n")
    write_plots(story, folder)


def write_plots(story: Story, folder: Path) -> None:
    """Write the plots, as far as there is something to draw."""
    for name, chart in charts(story):
        if any(series.points for series in chart.series):
            (folder / f"{name}.svg").write_text(chart.svg())


def write_docs(story: Story, found: Verdict, on: date, say: Callable[[str], None]) -> None:
    """Renew docs/dev/soak.md and its plots."""
    put(MARK, f"{text(story, found, on)}\n{pictures(story)}", PAGE)
    write_plots(story, IMAGES)
    say(f"written: {PAGE.relative_to(ROOT)}")
