"""Forwarding entries of vxlan devices as kernel objects: to which host frames for a MAC address go. Pure.

A unicast MAC address has exactly one destination on a device, and a replacement moves it in one step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pyflanneld.core.families import Address, Network
from pyflanneld.core.objects.kind import Events, Owner
from pyflanneld.core.objects.sole import SoleKind

NOWHERE = "00:00:00:00:00:00"
"""The MAC address of the entries to which a device floods what it has no other entry for."""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A wanted entry, which never expires: *mac* is at the host with the address *destination*."""

    subnet: Network
    link_index: int
    mac: str
    destination: Address

    @property
    def identity(self) -> tuple[int, str]:
        """Return link and MAC address."""
        return self.link_index, self.mac


@dataclass(frozen=True, slots=True)
class KernelForwarding:
    """An entry as the kernel reports it.

    Attributes:
        destination: ``None`` where it names none.
        permanent: somebody has put it; otherwise the device has learned it.
    """

    link_index: int
    mac: str
    destination: Address | None
    permanent: bool

    @property
    def identity(self) -> tuple[int, str]:
        """Return link and MAC address."""
        return self.link_index, self.mac


@dataclass(frozen=True, slots=True)
class ForwardingListing:
    """The forwarding entries of one link."""

    link_index: int


@dataclass(frozen=True, slots=True)
class ForwardingKind(SoleKind):
    """Permanent forwarding entries on devices on which nobody else puts any.

    Attributes:
        link_indexes: of these devices.
    """

    link_indexes: tuple[int, ...]
    name: ClassVar[str] = "forwarding entry"
    plural: ClassVar[str] = "forwarding entries"
    events: ClassVar[Events] = Events(
        put="forwarding.put",
        dropped="forwarding.dropped",
        adopted="forwarding.adopted",
        changed="forwardings.changed",
        changed_by_others="forwardings.changed_by_others",
        contested="forwarding.contested",
        failed="forwarding.failed",
    )
    wanted_type: ClassVar[type[Forwarding]] = Forwarding

    def listings(self, *, foreign: bool) -> tuple[ForwardingListing, ...]:  # noqa: ARG002 - a list has all
        """Return that of each device."""
        return tuple(map(ForwardingListing, self.link_indexes))

    def concerns_us(self, present: KernelForwarding) -> bool:
        """Return whether it is ours: the device carries this network alone, and its flooding is its own affair."""
        return self.owner(present) is Owner.OURS and present.mac != NOWHERE

    def is_as_wanted(self, wanted: Forwarding, present: KernelForwarding) -> bool:
        """Return whether it leads to the wanted host for good."""
        return present.permanent and present.destination == wanted.destination

    def as_placed(self, wanted: Forwarding) -> KernelForwarding:
        """Return what the kernel reports once *wanted* is put."""
        return KernelForwarding(wanted.link_index, wanted.mac, wanted.destination, permanent=True)

    def order(self, identity: tuple[int, str]) -> tuple[int, ...]:
        """Return by what entries are sorted."""
        index, mac = identity
        return index, int(mac.replace(":", ""), 16)

    def shown(self, identity: tuple[int, str]) -> str:
        """Return the MAC address."""
        return str(identity[1])

    def fields(self, one: Forwarding | KernelForwarding) -> Mapping[str, Any]:
        """Return MAC address and destination."""
        return {"mac": one.mac, "destination": str(one.destination)}
