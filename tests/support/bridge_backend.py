"""A third backend, for the tests of the seam: permanent neighbour entries on the bridge ``br0``, and no routes.

``python -m tests.support.bridge_backend`` runs the daemon with it. Nothing outside this file knows it.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from pyflanneld.backends import BACKENDS, Host, Peers
from pyflanneld.backends.host_gw import HostGw
from pyflanneld.core.families import Address
from pyflanneld.core.neighbours import Entry, EntryKind
from pyflanneld.core.routes import RouteKind

BRIDGE = "br0"


def mac_of(address: Address) -> str:
    """Return the MAC address of the host with a published IPv4 address."""
    return "02:00:" + ":".join(f"{octet:02x}" for octet in address.packed[-4:])


@dataclass(frozen=True, slots=True)
class BridgeNeighbours(HostGw):
    """The backend: each lease says the host's MAC address, and each peer's first address has it on the bridge."""

    name: str = "bridge-neighbours"
    lease_type: str = "bridge-neighbours"
    kin_type: str = ""
    needs_public_ip_on_link: bool = False

    def lease_data(self, version: int, host: Host) -> dict[str, object]:  # noqa: ARG002 - the protocol's
        """Return this host's MAC address."""
        return {"Mac": mac_of(host.link.addresses[0].ip)}

    def mtu(self, link_mtu: int) -> int:
        """Return what is left beside a header of 50 bytes."""
        return link_mtu - 50

    def kinds(self, host: Host) -> tuple[EntryKind, RouteKind]:
        """Return the entries, and the routes that another backend may have left."""
        index = self._bridge(host)
        return EntryKind((index,) if index else (), host.networks), host.route_kind

    def placement(self, host: Host) -> int:
        """Return the index of the bridge."""
        return self._bridge(host)

    def wanted(self, peers: Peers, host: Host) -> Iterable[Entry]:  # type: ignore[override]
        """Return an entry for each peer that says its MAC address."""
        index = self._bridge(host)
        for subnet in peers.gateways if index else ():
            if subnet in peers.data:
                yield Entry(subnet, index, subnet[1], json.loads(peers.data[subnet])["Mac"])

    def _bridge(self, host: Host) -> int:
        return next((link.index for link in host.links if link.name == BRIDGE), 0)


BACKEND = BridgeNeighbours()

if __name__ == "__main__":
    from pyflanneld.cli import main

    BACKENDS[BACKEND.name] = BACKEND
    sys.exit(main())
