"""Vxlan devices, their addresses and their forwarding entries, for ``FakeKernel``: what Linux was seen to do."""

import errno
from abc import abstractmethod
from dataclasses import replace
from typing import Any

from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.objects.plan import Create, Drop, KernelChange
from pyflanneld.core.vxlan.device import Device, LinkAddress, Tunnel
from pyflanneld.core.vxlan.forwardings import Forwarding, KernelForwarding
from pyflanneld.ports import Change


class FakeDevices:
    """The part of a kernel that has vxlan devices."""

    _links: dict[int, Link]
    _neighbours: dict[int, list[Neighbour]]

    def __init__(self) -> None:
        self._forwardings: dict[int, dict[str, KernelForwarding]] = {}
        self._last_index = 0  # no index is given twice

    @abstractmethod
    def set_link(self, link: Link) -> None: ...

    @abstractmethod
    def remove_link(self, name: str) -> None: ...

    @abstractmethod
    def _tell(self, change: Change) -> None: ...

    def forwardings_of(self, link_index: int) -> dict[str, str]:
        """Return MAC address to destination of the permanent entries of a device."""
        entries = self._forwardings.get(link_index, {}).values()
        return {one.mac: str(one.destination) for one in entries if one.permanent}

    def forward(self, entry: KernelForwarding) -> None:
        """Put a forwarding entry, as somebody else does."""
        self._forwardings.setdefault(entry.link_index, {})[entry.mac] = entry
        self._tell(Change.ROUTES)

    def lose_forwarding(self, link_index: int, mac: str) -> None:
        """Delete a forwarding entry, as somebody else does. Raises ``KeyError``."""
        del self._forwardings[link_index][mac]
        self._tell(Change.ROUTES)

    def _forget_neighbours(self, before: Link | None, link: Link) -> None:
        """Take away what a device takes along that goes down, gets another MAC address, or loses its last address."""
        here = self._neighbours.get(link.index)
        if not here or before is None or before.vxlan is None or link.vxlan is None:
            return
        all_go = not link.up or before.vxlan.mac != link.vxlan.mac  # permanent ones too
        bare = {version for version in (4, 6) if before.interfaces(version) and not link.interfaces(version)}
        here[:] = [one for one in here if not all_go and one.address.version not in bare]

    def _apply_to_devices(self, change: KernelChange) -> int:
        match change.object:
            case Device() | Tunnel() | Link():
                return self._apply_device(change)
            case LinkAddress():
                return self._apply_address(change)
        return self._apply_forwarding(change)

    def _apply_device(self, change: KernelChange) -> int:
        one = change.object
        there = next((link for link in self._links.values() if link.name == one.name), None)
        if isinstance(change, Drop):
            if there is None:
                return errno.ENODEV
            self.remove_link(one.name)
            return 0
        if isinstance(change, Create):
            return errno.EEXIST if there else self._make(one)
        if there is None or there.vxlan is None:
            return errno.ENODEV
        if isinstance(one, Tunnel):
            self.set_link(replace(there, vxlan=replace(one.vxlan, mac=there.vxlan.mac)))
        else:
            self.set_link(replace(there, vxlan=replace(there.vxlan, mac=one.vxlan.mac), mtu=one.mtu, up=True))
        return 0

    def _make(self, device: Device) -> int:
        lower = self._links.get(device.vxlan.lower_index)
        if lower is None:
            return errno.ENODEV
        others = (link.vxlan for link in self._links.values() if link.vxlan is not None)
        if any(other.collides(device.vxlan) for other in others):
            return errno.EEXIST
        self.set_link(Link(self._last_index + 1, device.name, device.mtu, up=True, addresses=(), vxlan=device.vxlan))
        return 0

    def _apply_address(self, change: KernelChange) -> int:
        wanted: LinkAddress = change.object
        link = self._links.get(wanted.link_index)
        if link is None:
            return errno.ENODEV
        own, version = wanted.interface, wanted.interface.version
        present: tuple[Any, ...] = link.interfaces(version)
        if isinstance(change, Create) and own in present:
            return errno.EEXIST
        if isinstance(change, Drop) and own not in present:
            return errno.EADDRNOTAVAIL
        now = (*present, own) if isinstance(change, Create) else tuple(one for one in present if one != own)
        self.set_link(replace(link, addresses=now) if version == 4 else replace(link, addresses6=now))
        return 0

    def _apply_forwarding(self, change: KernelChange) -> int:
        entry: Forwarding | KernelForwarding = change.object
        if entry.link_index not in self._links:
            return errno.ENODEV
        here = self._forwardings.setdefault(entry.link_index, {})
        known = here.get(entry.mac)
        if isinstance(change, Drop):
            if known is None:
                return errno.ENOENT
            if known.destination == entry.destination:  # with another one Linux deletes nothing, and says nothing
                del here[entry.mac]
            return 0
        if isinstance(change, Create) and known is not None:
            return errno.EEXIST
        here[entry.mac] = KernelForwarding(entry.link_index, entry.mac, entry.destination, permanent=True)
        return 0
