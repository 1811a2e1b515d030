"""The check of the scaling model on a real etcd, in small: what it counts is what the daemon does."""


import pytest

from tests.bench.scaling.real import Report, run_check
from tests.support.etcd.server import etcd_missing

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.skipif(etcd_missing() is not None, reason=f"needs {etcd_missing()}"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return run_check(tmp_path_factory.mktemp("scaling"), nodes=10, members=1, quiet_s=7.0, changes=30)


@pytest.mark.parametrize("what", ["keep-alives for a renewal", "reads for a renewal"])
def test_a_renewal_is_one_keep_alive_and_one_read(report: Report, what: str) -> None:
    """As the model counts it; a renewal that is under way while etcd is asked may be counted half."""
    assert report.ratio(what) == pytest.approx(1.0, abs=0.25)


def test_renewals_cause_no_event(report: Report) -> None:
    """The quiet cluster wakes no watch."""
    assert report.ratio("events in that time") == 1.0


def test_a_new_lease_is_one_event_for_each_node(report: Report) -> None:
    """No more and no less."""
    assert report.ratio("events for a new lease and node") == 1.0


@pytest.mark.parametrize("what", ["bytes sent for a renewal", "bytes sent for an event", "bytes sent for a listed key"])
def test_the_bytes_are_those_of_the_model(report: Report, what: str) -> None:
    """Within a third: what the model leaves out is smaller than that."""
    assert 0.67 < report.ratio(what) < 1.5
