"""Certificates that change on disk, and SIGHUP: what is new is used from the next connection on, without a restart.

The watch that is open goes on with the connection it has until the next list, so nothing is missed and a rotation on
thousands of hosts costs etcd no lists; the lease is proved over a new connection at once, which shows whether etcd
takes the new certificate. SIGHUP does more, for it is a person who asks: all is connected, listed and looked at anew.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pyflanneld.core.backoff import jittered
from pyflanneld.errors import UsageError
from pyflanneld.ports import Change
from pyflanneld.state.node import Context, Node, start_over
from pyflanneld.state.wakeup import set_within

LOOK_S = 40.0
"""How often the files are read; with the jitter less than a minute."""


async def keep_certificates(context: Context, current: Callable[[], Node | None], hangup: asyncio.Event) -> None:
    """Look at the files now and then, and whenever *hangup* is set; the start has just read them.

    Args:
        context: the ports.
        current: the node, once there is one.
        hangup: set by SIGHUP; cleared here.
    """
    while True:
        look_s = jittered(LOOK_S, 0.2, context.rng) if context.certificates else None
        asked = await set_within(hangup, look_s)
        hangup.clear()
        renewed, node = _take_new(context), current()
        if asked:
            context.log.info("daemon.reloaded", certificates="new" if renewed else "as before")
            _look_at_all(context, node)
        elif renewed:
            context.registry.reconnect()
            if node is not None:
                node.verify_lease.set()


def _take_new(context: Context) -> bool:
    """Take changed files into use; say whether there were any."""
    if context.certificates is None:
        return False
    try:
        renewed = context.certificates.reload()
    except UsageError as error:
        text = f"changed certificate files cannot be used, the former ones stay in use: {error}"
        context.conditions.report("certificates", "certificates.unusable", text, blocks=False, cause=str(error))
        return False
    context.conditions.resolve("certificates")
    if renewed:
        context.log.info("certificates.renewed", **_ends(context.certificates.ends_s()))
    return renewed


def _ends(ends_s: Mapping[str, float]) -> dict[str, str]:
    return {
        f"{flag.removeprefix('etcd-')}_ends": f"{datetime.fromtimestamp(end_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
        for flag, end_s in ends_s.items()
    }


def _look_at_all(context: Context, node: Node | None) -> None:
    if node is None:
        context.registry.reconnect()
        return
    start_over(context, node)
    node.told |= Change.LINKS | Change.ROUTES
    node.wake_routes(peers=True, kernel=True)
