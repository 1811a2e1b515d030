"""What a week of trouble costs in log: the real loops and the real log chain, in virtual time."""

import asyncio
import io
import json
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from pyflanneld.errors import RegistryUnavailable
from pyflanneld.logs.processors import BURST, LONGEST_PAUSE_S, MAX_REMEMBERED, RESET_S, RateLimit
from pyflanneld.logs.setup import configure_logging, log_level, set_log_level
from pyflanneld.logs.volume import (
    ALL_BYTES,
    ALL_BYTES_PER_S,
    KIND_LINES,
    KIND_LINES_PER_S,
    TOLD_S,
    VolumeLimit,
)
from tests.support.fakes.node import CONFIG, FakeNode, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

DAY_S = 24 * 3600
MEGABYTE = 1_000_000
PINNED = "FLANNEL_SUBNET=172.7.21.1/24\n"
PEER = b"172.7.22.0-24"


class Out(io.StringIO):
    """Everything that is logged from ``begin`` on, as JSON lines."""

    def begin(self, now_s: Callable[[], float] | None = None) -> None:
        sys.stderr = self  # put back by the fixture; pytest's own comes between its phases
        configure_logging("json", 0, *([RateLimit(now_s), VolumeLimit(now_s)] if now_s else []))


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> Iterator[Out]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    yield Out()
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


def lines(out: Out) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def logging_node(out: Out) -> FakeNode:
    """Return a node with one peer that logs as the real process does, on the running loop's time."""
    out.begin(asyncio.get_running_loop().time)
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    etcd.put(PEER, value("192.168.14.22"), lease_id=etcd.grant(86400))
    node = FakeNode(etcd, env=PINNED)
    node.log = structlog.get_logger("pyflanneld")
    node.configure(iptables_forward_rules=False)
    return node


def test_a_week_without_etcd_costs_less_than_a_megabyte(out: Out) -> None:
    """The outage is logged at once, then less and less often, at last every hour; its end is logged too.

    Two days are played: the later ones are like the second.
    """
    first_day = 0

    async def scenario() -> None:
        nonlocal first_day
        node = logging_node(out)
        async with node.running():
            node.registry.down = RegistryUnavailable("http://192.168.14.12:2379: connection refused, " + "x" * 100)
            await asyncio.sleep(DAY_S)
            first_day = len(out.getvalue().encode())
            await asyncio.sleep(DAY_S)
            node.registry.down = None
            await until(lambda: node.ready, 60)

    run(scenario())
    size, told = len(out.getvalue().encode()), [line for line in lines(out) if line["event"] == "etcd.unavailable"]
    assert first_day + 6 * (size - first_day) < MEGABYTE / 5, f"{first_day} bytes, then {size - first_day} a day"
    for task in ("peers", "lease"):
        spoken = [line for line in told if line["task"] == task]
        assert "for_s" not in spoken[0]
        assert spoken[-1]["for_s"] > 2 * DAY_S - 2 * 3600, "it is still logged in the last hours"
    resolved = {line["topic"] for line in lines(out) if line["event"] == "condition.resolved"}
    assert resolved >= {"etcd:peers", "etcd:lease"}


def test_a_week_of_a_flapping_peer_costs_less_than_a_megabyte(out: Out) -> None:
    """Each change is logged at first, then counted. The first day stands for all: later ones have no first lines."""
    flaps = 0

    async def scenario() -> None:
        nonlocal flaps
        node = logging_node(out)
        async with node.running():
            end_s = node.clock.now_s() + DAY_S
            while node.clock.now_s() < end_s:
                node.registry.etcd.delete(PEER)
                await asyncio.sleep(30)
                node.registry.etcd.put(PEER, value("192.168.14.22"))
                await asyncio.sleep(30)
                flaps += 1

    run(scenario())
    size, counts = len(out.getvalue().encode()), Counter[str]()
    for line in lines(out):
        counts[line["event"]] += 1 + line.get("left_out", 0)
    assert 7 * size < MEGABYTE / 2, f"{size} bytes a day"
    for event in ("route.put", "route.dropped"):
        assert counts[event] > flaps - LONGEST_PAUSE_S / 60 - 2, "all but those since the last line are accounted for"


