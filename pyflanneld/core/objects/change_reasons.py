"""Why a route is changed: one short word for the log, the metrics and the operator."""

from enum import StrEnum

from pyflanneld.core.objects.plan import Drop, KernelChange, Replace


class ChangeReason(StrEnum):
    """The reasons; their values are fit for a metric label."""

    START = "start"                          # put in the first round, or left over from before it
    PEER_JOINED = "peer_joined"
    PEER_LEFT = "peer_left"
    PEER_QUARANTINED = "peer_quarantined"    # its lease is there, and cannot be used here any more
    GATEWAY_CHANGED = "gateway_changed"
    WAY_FREE = "way_free"                    # a foreign route has gone, or the kernel no longer refuses
    ADOPTED = "adopted"                      # a leftover of the Go daemon became ours
    DELETED_BY_OTHERS = "deleted_by_others"
    CHANGED_BY_OTHERS = "changed_by_others"
    DUPLICATE = "duplicate"                  # one of ours too many for its destination
    LINK = "link"                            # it went with its link


REPAIRS = frozenset({ChangeReason.DELETED_BY_OTHERS, ChangeReason.CHANGED_BY_OTHERS, ChangeReason.LINK})
"""The reasons for which a route of ours was put again."""


def change_reason(
    change: KernelChange, *, first: bool, adopted: bool, lost: ChangeReason | None, waited: bool
) -> ChangeReason:
    """Return why *change* was made.

    Args:
        change: what was done.
        first: whether it belongs to the first round.
        adopted: whether a leftover of the Go daemon stood there.
        lost: why our route was lost, if it was.
        waited: whether the route was wanted already and could not be had.
    """
    if adopted:
        return ChangeReason.ADOPTED
    if first:
        return ChangeReason.START
    if isinstance(change, Drop):
        return ChangeReason.PEER_LEFT
    if lost is not None:
        return lost
    if isinstance(change, Replace):
        return ChangeReason.GATEWAY_CHANGED
    return ChangeReason.WAY_FREE if waited else ChangeReason.PEER_JOINED
