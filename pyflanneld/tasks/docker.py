"""Check whether Docker's bridge is on the leased subnet.

Level-triggered, from the links that the reconciler has just read. Docker keeps what it was started with, so a bridge on
another subnet (Docker was started first, or the lease is a new one) stays wrong until somebody restarts Docker, while
every peer sends to the leased subnet. The bridge is not ours, so the daemon reports it and changes nothing.
"""

from pyflanneld.core.docker import bridge_complaint
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

TOPIC = "docker"


def check_bridge(context: Context, node: Node) -> None:
    """Report that Docker's bridge has addresses and none of them is in our subnet, or that all is well."""
    bridge = context.settings.docker_bridge
    complaint = bridge_complaint(node.links, bridge, node.lease.subnet)
    if complaint is not None and not context.settings.asked_for("docker_bridge"):
        others = [one.network for one in context.ports.host_networks.others()]
        complaint = bridge_complaint(node.links, bridge, node.lease.subnet, others)
    if complaint is None:
        context.conditions.resolve(TOPIC, bridge=bridge)
    else:
        context.conditions.report(TOPIC, "docker.bridge_differs", complaint, blocks=False, bridge=bridge)