def test_keys_in_rotation_fill_no_disk(out: Out) -> None:
    """One writer with ever new keys: its lines are bounded, all that were left out are counted, and an outage that
    begins meanwhile is logged at once."""
    rounds, per_round = 200, 50
    began_s = 0.0

    async def scenario() -> None:
        nonlocal began_s
        node = logging_node(out)
        async with node.running():
            began_s = node.clock.now_s()
            for number in range(rounds):
                names = [b"junk-%d-%d" % (number, each) for each in range(per_round)]
                for name in names:
                    node.registry.etcd.put(name, b"x" * 100)
                await asyncio.sleep(3)
                for name in names:
                    node.registry.etcd.delete(name)
                await asyncio.sleep(3)
            began_s = node.clock.now_s() - began_s
            node.registry.down = RegistryUnavailable("connection refused")
            await asyncio.sleep(TOLD_S + 30)

    run(scenario())
    told = lines(out)
    counts = Counter(line["event"] for line in told)
    for line in told:
        counts.update(line["kinds"] if line["event"] == "log.limited" else {line["event"]: line.get("left_out", 0)})
    for event in ("peer.quarantined", "peer.quarantine_ended"):
        assert counts[event] == rounds * per_round
        assert sum(line["event"] == event for line in told) <= KIND_LINES + KIND_LINES_PER_S * (began_s + TOLD_S) + 1
    assert {"peers", "lease"} >= {line["task"] for line in told if line["event"] == "etcd.unavailable"} >= {"peers"}
    size = len(out.getvalue().encode())
    assert size * DAY_S / began_s < 20 * MEGABYTE, f"{size} bytes in {began_s:.0f} s"


def passed(limit: RateLimit | VolumeLimit, event: str = "route.put", **fields: object) -> dict[str, Any] | None:
    """Return the event as it comes out, ``None`` when it is dropped."""
    try:
        return dict(limit(None, "info", {"level": "info", "event": event} | fields))
    except structlog.DropEvent:
        return None


def test_repeated_events_are_dropped_and_counted() -> None:
    """The first ones pass; then one after a minute, two, four …, with the number of those left out."""
    now_s = 0.0
    limit = RateLimit(lambda: now_s)
    told = []
    for _ in range(3600):
        event = passed(limit, dst="172.7.22.0/24")
        if event is not None:
            told.append((now_s, event.get("left_out", 0)))
        now_s += 1
    assert [at for at, _ in told[:BURST]] == list(range(BURST))
    assert told[BURST:] == [(20.0, 0), (80.0, 59), (200.0, 119), (440.0, 239), (920.0, 479), (1880.0, 959)]


def test_subjects_levels_and_quiet_free_the_burst() -> None:
    """Another destination is another event; errors and debug always pass; quiet frees the burst."""
    now_s = 0.0
    limit = RateLimit(lambda: now_s)
    assert sum(passed(limit, dst="a") is not None for _ in range(100)) == BURST + 1
    assert passed(limit, dst="b") is not None
    assert passed(limit, event="route.dropped", dst="a") is not None
    for level in ("error", "debug"):
        assert sum(passed(limit, dst="c", level=level) is not None for _ in range(100)) == 100
    now_s = RESET_S + 1
    event = passed(limit, dst="a")
    assert event is not None
    assert event["left_out"] == 100 - BURST - 1


