"""A dual-stack cluster on a real etcd and real kernels: leases, routes, packets of both families, and a move to it."""

import json
import os
from collections.abc import Callable

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import run, until

pytestmark = [
    pytest.mark.netns,
    pytest.mark.etcd,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
CONFIG = {"Network": "172.7.0.0/16", "Backend": {"Type": "host-gw"}}
DUAL = {**CONFIG, "EnableIPv6": True, "IPv6Network": "2001:cafe:42::/56"}


def give_ipv6(node: LabHost, number: int) -> None:
    node.exec("ip", "address", "add", f"2001:db8::{number}/64", "dev", "eth1", "nodad")
    node.exec("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")


def routes6(node: LabHost) -> dict[str, str]:
    lines = json.loads(node.exec("ip", "-N", "-j", "-6", "route", "show", "proto", "103"))
    peers = [line for line in lines if "gateway" in line]
    assert all(line["metric"] == 1024 for line in peers)
    return {line["dst"]: line["gateway"] for line in peers}


def dock6(node: LabHost) -> str:
    """Put the first address of the IPv6 subnet on a bridge; return it."""
    address = node.env()["FLANNEL_IPV6_SUBNET"]
    node.exec("ip", "link", "add", "pods6", "type", "bridge")
    node.exec("ip", "link", "set", "pods6", "up")
    node.exec("ip", "address", "add", address, "dev", "pods6", "nodad")
    return address.partition("/")[0]


def test_packets_of_both_families_cross(make_lab: Callable[..., Lab]) -> None:
    """Two hosts lease both halves, route to each other by both, and repair a deleted IPv6 route."""
    lab = make_lab(2)
    lab.build()
    lab.etcdctl("put", "/coreos.com/network/config", json.dumps(DUAL))
    for number, node in enumerate(lab.nodes, 21):
        give_ipv6(node, number)
        node.start("--ip-blackhole-route")
    for node in lab.nodes:
        node.wait_ready()
    first = lab.nodes[0]
    ends = [dock6(node) for node in lab.nodes]
    second_subnet = ends[1].removesuffix("1") + "/64"
    until(lambda: routes6(first) == {second_subnet: "2001:db8::22"}, "the IPv6 route", 10)
    first.exec("ping", "-6", "-c", "3", "-i", "0.05", "-W", "2", "-I", ends[0], ends[1])
    first.exec("ip", "-6", "route", "delete", second_subnet)
    until(lambda: routes6(first) == {second_subnet: "2001:db8::22"}, "the IPv6 route again", 10)
    blackholes = first.exec("ip", "-6", "route", "show", "type", "blackhole")
    assert "metric 1000000" in blackholes
    keys = lab.etcdctl("get", "--prefix", "--keys-only", "/coreos.com/network/subnets/").split()
    assert all("&2001:cafe:42:" in key for key in keys)
    assert [node.stop() for node in lab.nodes] == [0, 0]


def test_a_cluster_moves_host_by_host(make_lab: Callable[..., Lab]) -> None:
    """While one host is dual-stack and the other is not yet, IPv4 goes on; the host that moves keeps its subnet."""
    lab = make_lab(2)
    lab.up()
    first, second = lab.nodes
    before = [node.subnet for node in lab.nodes]
    lab.etcdctl("put", "/coreos.com/network/config", json.dumps(DUAL))
    give_ipv6(first, 21)
    first.stop()
    first.start()
    first.wait_ready()
    assert first.env()["FLANNEL_IPV6_SUBNET"].startswith("2001:cafe:42:")
    assert [node.subnet for node in lab.nodes] == before
    second.wait_routes({before[0]: "192.168.14.21"})
    first.wait_routes({before[1]: "192.168.14.22"})
    run("ip", "netns", "exec", first.pod_namespace, "ping", "-c", "2", "-i", "0.1", "-W", "2", str(second.pod_address))
    assert routes6(first) == {}


@pytest.mark.parametrize("direct", [False, True])
def test_packets_of_both_families_cross_by_vxlan(make_lab: Callable[..., Lab], direct: bool) -> None:
    """Two hosts have a device for each family, and reach each other by both; an IPv6 route that is deleted is put."""
    lab = make_lab(2, backend="vxlan", direct_routing=direct)
    lab.build()
    backend = {"Type": "vxlan", "DirectRouting": direct}
    lab.etcdctl("put", "/coreos.com/network/config", json.dumps({**DUAL, "Backend": backend}))
    for number, node in enumerate(lab.nodes, 21):
        give_ipv6(node, number)
        node.start()
    for node in lab.nodes:
        node.wait_ready()
    first, second = lab.nodes
    ends = [dock6(node) for node in lab.nodes]
    subnet = ends[1].removesuffix("1")
    wanted = {f"{subnet}/64": "2001:db8::22" if direct else subnet}
    until(lambda: routes6(first) == wanted, "the IPv6 route", 10)
    first.exec("ping", "-6", "-c", "3", "-i", "0.05", "-W", "2", "-I", ends[0], ends[1])
    first.exec("ip", "-6", "route", "delete", f"{subnet}/64")
    until(lambda: routes6(first) == wanted, "the IPv6 route again", 10)
    first.exec("ping", "-6", "-c", "3", "-i", "0.05", "-W", "2", "-I", ends[0], ends[1])
    entries = first.exec("bridge", "fdb", "show", "dev", "flannel-v6.1")
    assert ("dst 2001:db8::22" in entries) is not direct
    assert {node.env()["FLANNEL_MTU"] for node in lab.nodes} == {"1430"}
    for node in lab.nodes:
        node.attach_pod()
    first.pod_exec("ping", "-c1", "-W2", str(second.pod_address))
