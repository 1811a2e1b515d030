"""Permanent neighbour entries as kernel objects: to which MAC address packets for an address on a link go. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pyflanneld.core.families import Address, Network
from pyflanneld.core.link.selection import Neighbour
from pyflanneld.core.objects.kind import Events, Owner
from pyflanneld.core.objects.sole import SoleKind


@dataclass(frozen=True, slots=True)
class Entry:
    """A wanted entry, which never expires.

    Attributes:
        subnet: the peer's subnet that needs it.
        mac: six octets, such as ``aa:bb:cc:00:00:22``.
    """

    subnet: Network
    link_index: int
    address: Address
    mac: str

    @property
    def identity(self) -> tuple[int, Address]:
        """Return link and address."""
        return self.link_index, self.address


@dataclass(frozen=True, slots=True)
class KernelEntry:
    """An entry as the kernel reports it.

    Attributes:
        mac: ``None`` while it is not known.
        permanent: somebody has put it; otherwise the kernel has learned it.
    """

    link_index: int
    address: Address
    mac: str | None
    permanent: bool

    @classmethod
    def of(cls, link_index: int, neighbour: Neighbour) -> Self:
        """Return the entry of a neighbour on a link."""
        return cls(link_index, neighbour.address, neighbour.mac, neighbour.state == "permanent")

    @property
    def identity(self) -> tuple[int, Address]:
        """Return link and address."""
        return self.link_index, self.address


@dataclass(frozen=True, slots=True)
class EntryListing:
    """The entries of one link, both families."""

    link_index: int


@dataclass(frozen=True, slots=True)
class EntryKind(SoleKind):
    """Permanent entries on links on which nobody else puts any.

    Attributes:
        link_indexes: of these links.
        networks: the peers' addresses on them are inside these.
    """

    link_indexes: tuple[int, ...]
    networks: tuple[Network, ...]
    name: ClassVar[str] = "neighbour"
    plural: ClassVar[str] = "neighbours"
    events: ClassVar[Events] = Events(
        put="neighbour.put",
        dropped="neighbour.dropped",
        adopted="neighbour.adopted",
        changed="neighbours.changed",
        changed_by_others="neighbours.changed_by_others",
        contested="neighbour.contested",
        failed="neighbour.failed",
    )
    wanted_type: ClassVar[type[Entry]] = Entry

    def listings(self, *, foreign: bool) -> tuple[EntryListing, ...]:  # noqa: ARG002 - a list has all
        """Return that of each link."""
        return tuple(map(EntryListing, self.link_indexes))

    def concerns_us(self, present: KernelEntry) -> bool:
        """Return whether it is ours, and for an address of the cluster's network."""
        return self.owner(present) is Owner.OURS and any(present.address in network for network in self.networks)

    def is_as_wanted(self, wanted: Entry, present: KernelEntry) -> bool:
        """Return whether it has the wanted MAC address for good."""
        return present.permanent and present.mac == wanted.mac

    def as_placed(self, wanted: Entry) -> KernelEntry:
        """Return what the kernel reports once *wanted* is put."""
        return KernelEntry(wanted.link_index, wanted.address, wanted.mac, permanent=True)

    def order(self, identity: tuple[int, Address]) -> tuple[int, ...]:
        """Return by what entries are sorted."""
        index, address = identity
        return index, address.version, int(address)

    def shown(self, identity: tuple[int, Address]) -> str:
        """Return the address."""
        return str(identity[1])

    def fields(self, one: Entry | KernelEntry) -> Mapping[str, Any]:
        """Return address and MAC address."""
        return {"address": str(one.address), "mac": str(one.mac)}
