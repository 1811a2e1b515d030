"""host-gw: one plain route per peer, through the peer's own address on the common link."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from pyflanneld.backends.backend import Host, Peers
from pyflanneld.core.families import Address
from pyflanneld.core.lease.codec import LeaseAttrs
from pyflanneld.core.link.selection import Link
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.routes import Route, RouteKind


@dataclass(frozen=True, slots=True)
class HostGw:
    """The backend ``host-gw``."""

    name: str = "host-gw"
    lease_type: str = "host-gw"
    kin_type: str = "vxlan"
    asks_who_is_near: bool = False
    needs_public_ip_on_link: bool = True

    def configured(self, config: NetworkConfig) -> Self:  # noqa: ARG002 - the protocol's
        """Return it as it is: it has no options."""
        return self

    def macs(
        self, links: Sequence[Link], said: LeaseAttrs | None, seed: str, addresses: Collection[Address]  # noqa: ARG002
    ) -> dict[int, str]:  # fmt: skip
        """Return none."""
        return {}

    def devices(self, host: Host) -> tuple[()]:  # noqa: ARG002
        """Return none: packets leave through the link itself."""
        return ()

    def data_rules(self, host: Host) -> None:
        """Return ``None``: the leases say nothing for this backend."""

    def lease_data(self, version: int, host: Host) -> dict[str, object]:  # noqa: ARG002 - the protocol's
        """Return nothing: the address says it all."""
        return {}

    def mtu(self, link_mtu: int) -> int:
        """Return that of the link: packets leave as they are."""
        return link_mtu

    def kinds(self, host: Host) -> tuple[RouteKind]:
        """Return the routes."""
        return (host.route_kind,)

    def placement(self, host: Host) -> int:
        """Return the index of the link."""
        return host.link.index

    def wanted(self, peers: Peers, host: Host) -> Iterable[Route]:
        """Return a route for each peer."""
        index = host.link.index
        return [Route(subnet, gateway, index) for subnet, gateway in peers.gateways.items()]
