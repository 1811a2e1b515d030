"""One soak: faults after faults, and after each of them all must be right again, until the time is up."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Self

from pyflanneld.lab.run import LabError
from tests.soak.faults import Fault, decks
from tests.soak.samples import Sample, Sampler
from tests.soak.site import Site
from tests.support.lab.testbed import Journal

QUIET_S = 4.0  # between two faults, at most
SAMPLE_S = 3.0


class SoakError(LabError):
    """Something was not right again after a fault; the message says which, and when."""


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault that was done, and what came of it.

    Attributes:
        at_s: when it began, in seconds since the soak did.
        fault: its name.
        host: to whom.
        lasted_s: until it was over.
        settled_s: from then until all was right again.
        changes: of peers meanwhile.
        lines: that this host's log got longer by, from the beginning until all was right.
    """

    at_s: float
    fault: str
    host: str
    lasted_s: float
    settled_s: float
    changes: int
    lines: int


@dataclass(frozen=True, slots=True)
class Story:
    """All that was done and measured."""

    seed: int
    peers: int
    injections: list[Injection] = field(default_factory=list)
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """Return the story that ``dataclasses.asdict`` has made a document of. Raises ``TypeError`` for another one."""
        injections = [Injection(**each) for each in document["injections"]]
        samples = {host: [Sample(**one) for one in found] for host, found in document["samples"].items()}
        return cls(document["seed"], document["peers"], injections, samples)

    @property
    def lasted_s(self) -> float:
        """From the first sample to the last."""
        times = [sample.at_s for samples in self.samples.values() for sample in samples]
        return max(times) - min(times) if times else 0.0


def soak(
    site: Site, story: Story, *, duration_s: float, faults: Sequence[Fault], say: Callable[[str], None],
    check: Callable[[], None],
) -> None:  # fmt: skip
    """Do one fault after the other until the time is up, and fill in the *story*.

    *check* is called before each, and raises what ends the soak early.

    Raises:
        SoakError: after a fault something was not right within its bound.
    """
    began = time.monotonic()

    def now_s() -> float:
        return time.monotonic() - began

    sampler = Sampler(site.lab.nodes, SAMPLE_S * site.pace, now_s)
    story.samples.update(sampler.samples)
    with sampler:
        for number, fault in enumerate(decks(faults, Random(story.seed))):
            rng = Random(f"{story.seed} {number}")  # what one fault has made of it does not change the next
            site.wait_s(rng.uniform(0.5, QUIET_S))
            check()
            if now_s() >= duration_s:
                return
            each = _do(site, fault, rng, now_s())
            story.injections.append(each)
            say(line(each))


def line(each: Injection) -> str:
    """Return what there is to say about a fault."""
    return (
        f"{each.at_s:6.0f} s  {each.host}  {each.fault:<58}  {each.lasted_s:5.1f} s, right again after "
        f"{each.settled_s:4.1f} s, {each.lines} lines"
    )


def _do(site: Site, fault: Fault, rng: Random, at_s: float) -> Injection:
    node = rng.choice(site.lab.nodes)
    journal, made, began = Journal(node), site.churn.made, time.monotonic()
    with _blamed(fault, node.name, at_s):
        fault.act(site, node, rng)
        lasted_s = time.monotonic() - began
        site.settle(fault.bound_s)
    settled_s = time.monotonic() - began - lasted_s
    lines = journal.text().count("\n")
    return Injection(at_s, fault.name, node.name, lasted_s, settled_s, site.churn.made - made, lines)


@contextmanager
def _blamed(fault: Fault, host: str, at_s: float) -> Iterator[None]:
    """Tell with every error to which fault it belongs."""
    try:
        yield
    except (LabError, RuntimeError, OSError, AssertionError) as error:
        raise SoakError(f"{at_s:.0f} s, {host}, {fault.name}: {error}") from error
