"""Certificates that change on disk, and SIGHUP: what is new is used from the next connection on, without a restart.

The watch that is open goes on with the connection it has until the next list, so nothing is missed and a rotation on
thousands of hosts costs etcd no lists; the lease is proved over a new connection at once, which shows whether etcd
takes the new certificate. SIGHUP does more, because a person asks: all is connected, listed and read anew.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pyflanneld.core.backoff import jittered
from pyflanneld.errors import UsageError
from pyflanneld.ports import Change
from pyflanneld.state.context import Context
from pyflanneld.state.node import KERNEL, Node, start_over
from pyflanneld.state.wakeup import WakeUp

CHECK_S = 40.0
"""How often the files are read; with the jitter less than a minute."""


async def keep_certificates(context: Context, current: Callable[[], Node | None], hangup: WakeUp) -> None:
    """Read the files from time to time, and whenever *hangup* is set; the start has just read them.

    Args:
        context: the ports.
        current: the node, once there is one.
        hangup: woken by SIGHUP.
    """
    while True:
        wait_s = jittered(CHECK_S, 0.2, context.rng) if context.ports.certificates else None
        asked = await hangup.wait(wait_s)
        renewed, node = await _take_new(context), current()
        if asked:
            context.log.info("daemon.reloaded", certificates="new" if renewed else "as before")
            _read_all_anew(context, node)
        elif renewed:
            context.discovery.reconnect()
            if node is not None:
                node.wake.lease.set()


async def _take_new(context: Context) -> bool:
    """Use changed files from now on; return whether there were any."""
    if context.ports.certificates is None:
        return False
    try:
        renewed = await context.ports.certificates.reload()
    except UsageError as error:
        text = f"changed certificate files cannot be used, the former ones stay in use: {error}"
        context.conditions.report("certificates", "certificates.unusable", text, blocks=False, cause=str(error))
        return False
    context.conditions.resolve("certificates")
    if renewed:
        context.log.info("certificates.renewed", **_ends(context.ports.certificates.ends_s()))
    return renewed


def _ends(ends_s: Mapping[str, float]) -> dict[str, str]:
    return {
        f"{flag.removeprefix('etcd-')}_ends": f"{datetime.fromtimestamp(end_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
        for flag, end_s in ends_s.items()
    }


def _read_all_anew(context: Context, node: Node | None) -> None:
    if node is None:
        context.discovery.reconnect()
        return
    start_over(context, node)
    node.wake.routes.set(KERNEL | Change.PEERS)
