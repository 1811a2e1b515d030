"""What is ours on a host to clean up: routes and devices by their marks, the lease by address and file. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import Network, in_order, inside
from pyflanneld.core.lease.subnet_env import assignments, previous_network
from pyflanneld.core.link.selection import Link
from pyflanneld.core.link.vxlan import Vxlan
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.routes import KernelRoute
from pyflanneld.core.vxlan.device import device_name
from pyflanneld.core.vxlan.options import parse_options


@dataclass(frozen=True, slots=True)
class Ours:
    """This host's lease, which may be deleted."""

    record: Record
    subnet: IPv4Network


@dataclass(frozen=True, slots=True)
class NotOurs:
    """There is no lease that may be deleted; *gone*: because none is left."""

    why: str
    gone: bool = False


def known_networks(config: NetworkConfig | None, subnet_text: str, named: Iterable[Network]) -> tuple[Network, ...]:
    """Return the networks of this host's daemon: from etcd, from the subnet file, and those *named* by the operator."""
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


def our_devices(links: Iterable[Link], networks: Collection[Network], config: NetworkConfig | None) -> list[Link]:
    """Return the vxlan devices of these networks: by name, kind and VNI, and by an address or by *config*."""
    vni = parse_options(config.backend_options, ipv6=False).vni if config and config.backend_type == "vxlan" else None
    return [link for link in links if link.vxlan is not None and _is_ours(link, link.vxlan, networks, vni)]


def _is_ours(link: Link, vxlan: Vxlan, networks: Collection[Network], vni: int | None) -> bool:
    named = link.name == device_name(vxlan.vni, vxlan.version)
    own = [one.ip for version in (4, 6) for one in link.interfaces(version)]
    inner = any(address in network for address in own for network in networks)
    return named and (inner or vxlan.vni == vni)


def our_lease(records: Iterable[Record], public_ip: IPv4Address, subnet: IPv4Network | None) -> Ours | NotOurs:
    """Find the lease that both the address and the subnet file prove to be this host's."""
    known = list(records)
    if subnet is None:
        leases = (record.lease for record in known)
        ours = next((one.key for one in leases if one.attrs is not None and one.attrs.public_ip == public_ip), None)
        if ours is None:
            return NotOurs(f"{public_ip} has none", gone=True)
        return NotOurs(f"{ours} carries {public_ip}, but no subnet file proves that it is this host's")
    found = next((one for one in known if one.lease.key is not None and one.lease.key.ipv4 == subnet), None)
    if found is None:
        return NotOurs(f"there is no longer a lease of {subnet}", gone=True)
    attrs = found.lease.attrs
    if attrs is None:
        return NotOurs(f"the lease of {subnet} cannot be read, so its owner is unknown: {found.lease.problem}")
    if attrs.public_ip != public_ip:
        return NotOurs(f"the lease of {subnet} is {attrs.public_ip}'s, and this host is {public_ip}")
    if not found.lease_id:
        return NotOurs(f"{subnet} is a reservation; to delete it: pyflanneld leases release {subnet}")
    return Ours(found, subnet)
