"""The backend vxlan on the real kernel: whole daemons, packets between pods, and what others do to the devices."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.network import LabNetwork
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import attempt, until
from tests.support.lab.stream import Stream
from tests.support.lab.testbed import REPAIR_S, Journal, checked, lease_key, store_of, why_not_ready
from tests.support.lab.untouched import command, daemon_flags, untouched

pytestmark = [pytest.mark.etcd, pytest.mark.netns]

DEVICE = "flannel.1"


@pytest.fixture(scope="module")
def module_lab(no_dead_labs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:  # noqa: ARG001
    root = tmp_path_factory.mktemp("lab")
    with Lab(f"t{os.getpid()}-vxlan", 3, root, backend="vxlan") as lab:
        lab.up()
        yield lab


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """Three hosts with vxlan, ready, with their pods."""
    for node in module_lab.nodes:
        if node.process.pid() is None:
            node.start()
    for node in module_lab.nodes:
        node.wait_ready()
    until(lambda: all(objects(node) == wanted(module_lab, node) for node in module_lab.nodes), "whole", 15)
    with checked(module_lab.nodes):
        yield module_lab


Objects = dict[str, dict[str, str]]


def objects(node: LabHost, device: str = DEVICE) -> Objects:
    """Return the neighbours, forwarding entries and routes of a host's device; nothing where it is not there."""
    if attempt("ip", "-n", node.namespace, "link", "show", device).returncode:
        return {}
    neighbours = json.loads(node.exec("ip", "-j", "neigh", "show", "dev", device, "nud", "permanent"))
    entries = json.loads(node.exec("bridge", "-j", "fdb", "show", "dev", device))
    routes = json.loads(node.exec("ip", "-j", "route", "show", "dev", device))
    return {
        "neighbours": {one["dst"]: one["lladdr"] for one in neighbours},
        "forwardings": {one["mac"]: one["dst"] for one in entries},
        "routes": {one["dst"]: one["gateway"] for one in routes if "onlink" in one["flags"]},
    }


def mac(node: LabHost, device: str = DEVICE) -> str:
    return str(link(node, device)["address"])


def link(node: LabHost, device: str = DEVICE) -> dict[str, object]:
    found: dict[str, object] = json.loads(node.exec("ip", "-j", "-d", "link", "show", device))[0]
    return found


def wanted(lab: Lab, node: LabHost, others: Sequence[LabHost] | None = None) -> Objects:
    """Return what a host should have for the *others*, by default all."""
    peers = [one for one in lab.nodes if one is not node] if others is None else others
    first = {peer: peer.subnet.removesuffix("/24") for peer in peers}
    macs = {peer: published_mac(lab, peer) for peer in peers}
    return {
        "neighbours": {first[peer]: macs[peer] for peer in peers},
        "forwardings": {macs[peer]: str(peer.address.ip) for peer in peers},
        "routes": {peer.subnet: first[peer] for peer in peers},
    }


def published_mac(lab: Lab, node: LabHost) -> str:
    kv = store_of(lab).kv(lease_key(node.subnet))
    assert kv is not None
    return str(json.loads(kv.value)["BackendData"]["VtepMAC"])


def pods_reach_each_other(nodes: Sequence[LabHost]) -> None:
    for source, target in permutations(nodes, 2):
        source.pod_exec("ping", "-c1", "-W2", str(target.pod_address))


def test_pods_reach_each_other_through_the_tunnels(lab: Lab) -> None:
    """The device is flannel's in name, parameters and address; the lease, the file and the objects fit together."""
    node = lab.nodes[0]
    pods_reach_each_other(lab.nodes)
    found = link(node)
    assert (found["mtu"], found["operstate"]) == (1450, "UNKNOWN")
    info = found["linkinfo"]
    assert isinstance(info, dict)
    data = info["info_data"]
    shown = {name: data[name] for name in ("id", "local", "link", "port", "learning", "udp_csum")}
    assert shown == {
        "id": 1, "local": "192.168.14.21", "link": "eth1", "port": 8472, "learning": False, "udp_csum": True
    }  # fmt: skip
    assert node.env()["FLANNEL_MTU"] == "1450"
    assert published_mac(lab, node) == mac(node)
    value = store_of(lab).kvs(f"{PREFIX}/subnets/")[lease_key(node.subnet)].value
    assert value == (
        b'{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"%s"}}' % mac(node).encode()
    )


