"""The trouble that a world may have, one kind each: a function that makes some more of it, where the dice say."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.link.selection import Link
from pyflanneld.core.routes import KernelRoute
from pyflanneld.errors import FirewallError
from tests.sim import spec
from tests.sim.disk import STEPS
from tests.sim.etcd import ENDPOINTS, Way
from tests.sim.node import RULES, TTL_S, SimNode
from tests.support.fakes.kernel import PROTO_STATIC
from tests.support.fakes.node import PROTOCOL
from tests.support.fakes.registry import SUBNETS

if TYPE_CHECKING:
    from tests.sim.world import World

FIGHT_S, FLUSH_S = 30.0, 300.0
BRIDGE, BRIDGE_INDEX = "br9", 99
OTHERS = 100
"""Where the addresses of hosts begin that are not ours to look into, such as those of Go daemons."""
THIRDS = 16
BOOT_S = 1.0
SHORT_S = 10
TWIN_S = 3.0
JUNK = (b"", b"null", b"[]", b"{", b"\xff\x00", b'{"PublicIP":"127.0.0.1","BackendType":"host-gw"}', b"x" * 70000)
STRANGE = (
    b"foo", b"192.168.45.0-24&fd00::-64", b"x192.168.46.0-24", b"192.168.47.0-24x", b"192.168.30.7-24",
    b"0.0.0.0-0", b"10.9.8.0-24", b"192.168.0.0-18", b"192.168.14.0-24", b"192.168.14.128-25", b"192.168.12.0-22",
)  # fmt: skip
"""Names of no subnet, subnets outside, the whole network, the LAN of the hosts, a half of it, and more than it."""
WAYS = (
    Way("cut"), Way("refused"), Way(latency_s=2.0), Way(fails=0.5), Way(loses_reply=0.5, latency_s=0.2),
    Way(writes_late=0.7), Way(repeats_event=0.5, delays_event_s=1.0, travels=0.3), Way(loses_event=0.5, travels=0.5),
    Way(travels=1.0), Way(behind=0.5), Way(fails_renewal=1.0),
    Way(refuses_writes=True),
    Way(fails_list=1.0), Way(list_s=20.0), Way(list_s=10.0, repeats_event=0.5, travels=0.5),
)  # fmt: skip


def start_or_stop(world: "World") -> None:
    """Start a host's daemon, or stop it."""
    node = world.some()
    world.say(f"{node.name} is {'stopped' if node.running else 'started'}")
    if node.running:
        node.kill()
    else:
        node.start()


def freeze(world: "World") -> None:
    """Stop a process where it is, or let it go on."""
    node = world.some()
    frozen = not node.sim.awake.is_set()
    world.say(f"{node.name} is {'thawed' if frozen else 'frozen'}")
    node.thaw() if frozen else node.freeze()


def hang(world: "World") -> None:
    """Let the kernel not answer one process, for as long as it is not thawed."""
    node = world.some()
    world.say(f"{node.name}: the kernel does not answer")
    node.hang()


def sleep_machine(world: "World") -> None:
    """Let a machine sleep."""
    node = world.some()
    slept_s = world.rng.choice((10, 100, 1000))
    world.say(f"{node.name} has slept for {slept_s} s")
    node.clock.sleep_machine(slept_s)


def lose_power(world: "World") -> None:
    """Switch a machine off, and on again."""
    node = world.some()
    world.say(f"{node.name} has no power")
    node.lose_power()


def boot_in_outage(world: "World") -> None:
    """Switch a machine off, and on again while it does not reach etcd."""
    node = world.some()
    world.say(f"{node.name} boots without etcd")
    node.sim.set_way(Way(world.rng.choice(("cut", "refused"))))
    node.lose_power()
    asyncio.get_running_loop().call_later(BOOT_S, node.start_unless_running)


def change_way(world: "World") -> None:
    """Make the way to etcd worse, or good again."""
    node = world.some()
    way = world.rng.choice((Way(), Way(), *WAYS))
    world.say(f"{node.name} reaches etcd by {way}")
    node.sim.set_way(way)


def etcd_down(world: "World") -> None:
    """Take etcd away from everybody, or give it back."""
    way = world.rng.choice((Way(), Way("cut"), Way("refused")))
    world.say(f"everybody reaches etcd by {way}")
    for node in world.nodes:
        node.sim.set_way(way)


