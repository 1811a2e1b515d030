"""vxlan: one device for each address family, and for each peer a neighbour, a forwarding entry and a route through it.

The route leads to the first address of the peer's subnet, the neighbour entry says which MAC address that has, and the
forwarding entry at which host this MAC address is. With ``DirectRouting`` a peer on our own link has a plain route, as
in host-gw; and so has one there that is still, or already, a host of host-gw.

Wire format and names: flannel ``pkg/backend/vxlan`` (v0.28.9).
"""

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from typing import Any

from pyflanneld.backends.backend import Host, Peers
from pyflanneld.core.families import Address, Network
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import LeaseAttrs
from pyflanneld.core.link.selection import Link
from pyflanneld.core.link.vxlan import Vxlan as Parameters
from pyflanneld.core.neighbours import Entry, EntryKind
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.objects.kind import Kind, Wanted
from pyflanneld.core.routes import Route
from pyflanneld.core.vxlan.device import Device, device_name
from pyflanneld.core.vxlan.forwardings import Forwarding, ForwardingKind
from pyflanneld.core.vxlan.options import VxlanOptions, parse_options
from pyflanneld.core.vxlan.vtep import VtepRules, derived_mac, parse_mac, vtep_data


@dataclass(frozen=True, slots=True)
class Vxlan:
    """The backend ``vxlan``."""

    options: VxlanOptions = field(default_factory=VxlanOptions)
    ipv6: bool = False
    name: str = "vxlan"
    lease_type: str = "vxlan"
    kin_type: str = "host-gw"
    needs_public_ip_on_link: bool = False

    def configured(self, config: NetworkConfig) -> "Vxlan":
        """Return it with the options of *config*. Raises ``Invalid``."""
        ipv6 = config.ipv6 is not None
        return replace(self, options=parse_options(config.backend_options, ipv6=ipv6), ipv6=ipv6)

    @property
    def asks_who_is_near(self) -> bool:
        """Whether some peers do without the tunnels."""
        return self.options.direct_routing

    @property
    def versions(self) -> tuple[int, ...]:
        """The address families in use."""
        return (4, 6) if self.ipv6 else (4,)

    def macs(
        self, links: Sequence[Link], said: LeaseAttrs | None, seed: str, addresses: Collection[Address]
    ) -> Mapping[int, str]:  # fmt: skip
        """Return the MAC addresses of our devices, by IP version: those that are there have theirs already."""
        return {
            version: self._device_mac(version, links, addresses) or self._lease_mac(version, said, seed)
            for version in self.versions
        }

    def _device_mac(self, version: int, links: Sequence[Link], addresses: Collection[Address]) -> str:
        """Return that of the device that is there; nothing if there is none, or it was made for another lease."""
        device = _device(links, self.options.vni, version)
        there = device.vxlan if device is not None else None
        return there.mac if there is not None and there.local in (None, *addresses) else ""

    def _lease_mac(self, version: int, said: LeaseAttrs | None, seed: str) -> str:
        try:
            return parse_mac(said.backend_data(version) if said is not None else "")
        except Invalid:
            return derived_mac(seed, self.options.vni, version)

    def lease_data(self, version: int, host: Host) -> Mapping[str, object]:
        """Return where this host's device is: its MAC address. v0.11.0 writes no VNI."""
        return vtep_data(host.macs[version], None if host.api == 2 else self.options.vni)

    def data_rules(self, host: Host) -> VtepRules:
        """Return that each peer's lease must have a MAC address of its own."""
        return VtepRules(frozenset(host.macs.values()), self.options.vni)

    def mtu(self, link_mtu: int) -> int:
        """Return what is left beside the outer headers, in the larger of the families in use."""
        return self.options.mtu(link_mtu, version=6 if self.ipv6 else 4)

    def devices(self, host: Host) -> tuple[Device, ...]:
        """Return the device of each family of which this host has a subnet and an address."""
        return tuple(self._device(subnet, host) for subnet in host.subnets if subnet.version in host.addresses)

    def _device(self, subnet: Network, host: Host) -> Device:
        options, version = self.options, subnet.version
        parameters = Parameters(
            mac=host.macs[version], vni=options.vni, port=options.port, lower_index=host.link.index,
            local=host.addresses[version], learning=options.learning, gbp=options.gbp, version=version,
        )  # fmt: skip
        return Device(
            device_name(options.vni, version), parameters, options.mtu(host.link.mtu, version=version),
            address=ip_interface(f"{subnet.network_address}/{subnet.max_prefixlen}"),
            network=next(one for one in host.networks if one.version == version),
        )

    def kinds(self, host: Host) -> tuple[Kind[Any, Any], ...]:
        """Return neighbours, forwarding entries and routes: a packet finds all that it needs behind each of them."""
        indexes = tuple(self._indexes(host).values())
        return EntryKind(indexes, host.networks), ForwardingKind(indexes), host.route_kind

    def placement(self, host: Host) -> Hashable:
        """Return the devices, and who is reached without them."""
        near: tuple[object, ...] = ()
        if self.options.direct_routing:
            near = host.near, *(host.link.interfaces(version) for version in self.versions)
        return tuple(self._indexes(host).items()), host.link.index, near

    def _indexes(self, host: Host) -> dict[int, int]:
        """Return the index of each of our devices that can be used, by IP version."""
        found = {version: _device(host.links, self.options.vni, version) for version in self.versions}
        return {version: link.index for version, link in found.items() if link is not None and link.up}

    def wanted(self, peers: Peers, host: Host) -> Iterator[Wanted]:
        """Return what leads to each peer."""
        indexes = self._indexes(host)
        for subnet, gateway in peers.gateways.items():
            if subnet not in peers.data or (self.options.direct_routing and host.is_near(gateway)):
                yield Route(subnet, gateway, host.link.index)
            elif index := indexes.get(subnet.version):
                first, mac = subnet.network_address, parse_mac(peers.data[subnet])
                yield Entry(subnet, index, first, mac)
                yield Forwarding(subnet, index, mac, gateway)
                yield Route(subnet, first, index, onlink=True)


def _device(links: Sequence[Link], vni: int, version: int) -> Link | None:
    """Return our device of one address family, if it is there."""
    name = device_name(vni, version)
    found = (link for link in links if link.name == name and link.vxlan is not None and link.vxlan.vni == vni)
    return next(found, None)
