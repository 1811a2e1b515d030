"""The trouble that only vxlan can have: with devices, with the entries on them, and with what leases say for it."""

import asyncio
import errno
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING

from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.link.vxlan import Vxlan
from pyflanneld.core.vxlan.forwardings import KernelForwarding
from tests.sim import spec
from tests.sim.node import TTL_S, SimNode
from tests.sim.setups import lease_value, mac_of
from tests.sim.tunnels import FLOOD, NAME, PORT, VNI, device
from tests.support.fakes.registry import SUBNETS

if TYPE_CHECKING:
    from tests.sim.world import World

OTHER_NAME = "vx9"
DEVICE_CHANGES = (
    "deleted", "down", "bare", "gets a wrong address", "gets an address of another network", "mac", "mtu", "local",
    "learning", "port",
)  # fmt: skip
ENTRY_CHANGES = (
    "neighbour gone", "neighbour wrong", "neighbour strange", "forwarding gone", "forwarding wrong",
    "forwarding strange", "learned", "flushed",
)  # fmt: skip
USELESS_MACS = ("", "zz", "00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:00:00:01")


def touch_device(world: "World") -> None:
    """Delete a host's device, or change what it is."""
    break_device(world, world.some())


def break_device(world: "World", node: SimNode) -> None:
    """Do it to the device of one host, if it is there."""
    what, there = world.rng.choice(DEVICE_CHANGES), device(node.fib)
    if there is None or there.vxlan is None:
        return
    world.say(f"{node.name}: somebody's hand on the device: {what}")
    node.fib.touch(told=False)
    if what == "deleted":
        node.kernel.remove_link(NAME)
    elif what == "port":
        node.kernel.remove_link(NAME)
        anew = replace(there, index=node.fib.next_index(), vxlan=replace(there.vxlan, port=4789))
        node.kernel.set_link(anew)
    else:
        node.kernel.set_link(_changed(world, there, there.vxlan, what))


def _changed(world: "World", there: Link, vxlan: Vxlan, what: str) -> Link:
    third = world.rng.randint(1, 39)
    match what:
        case "down":
            return replace(there, up=False)
        case "bare":
            return replace(there, addresses=())
        case "gets a wrong address" | "gets an address of another network":
            wrong = IPv4Interface(f"192.168.{third}.0/32" if "wrong" in what else f"10.88.{third}.1/32")
            return replace(there, addresses=tuple(dict.fromkeys((*there.addresses, wrong))))
        case "mac":
            return replace(there, vxlan=replace(vxlan, mac=f"02:99:00:00:00:{third:02x}"))
        case "mtu":
            return replace(there, mtu=world.rng.choice((1280, 1500)))
        case "local":
            return replace(there, vxlan=replace(vxlan, local=IPv4Address(f"192.168.14.{third + 200}")))
    return replace(there, vxlan=replace(vxlan, learning=True))


def touch_entries(world: "World") -> None:
    """Delete or change entries on a host's device, or put some that nobody needs."""
    break_entries(world, world.some())


def break_entries(world: "World", node: SimNode) -> None:
    """Do it on the device of one host, if it is there."""
    what, there = world.rng.choice(ENTRY_CHANGES), device(node.fib)
    if there is None:
        return
    told = world.rng.random() < 0.5
    world.say(f"{node.name}: somebody's hand on the entries: {what}{'' if told else ', unseen'}")
    if what.startswith("neighbour"):
        _break_neighbours(world, node, there.index, what)
    else:
        _break_forwardings(world, node, there.index, what)
    node.fib.touch(told=told)


def _break_neighbours(world: "World", node: SimNode, index: int, what: str) -> None:
    known = [one.address for one in node.fib.neighbours_of(index)]
    third, address = world.rng.randint(1, 39), world.rng.choice(known) if known else None
    if what == "neighbour strange":
        strange = IPv4Address(f"192.168.{third}.{world.rng.choice((0, 7))}")
        node.fib.put_neighbour(index, Neighbour(strange, "permanent", mac_of("10.1.1.1")))
    elif address is not None and what == "neighbour gone":
        node.fib.forget(index, address)
    elif address is not None:
        state = world.rng.choice(("permanent", "stale"))
        node.fib.put_neighbour(index, Neighbour(address, state, mac_of(f"10.2.2.{third}")))


def _break_forwardings(world: "World", node: SimNode, index: int, what: str) -> None:
    known = sorted(node.fib.forwardings_of(index))
    third, mac = world.rng.randint(1, 39), world.rng.choice(known) if known else None
    elsewhere = IPv4Address(f"192.168.14.{200 + third}")
    if what == "flushed":
        for one in known:
            node.fib.lose_forwarding(index, one)
    elif what in ("learned", "forwarding strange"):
        strange = world.rng.choice((mac_of(f"10.3.3.{third}"), FLOOD))
        node.fib.forward(KernelForwarding(index, strange, elsewhere, permanent=what != "learned"))
    elif mac is not None and what == "forwarding gone":
        node.fib.lose_forwarding(index, mac)
    elif mac is not None:
        node.fib.forward(KernelForwarding(index, mac, elsewhere, permanent=world.rng.random() < 0.7))


