"""The parts that a start does without: each group is imported here, when it is needed, and nowhere else.

The first routes need neither the firewall's rules and programs nor what answers over HTTP; loading these takes longer
than the routes do. While no file can be opened, because there are no descriptors left, an import is tried again.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

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