def stray_member(world: "World") -> None:
    """Let an endpoint lead to a cluster of its own, or all of them to ours again."""
    world.strays = {} if world.strays else {world.rng.choice(ENDPOINTS): world.other}
    world.say(f"endpoints of another cluster: {sorted(world.strays)}")
    for node in world.nodes:
        node.meet_strays(world.strays)


def elect(world: "World") -> None:
    """Have a new leader."""
    world.say("etcd has a new leader")
    world.etcd.elect()


def compact(world: "World") -> None:
    """Forget the history, which others make longer too."""
    world.say("etcd is compacted")
    if world.rng.random() < 0.5:
        world.etcd.cut_watches()
    world.etcd.serve_others(world.rng.choice((0, 1, 100)))
    world.etcd.compact()


def back_up_or_restore(world: "World") -> None:
    """Take a backup, or go back to it."""
    if world.rng.random() < 0.5:
        world.say("etcd is backed up")
        world.backup = world.etcd.backup()
    else:
        world.say("etcd is restored from its backup")
        world.tamper()
        world.etcd.restore(world.backup)


def revoke(world: "World") -> None:
    """End a lease before its time, or all of them."""
    world.tamper()
    leases = list(world.etcd.state.leases)
    ended = leases if world.rng.random() < 0.3 else leases[:1]
    world.say(f"leases {ended} are revoked")
    for lease_id in ended:
        world.etcd.revoke(lease_id)


def delete_keys(world: "World") -> None:
    """Delete a key by hand, or all of them."""
    records = world.etcd.records()
    chosen = records if world.rng.random() < 0.2 else world.rng.sample(records, min(1, len(records)))
    for record in chosen:
        world.tamper()
        world.say(f"somebody deletes {record.name!r}")
        world.etcd.delete(record.name)


def twin(world: "World") -> None:
    """Have another host with the IPv4 address of one, and an IPv6 address of its own, hold the same lease for a while.

    It writes its value as often as that of the other stands there.
    """
    node = world.some()
    said = world.setup.value(f"192.168.14.{node.host}").replace(b":null", b':"fd00::99"')
    world.say(f"another host has the address of {node.name}")
    world.tamper()
    end_s = asyncio.get_running_loop().time() + TWIN_S

    def write() -> None:
        loop = asyncio.get_running_loop()
        for record in world.etcd.records():
            found = spec.read_value(record.value)
            theirs = found is not None and found[:2] == (spec.address(f"192.168.14.{node.host}"), world.setup.backend)
            if theirs and record.value != said and record.lease_id:
                world.etcd.put(record.name, said, lease_id=record.lease_id)
        if loop.time() < end_s:
            loop.call_later(0.01, write)

    write()


def shorten(world: "World") -> None:
    """Put a host's key again, as it is, on an etcd lease that ends soon unless somebody renews it."""
    record = _some_record(world)
    if record is not None and record.lease_id:
        world.say(f"somebody puts {record.name!r} on a lease of {SHORT_S} s")
        world.tamper()
        world.etcd.put(record.name, record.value, lease_id=world.etcd.grant(SHORT_S))


def put_junk(world: "World") -> None:
    """Write something that nobody can use, over a key or beside it; or another backend's lease."""
    records = world.etcd.records()
    name = world.rng.choice((*STRANGE[:2], *(record.name for record in records)))
    lease_id = next((record.lease_id for record in records if record.name == name), 0)
    useless = (one.replace(b"host-gw", world.setup.backend.encode()) for one in JUNK)
    junk = world.rng.choice((*useless, world.setup.other_value("192.168.14.99")))
    world.say(f"somebody writes {junk[:40]!r} to {name!r}")
    world.tamper()
    world.etcd.put(name, junk, lease_id=lease_id if world.rng.random() < 0.8 else 0)


def put_junk_beside(world: "World") -> None:
    """Write something unreadable under a name that overlaps a host's subnet, and delete its key."""
    lease = world.some().lease
    if lease is None:
        return
    first, length = lease
    junk, own = _name(first, length + world.rng.choice((1, 2))), _name(first, length)
    world.say(f"somebody writes junk to {junk!r} and deletes {own!r}")
    world.tamper()
    if SUBNETS + junk not in world.etcd.state.keys:
        world.etcd.put(junk, world.rng.choice(JUNK[:5]))
    world.etcd.delete(own)


