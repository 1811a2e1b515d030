"""The devices of the backend and what leads through them, as parts of the report. Pure."""

from collections.abc import Iterable
from typing import Any

from pyflanneld.core.families import Network
from pyflanneld.core.link.selection import Link
from pyflanneld.core.objects.table import ObjectTable
from pyflanneld.core.status.report import DevicePart, EntriesPart
from pyflanneld.core.vxlan.device import Device


def device_part(device: Device, there: Link | None) -> DevicePart:
    """Return the state of a wanted device; MTU and MAC address are those that it has, if it is there."""
    own = there.vxlan if there is not None else None
    state = "missing" if there is None else "up" if there.up else "down"
    return DevicePart(
        device.name, state, device.vxlan.vni, device.vxlan.port, mac=(own or device.vxlan).mac,
        mtu=there.mtu if there is not None else device.mtu, address=str(device.address),
    )  # fmt: skip


def entries_part(table: ObjectTable[Any, Any]) -> EntriesPart:
    """Return how many objects of one kind are wanted, and how many of them are not there."""
    return EntriesPart(table.kind.name, len(table.wanted), len(lacking(table)), len(table.refused()))


def lacking(table: ObjectTable[Any, Any]) -> list[Network]:
    """Return the peers' subnets whose object of one kind is not there as it should be."""
    present = {one.identity: one for one in table.objects()}
    return [
        wanted.subnet for identity, wanted in table.wanted.items()
        if identity not in present or not table.kind.is_as_wanted(wanted, present[identity])
    ]  # fmt: skip


def waiting(peers: Iterable[Network], routed: Iterable[Network], absent: Iterable[Device]) -> dict[Network, str]:
    """Return those of the accepted *peers* for which no route can be wanted yet, each with the *absent* device."""
    by_version = {device.vxlan.version: device.name for device in absent}
    return {subnet: by_version[subnet.version] for subnet in set(peers) - set(routed) if subnet.version in by_version}
