"""Which subnet a node may take, rows F40, F42, F43, F45 and F49 of the fault matrix, against a real etcd."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from ipaddress import IPv4Network
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from pyflanneld.core.lease.codec import LeaseAttrs, encode_value, parse_key_name
from pyflanneld.core.lease.ownership import OwnLease
from pyflanneld.core.network.config import parse_config
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from pyflanneld.system.clock import SystemClock
from pyflanneld.tasks.lease.acquire import LeaseRequest, acquire
from tests.faults.conftest import Measured
from tests.support.etcd.participant import DUAL, JOINED, EtcdSide
from tests.support.etcd.server import Etcd, running_etcd
from tests.support.lab.testbed import Journal, gateways, launch, lease_key, lease_value, store_of, why_not_ready
from tests.support.network.namespaces import Namespace
from tests.support.polling import eventually

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER = "192.168.14.99"
NODES = 50
CROWD = 120
FORTY_NINE = b'{"Network":"172.7.0.0/16","SubnetMin":"172.7.1.0","SubnetMax":"172.7.49.0","Backend":{"Type":"host-gw"}}'


# F42: more nodes than subnets


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with running_etcd(tmp_path) as etcd:
        yield etcd


async def joined(side: EtcdSide) -> OwnLease:
    """Let a node take its lease, by the loop that the daemon has for that."""
    subnet_range = parse_config(FORTY_NINE).ipv4
    assert subnet_range is not None
    request = LeaseRequest(subnet_range, LeaseAttrs(side.address, "host-gw"), None, ())
    while (found := await acquire(side.context, request)) is None:
        pass
    return found[0]


@pytest.mark.parametrize(("document", "most_lists"), [(JOINED, 1.2), (DUAL, 2.5)], ids=["IPv4", "dual stack"])
async def test_f107_many_first_starts_at_once(
    etcd: Etcd, document: bytes, most_lists: float, measured: Measured
) -> None:
    """With no key in etcd all get a lease at once: each by one list or hardly more, and no etcd lease is left over."""
    registries = [EtcdV3Registry(EtcdAccess(etcd.endpoints, PREFIX), rng=Random(host)) for host in range(CROWD)]
    sides = [EtcdSide(one, SystemClock(), host=host + 2, rng=Random(host)) for host, one in enumerate(registries)]
    began = time.monotonic()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for side in sides:
            group.create_task(side.join(document))
    took_s = time.monotonic() - began
    listed = await registries[0].list_subnets()
    keys = [parse_key_name(record.name) for record in listed.records]
    assert len(keys) == CROWD
    for halves in zip(*(key.subnets for key in keys), strict=True):
        assert not any(one.overlaps(other) for one, other in pairwise(sorted(halves)))
    assert len({record.lease_id for record in listed.records}) == CROWD
    lists = sum(len(side.counted.listed_at) for side in sides)
    assert lists <= most_lists * CROWD
    for one in registries:
        await one.close()
    families = " and ".join(f"IPv{subnet.version}" for subnet in keys[0].subnets)
    measured(f"{CROWD} leases of {families} in {took_s:.1f} s, {lists / CROWD:.1f} lists each")


def waits(side: EtcdSide) -> bool:
    """Return whether a node has told that there is no subnet for it."""
    return any(problem.event == "lease.exhausted" for problem in side.context.conditions.open().values())


async def test_f42_one_node_more_than_subnets(etcd: Etcd, measured: Measured) -> None:
    """Fifty nodes and forty-nine subnets: all are taken, one node says that there is none, and gets the first freed
    within 5 s."""
    async with AsyncExitStack() as stack:
        sides = []
        for host in range(1, NODES + 1):
            registry = EtcdV3Registry(EtcdAccess(etcd.endpoints, PREFIX), rng=Random(host))
            stack.push_async_callback(registry.close)
            sides.append(EtcdSide(registry, SystemClock(), host=host, rng=Random(host)))
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = {side: group.create_task(joined(side)) for side in sides}
            await eventually(lambda: sum(task.done() for task in tasks.values()) == NODES - 1, 30)
            took_s = time.monotonic() - began
            [left] = [side for side, task in tasks.items() if not task.done()]
            await eventually(lambda: waits(left), 10)
            listed = await sides[0].context.registry.list_subnets()
            assert {parse_key_name(record.name).ipv4 for record in listed.records} == {
                IPv4Network(f"172.7.{number}.0/24") for number in range(1, NODES)
            }
            freed = listed.records[7]
            assert await sides[0].context.registry.delete_subnet(freed)
            began = time.monotonic()
            lease = await asyncio.wait_for(tasks[left], 15)
            waited_s = time.monotonic() - began
        assert lease.subnet == parse_key_name(freed.name).ipv4
        assert not left.context.conditions.open()
        assert waited_s < 5
        everything = await sides[0].context.registry.list_subnets()
    attrs = {record.value for record in everything.records}
    assert attrs == {encode_value(LeaseAttrs(side.address, "host-gw")) for side in sides} - {freed.value}
    assert len(etcd.ctl("lease", "list").splitlines()) - 1 == NODES  # the deleted key's lease runs out by itself
    measured(f"49 leases in {took_s:.1f} s; the one that waited has the freed subnet after {waited_s:.1f} s")


def test_f42_no_free_subnet(site: Lab, measured: Measured) -> None:
    """The daemon: it says so once, waits unready without a write, and takes the first subnet that becomes free within
    5 s."""
    node, store = site.nodes[0], store_of(site)
    store.put(f"{PREFIX}/config", '{"Network":"172.7.0.0/22","Backend":{"Type":"host-gw"}}')
    for number in (1, 2, 3):
        store.put(lease_key(f"172.7.{number}.0/24"), lease_value(f"192.168.14.{90 + number}"))
    held = store.kvs(f"{PREFIX}/subnets/")
    journal = Journal(node)
    launch(node)
    journal.wait("lease.exhausted", timeout_s=15)
    assert node.get("/readyz")[0] == 503
    assert "172.7.0.0/22 has no free subnet left" in why_not_ready(node)
    assert store.kvs(f"{PREFIX}/subnets/") == held
    store.delete(lease_key("172.7.2.0/24"))
    took_s = node.wait_ready(5.5)
    assert node.subnet == "172.7.2.0/24"
    assert len(journal.events("lease.exhausted")) == 1
    assert len(store.leases()) == 1
    measured(f"ready {took_s:.1f} s after the first subnet was freed")


def test_f42_network_made_larger(site: Lab, measured: Measured) -> None:
    """What the operator does about a full network helps the daemon that waits, without a restart."""
    node, store = site.nodes[0], store_of(site)
    store.put(f"{PREFIX}/config", '{"Network":"172.7.0.0/22","Backend":{"Type":"host-gw"}}')
    for number in (1, 2, 3):
        store.put(lease_key(f"172.7.{number}.0/24"), lease_value(f"192.168.14.{90 + number}"))
    journal = Journal(node)
    launch(node)
    journal.wait("lease.exhausted", timeout_s=15)
    store.put(f"{PREFIX}/config", CONFIG)
    took_s = node.wait_ready(8)
    assert node.subnet == str(node.bridge_address.network)
    assert node.env()["FLANNEL_NETWORK"] == "172.7.0.0/16"
    measured(f"ready {took_s:.1f} s after the network was made larger")


# F40: one address, two hosts


@contextmanager
def way_to_etcd(host: LabHost, lab: Lab) -> Iterator[str]:
    """Offer a laboratory's etcd on the loopback of a host of another one, with which it shares no wire."""
    listening = threading.Event()
    server: list[socket.socket] = []

    def listen() -> None:
        with Namespace(host.namespace).inside():
            server.append(socket.create_server(("127.0.0.1", 0)))
        listening.set()

    def serve() -> None:
        while True:
            try:
                near, _ = server[0].accept()
            except OSError:
                return
            far = topology.connect_namespaces(lab.etcd.namespace, "127.0.0.1", 2379, 5)
            far.settimeout(None)
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=pump, args=(source, target), daemon=True).start()

    threads = [threading.Thread(target=listen), threading.Thread(target=serve)]
    threads[0].start()
    listening.wait(10)
    threads[1].start()
    try:
        yield f"http://127.0.0.1:{server[0].getsockname()[1]}"
    finally:
        server[0].shutdown(socket.SHUT_RDWR)
        server[0].close()
        for thread in threads:
            thread.join(10)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Carry bytes until one end closes, and close both."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()


