"""host-gw: one plain route per peer, through the peer's own address on the common link."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network

from pyflanneld.core.routes import Route

NAME = "host-gw"


def desired_routes(peers: Mapping[IPv4Network, IPv4Address], link_index: int) -> dict[IPv4Network, Route]:
    """Return the routes that *peers* (subnet to gateway) need through the link with *link_index*."""
    return {subnet: Route(subnet, gateway, link_index) for subnet, gateway in peers.items()}
