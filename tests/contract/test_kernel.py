"""What every ``Kernel`` promises, on the fake and on a real one in a throw-away network namespace."""

import abc
import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from pyflanneld.core.link.selection import Link
from pyflanneld.core.objects.plan import Create, Drop, KernelChange, Replace
from pyflanneld.core.routes import BLACKHOLE_METRIC, Blackhole, KernelRoute, Route, RouteKind, RouteListing, Way
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.netlink.route_scope import SPREAD_FROM
from pyflanneld.ports import Change, Kernel
from tests.contract.in_memory import KERNELS, MakeKernel
from tests.support.network.namespaces import Namespace, namespace

OURS, STATIC = 103, 4
NETWORK = IPv4Network("10.5.0.0/16")
LINK, PEER, ADDRESS = "eth0", "peer0", "192.168.77.1/24"


class Bed(abc.ABC):
    """A kernel with one cable, ``eth0`` to ``peer0``, and the hand of an administrator."""

    kernel: Kernel

    @abc.abstractmethod
    def add(self, dst: str, *, protocol: int = STATIC, metric: int = 0, gateway: str = "192.168.77.99") -> None:
        """Add a route over ``eth0``."""

    @abc.abstractmethod
    def delete(self, dst: str, *, metric: int = 0) -> None:
        """Delete a route."""

    @abc.abstractmethod
    def down(self) -> None:
        """Set ``eth0`` down."""

    @abc.abstractmethod
    def unplug(self) -> None:
        """Take the carrier of ``eth0`` away."""

    @abc.abstractmethod
    def set_mtu(self, mtu: int) -> None:
        """Set the MTU of ``eth0``."""

    @abc.abstractmethod
    def add_address(self, address: str) -> None:
        """Add an address to ``eth0``."""

    @abc.abstractmethod
    def delete_address(self, address: str) -> None:
        """Delete an address from ``eth0``."""

    async def link(self) -> Link:
        return next(link for link in await self.kernel.links() if link.name == LINK)

    async def route(self, dst: str, gateway: int = 2) -> Route:
        return Route(IPv4Network(dst), IPv4Address(f"192.168.77.{gateway}"), (await self.link()).index)

    async def held(self, dst: str) -> list[KernelRoute]:
        return [route for route in await self.kernel.routes() if route.dst == IPv4Network(dst)]


class FakeBed(Bed):
    def __init__(self, make: MakeKernel) -> None:
        bare = Link(index=2, name=PEER, mtu=1500, up=True, addresses=())
        link = Link(index=3, name=LINK, mtu=1500, up=True, addresses=(IPv4Interface(ADDRESS),))
        self.kernel = self.fake = make(bare, link, protocol=OURS)
        self._link = link

    def _change(self, link: Link) -> None:
        self._link = link
        self.fake.set_link(link)

    def add(self, dst: str, *, protocol: int = STATIC, metric: int = 0, gateway: str = "192.168.77.99") -> None:
        network = IPv4Network(dst)
        route = KernelRoute(network, IPv4Address(gateway), self._link.index, protocol, metric, plain=True)
        self.fake.add_foreign(route)

    def delete(self, dst: str, *, metric: int = 0) -> None:
        self.fake.delete_route(IPv4Network(dst), metric=metric)

    def down(self) -> None:
        self.fake.link_down(LINK)

    def unplug(self) -> None:
        self.fake.lose_carrier(LINK)

    def set_mtu(self, mtu: int) -> None:
        self._change(replace(self._link, mtu=mtu))

    def add_address(self, address: str) -> None:
        self._change(replace(self._link, addresses=(*self._link.addresses, IPv4Interface(address))))

    def delete_address(self, address: str) -> None:
        gone = IPv4Interface(address)
        self._change(replace(self._link, addresses=tuple(own for own in self._link.addresses if own != gone)))


