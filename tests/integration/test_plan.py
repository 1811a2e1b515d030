"""``pyflanneld plan`` in the lab: it says what the daemon then does, and touches nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.lab.planted import process_named
from tests.support.lab.testbed import PREFIX, gateways, lease_key, lease_value, pid_of, store_of
from tests.support.lab.untouched import command, daemon_flags, untouched

pytestmark = [pytest.mark.etcd, pytest.mark.netns]


def plan(lab: Lab, node: LabHost, *more: str, **changes: str) -> tuple[int, dict[str, Any]]:
    """Run the command and return its exit code and what it says, having seen that it touches nothing."""
    with untouched(lab, node):
        done = command(node, "plan", *daemon_flags(node, **changes), "--output=json", *more)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def acts(document: dict[str, Any], part: str) -> dict[str, str]:
    """Return what becomes of each thing of a part."""
    return {step["what"]: step["action"] for step in document["steps"] if step["part"] == part}


def test_before_any_daemon(site: Lab) -> None:
    """All that the first start does is said before it, peers' routes included; and then it is what happens."""
    node, other = site.nodes[:2]
    other.start()
    other.wait_ready()
    code, said = plan(site, node)
    assert code == 10
    assert acts(said, "interface") == {"eth1 (192.168.14.21, MTU 1500)": "keep"}
    assert acts(said, "lease") == {"172.7.21.0/24": "add"}
    assert acts(said, "subnet file") == {str(node.subnet_file): "keep"}
    assert acts(said, "route") == {"172.7.22.0/24 via 192.168.14.22 dev eth1": "add"}
    assert acts(said, "firewall") == {"forwarding in iptables": "add"}
    node.start()
    node.wait_ready()
    node.wait_routes({"172.7.22.0/24": "192.168.14.22"})
    assert node.subnet == "172.7.21.0/24"
    code, said = plan(site, node)
    assert (code, said["would_change"], said["starts"]) == (0, False, True)
    assert [t["text"] for t in said["problems"]] == [
        f"a pyflanneld (pid {pid_of(node)}) serves this etcd prefix and endpoints already: "
        "this is what its next start would do"
    ]


def test_without_key_and_file_the_saved_subnet_is_asked_for(site: Lab, tmp_path: Path) -> None:
    """A host was off for longer than its lease: etcd and /run know nothing of it, and its containers keep their
    addresses. Its saved state names the subnet; the plan says so, and then it is what happens."""
    node, store = site.nodes[0], store_of(site)
    node.start("--state-dir", str(tmp_path))
    node.wait_ready()
    until((tmp_path / "last-good.json").exists, "the state is saved")
    text = node.subnet_file.read_text()
    node.kill()
    store.delete(lease_key("172.7.21.0/24"))
    node.subnet_file.unlink()
    _, said = plan(site, node, f"--state-dir={tmp_path}")
    (lease,) = (step for step in said["steps"] if step["part"] == "lease")
    assert (lease["what"], lease["why"]) == ("172.7.21.0/24", "the saved state names it, and it is free")
    node.start("--state-dir", str(tmp_path))
    node.wait_ready()
    assert (node.subnet, node.subnet_file.read_text()) == ("172.7.21.0/24", text)
    assert list(store.kvs(f"{PREFIX}/subnets/")) == [lease_key("172.7.21.0/24")]


def test_a_configuration_that_a_go_daemon_cannot_read(site: Lab) -> None:
    """It is no obstacle here, and named with the version that would wait for ever."""
    document = '{"Network":"172.7.0.0/16","IPv6Network":null,"Backend":{"Type":"host-gw"}}'
    store_of(site).put(f"{PREFIX}/config", document)
    _, said = plan(site, site.nodes[0])
    assert said["starts"]
    (text,) = (problem["text"] for problem in said["problems"] if not problem["blocks"])
    assert text.startswith("flanneld v0.28.9 cannot read IPv6Network: null should be")


