"""Check whether Docker's bridge is on the leased subnet.

Level-triggered, from the links that the reconciler has just read. Docker keeps what it was started with, so a bridge on
another subnet (Docker was started first, or the lease is a new one) stays wrong until somebody restarts Docker, while
every peer sends to the leased subnet. The bridge is not ours, so the daemon reports it and changes nothing.
"""

from collections.abc import Iterable

from pyflanneld.core.docker import bridge_complaint
from pyflanneld.core.families import Network
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

TOPIC = "docker"
ASK_AGAIN_S = 60.0


class BridgeCheck:
    """Looks at Docker's bridge. What other daemons serve is asked for seldom: each of them has to answer."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node
        self._asked_about = ""
        self._ask_again_s = 0.0
        self._is_theirs = False

    def look(self) -> None:
        """Report that Docker's bridge has addresses and none of them is in our subnet, or that all is well."""
        context, bridge = self._context, self._context.settings.docker_bridge
        complaint = self._complaint()
        if complaint is None or (not context.settings.asked_for("docker_bridge") and self._others_serve(complaint)):
            context.conditions.resolve(TOPIC, bridge=bridge)
        else:
            context.conditions.report(TOPIC, "docker.bridge_differs", complaint, blocks=False, bridge=bridge)

    def _complaint(self, others: Iterable[Network] = ()) -> str | None:
        return bridge_complaint(self._node.links, self._context.settings.docker_bridge, self._node.lease.subnet, others)

    def _others_serve(self, complaint: str) -> bool:
        """Return whether what there is to complain of is another daemon's; asked for each complaint, and at times."""
        now_s = self._context.clock.now_s()
        if complaint != self._asked_about or now_s >= self._ask_again_s:
            self._asked_about, self._ask_again_s = complaint, now_s + ASK_AGAIN_S
            others = [one.network for one in self._context.ports.host_networks.others()]
            self._is_theirs = self._complaint(others) is None
        return self._is_theirs
