"""The backend vxlan: what others do to its device and entries, to the link below, and to the leases of the peers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.network import LabNetwork
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.lab.stream import Stream
from tests.support.lab.testbed import Journal, checked, lease_key, store_of, why_not_ready
from tests.support.lab.vxlan import (
    DEVICE,
    WHOLE_S,
    link,
    mac,
    objects,
    own_address,
    pods_reach_each_other,
    same,
    wanted,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]


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


DEVICE_BREAKS = {
    "deleted": "link del flannel.1",
    "down": "link set flannel.1 down",
    "address deleted": "addr del 172.7.21.0/32 dev flannel.1",
    "address changed": "addr change 172.7.21.77/32 dev flannel.1",
    "MAC address": "link set flannel.1 address 02:00:00:00:00:99",
    "MTU": "link set flannel.1 mtu 1300",
    "local": "link set flannel.1 type vxlan local 192.168.14.99 dev eth1",
    "learning": "link set flannel.1 type vxlan learning dev eth1",
}
ENTRY_BREAKS = {
    "neighbour deleted": "neigh del 172.7.22.0 dev flannel.1",
    "neighbour changed": "neigh replace 172.7.22.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent",
    "neighbours flushed": "neigh flush dev flannel.1 nud permanent",
    "neighbour of nobody": "neigh add 172.7.99.0 lladdr 02:00:00:00:00:98 dev flannel.1 nud permanent",
    "forwarding deleted": "fdb del {mac} dev flannel.1",
    "forwarding moved": "fdb replace {mac} dst 192.168.14.99 dev flannel.1 self permanent",
    "forwarding of nobody": "fdb add 02:00:00:00:00:98 dst 192.168.14.99 dev flannel.1 self permanent",
    "route deleted": "route del 172.7.22.0/24",
    "route changed": "route replace 172.7.22.0/24 via 192.168.14.22 dev eth1 proto 103",
    "routes flushed": "route flush proto 103",
}


def repaired_after(lab: Lab, command: str) -> float:
    """Return how long it takes until all is as it was, in seconds; pods reach each other then."""
    node, peer, _ = lab.nodes
    before, whole = link(node), wanted(lab, node)
    words = command.format(mac=mac(peer)).split()
    node.exec("bridge" if words[0] == "fdb" else "ip", *words)

    def repaired() -> bool:
        return objects(node) == whole and same(link(node), before) and own_address(node) == ["172.7.21.0"]

    took_s = until(repaired, f"repaired after: {command}", WHOLE_S, poll_s=0.005)
    node.wait_ready(5)
    node.pod_exec("ping", "-c1", "-W2", str(peer.pod_address))
    peer.pod_exec("ping", "-c1", "-W2", str(node.pod_address))
    return took_s


@pytest.mark.parametrize("what", DEVICE_BREAKS)
def test_f124_the_device_is_taken_or_bent(lab: Lab, what: str, measured: Measured) -> None:
    """Whatever others do to it: it is as it was, with the same MAC address, and every peer is reached again."""
    measured(f"{what}: within {1000 * repaired_after(lab, DEVICE_BREAKS[what]):.0f} ms")


@pytest.mark.parametrize("what", ENTRY_BREAKS)
def test_f125_an_entry_is_taken_or_bent(lab: Lab, what: str, measured: Measured) -> None:
    """What is missing is put, what leads elsewhere is put right, and what serves nobody goes."""
    measured(f"{what}: within {1000 * repaired_after(lab, ENTRY_BREAKS[what]):.0f} ms")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_f127_restarted_under_traffic(lab: Lab, number: signal.Signals, measured: Measured) -> None:
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
    measured(f"{number.name}: 0 of {stream.result['sent']} packets lost, no message")


def test_f128_a_peer_leaves_while_no_daemon_runs(lab: Lab, measured: Measured) -> None:
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
    measured("its neighbour, forwarding entry and route are gone; one of the same subnet on another link stays")


HOLDER = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 8472))
print("held", flush=True)
sys.stdin.read()
"""


def test_f126_another_program_has_the_port(make_lab: Callable[..., Lab], measured: Measured) -> None:
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
    took_s = node.wait_ready(15)
    assert link(node)["mtu"] == 1450
    measured(f"named; ready {took_s:.1f} s after the port is free")


