"""The checks of this node in the network: its lease, its routes, the peers' leases, keys that are junk."""

from collections.abc import Iterator

from pyflanneld.commands.doctor.finding import Finding, bad, ok, skipped, warn
from pyflanneld.commands.doctor.host_facts import Facts, Standing
from pyflanneld.commands.doctor.shell_quoting import delete_key, etcdctl
from pyflanneld.core.families import in_order, inside
from pyflanneld.core.routes.plan import KernelRoute, protocol_name

LOW_S = 3600.0
SHOWN = 20
_KERNEL = 2
_UNKNOWN = "the leases are not known"


def lease(facts: Facts) -> Finding:
    """Say whether this node holds a subnet, and for how long."""
    standing = facts.standing
    if standing is None:
        return skipped("lease", _UNKNOWN)
    if standing.own is None:
        if not facts.daemon_runs:
            return ok("lease", "none yet; the daemon takes one at its start")
        return bad("lease", "the daemon runs, and etcd has no lease with this public address",
                   "the peers have no route to this host", "see lease.* in the daemon's log")  # fmt: skip
    if standing.own_left_s is None:
        return ok("lease", f"{standing.own}, a reservation")
    left = f"{standing.own}, for {standing.own_left_s / 3600:.1f} h"
    if standing.own_left_s > LOW_S or not facts.daemon_runs:
        return ok("lease", left)
    why = "the daemon renews it every 5 minutes to 24 hours: it cannot reach etcd, or is not allowed to"
    return warn("lease", left, why, "see etcd.unavailable and etcd.denied in the daemon's log")


def public_address(facts: Facts) -> Finding:
    """Say whether a second lease carries this node's address."""
    standing = facts.standing
    if standing is None:
        return skipped("public address", _UNKNOWN)
    if not standing.also:
        return ok("public address", "is on no other lease")
    names = [ascii(record.name)[2:-1] for record in standing.also]
    why = "a host that was installed from this one's image, or an earlier lease of this node; two hosts with one "
    why += "address share one lease, and the peers route to one of them only"
    mend = f"if it is not another host's: {delete_key(facts, standing.also[0].name)}"
    return warn("public address", f"is on another lease as well: {', '.join(names)}", why, mend)


def routes(facts: Facts) -> Finding:
    """Say whether every peer has its route."""
    standing = facts.standing
    if standing is None:
        return skipped("routes", _UNKNOWN)
    lacking = in_order({put.route.dst for put in standing.todo.puts})
    present = len(standing.desired) - len(lacking) - len(standing.todo.blocked)
    seen = f"{present} of {len(standing.desired)} peers have their route"
    if not facts.daemon_runs:
        return ok("routes", f"{seen}; no daemon runs")
    if not lacking:
        return ok("routes", seen) if not standing.todo.blocked else ok("routes", f"{seen}; see foreign routes")
    first = ", ".join(map(str, lacking[:3]))
    return bad("routes", f"{seen}; missing: {first}{' …' if len(lacking) > 3 else ''}",
               "packets to these peers leave by another way or not at all",
               "see route.failed and link.* in the daemon's log, and whether the interface is up")  # fmt: skip


def foreign_routes(facts: Facts) -> Iterator[Finding]:
    """Say which routes inside the network are somebody else's."""
    standing = facts.standing
    if standing is None:
        yield skipped("foreign routes", "the network is not known")
        return
    found = [route for route in facts.routes if _is_foreign(route, facts, standing)]
    for route in found[:SHOWN]:
        yield _foreign(facts, standing, route)
    if not found:
        yield ok("foreign routes", f"none inside {', '.join(map(str, standing.networks))}")


def _is_foreign(route: KernelRoute, facts: Facts, standing: Standing) -> bool:
    if route.protocol in (facts.asked.route_protocol, _KERNEL):  # the kernel's own come with addresses
        return False
    return any(inside(route.dst, network) for network in standing.networks)


def _foreign(facts: Facts, standing: Standing, route: KernelRoute) -> Finding:
    names = {link.index: link.name for link in facts.links}
    way = f"via {route.gateway} " if route.gateway else ""
    dev = names.get(route.link_index, "")
    seen = f"{route.dst} {way}{f'dev {dev} ' if dev else ''}proto {protocol_name(route.protocol)}"
    mend = f"find out who sets it; then: ip route del {seen}"
    if route.dst in standing.todo.blocked:
        why = "it stands where the route to a peer should be; the daemon leaves it alone, and that peer is not reached"
        return bad("foreign routes", seen, why, mend)
    if any(put.route.dst == route.dst for put in standing.todo.puts):
        return ok("foreign routes", f"{seen}: a Go flanneld's; the daemon takes it over at its start")
    why = "no lease asks for it: packets to that part of the network go where it points"
    return warn("foreign routes", seen, why, mend)


def peers(facts: Facts) -> Iterator[Finding]:
    """Say which peers are off the link, and which keys are set aside, with the command that deletes each."""
    standing = facts.standing
    if standing is None:
        yield skipped("peers", _UNKNOWN)
        return
    set_aside = sorted(standing.view.quarantined.items())
    for name, quarantine in set_aside[:SHOWN]:
        yield _quarantined(facts, name, quarantine.reason, quarantine.detail)
    if len(set_aside) > SHOWN:
        yield warn("keys", f"{len(set_aside) - SHOWN} more are set aside", "as above", "pyflanneld leases lists them")
    for name in sorted(standing.view.foreign_backends)[:SHOWN]:
        yield warn("peers", f"{_shown(name)} is a lease of another backend", "it gets no route from here",
                   "run the same backend on all hosts")  # fmt: skip
    if not set_aside:
        count = len(set(standing.view.peers.values()))
        yield ok("peers", f"{len(standing.view.peers)} leases of {count} hosts, all believed")


def _quarantined(facts: Facts, name: bytes, reason: str, detail: str) -> Finding:
    seen = f"{_shown(name)} ({reason}): {detail}"
    if reason == "gateway_off_link":
        mend = "start that host with --public-ip on the common LAN, or choose another --iface here; if it is gone: "
        return bad("peers", seen, "host-gw needs every host on one LAN: its containers are not reached from here",
                   mend + delete_key(facts, name))  # fmt: skip
    look = etcdctl(facts, "get", f"{facts.asked.prefix}/subnets/{name.decode()}") if name.isascii() else ""
    why = "the key is set aside and gets no route; everything else works"
    show = f"look: {look}; " if look and b"\0" not in name else ""
    return warn("keys", seen, why, f"{show}if it is nobody's: {delete_key(facts, name)}")


def _shown(name: bytes) -> str:
    return ascii(name[:120])[2:-1]