def test_each_kind_has_its_bound() -> None:
    """Whatever the subject: a burst, then a rate; another kind, a condition too, is not touched by it."""
    now_s = 0.0
    limit = VolumeLimit(lambda: now_s)
    assert sum(passed(limit, dst=str(number)) is not None for number in range(10_000)) == KIND_LINES
    assert passed(limit, event="lease.retaken", level="warning") is not None
    assert passed(limit, event="etcd.unavailable", level="warning", condition="c") is not None
    now_s = DAY_S
    assert sum(passed(limit, dst=str(number)) is not None for number in range(10_000)) == KIND_LINES
    assert sum(passed(limit, level="debug") is not None for _ in range(10_000)) == 10_000
    steady = 0
    for _ in range(DAY_S // 60):
        now_s += 60
        steady += sum(passed(limit, dst=str(number)) is not None for number in range(100))
    assert steady <= KIND_LINES_PER_S * DAY_S + 1


def test_libraries_are_bounded_too() -> None:
    """The text of their events is no name: each logger is a kind; errors as well."""
    limit = VolumeLimit(lambda: 0.0)
    told = [passed(limit, event=f"text {number}", logger="grpc", level="error") for number in range(1000)]
    assert len([event for event in told if event]) == KIND_LINES


@pytest.mark.parametrize("fields", [{}, {"key": "x" * 5000}], ids=["lines", "bytes"])
def test_all_kinds_together_have_a_bound(fields: dict[str, object]) -> None:
    """However many kinds make a noise, there is a bound in lines and in bytes.

    What is rare, conditions and errors are logged all the same.
    """
    now_s, size = 0.0, 0
    limit = VolumeLimit(lambda: now_s)

    def noise() -> int:
        """Log a lot of each of 30 kinds; return the bytes that pass."""
        told = [passed(limit, event=f"kind.{n % 30}", number=n, **fields) for n in range(3000)]
        return sum(len(str(event)) for event in told if event)

    size = noise()
    assert size <= ALL_BYTES
    rare = [passed(limit, event="daemon.ready"), passed(limit, event="lease.lost", level="error")]
    assert all(rare)
    for number in range(20):
        assert passed(limit, event="kernel.failed", level="warning", condition=f"c{number}")
    for _ in range(60):
        now_s += 10
        size += noise()
    assert size <= ALL_BYTES + 600 * ALL_BYTES_PER_S
    assert passed(limit, event="lease.retaken", level="warning")
    assert passed(limit, event="etcd.unavailable", level="warning", condition="c")


def test_what_is_left_out_is_told(out: Out) -> None:
    """Within a minute, by kind, most first; with what was counted before; then nothing more."""

    async def scenario() -> None:
        out.begin(asyncio.get_running_loop().time)
        log = structlog.get_logger()
        for number in range(KIND_LINES + 30):
            log.info("route.put", dst=str(number))
        for number in range(KIND_LINES + 7):
            log.warning("peer.quarantined", key=str(number))
        assert all(line["event"] != "log.limited" for line in lines(out))
        await asyncio.sleep(3 * TOLD_S)

    run(scenario())
    (told,) = [line for line in lines(out) if line["event"] == "log.limited"]
    assert (told["level"], told["lines"]) == ("warning", 37)
    assert list(told["kinds"].items()) == [("route.put", 30), ("peer.quarantined", 7)]


def test_memory_is_bounded() -> None:
    """A hostile stream of ever new subjects does not grow without end; what it logs is for ``VolumeLimit`` to bound."""
    limit = RateLimit(lambda: 0.0)
    assert all(passed(limit, dst=str(number)) for number in range(3 * MAX_REMEMBERED))
    assert len(limit._seen) <= MAX_REMEMBERED


def test_the_level_is_changed_for_all_loggers_at_once(out: Out) -> None:
    """Also for those that were made before; an unknown level is rejected and changes nothing."""
    out.begin()
    log = structlog.get_logger("pyflanneld")
    log.debug("watch.due")
    assert (log_level(), lines(out)) == ("info", [])
    set_log_level("debug")
    log.debug("watch.due")
    with pytest.raises(ValueError, match="there is: debug, info, warning"):
        set_log_level("chatty")
    assert (log_level(), len(lines(out))) == ("debug", 1)
    set_log_level("warning")
    log.info("daemon.ready")
    assert (log_level(), len(lines(out))) == ("warning", 1)