@pytest.mark.parametrize("backends", [("host-gw", "vxlan"), ("vxlan", "host-gw")])
def test_f130_the_backend_changes_host_by_host(
    make_lab: Callable[..., Lab], backends: tuple[str, str], measured: Measured
) -> None:
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
    measured(f"{before} to {after}: 0 of {one.result['sent'] + other.result['sent']} packets lost")


def test_f131_the_link_below_goes_down_and_up(lab: Lab, measured: Measured) -> None:
    """The tunnels are as they were as soon as the link is."""
    node = lab.nodes[0]
    whole, was = wanted(lab, node), mac(node)
    node.exec("ip", "link", "set", "eth1", "down")
    until(lambda: "eth1 is down" in why_not_ready(node), "not ready")
    node.exec("ip", "link", "set", "eth1", "up")
    took_s = node.wait_ready(10)
    until(lambda: objects(node) == whole, "whole", WHOLE_S)
    assert mac(node) == was
    pods_reach_each_other(lab.nodes)
    measured(f"down and up: ready after {took_s:.1f} s")


def test_f131_the_link_below_is_made_anew(lab: Lab, measured: Measured) -> None:
    """The device goes with it, and is made again on the new one, with the same MAC address."""
    node = lab.nodes[0]
    whole, was = wanted(lab, node), mac(node)
    node.exec("ip", "link", "del", "eth1")
    until(lambda: "there is no interface" in why_not_ready(node), "not ready")
    topology.plug_in(lab.lan, node.namespace, node.address, node.name)
    took_s = node.wait_ready(20)
    until(lambda: objects(node) == whole, "whole", WHOLE_S)
    assert mac(node) == was
    pods_reach_each_other(lab.nodes)
    measured(f"made anew: ready after {took_s:.1f} s")


def test_f131_the_link_below_is_renumbered(make_lab: Callable[..., Lab], measured: Measured) -> None:
    """The device is changed in place, the lease says the new address, and the peers move their entry in one step."""
    lab = make_lab(2, backend="vxlan")
    lab.build()
    node, peer = lab.nodes
    node.start("--public-ip=")
    peer.start()
    for one in lab.nodes:
        one.wait_ready()
        one.attach_pod()
    until(lambda: objects(peer) == wanted(lab, peer), "whole", 5)
    was, index = mac(node), link(node)["ifindex"]
    node.exec("ip", "addr", "del", "192.168.14.21/24", "dev", "eth1")
    node.exec("ip", "addr", "add", "192.168.14.121/24", "dev", "eth1")
    moved = {was: "192.168.14.121"}
    took_s = until(lambda: objects(peer)["forwardings"] == moved, "the peer sends to the new address", 90)
    until(lambda: objects(node) == wanted(lab, node, [peer]), "whole", 15)
    node.wait_ready(15)
    assert (mac(node), link(node)["ifindex"]) == (was, index)
    pods_reach_each_other(lab.nodes)
    measured(f"renumbered: the peer sends to the new address after {took_s:.1f} s")


