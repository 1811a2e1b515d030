"""What must hold of what the kernel told: I6, only our routes are touched; I7, each of them is sane; I13, traffic."""

from collections.abc import Iterator

from tests.sim.spec import Net, contains, overlap
from tests.support.observers.actions import RUN, SIGNAL
from tests.support.observers.checks_etcd import config_of, owner_of, subnet_of
from tests.support.observers.record import DAEMON, ENTRY_GONE, LINK_DOWN, OTHER, Finding, Host, Record, RouteEvent

PROTOCOL, BOOT, MAIN = 103, 3, 254
NETWORK_TOOLS = {"nft", "tc", "iptables", "sysctl"}


def dotted(number: int) -> str:
    """Return an address as people write it."""
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def text(event: RouteEvent) -> str:
    """Return a route as people write it."""
    via = f" via {dotted(event.gateway)}" if event.gateway else ""
    return f"{dotted(event.dst[0])}/{event.dst[1]}{via} proto {event.protocol} table {event.table}"


def violations(record: Record) -> Iterator[Finding]:
    """Yield what did not hold."""
    networks = _networks(record)
    for host in record.hosts:
        yield from _own_only(host)
        for event in host.route_events:
            if event.by == DAEMON and not event.deleted and (why := _insane(event, host, networks, record)):
                yield Finding("I7", host.name, f"{text(event)}: {why}")
    yield from _traffic(record)


def _networks(record: Record) -> list[Net]:
    changes = [*record.history.before.values(), *record.history.changes]
    configs = [config_of(change.value) for change in changes if change.key.endswith("/config")]
    return [config.network for config in configs if config]


def _own_only(host: Host) -> Iterator[Finding]:
    """I6: routes of another protocol, and everything that is no route, are left as they are."""
    for other in host.other_events:
        if other.by == DAEMON:
            yield Finding("I6", host.name, f"touched: {other.what}")
    there = {event.key: event for event in reversed(host.routes)}
    for event in host.route_events:
        if event.by == DAEMON:
            before = there.get(event.key)
            if event.protocol != PROTOCOL or event.table != MAIN:
                yield Finding("I6", host.name, f"{'deleted' if event.deleted else 'put'} {text(event)}")
            elif event.replaced and before and not _may_replace(before, event) and not (host.unread or host.lost):
                yield Finding("I6", host.name, f"put {text(event)} in the place of {text(before)}")
        if event.deleted:
            there.pop(event.key, None)
        elif event.replaced or event.key not in there:
            there[event.key] = event


def _may_replace(before: RouteEvent, event: RouteEvent) -> bool:
    """Its own; and what a Go daemon has left, which bears no mark but is the same route."""
    same = (before.gateway, before.link) == (event.gateway, event.link)
    return before.protocol == PROTOCOL or (before.protocol == BOOT and same)


def _insane(event: RouteEvent, host: Host, networks: list[Net], record: Record) -> str:
    """I7: say why a route must never be; empty when it may."""
    first, length = event.dst
    if length == 0 or length > 32 or first % (1 << (32 - length)):
        return "no subnet"
    if networks and not any(contains(net, event.dst) and net != event.dst for net in networks):
        return "not inside the network"
    if any(overlap(event.dst, own) and _held(own, host, record) for own in own_subnets(host, event.at_s)):
        return "overlaps the own subnet"
    if event.link in host.tunnels:
        return "" if event.gateway == event.dst[0] else "not the first address of the subnet"
    addresses = {number for number, _, _ in host.addresses}
    own = {number for number, length, _ in host.addresses if not contains(event.dst, (number, length))}
    if any(contains(event.dst, (number, 32)) for number in own):
        return "holds an address of the host"
    if contains(event.dst, (event.gateway, 32)):
        return "holds its own gateway"
    if event.gateway in addresses or event.gateway >> 24 in (0, 127) or event.gateway >> 28 >= 14:
        return "no gateway"
    near = any(
        link == event.link and number >> (32 - size) == event.gateway >> (32 - size)
        for number, size, link in host.addresses
    )
    return "" if near or _has_link_route(event, host) else "the gateway is not on the link"


def _has_link_route(event: RouteEvent, host: Host) -> bool:
    """Return whether somebody has put a route to the gateway on the link itself before."""
    before = [one for one in host.route_events if one.at_s <= event.at_s and not one.deleted and not one.gateway]
    return any(one.link == event.link and contains(one.dst, (event.gateway, 32)) for one in before)


def _held(own: Net, host: Host, record: Record) -> bool:
    """Return whether a subnet in the file is the host's: not a mere wish, nor one that another host has got since."""
    ours = {dotted(number) for number, _, _ in host.addresses}
    changes = [*record.history.before.values(), *record.history.changes]
    mine = [change for change in changes if (found := subnet_of(change.key)) and found[1] == own]
    owners = [owner_of(change.value) in ours for change in mine if change.value is not None]
    return bool(owners) and all(owners)


def own_subnets(host: Host, at_s: float) -> list[Net]:
    """Return the subnet that the host's file named at a moment; none without a file."""
    before = [version for version in host.versions if version.at_s <= at_s and version.how in ("there", "renamed")]
    for line in (before[-1].content or b"").decode(errors="replace").splitlines() if before else ():
        name, _, value = line.partition("=")
        found = subnet_of(f"/subnets/{value.replace('/', '-')}") if name == "FLANNEL_SUBNET" else None
        if found:
            (first, length) = found[1]
            return [(first - first % (1 << (32 - length)), length)]
    return []


def _traffic(record: Record) -> Iterator[Finding]:
    """I13: where nobody else has touched the network, nor a lease, no packet between pods is lost."""
    lost = [packet for packet in record.packets if not packet.arrived]
    if not lost or record.history.blind or _touched(record):
        return
    what = f"{len(lost)} of {len(record.packets)} packets lost, and nobody had touched anything"
    yield Finding("I13", "the pods", what)


def _touched(record: Record) -> bool:
    """Return whether something other than a daemon may have disturbed the traffic."""
    for action in record.actions:
        if action.kind == RUN and NETWORK_TOOLS & set(action.words):
            return True
        if action.kind == SIGNAL and action.words[1] == "19":
            continue
    if any(event.by == OTHER for host in record.hosts for event in (*host.route_events, *host.other_events)):
        return True
    if any(event.what in (LINK_DOWN, ENTRY_GONE) for host in record.hosts for event in host.other_events):
        return True
    return any(_moves_a_lease(change.key, change.value) for change in record.history.changes)


def _moves_a_lease(key: str, value: bytes | None) -> bool:
    """Return whether a change of a key may have taken a pod's route away; those of strangers do not."""
    return subnet_of(key) is not None and (value is None or owner_of(value) != "")
