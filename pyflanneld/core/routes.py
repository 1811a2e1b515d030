"""Routes as kernel objects: what is wanted, what the kernel has, and whose it is.

The blackhole behind this host's own subnet keeps packets that nobody here takes from leaving by the default route.
flannel adds it with metric 0 (``--ip-blackhole-route``, v0.28.9), the metric of the route that the kernel makes for a
bridge's address on the same subnet: where there is a bridge it cannot add it, and where there is none yet it precedes
the bridge's own route later. Ours has a metric behind every other, so that any better route wins.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from pyflanneld.core.families import Address, Network, in_order, inside, network_order
from pyflanneld.core.objects.kind import Events, GivesWay, Owner
from pyflanneld.core.objects.plan import Create, Drop, Plan

BOOT = 3
"""The kernel's RTPROT_BOOT, with which the Go flanneld (and ``ip route add``) marks its routes."""
BLACKHOLE_METRIC = 1_000_000
"""Behind the route of any bridge, whoever made it: the kernel's own have 0, network managers add up to 65,535."""


_PROTOCOLS = {
    0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt", 11: "zebra",
    12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 17: "mrouted", 18: "keepalived", 42: "babel",
    186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
}  # fmt: skip


def protocol_name(number: int) -> str:
    """Return the name of a route protocol (include/uapi/linux/rtnetlink.h), or the number."""
    return _PROTOCOLS.get(number, str(number))


def usual_metric(dst: Network) -> int:
    """Return the metric of a route that is added without one, such as flannel's: in IPv6 the kernel takes 1024."""
    return 0 if dst.version == 4 else 1024


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A wanted route of the main table, of whatever kind."""

    dst: Network

    @property
    def identity(self) -> Network:
        """Return the destination."""
        return self.dst

    @property
    def subnet(self) -> Network:
        """Return the destination: the subnet of a peer, or of this host."""
        return self.dst


@dataclass(frozen=True, slots=True)
class Route(_Wanted):
    """A wanted route: ``dst via gateway dev link``, main table, ``usual_metric``, unicast.

    Attributes:
        onlink: the gateway is behind the link whatever the other routes say: that of a tunnel.
    """

    gateway: Address
    link_index: int
    onlink: bool = False


@dataclass(frozen=True, slots=True)
class Blackhole(_Wanted):
    """A wanted ``blackhole dst metric BLACKHOLE_METRIC`` of the main table."""


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A route of the main table as the kernel reports it.

    Attributes:
        gateway: ``None`` for a connected, blackhole or multipath route.
        link_index: 0 where there is none (blackhole, multipath).
        plain: it has only what ``Create`` puts: unicast, scope global (or a number below 200, which is the same to
            the kernel), tos 0, no preferred source, metrics, encapsulation or next-hop object, and no flag but
            ``onlink``; flags that report a state (``linkdown``, ``dead``) do not count. A blackhole: all this but its
            type.
        blackhole: packets to it are dropped silently.
        tos: the type of service; the route is for packets with it only.
        hops: gateway and link of each next hop, where the kernel has made several IPv6 routes one: the destination and
            metric are the same, but whose each hop is cannot be seen.
        multipath: the link of each next hop of an IPv4 route with several.
        onlink: as that of ``Route``.
    """

    dst: Network
    gateway: Address | None
    link_index: int
    protocol: int
    metric: int
    plain: bool
    blackhole: bool = False
    tos: int = 0
    hops: tuple[tuple[Address, int], ...] = ()
    multipath: tuple[int, ...] = ()
    onlink: bool = False

    @property
    def identity(self) -> Network:
        """Return the destination; ``RouteKind.owner`` leaves out the routes with another metric than the usual one."""
        return self.dst


def default_links(routes: Iterable[KernelRoute]) -> tuple[int, ...]:
    """Return the links of the IPv4 default route: of the lowest metric, all that the kernel may use, in its order."""
    defaults = [route for route in routes if route.dst.prefixlen == 0 and (route.link_index or route.multipath)]
    lowest = min((route.metric for route in defaults), default=0)
    found = [index for one in defaults if one.metric == lowest for index in one.multipath or (one.link_index,)]
    return tuple(dict.fromkeys(found))


