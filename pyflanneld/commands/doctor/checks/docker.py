"""Checks of what uses the lease: the subnet file, Docker's bridge, Docker itself."""

from ipaddress import IPv4Network

from pyflanneld.commands.doctor.finding import Finding, bad, ok, quoted, skipped, warn
from pyflanneld.commands.doctor.host_facts import Facts
from pyflanneld.core.docker import FIRST_FILTERING, DockerVersion, Leased, bridge_complaint, direct_routing_hint
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.subnet_env import assignments
from pyflanneld.core.link.selection import Link


def subnet_file(facts: Facts) -> Finding:
    """Check that the subnet file exists, can be read, and names the lease."""
    path = facts.flags.subnet_file
    why = "Docker takes its subnet and MTU from there"
    if facts.subnet_error:
        return bad("subnet file", f"{path}: {facts.subnet_error}", why, f"rm {quoted(path)}, and restart the daemon")
    if facts.subnet_text is None:
        if facts.daemon_runs:
            return bad("subnet file", f"{path} does not exist", why, "see subnet_file.failed in the daemon's log")
        return ok("subnet file", f"{path} does not exist yet; the daemon writes it")
    leased = _leased(facts)
    if leased is None:
        return bad("subnet file", f"{path} names no usable subnet", why,
                   f"rm {quoted(path)}, and restart the daemon")  # fmt: skip
    return _compared(facts, leased, path)


def _leased(facts: Facts) -> Leased | None:
    try:
        return Leased.read(assignments(facts.subnet_text or ""))
    except Invalid:
        return None


def _compared(facts: Facts, leased: Leased, path: str) -> Finding:
    own = facts.node.own if facts.node else None
    subnet = leased.bridge.network
    if own is not None and subnet != own.ipv4:
        seen = f"{path} names {subnet}, but the lease is {own.ipv4}"
        why = "peers do not route to the subnet that Docker uses"
        fix = "restart the daemon, then Docker" if facts.daemon_runs else "start the daemon: it writes the file again"
        return bad("subnet file", seen, why, fix)
    if facts.mtu is not None and not facts.backend_before and leased.mtu is not None and leased.mtu != facts.mtu:
        why = "packets larger than the path allows are lost"
        seen = f"{path} says MTU {leased.mtu}, but {_way(facts)} has room for {facts.mtu}"
        return warn("subnet file", seen, why, "the daemon writes it again within a minute; then restart Docker")
    return ok("subnet file", f"{path} names {subnet}")


def bridge(facts: Facts) -> Finding:
    """Check that Docker's bridge is on the leased subnet."""
    subnet = _own_subnet(facts)
    there = _bridge(facts)
    if not facts.flags.docker_bridge or there is None:
        return skipped("Docker's bridge", f"there is no {facts.flags.docker_bridge or '--docker-bridge'}")
    if subnet is None:
        return skipped("Docker's bridge", "this node has no lease yet")
    others = () if facts.flags.docker_bridge_asked else tuple(one.network for one in facts.served)
    complaint = bridge_complaint(facts.links, there.name, subnet, others)
    if complaint is None and bridge_complaint(facts.links, there.name, subnet) is not None:
        return skipped("Docker's bridge", f"{there.name} is in a network that another daemon of this host serves")
    if complaint is None:
        return ok("Docker's bridge", f"{there.name} is on the leased {subnet}")
    have = ", ".join(map(str, there.addresses))
    return bad("Docker's bridge", f"{there.name} has {have}, the leased subnet is {subnet}",
               "other hosts send to the leased subnet and do not reach the containers here",
               "pyflanneld docker-opts, then restart Docker (--bip="
               f"{subnet.network_address + 1}/{subnet.prefixlen})")  # fmt: skip


def _own_subnet(facts: Facts) -> IPv4Network | None:
    """Return the leased subnet; without etcd, the one in the subnet file."""
    if facts.node is not None and facts.node.own is not None:
        return facts.node.own.ipv4
    leased = _leased(facts)
    return leased.bridge.network if leased else None


def _bridge(facts: Facts) -> Link | None:
    return next((link for link in facts.links if link.name == facts.flags.docker_bridge), None)


def bridge_mtu(facts: Facts) -> Finding:
    """Compare the bridge's MTU with the largest packet that gets to the other hosts."""
    there = _bridge(facts)
    if there is None or facts.mtu is None or facts.backend_before:
        return skipped("MTU", "there are no bridge, interface and configuration to compare")
    seen = f"{there.name} has {there.mtu}, {_way(facts)} has room for {facts.mtu}"
    if there.mtu <= facts.mtu:
        return ok("MTU", seen)
    why = "containers send packets that do not fit: large transfers hang where ICMP is filtered"
    fix = f"restart Docker with --mtu={facts.mtu} (pyflanneld docker-opts)"
    return warn("MTU", seen, why, fix)


def _way(facts: Facts) -> str:
    """Return what carries the packets to the other hosts: ``"vxlan on eth1"``."""
    link = facts.choice.link.name if facts.choice else "the interface"
    return f"vxlan on {link}" if facts.backend is not None and facts.backend.name == "vxlan" else link


def docker_version(facts: Facts) -> Finding:
    """Check that Docker accepts packets from other hosts."""
    if not facts.docker.version:
        return skipped("Docker", "no Docker here reports its version")
    try:
        found = DockerVersion.parse(facts.docker.version)
    except Invalid as error:
        return skipped("Docker", str(error))
    if found < FIRST_FILTERING:
        return ok("Docker", f"{found} accepts packets from other hosts")
    if facts.docker.direct_routing:
        return ok("Docker", f"{found}, set to accept packets from other hosts (allow-direct-routing)")
    leased = _leased(facts)
    fix = (direct_routing_hint(leased, found) if leased else None) or "pyflanneld docker-opts, then restart Docker"
    why = "from version 28 on, Docker drops packets from other hosts to its containers"
    return warn("Docker", f"{found}, without allow-direct-routing", why, fix)
