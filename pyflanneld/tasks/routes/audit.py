"""What was done to the routes, and why: one line in the log for each change, or one for many, and the counts.

The reconciler tells of its looks and of what it has done; nothing here decides anything.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from pyflanneld.core.families import Network, first_of
from pyflanneld.core.routes.change_reasons import ChangeReason, change_reason, loss_reasons
from pyflanneld.core.routes.plan import Drop, KernelRoute, PeerChange
from pyflanneld.ports import Change
from pyflanneld.state.counters import DROP, PUT
from pyflanneld.state.node import Context, Node

LOG_SINGLY = 20


class RouteAudit:
    """The reconciler's book of changes."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node
        self._told = Change(0)
        self._link_index = node.link.index
        self._lost: dict[Network, ChangeReason] = {}
        self._untold: dict[Network, ChangeReason] = {}
        self._waited: frozenset[Network] = frozenset()

    def looking(self) -> None:
        """Take note of what the kernel has told before a look begins."""
        self._told, self._node.told = self._node.told, Change(0)

    def looked(
        self,
        different: Collection[Network],
        believed: Mapping[Network, KernelRoute],
        present: Mapping[Network, KernelRoute],
    ) -> None:
        """Take note of where our routes are *different*: what was *believed* before the look, what is *present* now."""
        lost = loss_reasons(
            {dst: believed[dst] for dst in different if dst in believed}, present,
            link=self._link_explains(believed, present),
        )
        self._link_index = self._node.link.index
        self._lost = {dst: why for dst, why in self._lost.items() if dst not in present} | lost
        self._untold = lost

    def tell_losses(self) -> None:
        """Log what the look before has found lost. Asked for after the repair: writing a line takes as long as that."""
        lost, self._untold = self._untold, {}
        if lost:
            first = first_of(lost)
            self._context.log.warning(
                "routes.changed_by_others", count=len(lost), first=str(first), cause=lost[first].value
            )

    def _link_explains(self, believed: Mapping[Network, KernelRoute], present: Mapping[Network, KernelRoute]) -> bool:
        """Say whether the link took the missing routes along: the kernel tells of links then, and not of routes."""
        link = self._node.link
        if not link.up or link.index != self._link_index:
            return True
        all_gone = believed.keys().isdisjoint(present.keys())
        return Change.LINKS in self._told and (all_gone or Change.ROUTES not in self._told)

    def done(self, done: Sequence[PeerChange], adopted: Collection[Network], waiting: Collection[Network]) -> None:
        """Log and count what was done.

        Args:
            done: the changes that have succeeded.
            adopted: the destinations among them where a leftover of the Go daemon stood.
            waiting: what is wanted and could not be had this time.
        """
        first = not self._node.reconciled.is_set()
        causes = [
            (change, change_reason(change, first=first, adopted=adopted, lost=self._lost, waited=self._waited))
            for change in done
        ]
        self._waited = frozenset(waiting)
        for change, cause in causes:
            self._lost.pop(change.route.dst, None)
            self._context.counters.routes[DROP if isinstance(change, Drop) else PUT, cause] += 1
        if len(causes) > LOG_SINGLY:
            self._log_many(causes)
        else:
            self._log_each(causes)

    def _log_each(self, causes: Sequence[tuple[PeerChange, ChangeReason]]) -> None:
        for change, cause in causes:
            event = "route.dropped" if isinstance(change, Drop) else "route.put"
            if cause is ChangeReason.ADOPTED:
                event = "route.adopted"
            route = change.route
            self._context.log.info(event, dst=str(route.dst), gateway=str(route.gateway), cause=cause.value)

    def _log_many(self, causes: Sequence[tuple[PeerChange, ChangeReason]]) -> None:
        drops = sum(isinstance(change, Drop) for change, _ in causes)
        self._context.log.info(
            "routes.changed", put=len(causes) - drops, dropped=drops, present=self._node.present,
            causes={cause.value: count for cause, count in Counter(cause for _, cause in causes).items()},
        )
