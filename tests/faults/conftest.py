"""The fixtures of the tests of the whole daemon, the observers of each of them, and the place for what is measured."""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import LabHost
from tests.support.lab.etcd_members import Members
from tests.support.lab.testbed import (
    Keeper,
    cluster,
    cluster_keeper,
    etcd_release,
    site,
    site_keeper,
    unguarded,
    unguarded_keeper,
)
from tests.support.observers.verdict import counted, violations
from tests.support.observers.watch import Watch

__all__ = ["cluster", "cluster_keeper", "etcd_release", "site", "site_keeper", "unguarded", "unguarded_keeper"]

Measured = Callable[[str], None]
Observe = Callable[..., None]
WATCH = pytest.StashKey[Watch]()
OBSERVED = bool(os.environ.get("PYFLANNELD_OBSERVE"))
"""Whether each test is watched: ``make faults`` has it so. They cost time, which ``make test`` has little of."""


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Take what a test has seen, in words with their numbers: a cell of the table in ``docs/dev/reliability.md``.

    measured("route back after 12 ms")
    """
    return partial(record_property, "measured")


# The observers: they watch what the fixtures have put up, for as long as the test itself lasts


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker of tests that cannot but break what is promised otherwise."""
    config.addinivalue_line("markers", "breaks(invariant, reason): what the observers may see broken here, and why")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Give each test its observers; they watch nothing yet."""
    item.stash[WATCH] = Watch()
    yield


@pytest.fixture
def observe(request: pytest.FixtureRequest) -> Observe:
    """Have a laboratory watched that the test has put up itself: ``observe(lab)``, once its wires are laid."""
    return request.node.stash[WATCH].add if OBSERVED else lambda *_, **__: None


@pytest.fixture
def make_lab(make_lab: Callable[..., Lab], observe: Observe) -> Callable[..., Lab]:
    """Make laboratories as everywhere, which are watched from the moment when they are built."""

    def make(*args: object, **kwargs: object) -> Lab:
        lab = make_lab(*args, **kwargs)
        build = lab.build

        def built() -> None:
            build()
            observe(lab)

        vars(lab)["build"] = built
        return lab

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Function) -> Iterator[None]:
    """Watch the test, and check what was seen. What it breaks by its nature, it says with the marker ``breaks``."""
    if not OBSERVED:
        yield
        return
    watch = item.stash[WATCH]
    add_all(watch, item.funcargs)
    failed = True
    try:
        yield
        failed = False
    finally:
        found = [str(finding) for finding in conclude(item, watch)]
        if failed and found:
            item.add_report_section("call", "observers", "\n".join(found))
    if found:
        pytest.fail("the observers have seen what must not be:\n" + "\n".join(found[:20]), pytrace=False)


def add_all(watch: Watch, fixtures: dict[str, Any]) -> None:
    """Watch every laboratory among the values of fixtures."""
    members = next((value for value in fixtures.values() if isinstance(value, Members)), None)
    labs = [value.lab for value in fixtures.values() if isinstance(value, Keeper)]
    labs += [value for value in fixtures.values() if isinstance(value, Lab)]
    for lab in labs:
        watch.add(lab, members)
    for node in (value for value in fixtures.values() if isinstance(value, LabHost)):
        if labs:
            watch.add(labs[0], twin=node)


def conclude(item: pytest.Function, watch: Watch) -> list[object]:
    """Return what did not hold and is not excused; put what there was to check next to the test's report."""
    records = watch.finish()
    excused = {mark.args[0] for mark in item.iter_markers("breaks")}
    for record in records:
        item.user_properties.append(("observed", counted(record)))
        if record.history.blind:
            item.user_properties.append(("blind", record.history.blind))
    return [finding for record in records for finding in violations(record) if finding.invariant not in excused]
