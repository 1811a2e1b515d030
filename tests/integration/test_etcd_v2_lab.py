"""Daemons on etcd's v2 API, in a laboratory: routes, a mixed cluster, and the migration to v3."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, ENDPOINT, PREFIX
from pyflanneld.lab.node import READY_TIMEOUT_S
from pyflanneld.lab.run import run, until
from tests.support.lab.untouched import command

pytestmark = [
    pytest.mark.netns,
    pytest.mark.etcd,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def etcdctl_2(lab: Lab, *words: str) -> str:
    """Run ``etcdctl`` for the v2 API, as the administrators of flannel v0.11.0 do."""
    return run("ip", "netns", "exec", lab.etcd.namespace, "env", "ETCDCTL_API=2", "etcdctl", *words)


def v2_leases(lab: Lab) -> dict[str, str]:
    keys = etcdctl_2(lab, "ls", f"{PREFIX}/subnets").split()
    return {key.rpartition("/")[2]: etcdctl_2(lab, "get", key).rstrip("\n") for key in keys}


def logged(lab: Lab, event: str) -> list[dict[str, Any]]:
    """Return the log entries of that name, of all nodes."""
    logs = [node.process.log for node in lab.nodes if node.process.log.exists()]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    return [entry for entry in entries if entry["event"] == event]


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Three nodes, not started, and a configuration in v2 alone."""
    laboratory = make_lab(3)
    laboratory.etcd.flags = ("--enable-v2=true",)
    laboratory.build()
    laboratory.etcd.ctl("del", f"{PREFIX}/config")
    etcdctl_2(laboratory, "set", f"{PREFIX}/config", CONFIG)
    return laboratory


def test_a_cluster_on_v2(lab: Lab) -> None:
    """Three daemons find the configuration in v2 and route to each other; keys and values are flannel v0.11.0's."""
    lab.start()
    assert [entry["api"] for entry in logged(lab, "registry.chosen")] == [2, 2, 2]
    assert v2_leases(lab) == {
        f"172.7.{host}.0-24": f'{{"PublicIP":"192.168.14.{host}","BackendType":"host-gw"}}' for host in (21, 22, 23)
    }
    assert lab.etcd.leases() == ()
    lab.nodes[0].pod_exec("ping", "-c1", "-W2", str(lab.nodes[1].pod_address))


def test_a_mixed_cluster(lab: Lab) -> None:
    """A lease written, renewed and deleted as flannel v0.11.0 does it is followed throughout."""
    lab.start()
    gateways = lab.gateways_for(lab.nodes[0])
    key = f"{PREFIX}/subnets/172.7.99.0-24"
    value = '{"PublicIP":"192.168.14.99","BackendType":"host-gw"}'
    etcdctl_2(lab, "set", "--ttl", "86400", key, value)
    lab.nodes[0].wait_routes(gateways | {"172.7.99.0/24": "192.168.14.99"})
    etcdctl_2(lab, "set", "--ttl", "86400", key, value)  # its renewal: a plain set
    etcdctl_2(lab, "set", "--ttl", "86400", key, value.replace(".99\"", ".98\""))
    lab.nodes[0].wait_routes(gateways | {"172.7.99.0/24": "192.168.14.98"})
    etcdctl_2(lab, "rm", key)
    lab.nodes[0].wait_routes(gateways)


def test_a_lease_taken_away(lab: Lab) -> None:
    """With ``--etcd-api=2`` alone: a lease that was deleted is taken again, the same subnet."""
    lab.nodes[0].start("--etcd-api=2")
    lab.nodes[0].wait_ready()
    etcdctl_2(lab, "rm", f"{PREFIX}/subnets/172.7.21.0-24")
    until(lambda: logged(lab, "lease.retaken"), "the lease is taken again", READY_TIMEOUT_S, poll_s=0.1)
    assert set(v2_leases(lab)) == {"172.7.21.0-24"}


def test_over_to_v3(lab: Lab) -> None:
    """After ``pyflanneld migrate`` each daemon that is restarted goes on in v3 with its subnet; no route is missing."""
    lab.start()
    before = {node.name: (node.subnet, lab.gateways_for(node)) for node in lab.nodes}
    output = run(
        "ip", "netns", "exec", lab.etcd.namespace, sys.executable, "-m", "pyflanneld", "migrate",
        "--etcd-endpoints", ENDPOINT,
    )
    assert "3 copied" in output
    for node in lab.nodes:
        assert node.stop() == 0
        node.start()
        node.wait_ready()
        for other in lab.nodes:
            other.wait_routes(before[other.name][1])
    assert {node.name: node.subnet for node in lab.nodes} == {name: subnet for name, (subnet, _) in before.items()}
    assert [entry["api"] for entry in logged(lab, "registry.chosen")] == [2, 3] * 3
    assert {lease.key.rpartition("/")[2]: lease.public_ip for lease in lab.etcd.leases()} == {
        f"172.7.{host}.0-24": f"192.168.14.{host}" for host in (21, 22, 23)
    }


def test_waits_on_both(lab: Lab) -> None:
    """Without any configuration a daemon waits, and starts by itself as soon as one of the APIs has one."""
    etcdctl_2(lab, "rm", f"{PREFIX}/config")
    node = lab.nodes[0]
    node.start()
    until(lambda: logged(lab, "config.missing"), "it reports that it waits", READY_TIMEOUT_S, poll_s=0.1)
    assert not node.ready()
    lab.etcd.ctl("put", f"{PREFIX}/config", CONFIG)
    node.wait_ready()
    assert [entry["api"] for entry in logged(lab, "registry.chosen")] == [3]


def test_two_networks_in_one_etcd(lab: Lab) -> None:
    """A configuration in both stores is two networks: v3 counts, and ``doctor`` reports the other one."""
    node = lab.nodes[0]

    def stores() -> dict[str, Any]:
        flags = (f"--etcd-endpoints={ENDPOINT}", f"--subnet-file={node.subnet_file}", "--iface=eth1")
        done = command(node, "doctor", "--output=json", *flags)
        findings = json.loads(done.stdout)["findings"]
        return next(one for one in findings if one["check"] == "etcd stores")

    assert stores()["verdict"] == "ok"
    lab.etcd.ctl("put", f"{PREFIX}/config", CONFIG)
    found = stores()
    assert (found["verdict"], found["fix"].count(f"etcdctl rm {PREFIX}/config")) == ("warn", 1)