def claim(world: "World") -> None:
    """Claim what nobody may have, or what others have a part of, for a host that might be one."""
    record = _some_record(world)
    subnet = None if record is None else spec.read_name(record.name)
    name = world.rng.choice(STRANGE)
    if subnet is not None and world.rng.random() < 0.6:
        first, length = subnet
        longer = world.rng.choice((-1, 1, 2))
        first &= -1 << (32 - length - longer)
        name = _name(first, length + longer)
    if SUBNETS + name in world.etcd.state.keys:
        return
    world.say(f"somebody claims {name!r}")
    said = world.setup.value(f"192.168.14.{world.rng.randint(90, 99)}")
    world.etcd.put(name, said, lease_id=world.etcd.grant(TTL_S * 100))


def take_over(world: "World") -> None:
    """Give a host's subnet to another one, whoever holds it; or a part of it, as soon as it is free."""
    record = _some_record(world)
    subnet = None if record is None else spec.read_name(record.name)
    if record is None or subnet is None:
        return
    world.tamper()
    name = record.name
    if world.rng.random() < 0.5:
        world.etcd.delete(name)
        name = _name(subnet[0], subnet[1] + world.rng.choice((0, 1)))
    world.say(f"another daemon takes {name!r}")
    address = f"192.168.14.{OTHERS + world.rng.randint(51, 99)}"
    world.etcd.put(name, world.setup.value(address), lease_id=world.etcd.grant(TTL_S * 100))


def reserve(world: "World") -> None:
    """Reserve a subnet for a host by hand, one that fits or one that does not."""
    node, third = world.some(), world.rng.randint(17, 24)
    name = world.rng.choice((b"192.168.%d.0-24" % third, b"192.168.%d.0-25" % third, b"10.9.%d.0-24" % third))
    if SUBNETS + name in world.etcd.state.keys:
        return
    world.say(f"somebody reserves {name!r} for {node.name}")
    world.etcd.put(name, world.setup.value(f"192.168.14.{node.host}", node.published_mac))


def other_peer(world: "World") -> None:
    """A host of somebody else's, such as a Go daemon, comes, moves to another address, changes its subnet, or goes."""
    third = world.rng.randint(1, THIRDS)
    name = b"192.168.%d.0-24" % third
    there = world.etcd.state.keys.get(SUBNETS + name)
    if there is None:
        setup, home = world.setup, world.setup.home(OTHERS + third)
        backend = world.rng.choice((setup.backend,) * 5 + (setup.other,))
        world.say(f"another daemon leases {name!r} for {backend}")
        said = setup.value(home) if backend == setup.backend else setup.other_value(home)
        world.etcd.put(name, said, lease_id=world.etcd.grant(TTL_S * 100))
    elif (spec.read_value(there.value) or (0,))[0] & 255 >= OTHERS:
        _change_peer(world, there, third)


def _change_peer(world: "World", there: Record, third: int) -> None:
    setup, home = world.setup, world.setup.home(OTHERS + third)
    what = world.rng.choice(("leaves", "moves", "moves unseen", "leaves unseen", "splits", "changes backend"))
    world.say(f"another daemon {what}: {there.name!r}")
    moved = setup.value(f"192.168.14.{OTHERS + 100 + third}")
    world.etcd.silent = "unseen" in what
    if what.startswith("leaves"):
        world.etcd.delete(there.name)
    elif what.startswith("moves"):
        world.etcd.put(there.name, moved, lease_id=there.lease_id)
    elif what == "splits":
        world.etcd.delete(there.name)
        for last in (0, 128):
            world.etcd.put(b"192.168.%d.%d-25" % (third, last), moved, lease_id=there.lease_id)
    else:
        was_ours = b'"%s"' % setup.backend.encode() in there.value
        said = setup.other_value(home) if was_ours else setup.value(home)
        world.etcd.put(there.name, said, lease_id=there.lease_id)
    world.etcd.silent = False


