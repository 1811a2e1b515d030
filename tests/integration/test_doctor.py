"""``pyflanneld doctor`` in the lab: planted faults are found, named and explained, and nothing is touched."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.lab.planted import process_named
from tests.support.lab.testbed import PREFIX, lease_key, lease_value, pid_of, store_of
from tests.support.lab.untouched import command, daemon_flags, untouched

pytestmark = [pytest.mark.etcd, pytest.mark.netns]

Finding = dict[str, str]


def doctor(lab: Lab, node: LabHost, **changes: str) -> tuple[int, list[Finding]]:
    """Run the command and return its exit code and findings, having seen that it touches nothing."""
    with untouched(lab, node):
        done = command(node, "doctor", *daemon_flags(node, **changes), "--output=json")
    assert done.stderr == ""
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["well"] == (done.returncode == 0)
    return done.returncode, document["findings"]


def wrong(findings: list[Finding]) -> list[Finding]:
    """Return the findings that are no good news; the lab's etcd is an old one, which is told and does not count."""
    return [one for one in findings if one["verdict"] in ("warn", "bad") and one["check"] != "etcd version"]


def only(findings: list[Finding]) -> Finding:
    """Return the one that is wrong; it says why, and how to fix it."""
    (one,) = wrong(findings)
    assert one["why"]
    assert one["fix"]
    return one


@contextmanager
def planted(node: LabHost, *commands: str, undo: str) -> Iterator[None]:
    """Run shell commands on a host, and others at the end."""
    try:
        node.exec("sh", "-c", "; ".join(commands))
        yield
    finally:
        node.exec("sh", "-c", undo)


def test_a_cluster_that_is_well(cluster: Lab) -> None:
    """Nothing is wrong on a host of a healthy cluster; the old etcd of the lab is told as a warning."""
    code, findings = doctor(cluster, cluster.nodes[0])
    assert (code, wrong(findings)) == (0, [])
    seen = {one["check"]: one["seen"] for one in findings}
    assert seen["daemon"].endswith(f"(pid {pid_of(cluster.nodes[0])})")
    assert seen["routes"] == "2 of 2 peers have their route"
    assert seen["health port"] == "the daemon reports that it is ready"
    assert seen["Docker's bridge"] == "docker0 is on the leased 172.7.21.0/24"
    assert seen["lease"].startswith("172.7.21.0/24, for 2")
    assert {one["check"]: one["verdict"] for one in findings}["etcd version"] == "warn"


def test_before_the_first_start(site: Lab) -> None:
    """A host on which nothing runs yet is well."""
    code, findings = doctor(site, site.nodes[0])
    assert (code, wrong(findings)) == (0, [])


def test_a_junk_key(cluster: Lab) -> None:
    """A key that nobody can read is named, with the command that deletes it, which does."""
    node, store = cluster.nodes[0], store_of(cluster)
    store.put(lease_key("172.7.77.0/24") + "'; touch /x", "{}")
    code, findings = doctor(cluster, node)
    finding = only(findings)
    assert (code, finding["check"], finding["verdict"]) == (0, "keys", "warn")
    assert "172.7.77.0-24'; touch /x (bad_key)" in finding["seen"].replace("\\", "")
    node.exec("bash", "-c", finding["fix"].partition("if it is nobody's: ")[2])
    assert len(store.kvs(f"{PREFIX}/subnets")) == 3
    assert wrong(doctor(cluster, node)[1]) == []


def test_a_key_with_a_zero_byte_and_other_bytes(cluster: Lab) -> None:
    """Even a key that no command line can carry can be deleted by what is shown."""
    node, store = cluster.nodes[0], store_of(cluster)
    txn = "\n" + f'put "{PREFIX}/subnets/a\\x00b" "1"\nput "{PREFIX}/subnets/\\xff\\x01" "1"' + "\n\n\n"
    store.ctl("txn", stdin=txn.encode())
    assert len(store.kvs(f"{PREFIX}/subnets")) == 5
    for finding in wrong(doctor(cluster, node)[1]):
        node.exec("bash", "-c", finding["fix"].partition("if it is nobody's: ")[2])
    assert len(store.kvs(f"{PREFIX}/subnets")) == 3


def lease_finding(findings: list[Finding]) -> Finding:
    (one,) = (one for one in findings if one["check"] == "lease")
    return one


def test_a_key_on_a_shared_etcd_lease(cluster: Lab) -> None:
    """As a migration by hand leaves it: named with the keys beside it, and the command that is shown ends it."""
    node, other, store = *cluster.nodes[:2], store_of(cluster)
    key, lease = lease_key(node.subnet), store.grant(86400)
    for host in (node, other):
        store.put(lease_key(host.subnet), lease_value(host.address.ip), lease=lease)
    finding = only(doctor(cluster, node)[1])
    assert (finding["check"], finding["verdict"]) == ("lease", "warn")
    assert finding["seen"] == f"{node.subnet} hangs on one etcd lease with {other.subnet.replace('/', '-')}"
    assert "revokes" in finding["why"]
    node.exec("bash", "-c", finding["fix"])
    assert wrong(doctor(cluster, node)[1]) == []
    mine = store.kv(key)
    assert mine is not None
    assert (mine.lease != lease, store.ttl(mine.lease)[1]) == (True, 86400)
    assert node.get("/readyz")[0] == 200


