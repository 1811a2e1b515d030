"""The peers' leases against this host as it is: its addresses, its routes, and what the kernel says of their gateways.

A gateway outside the networks of the link may be on it all the same: by a link route, or at the far end of an address
with a peer. Only the kernel's own lookup tells, so it is asked for those gateways alone, and again with each look.
"""

from pyflanneld.core.families import Address
from pyflanneld.core.peers.table import View
from pyflanneld.core.peers.validation import ON_LINK, ValidationContext
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node
from pyflanneld.tasks.link import foreign_next_hops, next_hops, validation_context

MANY = 256
"""How many gateways are asked for at once; the others have their turn with the next look."""


class PeerReview:
    """Validates the peers' leases on this host."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self._node = node
        self._host: ValidationContext | None = None
        self._shared = False
        self._hops: frozenset[Address] = frozenset()
        self._ways: dict[Address, str] = {}

    @property
    def ready(self) -> bool:
        """Whether the host has been looked at."""
        return self._host is not None

    async def look(self) -> bool:
        """Look at the host; return whether the leases have to be validated anew."""
        host = validation_context(self._context, self._node)
        hops = await foreign_next_hops(self._context, self._node) if host.is_shared else frozenset()
        there = self._node.peers.gateways() if self._ways else ()
        ways = {address: await self._way(address) for address in self._ways if address in there}
        before = self._host, self._hops, self._ways
        self._host, self._hops, self._ways, self._shared = host, hops, ways, host.is_shared
        return before != (host, hops, ways)

    async def view(self) -> View:
        """Validate the leases; there has been a look."""
        view = self._validated()
        refused = (name for name, why in view.quarantined.items() if why.reason == "gateway_off_link")
        unknown = self._node.peers.gateways(refused) - self._ways.keys()
        if unknown:
            for address in sorted(unknown, key=int)[:MANY]:
                self._ways[address] = await self._way(address)
            view = self._validated()
        return view

    def _validated(self) -> View:
        assert self._host is not None  # noqa: S101 - there has been a look
        host = self._host
        if self._shared or self._ways:
            hops = next_hops(self._node, self._hops) if self._shared else {}
            host = host.with_lookups(next_hops=hops, ways=self._ways)
        return self._node.peers.view(host)

    async def _way(self, address: Address) -> str:
        """Return how packets to *address* leave, as ``FamilyContext.ways`` has it."""
        way = await self._context.kernel.route_to(address)
        if way is None:
            return "nowhere"
        if way.gateway is not None:
            return f"by the router {way.gateway}"
        if way.link_index == self._node.link.index:
            return ON_LINK
        return "by " + next((link.name for link in self._node.links if link.index == way.link_index), "another link")