MARGIN_MIN = 1439  # of 1440: a renewal every minute


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_f40_two_hosts_with_one_address(cluster: Lab, make_lab: Callable[..., Lab], measured: Measured) -> None:
    """A clone of a host on another wire, with the same address, finds the same lease: both say so after two renewals by
    the other; the clone is not ready then, the first host and its peers notice nothing else."""
    first, peer, _ = cluster.nodes
    first.stop()
    store_of(cluster).delete(lease_key(first.subnet))
    launch(first, subnet_lease_renew_margin=MARGIN_MIN)
    first.wait_ready()
    peer.wait_routes(cluster.gateways_for(peer))
    elsewhere = make_lab(1)
    elsewhere.build()
    clone, kvs = elsewhere.nodes[0], store_of(cluster).kvs()
    assert clone.address == first.address
    journals = [Journal(first), Journal(clone)]
    with way_to_etcd(clone, cluster) as url, RouteMonitor(peer) as theirs, RouteMonitor(first) as ours:
        time.sleep(25)  # until some time between two renewals: those at one moment look like one
        began = time.monotonic()
        launch(clone, etcd_endpoints=url, subnet_lease_renew_margin=MARGIN_MIN)
        clone.wait_ready()
        assert clone.subnet == first.subnet
        for journal in journals:
            journal.wait("lease.shared", timeout_s=400)
        took_s = time.monotonic() - began
        until(lambda: "192.168.14.21" in why_not_ready(clone), "the clone is not ready")
        assert first.get("/readyz")[0] == 200
        assert store_of(cluster).kvs() == kvs
        assert ours.messages() == theirs.messages() == ()
        clone.kill()
    measured(f"told by both after {took_s:.0f} s, at a renewal a minute; the clone not ready, the first host untouched")


