"""What was done to the kernel objects, and why: one line in the log for each change, or one for many, and the counts.

The reconciler reports its scans and what it has done; nothing here decides anything.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pyflanneld.core.objects.change_reasons import ChangeReason
from pyflanneld.core.objects.plan import Drop, KernelChange
from pyflanneld.core.objects.table import Difference, ObjectTable
from pyflanneld.ports import Change
from pyflanneld.state.context import Context
from pyflanneld.state.counters import DROP, PUT
from pyflanneld.state.node import Node

LOG_SINGLY = 20


class ObjectAudit:
    """Logs and counts the reconciler's changes of one kind of objects."""

    def __init__(self, context: Context, node: Node, table: ObjectTable[Any, Any]) -> None:
        self._context = context
        self._node = node
        self._table = table
        self._link_index = node.link.index
        self._unlogged: dict[Any, ChangeReason] = {}

    def scanned(self, found: Sequence[Difference[Any]], before: int, reported: Change) -> bool:
        """Record where our objects are not as they were left; return whether the link has taken them.

        Args:
            found: the differences.
            before: how many objects of ours there were before.
            reported: what the kernel had reported.
        """
        gone = ChangeReason.LINK if self._link_explains(found, before, reported) else ChangeReason.DELETED_BY_OTHERS
        self._link_index = self._node.link.index
        self._unlogged = {
            one.identity: gone if one.now is None else ChangeReason.CHANGED_BY_OTHERS
            for one in found
            if one.before is not None
        }
        self._table.note_losses(self._unlogged)
        return gone is ChangeReason.LINK

    def log_losses(self) -> None:
        """Log what the last scan has found lost. Called after the repair: writing a line takes as long as that."""
        lost, self._unlogged = self._unlogged, {}
        if lost:
            first = min(lost, key=self._table.kind.order)
            self._context.log.warning(
                self._table.kind.events.changed_by_others,
                count=len(lost), first=self._table.kind.shown(first), reason=lost[first].value,
            )

    def _link_explains(self, found: Sequence[Difference[Any]], before: int, reported: Change) -> bool:
        """Return whether the link took the missing objects along: the kernel reports links then, and not routes."""
        link = self._node.link
        if not link.up or link.index != self._link_index:
            return True
        all_gone = before == sum(one.before is not None and one.now is None for one in found)
        return Change.LINKS in reported and (all_gone or Change.ROUTES not in reported)

    def done(self, changes: Sequence[tuple[KernelChange, ChangeReason]]) -> None:
        """Log and count the changes that have succeeded."""
        left = any(reason is ChangeReason.PEER_LEFT for _, reason in changes)
        view = self._node.view
        quarantined = self._node.peers.subnets(view.quarantined) if left and view is not None else ()
        changes = [
            (change, ChangeReason.PEER_QUARANTINED)
            if reason is ChangeReason.PEER_LEFT and self._table.subnet(change.object) in quarantined
            else (change, reason)
            for change, reason in changes
        ]
        counts = self._context.counters.changes[self._table.kind.name]
        for change, reason in changes:
            counts[DROP if isinstance(change, Drop) else PUT, reason] += 1
        if len(changes) > LOG_SINGLY:
            self._log_many(changes)
        else:
            self._log_each(changes)

    def _log_each(self, changes: Sequence[tuple[KernelChange, ChangeReason]]) -> None:
        kind = self._table.kind
        for change, reason in changes:
            event = kind.events.dropped if isinstance(change, Drop) else kind.events.put
            if reason is ChangeReason.ADOPTED:
                event = kind.events.adopted
            self._context.log.info(event, **kind.fields(change.object), reason=reason.value)

    def _log_many(self, changes: Sequence[tuple[KernelChange, ChangeReason]]) -> None:
        drops = sum(isinstance(change, Drop) for change, _ in changes)
        self._context.log.info(
            self._table.kind.events.changed, put=len(changes) - drops, dropped=drops, present=self._table.present,
            reasons={reason.value: count for reason, count in Counter(reason for _, reason in changes).items()},
        )
