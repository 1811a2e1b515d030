"""Many nodes at once, row F41 of the fault matrix, as real processes."""

import time
from collections.abc import Callable

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.lab.testbed import (
    Journal,
    gateways,
    launch,
    lease_key,
    lease_value,
    store_of,
    wait_answer,
    why_not_ready,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
NODES = 50


@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_f41_many_nodes_start_at_once(make_lab: Callable[..., Lab], measured: Measured) -> None:
    """All get a subnet of their own from an empty registry within 10 s of the configuration that they waited for: none
    overlaps, no etcd lease is left over, nobody fails, and each has a route to each other."""
    lab = make_lab(NODES)
    lab.build()
    store = store_of(lab)
    store.delete(f"{PREFIX}/config")
    for node in lab.nodes:
        node.subnet_file.unlink()
        launch(node)
    for node in lab.nodes:
        wait_answer(node, 120)
        until(lambda node=node: "no network configuration" in why_not_ready(node), f"{node.name} waits", 60, 0.05)
    began = time.monotonic()
    store.put(f"{PREFIX}/config", CONFIG)
    for node in lab.nodes:
        node.wait_ready(30)
    took = time.monotonic() - began
    subnets = {node.subnet for node in lab.nodes}
    assert len(subnets) == NODES
    kvs = store.kvs(f"{PREFIX}/subnets/")
    assert {key: kv.value for key, kv in kvs.items()} == {
        lease_key(node.subnet): lease_value(node.address.ip).encode() for node in lab.nodes
    }
    assert all(kv.version == 1 for kv in kvs.values())
    assert sorted(store.leases().values()) == sorted((key,) for key in kvs)
    for node in lab.nodes:
        until(lambda node=node: gateways(node) == lab.gateways_for(node), f"{node.name} has all routes", 30)
        Journal.whole(node).check()
    assert took < 10
    measured(f"{NODES} subnets in {took:.1f} s, {NODES} etcd leases, no failure")