# F43: keys of other shapes


SHAPES = {
    "172.7.0.0-17": "172.7.0.0/17",
    "172.7.128.0-18": "172.7.128.0/18",
    "172.7.192.0-19": "172.7.192.0/19",
    "172.7.224.0-20": "172.7.224.0/20",
    "172.7.240.0-24&fd00:7:240::-64": "172.7.240.0/24",
    "172.7.241.128-25": "172.7.241.128/25",
    "172.7.242.64-28": "172.7.242.64/28",
    "172.7.243.4-30": "172.7.243.4/30",
    "172.7.244.0-22": "172.7.244.0/22",
    "172.7.248.0-24": "172.7.248.0/24",
    "172.7.250.0-23&fd00:7:250::-60": "172.7.250.0/23",
}


def test_f43_other_prefix_lengths_and_dual_stack_siblings(site: Lab, measured: Measured) -> None:
    """Keys of other lengths, dual-stack ones, and one with a broken value: nobody takes what overlaps any of them, and
    their keys stay as they are; what is no lease at all keeps nobody out."""
    store = store_of(site)
    for name in SHAPES:
        store.put(f"{PREFIX}/subnets/{name}", "junk" if name == "172.7.248.0-24" else lease_value(STRANGER))
    for name in ("0.0.0.0-0", "172.7.0.0-16", "172.0.0.0-8", "172.7.252.7-24", "172.7.253.0-33"):
        store.put(f"{PREFIX}/subnets/{name}", lease_value(STRANGER))
    before = store.kvs(f"{PREFIX}/subnets/")
    taken = [IPv4Network(subnet) for subnet in SHAPES.values()]
    journals = [Journal(node) for node in site.nodes]
    for node in site.nodes:
        launch(node)
    for node, journal in zip(site.nodes, journals, strict=True):
        node.wait_ready()
        assert "172.7.0.0/17" in journal.wait("lease.previous_refused")["why"]
        assert not any(IPv4Network(node.subnet).overlaps(other) for other in taken)
    assert len({node.subnet for node in site.nodes}) == len(site.nodes)
    after = store.kvs(f"{PREFIX}/subnets/")
    assert {key: after[key] for key in before} == before
    assert after.keys() - before.keys() == {lease_key(node.subnet) for node in site.nodes}
    measured(f"{len(site.nodes)} nodes between {len(taken)} keys of other shapes: no overlap")


