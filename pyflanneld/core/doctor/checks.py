"""The table of all checks, in the order in which they are told."""

from collections.abc import Callable, Iterable
from typing import Final

from pyflanneld.core.doctor import docker, etcd, host, others, peers
from pyflanneld.core.doctor.facts import Facts
from pyflanneld.core.doctor.finding import Finding

Check = Callable[[Facts], Finding | Iterable[Finding]]

CHECKS: Final[tuple[Check, ...]] = (
    others.daemons,
    etcd.members,
    etcd.version,
    etcd.alarms,
    etcd.clock,
    etcd.certificates,
    etcd.configuration,
    etcd.two_stores,
    host.interface,
    host.underlay,
    host.forwarding,
    host.reverse_path,
    host.policy_rules,
    host.networkd,
    host.programs,
    host.forward_policy,
    host.other_policies,
    host.bridge_netfilter,
    peers.lease,
    peers.public_address,
    peers.peers,
    peers.routes,
    peers.foreign_routes,
    docker.subnet_file,
    docker.bridge,
    docker.bridge_mtu,
    docker.version,
    others.health_port,
    others.start_script,
    others.leftovers,
)


def examine(facts: Facts) -> list[Finding]:
    """Return what all checks have found."""
    found: list[Finding] = []
    for check in CHECKS:
        answer = check(facts)
        found += [answer] if isinstance(answer, Finding) else answer
    return found
