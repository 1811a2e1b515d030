"""Save what a boot without etcd would go by, while it is known to be good (``--state-dir``).

Level-triggered: every few seconds it checks whether anything is new, and saves all changes together. Where nothing
changes, the state is saved again from time to time, because its age counts, from when etcd last confirmed it. The state
is good while our lease is confirmed, the list was complete, and the withdrawal guard holds nothing back; quarantined
keys are left out. A disk that fails is reported, and no task waits for it.
"""

import asyncio
from ipaddress import IPv4Address

from pyflanneld.core.backoff import backoff
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import SubnetKey, parse_key_name, parse_value
from pyflanneld.core.lease.saved_state import MAX_VALUE_BYTES, SavedState, as_kept
from pyflanneld.core.peers.table import View
from pyflanneld.ports import SavedStateFile
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node

SPACING_S = 5.0
REFRESH_S = 3600.0
RETRY_CAP_S = 300.0
FORGET_S = 2.0
TOPIC = "last_good"


async def keep_saved_state(context: Context, node: Node, file: SavedStateFile) -> None:
    """Keep the file true for ever; the node is ready."""
    await _Keeper(context, node, file).run()


class _Keeper:
    """The task that writes the file."""

    def __init__(self, context: Context, node: Node, file: SavedStateFile) -> None:
        self._context = context
        self._node = node
        self._file = file
        self._saved: SavedState | None = None
        self._view: View | None = None  # as it was when last compared
        self._waits = backoff(SPACING_S, RETRY_CAP_S, context.rng)

    async def run(self) -> None:
        pause_s = 0.0
        while True:
            await asyncio.sleep(pause_s)
            pause_s = await self._check()

    async def _check(self) -> float:
        """Save what is new; return how long to wait before the next check."""
        node, now_s = self._node, self._context.clock.now_s()
        if not _is_good(node, now_s) or not self._may_be_new(node):
            return SPACING_S
        view, state = node.view, saved_state(self._context, node)
        if self._saved is None or state.differs_from(self._saved) or self._is_old(self._saved):
            try:
                await self._file.write(state)
            except (OSError, Invalid) as error:
                self._report(error)
                return next(self._waits)
            self._saved, self._waits = state, backoff(SPACING_S, RETRY_CAP_S, self._context.rng)
            self._context.conditions.resolve(TOPIC)
            self._context.log.debug("saved_state.written", peers=len(state.peers))
        self._view = view
        return SPACING_S

    def _may_be_new(self, node: Node) -> bool:
        saved = self._saved
        if saved is None or node.view is not self._view or node.lease.record != saved.own:
            return True
        return self._is_old(saved)

    def _is_old(self, saved: SavedState) -> bool:
        """Return whether *saved* is too old, or the clock was set back since."""
        age_s = known_at_s(self._context, self._node) - saved.saved_at_s
        return not -SPACING_S <= age_s < max(SPACING_S, min(REFRESH_S, self._node.lease.ttl_s / 24))

    def _report(self, error: OSError | Invalid) -> None:
        why = _why(error)
        text = f"{self._file.path} cannot be written: {why}; a boot without etcd would find an old one, or none"
        self._context.conditions.report(TOPIC, "saved_state.failed", text, blocks=False, cause=why)


def _why(error: OSError | Invalid) -> str:
    """Return what is wrong, without the number and the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _is_good(node: Node, now_s: float) -> bool:
    """Return whether what the node knows is worth saving."""
    held = bool(node.guard.held) or not node.link.up  # with the link down nothing is withdrawn, so nothing is held
    return node.listed is not None and node.view is not None and now_s <= node.lease.confirmed_until_s and not held


def known_at_s(context: Context, node: Node) -> float:
    """Return when both this host's lease and the peers were last confirmed, in seconds since 1970."""
    known_s = min(node.lease.confirmed_at_s, context.counters.peers_at_s or 0.0)
    return context.clock.wall_s() - (context.clock.now_s() - known_s)


def saved_state(context: Context, node: Node) -> SavedState:
    """Return what there is to save; the node has its first view."""
    lease, view, listed, wall_s = node.lease, node.view, node.listed, context.clock.wall_s()
    assert view is not None  # noqa: S101 - as said
    assert listed is not None  # noqa: S101 - a view comes of a list
    left_s = lease.confirmed_until_s - context.clock.now_s()
    left_out = view.quarantined.keys() | view.foreign_backends
    peers = (record for record in node.peers.records() if record.name not in left_out)
    return SavedState(
        saved_at_s=known_at_s(context, node), lease_end_s=None if lease.reserved else wall_s + left_s,
        prefix=context.settings.etcd_prefix, api=context.registry.api,
        cluster_id=listed.cluster_id, revision=listed.revision, config=node.membership.config.document,
        own=lease.record,
        peers=tuple(as_kept(peer) for peer in peers if len(peer.value) <= MAX_VALUE_BYTES),
    )  # fmt: skip


async def saved_key(context: Context, public_ip: IPv4Address) -> SubnetKey | None:
    """Return the subnets that this host had by the saved state, if that is about this prefix and *public_ip*."""
    file = context.ports.saved_state
    if file is None:
        return None
    try:
        state = await file.read()
    except (OSError, Invalid) as error:
        context.log.warning("saved_state.ignored", path=file.path, why=_why(error))
        return None
    if state is None or state.prefix != context.settings.etcd_prefix:
        return None
    return parse_key_name(state.own.name) if parse_value(state.own.value).public_ip == public_ip else None


async def forget(context: Context, node: Node, file: SavedStateFile) -> None:
    """Remove the file, and write it no more; a disk that does not answer is not waited for."""
    try:
        async with asyncio.timeout(FORGET_S):
            await file.forget()
    except OSError as error:  # TimeoutError is one
        context.log.warning("saved_state.not_removed", subnet=str(node.lease.subnet), error=str(error))