class Way(NamedTuple):
    """How a packet leaves this host.

    Attributes:
        link_index: of the link.
        source: its source address.
        gateway: the router that it goes to; ``None``: its destination is on the link.
    """

    link_index: int
    source: Address
    gateway: Address | None


@dataclass(frozen=True, slots=True)
class RouteListing:
    """The routes of the main table: of one IP version, and of one protocol or of all (``None``).

    With *inside* only those to a part of one of these networks; or with *over* those over a gateway in one of these. A
    list that is *remembered* costs nothing the next time if nothing has changed, and is the identical tuple.
    """

    version: int
    protocol: int | None
    inside: tuple[Network, ...] = ()
    remembered: bool = False
    over: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteKind:
    """Routes to the peers' subnets.

    Only routes with the usual metric matter: one with another metric is another route to the kernel, and is left alone.
    The exact leftover of a Go flanneld (protocol boot, same destination, gateway and link) is adopted in place.

    Attributes:
        protocol: the number that marks a route as ours.
        networks: the cluster's; routes of ours outside them belong to another daemon.
    """

    protocol: int
    networks: tuple[Network, ...]
    name: ClassVar[str] = "route"
    plural: ClassVar[str] = "routes"
    events: ClassVar[Events] = Events(
        put="route.put",
        dropped="route.dropped",
        adopted="route.adopted",
        changed="routes.changed",
        changed_by_others="routes.changed_by_others",
        shadowed="route.shadowed",
        contested="route.contested",
        conflict="route.conflict",
        failed="route.failed",
    )
    wanted_type: ClassVar[type[Route]] = Route

    def listings(self, *, foreign: bool) -> tuple[RouteListing, ...]:
        """Return one for each family in use."""
        return tuple(self._listing(network, foreign=foreign) for network in self.networks)

    def _listing(self, network: Network, *, foreign: bool) -> RouteListing:
        """Return where ours are listed: in IPv6 also as a next hop in a route with the number of somebody else."""
        if network.version == 6:
            return RouteListing(6, None, (network,), remembered=True)
        return RouteListing(4, None, (network,)) if foreign else RouteListing(4, self.protocol, remembered=True)

    def owner(self, present: KernelRoute) -> Owner:
        """Return whose it is, by its protocol."""
        if present.metric != usual_metric(present.dst):
            return Owner.IRRELEVANT
        return Owner.OURS if present.protocol == self.protocol else Owner.FOREIGN

    def is_hit_by_a_replacement(self, present: KernelRoute) -> bool:
        """Return whether it has no type of service, as ours."""
        return present.tos == 0

    def gives_way(self, present: KernelRoute) -> GivesWay:
        """Return how it can go: in IPv6 others may have added their next hops to it."""
        if not present.hops:
            return GivesWay.IN_PLACE
        return GivesWay.NEVER if present.gateway is None else GivesWay.BESIDE

    def goes_first(self, wanted: Route, present: KernelRoute) -> bool:
        """Return whether Linux refuses the replacement: no IPv6 tunnel leads to where another link leads by a route.

        That route is the one which is to be replaced: the tunnel's gateway is the first address of its destination.
        """
        through_another = present.link_index != wanted.link_index and self.owner(present) is Owner.OURS
        return wanted.dst.version == 6 and wanted.onlink and through_another

    def claim(self, present: KernelRoute, before: KernelRoute | None, wanted: Route | None) -> KernelRoute:
        """Return it with our own next hop as its gateway, and with our number, if that hop is among several."""
        for ours in (before, wanted) if present.hops else ():
            if ours is not None and ours.gateway is not None and (ours.gateway, ours.link_index) in present.hops:
                return replace(present, gateway=ours.gateway, link_index=ours.link_index, protocol=self.protocol)
        return present

    def concerns_us(self, present: KernelRoute) -> bool:
        """Return whether it has our number, the usual metric, and lies inside the cluster's network."""
        marks = (present.protocol, present.metric) == (self.protocol, usual_metric(present.dst))
        return marks and any(inside(present.dst, network) for network in self.networks)

    def is_as_wanted(self, wanted: Route, present: KernelRoute) -> bool:
        """Return whether the kernel's route is as wanted, whoever put it."""
        return is_as_wanted(wanted, present)

    def may_adopt(self, wanted: Route, present: KernelRoute) -> bool:
        """Return whether it is what a Go flanneld has left."""
        return present.protocol == BOOT and is_as_wanted(wanted, present)

    def shadows(self, wanted: Mapping[Network, Route], present: Iterable[KernelRoute]) -> Mapping[Network, KernelRoute]:
        """Return which route takes packets, or some of them, that should take a *wanted* route which is there."""
        return shadows(wanted, present, self)

    def subnet(self, present: KernelRoute) -> Network:
        """Return its destination."""
        return present.dst

    def as_placed(self, wanted: Route) -> KernelRoute:
        """Return what the kernel reports once *wanted* is put."""
        metric = usual_metric(wanted.dst)
        return KernelRoute(
            wanted.dst, wanted.gateway, wanted.link_index, self.protocol, metric, plain=True, onlink=wanted.onlink
        )

    def order(self, identity: Network) -> tuple[int, ...]:
        """Return by what destinations are sorted."""
        return network_order(identity)

    def shown(self, identity: Network) -> str:
        """Return the destination."""
        return str(identity)

    def fields(self, one: Route | KernelRoute) -> Mapping[str, Any]:
        """Return destination and gateway, and of a foreign one the protocol."""
        fields: dict[str, Any] = {"dst": str(one.dst), "gateway": str(one.gateway)}
        if isinstance(one, KernelRoute) and one.protocol != self.protocol:
            fields["protocol"] = one.protocol
        return fields


