"""What of a node talks to etcd: the real tasks for the lease and the peers, on any registry, without routes.

    side = EtcdSide(registry, SystemClock(), host=7, rng=Random(7))
    await side.join()                  # list, choose, create, as many times as it takes
    task = tasks.create_task(side.run())

Hundreds of these fit into one process. Peers' routes, files and firewall rules are left out.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from random import Random
from typing import Any

from pyflanneld.backends import BACKENDS
from pyflanneld.config.settings import Settings
from pyflanneld.core.etcd_types import Position, Record, Renewal, Snapshot
from pyflanneld.core.lease.allocation import SubnetRequest
from pyflanneld.core.lease.codec import LeaseAttrs, parse_key_name
from pyflanneld.core.lease.ownership import confirmed
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import parse_config
from pyflanneld.core.peers.guard import WithdrawGuard
from pyflanneld.core.peers.table import PeerTable
from pyflanneld.etcd.discovery import OneApi
from pyflanneld.ports import Clock, Registry
from pyflanneld.state.conditions import Conditions
from pyflanneld.state.context import Context, Ports
from pyflanneld.state.liveness import Liveness
from pyflanneld.state.node import Membership, Node
from pyflanneld.tasks.lease.acquire import LeaseRequest, acquire
from pyflanneld.tasks.lease.renew import renew_lease
from pyflanneld.tasks.peers import PeerWatcher
from tests.support.fakes.firewall import FakeFirewall
from tests.support.fakes.kernel import FakeKernel
from tests.support.fakes.node import CONFIG, FakeHostNetworks, Manager, MemoryFile
from tests.support.fakes.virtual_time import Journal

JOINED = b'{"Network":"172.16.0.0/12","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
DUAL = b'{"EnableIPv6":true,"IPv6Network":"fd00:5::/48",' + JOINED[1:]
"""Where ``join`` takes leases from: there are 4,095."""


class CountingRegistry:
    """A registry that forwards each call and remembers its time; ``listed_at`` is when a list had come."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.lists_at: list[float] = []
        self.listed_at: list[float] = []
        self.watches_at: list[float] = []
        self.renewals = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._registry, name)

    async def list_subnets(self, *, elsewhere: bool = False) -> Snapshot:
        self.lists_at.append(asyncio.get_running_loop().time())
        snapshot = await self._registry.list_subnets(elsewhere=elsewhere)
        self.listed_at.append(asyncio.get_running_loop().time())
        return snapshot

    def watch_subnets(self, after: Position) -> AbstractAsyncContextManager[Any]:
        self.watches_at.append(asyncio.get_running_loop().time())
        return self._registry.watch_subnets(after)

    async def renew(self, held: Record) -> Renewal:
        self.renewals += 1
        return await self._registry.renew(held)


class EtcdSide:
    """One node's tasks that use etcd: ``counted`` counts calls, ``log`` keeps the events, ``node`` has the peers."""

    def __init__(self, registry: Registry, clock: Clock, *, host: int, rng: Random) -> None:
        self.counted = CountingRegistry(registry)
        self.log = Journal()
        self.address = IPv4Address("192.168.0.0") + host
        self._rng, self._clock = rng, clock
        self._link = Link(2, "eth1", 1500, True, (IPv4Interface(f"{self.address}/16"),))
        self.node: Node
        ports = Ports(
            discovery=OneApi(self.counted), kernel=FakeKernel(self._link), firewall=FakeFirewall().programs(),
            subnet_file=MemoryFile(),
            clock=clock, notifier=Manager(), host_networks=FakeHostNetworks(),
        )
        settings = Settings(iface=("eth1",), public_ip=self.address)
        settings = settings.model_copy(update={"subnet_lease_renew_margin_s": 0.0})
        self.context = Context(ports, settings, rng, self.log, Conditions(clock, self.log), Liveness(clock))
        self.first: Snapshot

    async def join(self, document: bytes = JOINED) -> None:
        """Get a lease as the daemon does, and remember the list that it was created by."""
        config = parse_config(document)
        assert config.ipv4 is not None
        address6 = IPv6Address("fd01::") + int(self.address) if config.ipv6 else None
        ipv6 = SubnetRequest(config.ipv6) if config.ipv6 else None
        attrs = LeaseAttrs(self.address, "host-gw", address6)
        request = LeaseRequest(config.ipv4, attrs, previous=None, underlay=(), ipv6=ipv6)
        found = await acquire(self.context, request)
        assert found is not None
        lease, listed = found
        self.take(lease.record, listed, lease.ttl_s, lease.confirmed_at_s)

    def take(self, record: Record, listed: Snapshot, ttl_s: float, sent_at_s: float = 0.0) -> None:
        """Begin with a lease that is there already."""
        config = parse_config(CONFIG)
        assert config.ipv4 is not None
        self.first = listed
        membership = Membership(config, config.ipv4, BACKENDS["host-gw"], route_protocol=103)
        choice = Choice(self._link, self.address, "test")
        self.node = Node(
            membership=membership, links=(self._link,), choice=choice,
            lease=confirmed(parse_key_name(record.name).ipv4, self.address, record, ttl_s, sent_at_s),
            peers=PeerTable(record.name), guard=WithdrawGuard(), tables=membership.tables(choice, (self._link,)),
        )

    async def run(self) -> None:
        """Follow the peers and hold the lease, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(PeerWatcher(self.context, self.node, self.first).run(), name="peers")
            tasks.create_task(renew_lease(self.context, self.node), name="lease")
