"""alloc: a lease and a subnet file, and no routes at all; somebody else moves the packets.

Wire format: flannel ``pkg/backend/alloc/alloc.go`` (v0.28.9), whose leases carry no ``BackendType``.
"""

from dataclasses import dataclass

from pyflanneld.backends.backend import Host, Peers
from pyflanneld.backends.host_gw import HostGw
from pyflanneld.core.routes import Route


@dataclass(frozen=True, slots=True)
class Alloc(HostGw):
    """The backend ``alloc``: as host-gw, without its routes."""

    name: str = "alloc"
    lease_type: str = ""
    kin_type: str = ""
    needs_public_ip_on_link: bool = False

    def wanted(self, peers: Peers, host: Host) -> tuple[Route, ...]:  # noqa: ARG002 - the protocol's
        """Return nothing: routes of ours that an earlier backend has left are idle from now on."""
        return ()
