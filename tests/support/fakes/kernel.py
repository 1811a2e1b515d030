"""A kernel in memory that the test has in its hand: same contract, same errnos, and a foreign hand on the routes.

What it knows of Linux was measured: a gateway is refused with ENETUNREACH when it is not on-link, whether the address,
the link or the link's "up" is missing; a link that goes down or loses its last address takes its routes along without
a route event; one that loses its carrier keeps them. Type of service, next-hop objects and the like are not known.
"""

import asyncio
import errno
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import chain
from typing import Any, Self

from pyflanneld.core.families import Address, Network, inside
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.neighbours import Entry, EntryListing, KernelEntry
from pyflanneld.core.objects.plan import Append, Create, Drop, KernelChange, Replace
from pyflanneld.core.routes import BLACKHOLE_METRIC, Blackhole, KernelRoute, Route, RouteListing, Way, usual_metric
from pyflanneld.core.vxlan.forwardings import ForwardingListing
from pyflanneld.errors import KernelError
from pyflanneld.ports import Change, Kernel
from tests.support.fakes.devices import FakeDevices

PROTO_KERNEL, PROTO_BOOT, PROTO_STATIC = 2, 3, 4
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.EADDRNOTAVAIL})


class FakeKernel(FakeDevices, Kernel):
    """The ``Kernel`` port in memory.

    Attributes:
        applied: the changes that succeeded, in order (dropping what was gone is not among them).
        calls: how often each method of the port was called.
        loopback: the addresses on the loopback.
    """

    def __init__(self, *links: Link, protocol: int = 103) -> None:
        super().__init__()
        self.applied: list[KernelChange] = []
        self.calls: Counter[str] = Counter()
        self.loopback: frozenset[Address] = frozenset()
        self._protocol = protocol
        self._links: dict[int, Link] = {}
        self._without_carrier: set[int] = set()
        self._routes: dict[tuple[Network, int], list[KernelRoute]] = {}  # in the order in which it uses them
        self._monitors: list[_FakeMonitor] = []
        self._refusals: dict[Any, deque[int]] = {}
        self._failing_calls = 0
        self._failing_only = ""
        self._last_links: tuple[Link, ...] = ()
        self._last_lists: dict[object, tuple[KernelRoute, ...]] = {}
        self._neighbours: dict[int, list[Neighbour]] = {}
        for link in links:
            self.set_link(link)

    # The port.

    async def links(self) -> tuple[Link, ...]:
        await self._called("links")
        found = tuple(self._links[index] for index in sorted(self._links))
        if found != self._last_links:
            self._last_links = found
        return self._last_links

    async def routes(self, *, protocol: int | None = None, version: int = 4) -> tuple[KernelRoute, ...]:
        await self._called("routes")
        of_family = (route for route in self.table() if route.dst.version == version)
        found = tuple(route for route in of_family if protocol is None or route.protocol == protocol)
        return self._as_last_time((protocol, version), found)

    def _as_last_time(self, asked: object, found: tuple[KernelRoute, ...]) -> tuple[KernelRoute, ...]:
        if found != self._last_lists.get(asked):
            self._last_lists[asked] = found
        return self._last_lists[asked]

    async def route_to(self, address: Address) -> Way | None:
        await self._called("route_to")
        covering = [route for route in self.table() if address in route.dst]
        if not covering or any(link.carries(address) for link in self._links.values()):
            return None
        best = max(covering, key=lambda route: (route.dst.prefixlen, -route.metric))
        link = self._links.get(best.multipath[0] if best.multipath else best.link_index)
        return Way(link.index, self._source(link, best.gateway or address), best.gateway) if link else None

    async def neighbours(self, link_index: int) -> tuple[Neighbour, ...]:
        await self._called("neighbours")
        return tuple(self._neighbours.get(link_index, ()))

    async def objects(self, listing: object, *, patient: bool = False) -> tuple[Any, ...]:  # noqa: ARG002 - no call waits
        match listing:
            case RouteListing(version, protocol, within, _, over):
                routes = await self.routes(protocol=protocol, version=version)
                found = [one for one in routes if not within or any(inside(one.dst, net) for net in within)]
                return self._as_last_time(listing, tuple(one for one in found if not over or _leads_over(one, over)))
            case EntryListing(index):
                return tuple(KernelEntry.of(index, one) for one in await self.neighbours(index))
            case ForwardingListing(index):
                await self._called("forwardings")
                return tuple(self._forwardings.get(index, {}).values())
        raise TypeError(listing)

    async def apply(self, changes: Sequence[KernelChange]) -> Mapping[KernelChange, int]:
        await self._called("apply")
        return {change: number for change in changes if (number := self._apply(change))}

    def changes(
        self, network: IPv4Network, ipv6: IPv6Network | None = None, *, entries: bool = False  # noqa: ARG002 - none needed
    ) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        return _FakeMonitor((network,) if ipv6 is None else (network, ipv6), self._monitors)

    async def close(self) -> None:
        self.calls["close"] += 1

    # What a test looks at.

    def table(self) -> tuple[KernelRoute, ...]:
        """Return all routes, as ``routes`` would, without counting as a call."""
        order = sorted(
            chain.from_iterable(self._routes.values()),
            key=lambda route: (route.dst.version, int(route.dst.network_address), -route.dst.prefixlen, route.metric),
        )
        return tuple(order)

    def table_of_links(self) -> tuple[Link, ...]:
        """Return all links, as ``links`` would, without counting as a call."""
        return tuple(self._links[index] for index in sorted(self._links))

    def neighbours_of(self, link_index: int) -> tuple[Neighbour, ...]:
        """Return a link's neighbours, as ``neighbours`` would, without counting as a call."""
        return tuple(self._neighbours.get(link_index, ()))

    def gateways(self, protocol: int | None = None) -> dict[str, str]:
        """Return destination to gateway, as text, of the routes of one protocol (ours if not given)."""
        wanted = self._protocol if protocol is None else protocol
        return {str(route.dst): str(route.gateway) for route in self.table() if route.protocol == wanted}

    # The hand of others.

    def add_foreign(self, route: KernelRoute) -> None:
        """Put *route*, replacing those of the same destination and metric."""
        self._routes[route.dst, route.metric] = [route]
        self._tell_routes(route.dst)

    def prepend(self, route: KernelRoute) -> None:
        """Put *route* before those of the same destination and metric, as ``ip route prepend`` does."""
        self._routes.setdefault((route.dst, route.metric), []).insert(0, route)
        self._tell_routes(route.dst)

    def append(self, route: KernelRoute) -> None:
        """Put *route* behind those of the same destination and metric, as ``ip route append`` does."""
        self._routes.setdefault((route.dst, route.metric), []).append(route)
        self._tell_routes(route.dst)

    def delete_route(self, dst: Network, *, metric: int = 0) -> None:
        """Delete the first route, whoever owns it. Raises ``KeyError``."""
        self.lose_route(dst, metric=metric)
        self._tell_routes(dst)

    def delete(self, route: KernelRoute) -> None:
        """Delete exactly *route*. Raises ``KeyError``, ``ValueError``."""
        self._remove(route)
        self._tell_routes(route.dst)

    def lose_route(self, dst: Network, *, metric: int = 0) -> None:
        """Delete the first route without telling of it. Raises ``KeyError``."""
        self._remove(self._routes[dst, metric][0])

    def _remove(self, route: KernelRoute) -> None:
        here = self._routes[route.dst, route.metric]
        here.remove(route)
        if not here:
            del self._routes[route.dst, route.metric]

    def flush(self, protocol: int) -> None:
        """Delete all routes of *protocol*, as ``ip route flush proto`` does."""
        for route in self.table():
            if route.protocol == protocol:
                self._remove(route)
                self._tell_routes(route.dst)

    def set_link(self, link: Link) -> None:
        """Add *link*, or put it in the place of the one with its index; ``up=False`` means: set down by somebody."""
        self._without_carrier.discard(link.index)
        self._put_link(link)

    def remove_link(self, name: str) -> None:
        """Delete a link with its routes and entries, and the vxlan devices that it carries."""
        index = self._index(name)
        del self._links[index]
        self._neighbours.pop(index, None)
        self._forwardings.pop(index, None)
        for carried in [link.name for link in self._links.values() if link.vxlan and link.vxlan.lower_index == index]:
            self.remove_link(carried)
        self._forget_unreachable()
        self._tell(Change.LINKS)

    def link_down(self, name: str) -> None:
        """``ip link set NAME down``: its routes go without an event."""
        self.set_link(replace(self._links[self._index(name)], up=False))

    def link_up(self, name: str) -> None:
        """``ip link set NAME up``, or the carrier comes back."""
        self.set_link(replace(self._links[self._index(name)], up=True))

    def forget(self, link_index: int, address: Address) -> None:
        """Delete a neighbour, whoever has put it."""
        self._neighbours[link_index] = [one for one in self._neighbours[link_index] if one.address != address]

    def meet(self, link_index: int, *neighbours: Neighbour) -> None:
        """Let the kernel know *neighbours* on a link."""
        self._neighbours.setdefault(link_index, []).extend(neighbours)

    def lose_carrier(self, name: str) -> None:
        """Pull the cable: the link is not up, and keeps its routes."""
        index = self._index(name)
        self._without_carrier.add(index)
        self._put_link(replace(self._links[index], up=False))

    # Faults.

    def refuse(self, dst: Any, number: int, *, times: int = 1) -> None:
        """Refuse the next changes for *dst*, or another identity, with errno *number*."""
        self._refusals.setdefault(dst, deque()).extend([number] * times)

    def refusals_left(self, identity: Any) -> int:
        """Return how many changes of it are still to be refused."""
        return len(self._refusals.get(identity, ()))

    def no_more_refusals(self) -> None:
        """Forget what ``refuse`` has asked for."""
        self._refusals.clear()

    def fail_calls(self, times: int = 1, only: str = "") -> None:
        """Raise ``KernelError`` from the next calls of links, routes, route_to and apply, before anything is done.

        Args:
            times: how many.
            only: the one method whose calls fail; empty: all.
        """
        self._failing_calls, self._failing_only = times, only

    def lose_events(self) -> None:
        """Raise ``KernelError`` from every open ``changes``."""
        for monitor in self._monitors:
            monitor.fail()

    def wake(self, change: Change = Change.LINKS | Change.ROUTES) -> None:
        """Tell of a change that did not happen."""
        self._tell(change)

    async def _called(self, name: str) -> None:
        self.calls[name] += 1
        await asyncio.sleep(0)
        if self._failing_calls and self._failing_only in ("", name):
            self._failing_calls -= 1
            raise KernelError(f"{name}: told to fail")

    def _apply(self, change: KernelChange) -> int:
        if refusals := self._refusals.get(change.object.identity):
            return refusals.popleft()
        if isinstance(change.object, Entry | KernelEntry):
            return self._apply_entry(change)
        if not isinstance(change.object, Route | KernelRoute | Blackhole):
            return self._applied(change, self._apply_to_devices(change))
        match change:
            case Drop(held):
                if held not in self._routes.get((held.dst, held.metric), ()):
                    return 0 if held.plain else errno.ESRCH
                self._remove(held)
            case Create(Blackhole(dst)):
                if (dst, BLACKHOLE_METRIC) in self._routes:
                    return errno.EEXIST
                held = KernelRoute(dst, None, 0, self._protocol, BLACKHOLE_METRIC, plain=True, blackhole=True)
                self._routes[dst, BLACKHOLE_METRIC] = [held]
            case Create(route) | Replace(route) | Append(route):
                if number := self._refuses_next_hop(route) or self._put(change, self._as_held(route)):
                    return number
        self.applied.append(change)
        return 0

    def _applied(self, change: KernelChange, number: int) -> int:
        """Return *number*, without what it means that there is nothing to drop."""
        if not number:
            self.applied.append(change)
        return 0 if isinstance(change, Drop) and number in _GONE else number

    def _apply_entry(self, change: KernelChange) -> int:
        entry = change.object
        if entry.link_index not in self._links:
            return errno.ENODEV
        here = self._neighbours.setdefault(entry.link_index, [])
        known = [one for one in here if one.address == entry.address]
        if isinstance(change, Create) and known:
            return errno.EEXIST
        here[:] = [one for one in here if one.address != entry.address]
        if not isinstance(change, Drop):
            here.append(Neighbour(entry.address, "permanent", entry.mac))
        elif not known:
            return 0
        self.applied.append(change)
        return 0

    def _put(self, change: KernelChange, held: KernelRoute) -> int:
        here = self._routes.setdefault((held.dst, held.metric), [])
        same = [place for place, route in enumerate(here) if route.tos == held.tos]
        if (isinstance(change, Create) and same) or (isinstance(change, Append) and held in here):
            return errno.EEXIST
        if not isinstance(change, Replace) or not same:
            here.append(held)
        elif held in here and here[same[0]] != held:
            return errno.EEXIST
        else:
            here[same[0]] = held
        return 0

    def _as_held(self, route: Route) -> KernelRoute:
        metric = usual_metric(route.dst)
        return KernelRoute(
            route.dst, route.gateway, route.link_index, self._protocol, metric, plain=True, onlink=route.onlink
        )

    def _refuses_next_hop(self, route: Route) -> int:
        on_link = [
            held.dst
            for held in chain.from_iterable(self._routes.values())
            if held.gateway is None and held.link_index == route.link_index and route.gateway in held.dst
        ]
        if route.dst.version == 6:
            return self._refuses_next_hop6(route, on_link)
        if route.onlink and route.link_index in self._links:
            return 0 if self._administratively_up(route.link_index) else errno.ENETDOWN
        if not on_link:
            return errno.ENETUNREACH
        if any(route.gateway == network.broadcast_address for network in on_link if network.prefixlen < 31):
            return errno.EINVAL
        return 0

    def _source(self, link: Link, next_hop: IPv4Address) -> IPv4Address:
        """Return the first address on the next hop's network, or else the first of all."""
        near = [own.ip for own in link.addresses if next_hop in own.network]
        return (near or [own.ip for own in link.addresses])[0]

    def _refuses_next_hop6(self, route: Route, on_link: list[Network]) -> int:
        if route.link_index not in self._links:
            return errno.ENODEV
        if not self._administratively_up(route.link_index):
            return errno.ENETDOWN
        if not route.onlink:
            return 0 if on_link else errno.EHOSTUNREACH
        others = (held for held in self.table() if held.link_index not in (0, route.link_index))
        elsewhere = any(held.dst.prefixlen and route.gateway in held.dst for held in others)
        return errno.EINVAL if elsewhere else 0

    def _put_link(self, link: Link) -> None:
        self._forget_neighbours(self._links.get(link.index), link)
        self._links[link.index] = link
        self._last_index = max(self._last_index, link.index)
        self._forget_unreachable()
        if self._administratively_up(link.index):
            for network in self._networks(link):
                metric = 0 if network.version == 4 else 256
                self._routes.setdefault(
                    (network, metric), [KernelRoute(network, None, link.index, PROTO_KERNEL, metric, plain=False)]
                )
        self._tell(Change.LINKS)

    def _forget_unreachable(self) -> None:
        """Take away what Linux takes away: routes of links that are gone, down or bare, and of gone addresses."""
        for route in list(chain.from_iterable(self._routes.values())):
            link = self._links.get(route.link_index)
            connected = route.protocol == PROTO_KERNEL
            if route.link_index and (
                link is None
                or not (link.addresses if route.dst.version == 4 else link.addresses6)
                or not self._administratively_up(link.index)
                or (connected and route.dst not in self._networks(link))
            ):
                self._remove(route)

    def _administratively_up(self, index: int) -> bool:
        return self._links[index].up or index in self._without_carrier

    def _networks(self, link: Link) -> list[Network]:
        found: list[Network] = [own.network for own in (*link.addresses, *link.addresses6)]
        return [network for network in found if network.prefixlen < network.max_prefixlen]

    def _index(self, name: str) -> int:
        return next(link.index for link in self._links.values() if link.name == name)

    def _tell_routes(self, dst: Network) -> None:
        for monitor in self._monitors:
            if any(inside(dst, network) for network in monitor.networks):
                monitor.tell(Change.ROUTES)

    def _tell(self, change: Change) -> None:
        for monitor in self._monitors:
            monitor.tell(change)


def _leads_over(route: KernelRoute, networks: Sequence[Network]) -> bool:
    return route.gateway is not None and any(route.gateway in network for network in networks)


class _FakeMonitor:
    def __init__(self, networks: tuple[Network, ...], open_ones: list["_FakeMonitor"]) -> None:
        self.networks = networks
        self._open_ones = open_ones
        self._pending = Change(0)
        self._failed = False
        self._news = asyncio.Event()

    def tell(self, change: Change) -> None:
        self._pending |= change
        self._news.set()

    def fail(self) -> None:
        self._failed = True
        self._news.set()

    async def __aenter__(self) -> Self:
        self._open_ones.append(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open_ones.remove(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        await self._news.wait()
        if self._failed:
            raise KernelError("notifications: told to fail")
        seen, self._pending = self._pending, Change(0)
        self._news.clear()
        return seen
