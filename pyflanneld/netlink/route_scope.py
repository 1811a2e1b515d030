"""The scope of a new IPv4 route: the global one, until there are so many routes that the kernel would slow down.

For every route the kernel searches for an equal next hop that it has already. It hashes all that describes a next hop
but the gateway, so the gateways behind one interface are one chain, and the time for n routes grows with the square of
n: with one gateway each 4000 take 0.2 s, 16,000 take 3.7 s. The scope is hashed too. Of the scopes, 0 is the global
one, the kernel's own begin at 200, and those between are left to users (include/uapi/linux/rtnetlink.h). To the
kernel a smaller one than 200 means nothing else than 0: a packet asks for a scope of at least 0; the source address
is the first one of a scope not larger, and addresses have the scopes 0, 200, 253 or 254. So beyond the first thousand
the routes are spread over them, and the time grows with n: 16,000 take 0.2 s.

Next-hop objects would do the same for the time, but the kernel takes them, and their routes, away when the carrier is
lost, where it keeps plain routes.
"""

from pyroute2.netlink.rtnl.rtmsg import RT_SCOPE_SITE, RT_SCOPE_UNIVERSE

from pyflanneld.core.objects.plan import Drop, KernelChange
from pyflanneld.core.routes import Route

SPREAD_FROM = 1000
"""Up to here the square costs no more than 12 ms in all, and ``ip route`` looks as it always did."""


class RouteScope:
    """Chooses scopes.

    Attributes:
        held: how many IPv4 routes with our protocol the kernel has.
    """

    def __init__(self, spread_from: int = SPREAD_FROM) -> None:
        self.held = 0
        self._spread_from = spread_from

    def choose(self, change: KernelChange) -> int:
        """Return the scope for what *change* puts: once spread, the same for all routes through one gateway.

        A replacement counts as one more: it may take over a foreign route. The next list of our own puts that right.
        """
        if isinstance(change, Drop) or not isinstance(change.object, Route) or change.object.dst.version == 6:
            return int(RT_SCOPE_UNIVERSE)
        self.held += 1
        if self.held <= self._spread_from:
            return int(RT_SCOPE_UNIVERSE)
        return 1 + int(change.object.gateway) % (int(RT_SCOPE_SITE) - 1)