def touch_route(world: "World") -> None:
    """Delete or change a route of ours, flush them all, or put a foreign one in the way."""
    node = world.some()
    ours = [route for route in node.kernel.table() if route.protocol == PROTOCOL]
    kinds = ("delete", "delete unseen", "delete early", "change", "flush", "foreign", "foreign", "beside")
    what = world.rng.choice(kinds)
    world.say(f"{node.name}: somebody's hand on the routes: {what}")
    if what == "flush":
        node.kernel.flush(PROTOCOL)
    elif what == "foreign":
        _put_foreign(world, node)
    elif what == "beside":
        _put_beside(world, node)
    elif ours:
        route = world.rng.choice(ours)
        if what == "delete":
            node.kernel.delete_route(route.dst, metric=route.metric)
        elif what == "delete unseen":
            node.kernel.lose_route(route.dst, metric=route.metric)
        elif what == "delete early":
            node.fib.lose_route_early(route.dst)
        else:
            node.kernel.add_foreign(replace(route, gateway=IPv4Address("192.168.14.251")))


def _put_foreign(world: "World", node: SimNode) -> None:
    """Put a static route where ours is, or will be."""
    dst = _some_destination(world)
    there = node.fib.standing(dst)
    if there is None or there.protocol == PROTOCOL:
        node.kernel.add_foreign(KernelRoute(dst, IPv4Address("192.168.14.250"), 2, PROTO_STATIC, 0, plain=True))


def _put_beside(world: "World", node: SimNode) -> None:
    """Put a route before or behind ours, or the place of ours: a static one, or one with our number."""
    kind = world.rng.choice((PROTO_STATIC, PROTOCOL))
    tos = world.rng.choice((0, 0, 16)) if kind == PROTOCOL else 0
    gateway = IPv4Address(f"192.168.14.{world.rng.choice((249, 250))}")
    route = KernelRoute(_some_destination(world), gateway, 2, kind, 0, plain=tos == 0, tos=tos)
    if route not in node.kernel.table():
        world.rng.choice((node.kernel.prepend, node.kernel.append))(route)


def fight(world: "World") -> None:
    """Have somebody delete a route of ours as often as it comes back, for half a minute."""
    node = world.some()
    ours = [route for route in node.kernel.table() if route.protocol == PROTOCOL and not route.blackhole]
    if not ours:
        return
    route, until_s = world.rng.choice(ours), asyncio.get_running_loop().time() + FIGHT_S
    world.say(f"{node.name}: somebody fights for {route.dst}")

    def again() -> None:
        there = [one for one in node.kernel.table() if one.dst == route.dst and one.protocol == PROTOCOL]
        for one in there:
            node.kernel.delete(one)
        if asyncio.get_running_loop().time() < until_s:
            asyncio.get_running_loop().call_later(0.2, again)

    again()


def touch_link(world: "World") -> None:
    """Take a link down or up, make it anew under another index, or let the events about it overrun."""
    node = world.some()
    link = _link(node)
    what = world.rng.choice(("down", "up", "anew", "overrun"))
    world.say(f"{node.name}: link {what}")
    if what == "anew":
        node.kernel.remove_link(link.name)
        node.kernel.set_link(replace(link, index=node.fib.next_index()))
        node.fib.touch(told=False)
        node.strangers = []
    elif what == "overrun":
        node.kernel.lose_events()
    else:
        node.kernel.set_link(replace(link, up=what == "up"))


def narrow(world: "World") -> None:
    """Choose a link that leads to nobody, or one that leads to all."""
    node = world.some()
    world.say(f"{node.name}: the network around its address comes or goes")
    node.narrow()


def bridge(world: "World") -> None:
    """Make a network on a host that holds peers' subnets, lies in one, or is one; or take it away."""
    node = world.some()
    if node.fib.has_link(BRIDGE):
        world.say(f"{node.name}: {BRIDGE} goes")
        node.kernel.remove_link(BRIDGE)
        return
    first, length = spec.network(str(_some_destination(world)))
    longer = world.rng.choice((-2, 0, 2))
    address = IPv4Interface((first | 1, length + longer))
    world.say(f"{node.name}: {BRIDGE} comes with {address}")
    node.kernel.set_link(Link(BRIDGE_INDEX, BRIDGE, 1500, True, (address,)))


def flush_rules(world: "World") -> None:
    """Have somebody remove the masquerading of a host as often as it comes back, for five minutes, or once; or keep the
    programs from putting it back meanwhile."""
    node = world.some()
    what, lasts_s = world.rng.choice((("flushed", 0.0), ("flushed for long", FLUSH_S), ("flushed and locked", FLUSH_S)))
    node.flushed_until_s = asyncio.get_running_loop().time() + lasts_s
    world.say(f"{node.name}: its firewall rules are {what}")
    node.firewall.broken = FirewallError("the lock is held") if what == "flushed and locked" else None

    def again() -> None:
        node.firewall.drop(*RULES)
        if asyncio.get_running_loop().time() < node.flushed_until_s:
            asyncio.get_running_loop().call_later(0.5, again)
        else:
            node.firewall.broken = None

    again()


