"""Notice that another host holds our lease too: it has our public address, by which a lease is found again.

Theory of operation. There are two signs.

*It renews the etcd lease that our key hangs on*, which nobody but we should. What a lease has left is asked for before
each renewal, and every minute in between. A lease that has more left than a minute before, without a renewal of ours,
was renewed by another: that is certain. One that has only lost less than the time that has passed may be etcd's own
sleep; two such signs in a row count. An answer under one leader of etcd proves nothing under another, who begins every
lease anew. Two checks without a sign end it. A host that has found its lease looks more often at first, and who notices
another renews at once and once more, so that the other notices it too.

*It writes another value*, with our IPv4 and its own IPv6 address (dual stack). Ours is written over it once. If the
other's is there again soon, we stand back: both would go on for ever, and every peer's route with them. The host that
wrote first stands back, so only one does; it is not ready, and names both. It writes again when the other has been
silent for longer than it could be alive.

The host that has created the lease goes on as before. One that has found it at its start may be the wrong one: it is
not ready, and keeps all it has, for a person to decide.
"""

import asyncio
from collections import deque
from math import inf

from pyflanneld.core.etcd_types import TimeLeft
from pyflanneld.core.lease.codec import LeaseAttrs
from pyflanneld.core.lease.ownership import renewal_interval_s
from pyflanneld.errors import RegistryError
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

SLACK_S = 10.0  # a keep-alive that was repeated, rounding, and the drift of two clocks
SHORTEST_INTERVAL_S = 4 * SLACK_S  # between renewals, for there to be a time in which another's would be seen
ROUNDING_S = 2.0
LOOK_S = 60.0  # between two looks at what the lease has left
FIRST_LOOK_S, FIRST_LOOKS = 10.0, 18  # of a host that has found it
LOOK_LIMIT_S = 2.0
SIGNS = 2
CONTEST_S = 60.0  # so soon after ours, another's value is an answer to it
STAND_BACK_S = 400.0  # longer than the other's renewals are apart
TOPIC = "duplicate_holder"


class DuplicateHolder:
    """Watches for the other host. ``check`` goes before each renewal, ``renewed`` behind it, ``wait`` between two.

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
        self._known: tuple[TimeLeft, float] | None = None  # what the lease had behind our renewal, and when
        self._looked: TimeLeft | None = None  # what it had at the last look since then
        self._signs: deque[bool] = deque(maxlen=SIGNS)
        self._first_looks = FIRST_LOOKS if found else 0
        self._answers = 0  # renewals that show the other that we are here
        self._other: LeaseAttrs | None = None  # what the other writes
        self._settled = node.lease.confirmed_until_s > context.clock.now_s()  # our value was there once
        self._wrote_at_s = self._back_until_s = -inf

    @property
    def _looks(self) -> bool:
        """Whether renewals are far enough apart for another's to be seen."""
        ttl_s, margin_s = self._node.lease.ttl_s, self._context.settings.subnet_lease_renew_margin_s
        return renewal_interval_s(ttl_s, margin_s) >= SHORTEST_INTERVAL_S

    async def wait(self, delay_s: float) -> None:
        """Wait until the renewal is due in *delay_s* seconds, or the lease task is woken; look meanwhile."""
        end_s = self._context.clock.now_s() + delay_s
        while (left_s := end_s - self._context.clock.now_s()) > 0:
            pause_s = FIRST_LOOK_S if self._first_looks else LOOK_S
            if await self._node.wake.lease.wait(min(left_s, pause_s) if self._looks else left_s):
                return
            if left_s > pause_s and self._known is not None:
                await self._look()

    async def check(self) -> None:
        """Ask how long the lease has, and report what follows from it."""
        held = self._node.lease.record
        self._seen = await self._time_left() if held.lease_id and self._looks else None
        now_s = self._context.clock.now_s()
        if self._seen is None:
            return
        if self._known is not None and self._known[0].leader == self._seen.leader:
            before, at_s = self._known
            self._signs.append(self._seen.left_s > before.left_s - (now_s - at_s) + SLACK_S)
            self._report()
        self._known = self._seen, now_s

    async def _look(self) -> None:
        self._first_looks = max(0, self._first_looks - 1)
        seen = await self._time_left()
        before, self._looked = self._looked, seen
        if before and seen and before.leader == seen.leader and seen.left_s > before.left_s + ROUNDING_S:
            self._answers = 0 if self._shared else 2
            self._signs.extend([True] * SIGNS)
            self._report()
        if self._answers:
            self._answers -= 1
            self._node.wake.lease.set()

    async def _time_left(self) -> TimeLeft | None:
        """Return what the lease has left; ``None`` where nobody says so in time: the renewal reports it."""
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                return await self._context.registry.time_left(self._node.lease.record)
        except (RegistryError, TimeoutError):
            return None

    def renewed(self, *, proved: bool) -> None:
        """Record how the renewal went: after one that failed nobody knows what the lease has."""
        ttl_s, now_s = self._node.lease.ttl_s, self._context.clock.now_s()
        self._looked = None
        if self._seen is None or not proved or not 0 < ttl_s < inf:
            self._known = None
        else:
            self._known = TimeLeft(ttl_s, self._seen.leader), now_s

    def may_write(self, other: LeaseAttrs) -> bool:
        """Return whether to write our value over that of another host with our address; report what follows."""
        now_s, told, self._other = self._context.clock.now_s(), self._settled, other
        if now_s < self._wrote_at_s + CONTEST_S or (now_s >= self._back_until_s > 0 and any(self._signs)):
            self._back_until_s = now_s + STAND_BACK_S
            self._wrote_at_s = -inf
        standing_back = now_s < self._back_until_s
        if not standing_back:
            self._wrote_at_s = now_s
        if told or standing_back:
            self._report(sure=True)
        return not standing_back

    def has_our_value(self) -> None:
        """Take note that the value is ours; a contest that has been quiet for long enough is over."""
        self._settled, now_s = True, self._context.clock.now_s()
        if self._other is not None and now_s > max(self._wrote_at_s + CONTEST_S, self._back_until_s):
            self._other = None
            self._report()

    @property
    def _shared(self) -> bool:
        return len(self._signs) == SIGNS and all(self._signs)

    def _report(self, *, sure: bool = False) -> None:
        lease, other = self._node.lease, self._other
        if sure or self._shared:
            does, both = "renews", ""
            if other is not None:
                theirs, ours = (str(one.public_ipv6 or "no IPv6 address") for one in (other, lease))
                does, both = "writes", f"; it publishes {theirs}, this host {ours}"
            text = f"another host {does} the lease of {lease.subnet}: it has our public address, {lease.public_ip}, too"
            may_be_wrong = lease.record.create_revision == self._found_revision  # not once it was taken again
            standing_back = self._context.clock.now_s() < self._back_until_s
            self._context.conditions.report(TOPIC, "lease.shared", text + both, blocks=may_be_wrong or standing_back)
        elif not any(self._signs) and other is None:
            self._context.conditions.resolve(TOPIC)
