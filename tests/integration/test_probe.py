"""--probe on a real cluster: what a silent host, a missing bridge and a narrow path look like in the log."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.lab.testbed import Journal, gateways, launch
from tests.support.network.namespaces import namespace

pytestmark = [pytest.mark.etcd, pytest.mark.netns]

INTERVAL = "--probe-interval=5"
PING_FOR_ALL = "net.ipv4.ping_group_range=0 2147483647"
NOBODY = 65534


def probing(lab: Lab, node: LabHost, *, form: str) -> Journal:
    """Start a node's daemon anew, with probes in this form; return what it logs from then on."""
    node.stop()
    node.exec("sysctl", "-qw", PING_FOR_ALL if form == "icmp" else "net.ipv4.ping_group_range=1 0")
    journal = Journal(node)
    launch(node, "--probe", INTERVAL, v=1)
    node.wait_ready()
    journal.wait("probe.started", form=form, interval_s=5.0)
    node.wait_routes(lab.gateways_for(node))
    return journal


def test_what_is_told(make_lab: Callable[..., Lab]) -> None:
    """Nothing while all answer; then a bridge that is gone and a host that drops everything, and the end of each."""
    lab = make_lab(3)
    lab.up()
    near, far, other = lab.nodes
    journals = [probing(lab, near, form="icmp"), probing(lab, other, form="udp")]
    for journal in journals:
        journal.wait("probe.round_begun", 40, peers=2, mtu_known=2, targets_with_loss=0)
        assert not journal.events("probe.unanswered")
        assert 0 < journal.events("probe.round_begun", mtu_known=2)[0]["slowest_ms"] < 1000

    rows = json.loads(near.exec(sys.executable, "-m", "pyflanneld", "peers", "--output=json"))
    assert {row["subnet"]: row["probe"]["state"] for row in rows} == dict.fromkeys(lab.gateways_for(near), "reachable")
    assert "reachable, " in near.exec(sys.executable, "-m", "pyflanneld", "peers")

    far.exec("ip", "address", "del", "172.7.22.1/24", "dev", "docker0")
    for journal in journals:
        said = journal.wait("probe.unanswered", 40, state="subnet silent", peers=1)
        assert "192.168.14.22 answers probes, but 172.7.22.1 behind it does not" in said["condition"]
    far.exec("ip", "address", "add", "172.7.22.1/24", "dev", "docker0")
    for journal in journals:
        journal.wait("condition.resolved", 40, topic="probe")

    deaf = "chain in { type filter hook input priority 0; ip protocol { icmp, udp } drop; }"
    far.exec("nft", f"table ip deaf {{ {deaf}; }}")
    for journal, node in zip(journals, (near, other), strict=True):
        said = journal.wait("probe.unanswered", 60, state="silent")
        assert said["condition"] == "192.168.14.22, the host of 172.7.22.0/24, does not answer probes"
        assert node.ready()
        assert gateways(node) == lab.gateways_for(node), "probes change no route"
        journal.check()


def test_a_narrow_path(make_lab: Callable[..., Lab]) -> None:
    """A switch that loses large packets without a word is found out, with the size that gets through."""
    lab = make_lab(2)
    lab.up()
    near, _ = lab.nodes
    near.exec("ip", "link", "set", "eth1", "mtu", "584")  # not far above 576, so the search is short
    hole = "ip saddr 192.168.14.21 ip daddr 192.168.14.22 ip length > 580 drop"
    rule = f"table bridge hole {{ chain f {{ type filter hook forward priority 0; {hole}; }}; }}"
    subprocess.run(["ip", "netns", "exec", lab.lan, "nft", rule], check=True, timeout=20)
    journal = probing(lab, near, form="icmp")
    said = journal.wait("probe.unanswered", 100, state="mtu smaller")
    assert said["condition"] == (
        "packets to 192.168.14.22, the host of 172.7.22.0/24, get through up to 580 bytes only, "
        "but this host sends up to 584"
    )


def test_a_user_without_rights() -> None:
    """Neither form of probe needs a capability: they work for a user who has none."""
    code = (
        "import os, time; from ipaddress import IPv4Address; from pyflanneld.system.prober import HostProber\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "prober = HostProber(); print(prober.open()); prober.send(1, IPv4Address('127.0.0.1'), 60)\n"
        "found = []; end = time.monotonic() + 5\n"
        "while not found and time.monotonic() < end: found = prober.answers()\n"
        "print(type(found[0]).__name__, found[0].number)"
    )
    with namespace() as here:
        assert here.run(sys.executable, "-c", code).split() == ["udp", "ProbeReply", "1"]
        here.run("sysctl", "-qw", PING_FOR_ALL)
        assert here.run(sys.executable, "-c", code).split() == ["icmp", "ProbeReply", "1"]


def test_off_by_default(make_lab: Callable[..., Lab]) -> None:
    """Without the flag not one probe leaves the host."""
    lab = make_lab(2)
    lab.build()
    near = lab.nodes[0]
    watch = "ip protocol { icmp, udp } counter"
    near.exec("nft", f"table ip watch {{ chain out {{ type filter hook output priority 0; {watch}; }}; }}")
    lab.start()
    until(lambda: len(Journal.whole(near).events("daemon.ready")) == 1, "ready", 10)
    assert "packets 0 " in near.exec("nft", "list", "table", "ip", "watch")
    assert not Journal.whole(near).events("probe.started")
