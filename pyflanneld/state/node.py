"""The node's state that the tasks share.

Each field has one writer, named next to it; the other tasks read. A task wakes another through a ``WakeUp`` and never
calls it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from math import inf
from typing import Any, Protocol

from pyflanneld.backends import Backend, Host, Peers
from pyflanneld.config.settings import Settings
from pyflanneld.core.etcd_types import Incarnation, Position
from pyflanneld.core.families import Address, Network
from pyflanneld.core.lease.codec import LeaseAttrs, SubnetKey, data_text
from pyflanneld.core.lease.ownership import OwnLease
from pyflanneld.core.link.published import Published
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import NetworkConfig, SubnetRange
from pyflanneld.core.objects.table import ObjectTable
from pyflanneld.core.peers.guard import WithdrawGuard
from pyflanneld.core.peers.table import PeerTable, View
from pyflanneld.core.probe.reachability import Reachability
from pyflanneld.core.routes import KernelRoute, Route
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
        route_protocol: the number that marks a route as ours.
        macs: those of this host's devices, by IP version; they stay the same while the daemon runs.
        api: of etcd, that the lease is written to.
        networks_before: the network that ``subnet.env`` named at the start, and those that have grown since.
        saved_at_s: when what the node goes by was saved, in seconds since 1970; ``None``: etcd has confirmed it.
    """

    config: NetworkConfig
    subnet_range: SubnetRange[IPv4Network]
    backend: Backend
    route_protocol: int
    macs: Mapping[int, str] = field(default_factory=dict)
    api: int = 3
    networks_before: tuple[Network, ...] = ()
    saved_at_s: float | None = None

    @property
    def networks(self) -> tuple[Network, ...]:
        """The cluster's network, of each family in use."""
        return self.config.networks

    def grown(self, config: NetworkConfig, subnet_range: SubnetRange[IPv4Network]) -> "Membership":
        """Return it in larger networks; what else *config* changes counts from the next start on."""
        config = replace(config, nftables=self.config.nftables)
        before = (*self.networks_before, *self.networks)
        return replace(self, config=config, subnet_range=subnet_range, networks_before=before)

    def host(self, choice: Choice, links: Sequence[Link], key: SubnetKey | None = None) -> Host:
        """Return what the backend has to know of this host, with the lease *key* once there is one."""
        addresses = {4: choice.address, 6: choice.address6}
        return Host(
            choice.link, links, self.networks, self.route_protocol,
            addresses={version: address for version, address in addresses.items() if address is not None},
            subnets=key.subnets if key is not None else (), macs=self.macs, api=self.api,
        )  # fmt: skip

    def tables(self, choice: Choice, links: Sequence[Link]) -> list[ObjectTable[Any, Any]]:
        """Return an empty table for each kind of objects of the backend."""
        return [ObjectTable(kind) for kind in self.backend.kinds(self.host(choice, links))]

    def lease_attrs(
        self, public_ip: IPv4Address, public_ipv6: IPv6Address | None, choice: Choice, links: Sequence[Link]
    ) -> LeaseAttrs:
        """Return what our lease says with these addresses."""
        backend, host = self.backend, self.host(choice, links)
        data6 = data_text(backend.lease_data(6, host)) if public_ipv6 else ""
        return LeaseAttrs(public_ip, backend.lease_type, public_ipv6, data_text(backend.lease_data(4, host)), data6)


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
    """How each task is woken.

    Attributes:
        lease: to verify it.
        peers: to list them.
        routes: to reconcile.
        file: to write it.
        rules: to keep those of another network.
        kernel: to hear of the changes in another network.
    """

    lease: WakeUp = field(default_factory=WakeUp)
    peers: WakeUp = field(default_factory=WakeUp)
    routes: WakeUp = field(default_factory=WakeUp)
    file: WakeUp = field(default_factory=WakeUp)
    rules: WakeUp = field(default_factory=WakeUp)
    kernel: WakeUp = field(default_factory=WakeUp)


@dataclass(slots=True)
class Node:
    """What is known and what has been achieved."""

    membership: Membership           # bootstrap, and the config task when the network has grown
    links: Sequence[Link]            # routes task
    choice: Choice                   # routes task: the link to use
    lease: OwnLease                  # lease task
    peers: PeerTable                 # peers task
    guard: WithdrawGuard             # peers task feeds it, routes task asks it
    tables: Sequence[ObjectTable[Any, Any]]  # routes task: one for each kind, in the order in which they are put
    published: dict[int, Published] = field(default_factory=dict)  # routes task: by family, unless a flag fixes it
    junk_beside: frozenset[Incarnation] = frozenset()  # peers task: see ``PeerWatcher``
    listed: Position | None = None   # peers task: of the last complete list; None: there was none yet
    view: View | None = None         # routes task
    near: frozenset[Address] = frozenset()  # routes task: see ``Host``
    rules: Sequence[KeptRules] = ()  # firewall task
    probes: Mapping[IPv4Network, Reachability] = field(default_factory=dict)  # probe task, by peer's subnet
    progress: Progress = field(default_factory=Progress)  # the task of each name
    wake: WakeUps = field(default_factory=WakeUps)        # every task sets, the task of each name waits

    @property
    def link(self) -> Link:
        """The link that carries the routes."""
        return self.choice.link

    def waits_for(self, version: int) -> bool:
        """Return whether the published address of a family is gone, and another one would do."""
        return version in self.published and self.published[version].other is not None

    @property
    def address_due_s(self) -> float:
        """When an address that is gone need not be waited for any more, on the event loop's clock."""
        return min((one.due_s for one in self.published.values()), default=inf)

    @property
    def backend(self) -> Backend:
        """The backend that the network asks for."""
        return self.membership.backend

    @property
    def host(self) -> Host:
        """This host as the backend has to know it."""
        return replace(self.membership.host(self.choice, self.links, self.lease.key), near=self.near)

    @property
    def routes(self) -> ObjectTable[Route, KernelRoute]:
        """The table of the routes to the peers' subnets."""
        return next(table for table in self.tables if table.kind.wanted_type is Route)

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

    def want(self, view: View) -> None:
        """Take over *view*: have the tables want the objects that its peers need, as far as they may have changed."""
        self.view, changed = view, view.changed
        gateways = view.peers if changed is None else {one: view.peers[one] for one in changed if one in view.peers}
        by_type: dict[type, list[Any]] = {table.kind.wanted_type: [] for table in self.tables}
        for one in self.backend.wanted(Peers(gateways, view.data), self.host):
            by_type[type(one)].append(one)
        for table in self.tables:
            table.want(by_type[table.kind.wanted_type], changed)

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


def addresses_to_publish(
    settings: Settings, choice: Choice, *, ipv6: bool
) -> tuple[IPv4Address, IPv6Address | None]:
    """Return the addresses that peers are to send to; of IPv6 in a dual-stack network."""
    return settings.public_ip or choice.address, (settings.public_ipv6 or choice.address6) if ipv6 else None


def publish(settings: Settings, membership: Membership, choice: Choice, links: Sequence[Link]) -> LeaseAttrs:
    """Return what our lease should say."""
    address, address6 = addresses_to_publish(settings, choice, ipv6=membership.config.ipv6 is not None)
    return membership.lease_attrs(address, address6, choice, links)
