"""Routes of others beside ours on the real kernel, in both families: plan, apply, read, plan."""

from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pyflanneld.core.objects.table import ObjectTable
from pyflanneld.core.routes import KernelRoute, Route, RouteKind
from pyflanneld.netlink.kernel import NetlinkKernel
from tests.support.network.namespaces import Namespace, namespace, until_up

pytestmark = pytest.mark.netns
OURS = 103
FAMILIES = {
    4: ("10.5.0.0/16", "10.5.1.0/24", "192.168.77.{}"),
    6: ("fd00:5::/48", "fd00:5:0:1::/64", "fd00:77::{}"),
}


class Host:
    """One destination on a host of one family, as the reconciler handles it."""

    def __init__(self, inside: Namespace, version: int, kernel: NetlinkKernel, link_index: int) -> None:
        network, dst, self._address = FAMILIES[version]
        self.inside, self.dst = inside, ip_network(dst)
        self._kernel, self._link_index, self._version = kernel, link_index, version
        self.table: ObjectTable[Route, KernelRoute] = ObjectTable(RouteKind(OURS, (ip_network(network),)))

    def via(self, last: int) -> str:
        return self._address.format(last)

    def ip(self, how: str, last: int, *words: str) -> None:
        """Have somebody change a route."""
        self.inside.run("ip", f"-{self._version}", "route", how, str(self.dst), "via", self.via(last), *words)

    async def reconcile(self, last: int | None) -> None:
        """Want the destination through this gateway, or not at all; read, plan and apply."""
        route = Route(self.dst, ip_address(self.via(last)), self._link_index) if last else None
        self.table.want([route] if route else [], [self.dst])
        await self._read()
        todo = self.table.plan()
        changes = [*todo.puts, *todo.extras, *todo.drops]
        self.table.begin()
        assert await self._kernel.apply(changes) == {}
        self.table.settle(todo, changes, {}, now_s=0.0, first=False)
        await self._read()
        again = self.table.plan()
        assert (again.puts, again.extras, again.drops) == ((), (), ())

    async def _read(self) -> None:
        kind = self.table.kind
        self.table.take_over([one for each in kind.listings(foreign=False) for one in await self._kernel.objects(each)])
        self.table.note_all([one for each in kind.listings(foreign=True) for one in await self._kernel.objects(each)])

    def gateways(self) -> list[str]:
        shown = self.inside.run("ip", f"-{self._version}", "-N", "route", "show", "exact", str(self.dst))
        words: list[Any] = shown.split()
        return [words[at + 1].rpartition(":")[2].rpartition(".")[2] for at, word in enumerate(words) if word == "via"]


@pytest.fixture(params=[4, 6])
async def host(request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    with namespace() as made, made.inside():
        made.veth("eth0", "192.168.77.1/24", "fd00:77::1/64", peer="peer0")
        until_up(made, "eth0")
        kernel = NetlinkKernel(protocol=OURS)
        index = next(link.index for link in await kernel.links() if link.name == "eth0")
        yield Host(made, request.param, kernel, index)
        await kernel.close()


@pytest.mark.parametrize("how", ["append", "prepend"])
async def test_a_foreign_route_is_never_hit(host: Host, how: str) -> None:
    """The gateway changes, and the peer leaves: the foreign route, or next hop, stays."""
    await host.reconcile(2)
    host.ip(how, 9, "proto", "static")
    await host.reconcile(2)
    assert sorted(host.gateways()) == ["2", "9"]
    assert bool(host.table.shadowed) == (how == "prepend" or host.dst.version == 6)
    await host.reconcile(3)
    assert sorted(host.gateways()) == ["3", "9"]
    await host.reconcile(None)
    assert host.gateways() == ["9"]


async def test_a_foreign_route_that_was_there_first(host: Host) -> None:
    """Ours is not put beside one that stands alone: that is a conflict."""
    host.ip("add", 9, "proto", "static")
    host.table.want([Route(host.dst, ip_address(host.via(2)), 1)], [host.dst])
    await host._read()
    host.table.note_all([KernelRoute(host.dst, ip_address(host.via(9)), 1, 4, 0, plain=True)])
    assert host.gateways() == ["9"]
