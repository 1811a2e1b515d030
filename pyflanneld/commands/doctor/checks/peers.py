"""Checks of this node in the network: its lease, its routes, the peers' leases, invalid keys."""

from collections.abc import Iterator

from pyflanneld.commands.doctor.finding import (
    Finding,
    bad,
    delete_key,
    etcdctl,
    ok,
    own_etcd_lease,
    skipped,
    warn,
)
from pyflanneld.commands.doctor.host_facts import Facts, NodeFacts
from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import in_order, inside
from pyflanneld.core.lease.codec import TTL_S
from pyflanneld.core.lease.ownership import SHORT
from pyflanneld.core.routes import KernelRoute, protocol_name

LOW_S = 3600.0
SHOWN = 20
_KERNEL = 2
_UNKNOWN = "the leases are not known"


def lease(facts: Facts) -> Finding:
    """Check that this node holds a lease, and for how long."""
    node = facts.node
    if node is None:
        return skipped("lease", _UNKNOWN)
    if node.own is None:
        if not facts.daemon_runs:
            return ok("lease", "none yet; the daemon takes one at its start")
        return bad("lease", "the daemon runs, and etcd has no lease with this public address",
                   "the peers have no route to this host", "see lease.* in the daemon's log")  # fmt: skip
    if node.own_left is None or node.own_record is None:
        return ok("lease", f"{node.own}, a reservation")
    if node.same_etcd_lease:
        return _shared(facts, node, node.own_record)
    left = f"{node.own}, for {node.own_left.left_s / 3600:.1f} h"
    if not facts.daemon_runs:
        return ok("lease", left)
    if 0 < node.own_left.granted_s < SHORT * TTL_S:
        return _short(facts, node.own_left.granted_s, node.own_record)
    if node.own_left.left_s > LOW_S:
        return ok("lease", left)
    why = "the daemon renews it every 5 minutes, back to 24 hours: it cannot reach etcd, or has no right to"
    return warn("lease", left, why, "see etcd.unavailable and etcd.denied in the daemon's log")


def _short(facts: Facts, granted_s: float, own: Record) -> Finding:
    seen = f"{own.lease.key} hangs on an etcd lease of {granted_s:.0f} s, and not of {TTL_S // 3600} h"
    why = "somebody put it there: an outage that lasts longer ends it. The daemon puts it on one of its own within 5 "
    why += "minutes, unless it cannot: see lease.shortened in its log"
    return warn("lease", seen, why, own_etcd_lease(facts, own))


def _shared(facts: Facts, node: NodeFacts, own: Record) -> Finding:
    names = [ascii(record.name)[2:-1] for record in node.same_etcd_lease[:SHOWN]]
    more = len(node.same_etcd_lease) - len(names)
    seen = f"{node.own} hangs on one etcd lease with {', '.join(names)}" + (f" and {more} more" if more else "")
    why = "whoever revokes it deletes all of these keys; while one host renews it, the key of a host that is gone stays"
    return warn("lease", seen, why, own_etcd_lease(facts, own))


def backend(facts: Facts) -> Finding:
    """Check that the daemon runs with the backend that the network asks for."""
    if facts.node is None or facts.backend is None:
        return skipped("backend", _UNKNOWN)
    if not facts.daemon_runs or not facts.backend_before:
        return ok("backend", facts.backend.name)
    seen = f"the daemon still runs with {facts.backend_before}, the network asks for {facts.backend.name}"
    why = "another backend is taken up at a start; peers that have started since may not be reached"
    return warn("backend", seen, why, "restart the daemon; then Docker, if FLANNEL_MTU has changed")


def public_address(facts: Facts) -> Finding:
    """Check that no other lease has this node's public address."""
    node = facts.node
    if node is None:
        return skipped("public address", _UNKNOWN)
    if not node.same_address:
        return ok("public address", "is on no other lease")
    names = [ascii(record.name)[2:-1] for record in node.same_address]
    why = "a host installed from this one's image, or an earlier lease of this node; two hosts with one address "
    why += "share one lease, and the peers route to only one of them"
    fix = f"if it is not another host's: {delete_key(facts, node.same_address[0].name)}"
    return warn("public address", f"is on another lease as well: {', '.join(names)}", why, fix)