def test_boot_routes_of_a_go_daemon_are_adopted(site: Lab) -> None:
    """Exact leftovers of a Go flanneld are adopted, inexact ones are foreign and left; what is said then happens."""
    node, store = site.nodes[0], store_of(site)
    for subnet, peer in (("172.7.22.0/24", "192.168.14.22"), ("172.7.23.0/24", "192.168.14.23")):
        store.put(lease_key(subnet), lease_value(peer))
    node.exec("ip", "route", "add", "172.7.22.0/24", "via", "192.168.14.22", "dev", "eth1", "proto", "boot")
    node.exec("ip", "route", "add", "172.7.23.0/24", "via", "192.168.14.99", "dev", "eth1", "proto", "boot")
    try:
        code, said = plan(site, node)
        assert code == 10
        assert acts(said, "route") == {
            "172.7.22.0/24 via 192.168.14.22 dev eth1": "adopt",
            "172.7.23.0/24 via 192.168.14.23 dev eth1": "leave",
        }
        (step,) = (step for step in said["steps"] if step["action"] == "leave")
        assert step["why"] == "a foreign route is in the way, via 192.168.14.99 dev eth1 proto boot"
        node.start()
        node.wait_ready()
        assert gateways(node) == {"172.7.22.0/24": "192.168.14.22"}
        assert plan(site, node)[0] == 0, "what is left alone is no change"
    finally:
        node.exec("ip", "route", "flush", "proto", "boot", "root", "172.7.0.0/16")


def test_routes_of_ours_that_are_wrong_or_idle(site: Lab) -> None:
    """A route of ours with another gateway is changed, one that no lease asks for goes; one that is frozen stays."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.22.0/24"), lease_value("192.168.14.22"))
    store.put(lease_key("172.7.40.0/24"), "junk")
    for subnet, peer in (("172.7.22.0/24", 99), ("172.7.30.0/24", 30), ("172.7.40.0/24", 40)):
        node.exec("ip", "route", "add", subnet, "via", f"192.168.14.{peer}", "dev", "eth1", "proto", "103")
    code, said = plan(site, node)
    assert code == 10
    assert acts(said, "route") == {
        "172.7.22.0/24 via 192.168.14.22 dev eth1": "change",
        "172.7.30.0/24 via 192.168.14.30 dev eth1": "remove",
    }
    assert [t["text"] for t in said["problems"]] == [
        "the lease 172.7.40.0-24 is rejected (not_json): lease: b'junk' is not usable: "
        "a JSON object in UTF-8"
    ]


def test_a_peer_off_the_link_is_named(site: Lab) -> None:
    """A next hop that is not on the LAN gets no route, and the plan says which and why."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.60.0/24"), lease_value("10.99.0.1"))
    code, said = plan(site, node)
    assert code == 10
    assert acts(said, "route") == {}
    assert "gateway_off_link" in said["problems"][0]["text"]


def test_the_file_that_differs(site: Lab) -> None:
    """The lines of the subnet file that would be another are shown; a lease that is not ours is not wished for."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.21.0/24"), lease_value("192.168.14.77"))
    code, said = plan(site, node, "--ip-masq")
    assert code == 10
    (lease,) = (step for step in said["steps"] if step["part"] == "lease")
    assert (lease["what"], lease["action"]) == ("a free subnet", "add")
    assert "not 172.7.21.0/24, which the subnet file names: it overlaps 172.7.21.0/24, which is taken" in lease["why"]
    assert "one of 254 free subnets" in lease["why"]
    (file,) = (step for step in said["steps"] if step["part"] == "subnet file")
    assert file["action"] == "change"
    assert {"- FLANNEL_SUBNET=172.7.21.1/24", "+ FLANNEL_IPMASQ=true"} <= set(file["lines"])
    masquerading = next(step for step in said["steps"] if step["what"] == "masquerading in iptables")
    assert "*nat" in masquerading["lines"]


def test_a_reservation_and_a_lease_that_no_longer_fits(site: Lab) -> None:
    """A reservation of ours is kept; an own lease outside the network would be deleted and another one taken."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.50.0/24"), lease_value(node.address.ip))
    said = plan(site, node)[1]
    (step,) = (step for step in said["steps"] if step["part"] == "lease")
    assert (step["action"], step["what"]) == ("keep", "172.7.50.0/24")
    assert step["why"].startswith("this host's reservation")
    store.delete(lease_key("172.7.50.0/24"))
    store.put(lease_key("10.1.2.0/24"), lease_value(node.address.ip), lease=store.grant(600))
    said = plan(site, node)[1]
    assert acts(said, "lease") == {"10.1.2.0-24": "remove", "172.7.21.0/24": "add"}


