"""The host around the daemon: kernel events, a machine that was suspended, and the service manager."""

import asyncio
from collections.abc import Callable

from pyflanneld.core.backoff import backoff
from pyflanneld.errors import KernelError
from pyflanneld.state.context import Context
from pyflanneld.state.node import KERNEL, Node, start_over
from pyflanneld.state.readiness import assess_health

TICK_S = 1.0
SUSPEND_S = 5.0
EVENTS_RETRY_CAP_S = 5.0


async def watch_kernel(context: Context, node: Node) -> None:
    """Wake the routes task when links, addresses or routes have changed; subscribe anew once a network has grown."""
    waits = backoff(0.1, EVENTS_RETRY_CAP_S, context.rng)
    while True:
        try:
            async with node.wake.kernel.timeout(None):
                await _pass_on_changes(context, node)
        except TimeoutError:
            continue  # the networks are others now
        except KernelError as error:
            context.log.warning("kernel.events_lost", error=str(error))
        await asyncio.sleep(next(waits))


async def _pass_on_changes(context: Context, node: Node) -> None:
    """Subscribe to what concerns the networks as they are now, and wake the routes task with all that comes."""
    ipv6 = None if node.subnet_range6 is None else node.subnet_range6.network
    entries = bool(node.membership.macs)  # of devices
    async with context.kernel.changes(node.subnet_range.network, ipv6, entries=entries) as changes:
        node.wake.routes.set(KERNEL)  # what happened before the subscription
        async for change in changes:
            node.wake.routes.set(change)


async def watch_process(context: Context, current: Callable[[], Node | None], watchdog_s: float | None) -> None:
    """Notice that the machine was suspended, feed the watchdog while no task stalls, and keep the manager's STATUS.

    Args:
        context: the ports.
        current: the node, once there is one.
        watchdog_s: how often the service manager wants to hear from us; ``None``: it does not.
    """
    asleep_s, reported = context.clock.suspended_s(), ""
    tick_s = min(TICK_S, watchdog_s / 3) if watchdog_s else TICK_S
    while True:
        node, before_s, asleep_s = current(), asleep_s, context.clock.suspended_s()
        if node is not None and asleep_s - before_s > SUSPEND_S:
            context.log.warning("machine.resumed", slept_s=round(asleep_s - before_s))
            start_over(context, node)
        health = assess_health(context, node)
        if health.live and watchdog_s:
            context.ports.notifier.send("WATCHDOG=1")
        status = _status(node, health.not_ready)
        if status != reported:
            context.ports.notifier.send(f"STATUS={status}")
            reported = status
        await asyncio.sleep(tick_s)


def _status(node: Node | None, not_ready: tuple[str, ...]) -> str:
    readiness = f"not ready: {not_ready[0]}" if not_ready else "ready"
    if node is None:
        return readiness
    held = f"{node.lease.key} of {node.subnet_range.network}" + (", unconfirmed" if node.unconfirmed else "")
    return f"{held}, {node.routes.present} peer routes by {node.link.name}; {readiness}"