# F45: a network that overlaps the LAN


EDGES = '"SubnetMin":"192.168.13.0","SubnetMax":"192.168.15.0"'
AROUND = f'{{"Network":"192.168.0.0/16",{EDGES},"Backend":{{"Type":"host-gw"}}}}'


def test_f45_network_around_the_lan(site: Lab, measured: Measured) -> None:
    """A network that contains the LAN, and with it etcd and every gateway: the LAN's own prefix is never leased, not
    even on request, nor routed for a peer; the others are used."""
    first, second, third = site.nodes
    store = store_of(site)
    store.put(f"{PREFIX}/config", AROUND)
    lan = first.exec("ip", "-N", "route", "show", "192.168.14.0/24")
    journals = {node.name: Journal(node) for node in site.nodes}
    for node in (first, second):
        node.subnet_file.write_text("FLANNEL_NETWORK=192.168.0.0/16\nFLANNEL_SUBNET=192.168.14.1/24\n")
        launch(node)
    for node in (first, second):
        node.wait_ready()
        assert "192.168.14.0/24" in journals[node.name].wait("lease.previous_refused")["why"]
    assert {first.subnet, second.subnet} == {"192.168.13.0/24", "192.168.15.0/24"}
    launch(third)
    journals[third.name].wait("lease.exhausted", timeout_s=15)
    names = ("192.168.14.0-24", "192.168.14.0-25", "192.168.12.0-22", "192.168.14.12-30", "192.168.0.0-17")
    for name in names:
        store.put(f"{PREFIX}/subnets/{name}", lease_value(STRANGER))
    store.put(lease_key("192.168.77.0/24"), lease_value(STRANGER))
    for node in (first, second):
        reasons = {journals[node.name].wait("peer.quarantined", key=name)["reason"] for name in names}
        assert reasons <= {"captures_address", "captures_network", "overlaps_own"}
        node.wait_routes(site.gateways_for(node, [first, second]) | {"192.168.77.0/24": STRANGER})
        assert node.exec("ip", "-N", "route", "show", "192.168.14.0/24").split("src")[0] == lan.split("src")[0]
    measured("the LAN's prefix is neither leased nor routed; its neighbours are")


def test_f45_network_inside_the_lan(site: Lab, measured: Measured) -> None:
    """Where every subnet holds the address of a host, nothing is leased and nothing routed; the reason is told, and
    another configuration helps."""
    node, store = site.nodes[0], store_of(site)
    only = '"SubnetLen":28,"SubnetMin":"192.168.14.16","SubnetMax":"192.168.14.16"'
    store.put(f"{PREFIX}/config", f'{{"Network":"192.168.14.0/24",{only},"Backend":{{"Type":"host-gw"}}}}')
    journal = Journal(node)
    launch(node)
    assert f"overlaps {node.address.ip}/32" in journal.wait("lease.exhausted", timeout_s=15)["condition"]
    assert node.get("/readyz")[0] == 503
    assert node.get("/healthz")[0] == 200
    assert store.kvs(f"{PREFIX}/subnets/") == {}
    assert store.leases() == {}
    assert gateways(node) == {}
    store.put(f"{PREFIX}/config", CONFIG)
    took_s = node.wait_ready(8)
    measured(f"refused with its reason; ready {took_s:.1f} s after it was corrected")


