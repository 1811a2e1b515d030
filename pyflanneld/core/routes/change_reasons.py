"""Why a route is changed: one short word for the log, the metrics and the operator."""

from collections.abc import Collection, Mapping
from enum import StrEnum

from pyflanneld.core.families import Network
from pyflanneld.core.routes.plan import Drop, KernelRoute, PeerChange, Replace


class ChangeReason(StrEnum):
    """The reasons; their values are fit for a metric label."""

    START = "start"                          # put or dropped in the first round
    PEER_JOINED = "peer_joined"
    PEER_LEFT = "peer_left"
    GATEWAY_CHANGED = "gateway_changed"
    WAY_FREE = "way_free"                    # a foreign route has gone, or the kernel no longer refuses
    ADOPTED = "adopted"                      # a leftover of the Go daemon became ours
    DELETED_BY_OTHERS = "deleted_by_others"
    CHANGED_BY_OTHERS = "changed_by_others"
    LINK = "link"                            # it went with its link


REPAIRS = frozenset({ChangeReason.DELETED_BY_OTHERS, ChangeReason.CHANGED_BY_OTHERS, ChangeReason.LINK})
"""The reasons for which a route of ours was put again."""


def loss_reasons(
    before: Mapping[Network, KernelRoute], present: Mapping[Network, KernelRoute], *, link: bool
) -> dict[Network, ChangeReason]:
    """Return why each route of *before* is lost that is not *present* as it was.

    Args:
        before: our routes as we left them, by destination.
        present: our routes as they are.
        link: whether the link explains what is missing.
    """
    gone = ChangeReason.LINK if link else ChangeReason.DELETED_BY_OTHERS
    lost = (dst for dst, route in before.items() if present.get(dst) != route)
    return {dst: ChangeReason.CHANGED_BY_OTHERS if dst in present else gone for dst in lost}


def change_reason(
    change: PeerChange,
    *,
    first: bool,
    adopted: Collection[Network],
    lost: Mapping[Network, ChangeReason],
    waited: Collection[Network],
) -> ChangeReason:
    """Return why *change* was made.

    Args:
        change: what was done.
        first: whether it was made in the first round.
        adopted: the destinations where the Go daemon had left a route.
        lost: why routes of ours were lost, as ``loss_reasons`` says, until they are there again.
        waited: destinations that were wanted before and could not be placed.
    """
    dst = change.route.dst
    if dst in adopted:
        return ChangeReason.ADOPTED
    if first:
        return ChangeReason.START
    if isinstance(change, Drop):
        return ChangeReason.PEER_LEFT
    if dst in lost:
        return lost[dst]
    if isinstance(change, Replace):
        return ChangeReason.GATEWAY_CHANGED
    return ChangeReason.WAY_FREE if dst in waited else ChangeReason.PEER_JOINED
