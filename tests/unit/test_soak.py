"""The parts of the soak that need no cluster: what is done, what the peers write, what the report says."""

import inspect
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from pyflanneld.lab.etcd import PREFIX
from tests.soak import faults, report
from tests.soak.faults import FAULTS
from tests.soak.peers import JUNK, Peers
from tests.soak.run import Injection, Story, soak
from tests.soak.samples import Sample
from tests.soak.stopping import stopped_by_signals
from tests.soak.verdict import Limit, judge
from tests.support.etcd.bulk_writer import Change
from tests.support.lab.testbed import lease_key, lease_value

COUNT = 50


def peers() -> Peers:
    return Peers(COUNT, [11, 12], Random(5))


# The faults


def test_every_fault_is_done() -> None:
    """Each function that does something to a host is in the table, under a name of its own."""
    acts = {
        name for name, function in inspect.getmembers(faults, inspect.isfunction)
        if list(inspect.signature(function).parameters) == ["site", "node", "rng"]
    }  # fmt: skip
    assert acts == {fault.act.__name__ for fault in FAULTS}
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == len(acts)


def test_etcd_the_way_there_the_kernel_and_the_process_all_suffer() -> None:
    """What a soak has to have in it."""
    acts = {fault.act.__name__ for fault in FAULTS}
    assert acts >= {
        "kill_leader", "kill_all", "compact", "delete_own_key", "revoke_own_lease", "drop_packets",
        "refuse_connections", "set_link_down", "flush_routes", "change_routes", "overrun_events", "stop_process",
        "hang_up", "crowd_health_port",
    }  # fmt: skip


# Signals


@pytest.fixture
def in_the_background() -> Iterator[None]:
    """INT is ignored, as shells have it for what they start in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("in_the_background")
def test_the_first_signal_stops_it(number: signal.Signals) -> None:
    """Also one that whoever started it has ignored; further ones do not disturb the cleaning up."""
    with stopped_by_signals():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)


class Interrupted:
    """A signal comes while this is taken away."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_no_signal_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what a signal raises in a ``__del__``: the soak ends before the next fault all the same."""
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: dropped.append(raised.exc_type))
    site: Any = SimpleNamespace(lab=SimpleNamespace(nodes=[]), pace=1.0, wait_s=lambda _: Interrupted() and None)
    with stopped_by_signals() as check, pytest.raises(KeyboardInterrupt):
        soak(site, Story(1, COUNT), duration_s=60, faults=FAULTS, say=print, check=check)
    assert dropped == [KeyboardInterrupt]


# The peers


def applied(changes: list[Change]) -> dict[str, str]:
    """Return what etcd holds after these changes."""
    store: dict[str, str] = {}
    for change in changes:
        if change.value is None:
            del store[change.key]
        else:
            store[change.key] = change.value
    return store


def test_what_is_written_is_what_the_model_says() -> None:
    """After thousands of changes etcd has exactly the model's keys, with the gateways of its routes or nonsense."""
    crowd = peers()
    changes = crowd.begin()
    for number in range(3000):
        changes += crowd.churn()
        if number % 10 == 0:
            crowd.settled()
    store = applied(changes)
    assert set(store) == crowd.keys()
    good = {subnet for subnet, gateway in crowd.routes.items() if store[lease_key(subnet)] == lease_value(gateway)}
    garbled = crowd.routes.keys() - good
    assert 0 < len(garbled) <= 20
    assert all(store[lease_key(subnet)] in JUNK for subnet in garbled)
    assert COUNT - 1 <= len(crowd.routes) <= COUNT
    assert len({change.value for change in changes if change.key == f"{PREFIX}/subnets/junk"}) > 3


def test_only_what_everybody_has_seen_turns_into_nonsense() -> None:
    """A value that is nonsense before the daemons have seen a good one would leave them without a route."""
    crowd = peers()
    changes = crowd.begin() + [change for _ in range(500) for change in crowd.churn()]
    crowd.settled()
    changes += crowd.rewrite() + [change for _ in range(500) for change in crowd.churn()]  # nobody has seen these
    assert not [change for change in changes if change.lease and change.value in JUNK]  # junk keys have none


# The report