class RealBed(Bed):
    def __init__(self, inside: Namespace, spread_from: int) -> None:
        self.kernel = NetlinkKernel(protocol=OURS, spread_from=spread_from)
        self._namespace = inside
        inside.veth(LINK, ADDRESS, peer=PEER)

    def add(self, dst: str, *, protocol: int = STATIC, metric: int = 0, gateway: str = "192.168.77.99") -> None:
        self._namespace.ip(f"route add {dst} via {gateway} dev {LINK} proto {protocol} metric {metric}")

    def delete(self, dst: str, *, metric: int = 0) -> None:
        self._namespace.ip(f"route delete {dst} metric {metric}")

    def down(self) -> None:
        self._namespace.ip(f"link set {LINK} down")

    def unplug(self) -> None:
        self._namespace.ip(f"link set {PEER} down")

    def set_mtu(self, mtu: int) -> None:
        self._namespace.ip(f"link set {LINK} mtu {mtu}")

    def add_address(self, address: str) -> None:
        self._namespace.ip(f"address add {address} dev {LINK}")

    def delete_address(self, address: str) -> None:
        self._namespace.ip(f"address delete {address} dev {LINK}")


@pytest.fixture(params=[*KERNELS, *(pytest.param(real, marks=pytest.mark.netns) for real in ("real", "real, spread"))])
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    """Each kind of kernel: those in memory; a real one; one that holds so many routes that it spreads the scopes."""
    if request.param in KERNELS:
        yield FakeBed(KERNELS[request.param])
        return
    with namespace() as made, made.inside():
        real = RealBed(made, spread_from=SPREAD_FROM if request.param == "real" else 0)
        yield real
        await real.kernel.close()


