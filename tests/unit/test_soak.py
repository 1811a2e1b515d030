"""The parts of the soak that need no cluster: what is done, what the peers write, what the report says."""

import inspect
import json
import re
from dataclasses import replace
from datetime import date
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from pyflanneld.core.lease.codec import parse_key_name, parse_value
from pyflanneld.lab.etcd import PREFIX
from tests.soak import faults, report
from tests.soak.faults import FAULTS, decks
from tests.soak.peers import GATEWAYS, JUNK, JUNK_KEYS, Peers
from tests.soak.run import Deed, Story
from tests.soak.samples import Sample
from tests.soak.site import difference
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


def test_each_comes_once_before_any_comes_again() -> None:
    """By the seed: the same order for the same one."""
    first, again = (list(islice(decks(FAULTS, Random(3)), 2 * len(FAULTS))) for _ in range(2))
    assert first == again
    assert {fault.name for fault in first[: len(FAULTS)]} == {fault.name for fault in FAULTS}
    assert first[: len(FAULTS)] != first[len(FAULTS) :]


# The peers


def test_junk_is_junk() -> None:
    """What is written as nonsense is nonsense to the daemon too; what a peer writes is not."""
    for value in JUNK:
        with pytest.raises(ValueError, match="not usable"):
            parse_value(value.encode())
    assert str(parse_value(lease_value(GATEWAYS[0]).encode()).public_ip) == GATEWAYS[0]
    outside = {"172.16.9.0-24"}
    for name in set(JUNK_KEYS) - outside:
        with pytest.raises(ValueError, match="not usable"):
            parse_key_name(name.encode())


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


def test_a_lease_that_is_revoked_takes_its_peers() -> None:
    """They are gone from the model, and as many others come."""
    crowd = peers()
    begun = crowd.begin()
    gone = {change.key for change in begun if change.lease == 11}
    assert crowd.expire(0, 13) == 11
    assert crowd.keys() == {change.key for change in begun} - gone
    assert len(crowd.refill()) == len(gone) > 0
    assert {change.lease for change in crowd.rewrite()} == {12, 13}
    assert len(crowd.routes) == COUNT


def test_differences_are_told_with_examples() -> None:
    """What is missing and what is too much; nothing for equal sets."""
    assert difference("n1", {"a", "b", "c", "d", "e"}, {"e", "f"}) == "n1: 4 missing (a, b, c …); 1 too much (f)"
    assert difference("n1", {"a"}, {"a"}) == ""


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
    return Story(7, 1000, [Deed(30.0, FAULT, "n1", 3.0, 0.5, 4, lines)], {"n1": samples})


def test_a_run_without_a_finding() -> None:
    """Everything is flat: said so, with the tables and a plot for each group."""
    found = report.verdict(story())
    assert found.complaints == []
    assert {name for name, _ in found.flatness} == {quantity.name for quantity in report.QUANTITIES}
    text = report.text(story(), found, DAY)
    assert "20 minutes, 1,000 peers, seed 7" in text
    assert "All quantities stayed flat." in text
    assert f"| {FAULT} | 1 | 0.5 s | 40 s | 10 |" in text
    assert [name for name, _ in report.charts(story())] == ["soak-memory", "soak-counts", "soak-log", "soak-processor"]


def test_a_leak_is_a_complaint() -> None:
    """Four MiB in twenty minutes are too much in a day; the report names host and quantity."""
    found = report.verdict(story(leak_mib=4))
    assert found.complaints == ["n1: memory, MiB: it grows all the time"]
    assert "* n1: memory, MiB: it grows all the time" in report.text(story(leak_mib=4), found, DAY)


def test_a_fault_that_makes_the_log_long_is_a_complaint() -> None:
    """Bounded by a constant, and by the changes that came with it; in a short run too."""
    assert report.verdict(story(lines=68, minutes=1)).complaints == []
    assert report.verdict(story(lines=69, minutes=1)).complaints == [f"30 s: {FAULT}: 69 lines of log"]


def test_a_short_run_says_nothing_of_flatness() -> None:
    """Not even that it was flat."""
    found = report.verdict(story(leak_mib=4, minutes=5))
    assert found.complaints == []
    assert "too short" in report.text(story(minutes=5), found, DAY)


def test_the_page_has_its_place(tmp_path: Path) -> None:
    """docs/dev/soak.md has the marks that the report is put between; each plot is shown; samples read back."""
    page = report.PAGE.read_text("utf-8")
    assert page.count("<!-- soak -->\n") == page.count("<!-- /soak -->") == 1
    report.write(story(), tmp_path)
    assert Story.read(json.loads((tmp_path / "soak.json").read_text())) == story()
    assert {path.name for path in tmp_path.glob("*.svg")} == {f"{name}.svg" for name, _ in report.charts(story())}
    assert re.findall(r"images/(.*)\.svg", report.pictures(story())) == [name for name, _ in report.charts(story())]
