"""The blackhole behind the node's own subnet: what nobody here takes must not leave by the default route.

flannel adds it with metric 0 (``--ip-blackhole-route``, v0.28.9), the metric of the route that the kernel makes for a
bridge's address on the same subnet: where there is a bridge it cannot add it, and where there is none yet it is ahead
of the bridge's own route later. Ours has a metric behind every other, so that it counts only where nothing better does.
"""

from collections.abc import Iterable

from pyflanneld.core.families import Network, in_order, inside
from pyflanneld.core.routes.plan import BLACKHOLE_METRIC, Blackhole, CreateBlackhole, Drop, KernelRoute


def is_blackhole_of_ours(route: KernelRoute, protocol: int, networks: Iterable[Network]) -> bool:
    """Say whether *route* is one that this daemon has put for a subnet of *networks*, now or in an earlier run."""
    marks = (route.blackhole, route.metric, route.protocol)
    return marks == (True, BLACKHOLE_METRIC, protocol) and any(inside(route.dst, network) for network in networks)


def plan_blackholes(
    wanted: Iterable[Network], present: Iterable[KernelRoute]
) -> tuple[Drop | CreateBlackhole, ...]:
    """Return the changes after which exactly *wanted* are blackholes of ours.

    Args:
        wanted: the node's own subnet, or nothing.
        present: the routes that ``is_blackhole_of_ours`` has found.
    """
    missing, idle = set(wanted), []
    for route in present:
        if route.plain and route.dst in missing:
            missing.discard(route.dst)
        else:
            idle.append(Drop(route))
    return (*idle, *(CreateBlackhole(Blackhole(dst)) for dst in in_order(missing)))
