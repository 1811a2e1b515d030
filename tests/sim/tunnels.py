"""Vxlan: a device, and of each peer a neighbour, a forwarding entry and a route: three tables that tell one truth.

A packet to a peer takes the route to the first address of the peer's subnet, the neighbour entry names the MAC address
of that, and the forwarding entry the host. Where one of the three is missing or old, packets go nowhere, or to the
wrong host. All of it is checked as it is made, and once there is peace.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyflanneld.core.link.selection import Link
from pyflanneld.core.neighbours import Entry, KernelEntry
from pyflanneld.core.objects.plan import Drop, KernelChange
from pyflanneld.core.routes import Route
from pyflanneld.core.vxlan.device import Device, LinkAddress, Tunnel
from pyflanneld.core.vxlan.forwardings import Forwarding, KernelForwarding
from tests.sim import spec
from tests.sim.delivered import Verdict
from tests.sim.kernel import LAN_LINK, SimKernel

if TYPE_CHECKING:
    from tests.sim.node import SimNode

NAME, VNI, PORT = "flannel.1", 1, 8472
OUTER_BYTES = 50
"""Ethernet, IP, UDP and VXLAN."""
FLOOD = "00:00:00:00:00:00"


@dataclass(frozen=True)
class Tables:
    """The permanent entries of a device, and the routes of ours.

    Attributes:
        neighbours: address to MAC address.
        forwardings: MAC address to the address of its host.
        routes: destination to gateway.
    """

    neighbours: Mapping[int, str] = field(default_factory=dict)
    forwardings: Mapping[str, int] = field(default_factory=dict)
    routes: Mapping[spec.Net, int] = field(default_factory=dict)


def device(kernel: SimKernel) -> Link | None:
    """Return the host's device: that of the name and the network's VNI."""
    links = (link for link in kernel.table_of_links() if link.name == NAME)
    return next((link for link in links if link.vxlan is not None and link.vxlan.vni == VNI), None)


def tables(kernel: SimKernel, routes: Mapping[spec.Net, int]) -> Tables:
    """Return what is there of the cluster's network."""
    there = device(kernel)
    if there is None:
        return Tables(routes=routes)
    neighbours = {
        spec.address(str(one.address)): str(one.mac)
        for one in kernel.neighbours_of(there.index) if one.state == "permanent"
    }  # fmt: skip
    inside = {one: mac for one, mac in neighbours.items() if spec.contains(spec.CLUSTER, (one, 32))}
    forwardings = kernel.forwardings_of(there.index)
    known = {mac: spec.address(address) for mac, address in forwardings.items() if mac != FLOOD}
    return Tables(inside, known, routes)


def expected(keys: Iterable[spec.Key], host: spec.Host) -> Tables:
    """Return what should be there."""
    peers = spec.accepted(keys, host)
    through = {subnet: said for subnet, said in peers.items() if host.tunnels_to(said)}
    return Tables(
        {subnet[0]: said.mac for subnet, said in through.items()},
        {said.mac: said.gateway for said in through.values()},
        {subnet: host.next_hop(subnet, said) for subnet, said in peers.items()},
    )


