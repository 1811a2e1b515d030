"""The peers' leases against this host as it is: its addresses, its routes, and what the kernel says of their gateways.

A gateway outside the networks of the link may be on it all the same: by a link route, or at the far end of an address
with a peer. Only the kernel's own lookup tells, so it is asked for those gateways alone, and again with each look.
"""

from collections.abc import Sequence

from pyflanneld.core.families import Address, Network
from pyflanneld.core.peers.table import View
from pyflanneld.core.peers.validation import ON_LINK, ValidationContext
from pyflanneld.state.context import Context
from pyflanneld.state.node import Node
from pyflanneld.tasks.link import foreign_next_hops, next_hops, validation_context

MANY = 256
"""How many gateways are asked for at once; the others have their turn with the next look."""
HOPS_S, HOPS_SHARE = 60.0, 60
"""How often everybody's next hops are read, and that it may take a sixtieth of the time."""


class PeerReview:
    """Validates the peers' leases on this host.

    Attributes:
        shared: the connected networks that share addresses with the cluster's, as of the last look.
    """

    def __init__(self, context: Context, node: Node) -> None:
        self.shared: tuple[Network, ...] = ()
        self._context = context
        self._node = node
        self._host: ValidationContext | None = None
        self._hops: frozenset[Address] = frozenset()
        self._hops_due_s = 0.0
        self._ways: dict[Address, str] = {}  # those that were asked for last are the last
        self._unasked: set[Address] = set()

    @property
    def ready(self) -> bool:
        """Whether the host has been looked at."""
        return self._host is not None

    async def look(self) -> bool:
        """Look at the host; return whether the leases have to be validated anew."""
        before = self._host, self._hops, dict(self._ways)
        self._host = host = validation_context(self._context, self._node)
        self.shared = host.shared
        await self._read_hops()
        if self._ways or self._unasked:
            there = self._node.peers.gateways()
            self._ways = {address: way for address, way in self._ways.items() if address in there}
            self._unasked &= there
            await self._ask([*self._unasked, *self._ways])
            self._note_near()
        return before != (host, self._hops, self._ways)

    async def view(self) -> View:
        """Validate the leases; there has been a look."""
        view = self._validated()
        refused = (name for name, why in view.quarantined.items() if why.reason == "gateway_off_link")
        unknown = self._node.peers.gateways(refused) - self._ways.keys() - self._unasked
        if unknown:
            self._unasked |= unknown
            await self._ask(sorted(unknown, key=int))
            view = self._validated()
        if self._node.backend.asks_who_is_near:
            await self._ask_who_is_near(view)
        return view

    async def _ask_who_is_near(self, view: View) -> None:
        """Ask for the peers outside the link's networks: by a link route they may be on it all the same."""
        host, known = self._node.host, self._ways.keys() | self._unasked
        some = view.peers.values() if view.changed is None else map(view.peers.get, view.changed)
        unknown = {one for one in some if one is not None and one not in known and not host.is_near(one)}
        if unknown:
            self._unasked |= unknown
            await self._ask(sorted(unknown, key=int))
            self._note_near()

    def _note_near(self) -> None:
        self._node.near = frozenset(address for address, way in self._ways.items() if way == ON_LINK)

    def _validated(self) -> View:
        assert self._host is not None  # noqa: S101 - there has been a look
        host = self._host
        if self.shared or self._ways:
            hops = next_hops(self._node, self._hops) if self.shared else {}
            host = host.with_lookups(next_hops=hops, ways=self._ways)
        return self._node.peers.view(host)

    async def _read_hops(self) -> None:
        """Read everybody's next hops where they matter, now and then: there may be a full Internet table."""
        now_s = self._context.clock.now_s()
        if not self.shared:
            self._hops, self._hops_due_s = frozenset(), 0.0
        elif now_s >= self._hops_due_s:
            self._hops = await foreign_next_hops(self._context, self._node)
            took_s = self._context.clock.now_s() - now_s
            self._hops_due_s = now_s + max(HOPS_S, HOPS_SHARE * took_s)

    async def _ask(self, addresses: Sequence[Address]) -> None:
        """Ask the kernel for the first of *addresses*."""
        for address in addresses[:MANY]:
            self._ways.pop(address, None)
            self._ways[address] = await self._way(address)
            self._unasked.discard(address)

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
