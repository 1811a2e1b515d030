"""host-gw: one plain route per peer, through the peer's own address on the common link."""

from collections.abc import Mapping
from dataclasses import dataclass

from pyflanneld.core.families import Address, Network
from pyflanneld.core.routes.plan import Route


@dataclass(frozen=True, slots=True)
class HostGw:
    """The backend ``host-gw``."""

    name: str = "host-gw"
    lease_type: str = "host-gw"
    needs_public_ip_on_link: bool = True

    def desired_routes(self, peers: Mapping[Network, Address], link_index: int) -> dict[Network, Route]:
        """Return the routes that *peers* (subnet to gateway) need through the link with *link_index*."""
        return {subnet: Route(subnet, gateway, link_index) for subnet, gateway in peers.items()}
