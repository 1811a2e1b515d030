"""What is ours on a host that is to be left: routes by their mark, the lease by address and subnet file. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import Network, in_order, inside
from pyflanneld.core.lease.reservations import read_lease
from pyflanneld.core.lease.subnet_env import assignments, previous_network
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.routes.plan import KernelRoute


@dataclass(frozen=True, slots=True)
class Ours:
    """This host's own lease, which may be deleted."""

    record: Record
    subnet: IPv4Network


@dataclass(frozen=True, slots=True)
class NotOurs:
    """There is nothing that may be deleted; *gone*: because nobody holds it any more."""

    why: str
    gone: bool = False


def known_networks(config: NetworkConfig | None, subnet_text: str, named: Iterable[Network]) -> tuple[Network, ...]:
    """Return the networks that this host is or was a node of: by etcd, by the subnet file, by the operator."""
    found: set[Network] = set(named)
    if config is not None:
        found |= {subnet_range.network for subnet_range in (config.ipv4, config.ipv6) if subnet_range is not None}
    before = previous_network(subnet_text)
    if before is not None:
        found.add(before)
    before6 = _network6(assignments(subnet_text).get("FLANNEL_IPV6_NETWORK", ""))
    if before6 is not None:
        found.add(before6)
    return tuple(in_order(found))


def _network6(text: str) -> IPv6Network | None:
    try:
        return IPv6Network(text, strict=False)
    except ValueError:
        return None


def our_routes(
    present: Iterable[KernelRoute], protocol: int, networks: Collection[Network]
) -> tuple[list[KernelRoute], list[KernelRoute]]:
    """Return the routes with our mark: those inside *networks*, and the others, which may be another daemon's."""
    marked = [route for route in present if route.protocol == protocol]
    inner = [route for route in marked if any(inside(route.dst, network) for network in networks)]
    return inner, [route for route in marked if route not in inner]


def our_lease(records: Iterable[Record], public_ip: IPv4Address, subnet: IPv4Network | None) -> Ours | NotOurs:
    """Find the lease that address and subnet file both say is ours."""
    readings = [read_lease(record) for record in records]
    if subnet is None:
        ours = next((one.key for one in readings if one.attrs is not None and one.attrs.public_ip == public_ip), None)
        if ours is None:
            return NotOurs(f"{public_ip} has none", gone=True)
        return NotOurs(f"{ours} carries {public_ip}, but no subnet file proves that it is this host's")
    found = next((one for one in readings if one.key is not None and one.key.ipv4 == subnet), None)
    if found is None:
        return NotOurs(f"there is no lease of {subnet} any more", gone=True)
    if found.attrs is None:
        return NotOurs(f"the lease of {subnet} cannot be read, so nobody can say whose it is: {found.problem}")
    if found.attrs.public_ip != public_ip:
        return NotOurs(f"the lease of {subnet} is {found.attrs.public_ip}'s, and this host is {public_ip}")
    if not found.record.lease_id:
        return NotOurs(f"{subnet} is a reservation, and the operator's: pyflanneld leases release {subnet}")
    return Ours(found.record, subnet)