RoutePlan = Plan[Route, KernelRoute]


def shadows(
    wanted: Mapping[Network, Route], present: Iterable[KernelRoute], kind: RouteKind
) -> dict[Network, KernelRoute]:
    """Return, by destination, the route that takes packets which should take a *wanted* route that is there.

    Such are a route that the kernel prefers (by order, metric or type of service), one to a part of the destination,
    and in IPv6 another next hop. *present* has the routes of everybody in the kernel's order.
    """
    lengths = sorted({dst.prefixlen for dst in wanted})
    found: dict[Network, KernelRoute] = {}
    there: set[Network] = set()
    for route in present:
        want = wanted.get(route.dst)
        if want is None:
            for length in lengths:
                if length < route.dst.prefixlen and (covering := route.dst.supernet(new_prefix=length)) in wanted:
                    found.setdefault(covering, route)
        elif kind.owner(route) is Owner.OURS and is_as_wanted(want, route):
            there.add(route.dst)
            if len(route.hops) > 1:
                found.setdefault(route.dst, route)
        elif route.dst not in there and route.metric <= usual_metric(route.dst):
            found.setdefault(route.dst, route)
    return {dst: route for dst, route in found.items() if dst in there}


def is_as_wanted(wanted: Route, there: KernelRoute) -> bool:
    """Return whether the kernel's route is as wanted, whoever put it."""
    if there.hops:
        return (wanted.gateway, wanted.link_index) in there.hops
    same = (there.gateway, there.link_index, there.onlink) == (wanted.gateway, wanted.link_index, wanted.onlink)
    return there.plain and same


def is_blackhole_of_ours(route: KernelRoute, protocol: int, networks: Iterable[Network]) -> bool:
    """Return whether *route* is a blackhole that this daemon has put for a subnet of *networks*, in any run."""
    marks = (route.blackhole, route.metric, route.protocol)
    return marks == (True, BLACKHOLE_METRIC, protocol) and any(inside(route.dst, network) for network in networks)


def plan_blackholes(
    wanted: Iterable[Network], present: Iterable[KernelRoute]
) -> tuple[Drop[KernelRoute] | Create[Blackhole], ...]:
    """Return the changes after which exactly *wanted* are blackholes of ours.

    Args:
        wanted: this host's own subnets, or nothing.
        present: the routes that ``is_blackhole_of_ours`` has found.
    """
    missing, idle = set(wanted), []
    for route in present:
        if route.plain and route.dst in missing:
            missing.discard(route.dst)
        else:
            idle.append(Drop(route))
    return (*idle, *(Create(Blackhole(dst)) for dst in in_order(missing)))