async def next_of(events: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(5):
        return await anext(events)


async def until(events: AsyncIterator[Change], wanted: Change) -> Change:
    """Return all that was told up to *wanted*."""
    seen = Change(0)
    while wanted not in seen:
        seen |= await next_of(events)
    return seen


def subnets(count: int) -> Iterator[IPv4Network]:
    return (IPv4Network((int(NETWORK.network_address) + number * 64, 26)) for number in range(count))


class TestApply:
    async def test_create(self, bed: Bed) -> None:
        """A created route is in the table, marked as ours and plain."""
        route = await bed.route("10.5.1.0/24")
        assert await bed.kernel.apply([Create(route)]) == {}
        ours = KernelRoute(route.dst, route.gateway, route.link_index, protocol=OURS, metric=0, plain=True)
        assert await bed.kernel.routes(protocol=OURS) == (ours,)

    async def test_create_twice(self, bed: Bed) -> None:
        """Creating what is there fails with EEXIST and changes nothing, not even the gateway."""
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24", 2))])
        again = Create(await bed.route("10.5.1.0/24", 3))
        assert await bed.kernel.apply([again]) == {again: errno.EEXIST}
        assert [route.gateway for route in await bed.held("10.5.1.0/24")] == [IPv4Address("192.168.77.2")]

    async def test_create_leaves_foreign_untouched(self, bed: Bed) -> None:
        """A foreign route of the same destination makes a creation fail and stays as it is."""
        bed.add("10.5.1.0/24")
        before = await bed.held("10.5.1.0/24")
        create = Create(await bed.route("10.5.1.0/24"))
        assert await bed.kernel.apply([create]) == {create: errno.EEXIST}
        assert await bed.held("10.5.1.0/24") == before

    async def test_create_beside_other_metric(self, bed: Bed) -> None:
        """A foreign route of another metric is no obstacle, and survives create, replace and drop of ours."""
        bed.add("10.5.1.0/24", metric=50)
        (foreign,) = await bed.held("10.5.1.0/24")
        assert foreign.metric == 50
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24", 2)), Replace(await bed.route("10.5.1.0/24", 3))])
        (ours,) = await bed.kernel.routes(protocol=OURS)
        assert await bed.held("10.5.1.0/24") == [ours, foreign]
        assert await bed.kernel.apply([Drop(ours)]) == {}
        assert await bed.held("10.5.1.0/24") == [foreign]

    async def test_replace(self, bed: Bed) -> None:
        """A replacement changes the gateway, and is no failure when it changes nothing."""
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24", 2))])
        other = Replace(await bed.route("10.5.1.0/24", 3))
        for _ in range(2):
            assert await bed.kernel.apply([other]) == {}
            assert [route.gateway for route in await bed.held("10.5.1.0/24")] == [other.object.gateway]

    async def test_replace_nothing(self, bed: Bed) -> None:
        """A replacement puts the route even if the one to be replaced has gone in the meantime."""
        assert await bed.kernel.apply([Replace(await bed.route("10.5.1.0/24"))]) == {}
        assert len(await bed.kernel.routes(protocol=OURS)) == 1

    async def test_replace_takes_over(self, bed: Bed) -> None:
        """A replaced foreign route is ours afterwards."""
        bed.add("10.5.1.0/24", protocol=3, gateway="192.168.77.2")
        await bed.kernel.apply([Replace(await bed.route("10.5.1.0/24"))])
        assert [route.protocol for route in await bed.held("10.5.1.0/24")] == [OURS]

    async def test_drop_is_idempotent(self, bed: Bed) -> None:
        """A dropped route is gone, and dropping it again is no failure."""
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24"))])
        (ours,) = await bed.kernel.routes(protocol=OURS)
        for _ in range(2):
            assert await bed.kernel.apply([Drop(ours)]) == {}
            assert await bed.held("10.5.1.0/24") == []

    @pytest.mark.parametrize(
        "difference",
        [
            {"protocol": OURS},
            {"gateway": IPv4Address("192.168.77.3")},
            {"link_index": 2},
            {"metric": 5},
        ],
        ids=lambda difference: next(iter(difference)),
    )
    async def test_drop_only_what_is_named(self, bed: Bed, difference: dict[str, Any]) -> None:
        """A route that differs in protocol, gateway, link or metric from the one to drop stays."""
        bed.add("10.5.1.0/24")
        (foreign,) = await bed.held("10.5.1.0/24")
        await bed.kernel.apply([Drop(replace(foreign, **difference))])
        assert await bed.held("10.5.1.0/24") == [foreign]

    async def test_one_bad_apple(self, bed: Bed) -> None:
        """A route that fails does not stop those before and after it, and only it is returned."""
        good = [Create(await bed.route(f"10.5.{number}.0/24")) for number in range(10)]
        bad = Create(Route(IPv4Network("10.5.99.0/24"), IPv4Address("172.31.0.1"), (await bed.link()).index))
        assert await bed.kernel.apply([*good[:5], bad, *good[5:]]) == {bad: errno.ENETUNREACH}
        assert {route.dst for route in await bed.kernel.routes(protocol=OURS)} == {change.object.dst for change in good}

    async def test_in_order(self, bed: Bed) -> None:
        """Changes are made in the order given."""
        first, second = Create(await bed.route("10.5.1.0/24", 2)), Create(await bed.route("10.5.1.0/24", 3))
        await bed.kernel.apply([first])
        (held,) = await bed.kernel.routes(protocol=OURS)
        assert await bed.kernel.apply([Drop(held), second, first]) == {first: errno.EEXIST}
        assert [route.gateway for route in await bed.held("10.5.1.0/24")] == [second.object.gateway]

    async def test_nothing(self, bed: Bed) -> None:
        """No changes, no failures."""
        assert await bed.kernel.apply([]) == {}

    async def test_thousand(self, bed: Bed) -> None:
        """A batch of 1000 is created, replaced and dropped completely."""
        plain = await bed.route("10.5.1.0/24", 2)
        for make, gateway in ((Create, 2), (Replace, 3)):
            wanted = replace(plain, gateway=IPv4Address(f"192.168.77.{gateway}"))
            changes: list[KernelChange] = [make(replace(wanted, dst=dst)) for dst in subnets(1000)]
            assert await bed.kernel.apply(changes) == {}
            held = await bed.kernel.routes(protocol=OURS)
            assert [(route.dst, route.gateway) for route in held] == [(dst, wanted.gateway) for dst in subnets(1000)]
        assert await bed.kernel.apply([Drop(route) for route in held]) == {}
        assert await bed.kernel.routes(protocol=OURS) == ()

    @pytest.mark.parametrize(
        ("gateway", "link_offset", "number"),
        [
            ("192.168.78.2", 0, errno.ENETUNREACH),
            ("192.168.77.2", 1000, errno.ENETUNREACH),
            ("192.168.77.255", 0, errno.EINVAL),
        ],
        ids=["off-link", "no such link", "broadcast"],
    )
    async def test_gateway_must_be_on_link(self, bed: Bed, gateway: str, link_offset: int, number: int) -> None:
        """A gateway that the link does not reach is refused, by Create and by Replace, with its errno."""
        index = (await bed.link()).index + link_offset
        route = Route(IPv4Network("10.5.1.0/24"), IPv4Address(gateway), index)
        changes: list[KernelChange] = [Create(route), Replace(route)]
        assert await bed.kernel.apply(changes) == dict.fromkeys(changes, number)


class TestBlackholes:
    CREATE = Create(Blackhole(IPv4Network("10.5.34.0/24")))

    async def test_create_and_drop(self, bed: Bed) -> None:
        """A created blackhole is in the table, marked as ours; creating it twice fails; dropping twice does not."""
        assert await bed.kernel.apply([self.CREATE]) == {}
        held = KernelRoute(self.CREATE.object.dst, None, 0, OURS, BLACKHOLE_METRIC, plain=True, blackhole=True)
        assert await bed.kernel.routes(protocol=OURS) == (held,)
        assert await bed.kernel.apply([self.CREATE]) == {self.CREATE: errno.EEXIST}
        for _ in range(2):
            assert await bed.kernel.apply([Drop(held)]) == {}
            assert await bed.kernel.routes(protocol=OURS) == ()

    async def test_beside_a_connected_route(self, bed: Bed) -> None:
        """It stands behind the connected route of an address on its subnet, whichever comes first, and stays alone."""
        for first in ("blackhole", "address"):
            if first == "blackhole":
                assert await bed.kernel.apply([self.CREATE]) == {}
            bed.add_address("10.5.34.1/24")
            if first == "address":
                assert await bed.kernel.apply([self.CREATE]) == {}
            connected, blackhole = await bed.held("10.5.34.0/24")
            assert (connected.protocol, connected.metric, connected.blackhole) == (2, 0, False)
            assert blackhole.blackhole
            bed.delete_address("10.5.34.1/24")
            assert await bed.held("10.5.34.0/24") == [blackhole]
            assert await bed.kernel.apply([Drop(blackhole)]) == {}

    async def test_needs_no_link(self, bed: Bed) -> None:
        """It is there with every link down, and stays when one goes down."""
        assert await bed.kernel.apply([self.CREATE]) == {}
        bed.down()
        assert [route.blackhole for route in await bed.kernel.routes(protocol=OURS)] == [True]

    async def test_only_its_own(self, bed: Bed) -> None:
        """Dropping a blackhole hits no unicast route of the same destination, protocol and metric."""
        bed.add("10.5.34.0/24", protocol=OURS, metric=BLACKHOLE_METRIC)
        (unicast,) = await bed.held("10.5.34.0/24")
        await bed.kernel.apply([Drop(replace(unicast, gateway=None, link_index=0, blackhole=True))])
        assert await bed.held("10.5.34.0/24") == [unicast]


class TestRoutes:
    async def test_filter_by_protocol(self, bed: Bed) -> None:
        """One protocol's routes can be had alone; all routes include the connected one, without gateway."""
        bed.add("10.5.2.0/24")
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24"))])
        assert [str(route.dst) for route in await bed.kernel.routes(protocol=OURS)] == ["10.5.1.0/24"]
        assert [str(route.dst) for route in await bed.kernel.routes(protocol=STATIC)] == ["10.5.2.0/24"]
        assert await bed.kernel.routes(protocol=99) == ()
        everything = await bed.kernel.routes()
        assert [str(route.dst) for route in everything] == ["10.5.1.0/24", "10.5.2.0/24", "192.168.77.0/24"]
        connected = everything[-1]
        assert (connected.gateway, connected.link_index, connected.plain) == (None, (await bed.link()).index, False)

    async def test_nothing_has_changed(self, bed: Bed) -> None:
        """The list of our own routes is the identical object until one of them changes, and the next one after that."""
        bed.add("10.5.2.0/24")
        await bed.kernel.apply([Create(await bed.route(f"10.5.{number}.0/24")) for number in (1, 3, 5)])
        before = await bed.kernel.routes(protocol=OURS)
        bed.set_mtu(1400)
        bed.delete("10.5.2.0/24")
        assert await bed.kernel.routes(protocol=OURS) is before
        assert len(await bed.kernel.routes(protocol=STATIC)) == 0
        assert await bed.kernel.routes(protocol=OURS) is before
        bed.delete("10.5.3.0/24")
        after = await bed.kernel.routes(protocol=OURS)
        assert after == (before[0], before[2])
        assert await bed.kernel.routes(protocol=OURS) is after
        await bed.kernel.apply([Replace(await bed.route("10.5.5.0/24", 3))])
        changed = await bed.kernel.routes(protocol=OURS)
        assert changed == (before[0], replace(before[2], gateway=IPv4Address("192.168.77.3")))
        assert await bed.kernel.routes(protocol=OURS, version=6) == ()
        assert await bed.kernel.routes(protocol=OURS) is changed

    async def test_nothing_has_changed_in_a_listing(self, bed: Bed) -> None:
        """What the daemon asks for every few seconds is the identical object too."""
        (listing,) = RouteKind(OURS, (NETWORK,)).listings(foreign=False)
        await bed.kernel.apply([Create(await bed.route(f"10.5.{number}.0/24")) for number in (1, 3)])
        before = await bed.kernel.objects(listing)
        bed.add("10.5.2.0/24")
        assert await bed.kernel.objects(listing) is before
        bed.delete("10.5.3.0/24")
        assert await bed.kernel.objects(listing) == before[:1]

    async def test_over_gateways_in_a_network(self, bed: Bed) -> None:
        """Of everybody's routes only those over a gateway in it can be had, wherever they lead, beside other calls."""
        bed.add_address("10.5.77.1/24")
        bed.add("198.51.100.0/24", gateway="10.5.77.9", metric=20)
        bed.add("10.5.2.0/24", gateway="10.5.77.9")
        bed.add("10.5.3.0/24")
        bed.add("8.0.5.0/24", metric=20)
        listing = RouteListing(4, None, over=(NETWORK,))
        found = await bed.kernel.objects(listing, patient=True)
        assert [str(route.dst) for route in found] == ["10.5.2.0/24", "198.51.100.0/24"]
        assert {route.gateway for route in found} == {IPv4Address("10.5.77.9")}

    async def test_after_close(self, bed: Bed) -> None:
        """Routes stay when the kernel is closed, and it opens again by itself."""
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24"))])
        await bed.kernel.close()
        assert len(await bed.kernel.routes(protocol=OURS)) == 1


class TestWay:
    async def test_on_the_link(self, bed: Bed) -> None:
        """A neighbour is reached through the link, with the address on its network."""
        bed.add_address("192.168.79.1/24")
        index = (await bed.link()).index
        assert await bed.kernel.route_to(IPv4Address("192.168.77.9")) == Way(index, IPv4Address("192.168.77.1"), None)
        assert await bed.kernel.route_to(IPv4Address("192.168.79.9")) == Way(index, IPv4Address("192.168.79.1"), None)

    async def test_through_a_gateway(self, bed: Bed) -> None:
        """The most specific route decides, and the source is the address beside its gateway."""
        bed.add_address("192.168.79.1/24")
        bed.add("0.0.0.0/0")
        bed.add("10.6.0.0/16", gateway="192.168.79.9")
        index = (await bed.link()).index
        default = await bed.kernel.route_to(IPv4Address("1.1.1.1"))
        other = await bed.kernel.route_to(IPv4Address("10.6.7.8"))
        assert default is not None
        assert default[:2] == (index, IPv4Address("192.168.77.1"))
        assert default.gateway is not None
        assert other == Way(index, IPv4Address("192.168.79.1"), IPv4Address("192.168.79.9"))

    async def test_no_way(self, bed: Bed) -> None:
        """Where no packet would leave there is no way: no route, an address of our own, a link that is down."""
        assert await bed.kernel.route_to(IPv4Address("1.1.1.1")) is None
        assert await bed.kernel.route_to(IPv4Address("192.168.77.1")) is None
        bed.down()
        assert await bed.kernel.route_to(IPv4Address("192.168.77.9")) is None


class TestLinks:
    async def test_links(self, bed: Bed) -> None:
        """All links but the loopback are there, in index order, with their addresses."""
        peer, link = await bed.kernel.links()
        assert (peer.name, link.name) == (PEER, LINK)
        assert peer.index < link.index
        assert link == Link(link.index, LINK, 1500, up=True, addresses=(IPv4Interface(ADDRESS),))
        assert peer.addresses == ()

    async def test_nothing_has_changed(self, bed: Bed) -> None:
        """The links are the identical object until one of them, or an address, changes."""
        before = await bed.kernel.links()
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24"))])
        assert await bed.kernel.links() is before
        bed.add_address("192.168.79.1/25")
        after = await bed.kernel.links()
        assert [len(link.addresses) for link in after] == [0, 2]
        assert await bed.kernel.links() is after
        bed.set_mtu(1400)
        assert await bed.kernel.links() is not after

    async def test_address_and_mtu(self, bed: Bed) -> None:
        """New addresses and a new MTU are told as a change of links, and seen in them."""
        async with bed.kernel.changes(NETWORK) as events:
            bed.add_address("192.168.79.1/25")
            assert await next_of(events) == Change.LINKS
            assert (await bed.link()).addresses == (IPv4Interface(ADDRESS), IPv4Interface("192.168.79.1/25"))
            bed.set_mtu(1400)
            await until(events, Change.LINKS)
            assert (await bed.link()).mtu == 1400
            bed.delete_address(ADDRESS)
            await until(events, Change.LINKS)
            assert (await bed.link()).addresses == (IPv4Interface("192.168.79.1/25"),)

    async def test_down(self, bed: Bed) -> None:
        """A link that goes down takes the routes along, is told as a change of links, and refuses new routes."""
        create = Create(await bed.route("10.5.1.0/24"))
        await bed.kernel.apply([create])
        async with bed.kernel.changes(NETWORK) as events:
            bed.down()
            assert await next_of(events) == Change.LINKS
        assert not (await bed.link()).up
        assert await bed.kernel.routes() == ()
        assert await bed.kernel.apply([create]) == {create: errno.ENETUNREACH}

    async def test_unplugged(self, bed: Bed) -> None:
        """A link without carrier is not up, which is told, and keeps its routes."""
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24"))])
        before = await bed.kernel.routes()
        async with bed.kernel.changes(NETWORK) as events:
            bed.unplug()
            while (await bed.link()).up:
                await until(events, Change.LINKS)
        assert await bed.kernel.routes() == before

    async def test_last_address(self, bed: Bed) -> None:
        """A link that loses its last address loses its routes, told as a change of links at least."""
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24"))])
        async with bed.kernel.changes(NETWORK) as events:
            bed.delete_address(ADDRESS)
            await until(events, Change.LINKS)
        assert await bed.kernel.routes() == ()


class TestChanges:
    async def test_foreign_hand(self, bed: Bed) -> None:
        """A route inside the network that somebody else deletes or adds is told as a change of routes."""
        await bed.kernel.apply([Create(await bed.route("10.5.1.0/24"))])
        async with bed.kernel.changes(NETWORK) as events:
            bed.delete("10.5.1.0/24")
            assert await next_of(events) == Change.ROUTES
            bed.add("10.5.1.0/24")
            assert await next_of(events) == Change.ROUTES

    async def test_outside_network(self, bed: Bed) -> None:
        """Routes outside the network, and wider than it, are nobody's business here."""
        async with bed.kernel.changes(IPv4Network("10.4.0.0/16")) as events:
            for dst in ("10.6.0.0/24", "10.4.0.0/15", "0.0.0.0/0"):
                bed.add(dst)
                bed.delete(dst)
            bed.set_mtu(1400)
            assert await until(events, Change.LINKS) == Change.LINKS

    async def test_own_changes(self, bed: Bed) -> None:
        """What the kernel port changed itself is not told back."""
        async with bed.kernel.changes(NETWORK) as events:
            await bed.kernel.apply([Create(await bed.route("10.5.1.0/24", 2))])
            await bed.kernel.apply([Replace(await bed.route("10.5.1.0/24", 3))])
            await bed.kernel.apply([Drop(route) for route in await bed.kernel.routes(protocol=OURS)])
            bed.set_mtu(1400)
            assert await until(events, Change.LINKS) == Change.LINKS

    async def test_coalesced(self, bed: Bed) -> None:
        """However much happened while nobody looked, it is told once."""
        async with bed.kernel.changes(NETWORK) as events:
            for number in range(20):
                bed.add(f"10.5.{number}.0/24")
            bed.set_mtu(1400)
            assert await next_of(events) == Change.ROUTES | Change.LINKS
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await anext(events)

    async def test_two_listeners(self, bed: Bed) -> None:
        """Every listener is told, about its own network."""
        async with bed.kernel.changes(NETWORK) as events, bed.kernel.changes(IPv4Network("10.6.0.0/16")) as others:
            bed.add("10.5.1.0/24")
            bed.add("10.6.1.0/24")
            assert await next_of(events) == Change.ROUTES
            assert await next_of(others) == Change.ROUTES