def strange_neighbour(world: "World") -> None:
    """Put a neighbour on the LAN of a host, for an address that might be a peer's."""
    node, third = world.some(), world.rng.randint(1, 39)
    known = Neighbour(IPv4Address(f"192.168.{third}.0"), "permanent", mac_of(f"10.4.4.{third}"))
    world.say(f"{node.name}: somebody puts {known.address} on {node.fib.lan_link().name}")
    node.strangers = [known]
    node.fib.put_neighbour(node.fib.lan_link().index, known)


def rival_device(world: "World") -> None:
    """Have somebody else's device in the place of a host's, for a while."""
    node, for_s = world.some(), world.rng.choice((0.5, 5.0, 30.0, 90.0))
    other = world.rng.choice((
        Link(0, NAME, 1500, True, ()), Link(0, NAME, 1450, True, (), vxlan=Vxlan(mac_of("10.5.5.5"), 7, PORT, 0, None)),
        Link(0, OTHER_NAME, 1450, True, (), vxlan=Vxlan(mac_of("10.5.5.5"), VNI, PORT, 0, None)),
    ))  # fmt: skip
    world.say(f"{node.name}: somebody's {other.name} takes the place of the device for {for_s} s: {other.vxlan}")
    node.fib.touch(told=False)
    for name in (NAME, OTHER_NAME):
        if node.fib.has_link(name):
            node.kernel.remove_link(name)
    node.kernel.set_link(replace(other, index=node.fib.next_index()))

    def go() -> None:
        for link in node.fib.table_of_links():
            if is_rival(link):
                node.kernel.remove_link(link.name)

    asyncio.get_running_loop().call_later(for_s, go)


def is_rival(link: Link) -> bool:
    """Return whether a link is in the way of a host's device."""
    return link.name == OTHER_NAME or (link.name == NAME and (link.vxlan is None or link.vxlan.vni != VNI))


def refuse_device(world: "World") -> None:
    """Let a host's kernel refuse to make the device, for another program has the port."""
    node = world.some()
    world.say(f"{node.name}: the port of the device is taken")
    node.kernel.refuse(NAME, errno.EADDRINUSE, times=world.rng.choice((1, 2, 10)))
    node.fib.touch(told=False)
    if device(node.fib) is not None:
        node.kernel.remove_link(NAME)


def refuse_entry(world: "World") -> None:
    """Let a kernel refuse an entry, or interrupt a list of them."""
    node, there = world.some(), device(world.some().fib)
    what = world.rng.choice(("neighbours", "forwardings", "neighbour", "forwarding"))
    world.say(f"{node.name}: refuses {what}")
    if what.endswith("s"):
        node.kernel.fail_calls(world.rng.randint(1, 2), what)
    elif there is not None:
        peer = world.setup.home(100 + world.rng.randint(1, 16))
        address = IPv4Address(f"192.168.{world.rng.randint(1, 16)}.0")
        identity = (there.index, address) if what == "neighbour" else (there.index, mac_of(peer))
        node.kernel.refuse(identity, errno.ENOBUFS, times=3)


def rogue_lease(world: "World") -> None:
    """Write a lease that says no usable MAC address, that of another host, or that of a host of ours."""
    records = world.etcd.records()
    there = world.rng.choice(records) if records and world.rng.random() < 0.5 else None
    name = there.name if there is not None else b"192.168.%d.0-24" % world.rng.randint(1, 39)
    lease_id = there.lease_id if there is not None else world.etcd.grant(TTL_S * 100)
    if there is None and SUBNETS + name in world.etcd.state.keys:
        return
    claimed = [said.mac for record in records if (said := spec.read_value(record.value)) is not None and said.mac]
    mac = world.rng.choice((None, *USELESS_MACS, *claimed, *claimed))
    world.say(f"somebody writes {name!r} with the MAC address {mac!r}")
    world.tamper()
    world.etcd.put(name, lease_value(world.setup.home(100 + world.rng.randint(60, 90)), mac), lease_id=lease_id)


def new_mac(world: "World") -> None:
    """Have somebody else's host come back with another MAC address."""
    records = [one for one in world.etcd.records() if (spec.read_value(one.value) or (0,))[0] & 255 >= 100]
    if records:
        record = world.rng.choice(records)
        mac = mac_of(f"10.6.6.{world.rng.randint(1, 250)}")
        home = IPv4Address((spec.read_value(record.value) or (0,))[0])
        world.say(f"another daemon has the MAC address {mac} now: {record.name!r}")
        world.etcd.put(record.name, lease_value(str(home), mac), lease_id=record.lease_id)


VXLAN_TROUBLES: tuple[Callable[["World"], None], ...] = (
    touch_device, touch_entries, strange_neighbour, rival_device, refuse_device, refuse_entry, rogue_lease, new_mac,
)  # fmt: skip