def renumber(world: "World") -> None:
    """Give a host another address."""
    node = world.some()
    host = node.host + world.rng.choice((0, 30))
    world.say(f"{node.name}: address .{host}")
    node.has_address(host)
    node.kernel.set_link(replace(_link(node), addresses=(IPv4Interface(f"192.168.14.{host}/24"),)))


def lend_address(world: "World") -> None:
    """Give a host an address that others may have later, or take it away; it is before its own, or behind it."""
    node = world.some()
    length, first = world.rng.choice((24, 24, 32)), world.rng.random() < 0.5
    world.say(f"{node.name}: a virtual address /{length} comes {'first' if first else 'last'}, or goes")
    node.lend(length, first=first)


def lose_address(world: "World") -> None:
    """Take a host's own address away for a while, as when a DHCP lease runs out."""
    node = world.some()
    for_s, first = world.rng.choice((0.05, 1.0, 5.0, 30.0, 50.0, 90.0)), world.rng.random() < 0.5
    world.say(f"{node.name}: its own address is gone for {for_s} s")
    node.lose_address(for_s, first=first)


def refuse(world: "World") -> None:
    """Let the kernel refuse calls, interrupt a dump, or refuse a route."""
    node = world.some()
    what = world.rng.choice(("calls", "dump", "route"))
    world.say(f"{node.name}: refuses {what}")
    if what == "route":
        number = world.rng.choice((16, 12, 22, 105))  # EBUSY, ENOMEM, EINVAL, ENOBUFS
        dst = _some_destination(world)
        node.kernel.refuse(dst, number, times=3)
        there = node.fib.standing(dst)
        if there is not None and there.protocol == PROTOCOL:
            node.kernel.delete_route(dst)
    else:
        node.kernel.fail_calls(world.rng.randint(1, 3), "routes" if what == "dump" else "")


def spoil_disk(world: "World") -> None:
    """Fill a disk, or make room again; or let the process die while it writes."""
    node = world.some()
    disk = node.disk_file.disk
    step = world.rng.randrange(STEPS)
    if world.rng.random() < 0.5:
        disk.dies_at = step
    else:
        disk.full, disk.fails_at = (False, 0) if disk.full else (True, step)
    world.say(f"{node.name}: its disk is {'full' if disk.full else 'well'}, dies at {disk.dies_at}")
    _rewrite_file(node)


def _rewrite_file(node: SimNode) -> None:
    """Have the file written soon: the MTU of the link changes."""
    link = _link(node)
    node.kernel.set_link(replace(link, mtu=1400 if link.mtu == 1500 else 1500))


def _some_destination(world: "World") -> IPv4Network:
    """Return where a route is wanted, or may be soon; but not where the kernel has one of its own."""
    named = (spec.read_name(record.name) for record in world.etcd.records())
    subnets = [subnet for subnet in named if subnet is not None and not spec.overlap(subnet, spec.LAN)]
    return IPv4Network(world.rng.choice((*subnets, (spec.CLUSTER[0] + (world.rng.randint(1, 13) << 8), 24))))


def _link(node: SimNode) -> Link:
    return node.fib.lan_link()


def _some_record(world: "World") -> Record | None:
    records = world.etcd.records()
    return world.rng.choice(records) if records else None


def _name(first: int, length: int) -> bytes:
    """Return the name of a key."""
    octets = ".".join(str(first >> shift & 255) for shift in (24, 16, 8, 0))
    return f"{octets}-{length}".encode()


TROUBLES: tuple[Callable[["World"], None], ...] = (
    start_or_stop, freeze, hang, sleep_machine, lose_power, boot_in_outage, change_way, etcd_down, stray_member, elect,
    compact, back_up_or_restore, revoke, delete_keys, shorten, twin, put_junk, put_junk_beside, claim, take_over,
    reserve, other_peer, touch_route, touch_link, narrow, bridge, flush_rules, renumber, lend_address, lose_address,
    refuse, spoil_disk, fight,
)  # fmt: skip