BREAKS = {
    "device deleted": "link del flannel.1",
    "device down": "link set flannel.1 down",
    "address deleted": "addr del 172.7.21.0/32 dev flannel.1",
    "address replaced": "addr change 172.7.21.77/32 dev flannel.1",
    "MAC address changed": "link set flannel.1 address 02:00:00:00:00:99",
    "MTU changed": "link set flannel.1 mtu 1300",
    "local changed": "link set flannel.1 type vxlan local 192.168.14.99 dev eth1",
    "learning switched on": "link set flannel.1 type vxlan learning dev eth1",
    "neighbour deleted": "neigh del 172.7.22.0 dev flannel.1",
    "neighbour changed": "neigh replace 172.7.22.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent",
    "neighbours flushed": "neigh flush dev flannel.1 nud permanent",
    "forwarding deleted": "fdb del {mac} dev flannel.1",
    "forwarding moved": "fdb replace {mac} dst 192.168.14.99 dev flannel.1 self permanent",
    "forwarding of nobody": "fdb add 02:00:00:00:00:98 dst 192.168.14.99 dev flannel.1 self permanent",
    "route deleted": "route del 172.7.22.0/24",
    "route changed": "route replace 172.7.22.0/24 via 192.168.14.22 dev eth1 proto 103",
    "routes flushed": "route flush proto 103",
    "stale leftovers": "neigh add 172.7.99.0 lladdr 02:00:00:00:00:98 dev flannel.1 nud permanent",
}


@pytest.mark.parametrize("what", BREAKS)
def test_it_is_repaired(lab: Lab, what: str) -> None:
    """Whatever others do to the device or its entries is put right, with the same MAC address, and pods reach on."""
    node, peer, _ = lab.nodes
    before, whole = link(node), wanted(lab, node)
    words = BREAKS[what].format(mac=mac(peer)).split()
    node.exec("bridge" if words[0] == "fdb" else "ip", *words)

    def repaired() -> bool:
        return objects(node) == whole and same(link(node), before) and own_address(node) == ["172.7.21.0"]

    until(repaired, f"repaired after: {what}", 11.0 if "routes flushed" in what else REPAIR_S)
    node.wait_ready(5)
    node.pod_exec("ping", "-c1", "-W2", str(peer.pod_address))
    peer.pod_exec("ping", "-c1", "-W2", str(node.pod_address))


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    names = ("address", "mtu", "linkinfo", "flags")
    return [one[name] for name in names] == [other[name] for name in names]


def own_address(node: LabHost) -> list[str]:
    found = json.loads(node.exec("ip", "-j", "-4", "addr", "show", DEVICE))
    return [one["local"] for entry in found for one in entry.get("addr_info", ())]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_sends_no_message_and_loses_no_packet(lab: Lab, number: signal.Signals) -> None:
    """What the run before has left is as wanted: nothing is written, and the MAC address is the same."""
    node, peer, _ = lab.nodes
    was = mac(node)
    with Stream(node, peer) as stream, RouteMonitor(node, "link", "address", "neigh") as monitor:
        node.stop(number)
        node.start()
        node.wait_ready()
        until(lambda: objects(node) == wanted(lab, node), "whole", 5)
        told = [message.text for message in monitor.messages()]
    stream.check(0.5)
    ours = [text for text in told if DEVICE in text or re.search(r"172\.7\.\d+\.0", text)]
    assert [text for text in ours if "fe80:" not in text and "pref medium" not in text] == []  # the kernel's own
    assert mac(node) == was


def test_peers_that_left_meanwhile_are_swept(lab: Lab) -> None:
    """Of one that left while no daemon ran, all three objects go; what is on other devices stays."""
    node, peer, other = lab.nodes
    node.stop()
    peer.stop()
    store_of(lab).delete(lease_key(peer.subnet))
    foreign = ("172.7.99.0", "lladdr", "02:00:00:00:00:77", "dev", "eth1", "nud", "permanent")
    node.exec("ip", "neigh", "add", *foreign)
    node.start()
    node.wait_ready()
    until(lambda: objects(node) == wanted(lab, node, [other]), "swept", 15)
    assert "02:00:00:00:00:77" in node.exec("ip", "neigh", "show", "dev", "eth1")


