"""The fixtures of the tests of the whole daemon, and the place where a test says what it has measured."""

from collections.abc import Callable
from functools import partial

import pytest

from tests.bed import cluster, cluster_keeper, site, site_keeper, unguarded, unguarded_keeper

__all__ = ["cluster", "cluster_keeper", "site", "site_keeper", "unguarded", "unguarded_keeper"]

Measured = Callable[[str], None]


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Take what a test has seen, in words with their numbers: a cell of the table in ``docs/reliability.md``.

    measured("route back after 12 ms")
    """
    return partial(record_property, "measured")