class DeviceRule:
    """The device keeps its MAC address, whoever deletes or changes it, for as long as its host has its address.

    A daemon goes on with the MAC address of a device that it finds, unless that has another address to send from.
    """

    def __init__(self, node: "SimNode") -> None:
        self._node = node
        self._by_address: dict[int, str] = {}
        self._mac: str | None = None
        self._address = 0

    def begin(self) -> None:
        """A daemon starts; what it is shown of the links first decides."""
        self._mac, self._address = None, 0

    def looked(self, links: Sequence[Link]) -> None:
        """Take note of what the daemon is shown."""
        own = next((one for link in links if link.name == LAN_LINK for one in link.addresses), None)
        if not self._address and own is not None:
            self._address = spec.address(str(own.ip))
            found = (link.vxlan for link in links if link.name == NAME)
            own_ones = (one for one in found if one is not None and one.vni == VNI and one.local in (None, own.ip))
            self._mac = next((one.mac for one in own_ones), None)

    def is_usual(self, mac: str, address: int) -> bool:
        """Return whether the device had this MAC address before, when its host had this address."""
        return self._by_address.get(address) == mac

    def check(self, changes: Sequence[KernelChange]) -> None:
        """I6: what is not the own device is left alone; and the device is always made with the right parameters."""
        for change in changes:
            one, name = change.object, self._node.name
            match one:
                case Device():
                    self._check_made(one)
                case Link() if not isinstance(change, Drop) or one.vxlan is None or one.vxlan.vni != VNI:
                    raise spec.Violation(f"I6: {name} asks for {change}, which is somebody else's")
                case LinkAddress():
                    there = device(self._node.fib)
                    if there is not None and one.link_index != there.index:
                        raise spec.Violation(f"I6: {name} asks for {change}, on another link")
                    first = (spec.address(str(one.interface.ip)), 32)
                    if isinstance(change, Drop) and not spec.contains(spec.CLUSTER, first):
                        raise spec.Violation(f"I6: {name} asks for {change}, an address of another network")
                case Link() | Tunnel():
                    pass
                case _:
                    raise spec.Violation(f"I6: {name} asks for {change}")
            if one.__class__ is not LinkAddress and one.name != NAME:
                raise spec.Violation(f"I6: {name} asks for {change}, which is not its device")

    def _check_made(self, wanted: Device) -> None:
        node, mac = self._node, wanted.vxlan.mac
        right = self._mac = self._mac or self._by_address.setdefault(self._address, mac)
        if mac != right:
            raise spec.Violation(f"identity: the device of {node.name} gets {mac} in the place of {right}")


class EntryRule:
    """I8, I9 and I6 for the entries: put when told of, in their order, and dropped only on proof."""

    def __init__(self, node: "SimNode") -> None:
        self._node = node

    def asked(self, changes: Sequence[KernelChange], allowed: Sequence[Verdict], *, drops_proved: bool) -> None:
        """Check the changes of entries, as ``RouteChecker.asked`` does those of routes."""
        own = device(self._node.fib)
        others = {link.index for link in self._node.fib.table_of_links() if link is not own}
        for change in changes:
            one = change.object
            if isinstance(one, Entry | Forwarding):
                self._check_put(one, allowed)
            elif isinstance(one, KernelEntry | KernelForwarding):
                self._check_drop(one, allowed)
                if not drops_proved:
                    raise spec.Violation(f"I9: {self._node.name} drops {one} while nothing proves its own lease")
            else:
                continue
            if one.link_index in others:
                raise spec.Violation(f"I6: {self._node.name} asks for {change}, on another link")

    def _check_put(self, one: Entry | Forwarding, allowed: Sequence[Verdict]) -> None:
        subnet, host = spec.network(str(one.subnet)), self._node.as_host()
        told = [said for verdict in allowed for said in verdict.may.get(subnet, ()) if host.tunnels_to(said)]
        if not any(fits(one, subnet, said) for said in told):
            raise spec.Violation(f"I9: {self._node.name} puts {one}, which it was never told")

    def _check_drop(self, one: KernelEntry | KernelForwarding, allowed: Sequence[Verdict]) -> None:
        host = self._node.as_host()
        if all(any(fits(one, *peer) for peer in verdict.tunnels(host).items()) for verdict in allowed):
            raise spec.Violation(f"I9: {self._node.name} drops {one} without proof")

    def made(self, change: KernelChange, *, whole: bool) -> None:
        """I8: no entry goes before the route that needs it has gone."""
        one = change.object
        if not isinstance(change, Drop) or not whole:
            return
        used = self._used(one.link_index)
        if isinstance(one, KernelEntry) and spec.address(str(one.address)) in used:
            raise spec.Violation(f"I8: {self._node.name} drops {one}, and a route leads there")
        if isinstance(one, KernelForwarding) and one.mac in used.values():
            raise spec.Violation(f"I8: {self._node.name} drops {one}, and a route leads there")

    def _used(self, index: int) -> dict[int, str]:
        """Return the addresses that routes of ours through the device lead over, with their MAC addresses."""
        neighbours = {one.address: str(one.mac) for one in self._node.fib.neighbours_of(index)}
        ours = self._node.own_routes()
        hops = [one.gateway for one in ours if one.onlink and one.link_index == index and one.gateway is not None]
        return {spec.address(str(hop)): neighbours.get(hop, "") for hop in hops}

    def route_put(self, route: Route) -> None:
        """I8: a route through the device comes after all that its packets need."""
        node, subnet, host = self._node, spec.network(str(route.dst)), self._node.as_host()
        if not route.onlink or not node.fib.is_as_seen:
            return
        there = tables(node.fib, {})
        mac = there.neighbours.get(subnet[0], "")
        if there.forwardings.get(mac) is None:
            raise spec.Violation(f"I8: {node.name} puts {route} before its entries: {mac or 'no neighbour'}")
        told = node.sim.delivered.verdict(host).may.get(subnet, set()) | self._told_before(subnet)
        if not any((said.mac, said.gateway) == (mac, there.forwardings[mac]) for said in told):
            raise spec.Violation(f"I8: {node.name} puts {route}, and its entries lead to {there.forwardings[mac]}")

    def _told_before(self, subnet: spec.Net) -> set[spec.Said]:
        told = self._node.told_before | self._node.sim.delivered.named
        return {said for one, said in told if one == subnet}


