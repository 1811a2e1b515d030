"""The checks of ``pyflanneld doctor``, from facts to findings, in the order of the report. Pure."""

from collections.abc import Callable, Iterable
from typing import Final

from pyflanneld.commands.doctor.checks import conflicts, docker, etcd, host, peers, vxlan
from pyflanneld.commands.doctor.finding import Finding
from pyflanneld.commands.doctor.host_facts import Facts

Check = Callable[[Facts], Finding | Iterable[Finding]]

CHECKS: Final[tuple[Check, ...]] = (
    conflicts.daemons,
    etcd.members,
    etcd.clusters,
    etcd.etcd_version,
    etcd.alarms,
    etcd.clock,
    etcd.certificates,
    etcd.configuration,
    etcd.two_stores,
    host.interface,
    host.underlay,
    host.forwarding,
    host.reverse_path,
    host.policy_routing,
    host.networkd,
    host.programs,
    host.forward_policy,
    host.other_policies,
    host.bridge_netfilter,
    vxlan.devices,
    vxlan.udp_port,
    vxlan.firewall,
    vxlan.managed,
    peers.lease,
    peers.backend,
    peers.public_address,
    peers.peers,
    peers.routes,
    vxlan.entries,
    peers.foreign_routes,
    docker.subnet_file,
    docker.bridge,
    docker.bridge_mtu,
    docker.docker_version,
    conflicts.health_port,
    conflicts.metrics_port,
    conflicts.networks,
    conflicts.start_script,
    conflicts.leftovers,
)


def examine(facts: Facts) -> list[Finding]:
    """Return the findings of all checks."""
    found: list[Finding] = []
    for check in CHECKS:
        result = check(facts)
        found += [result] if isinstance(result, Finding) else result
    return found
