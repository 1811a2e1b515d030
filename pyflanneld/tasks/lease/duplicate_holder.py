"""Notice that another host holds our lease too: it has our public address, by which a lease is found again.

Theory of operation. Nobody but we renews the etcd lease that our key hangs on. So before each renewal we ask how long
it still has: when that is more than we have left it with, less the time since, somebody else has renewed it. What was
said under one leader of etcd proves nothing under another, who begins every lease anew. One sign may be etcd's own
sleep, so it takes two in a row to say so, and two looks without any to take it back.

The host that has created the lease goes on as before. One that has found it at its start may be the wrong one: it is
not ready, and keeps all it has, for a person to decide.
"""

from collections import deque
from math import inf

from pyflanneld.core.etcd_types import TimeLeft
from pyflanneld.errors import RegistryError
from pyflanneld.state.node import Context, Node

SLACK_S = 10.0  # a keep-alive that was repeated, rounding, and the drift of two clocks
SHORTEST_INTERVAL_S = 4 * SLACK_S  # between renewals, for there to be a time in which another's would be seen
SIGNS = 2


class DuplicateHolder:
    """Looks out for the other host. ``look`` goes before each renewal, ``renewed`` behind it."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node
        self._seen: TimeLeft | None = None
        self._known: tuple[TimeLeft, float] | None = None  # what the lease had, and when
        self._signs: deque[bool] = deque(maxlen=SIGNS)

    async def look(self) -> None:
        """Ask how long the lease has, and tell what follows from it."""
        held = self._node.lease.record
        try:
            self._seen = await self._context.registry.time_left(held) if held.lease_id else None
        except RegistryError:  # the renewal will say so
            self._seen = None
        now_s = self._context.clock.now_s()
        if self._seen is None:
            return
        if self._known is not None and self._known[0].leader == self._seen.leader:
            before, at_s = self._known
            self._signs.append(self._seen.left_s > before.left_s - (now_s - at_s) + SLACK_S)
            self._tell()
        self._known = self._seen, now_s

    def renewed(self, *, proved: bool) -> None:
        """Take note of how the renewal went: after one that failed nobody knows what the lease has."""
        ttl_s = self._node.lease.ttl_s
        if self._seen is None or not proved or not 0 < ttl_s < inf:
            self._known = None
        else:
            self._known = TimeLeft(ttl_s, self._seen.leader), self._context.clock.now_s()

    def _tell(self) -> None:
        lease = self._node.lease
        if all(self._signs) and len(self._signs) == SIGNS:
            text = f"another host renews the lease of {lease.subnet}: it has our public address, {lease.public_ip}, too"
            self._context.conditions.report("rival", "lease.shared", text, blocks=self._node.lease_found)
        elif not any(self._signs):
            self._context.conditions.resolve("rival")
