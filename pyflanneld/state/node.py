"""The node's state that the loops share, and the ports that they work through.

Each field has one writer, named beside it; the others read. A loop wakes another through an event and never calls it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from pyflanneld.backends import Backend
from pyflanneld.core.families import Network
from pyflanneld.core.lease.codec import LeaseAttrs
from pyflanneld.core.lease.ownership import OwnLease
from pyflanneld.core.link.selection import Choice, Link, LinkPattern
from pyflanneld.core.network.config import SubnetRange
from pyflanneld.core.peers.guard import WithdrawGuard
from pyflanneld.core.peers.table import PeerTable, View
from pyflanneld.core.routes.plan import KernelRoute, PeerChange
from pyflanneld.core.status.report import Health, UnreadyReason
from pyflanneld.errors import RegistryDenied, RegistryError
from pyflanneld.ports import (
    Certificates,
    Change,
    Clock,
    Firewall,
    Kernel,
    Notifier,
    Prober,
    Registry,
    SavedStateFile,
    SubnetFile,
)
from pyflanneld.state.conditions import Conditions
from pyflanneld.state.counters import Counters

if TYPE_CHECKING:
    from pyflanneld.core.probe.reachability import Reachability

MISSED_BEATS = 3
DENIED_PAUSE_S = 5.0
LOOP_STOPPED, PENDING = "loop.stopped", "start.pending"


@dataclass(frozen=True, slots=True)
class Options:
    """The settings that the loops need.

    Attributes:
        prefix: ``--etcd-prefix``, for messages.
        subnet_file: ``--subnet-file``, for messages.
        wanted_links: ``--iface``, in order.
        public_ip: ``--public-ip``; ``None``: the address that comes with the choice of the link.
        route_protocol: the number that marks our routes.
        renew_margin_s: ``--subnet-lease-renew-margin`` in seconds.
        protected: addresses that no peer's route may capture; *protected6* those of IPv6.
        link_patterns: ``--iface-regex``, in order.
        can_reach: ``--iface-can-reach``.
        docker_bridge: ``--docker-bridge``; empty: none is looked at.
        ip_masq: ``--ip-masq``.
        random_fully_disabled: ``--ip-masq-fully-random-disable``.
        forward_rules: ``--iptables-forward-rules``.
        firewall_resync_s: ``--iptables-resync``.
        blackhole: ``--ip-blackhole-route``.
        public_ipv6: ``--public-ipv6``; ``None``: the link's own.
        probe_interval_s: ``--probe-interval``.
        etcd_api: ``--etcd-api``.
    """

    prefix: str
    subnet_file: str
    wanted_links: tuple[str, ...]
    public_ip: IPv4Address | None
    route_protocol: int
    renew_margin_s: float
    withdraw_guard: bool
    protected: frozenset[IPv4Address]
    link_patterns: tuple[LinkPattern, ...] = ()
    can_reach: IPv4Address | None = None
    docker_bridge: str = "docker0"
    ip_masq: bool = False
    random_fully_disabled: bool = False
    forward_rules: bool = True
    firewall_resync_s: float = 5.0
    blackhole: bool = False
    public_ipv6: IPv6Address | None = None
    protected6: frozenset[IPv6Address] = frozenset()
    probe_interval_s: float = 30.0
    etcd_api: str = "auto"


class Liveness:
    """The loops' heartbeats: a loop that has missed several is taken for dead."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[str, float] = {}

    def beat(self, loop: str, period_s: float) -> None:
        """Say that *loop* turns, and that it will say so again within *period_s*."""
        self._due[loop] = self._awake_s() + MISSED_BEATS * period_s

    def rest(self, loop: str) -> None:
        """Say that *loop* has done its work and will not beat any more."""
        self._due.pop(loop, None)

    def loops(self) -> frozenset[str]:
        """Return the loops that have a next beat due."""
        return frozenset(self._due)

    def stopped(self) -> list[str]:
        """Return the loops that should have said something by now. Time spent asleep does not count."""
        now = self._awake_s()
        return [loop for loop, due in self._due.items() if now > due]

    def _awake_s(self) -> float:
        return self._clock.now_s() - self._clock.suspended_s()


