"""Which endpoint is in use, and what is logged about it."""

from random import Random

from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.v3.channel import Endpoints
from tests.support.fakes.virtual_time import Journal

URLS = ("http://192.0.2.1:2379", "http://192.0.2.2:2379", "http://192.0.2.3:2379")
DOWN = RegistryUnavailable("no answer")


def warnings(log: Journal) -> int:
    return sum(level == "warning" for level, _, _ in log.events)


def test_search_for_a_working_endpoint_is_no_warning() -> None:
    """Going round and round while all are down warns of nothing; that the one that worked stopped working does."""
    log = Journal()
    endpoints = Endpoints(URLS, None, rng=Random(1), log=log)
    for _ in range(100):
        endpoints.leave(endpoints.current, DOWN)
    assert warnings(log) == 0
    endpoints.answered(endpoints.current)
    for _ in range(100):
        endpoints.leave(endpoints.current, DOWN)
    assert warnings(log) == 1


def test_endpoint_that_was_left_already_is_not_left_twice() -> None:
    """Two calls that fail on one endpoint move on by one."""
    endpoints = Endpoints(URLS, None, rng=Random(1), log=Journal())
    first = endpoints.current
    endpoints.leave(first, DOWN)
    second = endpoints.current
    endpoints.leave(first, DOWN)
    assert endpoints.current is second is not first
