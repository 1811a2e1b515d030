"""The ``Kernel`` port on rtnetlink.

pyroute2 encodes and decodes the messages; the two sockets are our own (``socket`` says why): one for requests, and one
for notifications per ``changes``. They are opened in the network namespace of the thread that needs them first.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from errno import EACCES, EADDRNOTAVAIL, EHOSTUNREACH, EINVAL, ENETUNREACH, ENODEV, ENOENT, ESRCH
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

import structlog

from pyflanneld.core.families import Address as IpAddress
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.neighbours import Entry, EntryListing, KernelEntry
from pyflanneld.core.objects.plan import Drop, KernelChange
from pyflanneld.core.routes import Blackhole, KernelRoute, Route, RouteListing, Way
from pyflanneld.core.vxlan.device import Device, LinkAddress, Tunnel
from pyflanneld.core.vxlan.forwardings import Forwarding, ForwardingListing, KernelForwarding
from pyflanneld.errors import KernelError
from pyflanneld.netlink import neighbours, routes, routes6, vxlan_devices
from pyflanneld.netlink.dump_cache import DumpCache
from pyflanneld.netlink.entries import Told, will_be_told, without_clocks
from pyflanneld.netlink.frames import KernelRefusal, NetlinkRequest
from pyflanneld.netlink.links import (
    Address,
    addresses_request,
    decode_address,
    decode_link,
    links_request,
    with_addresses,
)
from pyflanneld.netlink.monitor import Monitor
from pyflanneld.netlink.route_lookup import decode_lookup, lookup_request
from pyflanneld.netlink.route_scope import SPREAD_FROM, RouteScope
from pyflanneld.netlink.socket import DumpRefused, RequestSocket
from pyflanneld.ports import Change, Kernel

DecodeRoute = Callable[[bytes], KernelRoute | None]
_NO_WAY = frozenset({ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL})  # none, unreachable, prohibit, blackhole


E = TypeVar("E", KernelEntry, KernelForwarding)


class NetlinkKernel(Kernel):
    """Links and routes of the main table, as the port says.

    Args:
        protocol: the number that marks what ``Create`` and ``Replace`` put (1-255).
        log: where the kernel's own words about a refused change go, at debug level.
        requests: the socket to use, for tests.
        spread_from: with more IPv4 routes than this the new ones get other scopes than the global one, see ``scopes``.
    """

    def __init__(
        self, *, protocol: int, log: Any = None, requests: RequestSocket | None = None, spread_from: int = SPREAD_FROM
    ) -> None:
        if not 0 < protocol < 256:
            raise ValueError(f"route protocol {protocol} is not in 1-255")
        self._protocol = protocol
        self._log = structlog.get_logger() if log is None else log
        self._requests = requests or RequestSocket()
        self._patient = RequestSocket()
        self._scopes = RouteScope(spread_from)
        self._link_list, self._address_list = DumpCache(decode_link), DumpCache(decode_address)
        self._links: tuple[Link, ...] = ()
        self.loopback: frozenset[IpAddress] = frozenset()
        self._devices: frozenset[int] = frozenset()
        self._links_read: tuple[tuple[Link, ...], tuple[Address, ...]] = ((), ())
        self._lists: dict[object, DumpCache[KernelRoute]] = {}  # those that are remembered
        self._entry_lists: dict[Any, DumpCache[Any]] = {}
        self._told: frozenset[Told | None] = frozenset()

    async def links(self) -> tuple[Link, ...]:
        """Return all links but the loopback, in index order.

        The addresses of each: the preferred before the deprecated, those that stay before those that run out, the
        wide scope before the narrow, the primary before the secondary, and else in the kernel's order.
        """
        links = await self._requests.dump(links_request(), self._link_list.update)
        addresses = await self._requests.dump(addresses_request(), self._address_list.update)
        if (links, addresses) != self._links_read:  # costs nothing: the same tuples when nothing has changed
            self._links_read, self._links = (links, addresses), with_addresses(links, addresses)
            self._devices = frozenset(link.index for link in links if link.vxlan is not None)
            of_links = {link.index for link in links}
            found = (address.interface.ip for address in addresses if address.link_index not in of_links)
            self.loopback = frozenset(address for address in found if not address.is_loopback)
        return self._links

    async def routes(self, *, protocol: int | None = None, version: int = 4) -> tuple[KernelRoute, ...]:
        """Return the routes of the main table, all or those of one protocol, in the kernel's order.

        Only of our own protocol's the last list is remembered: all of them could be a full Internet table.
        """
        listing = RouteListing(version, protocol, remembered=protocol == self._protocol)
        return await self._routes(listing, self._requests)

    async def _routes(self, listing: RouteListing, requests: RequestSocket) -> tuple[KernelRoute, ...]:
        version, protocol = listing.version, listing.protocol
        decode, wanted = self._reader(listing)
        read = DumpCache(decode)
        if listing.remembered:
            read = self._lists.setdefault(listing, read)
        try:
            found = await requests.dump(routes.routes_request(protocol, version), read.update, wanted)
        except DumpRefused as error:
            if error.refusal.errno != ENOENT:  # a namespace in which nothing was ever put has no main table
                raise
            found = await read.update([])
        if protocol == self._protocol and version == 4:
            self._scopes.held = len(found)
        return found

    def _reader(self, listing: RouteListing) -> tuple[DecodeRoute, Callable[[bytes], bool] | None]:
        """Return what reads the message of a route in *listing*, and what knows before which need not be read."""
        decode = _decoder(listing.protocol, listing.version)
        if listing.over:
            over = routes.Over(listing.over, decode)
            return over, over.may_want
        if not listing.inside:
            return decode, None
        known = {} if listing.remembered else self._own_routes(listing.version)
        among = routes.Within(listing.inside, decode, known)
        return among, None if listing.remembered else among.may_want

    def _own_routes(self, version: int) -> Mapping[bytes, KernelRoute | None]:
        """Return our routes as last listed, by the kernel's message: most of a list of everybody's are ours."""
        listing = self._lists.get(RouteListing(version, self._protocol, remembered=True))
        return listing.known() if listing is not None else {}

    async def route_to(self, address: IpAddress) -> Way | None:
        """Ask the kernel, policy rules included, how a packet of ours to *address* would leave."""
        answer = await self._requests.ask(lookup_request(address), decode_lookup)
        if not isinstance(answer, KernelRefusal):
            return answer
        if answer.errno in _NO_WAY:
            return None
        raise KernelError(f"netlink: the way to {address}: {answer}")

    async def neighbours(self, link_index: int) -> tuple[Neighbour, ...]:
        """Return the link's neighbours, IPv4 and IPv6, in the kernel's order."""
        found = await self._requests.dump(
            neighbours.neighbours_request(link_index), DumpCache(neighbours.decode_neighbour).update
        )
        return tuple(entry for index, entry in found if index == link_index)

    async def objects(self, listing: object, *, patient: bool = False) -> tuple[Any, ...]:
        """Return the routes or the entries that *listing* asks for; *patient*: routes over a socket of its own."""
        match listing:
            case RouteListing():
                return await self._routes(listing, self._patient if patient else self._requests)
            case EntryListing(index):
                request = neighbours.neighbours_request(index)
                return await self._entries(listing, index, request, neighbours.decode_entry)
            case ForwardingListing(index):
                request = vxlan_devices.forwardings_request(index)
                return await self._entries(listing, index, request, vxlan_devices.decode_forwarding)
        raise TypeError(f"no such listing: {listing!r}")

    async def _entries(
        self, listing: object, link_index: int, request: NetlinkRequest, decode: Callable[[bytes], E | None]
    ) -> tuple[E, ...]:
        """Return the entries of one link; a kernel that does not know that filter sends those of all links."""

        def decode_here(body: bytes) -> E | None:
            entry = decode(body)
            return entry if entry is not None and entry.link_index == link_index else None

        known = self._entry_lists.get(listing)
        if known is None:
            there = {link.index for link in self._links}
            self._entry_lists = {key: one for key, one in self._entry_lists.items() if key.link_index in there}
            known = self._entry_lists[listing] = DumpCache(decode_here, without_clocks)
        return await self._requests.dump(request, known.update)

    async def apply(self, changes: Sequence[KernelChange]) -> Mapping[KernelChange, int]:
        """Make all changes in order; return the failed ones with their ``errno`` (EPERM without CAP_NET_ADMIN).

        A ``Drop`` of what is gone is none. But of a route that is not plain the kernel may not have recognised the
        description (type of service, next-hop object), so there it counts as a failure.
        """
        self._told = frozenset(map(will_be_told, changes))
        refused = await self._requests.transact(changes, self._encode)
        failed: dict[KernelChange, int] = {}
        for position, refusal in refused.items():
            change = changes[position]
            if _is_gone(change, refusal.errno):
                continue
            what = {"object": type(change.object).__name__, "identity": str(change.object.identity)}
            self._log.debug("kernel.refused", change=type(change).__name__, **what, error=str(refusal))
            failed[change] = refusal.errno
        for change in changes:
            if isinstance(change.object, Device) and change not in failed:
                _refuse_router_advertisements(change.object.name)
        return failed

    def _encode(self, change: KernelChange, flags: int, sequence: int) -> bytes:
        one = change.object
        if isinstance(one, Route | KernelRoute | Blackhole):  # first: there may be thousands
            return routes.change_message(change, self._protocol, self._scopes.choose(change), flags, sequence)
        return next(encode for kinds, encode in _ENCODERS if isinstance(one, kinds))(change, flags, sequence)

    def changes(
        self, network: IPv4Network, ipv6: IPv6Network | None = None, *, entries: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Tell of changes by others from the moment on at which the context is entered."""
        return Monitor(
            network, own_port=lambda: self._requests.port, ipv6=ipv6,
            devices=(lambda: self._devices) if entries else None, own_entries=lambda: self._told,
        )  # fmt: skip

    async def close(self) -> None:
        """Close the request sockets; each ``changes`` closes its own. Routes stay."""
        await self._requests.close()
        await self._patient.close()


