"""The backend vxlan on the real kernel: whole daemons, packets between pods, and the commands around them."""

import json
import re
from collections.abc import Callable

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.network import LabNetwork
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.lab.stream import Stream
from tests.support.lab.testbed import lease_key, store_of
from tests.support.lab.untouched import command, daemon_flags, untouched
from tests.support.lab.vxlan import link, mac, objects, pods_reach_each_other, published_mac, wanted

pytestmark = [pytest.mark.etcd, pytest.mark.netns]


def test_pods_reach_each_other_through_the_tunnels(make_lab: Callable[..., Lab]) -> None:
    """The device is flannel's in name, parameters and address; the lease, the file and the objects fit together."""
    lab = make_lab(3, backend="vxlan")
    lab.up()
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


def test_host_gw_beside_vxlan(make_lab: Callable[..., Lab]) -> None:
    """A network with plain routes and one with tunnels, on the same hosts, leave each other alone."""
    lab = make_lab(2, networks=2)
    lab.build()
    second = LabNetwork(2, backend="vxlan")
    lab.etcd.ctl("put", f"{second.prefix}/config", second.config)
    for daemon in lab.daemons:
        daemon.start("--ip-masq")
    for daemon in lab.daemons:
        daemon.wait_ready()
        daemon.attach_pod()
    plain, tunnelled = lab.daemons[1], lab.daemons[3]
    ways = {(plain.subnet, "eth1"), (tunnelled.subnet, "flannel.2")}
    until(lambda: ways <= {(route.dst, route.dev) for route in lab.nodes[0].routes()}, "both routes", 5)
    for number in (0, 2):
        pods_reach_each_other(lab.daemons[number : number + 2])


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


def test_a_peer_between_its_plain_route_and_the_tunnel_under_traffic(make_lab: Callable[..., Lab]) -> None:
    """The link's network shrinks, so that the peer is behind a router, and grows again: no packet is lost."""
    lab = make_lab(4, backend="vxlan", direct_routing=True)
    lab.up()
    node, _, router, peer = lab.nodes
    plain, way = {**lab.gateways_for(node)}, ("192.168.14.24", "via", "192.168.14.23", "dev", "eth1")
    node.exec("sysctl", "-qw", "net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.eth1.accept_redirects=0")
    router.exec("sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth1.send_redirects=0")
    node.exec("ip", "route", "add", "192.168.14.12", "dev", "eth1")  # etcd
    with Stream(node, peer) as stream:
        node.exec("ip", "route", "add", *way)
        node.exec("ip", "addr", "add", "192.168.14.21/30", "dev", "eth1")
        node.exec("ip", "addr", "del", "192.168.14.21/24", "dev", "eth1")
        node.wait_routes(plain | {peer.subnet: "172.7.24.0"})
        assert objects(node) == wanted(lab, node, [peer])
        node.exec("ip", "addr", "add", "192.168.14.21/24", "dev", "eth1")
        node.exec("ip", "addr", "del", "192.168.14.21/30", "dev", "eth1")
        node.wait_routes(plain)
        node.exec("ip", "route", "del", *way)
        until(lambda: objects(node) == wanted(lab, node, []), "nothing of the tunnel is left", 5)
    stream.check(0.5)