def test_a_key_on_a_short_etcd_lease(cluster: Lab) -> None:
    """While the daemon has not put it back (it is stopped here), the etcd lease is the cause, not the way to etcd."""
    node, store = cluster.nodes[0], store_of(cluster)
    os.kill(pid_of(node), signal.SIGSTOP)
    try:
        store.put(lease_key(node.subnet), lease_value(node.address.ip), lease=store.grant(600))
        finding = lease_finding(doctor(cluster, node)[1])
        assert (finding["verdict"], finding["seen"]) == (
            "warn", f"{node.subnet} hangs on an etcd lease of 600 s, and not of 24 h"
        )  # fmt: skip
        assert "cannot reach etcd" not in finding["why"]
        node.exec("bash", "-c", finding["fix"])
        assert lease_finding(doctor(cluster, node)[1])["verdict"] == "ok"
    finally:
        os.kill(pid_of(node), signal.SIGCONT)
    until(lambda: node.get("/readyz")[0] == 200, "ready again", 15)


def test_a_peer_off_the_link(cluster: Lab) -> None:
    """A peer that is not on the common LAN is bad: its containers are not reached."""
    store = store_of(cluster)
    store.put(lease_key("172.7.60.0/24"), lease_value("10.99.0.1"))
    code, findings = doctor(cluster, cluster.nodes[0])
    finding = only(findings)
    assert (code, finding["check"], finding["verdict"]) == (1, "peers", "bad")
    assert "10.99.0.1 is no neighbour on the link" in finding["seen"]


def test_a_foreign_route_in_the_way(site: Lab) -> None:
    """It is named with who set it, and the command that shows is the one that removes it."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.22.0/24"), lease_value("192.168.14.22"))
    with planted(node, "ip route add 172.7.22.0/24 via 192.168.14.99 proto zebra", undo="ip route flush proto zebra"):
        code, findings = doctor(site, node)
        finding = only(findings)
        assert (code, finding["check"], finding["verdict"]) == (1, "foreign routes", "bad")
        assert finding["seen"] == "172.7.22.0/24 via 192.168.14.99 dev eth1 proto zebra"
        node.exec("sh", "-c", finding["fix"].partition("; then: ")[2])
    assert wrong(doctor(site, node)[1]) == []


def test_the_wrong_bridge(cluster: Lab) -> None:
    """Docker's bridge on another subnet than the leased one is bad."""
    node = cluster.nodes[0]
    add, undo = "ip address add 172.17.0.1/16 dev docker0", "ip address del 172.17.0.1/16 dev docker0"
    with planted(node, "ip address del 172.7.21.1/24 dev docker0", add, undo=undo):
        code, findings = doctor(cluster, node)
        finding = only(findings)
        assert (code, finding["check"]) == (1, "Docker's bridge")
        assert finding["seen"] == "docker0 has 172.17.0.1/16, the leased subnet is 172.7.21.0/24"
        node.exec("ip", "address", "add", "172.7.21.1/24", "dev", "docker0")


def test_no_forwarding(site: Lab) -> None:
    """A host that does not forward is bad, and the command that is shown mends it."""
    node = site.nodes[0]
    with planted(node, "sysctl -qw net.ipv4.ip_forward=0", undo="sysctl -qw net.ipv4.ip_forward=1"):
        code, findings = doctor(site, node)
        finding = only(findings)
        assert (code, finding["check"]) == (1, "forwarding")
        node.exec("sh", "-c", finding["fix"])
        assert wrong(doctor(site, node)[1]) == []


def test_etcd_down(cluster: Lab) -> None:
    """With etcd down that is what is wrong, and what does not need etcd is told all the same."""
    node = cluster.nodes[0]
    flags = daemon_flags(node, etcd_endpoints="http://192.168.14.12:1,http://192.168.14.250:2379,http://no.such.host:1")
    done = command(node, "doctor", *flags, "--output=json")
    findings = json.loads(done.stdout)["findings"]
    bad = {one["check"]: one["seen"] for one in findings if one["verdict"] == "bad"}
    assert bad["etcd http://192.168.14.12:1"].startswith("connection refused")
    assert bad["etcd http://192.168.14.250:2379"].startswith(("no answer in time", "there is no route to it"))
    assert bad["etcd http://no.such.host:1"].startswith("its name cannot be resolved")
    skipped = {one["check"] for one in findings if one["verdict"] == "skipped"}
    assert {"peers", "lease", "configuration"} <= skipped
    assert next(one for one in findings if one["check"] == "forwarding")["verdict"] == "ok"
    assert done.returncode == 1


