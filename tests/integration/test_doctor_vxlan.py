"""``pyflanneld doctor`` on hosts with vxlan: planted faults are named, and what it says to do mends them."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from pyflanneld.core.status.hints import hint
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.integration.test_doctor import doctor, only, planted, wrong
from tests.support.lab.testbed import pid_of, store_of
from tests.support.lab.untouched import command

pytestmark = [pytest.mark.etcd, pytest.mark.netns]

FLUSH_NFT = "nft delete table inet fw"
NFT = (
    "nft add table inet fw; nft add chain inet fw in '{ type filter hook input priority 0; policy drop; }'; "
    "nft add rule inet fw in ct state established,related accept; nft add rule inet fw in iifname lo accept"
)


@pytest.fixture(scope="module")
def lab(no_dead_labs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:  # noqa: ARG001
    """Three hosts with direct routing, of which the second is behind a router; nobody changes them for good."""
    root = tmp_path_factory.mktemp("lab")
    with Lab(f"t{os.getpid()}-vxdoctor", 3, root, backend="vxlan", direct_routing=True, segments=2) as lab:
        lab.up()
        yield lab


def ping(source: LabHost, target: LabHost) -> bool:
    return "1 received" in source.pod_exec("sh", "-c", f"ping -c1 -W1 {target.pod_address} || true")


def test_hosts_that_are_well(lab: Lab) -> None:
    """Nothing is wrong, on either side of the router; the device is told with what hosts have to agree on."""
    for node, peers in zip(lab.nodes[:2], (1, 2), strict=True):
        code, findings = doctor(lab, node)
        assert (code, wrong(findings)) == (0, [])
        seen = {one["check"]: one["seen"] for one in findings}
        assert seen["device"].startswith("flannel.1, VNI 1, port 8472, MAC ")
        assert seen["device"].endswith(", MTU 1450, up")
        assert seen["tunnel entries"] == f"{peers} of {peers} neighbours, {peers} of {peers} forwarding entries"
        assert seen["routes"] == "2 of 2 peers have their route"
        assert seen["MTU"] == "docker0 has 1450, vxlan on eth1 has room for 1450"
        assert seen["other networks"] == "no traces of another container network"


def test_a_strict_filter(lab: Lab) -> None:
    """With DirectRouting; the command that is shown mends it, for a device with a dot in its name too."""
    node = lab.nodes[0]
    names = "net/ipv4/conf/eth1/rp_filter", "net/ipv4/conf/flannel.1/rp_filter"
    plant, undo = ("; ".join(f"sysctl -qw {name}={value}" for name in names) for value in (1, 0))
    with planted(node, plant, undo=undo):
        finding = only(doctor(lab, node)[1])
        assert finding["seen"] == "strict on eth1 and flannel.1, and the network has DirectRouting"
        node.exec("sh", "-c", finding["fix"])
        assert wrong(doctor(lab, node)[1]) == []


@pytest.mark.parametrize(
    ("plant", "undo", "seen"),
    [
        ("iptables -P INPUT DROP; iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p tcp -j ACCEPT; "
         "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
         "iptables -P INPUT ACCEPT; iptables -F INPUT", "iptables, chain INPUT, drops UDP 8472 on eth1"),
        (NFT + "; nft add rule inet fw in meta l4proto tcp accept", FLUSH_NFT,
         "nft, chain inet fw in, drops UDP 8472 on eth1"),
    ],
    ids=["iptables", "nft"],
)  # fmt: skip
def test_a_firewall_that_drops_the_tunnels(lab: Lab, plant: str, undo: str, seen: str) -> None:
    """It is named, and once the rule that is shown is there, pods reach each other."""
    far, near = lab.nodes[1], lab.nodes[0]
    with planted(near, plant, undo=undo):
        assert not ping(far, near)
        finding = only(doctor(lab, near)[1])
        assert (finding["check"], finding["verdict"], finding["seen"]) == ("tunnel firewall", "warn", seen)
        near.exec("sh", "-c", finding["fix"])
        assert wrong(doctor(lab, near)[1]) == []
        assert ping(far, near)


def test_a_device_that_the_daemon_cannot_mend(lab: Lab) -> None:
    """While the daemon is stopped by a signal, everything that is wrong with device and entries is told."""
    node = lab.nodes[1]
    os.kill(pid_of(node), signal.SIGSTOP)
    try:
        node.exec("ip", "link", "set", "flannel.1", "mtu", "1300", "address", "02:00:00:00:00:99")
        code, findings = doctor(lab, node)
        found = {one["check"]: one["seen"] for one in wrong(findings)}
        assert code == 1
        seen = "flannel.1: MTU 1300 instead of 1450, MAC 02:00:00:00:00:99, but the lease says "
        assert found["device"].startswith(seen)
        assert found["tunnel entries"] == "0 of 2 neighbours, 2 of 2 forwarding entries"
        node.exec("ip", "link", "del", "flannel.1")
        found = {one["check"]: one["seen"] for one in wrong(doctor(lab, node)[1])}
        assert found["device"] == "flannel.1 is not there"
    finally:
        os.kill(pid_of(node), signal.SIGCONT)


def test_two_hosts_with_one_mac_address(lab: Lab) -> None:
    """As of a clone: the key is named, and after what the hint says both are reached again."""
    near, clone, other = lab.nodes[1], lab.nodes[0], lab.nodes[2]
    mac = json.loads(other.exec("ip", "-j", "link", "show", "flannel.1"))[0]["address"]
    clone.stop()
    clone.exec("ip", "link", "set", "flannel.1", "address", mac)
    clone.start()
    until(lambda: "same_as_older" in command(near, "peers").stdout, "quarantined")
    finding = only(doctor(lab, near)[1])
    assert (finding["check"], "same_as_older" in finding["seen"]) == ("keys", True)
    assert "ip link delete" in hint("peer.quarantined", "same_as_older")
    clone.stop()
    clone.exec("ip", "link", "delete", "flannel.1")
    clone.start()
    until(lambda: command(near, "peers").returncode == 0, "all routed")
    assert wrong(doctor(lab, near)[1]) == []
    assert ping(near, clone)
    assert ping(near, other)


def test_a_change_to_host_gw(lab: Lab) -> None:
    """Until the daemon's restart that is what is told; then its device is a leftover, and the command removes it."""
    node, store = lab.nodes[0], store_of(lab)
    before = store.kv(f"{PREFIX}/config")
    assert before is not None
    document = json.loads(before.value)
    try:
        store.put(f"{PREFIX}/config", json.dumps({**document, "Backend": {"Type": "host-gw"}}))
        seen = {one["check"]: one["seen"] for one in wrong(doctor(lab, node)[1])}
        assert seen["backend"] == "the daemon still runs with vxlan, the network asks for host-gw"
        assert "other networks" not in seen
        node.stop()
        node.start()
        until(lambda: "flannel.1" not in node.exec("ip", "route"), "restarted")
        found = {one["check"]: one for one in wrong(doctor(lab, node)[1])}
        assert found["other networks"]["seen"] == "flannel.1 (flannel's vxlan)"
        node.exec("sh", "-c", found["other networks"]["fix"].partition(": ")[2])
        assert "other networks" not in {one["check"] for one in wrong(doctor(lab, node)[1])}
    finally:
        store.put(f"{PREFIX}/config", before.value.decode())
        node.stop()
        node.start()
        node.wait_ready()