def _refuse_router_advertisements(name: str) -> None:
    """Keep the hosts at the other ends of a device's tunnels from giving this one addresses and routes."""
    with suppress(OSError):  # no IPv6 here, or the settings are read-only
        Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra").write_text("0")


def _is_gone(change: KernelChange, code: int) -> bool:
    """Return whether *change* is a drop that was refused with errno *code* because nothing is there any more."""
    if not isinstance(change, Drop):
        return False
    match change.object:
        case KernelRoute(plain=plain):
            return code == ESRCH and plain
        case Link():
            return code == ENODEV
        case LinkAddress():
            return code in (EADDRNOTAVAIL, ENODEV)
    return code in (ENOENT, ENODEV)


_ENCODERS: tuple[tuple[Any, Callable[[KernelChange, int, int], bytes]], ...] = (
    (Entry | KernelEntry, neighbours.change_message),
    (Forwarding | KernelForwarding, vxlan_devices.forwarding_message),
    (Device | Tunnel | Link, vxlan_devices.device_message),
    (LinkAddress, vxlan_devices.address_message),
)


def _decoder(protocol: int | None, version: int) -> DecodeRoute:
    """Return what reads the message of a route of *protocol*, or of any."""
    decode = routes.decode_route if version == 4 else routes6.decode_route6
    if protocol is None:
        return decode

    def decode_own(body: bytes) -> KernelRoute | None:
        """Leave out the others, which kernels before 4.20 report too."""
        route = decode(body)
        return route if route is not None and route.protocol == protocol else None

    return decode_own