@dataclass(frozen=True, slots=True)
class Context:
    """What every loop works with: the ports, the settings, and where to say how it goes."""

    registry: Registry
    kernel: Kernel
    firewall: Firewall
    subnet_file: SubnetFile
    clock: Clock
    notifier: Notifier
    rng: Random
    log: Any
    options: Options
    conditions: Conditions
    liveness: Liveness
    counters: Counters = field(default_factory=Counters)
    prober: Prober | None = None  # there is one only with --probe
    certificates: Certificates | None = None  # there are some only with https
    saved_state: SavedStateFile | None = None  # there is one only with --state-dir

    def registry_failed(self, loop: str, error: RegistryError, *, blocks: bool) -> None:
        """Report that *loop* cannot use etcd at the moment."""
        event = "etcd.denied" if isinstance(error, RegistryDenied) else "etcd.unavailable"
        text = f"etcd cannot be used: {error}"
        self.counters.etcd_failed(loop, error)
        self.conditions.report(f"etcd:{loop}", event, text, blocks=blocks, loop=loop)

    def registry_works(self, loop: str) -> None:
        """Say that *loop* can use etcd."""
        self.counters.heard_at_s = self.clock.now_s()
        self.conditions.resolve(f"etcd:{loop}", endpoint=self.registry.endpoint)

    async def pause(self, error: RegistryError, wait_s: float) -> None:
        """Wait before *loop* asks again; refused credentials are not tried again in a hurry."""
        await asyncio.sleep(max(wait_s, DENIED_PAUSE_S) if isinstance(error, RegistryDenied) else wait_s)


@dataclass(frozen=True, slots=True)
class Placed:
    """How far the routes have come.

    Attributes:
        present: ours in the kernel, by destination.
        blocked: wanted destinations where a foreign route stands, and that route.
        failed: what the kernel has refused, with the errno.
    """

    present: Mapping[Network, KernelRoute] = field(default_factory=dict)
    blocked: Mapping[Network, KernelRoute] = field(default_factory=dict)
    failed: Mapping[PeerChange, int] = field(default_factory=dict)


class KeptRules(Protocol):
    """One kind of firewall rules that is asked for; attributes as in ``rules.Job``."""

    name: str
    program: str
    blocks: bool
    placed: bool