def test_f45_lan_wider_than_the_network(site: Lab, measured: Measured) -> None:
    """Hosts in a network that holds the cluster's: leases are taken beside the hosts' addresses, and routed; so is a
    subnet in which somebody makes a smaller network, of which only those addresses stay here."""
    first, second = site.nodes[:2]
    store, journals = store_of(site), {node: Journal(node) for node in (first, second)}
    store.put(f"{PREFIX}/config", '{"Network":"192.168.14.0/24","SubnetLen":27,"Backend":{"Type":"host-gw"}}')
    for node in (first, second):
        launch(node)
    for node in (first, second):
        node.wait_ready()
        node.wait_routes(site.gateways_for(node, [first, second]))
        assert "is a part of 192.168.14.0/24" in journals[node].wait("peer.shares_addresses")["condition"]
    pod, inner = second.subnet, IPv4Network(second.subnet)
    with RouteMonitor(first) as monitor:
        part = list(inner.subnets(new_prefix=28))[1]
        first.exec("ip", "link", "add", "br9", "type", "bridge")
        first.exec("ip", "address", "add", f"{part[1]}/28", "dev", "br9")
        first.exec("ip", "link", "set", "br9", "up")
        assert journals[first].wait("route.shadowed", timeout_s=15)["destinations"] == [pod]
        assert str(second.address.ip) in first.exec("ip", "route", "get", str(inner[1]))
        assert f"Deleted {pod}" not in {" ".join(message.text.split()[:2]) for message in monitor.messages()}
    first.exec("ip", "link", "del", "br9")
    assert first.get("/readyz")[0] == 200
    measured("leases beside the hosts' addresses, routed; a network made inside one takes no route away")


# F49: what subnet.env remembers


USELESS_FILES = [
    (b"\xff\xfe\x00\n", "subnet_file.ignored", "utf-8"),
    (b"FLANNEL_SUBNET=$(reboot)\n", "subnet_file.ignored", "FLANNEL_SUBNET"),
    (b"FLANNEL_SUBNET=10.9.8.1/24\n", "lease.previous_refused", "172.7.0.0/16"),
    (b"FLANNEL_SUBNET=172.7.44.1/24\n", "lease.previous_refused", "taken"),
    (b"FLANNEL_SUBNET=172.7.45.1/25\n", "lease.previous_refused", "may be leased"),
    (b"FLANNEL_SUBNET=172.7.0.0/16\n", "lease.previous_refused", "may be leased"),
]


@pytest.mark.parametrize("useless", [USELESS_FILES[:3], USELESS_FILES[3:]], ids=["garbage", "no choice"])
def test_f49_subnet_file_of_no_use(
    site: Lab, useless: list[tuple[bytes, str, str]], measured: Measured
) -> None:
    """A file that is garbage, of another network or length, or names a taken subnet is ignored with its reason, then
    replaced."""
    store, taken = store_of(site), lease_key("172.7.44.0/24")
    store.put(taken, lease_value(STRANGER))
    held = store.kv(taken)
    cases = list(zip(site.nodes, useless, strict=True))
    journals = [Journal(node) for node, _ in cases]
    for node, (text, _, _) in cases:
        node.subnet_file.write_bytes(text)
        launch(node)
    for (node, (_, event, why)), journal in zip(cases, journals, strict=True):
        node.wait_ready()
        assert why in journal.wait(event)["why"]
        assert node.env()["FLANNEL_NETWORK"] == "172.7.0.0/16"
        assert node.subnet.endswith(".0/24")
        assert node.subnet not in ("172.7.44.0/24", "10.9.8.0/24")
    assert store.kv(taken) == held
    measured("ignored with its reason, and written anew")
