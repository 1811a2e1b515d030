"""The parts that a start does without: each group is imported here, when it is needed, and nowhere else.

The first routes need neither the firewall's task nor what answers over HTTP; loading these takes longer than the routes
do. While no file can be opened, because there are no descriptors left, an import is tried again.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from pyflanneld.core.status.report import Health
from pyflanneld.http.source import LogAccess, MetricsText, StatusSource
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

if TYPE_CHECKING:
    from pyflanneld.http.listener import Listener

RETRY_S = 0.5
T = TypeVar("T")


async def load(importing: Callable[[], T], *, on_thread: bool = False) -> T:
    """Return what *importing* imports, as soon as its files can be opened.

    Args:
        importing: one of the functions below.
        on_thread: import next to the event loop, for what takes longer than a task should wait.
    """
    while True:
        try:
            return await asyncio.to_thread(importing) if on_thread else importing()
        except OSError:
            await asyncio.sleep(RETRY_S)


def firewall() -> Callable[[Context, Node], Coroutine[Any, Any, None]]:
    """Import the firewall's task."""
    from pyflanneld.tasks.firewall.keep import keep_firewall

    return keep_firewall


def firewall_check() -> Callable[..., None]:
    """Import the check whether masquerading can be had; it is needed before a lease, and only with ``--ip-masq``."""
    from pyflanneld.tasks.firewall.jobs import check_programs

    return check_programs


def http() -> tuple[
    Callable[[Callable[[], Health]], "Listener"],
    Callable[[StatusSource, LogAccess], "Listener"],
    Callable[[StatusSource, LogAccess, MetricsText], "Listener"],
]:
    """Import aiohttp and what answers with it: the listeners of the probes, of the operators and of the monitoring."""
    from pyflanneld.http.health import health_listener
    from pyflanneld.http.monitor import monitor_listener
    from pyflanneld.http.operator import operator_listener

    return health_listener, operator_listener, monitor_listener


def metrics() -> Callable[..., Callable[[], tuple[bytes, str]]]:
    """Import prometheus_client and what makes the metrics; many hosts are never scraped."""
    from pyflanneld.http.metrics import metrics_of

    return metrics_of


def certificates() -> None:
    """Import what reads the end of certificates, which takes 0.1 s, for the first report."""
    import pyflanneld.system.certificates  # noqa: F401
