"""Keep, or remove, the blackhole route behind this host's subnet (``--ip-blackhole-route``)."""

import errno
from collections.abc import Iterable

from pyflanneld.core.objects.plan import Drop
from pyflanneld.core.routes import KernelRoute, is_blackhole_of_ours, plan_blackholes
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node


async def keep_blackhole(context: Context, node: Node, routes: Iterable[KernelRoute]) -> None:
    """Make the blackholes among *routes*, which were read just now, what is wanted.

    Raises:
        KernelError: netlink has failed.
    """
    protocol, lease, networks = context.settings.route_protocol, node.lease, node.networks
    present = [route for route in routes if is_blackhole_of_ours(route, protocol, networks)]
    changes = plan_blackholes(lease.key.subnets if context.settings.ip_blackhole_route else (), present)
    failures = await context.kernel.apply(changes) if changes else {}
    for change in changes:
        if change not in failures:
            event = "blackhole.dropped" if isinstance(change, Drop) else "blackhole.put"
            context.log.info(event, dst=str(change.object.dst))
    if failures:
        refused, code = next(iter(failures.items()))
        text = f"the kernel refuses the blackhole of {refused.object.dst}: {errno.errorcode.get(code, code)}"
        context.conditions.report("blackhole", "blackhole.failed", text, blocks=False)
    else:
        context.conditions.resolve("blackhole")
