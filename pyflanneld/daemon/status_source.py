"""What the daemon reports of itself: reports and rows made from the tasks' state, for the socket and the listener.

It only reads. Whoever asks how often, the kernel is read at most twice a second unless it has changed; rows of
thousands of peers are made on a thread, so that no task waits for an operator's question.
"""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyflanneld import __version__
from pyflanneld.core.families import Address, Network
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.objects.table import ObjectTable
from pyflanneld.core.routes import KernelRoute, Route, RouteListing
from pyflanneld.core.status.hints import hint
from pyflanneld.core.status.report import (
    EtcdPart,
    FilePart,
    GuardPart,
    Health,
    LinkPart,
    NetworkPart,
    Report,
    RoutesPart,
    RulesPart,
    StatusFinding,
    by_severity,
    lease_part,
    missing_routes,
    peers_part,
    quarantine_findings,
)
from pyflanneld.core.status.table_view import PeerFacts, PeerRow, RouteRow, WantedRoutes, peer_rows, route_rows
from pyflanneld.core.status.tunnels import device_part, entries_part, lacking, waiting
from pyflanneld.core.vxlan.device import Device
from pyflanneld.ports import Certificates
from pyflanneld.state.context import Context
from pyflanneld.state.counters import Counters
from pyflanneld.state.node import KERNEL, Node
from pyflanneld.state.readiness import assess_health, unready_reasons
from pyflanneld.tasks.lease.renew import interval_s

KEEP_S = 0.5
MANY = 200


@dataclass(frozen=True, slots=True)
class _Kernel:
    """What the kernel had at one moment; *version* is that of the routes by then."""

    routes: tuple[KernelRoute, ...]
    neighbours: dict[Address, Neighbour]
    read_at_s: float
    version: int


class DaemonStatus:
    """Answers for one daemon.

    Args:
        context: the daemon's.
        current: its node, once there is one.
        started_s: when it was started, on the clock's scale.
    """

    def __init__(self, context: Context, current: Callable[[], Node | None], started_s: float) -> None:
        self._context = context
        self._current = current
        self._started_s = started_s
        self._kernel: _Kernel | None = None
        self._reading = asyncio.Lock()

    @property
    def counters(self) -> Counters:
        """What has happened since the start."""
        return self._context.counters

    @property
    def begun(self) -> Mapping[str, int]:
        """How often each kind of condition has begun, by event."""
        return self._context.conditions.begun

    def health(self) -> Health:
        """Answer the probes."""
        return assess_health(self._context, self._current())

    def status(self, log_level: str = "info") -> Report:
        """Return the report of this moment; asks nobody."""
        context, node, health = self._context, self._current(), self.health()
        now_s = context.clock.now_s()
        wanted = wanted_routes(node) if node else {}
        present = {route.dst: route for route in node.routes.objects()} if node else {}
        missing = set(missing_routes(wanted, present))
        unreached = missing | _lacking_entries(node) if node else missing
        return Report(
            version=__version__, pid=os.getpid(), uptime_s=round(now_s - self._started_s, 3), log_level=log_level,
            live=health.live, ready=health.ready, not_ready=health.not_ready,
            findings=self._findings(node, now_s),
            etcd=self._etcd(now_s),
            link=_link(node) if node else None,
            network=_network(node) if node else None,
            lease=lease_part(node.lease, now_s, interval_s(context, node)) if node else None,
            peers=peers_part(node.view, len(wanted) - len(unreached)) if node and node.view else None,
            routes=self._routes(node, len(wanted), missing) if node and node.view else None,
            firewall=_rules(node) if node else None,
            file=FilePart(str(context.settings.subnet_file), node is not None and node.progress.file.is_set()),
            guard=GuardPart(context.settings.withdraw_guard, len(node.guard.held)) if node else None,
            unconfirmed_s=_ago(node.membership.saved_at_s, context.clock.wall_s()) if node else None,
            devices=tuple(device_part(*one) for one in _devices(node)) if node else (),
            entries=tuple(entries_part(table) for table in _entry_tables(node)) if node else (),
        )  # fmt: skip

    async def peers(self) -> tuple[PeerRow, ...]:
        """Return a row for each peer. Raises ``KernelError``."""
        node = self._current()
        if node is None:
            return ()
        kernel, wanted, now_s = await self._read(node), self._wanted(node), self._context.clock.now_s()
        records, links = node.peers.records(), tuple(node.links)
        devices, unreached = [device.name for device, _ in _devices(node)], _lacking_entries(node)
        facts = PeerFacts(
            node.view, {}, node.link, kernel.neighbours, self._quarantined_s(now_s), node.subnet_range6 is not None,
            dict(node.probes), devices, unreached,
        )  # fmt: skip

        def rows() -> tuple[PeerRow, ...]:
            routes = {row.dst: row for row in route_rows(wanted, kernel.routes, links)}
            return peer_rows(records, replace(facts, routes=routes))

        return await asyncio.to_thread(rows) if len(records) > MANY else rows()

    async def routes(self) -> tuple[RouteRow, ...]:
        """Return a row for each destination that is wanted or ours. Raises ``KernelError``."""
        node = self._current()
        if node is None:
            return ()
        kernel, wanted, links = await self._read(node), self._wanted(node), tuple(node.links)
        if len(kernel.routes) > MANY:
            return await asyncio.to_thread(route_rows, wanted, kernel.routes, links)
        return route_rows(wanted, kernel.routes, links)

    def _quarantined_s(self, now_s: float) -> dict[bytes, float]:
        """Return for how long each quarantined key has been so."""
        return {name: round(now_s - since_s, 3) for name, since_s in self._context.counters.quarantined_since_s.items()}

    async def _read(self, node: Node) -> _Kernel:
        """Return what the kernel has, read within the last half second and after the last change."""
        async with self._reading:
            now_s, known, version = self._context.clock.now_s(), self._kernel, node.routes.version
            changed = known is None or known.version != version or node.wake.routes.changes & KERNEL
            if known and not changed and now_s - known.read_at_s <= KEEP_S:
                return known
            routes: list[KernelRoute] = []
            for network in node.networks:
                routes += await self._context.kernel.objects(
                    RouteListing(network.version, None, node.networks), patient=True
                )
            links = [node.link, *(there for _, there in _devices(node) if there is not None)]
            found = [one for link in links for one in await self._context.kernel.neighbours(link.index)]
            self._kernel = _Kernel(tuple(routes), {one.address: one for one in found}, now_s, version)
            return self._kernel

    def _wanted(self, node: Node) -> WantedRoutes:
        failed = {dst: errno.errorcode.get(code, str(code)) for dst, code in node.routes.refused().items()}
        absent = [device for device, there in _devices(node) if there is None]
        return WantedRoutes(
            routes=wanted_routes(node), protocol=self._context.settings.route_protocol, networks=node.networks,
            held=node.guard.held, frozen=node.view.frozen if node.view else (), failed=failed,
            waiting=waiting(node.view.peers if node.view else (), node.routes.wanted, absent),
        )

    def _etcd(self, now_s: float) -> EtcdPart:
        registry, counters = self._context.registry, self._context.counters
        return EtcdPart(
            api=registry.api, endpoint=registry.endpoint, prefix=self._context.settings.etcd_prefix,
            heard_s_ago=_ago(counters.heard_at_s, now_s), lag_s=_ago(counters.peers_at_s, now_s),
            revision=counters.revision, event_s_ago=_ago(counters.event_at_s, now_s),
            certificates_left_s=_left(self._context.ports.certificates),
        )

    def _routes(self, node: Node, wanted: int, absent: set[Network]) -> RoutesPart:
        table, refused, blocked = node.routes, node.routes.refused(), node.routes.blocked()
        return RoutesPart(
            wanted=wanted, present=table.present, missing=len(absent - blocked.keys() - refused.keys()),
            conflict=len(blocked), refused=len(refused), held=len(node.guard.held),
            protocol=self._context.settings.route_protocol,
            repaired={reason.value: count for reason, count in self._context.counters.repairs.items()},
        )

    def _findings(self, node: Node | None, now_s: float) -> tuple[StatusFinding, ...]:
        """Return the open conditions, quarantined keys, and whatever else stands against readiness."""
        context = self._context
        findings = [
            StatusFinding(topic, one.event, one.text, _ago(one.since_s, now_s), one.blocks, hint(one.event))
            for topic, one in context.conditions.open().items()
        ]
        if node is not None and node.view is not None:
            findings += quarantine_findings(node.view, self._quarantined_s(now_s))
        for reason in unready_reasons(context, node):
            for_s = _ago(reason.since_s, now_s)
            findings.append(StatusFinding("readiness", reason.event, reason.text, for_s, True, hint(reason.event)))
        return by_severity(findings)