def test_what_would_keep_it_from_starting(site: Lab) -> None:
    """No interface, no or a bad configuration, an exhausted network, etcd down: exit code 1, and the reason."""
    node, store = site.nodes[0], store_of(site)

    def why(**changes: str) -> str:
        code, said = plan(site, node, **changes)
        assert code == 1
        assert not said["starts"]
        (problem,) = (problem for problem in said["problems"] if problem["blocks"])
        return str(problem["text"])

    assert "there is no interface eth9" in why(iface="eth9")
    assert "is not an address of eth1" in why(public_ip="10.9.9.9")
    assert "192.168.14.12:1" in why(etcd_endpoints="http://192.168.14.12:1")
    store.put(lease_key("172.7.0.0/17"), "junk")
    store.put(lease_key("172.7.128.0/17"), "junk")
    assert "no free subnet left" in why()
    store.put("/coreos.com/network/config", '{"Network":"172.7.0.0/16","Backend":{"Type":"wireguard"}}')
    assert "'wireguard'" in why()
    store.put("/coreos.com/network/config", '{"Network":"172.7.0.0/99"}')
    assert "not usable" in why()
    store.delete("/coreos.com/network/config")
    assert "there is no network configuration in etcd" in why()


def test_beside_a_go_flanneld(site: Lab) -> None:
    """A process named flanneld and whoever has the health port are named; a Go flanneld's port blocks nothing."""
    node = site.nodes[0]
    for name, blocks in (("flanneld", False), ("nginx", True)):
        with process_named(node, name, listen=2401) as pid:
            code, said = plan(site, node)
        texts = [problem["text"] for problem in said["problems"]]
        assert f"the health port is in use by {name} (pid {pid})" in texts[-1]
        assert any("a Go flanneld runs here" in text for text in texts) != blocks
        assert code == (1 if blocks else 10)


def test_rules_of_an_earlier_flanneld_are_taken_over(site: Lab) -> None:
    """Plain rules of v0.11.0 are shown as the transaction that puts ours in their place."""
    node = site.nodes[0]
    for side in ("-s", "-d"):
        node.exec("iptables", "-A", "FORWARD", side, "172.7.0.0/16", "-j", "ACCEPT")
    said = plan(site, node)[1]
    (step,) = (step for step in said["steps"] if step["part"] == "firewall")
    assert step["action"] == "adopt"
    assert {"-D FORWARD -s 172.7.0.0/16 -j ACCEPT", "-D FORWARD -d 172.7.0.0/16 -j ACCEPT"} <= set(step["lines"])


def test_for_people(site: Lab) -> None:
    """The text has a line for each thing in columns, a summary at the end, and no colour where nobody would see it."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.22.0/24"), lease_value("192.168.14.22"))
    node.subnet_file.write_text(node.subnet_file.read_text().replace("MTU=1500", "MTU=1450"))
    with untouched(site, node):
        done = command(node, "plan", *daemon_flags(node))
    assert done.returncode == 10
    lines = done.stdout.splitlines()
    assert lines[0].startswith("interface    keep    eth1 (192.168.14.21, MTU 1500)  matches --iface=eth1")
    assert f"{'route':13}{'add':8}172.7.22.0/24 via 192.168.14.22 dev eth1" in lines
    assert f"{'':21}- FLANNEL_MTU=1450" in lines
    assert f"{'':21}+ FLANNEL_MTU=1500" in lines
    assert lines[-1] == "4 things would change"
    assert "\033" not in done.stdout
