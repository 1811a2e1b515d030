"""Whether the node is alive and ready, computed at each question from conditions, heartbeats and progress."""

from pyflanneld.core.status.report import Health, UnreadyReason
from pyflanneld.state.context import Context
from pyflanneld.state.counters import Counters
from pyflanneld.state.node import Node

UNKNOWN_S = 120.0
"""How old what is known of the peers may be while etcd answers others; in an outage it may be of any age."""
TASK_STALLED, PENDING = "task.stalled", "start.pending"


def assess_health(context: Context, node: Node | None) -> Health:
    """Answer the probes: alive by the heartbeats, ready when nothing stands against it."""
    found = unready_reasons(context, node)
    stalled = tuple(reason.text for reason in found if reason.event == TASK_STALLED)
    others = (reason.text for reason in found if reason.event != TASK_STALLED)
    return Health(not stalled, (*stalled, *context.conditions.blocking(), *others), stalled)


def unready_reasons(context: Context, node: Node | None) -> list[UnreadyReason]:
    """Return what stands against readiness besides the open conditions."""
    found = [UnreadyReason(TASK_STALLED, f"the {task} task has stalled") for task in context.liveness.stalled()]
    if node is not None:
        return found + _not_yet(node, context.clock.now_s()) + _not_followed(context.counters, context.clock.now_s())
    return found or ([] if context.conditions.blocking() else [UnreadyReason(PENDING, "starting")])


def _not_yet(node: Node, now_s: float) -> list[UnreadyReason]:
    found, until_s = [], node.lease.confirmed_until_s
    if now_s > until_s and not node.lease.absent:  # that is a condition
        text = f"the lease of {node.lease.subnet} has not been confirmed for too long"
        found.append(UnreadyReason("lease.unconfirmed", text, until_s))
    if not node.progress.rules.is_set():
        found.append(UnreadyReason(PENDING, "the firewall rules are not in place yet"))
    if not node.progress.file.is_set():
        found.append(UnreadyReason(PENDING, "the subnet file is not written yet"))
    if not node.progress.routes.is_set():
        found.append(UnreadyReason(PENDING, "the peers' routes are not in place yet"))
    return found


def _not_followed(counters: Counters, now_s: float) -> list[UnreadyReason]:
    since_s = counters.others_at_s
    if since_s is None or now_s - since_s <= UNKNOWN_S:
        return []
    text = "neither a list nor a watch of the peers has come for too long, although etcd answers other requests"
    return [UnreadyReason("peers.unknown", text, counters.peers_at_s)]
