"""Peers and routes as rows: what is wanted, what the kernel has, and how the two differ. JSON-able values only."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_address

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import Address, Network, in_order, inside
from pyflanneld.core.invalid import shown
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.peers.table import View
from pyflanneld.core.probe.reachability import Reachability, reachability_facts
from pyflanneld.core.routes import KernelRoute, Route, RouteKind, is_as_wanted, shadows, usual_metric

ROUTE_STATES = (
    "ok", "missing", "refused", "wrong_gateway", "conflict", "shadowed", "held", "frozen", "unwanted",
)  # fmt: skip
"""As wanted; not there; refused by the kernel; ours with another gateway or link; a foreign one is there; ours is
there, but the kernel uses another one for packets, or for some of them; and ours that nothing wants: kept by the guard,
kept because its key cannot be read, about to be dropped."""
PEER_STATES = ("routed", "unrouted", "known", "quarantined", "other_backend")
"""``known``: valid, and the backend wants no route."""


@dataclass(frozen=True, slots=True)
class WantedRoutes:
    """The routes that the daemon wants.

    Attributes:
        routes: by destination.
        protocol: the number that marks ours.
        networks: where ours may be.
        held: destinations that the withdraw guard keeps.
        frozen: destinations that are kept because their key cannot be read.
        failed: the errno's name by destination, where the kernel has refused.
        waiting: accepted subnets whose route leads through a device that is not there, and its name.
    """

    routes: Mapping[Network, Route]
    protocol: int
    networks: Collection[Network]
    held: Collection[Network] = ()
    frozen: Collection[Network] = ()
    failed: Mapping[Network, str] | None = None
    waiting: Mapping[Network, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One destination; *protocol* is that of the kernel's route, *detail* describes the difference."""

    dst: str
    state: str
    wanted_gateway: str | None
    wanted_link: str | None
    kernel_gateway: str | None
    kernel_link: str | None
    protocol: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class PeerRow:
    """One subnet of a key below ``subnets/`` (the only one, in an IPv4 network).

    Attributes:
        key: the key's name, printable.
        state: one of ``PEER_STATES``.
        reserved: whether the key has no TTL: nobody has to renew it.
        reason: of the quarantine, as a constant; *why* as text.
        quarantined_s: for how long it has been quarantined, in seconds.
        route: one of ``ROUTE_STATES``; ``None`` where no route is wanted or there.
        on_link: whether the published address lies on a network of the link.
        neighbour: one of ``NEIGHBOUR_STATES``; ``None``: the kernel knows none. That of the address to which the route
            leads, on whatever device that is; *mac* is its MAC address.
        probe: how well it can be reached, see ``reachability_facts``; ``None`` without ``--probe``.
        way: ``"direct"`` or ``"tunnel"``: how packets are to get there; ``None`` where no route is wanted.
    """

    key: str
    subnet: str | None
    public_ip: str | None
    backend: str | None
    state: str
    reserved: bool
    reason: str | None
    why: str | None
    quarantined_s: float | None
    route: str | None
    wanted_gateway: str | None
    kernel_gateway: str | None
    protocol: int | None
    on_link: bool | None
    neighbour: str | None
    mac: str | None
    probe: Mapping[str, object] | None = None
    way: str | None = None


def route_rows(wanted: WantedRoutes, kernel: Iterable[KernelRoute], links: Iterable[Link]) -> tuple[RouteRow, ...]:
    """Compare what is wanted with all routes of the main table; in the order of the destinations."""
    names, kernel = {link.index: link.name for link in links}, tuple(kernel)
    shadowing = shadows(wanted.routes, kernel, RouteKind(wanted.protocol, tuple(wanted.networks)))
    owned: dict[Network, KernelRoute] = {}
    foreign: dict[Network, KernelRoute] = {}
    for route in kernel:
        if route.metric == usual_metric(route.dst):
            ours = route.protocol == wanted.protocol
            if ours and (want := wanted.routes.get(route.dst)) is not None and is_as_wanted(want, route):
                owned[route.dst] = route
            (owned if ours else foreign).setdefault(route.dst, route)
    extra = {dst for dst in owned if dst not in wanted.routes and any(inside(dst, net) for net in wanted.networks)}
    every = in_order(wanted.routes.keys() | wanted.waiting.keys() | extra)
    return tuple(_route_row(wanted, dst, owned.get(dst), foreign.get(dst), shadowing.get(dst), names) for dst in every)


def _route_row(
    wanted: WantedRoutes, dst: Network, own: KernelRoute | None, foreign: KernelRoute | None,
    shadow: KernelRoute | None, names: Mapping[int, str],
) -> RouteRow:  # fmt: skip
    route = wanted.routes.get(dst)
    state = _extra(wanted, dst) if route is None else _wanted(wanted, route, own, foreign)
    there = foreign if state == "conflict" else own
    if shadow is not None:
        state, there = "shadowed", shadow
    detail = (wanted.failed or {}).get(dst, "") if state == "refused" else ""
    if route is None and dst in wanted.waiting:
        state, detail = "missing", f"it needs the device {wanted.waiting[dst]}, which is not there"
    if state == "conflict" and foreign is not None and foreign.gateway is None:
        detail = "a route without a single gateway"
    if shadow is not None:
        detail = f"by {shadow.dst}" + (f" for type of service {shadow.tos:#x}" if shadow.tos else "")
    return RouteRow(
        dst=str(dst), state=state,
        wanted_gateway=str(route.gateway) if route else None,
        wanted_link=_link(names, route.link_index) if route else None,
        kernel_gateway=str(there.gateway) if there and there.gateway else None,
        kernel_link=_link(names, there.link_index) if there and there.link_index else None,
        protocol=there.protocol if there else None,
        detail=detail,
    )


