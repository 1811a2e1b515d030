"""Routes as values: what is wanted, what the kernel has, and the difference between the two.

The blackhole behind this host's own subnet keeps packets that nobody here takes from leaving by the default route.
flannel adds it with metric 0 (``--ip-blackhole-route``, v0.28.9), the metric of the route that the kernel makes for a
bridge's address on the same subnet: where there is a bridge it cannot add it, and where there is none yet it precedes
the bridge's own route later. Ours has a metric behind every other, so that any better route wins.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pyflanneld.core.families import Address, Network, in_order, inside

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
class Route:
    """A wanted host-gw route: ``dst via gateway dev link``, main table, ``usual_metric``, unicast."""

    dst: Network
    gateway: Address
    link_index: int

    def placed(self, protocol: int) -> "KernelRoute":
        """Return the route as the kernel reports it once it is put."""
        return KernelRoute(self.dst, self.gateway, self.link_index, protocol, usual_metric(self.dst), True)


@dataclass(frozen=True, slots=True)
class Blackhole:
    """A wanted ``blackhole dst metric BLACKHOLE_METRIC`` of the main table."""

    dst: Network


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A route of the main table as the kernel reports it.

    Attributes:
        gateway: ``None`` for a connected, blackhole or multipath route.
        link_index: 0 where there is none (blackhole, multipath).
        plain: it has only what ``Create`` puts: unicast, scope global (or a number below 200, which is the same to
            the kernel), tos 0, no preferred source, metrics, encapsulation or next-hop object, and no flag such as
            ``onlink``; flags that report a state (``linkdown``, ``dead``) do not count. A blackhole: all this but its
            type.
        blackhole: packets to it are dropped silently.
    """

    dst: Network
    gateway: Address | None
    link_index: int
    protocol: int
    metric: int
    plain: bool
    blackhole: bool = False


@dataclass(frozen=True, slots=True)
class Create:
    """Add the route; fails if a route of that destination and metric exists."""

    route: Route


@dataclass(frozen=True, slots=True)
class Replace:
    """Replace the route that is there, in one step."""

    route: Route


@dataclass(frozen=True, slots=True)
class Drop:
    """Delete exactly this route, by protocol, gateway and link; already gone is success."""

    route: KernelRoute


@dataclass(frozen=True, slots=True)
class CreateBlackhole:
    """Add the blackhole; fails if a route of that destination and metric exists."""

    route: Blackhole


PeerChange = Create | Replace | Drop
RouteChange = PeerChange | CreateBlackhole


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes that make the kernel's routes what is wanted; puts come first, so that no peer loses its route.

    Attributes:
        puts: creations and replacements.
        drops: routes of ours that nothing wants any more.
        blocked: wanted destinations where a foreign route stands, and that route.
    """

    puts: tuple[Create | Replace, ...]
    drops: tuple[Drop, ...]
    blocked: Mapping[Network, KernelRoute]

    @property
    def destinations(self) -> set[Network]:
        """Where a route is not as wanted. The next plan can leave out all others that have not changed."""
        return {change.route.dst for change in (*self.puts, *self.drops)} | self.blocked.keys()


def plan_routes(
    desired: Mapping[Network, Route],
    present: Iterable[KernelRoute],
    *,
    protocol: int,
    networks: Collection[Network],
    frozen: Collection[Network] = (),
) -> Plan:
    """Compare what is wanted with what is there.

    Destinations are independent, so *desired* and *present* may be limited to those that are due. Only routes with the
    usual metric matter: one with another metric is another route to the kernel, and is left alone. A route of ours is
    replaced or dropped; the exact leftover of a Go flanneld (protocol boot, same destination, gateway and link) is
    adopted in place; anything else is foreign and is never touched.

    Args:
        desired: by destination.
        present: routes of the main table in the kernel's order: all of ours, and the foreign ones where a creation
            has failed.
        protocol: the number that marks a route as ours.
        networks: routes of ours outside them belong to another daemon and are left alone.
        frozen: destinations whose routes of ours stay, wanted or not.
    """
    owned: dict[Network, KernelRoute] = {}
    foreign: dict[Network, KernelRoute] = {}
    for route in present:
        if route.metric != usual_metric(route.dst):
            continue
        if route.protocol == protocol:
            owned[route.dst] = route
        else:
            foreign.setdefault(route.dst, route)  # of several, a replacement would hit the first
    puts: list[Create | Replace] = []
    blocked: dict[Network, KernelRoute] = {}
    for dst, wanted in desired.items():
        there, blocker = owned.get(dst), foreign.get(dst)
        if there is not None and is_as_wanted(wanted, there):
            continue
        if blocker is None:
            puts.append(Create(wanted) if there is None else Replace(wanted))
        elif blocker.protocol == BOOT and is_as_wanted(wanted, blocker):
            puts.append(Replace(wanted))
        else:
            blocked[dst] = blocker
    idle = (route for dst, route in owned.items() if dst not in desired and dst not in frozen)
    drops = (Drop(route) for route in idle if any(inside(route.dst, network) for network in networks))
    return Plan(tuple(puts), tuple(drops), blocked)


def is_as_wanted(wanted: Route, there: KernelRoute) -> bool:
    """Return whether the kernel's route is as wanted, whoever put it."""
    return there.plain and there.gateway == wanted.gateway and there.link_index == wanted.link_index


def is_blackhole_of_ours(route: KernelRoute, protocol: int, networks: Iterable[Network]) -> bool:
    """Return whether *route* is a blackhole that this daemon has put for a subnet of *networks*, in any run."""
    marks = (route.blackhole, route.metric, route.protocol)
    return marks == (True, BLACKHOLE_METRIC, protocol) and any(inside(route.dst, network) for network in networks)


def plan_blackholes(wanted: Iterable[Network], present: Iterable[KernelRoute]) -> tuple[Drop | CreateBlackhole, ...]:
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
    return (*idle, *(CreateBlackhole(Blackhole(dst)) for dst in in_order(missing)))