def test_one_member_of_several(cluster: Lab) -> None:
    """One endpoint that fails while another serves is a warning that names it."""
    both = "http://192.168.14.12:2379,http://192.168.14.12:1"
    code, findings = doctor(cluster, cluster.nodes[0], etcd_endpoints=both)
    finding = next(one for one in wrong(findings) if one["check"].startswith("etcd"))
    assert (finding["check"], finding["verdict"]) == ("etcd http://192.168.14.12:1", "warn")
    assert code == 0


def test_others_that_run_here(site: Lab) -> None:
    """A Go flanneld, systemd-networkd, and a program on the health port are seen by their processes."""
    node = site.nodes[0]
    with process_named(node, "flanneld") as go, process_named(node, "systemd-network"):
        code, findings = doctor(site, node)
        assert {one["check"]: one["verdict"] for one in wrong(findings)} == {
            "daemon": "warn", "systemd-networkd": "warn",
        }  # fmt: skip
        assert f"flanneld (pid {go})" in wrong(findings)[0]["seen"]
        assert code == 0
    with process_named(node, "nginx", listen=2401) as pid:
        code, findings = doctor(site, node)
        assert (code, only(findings)["seen"]) == (1, f"0.0.0.0:2401 is in use by nginx (pid {pid})")


def test_policy_and_leftovers(site: Lab) -> None:
    """FORWARD dropped without accept rules, and what another container network has left."""
    node = site.nodes[0]
    with planted(
        node, "iptables -P FORWARD DROP", "iptables -N KUBE-FORWARD", "ip link add flannel.1 type bridge",
        undo="iptables -P FORWARD ACCEPT; iptables -X KUBE-FORWARD; ip link del flannel.1",
    ):  # fmt: skip
        code, findings = doctor(site, node, iptables_forward_rules="false")
    assert code == 1
    found = {one["check"]: (one["verdict"], one["seen"]) for one in wrong(findings)}
    assert found["FORWARD policy"] == ("bad", "DROP, and no accept rules for the network")
    assert found["other networks"] == ("warn", "flannel.1 (flannel's vxlan); chains of iptables: KUBE-FORWARD")


def test_the_file_and_the_lease_differ(cluster: Lab) -> None:
    """A subnet file that names another subnet than the lease is bad; a second lease of this address is a warning."""
    node, store = cluster.nodes[0], store_of(cluster)
    store.put(lease_key("172.7.99.0/24"), lease_value(node.address.ip))
    finding = next(one for one in wrong(doctor(cluster, node)[1]) if one["check"] == "public address")
    assert finding["seen"] == "is on another lease as well: 172.7.99.0-24"
    store.delete(lease_key("172.7.99.0/24"))
    before = node.subnet_file.read_text()
    node.stop()
    try:
        node.subnet_file.write_text(before.replace("172.7.21.1", "172.7.88.1"))
        code, findings = doctor(cluster, node)
        assert (code, only(findings)["seen"]) == (
            1, f"{node.subnet_file} names 172.7.88.0/24, but the lease is 172.7.21.0/24"
        )  # fmt: skip
    finally:
        node.subnet_file.write_text(before)


def test_for_people(cluster: Lab) -> None:
    """Only what is wrong is told, the worst first, each with why and how to fix it; --all tells the rest."""
    node, store = cluster.nodes[0], store_of(cluster)
    store.put(lease_key("172.7.60.0/24"), lease_value("10.99.0.1"))
    done = command(node, "doctor", *daemon_flags(node))
    lines = done.stdout.splitlines()
    assert lines[0].startswith("bad     peers         172.7.60.0-24 (gateway_off_link)")
    assert lines[1].startswith("        why   host-gw needs every host on one LAN")
    assert lines[2].startswith("        fix   ")
    assert lines[-1].endswith("--all shows everything")
    assert "ok      " not in done.stdout
    assert "\nok      " in command(node, "doctor", *daemon_flags(node), "--all").stdout


def test_a_rule_past_the_main_table(cluster: Lab) -> None:
    """A policy rule that leads packets for the network elsewhere is found, and the command shown mends it."""
    node = cluster.nodes[0]
    plant = "ip rule add from 172.7.0.0/16 lookup 100 priority 1000"
    with planted(node, plant, undo="ip rule flush; ip rule add lookup main; ip rule add lookup default"):
        code, findings = doctor(cluster, node)
        found = only(findings)
        assert (code, found["check"]) == (0, "policy rules")
        assert "rule 1000 (from 172.7.0.0/16 to 0.0.0.0/0 lookup 100)" in found["seen"]
        node.exec("sh", "-c", found["fix"])
        assert wrong(doctor(cluster, node)[1]) == []
