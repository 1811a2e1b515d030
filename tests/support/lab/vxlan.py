"""What a host with the backend vxlan has, and should have: its device, neighbours, forwarding entries and routes."""

import json
from collections.abc import Sequence
from itertools import permutations

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import attempt
from tests.support.lab.testbed import lease_key, store_of

DEVICE = "flannel.1"
WHOLE_S = 8.0  # a look at all objects takes a quarter of a second, and more beside other tests
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


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    names = ("address", "mtu", "linkinfo", "flags")
    return [one[name] for name in names] == [other[name] for name in names]


def own_address(node: LabHost) -> list[str]:
    found = json.loads(node.exec("ip", "-j", "-4", "addr", "show", DEVICE))
    return [one["local"] for entry in found for one in entry.get("addr_info", ())]