def wanted_routes(node: Node) -> dict[Network, Route]:
    """Return the routes that the peers need, by destination; empty before the first list."""
    return dict(node.routes.wanted)


def _devices(node: Node) -> list[tuple[Device, Link | None]]:
    """Return the backend's devices, each with the link that it is, if it is there."""
    there = {link.name: link for link in node.links if link.vxlan is not None}
    return [(device, there.get(device.name)) for device in node.backend.devices(node.host)]


def _entry_tables(node: Node) -> list[ObjectTable[Any, Any]]:
    return [table for table in node.tables if table is not node.routes]


def _lacking_entries(node: Node) -> set[Network]:
    """Return the subnets of the peers that have their route, and not all that it needs."""
    return {subnet for table in _entry_tables(node) for subnet in lacking(table)}


def _link(node: Node) -> LinkPart:
    choice, link = node.choice, node.link
    return LinkPart(link.name, link.index, str(choice.address), link.mtu, link.up, choice.why)


def _rules(node: Node) -> tuple[RulesPart, ...]:
    return tuple(RulesPart(one.name, one.program, one.placed, one.blocks) for one in node.rules)


def _network(node: Node) -> NetworkPart:
    subnet_range = node.subnet_range
    return NetworkPart(
        network=str(subnet_range.network), ipv6_network=str(node.subnet_range6.network) if node.subnet_range6 else None,
        backend=node.backend.name, subnet_len=subnet_range.subnet_len, subnet_min=str(subnet_range.subnet_min),
        subnet_max=str(subnet_range.subnet_max),
    )  # fmt: skip


def _left(certificates: Certificates | None) -> dict[str, float]:
    """Return for how long each file of certificates is still good; certificates go by the wall clock."""
    ends_s = certificates.ends_s() if certificates else {}
    return {flag: round(end_s - time.time(), 3) for flag, end_s in ends_s.items()}


def _ago(at_s: float | None, now_s: float) -> float | None:
    return None if at_s is None else round(now_s - at_s, 3)
