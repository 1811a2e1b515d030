"""Restore a node from the saved state (``--state-dir``), for a start while etcd cannot be used.

The restored node is a node like any other, with the same tasks for routes, rules and subnet file, and the same
validation of the peers; only its lease and the list of the peers were read from a file. So nothing about it is
confirmed: it is not ready, it adds what is missing and removes nothing, and it does not use etcd. Meanwhile the daemon
goes on to join the network as at any start. When that is done, the restored node's tasks end, which changes nothing on
this host, and the node that etcd has confirmed takes over, as after a restart of the daemon.

It waits a moment first: an etcd that answers is better.

This is a start of its own, but no second way to run: bootstrap, tasks and validation are those of every start. What is
here decides only whether the saved state may be used, and hands over.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from math import inf

from pyflanneld.config.settings import Settings
from pyflanneld.core.backoff import backoff
from pyflanneld.core.etcd_types import Snapshot
from pyflanneld.core.invalid import Invalid, shown
from pyflanneld.core.lease.codec import TTL_S, LeaseAttrs, parse_key_name, parse_value
from pyflanneld.core.lease.ownership import OwnLease
from pyflanneld.core.lease.saved_state import SavedState
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.daemon.bootstrap import Bootstrap, prepare
from pyflanneld.errors import PyflanneldError
from pyflanneld.ports import Change, SavedStateFile
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node
from pyflanneld.tasks.network import claim_networks, usable_config

PATIENCE_S = 2.0
RETRY_FIRST_S = 5.0
RETRY_CAP_S = 60.0
TOPIC = "restore"


class UnusableState(Exception):
    """The saved state cannot be used; the message says why."""


class Restore:
    """The node that is restored until etcd has confirmed one.

    Args:
        context: the daemon's.
        file: where the last good state is.
        links: all links at the start, and *choice* the one to use.
    """

    def __init__(self, context: Context, file: SavedStateFile, links: Sequence[Link], choice: Choice) -> None:
        self._context = context
        self._file = file
        self._links = links
        self._choice = choice
        self._state: SavedState | None = None
        self._node: Node | None = None
        self._tasks_before: frozenset[str] = frozenset()

    async def run(self, tend: Callable[[asyncio.TaskGroup, Node], None]) -> None:
        """Restore the node when it is time, until cancelled: *tend* starts the tasks that keep this host right."""
        node, waits = None, backoff(RETRY_FIRST_S, RETRY_CAP_S, self._context.rng)
        pause_s = PATIENCE_S
        while node is None:
            await asyncio.sleep(pause_s)
            pause_s = next(waits)  # somebody may set the clock, for instance
            node = await self._try()
        self._begin(node)
        async with asyncio.TaskGroup() as tasks:
            tend(tasks, node)

    async def _try(self) -> Node | None:
        """Return a node where one is needed and can be had."""
        if not etcd_is_away(self._context):
            return None
        try:
            self._state, self._node = await self._restored()
        except UnusableState as error:
            text = f"the state in {self._file.path} is not used: {error}; waiting for etcd"
            self._context.conditions.report(TOPIC, "saved_state.unusable", text, blocks=False, cause=str(error))
        return self._node

    def _begin(self, node: Node) -> None:
        saved_at = _utc(node.membership.saved_at_s or 0.0)
        self._tasks_before = self._context.liveness.tasks()
        text = f"unconfirmed: {node.lease.key} and its peers are as saved at {saved_at}, etcd cannot be used"
        self._context.conditions.resolve(TOPIC)
        self._context.conditions.report(
            TOPIC, "saved_state.in_use", text, subnet=str(node.lease.key), peers=len(node.peers.records()),
            saved_at=saved_at, path=self._file.path,
        )

    async def _restored(self) -> tuple[SavedState, Node]:
        """Return what was saved, and the node that comes of it. Raises ``UnusableState``."""
        try:
            state = await self._file.read()
        except OSError as error:
            raise UnusableState(error.strerror or str(error)) from error
        except Invalid as error:
            raise UnusableState(str(error)) from error
        if state is None:
            raise UnusableState("there is none yet")
        bootstrap = await self._prospect(state)
        _check_origin(state, self._context.settings, bootstrap.request.attrs)
        _check_age(state, self._context.clock.wall_s())
        return state, self._as_node(state, bootstrap)

    async def _prospect(self, state: SavedState) -> Bootstrap:
        """Check the configuration, and this host against it, as at any start."""
        try:
            config, subnet_range = usable_config(state.config, "its network configuration")
            await claim_networks(self._context, config)
            bootstrap = await prepare(self._context, self._links, self._choice, config, subnet_range, state)
        except (Invalid, PyflanneldError) as error:
            raise UnusableState(str(error)) from error
        key = parse_key_name(state.own.name)
        if not config.admits(key.ipv4, key.ipv6):
            raise UnusableState(f"its lease {key} does not fit the network {subnet_range.network}")
        return bootstrap

    def _as_node(self, state: SavedState, bootstrap: Bootstrap) -> Node:
        context, key, attrs = self._context, parse_key_name(state.own.name), bootstrap.request.attrs
        age_s = context.clock.wall_s() - state.saved_at_s
        proved_at_s = context.clock.now_s() - age_s
        ttl_s = inf if state.lease_end_s is None else state.lease_end_s - state.saved_at_s
        lease = OwnLease(  # confirmed then, and not since: no proof outlives its daemon
            key.ipv4, attrs.public_ip, state.own, ttl_s, proved_at_s, proved_at_s, key.ipv6, attrs.public_ipv6,
        )  # fmt: skip
        node = bootstrap.node(context, lease, saved_at_s=state.saved_at_s)
        peers = Snapshot(state.peers, state.revision, state.cluster_id)
        node.peers.apply(peers)
        node.listed = peers.position
        node.wake.routes.set(Change.PEERS)
        return node

    def hand_over(self, node: Node, leases: Snapshot) -> None:
        """Hand over to *node*, which etcd has confirmed with the list *leases*; the tasks of ours have ended."""
        context, before, state = self._context, self._node, self._state
        context.conditions.resolve(TOPIC)
        if before is None or state is None:
            return
        for task in context.liveness.tasks() - self._tasks_before:
            context.liveness.rest(task)
        for rules in before.rules:  # the node may ask for others
            context.conditions.resolve(f"firewall {rules.name}")
        if leases.cluster_id != state.cluster_id or leases.revision < state.revision:
            node.guard.distrust()
        was, now = (before.networks, before.lease.key), (node.networks, node.lease.key)
        if was == now:
            context.log.info("saved_state.confirmed", subnet=str(node.lease.key))
        else:
            context.log.warning(
                "saved_state.superseded", was=str(before.lease.key), now=str(node.lease.key),
                network=str(node.subnet_range.network),
            )


def etcd_is_away(context: Context) -> bool:
    """Return whether etcd has not answered yet, or has failed since."""
    failing = any(topic.startswith("etcd:") for topic in context.conditions.open())
    return failing or context.counters.heard_at_s is None


def _check_origin(state: SavedState, settings: Settings, attrs: LeaseAttrs) -> None:
    """Raise ``UnusableState`` for what was saved for another network or another node; ours would publish *attrs*."""
    if state.prefix != settings.etcd_prefix:
        raise UnusableState(f"it is about the prefix {shown(state.prefix)}, this is {settings.etcd_prefix}")
    if settings.etcd_api not in ("auto", str(state.api)):
        raise UnusableState(f"it comes from etcd's API {state.api}, --etcd-api says {settings.etcd_api}")
    if parse_value(state.own.value) != attrs:
        both = f" and {attrs.public_ipv6}" if attrs.public_ipv6 else ""
        ours = f"{attrs.public_ip}{both} with the backend {attrs.backend_type or 'alloc'}"
        raise UnusableState(f"its lease says {shown(state.own.value)[1:]}, this node would say {ours}")


def _check_age(state: SavedState, now_s: float) -> None:
    """Raise ``UnusableState`` for what is too old; the texts name fixed times, so that they stay the same."""
    if state.saved_at_s > now_s:
        raise UnusableState(f"it was saved at {_utc(state.saved_at_s)}, which is yet to come: the clock was set back")
    if state.lease_end_s is not None and state.lease_end_s <= now_s:
        end = _utc(state.lease_end_s)
        raise UnusableState(f"its lease may have run out at {end}, and the subnet be another node's")
    if now_s - state.saved_at_s > TTL_S:
        raise UnusableState(f"it was saved at {_utc(state.saved_at_s)}, and leases live {TTL_S // 3600} hours")


def _utc(at_s: float) -> str:
    """Return a time of day as people read it: ``"2026-11-26T15:00:00Z"``."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