@dataclass(slots=True)
class Node:
    """What is known and what has been achieved."""

    guard: WithdrawGuard
    subnet_range: SubnetRange[IPv4Network]  # daemon, once
    backend: Backend                       # daemon, once
    nftables: bool                         # daemon, once
    network_before: IPv4Network | None     # daemon, once: what subnet.env named at the start
    links: Sequence[Link]                  # reconcile
    choice: Choice                         # reconcile
    lease: OwnLease                        # lease loop
    peers: PeerTable                       # peers loop
    lease_found: bool = False              # daemon, once: it was there at the start; lease loop: not when retaken
    subnet_range6: SubnetRange[IPv6Network] | None = None     # daemon, once; None in an IPv4-only network
    config: bytes = b""                    # daemon, once: the network configuration as it was read
    saved_at_s: float | None = None        # stand-in, once: when what it goes by was saved; None: etcd has told it
    cluster_id: int = 0                    # peers loop: where the last list came from
    revision: int = 0                      # peers loop: of the last list
    complete: bool = False                 # peers loop: a whole list has been folded in
    view: View | None = None               # reconcile
    present: int = 0                       # reconcile: routes of ours in the kernel
    placed: Placed = field(default_factory=Placed)  # reconcile
    probes: Mapping[IPv4Network, "Reachability"] = field(default_factory=dict)  # probe loop: by subnet
    reconciled: asyncio.Event = field(default_factory=asyncio.Event)
    file_written: asyncio.Event = field(default_factory=asyncio.Event)
    rules: Sequence[KeptRules] = ()            # firewall, once: what was asked for
    rules_tried: asyncio.Event = field(default_factory=asyncio.Event)   # firewall: each job has had its first try
    rules_placed: asyncio.Event = field(default_factory=asyncio.Event)  # firewall: those that the node needs
    peers_changed: bool = False            # peers loop sets, reconcile clears
    kernel_dirty: bool = False             # monitor sets, reconcile clears
    told: Change = field(default_factory=lambda: Change(0))  # monitor adds, reconcile clears
    routes_wake: asyncio.Event = field(default_factory=asyncio.Event)
    verify_lease: asyncio.Event = field(default_factory=asyncio.Event)
    list_within: Callable[[float], None] = lambda _delay_s: None  # peers loop: bring the next list forward
    file_outdated: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def link(self) -> Link:
        """The link that carries the routes."""
        return self.choice.link

    @property
    def networks(self) -> tuple[Network, ...]:
        """The cluster's network, of each family in use."""
        ipv4, ipv6 = self.subnet_range.network, self.subnet_range6
        return (ipv4,) if ipv6 is None else (ipv4, ipv6.network)

    def wake_routes(self, *, peers: bool = False, kernel: bool = False) -> None:
        """Have the routes reconciled, because the peers or the kernel may have changed."""
        self.peers_changed |= peers
        self.kernel_dirty |= kernel
        self.routes_wake.set()


def start_over(context: Context, node: Node) -> None:
    """Connect to etcd anew, prove the lease and list the peers: old connections or timers cannot be relied on."""
    context.registry.reconnect()
    node.verify_lease.set()
    node.list_within(0)


def publish(options: Options, choice: Choice, backend: Backend, *, ipv6: bool) -> LeaseAttrs | None:
    """Return what our lease should say; ``None`` while the link has no IPv6 address that a dual-stack lease needs."""
    address6 = (options.public_ipv6 or choice.link.address6) if ipv6 else None
    if ipv6 and address6 is None:
        return None
    return LeaseAttrs(options.public_ip or choice.address, backend.lease_type, address6)


def assess_health(context: Context, node: Node | None) -> Health:
    """Answer the probes: alive by the heartbeats, ready when nothing stands against it."""
    found = unready_reasons(context, node)
    stopped = tuple(doubt.text for doubt in found if doubt.event == LOOP_STOPPED)
    others = (doubt.text for doubt in found if doubt.event != LOOP_STOPPED)
    return Health(not stopped, (*stopped, *context.conditions.blocking(), *others), stopped)


def unready_reasons(context: Context, node: Node | None) -> list[UnreadyReason]:
    """Return what stands against readiness besides the open problems."""
    found = [UnreadyReason(LOOP_STOPPED, f"the {loop} loop has stopped turning") for loop in context.liveness.stopped()]
    if node is not None:
        return found + _not_yet(node, context.clock.now_s())
    return found or ([] if context.conditions.blocking() else [UnreadyReason(PENDING, "starting")])


def _not_yet(node: Node, now_s: float) -> list[UnreadyReason]:
    found, until_s = [], node.lease.confirmed_until_s
    if now_s > until_s:
        text = f"the lease of {node.lease.subnet} has not been confirmed for too long"
        found.append(UnreadyReason("lease.unconfirmed", text, until_s))
    if not node.rules_placed.is_set():
        found.append(UnreadyReason(PENDING, "the firewall rules are not in place yet"))
    if not node.file_written.is_set():
        found.append(UnreadyReason(PENDING, "the subnet file is not written yet"))
    if not node.reconciled.is_set():
        found.append(UnreadyReason(PENDING, "the peers' routes are not in place yet"))
    return found
