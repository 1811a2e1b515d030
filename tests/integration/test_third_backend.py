"""The third backend of the tests on a real kernel: entries on a bridge are put, repaired and swept."""

import json
import re

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.lab.testbed import launch, lease_key, leave_ready, store_of

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
PROGRAM, TYPE = "tests.support.bridge_backend", "bridge-neighbours"
SUBNET, FIRST, MAC, OTHER = "172.7.99.0/24", "172.7.99.1", "aa:bb:cc:00:00:99", "aa:bb:cc:00:00:98"


def entries(node: LabHost) -> dict[str, str]:
    shown = node.exec("ip", "neighbour", "show", "dev", "br0", "nud", "permanent")
    return dict(re.findall(r"^(\S+) lladdr (\S+) PERMANENT", shown, re.MULTILINE))


def lease(mac: str) -> str:
    return json.dumps({"PublicIP": "192.168.14.99", "BackendType": TYPE, "BackendData": {"Mac": mac}})


def test_a_backend_that_only_its_own_file_knows(cluster: Lab) -> None:
    """In a cluster whose configuration names it, one host runs it: start, change, repair, restart, sweep."""
    store, node = store_of(cluster), cluster.nodes[0]
    before = store.kvs(f"{PREFIX}/config")[f"{PREFIX}/config"].value
    for one in cluster.nodes:
        one.stop()
    node.exec("sh", "-c", "ip link add br0 type bridge; ip link set br0 up; ip address add 172.7.21.1/16 dev br0")
    node.exec("ip", "neighbour", "add", "172.7.98.1", "lladdr", MAC, "dev", "br0", "nud", "permanent")
    try:
        store.put(f"{PREFIX}/config", CONFIG.replace("host-gw", TYPE))
        store.put(lease_key(SUBNET), lease(MAC))
        launch(node, program=PROGRAM)
        node.wait_ready()
        until(lambda: entries(node) == {FIRST: MAC}, "the entry is put, and what was left of a former peer is gone")
        assert node.routes() == (), "and the routes of the former backend"
        store.put(lease_key(SUBNET), lease(OTHER))
        until(lambda: entries(node) == {FIRST: OTHER}, "the entry follows the lease")
        node.exec("ip", "neighbour", "del", FIRST, "dev", "br0")
        until(lambda: entries(node) == {FIRST: OTHER}, "the entry is repaired", 15)
        node.stop()
        assert entries(node) == {FIRST: OTHER}, "a stop removes nothing"
        store.delete(lease_key(SUBNET))
        launch(node, program=PROGRAM)
        node.wait_ready()
        until(lambda: entries(node) == {}, "the entry of the peer that has left meanwhile is swept")
    finally:
        node.stop()
        node.exec("ip", "link", "del", "br0")
        store.delete(lease_key(SUBNET))
        store.put(f"{PREFIX}/config", before)
    for one in cluster.nodes:
        one.start()
    leave_ready(cluster)
