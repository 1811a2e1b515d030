"""Another daemon on a host of the world, for a network of its own: neither may touch what is the other's."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network
from typing import Any

from pyflanneld.core.families import inside
from pyflanneld.core.objects.plan import KernelChange
from pyflanneld.core.routes import RouteListing
from tests.sim import spec
from tests.sim.kernel import SimKernel
from tests.support.fakes.firewall import FakeFirewall
from tests.support.fakes.kernel import FakeKernel
from tests.support.fakes.node import PROTOCOL, FakeNode, value
from tests.support.fakes.registry import FakeEtcd

NETWORK = IPv4Network("172.30.0.0/16")
CONFIG = b'{"Network":"172.30.0.0/16","Backend":{"Type":"host-gw"}}'
PEERS = {f"172.30.{third}.0/24": f"192.168.14.{third}" for third in (241, 242, 243)}
CHAIN = ("filter", "FLANNEL-FWD")


class SharedKernel:
    """The host's kernel as this daemon has it: the host's judges do not count what it asks for."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel
        self.links, self.route_to = partial(FakeKernel.links, kernel), partial(FakeKernel.route_to, kernel)
        self.changes = kernel.changes
        self.neighbours, self.close, self.loopback = kernel.neighbours, kernel.close, kernel.loopback

    async def routes(self, *, protocol: int | None = None, version: int = 4) -> Any:
        return await FakeKernel.routes(self._kernel, protocol=protocol, version=version)

    async def objects(self, listing: RouteListing, *, patient: bool = False) -> Any:  # noqa: ARG002 - no call waits
        found = await self.routes(protocol=listing.protocol, version=listing.version)
        within, over = listing.inside, listing.over
        if over:
            return tuple(route for route in found if route.gateway and any(route.gateway in net for net in over))
        if not within:
            return found
        return tuple(route for route in found if any(inside(route.dst, network) for network in within))

    async def apply(self, changes: Sequence[KernelChange]) -> Mapping[KernelChange, int]:
        await self._kernel._called("apply")
        for change in changes:
            if not inside(change.object.dst, NETWORK):
                raise spec.Violation(f"I6: the daemon of {NETWORK} asks for {change}")
        return {change: number for change in changes if (number := FakeKernel._apply(self._kernel, change))}


class Companion(FakeNode):
    """The other daemon; whatever ends it, it starts again."""

    def __init__(self, number: int, kernel: SimKernel, firewall: FakeFirewall) -> None:
        etcd = FakeEtcd()
        etcd.put_config(CONFIG)
        for subnet, gateway in PEERS.items():
            etcd.put(subnet.replace("/", "-").encode(), value(gateway))
        super().__init__(etcd, 20 + number)
        self.shared, self.etcd = kernel, etcd
        self.kernel = SharedKernel(kernel)  # type: ignore[assignment]
        self.firewall, self.firewall_programs = firewall, firewall.programs()
        self._task: asyncio.Task[None] | None = None

    def start_unless_running(self) -> None:
        """Do what a service manager does."""
        if self._task is None or self._task.done():
            if self._task is not None and isinstance(error := self._task.exception(), spec.Violation):
                raise error
            self._task = asyncio.create_task(self.build().run(), name="companion")

    async def stop(self) -> None:
        """End the process and wait for its end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, ExceptionGroup):
                await self._task

    def check_converged(self) -> None:
        """After peace it is ready, and has exactly its routes and rules, beside those of the other."""
        if not self.ready:
            raise spec.Violation(f"companion: not ready: {self.why_not}")
        routes = self.shared.gateways(PROTOCOL)
        own = {dst: via for dst, via in routes.items() if inside(IPv4Network(dst), NETWORK)}
        before = {str(one.lease.key): str(one.lease.attrs.public_ip) for one in self.etcd.records() if one.lease.attrs}
        if own.items() - before.items() or PEERS.items() - own.items():  # it may have had another address and subnet
            raise spec.Violation(f"companion: has the routes {own}")
        rules = str(self.firewall.rules(*CHAIN))
        if missing := [net for net in (str(NETWORK), "192.168.0.0/18") if net not in rules]:
            raise spec.Violation(f"companion: rules of {missing} are missing in {rules}")