def routes(facts: Facts) -> Finding:
    """Check that every peer has its route."""
    node = facts.node
    if node is None:
        return skipped("routes", _UNKNOWN)
    absent = absent_devices(facts)
    if absent:
        return skipped("routes", f"they wait for the device {', '.join(absent)}")
    missing = in_order({put.object.dst for put in node.todo.puts})
    present = len(node.desired) - len(missing) - len(node.todo.blocked)
    seen = f"{present} of {len(node.desired)} peers have their route"
    if not facts.daemon_runs:
        return ok("routes", f"{seen}; no daemon runs")
    if not missing:
        return ok("routes", seen) if not node.todo.blocked else ok("routes", f"{seen}; see foreign routes")
    first = ", ".join(map(str, missing[:3]))
    return bad("routes", f"{seen}; missing: {first}{' …' if len(missing) > 3 else ''}",
               "packets to these peers take another route or none",
               "see route.failed and link.* in the daemon's log; check that the interface is up")  # fmt: skip


def absent_devices(facts: Facts) -> list[str]:
    """Return the devices that this host needs and does not have."""
    there = {link.name for link in facts.links if link.vxlan is not None}
    return [device.name for device in facts.devices if device.name not in there]


def foreign_routes(facts: Facts) -> Iterator[Finding]:
    """Report the foreign routes inside the network."""
    node = facts.node
    if node is None:
        yield skipped("foreign routes", "the network is not known")
        return
    found = [route for route in facts.routes if _is_foreign(route, facts, node)]
    for route in found[:SHOWN]:
        yield _foreign(facts, node, route)
    if not found:
        yield ok("foreign routes", f"none inside {', '.join(map(str, node.networks))}")


def _is_foreign(route: KernelRoute, facts: Facts, node: NodeFacts) -> bool:
    if route.protocol in (facts.flags.route_protocol, _KERNEL):  # the kernel's own come with addresses
        return False
    return any(inside(route.dst, network) for network in node.networks)


def _foreign(facts: Facts, node: NodeFacts, route: KernelRoute) -> Finding:
    names = {link.index: link.name for link in facts.links}
    via = f"via {route.gateway} " if route.gateway else ""
    dev = names.get(route.link_index, "")
    seen = f"{route.dst} {via}{f'dev {dev} ' if dev else ''}proto {protocol_name(route.protocol)}"
    fix = f"find out what sets it; then: ip route del {seen}"
    if route.dst in node.todo.blocked:
        why = "it is in the way of the route to a peer; the daemon leaves it alone, and that peer is not reached"
        return bad("foreign routes", seen, why, fix)
    if any(put.object.dst == route.dst for put in node.todo.puts):
        return ok("foreign routes", f"{seen}: a Go flanneld's; the daemon adopts it at its start")
    why = "no lease wants it: packets to that part of the network follow it"
    return warn("foreign routes", seen, why, fix)


def peers(facts: Facts) -> Iterator[Finding]:
    """Report the peers off the link and the quarantined keys, with the command that deletes each."""
    node = facts.node
    if node is None:
        yield skipped("peers", _UNKNOWN)
        return
    quarantined = sorted(node.view.quarantined.items())
    for name, quarantine in quarantined[:SHOWN]:
        yield _quarantined(facts, name, quarantine.reason, quarantine.detail)
    if len(quarantined) > SHOWN:
        more = f"{len(quarantined) - SHOWN} more are quarantined"
        yield warn("keys", more, "as above", "pyflanneld leases lists them")
    for name in sorted(node.view.foreign_backends)[:SHOWN]:
        yield warn("peers", f"{_shown(name)} is a lease of another backend", "it gets no route from here",
                   "run the same backend on all hosts")  # fmt: skip
    if not quarantined:
        count = len(set(node.view.peers.values()))
        yield ok("peers", f"{len(node.view.peers)} leases of {count} hosts, all valid")


def _quarantined(facts: Facts, name: bytes, reason: str, detail: str) -> Finding:
    seen = f"{_shown(name)} ({reason}): {detail}"
    if reason == "gateway_off_link":
        fix = "start that host with --public-ip on the common LAN, or choose another --iface here; if it is gone: "
        return bad("peers", seen, "host-gw needs every host on one LAN: its containers are not reached from here",
                   fix + delete_key(facts, name))  # fmt: skip
    show = etcdctl(facts, "get", f"{facts.flags.prefix}/subnets/{name.decode()}") if name.isascii() else ""
    why = "the key is quarantined and gets no route; everything else works"
    hint = f"read it: {show}; " if show and b"\0" not in name else ""
    return warn("keys", seen, why, f"{hint}if it is nobody's: {delete_key(facts, name)}")


def _shown(name: bytes) -> str:
    return ascii(name[:120])[2:-1]