def _wanted(wanted: WantedRoutes, route: Route, own: KernelRoute | None, foreign: KernelRoute | None) -> str:
    if own is not None and is_as_wanted(route, own):
        return "ok"
    if foreign is not None:
        return "conflict"
    if own is not None:
        return "wrong_gateway"
    return "refused" if route.dst in (wanted.failed or {}) else "missing"


def _extra(wanted: WantedRoutes, dst: Network) -> str:
    return "held" if dst in wanted.held else "frozen" if dst in wanted.frozen else "unwanted"


def _link(names: Mapping[int, str], index: int) -> str:
    return names.get(index, f"link {index}")


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What the rows of the peers are made of.

    Attributes:
        view: the validated peers; ``None`` before the first list.
        routes: rows by destination.
        link: the link that carries the routes.
        neighbours: of that link, by address.
        quarantined_s: for how long each key has been quarantined.
        ipv6: whether this node uses the IPv6 subnets.
        devices: the names of the tunnels' devices.
        lacking: subnets whose neighbour or forwarding entry is not there.
    """

    view: View | None
    routes: Mapping[str, RouteRow]
    link: Link
    neighbours: Mapping[Address, Neighbour]
    quarantined_s: Mapping[bytes, float]
    ipv6: bool
    probes: Mapping[IPv4Network, Reachability] = field(default_factory=dict)
    devices: Collection[str] = ()
    lacking: Collection[Network] = ()


def peer_rows(records: Iterable[Record], facts: PeerFacts) -> tuple[PeerRow, ...]:
    """Return the rows of all keys, in the order of their subnets; those that are no subnet come last."""
    rows: list[PeerRow] = []
    for record in sorted(records, key=_rank):
        key = record.lease.key
        rows.append(_peer_row(record, key.ipv4 if key else None, facts))
        if key is not None and key.ipv6 is not None and facts.ipv6:
            rows.append(_peer_row(record, key.ipv6, facts))
    return tuple(rows)


def _rank(record: Record) -> tuple[bool, int, bytes]:
    key = record.lease.key
    return key is None, int(key.ipv4.network_address) if key else 0, record.name


def _peer_row(record: Record, subnet: Network | None, facts: PeerFacts) -> PeerRow:
    attrs, view, route = record.lease.attrs, facts.view, facts.routes.get(str(subnet))
    quarantine = view.quarantined.get(record.name) if view else None
    published = attrs and (attrs.public_ip if subnet is None or subnet.version == 4 else attrs.public_ipv6)
    accepted = view.peers.get(subnet) if view and subnet is not None else None
    gateway = accepted or published or None
    state, way = _state(record, view, route, accepted), _way(route, facts)
    hop = ip_address(route.wanted_gateway) if way == "tunnel" and route and route.wanted_gateway else gateway
    neighbour = facts.neighbours.get(hop) if hop else None
    return PeerRow(
        key=shown(record.name)[2:-1],
        subnet=str(subnet) if subnet else None,
        public_ip=str(published) if published else None,
        backend=attrs.backend_type if attrs else None,
        state="unrouted" if state == "routed" and subnet in facts.lacking else state,
        reserved=record.lease_id == 0,
        reason=quarantine.reason if quarantine else None,
        why=quarantine.detail if quarantine else None,
        quarantined_s=facts.quarantined_s.get(record.name) if quarantine else None,
        route=route.state if route else None,
        wanted_gateway=route.wanted_gateway if route else None,
        kernel_gateway=route.kernel_gateway if route else None,
        protocol=route.protocol if route else None,
        on_link=_on_link(facts.link, gateway) if gateway else None,
        neighbour=neighbour.state if neighbour else None,
        mac=neighbour.mac if neighbour else None,
        probe=_probe(facts, subnet),
        way=way,
    )


def _way(route: RouteRow | None, facts: PeerFacts) -> str | None:
    if route is None or route.wanted_gateway is None:
        return None
    return "tunnel" if route.wanted_link in facts.devices else "direct"


def _state(record: Record, view: View | None, route: RouteRow | None, accepted: Address | None) -> str:
    if view is not None and record.name in view.quarantined:
        return "quarantined"
    if view is not None and record.name in view.foreign_backends:
        return "other_backend"
    if route is not None and route.state == "missing":
        return "unrouted"
    if route is None or route.wanted_gateway is None:
        return "known" if accepted else "unrouted"
    return "routed" if route.state == "ok" else "unrouted"


def _probe(facts: PeerFacts, subnet: Network | None) -> dict[str, object] | None:
    known = isinstance(subnet, IPv4Network) and facts.probes.get(subnet)
    return reachability_facts(known) if known else None


def _on_link(link: Link, address: Address) -> bool:
    return any(address in own.network for own in link.interfaces(address.version))