def test_f129_data_that_leads_nowhere(lab: Lab, measured: Measured) -> None:
    """Leases without a MAC address, with a group's, with this host's or an older peer's: nobody else notices."""
    node, peer, _ = lab.nodes
    store, whole, journal = store_of(lab), wanted(lab, node), Journal(node)
    macs = ["", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00", "zz", mac(node), mac(peer)]
    for number, one in enumerate(macs):
        data = f',"BackendData":{{"VNI":1,"VtepMAC":"{one}"}}' if one else ""
        value = f'{{"PublicIP":"192.168.14.{100 + number}","BackendType":"vxlan"{data}}}'
        store.put(lease_key(f"172.7.{100 + number}.0/24"), value)
    until(lambda: len(journal.events("peer.quarantined")) == len(macs), "all are quarantined", 5)
    assert objects(node) == whole
    pods_reach_each_other(lab.nodes)
    store.ctl("del", "--prefix", lease_key("172.7.10"))
    measured(f"{len(macs)} such leases are quarantined, no object of another peer is touched")


# Rows that host-gw has as well


def test_f65_vxlan_the_mtu_of_the_link_changes(lab: Lab, measured: Measured) -> None:
    """The device and the file follow, down and up again; Linux moves neither."""
    node = lab.nodes[0]
    for mtu in (1400, 1500):
        node.exec("ip", "link", "set", "eth1", "mtu", str(mtu))
        until(lambda mtu=mtu: link(node)["mtu"] == mtu - 50, "the device follows", WHOLE_S)
        until(lambda mtu=mtu: node.env()["FLANNEL_MTU"] == str(mtu - 50), "the file follows", WHOLE_S)
    assert objects(node) == wanted(lab, node)
    measured("with vxlan: device and file follow, 50 bytes below")


def test_f66_vxlan_the_link_flaps(lab: Lab, measured: Measured) -> None:
    """Ten times a second: all is whole soon after the last time, and the device is the same."""
    node = lab.nodes[0]
    whole, index = wanted(lab, node), link(node)["ifindex"]
    for _ in range(20):
        node.exec("ip", "link", "set", "eth1", "down")
        time.sleep(0.05)
        node.exec("ip", "link", "set", "eth1", "up")
        time.sleep(0.05)
    took_s = node.wait_ready(10)
    until(lambda: objects(node) == whole, "whole", WHOLE_S)
    assert link(node)["ifindex"] == index
    pods_reach_each_other(lab.nodes)
    measured(f"with vxlan: ready {took_s:.1f} s after the last flap, the same device")


@pytest.mark.parametrize("protocol", ["static", "boot"])
def test_f69_vxlan_a_foreign_route_where_ours_should_be(lab: Lab, protocol: str, measured: Measured) -> None:
    """It is left alone and told, hinders no other object, and ours comes once it has gone."""
    node, journal = lab.nodes[0], Journal(lab.nodes[0])
    subnet, foreign = "172.7.98.0/24", ("via", "192.168.14.12", "dev", "eth1", "proto", protocol)
    node.exec("ip", "route", "add", subnet, *foreign)
    data = ',"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:98"}'
    store_of(lab).put(lease_key(subnet), f'{{"PublicIP":"192.168.14.98","BackendType":"vxlan"{data}}}')
    journal.wait("route.conflict")
    assert objects(node)["forwardings"]["02:00:00:00:00:98"] == "192.168.14.98"
    assert subnet not in objects(node)["routes"]
    node.exec("ip", "route", "del", subnet, *foreign)
    took_s = until(lambda: objects(node)["routes"].get(subnet) == "172.7.98.0", "ours comes", WHOLE_S)
    store_of(lab).delete(lease_key(subnet))
    until(lambda: objects(node) == wanted(lab, node), "all of it goes", 5)
    measured(f"with vxlan, proto {protocol}: left alone, told; ours {1000 * took_s:.0f} ms after it has gone")


def test_f70_vxlan_a_thousand_leases_come_and_go(lab: Lab, measured: Measured) -> None:
    """All objects of each come, and all of them go when two more lists agree; the guard holds them until then."""
    node, store = lab.nodes[0], store_of(lab)
    puts, keys = [], []
    for number in range(1000):
        subnet = f"172.7.{128 + number // 16}.{number % 16 * 16}/28"
        octets = f"{number >> 8:02x}:{number & 255:02x}"
        value = {
            "PublicIP": f"192.168.{100 + (number >> 8)}.{1 + number % 250}", "BackendType": "vxlan",
            "BackendData": {"VNI": 1, "VtepMAC": f"02:00:00:01:{octets}"},
        }  # fmt: skip
        keys.append(lease_key(subnet))
        puts.append(f"put {json.dumps(keys[-1])} {json.dumps(json.dumps(value))}")
    store.txn(*puts)
    came_s = until(lambda: len(objects(node)["routes"]) == 1002, "all come", 15)
    assert {len(found) for found in objects(node).values()} == {1002}
    store.txn(*(f"del {json.dumps(key)}" for key in keys))
    gone_s = until(lambda: objects(node) == wanted(lab, node), "all go", 60)
    pods_reach_each_other(lab.nodes)
    measured(f"with vxlan: 3,000 objects come within {came_s:.1f} s, and go within {gone_s:.0f} s, guarded")


def test_f64_vxlan_the_link_is_renamed(lab: Lab, measured: Measured) -> None:
    """An interface of another name is not ours: said; all is whole as soon as it has its name again."""
    node, journal = lab.nodes[0], Journal(lab.nodes[0])
    whole, index = wanted(lab, node), link(node)["ifindex"]
    node.exec("sh", "-c", "ip link set eth1 down; ip link set eth1 name lan7; ip link set lan7 up")
    journal.wait("link.missing")
    node.exec("sh", "-c", "ip link set lan7 down; ip link set lan7 name eth1; ip link set eth1 up")
    took_s = node.wait_ready(10)
    until(lambda: objects(node) == whole, "whole", WHOLE_S)
    assert link(node)["ifindex"] == index
    measured(f"with vxlan: told; whole {took_s:.2f} s after it had its name again, the same device")


def test_f72_vxlan_more_notifications_than_anybody_can_hear(lab: Lab, measured: Measured) -> None:
    """Twenty thousand entries come and go on the device, faster than they are read: in the end all is whole."""
    node = lab.nodes[0]
    whole = wanted(lab, node)
    verbs = [
        f"neigh {verb} 172.7.{128 + number % 100}.{number % 250} dev {DEVICE}" + end
        for number in range(10_000)
        for verb, end in (("replace", " lladdr 02:00:00:00:00:97 nud permanent"), ("del", ""))
    ]
    command = ["ip", "-n", node.namespace, "-force", "-batch", "-"]
    subprocess.run(command, input="\n".join(verbs), text=True, capture_output=True, check=False, timeout=60)
    took_s = until(lambda: objects(node) == whole, "whole", 15)
    node.wait_ready(15)
    pods_reach_each_other(lab.nodes)
    measured(f"with vxlan: {len(verbs)} messages; whole {took_s:.1f} s after the last one")


@pytest.mark.parametrize("how", ["prepend", "append"])
def test_f86_vxlan_a_foreign_route_beside_ours(lab: Lab, how: str, measured: Measured) -> None:
    """The peer's tunnel becomes that of another host: the foreign route stays where it was, beside ours."""
    node, store, journal = lab.nodes[0], store_of(lab), Journal(lab.nodes[0])
    subnet, foreign = "172.7.99.0/24", ("via", "192.168.14.12", "proto", "static")

    def put(host: int) -> None:
        data = f',"BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{host}"}}'
        store.put(lease_key(subnet), f'{{"PublicIP":"192.168.14.{host}","BackendType":"vxlan"{data}}}')

    put(98)
    until(lambda: subnet in objects(node)["routes"], "it is there", WHOLE_S)
    node.exec("ip", "route", how, subnet, *foreign)
    if how == "prepend":
        assert subnet in journal.wait("route.shadowed")["destinations"]
    put(97)
    moved = {"02:00:00:00:00:97": "192.168.14.97"}
    took_s = until(lambda: objects(node)["forwardings"].items() >= moved.items(), "moved", WHOLE_S)
    assert "02:00:00:00:00:98" not in objects(node)["forwardings"]
    vias = re.findall(r"via (\S+)", node.exec("ip", "route", "show", subnet))
    assert vias == (["192.168.14.12", "172.7.99.0"] if how == "prepend" else ["172.7.99.0", "192.168.14.12"])
    store.delete(lease_key(subnet))
    until(lambda: objects(node) == wanted(lab, node), "all of ours goes", 5)
    assert re.findall(r"via (\S+)", node.exec("ip", "route", "show", subnet)) == ["192.168.14.12"]
    node.exec("ip", "route", "del", subnet)
    measured(f"with vxlan, {how}ed: stays; ours leads elsewhere within {took_s:.2f} s")


def test_f90_vxlan_a_fight_for_an_entry(lab: Lab, measured: Measured) -> None:
    """Somebody deletes it every tenth of a second: told, left alone for a while, and well once he has stopped."""
    node, peer, _ = lab.nodes
    whole, journal = wanted(lab, node), Journal(node)
    loop = f"while :; do bridge fdb del {mac(peer)} dev {DEVICE} 2>/dev/null; sleep 0.1; done"
    fighter = subprocess.Popen(["ip", "netns", "exec", node.namespace, "sh", "-c", loop])
    try:
        assert journal.wait("forwarding.contested", timeout_s=30)["dst"] == mac(peer)
        until(lambda: node.get("/readyz")[0] == 503, "not ready", 15)
    finally:
        fighter.kill()
        fighter.wait()
    took_s = until(lambda: objects(node) == whole, "whole", 60)
    node.wait_ready(120)
    measured(f"with vxlan: told; back {took_s:.0f} s after he has stopped")
