"""Routes as values: what is wanted, what the kernel has, and the difference between the two."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pyflanneld.core.families import Address, Network, inside

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
    """Return who marks routes so (include/uapi/linux/rtnetlink.h), or the number."""
    return _PROTOCOLS.get(number, str(number))


def usual_metric(dst: Network) -> int:
    """Return the metric of a route for which none is given, flannel's among them: the kernel makes 0 1024 for IPv6."""
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
        plain: it has nothing that ``Create`` would not have put: unicast, scope global (or a number below 200, which
            is the same to the kernel), tos 0, no preferred source, metrics, encapsulation or next-hop object, no flags
            that somebody asked for (``onlink``); flags that report a state (``linkdown``, ``dead``) do not count. Of a
            blackhole: all this but its type.
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
    """Add the route; refuse if any route of that destination and metric is there."""

    route: Route


@dataclass(frozen=True, slots=True)
class Replace:
    """Put the route in place of the one that is there, in one step."""

    route: Route


@dataclass(frozen=True, slots=True)
class Drop:
    """Delete exactly this route, with protocol, gateway and link named; already gone is success."""

    route: KernelRoute


@dataclass(frozen=True, slots=True)
class CreateBlackhole:
    """Add the blackhole; refuse if any route of that destination and metric is there."""

    route: Blackhole


PeerChange = Create | Replace | Drop
RouteChange = PeerChange | CreateBlackhole


@dataclass(frozen=True, slots=True)
class Plan:
    """How the kernel becomes what is wanted; puts come first, so that nothing is ever without its route.

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
        """Where anything is not as it is wanted. The next plan need not look at others, unless they have changed."""
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

    Each destination is for itself: of *desired* and *present* it takes only those that are to be planned for. Only
    the routes with the usual metric matter: one with another is another route to the kernel, and is left alone.
    A route of ours is replaced or dropped; the exact leftover of a Go flanneld (protocol boot, same destination,
    gateway and link) is taken over in place; anything else is foreign and is never touched.

    Args:
        desired: by destination.
        present: routes of the main table in the kernel's order, at least all of ours; the foreign ones only have to be
            complete for destinations where a creation has failed.
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
        there, rival = owned.get(dst), foreign.get(dst)
        if there is not None and same(wanted, there):
            continue
        if rival is None:
            puts.append(Create(wanted) if there is None else Replace(wanted))
        elif rival.protocol == BOOT and same(wanted, rival):
            puts.append(Replace(wanted))
        else:
            blocked[dst] = rival
    idle = (route for dst, route in owned.items() if dst not in desired and dst not in frozen)
    drops = (Drop(route) for route in idle if any(inside(route.dst, network) for network in networks))
    return Plan(tuple(puts), tuple(drops), blocked)


def same(wanted: Route, there: KernelRoute) -> bool:
    """Say whether the kernel's route is as wanted, whoever put it."""
    return there.plain and there.gateway == wanted.gateway and there.link_index == wanted.link_index
