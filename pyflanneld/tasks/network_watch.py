"""Look on while the network configuration in etcd changes: a node that runs goes on with the one that it has joined by.

To follow a change at once would move every host of a cluster, and its containers, at the same moment. So a change that
a restart would not survive unmoved is told, and the node is not ready until the configuration fits again or somebody
restarts the daemon. Anything else, such as other bounds around our subnet, is taken note of.
"""

import asyncio

from pyflanneld.core.backoff import backoff
from pyflanneld.core.etcd_types import ConfigRecord
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.network.config import parse_config
from pyflanneld.errors import RegistryError, RegistryUnavailable
from pyflanneld.state.lazy_import import load_module
from pyflanneld.state.node import Context, Node

RETRY_FIRST_S = 1.0
RETRY_CAP_S = 30.0
TOPIC = "config_change"


async def watch_config(context: Context, node: Node) -> None:
    """Watch for ever, once the routes are placed. A break is told by the loops that need etcd more."""
    await node.reconciled.wait()
    waits = backoff(RETRY_FIRST_S, RETRY_CAP_S, context.rng)
    seen: bytes | None = node.config
    while True:
        try:
            record = await context.registry.read_config()
            async with context.registry.watch_config(record.revision) as ticks:
                seen = await _judge(context, node, record, seen)
                async for _ in ticks:
                    waits = backoff(RETRY_FIRST_S, RETRY_CAP_S, context.rng)
                    seen = await _judge(context, node, await context.registry.read_config(), seen)
            raise RegistryUnavailable("the watch on the network configuration has ended")
        except RegistryError as error:
            context.log.debug("config.unwatched", error=str(error))
            await asyncio.sleep(next(waits))


async def _judge(context: Context, node: Node, record: ConfigRecord, seen: bytes | None) -> bytes | None:
    """Tell what the configuration has become, if it is another one than was *seen*; return it."""
    if record.value == seen:
        return seen
    await load_module("pyflanneld.core.network.review")  # most nodes never see a change
    why = _misfit(node, record.value)
    if why:
        text = f"the network configuration in etcd does not fit this node any more, which goes on as before: {why}"
        context.conditions.report(TOPIC, "config.changed", text, cause=why)
    else:
        context.conditions.resolve(TOPIC)
        context.log.info("config.fits", subnet=str(node.lease.key))
    return record.value


def _misfit(node: Node, value: bytes | None) -> str:
    """Say why this node would not come out of a restart as it is; empty if it would."""
    from pyflanneld.core.network.review import misfits

    if value is None:
        return "there is none"
    try:
        return "; ".join(misfits(node.lease.key, parse_config(node.config), parse_config(value)))
    except Invalid as error:
        return str(error)
