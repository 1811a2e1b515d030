"""The ``Kernel`` port on rtnetlink.

pyroute2 reads the messages about links and addresses (``encoding`` says why not those about routes); the two sockets
are our own (``netlink`` says why): one for requests, and one for notifications per ``changes``. They are opened in
the network namespace of the thread that needs them first.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from errno import EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, ENOENT, ESRCH
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any

import structlog

from pyflanneld.core.links import Link
from pyflanneld.core.neighbours import Neighbour
from pyflanneld.core.routes import Drop, KernelRoute, RouteChange
from pyflanneld.errors import KernelError
from pyflanneld.kernel import encoding, encoding6, neighbours
from pyflanneld.kernel.frames import Refusal
from pyflanneld.kernel.monitor import Monitor
from pyflanneld.kernel.netlink import DumpRefused, RequestSocket
from pyflanneld.ports import Change, Kernel

_NO_WAY = frozenset({ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL})  # none, unreachable, prohibit, blackhole


class NetlinkKernel(Kernel):
    """Links and routes of the main table, as the port says.

    Args:
        protocol: the number that marks what ``Create`` and ``Replace`` put (1-255).
        log: where the kernel's own words about a refused change go, at debug level.
        requests: the socket to use, for tests.
    """

    def __init__(self, *, protocol: int, log: Any = None, requests: RequestSocket | None = None) -> None:
        if not 0 < protocol < 256:
            raise ValueError(f"route protocol {protocol} is not in 1-255")
        self._protocol = protocol
        self._log = structlog.get_logger() if log is None else log
        self._requests = requests or RequestSocket()

    async def links(self) -> tuple[Link, ...]:
        """Return all links but the loopback, in index order.

        The addresses of each: the preferred before the deprecated, those that stay before those that run out, the
        wide scope before the narrow, the primary before the secondary, and else in the kernel's order.
        """
        links = await self._requests.dump(encoding.links_request(), encoding.decode_link)
        found = await self._requests.dump(encoding.addresses_request(), encoding.decode_address)
        addresses = sorted((address for address in found if address is not None), key=lambda address: address.rank)
        return tuple(
            _with_addresses(link, [address for address in addresses if address.link_index == link.index])
            for link in sorted((link for link in links if link is not None), key=lambda link: link.index)
        )

    async def routes(self, *, protocol: int | None = None, version: int = 4) -> tuple[KernelRoute, ...]:
        """Return the routes of the main table, all or those of one protocol, in the kernel's order."""
        decode = encoding.decode_route if version == 4 else encoding6.decode_route
        try:
            found = await self._requests.dump(encoding.routes_request(protocol, version), decode)
        except DumpRefused as error:
            if error.refusal.errno == ENOENT:  # a namespace in which nothing was ever put has no main table
                return ()
            raise
        return tuple(route for route in found if route is not None and (protocol is None or route.protocol == protocol))

    async def route_to(self, address: IPv4Address) -> tuple[int, IPv4Address] | None:
        """Ask the kernel, policy rules included, how a packet of ours to *address* would leave."""
        answer = await self._requests.ask(encoding.way_request(address), encoding.decode_way)
        if not isinstance(answer, Refusal):
            return answer
        if answer.errno in _NO_WAY:
            return None
        raise KernelError(f"netlink: the way to {address}: {answer}")

    async def neighbours(self, link_index: int) -> tuple[Neighbour, ...]:
        """Return the link's neighbours, IPv4 and IPv6, in the kernel's order."""
        found = await self._requests.dump(neighbours.request(link_index), neighbours.decode)
        return tuple(entry for index, entry in filter(None, found) if index == link_index)

    async def apply(self, changes: Sequence[RouteChange]) -> Mapping[RouteChange, int]:
        """Make all changes in order; return the failed ones with their ``errno`` (EPERM without CAP_NET_ADMIN).

        ESRCH for a ``Drop`` means that the route is gone, if it is plain. Of another one the kernel may not have
        recognised the description (type of service, next-hop object), so there it counts as a failure.
        """
        refused = await self._requests.transact([encoding.change_request(change, self._protocol) for change in changes])
        failed: dict[RouteChange, int] = {}
        for position, refusal in refused.items():
            change = changes[position]
            if isinstance(change, Drop) and change.route.plain and refusal.errno == ESRCH:
                continue
            self._log.debug(
                "route.refused", change=type(change).__name__, dst=str(change.route.dst), error=str(refusal)
            )
            failed[change] = refusal.errno
        return failed

    def changes(
        self, network: IPv4Network, ipv6: IPv6Network | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Tell of changes by others from the moment on at which the context is entered."""
        return Monitor(network, own_port=lambda: self._requests.port, ipv6=ipv6)

    async def close(self) -> None:
        """Close the request socket; each ``changes`` closes its own. Routes stay."""
        await self._requests.close()


def _with_addresses(link: Link, found: Sequence[encoding.Address]) -> Link:
    return replace(
        link,
        addresses=tuple(own.interface for own in found if isinstance(own.interface, IPv4Interface)),
        addresses6=tuple(own.interface for own in found if isinstance(own.interface, IPv6Interface)),
        deprecated=frozenset(
            own.interface.ip for own in found if own.deprecated and isinstance(own.interface, IPv4Interface)
        ),
    )
