"""What a backend is: a pure value that turns peers into the kernel objects that they need. A small file each."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pyflanneld.core.families import Address, Network
from pyflanneld.core.lease.codec import LeaseAttrs
from pyflanneld.core.link.selection import Link
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.objects.kind import Kind, Wanted
from pyflanneld.core.peers.validation import DataRules
from pyflanneld.core.routes import RouteKind
from pyflanneld.core.vxlan.device import Device


@dataclass(frozen=True, slots=True)
class Host:
    """What a backend has to know of this host.

    Attributes:
        link: the one with the published address.
        links: all of them.
        networks: the cluster's, of each family in use.
        route_protocol: the number that marks a route as ours.
        addresses: those of the link from which packets to the peers leave, by IP version.
        subnets: this host's own; none before it has a lease.
        macs: those of this host's devices, by IP version; see ``Backend.macs``.
        api: of etcd, that our lease is written to: 2 is read by daemons of v0.11.0.
        near: addresses outside the link's networks that the kernel reaches on it all the same.
    """

    link: Link
    links: Sequence[Link]
    networks: tuple[Network, ...]
    route_protocol: int
    addresses: Mapping[int, Address] = field(default_factory=dict)
    subnets: tuple[Network, ...] = ()
    macs: Mapping[int, str] = field(default_factory=dict)
    api: int = 3
    near: frozenset[Address] = frozenset()

    @property
    def route_kind(self) -> RouteKind:
        """The kind of the routes to the peers' subnets."""
        return RouteKind(self.route_protocol, self.networks)

    def is_near(self, address: Address) -> bool:
        """Return whether *address* is on our link, without a router between."""
        return address in self.near or any(address in own.network for own in self.link.interfaces(address.version))


@dataclass(frozen=True, slots=True)
class Peers:
    """Some peers, or all.

    Attributes:
        gateways: subnet to the address that its lease publishes.
        data: subnet to what its lease says for the backend (JSON), where it says anything.
    """

    gateways: Mapping[Network, Address]
    data: Mapping[Network, str]


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
    def kin_type(self) -> str:
        """The ``lease_type`` of the backend whose hosts on our link are reached by a plain route, as they reach us."""
        ...

    @property
    def asks_who_is_near(self) -> bool:
        """Whether what a peer needs depends on ``Host.is_near``."""
        ...

    @property
    def needs_public_ip_on_link(self) -> bool:
        """Whether peers must reach the published address without a router or NAT between, and this host theirs."""
        ...

    def configured(self, config: NetworkConfig) -> "Backend":
        """Return it with its own options in *config*. Raises ``Invalid`` for one that cannot be used."""
        ...

    def macs(
        self, links: Sequence[Link], said: LeaseAttrs | None, seed: str, addresses: Collection[Address]
    ) -> Mapping[int, str]:  # fmt: skip
        """Return the MAC addresses that this host's devices keep, by IP version; none without devices.

        Args:
            links: all; a device that is there has one.
            said: this host's lease as the peers know it, where that is known; for a device that is not there.
            seed: what tells this host from all others, where no lease says one either.
            addresses: those that this host has for its peers. A device with another one was made for another lease,
                whose MAC address nobody else may have while it lives.
        """
        ...

    def devices(self, host: Host) -> Sequence[Device]:
        """Return the devices that this host needs; all other objects wait for them."""
        ...

    def data_rules(self, host: Host) -> DataRules | None:
        """Return what is demanded of the data in the peers' leases; ``None``: nothing."""
        ...

    def lease_data(self, version: int, host: Host) -> Mapping[str, object]:
        """Return what our lease says as ``BackendData`` (4) or ``BackendV6Data`` (6), in this order; empty: nothing."""
        ...

    def mtu(self, link_mtu: int) -> int:
        """Return what containers get, in bytes, when the link has *link_mtu*."""
        ...

    def kinds(self, host: Host) -> Sequence[Kind[Any, Any]]:
        """Return the kinds of objects, in the order in which they are put; they are dropped in the reverse order.

        All that a kind calls ours and nothing wants is dropped: so routes are among them even where none is wanted.
        """
        ...

    def placement(self, host: Host) -> Hashable:
        """Return what the wanted objects depend on, beside the peers: when it changes, all are derived anew."""
        ...

    def wanted(self, peers: Peers, host: Host) -> Iterable[Wanted]:
        """Return the objects that *peers* need, of these kinds."""
        ...