def fits(one: Entry | Forwarding | KernelEntry | KernelForwarding, subnet: spec.Net, said: spec.Said) -> bool:
    """Return whether an entry is one that the tunnel to a peer needs."""
    if isinstance(one, Entry | KernelEntry):
        return (spec.address(str(one.address)), one.mac) == (subnet[0], said.mac)
    return (one.mac, spec.address(str(one.destination))) == (said.mac, said.gateway)


def check_converged(node: "SimNode", keys: Collection[spec.Key]) -> None:
    """I5: the device is as it should be, and so are the entries on it."""
    host = node.as_host()
    _check_device(node, host)
    right, there = expected(keys, host), tables(node.fib, node.routes())
    stays = bool(node.frozen)
    for what, has, needs in (
        ("neighbours", there.neighbours, right.neighbours), ("forwardings", there.forwardings, right.forwardings),
    ):  # fmt: skip
        if stays and needs.items() <= has.items():
            continue
        if has != needs:
            raise spec.Violation(f"I5: {node.name} has the {what} {has} and not {needs}")
    held = [said for key in keys if spec.read_name(key.name) == node.lease and (said := spec.read_value(key.value))]
    if [said.mac for said in held] != [host.mac]:
        raise spec.Violation(f"I5: the lease of {node.name} says {held}, its device has {host.mac}")
    if strangers := [one for one in node.strangers if one not in node.fib.neighbours_of(node.fib.lan_link().index)]:
        raise spec.Violation(f"I6: {node.name} has lost {strangers} on another link")


def _check_device(node: "SimNode", host: spec.Host) -> None:
    there, lower = device(node.fib), node.fib.lan_link()
    if there is None or there.vxlan is None:
        raise spec.Violation(f"I5: {node.name} has no device")
    one = there.vxlan
    parameters = (one.port, one.lower_index, spec.address(str(one.local)), one.learning, one.gbp, one.plain)
    if parameters != (PORT, lower.index, host.address, False, False, True):
        raise spec.Violation(f"I5: the device of {node.name} is {one}")
    if (there.mtu, there.up, one.mac) != (lower.mtu - OUTER_BYTES, True, host.mac):
        raise spec.Violation(f"I5: the device of {node.name} is {there}, and should have {host.mac}")
    inside = [own for own in there.addresses if spec.contains(spec.CLUSTER, (spec.address(str(own.ip)), 32))]
    if [(spec.address(str(own.ip)), own.network.prefixlen) for own in inside] != [(host.own[0], 32)]:
        raise spec.Violation(f"I5: the device of {node.name} has the addresses {inside}")
    if f"FLANNEL_MTU={there.mtu}\n" not in (node.disk_file.text or ""):
        raise spec.Violation(f"I17: the file of {node.name} says {node.disk_file.text!r}, the MTU is {there.mtu}")

