"""What every ``Kernel`` promises about IPv6, on the fake and on a real one in a throw-away network namespace."""

import errno
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface, IPv6Network

import pytest

from pyflanneld.core.objects.plan import Create, Drop, KernelChange, Replace
from pyflanneld.core.routes import BLACKHOLE_METRIC, Blackhole, KernelRoute, Route, RouteKind
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.ports import Change, Kernel
from tests.contract.in_memory import KERNELS, MakeKernel
from tests.contract.test_kernel import ADDRESS, LINK, NETWORK, OURS, PEER, STATIC, next_of, until
from tests.support.fakes.kernel import FakeKernel, Link
from tests.support.network.namespaces import Namespace, namespace

NETWORK6 = IPv6Network("fd00:5::/48")
ADDRESS6 = "fd00:77::1/64"
DST = IPv6Network("fd00:5:0:1::/64")


class Bed6:
    """A kernel with one cable that has an IPv6 address, and the hand of an administrator."""

    def __init__(self, inside: Namespace | None, make: MakeKernel = FakeKernel) -> None:
        self._inside = inside
        self.kernel: Kernel
        if inside is not None:
            self.kernel = NetlinkKernel(protocol=OURS)
            inside.veth(LINK, ADDRESS, peer=PEER)
            inside.ip(f"address add {ADDRESS6} dev {LINK} nodad")
            return
        link = Link(3, LINK, 1500, True, (IPv4Interface(ADDRESS),), addresses6=(IPv6Interface(ADDRESS6),))
        self.kernel = self.fake = make(Link(2, PEER, 1500, True, ()), link, protocol=OURS)

    async def index(self) -> int:
        return next(link.index for link in await self.kernel.links() if link.name == LINK)

    async def route(self, gateway: str = "fd00:77::2", dst: IPv6Network = DST) -> Route:
        return Route(dst, IPv6Address(gateway), await self.index())

    async def add_static(self, dst: str) -> None:
        if self._inside is not None:
            self._inside.ip(f"-6 route add {dst} via fd00:77::99 dev {LINK} proto static")
        else:
            gateway = IPv6Address("fd00:77::99")
            route = KernelRoute(IPv6Network(dst), gateway, await self.index(), STATIC, 1024, plain=True)
            self.fake.add_foreign(route)

    async def mtu(self) -> None:
        """Make a change of the link, to be told as such."""
        if self._inside is not None:
            self._inside.ip(f"link set {LINK} mtu 1400")
        else:
            link = next(link for link in await self.kernel.links() if link.name == LINK)
            self.fake.set_link(replace(link, mtu=1400))

    async def add_address(self, address: str, more: str = "nodad") -> None:
        if self._inside is not None:
            self._inside.ip(f"address add {address} dev {LINK} {more}")
        else:
            link = next(link for link in await self.kernel.links() if link.name == LINK)
            self.fake.set_link(replace(link, addresses6=(*link.addresses6, IPv6Interface(address))))

    async def held(self, dst: IPv6Network = DST) -> list[KernelRoute]:
        return [route for route in await self.kernel.routes(version=6) if route.dst == dst]


@pytest.fixture(params=[*KERNELS, pytest.param("real", marks=pytest.mark.netns)])
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed6]:
    if request.param in KERNELS:
        yield Bed6(None, KERNELS[request.param])
        return
    with namespace() as made, made.inside():
        real = Bed6(made)
        yield real
        await real.kernel.close()


async def test_create_replace_drop(bed: Bed6) -> None:
    """A route is created, marked as ours and with the kernel's usual metric; replaced in place; dropped, twice."""
    route = await bed.route()
    assert await bed.kernel.apply([Create(route)]) == {}
    ours = KernelRoute(DST, route.gateway, route.link_index, OURS, metric=1024, plain=True)
    assert await bed.kernel.routes(protocol=OURS, version=6) == (ours,)
    assert await bed.kernel.routes(protocol=OURS) == (), "the other family is not told"
    other = Replace(await bed.route("fd00:77::3"))
    for _ in range(2):
        assert await bed.kernel.apply([other]) == {}
        (held,) = await bed.held()
        assert held == replace(ours, gateway=other.object.gateway)
    for _ in range(2):
        assert await bed.kernel.apply([Drop(held)]) == {}
        assert await bed.held() == []


async def test_nothing_has_changed_in_a_listing(bed: Bed6) -> None:
    """What the daemon asks for every few seconds is the identical object until it changes."""
    (listing,) = RouteKind(OURS, (IPv6Network("fd00:5::/48"),)).listings(foreign=False)
    await bed.kernel.apply([Create(await bed.route())])
    before = await bed.kernel.objects(listing)
    assert [route.dst for route in before] == [DST]
    await bed.mtu()
    assert await bed.kernel.objects(listing) is before
    await bed.kernel.apply([Replace(await bed.route("fd00:77::3"))])
    assert await bed.kernel.objects(listing) == (replace(before[0], gateway=IPv6Address("fd00:77::3")),)


async def test_create_leaves_foreign_untouched(bed: Bed6) -> None:
    """Creating where something stands fails with EEXIST: no second gateway is added to a foreign route."""
    await bed.add_static(str(DST))
    before = await bed.held()
    assert [route.metric for route in before] == [1024]
    create = Create(await bed.route())
    assert await bed.kernel.apply([create]) == {create: errno.EEXIST}
    assert await bed.held() == before


async def test_replace_takes_over(bed: Bed6) -> None:
    """A replaced foreign route is ours afterwards, and alone."""
    await bed.add_static(str(DST))
    assert await bed.kernel.apply([Replace(await bed.route())]) == {}
    assert [(route.protocol, str(route.gateway)) for route in await bed.held()] == [(OURS, "fd00:77::2")]