USUAL = Sample(0, 70.0, 20, 8, 22, 1000, 10, 0.5)
FAULT = FAULTS[0].name
DAY = date(2026, 11, 26)


def story(*, leak_mib: float = 0.0, lines: int = 10, minutes: int = 20) -> Story:
    """Return a made-up run with a sample every three seconds, most of it uneventful."""
    last = minutes * 20
    samples = [
        replace(USUAL, at_s=3.0 * at, memory_mib=70 + leak_mib * at / last, log_lines=10 * at, log_bytes=1000 * at,
                cpu_s=0.03 * at, tasks=None if at % 50 == 7 else 22)
        for at in range(last + 1)
    ]  # fmt: skip
    return Story(7, 1000, [Injection(30.0, FAULT, "n1", 3.0, 0.5, 4, lines)], {"n1": samples})


def test_the_page_has_its_place(tmp_path: Path) -> None:
    """docs/dev/soak.md has the marks that the report is put between; each plot is shown; samples read back."""
    page = report.PAGE.read_text("utf-8")
    assert page.count("<!-- soak -->\n") == page.count("<!-- /soak -->") == 1
    report.write(story(), tmp_path)
    assert Story.read(json.loads((tmp_path / "soak.json").read_text())) == story()
    assert {path.name for path in tmp_path.glob("*.svg")} == {f"{name}.svg" for name, _ in report.charts(story())}
    assert re.findall(r"images/(.*)\.svg", report.pictures(story())) == [name for name, _ in report.charts(story())]


# What is flat

LIMIT = Limit(rise=3.0, per_day=64.0, tooth=1.5)  # of memory, in MiB
MINUTES = 20


def series(value: Callable[[float], float], *, noise: float = 0, minutes: float = MINUTES) -> list[tuple[float, float]]:
    """Return a sample every three seconds: *value* of the share of the time that is over, and noise."""
    rng, count = Random(1), int(minutes * 20)
    return [(3.0 * at, value(at / count) + rng.gauss(0, noise)) for at in range(count + 1)]


def leak(mib_a_day: float, minutes: float = MINUTES) -> Callable[[float], float]:
    return lambda share: 70 + mib_a_day * share * minutes / 60 / 24


@pytest.mark.parametrize(
    "value",
    [
        lambda _: 70.0,
        lambda share: 40 + 30 * min(1, share * 4.2),  # warming up
        lambda share: 70 - 5 * share,  # what falls does not leak
        lambda share: 70 + 20 * (0.6 < share < 0.63),  # a fault that passes
        lambda share: 70 + 2.5 * (share > 0.9),  # a small step
        lambda share: 74 + 1.2 * (share * 1.8 % 1),  # garbage, collected every eleven minutes
        leak(5),
    ],
    ids=["constant", "warm-up", "falling", "a peak", "a small step", "garbage", "a trickle"],
)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_flat(value: Callable[[float], float], noise: float) -> None:
    """What stays where it is after the warm-up is flat, with noise too."""
    found = judge(series(value, noise=noise), LIMIT)
    assert found.flat, found


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_leak_is_found(noise: float) -> None:
    """Growth that would be too much after a day, though it is 3 MiB in the run."""
    found = judge(series(leak(240), noise=noise), LIMIT)
    assert found.faults == ("it grows all the time",)
    assert found.per_day == pytest.approx(240, rel=0.2)


def test_a_longer_run_sees_through_the_garbage() -> None:
    """Garbage that comes and goes hides a slow leak for twenty minutes, and not for a night."""

    def value(share: float, minutes: float) -> float:
        return leak(100, minutes)(share) + 1.2 * (share * minutes / 11 % 1)

    assert judge(series(lambda share: value(share, MINUTES)), LIMIT).flat
    assert not judge(series(lambda share: value(share, 480), minutes=480), LIMIT).flat


@pytest.mark.parametrize("at", [0.4, 0.6, 0.74])
def test_a_step_is_found(at: float) -> None:
    """A rise that stays, when it came after the warm-up, whatever the trend says."""
    found = judge(series(lambda share: 70 + 5 * (share > at), noise=0.3), Limit(rise=3.0))
    assert found.faults == ("the last quarter is higher than the second",)
    assert (round(found.early), round(found.late)) in {(70, 75)}
