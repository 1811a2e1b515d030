"""The node's state that the tasks share.

Each field has one writer, named next to it; the other tasks read. A task wakes another through a ``WakeUp`` and never
calls it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from pyflanneld.backends import Backend
from pyflanneld.config.settings import Settings
from pyflanneld.core.etcd_types import Position
from pyflanneld.core.families import Network
from pyflanneld.core.lease.codec import LeaseAttrs
from pyflanneld.core.lease.ownership import OwnLease
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import NetworkConfig, SubnetRange
from pyflanneld.core.peers.guard import WithdrawGuard
from pyflanneld.core.peers.table import PeerTable, View
from pyflanneld.core.probe.reachability import Reachability
from pyflanneld.core.routes.table import RouteTable
from pyflanneld.ports import Change
from pyflanneld.state.context import Context
from pyflanneld.state.wakeup import WakeUp


class KeptRules(Protocol):
    """One kind of firewall rules that is asked for; attributes as in ``tasks.firewall.jobs.Job``."""

    name: str
    program: str
    blocks: bool
    placed: bool


@dataclass(frozen=True, slots=True)
class Membership:
    """The network that this node has joined, and how.

    Attributes:
        config: the network configuration; *subnet_range* is its IPv4 part.
        network_before: the network that ``subnet.env`` named at the start.
        saved_at_s: when what the node goes by was saved, in seconds since 1970; ``None``: etcd has confirmed it.
    """

    config: NetworkConfig
    subnet_range: SubnetRange[IPv4Network]
    backend: Backend
    network_before: IPv4Network | None = None
    saved_at_s: float | None = None

    @property
    def networks(self) -> tuple[Network, ...]:
        """The cluster's network, of each family in use."""
        ipv4, ipv6 = self.subnet_range.network, self.config.ipv6
        return (ipv4,) if ipv6 is None else (ipv4, ipv6.network)


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been achieved.

    Attributes:
        routes: a round over the peers' routes was done.
        file: the subnet file is on disk; cleared while it cannot be written.
        rules_tried: each kind of firewall rules has had its first try.
        rules: those that the node needs are in place.
    """

    routes: asyncio.Event = field(default_factory=asyncio.Event)
    file: asyncio.Event = field(default_factory=asyncio.Event)
    rules_tried: asyncio.Event = field(default_factory=asyncio.Event)
    rules: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class WakeUps:
    """How each task is woken: *lease* to verify, *peers* to list, *routes* to reconcile, *file* to write."""

    lease: WakeUp = field(default_factory=WakeUp)
    peers: WakeUp = field(default_factory=WakeUp)
    routes: WakeUp = field(default_factory=WakeUp)
    file: WakeUp = field(default_factory=WakeUp)


@dataclass(slots=True)
class Node:
    """What is known and what has been achieved."""

    membership: Membership           # bootstrap, once
    links: Sequence[Link]            # routes task
    choice: Choice                   # routes task: the link to use
    lease: OwnLease                  # lease task
    peers: PeerTable                 # peers task
    guard: WithdrawGuard             # peers task feeds it, routes task asks it
    routes: RouteTable               # routes task
    listed: Position | None = None   # peers task: of the last complete list; None: there was none yet
    view: View | None = None         # routes task
    rules: Sequence[KeptRules] = ()  # firewall task, once
    probes: Mapping[IPv4Network, Reachability] = field(default_factory=dict)  # probe task, by peer's subnet
    progress: Progress = field(default_factory=Progress)  # the task of each name
    wake: WakeUps = field(default_factory=WakeUps)        # every task sets, the task of each name waits

    @property
    def link(self) -> Link:
        """The link that carries the routes."""
        return self.choice.link

    @property
    def backend(self) -> Backend:
        """The backend that the network asks for."""
        return self.membership.backend

    @property
    def subnet_range(self) -> SubnetRange[IPv4Network]:
        """Where IPv4 leases come from."""
        return self.membership.subnet_range

    @property
    def subnet_range6(self) -> SubnetRange[IPv6Network] | None:
        """Where the IPv6 halves of leases come from; ``None`` in an IPv4-only network."""
        return self.membership.config.ipv6

    @property
    def networks(self) -> tuple[Network, ...]:
        """The cluster's network, of each family in use."""
        return self.membership.networks

    @property
    def unconfirmed(self) -> bool:
        """Whether the node goes by what was saved, and etcd has not confirmed it."""
        return self.membership.saved_at_s is not None


KERNEL = Change.ROUTES | Change.LINKS
"""What the kernel reports."""


def start_over(context: Context, node: Node) -> None:
    """Connect to etcd anew, prove the lease and list the peers: old connections or timers cannot be relied on."""
    context.registry.reconnect()
    node.wake.lease.set()
    node.wake.peers.set()


def publish(settings: Settings, choice: Choice, backend: Backend, *, ipv6: bool) -> LeaseAttrs | None:
    """Return what our lease should say; ``None`` while the link has no IPv6 address that a dual-stack lease needs."""
    address6 = (settings.public_ipv6 or choice.link.address6) if ipv6 else None
    if ipv6 and address6 is None:
        return None
    return LeaseAttrs(settings.public_ip or choice.address, backend.lease_type, address6)