async def test_drop_only_what_is_named(bed: Bed6) -> None:
    """A route that differs in protocol or gateway from the one to drop stays."""
    await bed.add_static(str(DST))
    (foreign,) = await bed.held()
    for difference in ({"protocol": OURS}, {"gateway": IPv6Address("fd00:77::3")}, {"metric": 5}):
        await bed.kernel.apply([Drop(replace(foreign, **difference))])
    assert await bed.held() == [foreign]


async def test_gateway_must_be_on_link(bed: Bed6) -> None:
    """A gateway that the link does not reach is refused with its errno, and so is a link that does not exist."""
    off_link = Create(await bed.route("fd00:78::2"))
    no_link = Create(replace(off_link.object, link_index=off_link.object.link_index + 1000))
    changes: list[KernelChange] = [off_link, no_link]
    assert await bed.kernel.apply(changes) == {off_link: errno.EHOSTUNREACH, no_link: errno.ENODEV}


async def test_both_families_in_one_batch(bed: Bed6) -> None:
    """Changes of both families go together, and a failure of one hits no other."""
    good = [Create(await bed.route(dst=IPv6Network(f"fd00:5:0:{number:x}::/64"))) for number in range(1, 101)]
    bad = Create(await bed.route("fd00:78::2", IPv6Network("fd00:5:0:fff::/64")))
    assert (await bed.kernel.apply([*good[:50], bad, *good[50:]])).keys() == {bad}
    held = await bed.kernel.routes(protocol=OURS, version=6)
    assert {route.dst for route in held} == {change.object.dst for change in good}
    assert await bed.kernel.apply([Drop(route) for route in held]) == {}


async def test_blackhole(bed: Bed6) -> None:
    """A blackhole stands behind the connected route of a bridge's address, and is dropped alone."""
    create = Create(Blackhole(DST))
    assert await bed.kernel.apply([create]) == {}
    assert await bed.kernel.apply([create]) == {create: errno.EEXIST}
    blackhole = KernelRoute(DST, None, 0, OURS, BLACKHOLE_METRIC, plain=True, blackhole=True)
    assert await bed.kernel.routes(protocol=OURS, version=6) == (blackhole,)
    await bed.add_address("fd00:5:0:1::1/64")
    assert [route.metric for route in await bed.held()] == [256, BLACKHOLE_METRIC]
    for _ in range(2):
        assert await bed.kernel.apply([Drop(blackhole)]) == {}
    (connected,) = await bed.held()
    assert (connected.gateway, connected.plain, connected.blackhole) == (None, False, False)


async def test_addresses(bed: Bed6) -> None:
    """Global addresses are told with their prefix lengths, the link-local one is not."""
    link = next(link for link in await bed.kernel.links() if link.name == LINK)
    assert link.addresses6 == (IPv6Interface(ADDRESS6),)
    assert link.carries(IPv6Address("fd00:77::1"))


async def test_changes_are_told(bed: Bed6) -> None:
    """Routes inside the IPv6 network and addresses are told; routes outside it, and our own, are not."""
    async with bed.kernel.changes(NETWORK, NETWORK6) as events:
        await bed.add_static(str(DST))
        assert await until(events, Change.ROUTES) == Change.ROUTES
        await bed.add_static("fd00:6::/64")
        await bed.kernel.apply([Create(await bed.route(dst=IPv6Network("fd00:5:0:2::/64")))])
        await bed.mtu()
        assert await until(events, Change.LINKS) == Change.LINKS
        await bed.add_address("fd00:77::9/64")
        assert Change.LINKS in await next_of(events)


async def test_nothing_is_told_to_ipv4_only_nodes(bed: Bed6) -> None:
    """Without an IPv6 network no IPv6 route is told."""
    async with bed.kernel.changes(NETWORK) as events:
        await bed.add_static(str(DST))
        await bed.mtu()
        assert await until(events, Change.LINKS) == Change.LINKS


@pytest.mark.netns
async def test_addresses_that_do_not_last() -> None:
    """Tentative addresses are not told, deprecated ones come last and are not offered for publishing."""
    with namespace() as made, made.inside():
        bed = Bed6(made)
        await bed.add_address("fd00:88::1/64", "preferred_lft 0 valid_lft 1000 nodad")
        await bed.add_address("fd00:99::1/64", "")  # tentative for a second or so: duplicate address detection
        link = next(link for link in await bed.kernel.links() if link.name == LINK)
        assert link.addresses6 == (IPv6Interface(ADDRESS6), IPv6Interface("fd00:88::1/64"))
        assert (link.deprecated, link.address6) == ({IPv6Address("fd00:88::1")}, IPv6Interface(ADDRESS6).ip)
        await bed.kernel.close()


@pytest.mark.netns
@pytest.mark.parametrize(
    "command",
    [
        "fd00:5:0:1::/64 dev eth0",
        "fd00:5:0:1::/64 via fd00:77::2 mtu 1400",
        "fd00:5:0:1::/64 via fd00:77::2 src fd00:77::1",
        "fd00:5:0:1::/64 nexthop via fd00:77::2 nexthop via fd00:77::3",
    ],
)
async def test_odd_routes(command: str) -> None:
    """A route that has more, or less, than a host-gw route is read without error and does not count as plain."""
    with namespace() as made, made.inside():
        bed = Bed6(made)
        made.ip(f"-6 route add {command}")
        assert [route.plain for route in await bed.held()] == [False]
        await bed.kernel.close()
