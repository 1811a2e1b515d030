"""alloc: a lease and a subnet file, and no routes at all; somebody else moves the packets.

Wire format: flannel ``pkg/backend/alloc/alloc.go`` (v0.28.9), whose leases carry no ``BackendType``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pyflanneld.core.families import Address, Network
from pyflanneld.core.routes.plan import Route


@dataclass(frozen=True, slots=True)
class Alloc:
    """The backend ``alloc``."""

    name: str = "alloc"
    lease_type: str = ""
    needs_public_ip_on_link: bool = False

    def desired_routes(
        self,
        peers: Mapping[Network, Address],  # noqa: ARG002 - the protocol's
        link_index: int,  # noqa: ARG002
    ) -> dict[Network, Route]:
        """Return nothing: routes of ours that an earlier backend has left are idle from now on."""
        return {}
