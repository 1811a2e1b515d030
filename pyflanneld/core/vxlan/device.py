"""The vxlan device of one address family: as it is wanted, and what makes it so. Pure.

Linux can change the local address, the lower link, learning, MTU and MAC address of a device that carries packets; VNI,
port and GBP only by making it anew, with the same MAC address, so that the peers have nothing to learn. A device that
is not ours by kind and VNI is never touched, and two devices cannot have one VNI on one port.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pyflanneld.core.families import Interface, Network
from pyflanneld.core.link.selection import Link
from pyflanneld.core.link.vxlan import Vxlan
from pyflanneld.core.objects.plan import Create, Drop, KernelChange, Replace


def device_name(vni: int, version: int) -> str:
    """Return flannel's name for the device of one address family."""
    return f"flannel.{vni}" if version == 4 else f"flannel-v6.{vni}"


@dataclass(frozen=True, slots=True)
class Device:
    """A wanted device.

    Attributes:
        address: this host's in the cluster's network: the first of its subnet, alone.
        network: the cluster's; no other address inside it belongs on the device.
    """

    name: str
    vxlan: Vxlan
    mtu: int
    address: Interface
    network: Network

    @property
    def identity(self) -> str:
        """Return the name."""
        return self.name

    @property
    def subnet(self) -> Network:
        """Return what is reached through its address: this host's own."""
        return self.address.network


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What of a device that is there only its kind knows; Linux takes it in a message of its own."""

    name: str
    vxlan: Vxlan
    subnet: Network

    @property
    def identity(self) -> str:
        """Return the name."""
        return self.name


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address of a link."""

    link_index: int
    interface: Interface

    @property
    def identity(self) -> tuple[int, Interface]:
        """Return all of it."""
        return self.link_index, self.interface


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """What makes a device as it is wanted.

    Attributes:
        changes: in their order; after the first one more may be due, once the device is read again.
        problem: what is in the way, and what mends it; empty: nothing is.
    """

    changes: tuple[KernelChange, ...] = field(default=())
    problem: str = ""


def plan_device(wanted: Device, links: Sequence[Link]) -> DevicePlan:
    """Compare *wanted* with the *links* that are there."""
    there = next((link for link in links if link.name == wanted.name), None)
    if (problem := _in_the_way(wanted, there, links)) is not None:
        return DevicePlan(problem=problem)
    if there is None or there.vxlan is None:
        return DevicePlan((Create(wanted),))
    if not _is_changeable(wanted.vxlan, there.vxlan):
        return DevicePlan((Drop(there), Create(wanted)))
    changes: list[KernelChange] = []
    if (there.vxlan.mac, there.mtu, there.up) != (wanted.vxlan.mac, wanted.mtu, True):
        changes.append(Replace(wanted))
    if there.vxlan != replace(wanted.vxlan, mac=there.vxlan.mac):
        changes.append(Replace(Tunnel(wanted.name, wanted.vxlan, wanted.subnet)))
    return DevicePlan((*changes, *_addresses(wanted, there)))


def _in_the_way(wanted: Device, there: Link | None, links: Sequence[Link]) -> str | None:
    vni, port = wanted.vxlan.vni, wanted.vxlan.port
    if there is not None and (there.vxlan is None or there.vxlan.vni != vni):
        what = "no vxlan device" if there.vxlan is None else f"a vxlan device with the VNI {there.vxlan.vni}"
        return (
            f"{there.name} is {what}, and this network needs the name for the VNI {vni}: "
            f"rename or delete it (ip link delete {there.name})"
        )
    for other in links:
        if other is not there and other.vxlan is not None and other.vxlan.collides(wanted.vxlan):
            return (
                f"{other.name} has the VNI {vni} on port {port}, and Linux allows that once: "
                f"delete it (ip link delete {other.name}), or give this network another VNI or Port"
            )
    return None


def _is_changeable(wanted: Vxlan, there: Vxlan) -> bool:
    """Return whether Linux can make a device that is *there* what is wanted."""
    return replace(there, mac=wanted.mac, lower_index=wanted.lower_index, local=wanted.local,
                   learning=wanted.learning) == wanted  # fmt: skip


def _addresses(wanted: Device, there: Link) -> list[KernelChange]:
    """Return the changes of addresses: the right one comes before a wrong one goes, for with the last go all routes."""
    present = there.interfaces(wanted.address.version)
    changes: list[KernelChange] = []
    if wanted.address not in present:
        changes.append(Create(LinkAddress(there.index, wanted.address)))
    wrong = (one for one in present if one != wanted.address and one.ip in wanted.network)
    return [*changes, *(Drop(LinkAddress(there.index, one)) for one in wrong)]
