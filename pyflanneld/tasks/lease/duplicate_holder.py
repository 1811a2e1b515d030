"""Notice that another host holds our lease too: it has our public address, by which a lease is found again.

Theory of operation. Nobody but we renews the etcd lease that our key hangs on. So before each renewal we ask how long
it still has: when that is more than we have left it with, less the time since, somebody else has renewed it. An answer
under one leader of etcd proves nothing under another, who begins every lease anew. One sign may be etcd's own sleep, so
two in a row are needed to report it, and two checks without any to take it back.

The host that has created the lease goes on as before. One that has found it at its start may be the wrong one: it is
not ready, and keeps all it has, for a person to decide.
"""

from collections import deque
from math import inf

from pyflanneld.core.etcd_types import TimeLeft
from pyflanneld.errors import RegistryError
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

SLACK_S = 10.0  # a keep-alive that was repeated, rounding, and the drift of two clocks
SHORTEST_INTERVAL_S = 4 * SLACK_S  # between renewals, for there to be a time in which another's would be seen
SIGNS = 2
TOPIC = "duplicate_holder"


class DuplicateHolder:
    """Watches for the other host. ``check`` goes before each renewal, ``renewed`` behind it.

    Args:
        context: the ports.
        node: the node.
        found: whether the lease was there already when this node joined.
    """

    def __init__(self, context: Context, node: Node, *, found: bool) -> None:
        self._context = context
        self._node = node
        self._found_revision = node.lease.record.create_revision if found else None
        self._seen: TimeLeft | None = None
        self._known: tuple[TimeLeft, float] | None = None  # what the lease had, and when
        self._signs: deque[bool] = deque(maxlen=SIGNS)

    async def check(self) -> None:
        """Ask how long the lease has, and report what follows from it."""
        held = self._node.lease.record
        try:
            self._seen = await self._context.registry.time_left(held) if held.lease_id else None
        except RegistryError:  # the renewal reports it
            self._seen = None
        now_s = self._context.clock.now_s()
        if self._seen is None:
            return
        if self._known is not None and self._known[0].leader == self._seen.leader:
            before, at_s = self._known
            self._signs.append(self._seen.left_s > before.left_s - (now_s - at_s) + SLACK_S)
            self._report()
        self._known = self._seen, now_s

    def renewed(self, *, proved: bool) -> None:
        """Record how the renewal went: after one that failed nobody knows what the lease has."""
        ttl_s = self._node.lease.ttl_s
        if self._seen is None or not proved or not 0 < ttl_s < inf:
            self._known = None
        else:
            self._known = TimeLeft(ttl_s, self._seen.leader), self._context.clock.now_s()

    def _report(self) -> None:
        lease = self._node.lease
        if all(self._signs) and len(self._signs) == SIGNS:
            text = f"another host renews the lease of {lease.subnet}: it has our public address, {lease.public_ip}, too"
            may_be_wrong = lease.record.create_revision == self._found_revision  # not once it was taken again
            self._context.conditions.report(TOPIC, "lease.shared", text, blocks=may_be_wrong)
        elif not any(self._signs):
            self._context.conditions.resolve(TOPIC)
