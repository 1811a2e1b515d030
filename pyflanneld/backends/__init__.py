"""Pure: one small file per backend, a function from peers to the kernel objects that they need."""

from collections.abc import Mapping
from typing import Protocol

from pyflanneld.backends.alloc import Alloc
from pyflanneld.backends.host_gw import HostGw
from pyflanneld.core.families import Address, Network
from pyflanneld.core.routes.plan import Route


class Backend(Protocol):
    """What the network configuration's ``Backend.Type`` chooses."""

    @property
    def name(self) -> str:
        """The type's name in the network configuration, in lower case."""
        ...

    @property
    def lease_type(self) -> str:
        """What the leases say as ``BackendType``; empty: they do not say it."""
        ...

    @property
    def needs_public_ip_on_link(self) -> bool:
        """Whether peers must reach the published address without a router or NAT between, and this host theirs."""
        ...

    def desired_routes(self, peers: Mapping[Network, Address], link_index: int) -> dict[Network, Route]:
        """Return the routes, by destination, that *peers* (subnet to gateway) need through that link."""
        ...


BACKENDS: Mapping[str, Backend] = {backend.name: backend for backend in (HostGw(), Alloc())}
"""Every backend by its name."""