HOLDER = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 8472))
print("held", flush=True)
sys.stdin.read()
"""


def test_another_program_on_the_port_is_named_and_waited_for(make_lab: Callable[..., Lab]) -> None:
    """The daemon is not ready, says which port and how to find the program, and goes on once the port is free."""
    lab = make_lab(1, backend="vxlan")
    lab.build()
    (node,) = lab.nodes
    command = ["ip", "netns", "exec", node.namespace, sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        node.start()
        line = Journal.whole(node).wait("device.failed", timeout_s=15)
        assert "UDP port 8472" in str(line["condition"])
        until(lambda: "flannel.1" in why_not_ready(node), "it says why it is not ready")
        assert objects(node) == {}
        holder.stdin.close()
    node.wait_ready(15)
    assert link(node)["mtu"] == 1450


def test_two_segments_and_direct_routing(make_lab: Callable[..., Lab]) -> None:
    """Hosts on one LAN have a plain route to each other, those behind the router a tunnel; all pods reach all."""
    lab = make_lab(4, backend="vxlan", direct_routing=True, segments=2)
    lab.up()
    node, far, near, far_too = lab.nodes
    assert objects(node) == wanted(lab, node, [far, far_too])
    direct = [(route.dst, route.gateway, route.dev) for route in node.routes() if route.dev == "eth1"]
    assert direct == [(near.subnet, str(near.address.ip), "eth1")]
    pods_reach_each_other(lab.nodes)


def test_two_networks_on_each_host(make_lab: Callable[..., Lab]) -> None:
    """Two networks on each host, with a device of its own for each, leave each other alone."""
    lab = make_lab(2, networks=2, backend="vxlan")
    lab.up()
    first, second = lab.nodes[0], lab.daemons[2]
    assert objects(first, "flannel.1").keys() == objects(second, "flannel.2").keys()
    for number in (0, 2):
        pods_reach_each_other(lab.daemons[number : number + 2])
    names = re.findall(r"\d+: (flannel[^:]*):", first.exec("ip", "link"))
    assert sorted(names) == ["flannel.1", "flannel.2"]


def test_the_plan_and_then_nothing_is_left(make_lab: Callable[..., Lab]) -> None:
    """All that the first start does is said before it; cleanup takes all of it away, and what others have stays."""
    lab = make_lab(2, backend="vxlan")
    lab.build()
    node, other = lab.nodes
    other.start()
    other.wait_ready()
    code, said = plan(lab, node)
    assert code == 10
    assert ("route", "add", "172.7.22.0/24 via 172.7.22.0 dev flannel.1") in said
    assert ("entries", "add", "1 neighbour") in said
    assert ("entries", "add", "1 forwarding entry") in said
    node.start()
    node.wait_ready()
    until(lambda: objects(node) == wanted(lab, node), "whole", 5)
    shown = f"flannel.1 (VNI 1, UDP port 8472, MAC {mac(node)}, MTU 1450)"
    assert ("device", "add", shown) in said
    code, said = plan(lab, node)
    assert code == 0
    assert ("device", "keep", shown) in said
    assert ("entries", "keep", "1 forwarding entry") in said
    node.stop()
    node.exec(*["ip", "link", "add", "vxlan7", "type", "vxlan", "id", "7", "dev", "eth1", "dstport", "4789"])
    done = command(node, "cleanup", *daemon_flags(node))
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed device flannel.1" in done.stdout.splitlines()
    assert objects(node) == {}
    assert link(node, "vxlan7")["mtu"] == 1450
    assert command(node, "cleanup", *daemon_flags(node)).stdout == "there is nothing of ours here\n"


def plan(lab: Lab, node: LabHost) -> tuple[int, list[tuple[str, str, str]]]:
    """Run ``plan``, which touches nothing; return its exit code and its steps."""
    with untouched(lab, node):
        done = command(node, "plan", *daemon_flags(node), "--output=json")
    assert done.stderr == ""
    steps = json.loads(done.stdout)["steps"]
    return done.returncode, [(step["part"], step["action"], step["what"]) for step in steps]


@pytest.mark.parametrize("backends", [("host-gw", "vxlan"), ("vxlan", "host-gw")])
def test_a_cluster_changes_its_backend_host_by_host(make_lab: Callable[..., Lab], backends: tuple[str, str]) -> None:
    """Five hosts on one LAN, restarted one after the other: all are ready all the time, and no packet is lost."""
    before, after = backends
    direct = {backend: backend == "vxlan" for backend in backends}
    lab = make_lab(5, backend=before, direct_routing=direct[before])
    lab.up()
    config = LabNetwork(backend=after, direct_routing=direct[after]).config
    with Stream(lab.nodes[0], lab.nodes[4]) as one, Stream(lab.nodes[3], lab.nodes[1]) as other:
        lab.etcdctl("put", f"{PREFIX}/config", config)
        for node in lab.nodes:
            node.stop()
            node.start()
            node.wait_ready()
            node.wait_routes(lab.gateways_for(node))
            pods_reach_each_other([node, lab.nodes[2] if node is not lab.nodes[2] else lab.nodes[0]])
            assert all(peer.get("/readyz")[0] == 200 for peer in lab.nodes)
    one.check(1)
    other.check(1)
    pods_reach_each_other(lab.nodes)
