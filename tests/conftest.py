"""What all tests share: laboratories with names of their own, and no skipped test where CI must run everything."""

import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab

TESTS = Path(__file__).parent
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
MUST_RUN = tuple(TESTS / room for room in ("contract", "integration", "faults"))
_numbers = itertools.count(1)


def _must_run(path: Path) -> bool:
    return bool(os.environ.get("CI")) and any(path.is_relative_to(room) for room in MUST_RUN)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI, a skipped test of these rooms is a failed one: what it needs is installed by ``make test``."""
    report: pytest.TestReport = yield
    if report.skipped and not hasattr(report, "wasxfail") and _must_run(item.path):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept here: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The same for a module that skips itself as a whole."""
    report: pytest.CollectReport = yield
    if report.skipped and _must_run(collector.path):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not accept here: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def same_signals() -> Iterator[None]:
    """The handlers that a test changes are put back: what later tests start inherits which signals are ignored, and
    would do this or that by the order of the tests."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def no_dead_labs() -> None:
    """Remove the laboratories of test runs that were killed; their names hold the process id."""
    named = re.compile(r"pyflanneld-(t(\d+)-\d+)\..*")
    for path in topology.NAMESPACES.iterdir() if topology.NAMESPACES.is_dir() else ():
        found = named.fullmatch(path.name)
        if found and not Path(f"/proc/{found[2]}").exists():
            topology.remove_namespace(path.name)


@pytest.fixture
def lab_name(no_dead_labs: None) -> str:  # noqa: ARG001
    """A laboratory's name that no other test uses."""
    return f"t{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def make_lab(no_dead_labs: None, tmp_path: Path) -> Iterator[Callable[..., Lab]]:  # noqa: ARG001
    """Make laboratories (arguments as for ``Lab``, without name and root) that are gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with ExitStack() as stack:

        def make(*args: object, **kwargs: object) -> Lab:
            name = f"t{os.getpid()}-{next(_numbers)}"
            return stack.enter_context(Lab(name, *args, root=tmp_path / "lab", **kwargs))

        yield make
