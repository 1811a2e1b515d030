"""The checks of ``pyflanneld doctor`` on facts made up: what each verdict depends on."""

import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from pyflanneld.commands.doctor.checks import conflicts, docker, etcd, examine, host, peers
from pyflanneld.commands.doctor.collector import networkd_settings
from pyflanneld.commands.doctor.finding import Verdict, bad, delete_key, ok, quoted
from pyflanneld.commands.doctor.host_facts import (
    Certificate,
    DaemonFlags,
    Docker,
    Facts,
    FirewallFacts,
    HealthFacts,
    Networkd,
    NodeFacts,
)
from pyflanneld.commands.doctor.main import as_text
from pyflanneld.commands.output import Paint
from pyflanneld.core.etcd_types import MemberFault, MemberReport, Record, TimeToLive
from pyflanneld.core.host import ListeningSocket, PolicyRule, Process, ServedNetwork
from pyflanneld.core.lease.codec import SubnetKey
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import parse_config
from pyflanneld.core.objects.plan import Create, Plan
from pyflanneld.core.peers.table import View
from pyflanneld.core.routes import KernelRoute, Route

NETWORK = IPv4Network("172.7.0.0/16")
EVERYWHERE = IPv4Network("0.0.0.0/0")
OWN, PEER = IPv4Network("172.7.21.0/24"), IPv4Network("172.7.22.0/24")
ETH1 = Link(2, "eth1", 1500, True, (IPv4Interface("192.168.14.21/24"),))
URL = "http://192.168.14.12:2379"
FLAGS = DaemonFlags((URL,), "/net", "/run/flannel/subnet.env", 103, "docker0", False, True, 2401)
NODE = NodeFacts((NETWORK,), View({}, {}, frozenset(), frozenset()), Plan((), (), {}), frozenset(), SubnetKey(OWN))
FACTS = Facts(
    now_s=0.0, flags=FLAGS, members=(MemberReport(URL, version="3.5.23", skew_s=0.2, alarms=()),), links=(ETH1,),
    choice=Choice(ETH1, IPv4Address("192.168.14.21"), "named"), node=NODE,
    sysctls={"net/ipv4/ip_forward": "1", "net/ipv4/conf/eth1/forwarding": "1"},
    config=parse_config(b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'),
)  # fmt: skip
ENV = "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"


def test_a_check_without_its_facts_is_skipped_and_never_fails() -> None:
    """With nothing known but the question, every check answers."""
    found = examine(Facts(now_s=0.0, flags=FLAGS))
    assert len(found) >= 20
    assert {one.verdict for one in found} <= {Verdict.OK, Verdict.SKIPPED, Verdict.BAD}


def test_what_is_wrong_says_why_and_how_to_fix_it() -> None:
    """No finding that is a warning or bad lets the operator alone."""
    facts = Facts(now_s=0.0, flags=FLAGS, members=(MemberReport(URL, MemberFault.REFUSED),), choice_error="no")
    for one in examine(facts):
        if one.verdict in (Verdict.WARN, Verdict.BAD):
            assert one.why, one
            assert one.fix, one


@pytest.mark.parametrize("fault", list(MemberFault))
def test_each_fault_of_a_member_has_a_fix(fault: MemberFault) -> None:
    """Bad when nobody else serves, a warning when somebody does; always with how to fix it."""
    (one,) = etcd.members(replace(FACTS, members=(MemberReport(URL, fault, "words"),)))
    assert (one.verdict, one.seen) == (Verdict.BAD, f"{fault.value}: words")
    assert one.fix
    both = list(etcd.members(replace(FACTS, members=(MemberReport("http://b:1", fault), *FACTS.members))))
    assert [one.verdict for one in both] == [Verdict.WARN, Verdict.OK]


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("3.4.23", "warn"), ("3.4.38", "ok"), ("3.5.22", "warn"), ("3.5.23", "ok"), ("3.6.0", "ok"), ("3.3.10", "warn"),
        ("2.3.8", "warn"), ("3.5.0-rc.1", "warn"), ("", "skipped"),
    ],
)  # fmt: skip
def test_versions_of_etcd(version: str, verdict: str) -> None:
    """Older than the releases with the known fixes is a warning."""
    assert etcd.etcd_version(replace(FACTS, members=(MemberReport(URL, version=version),))).verdict.value == verdict


@pytest.mark.parametrize(
    ("span", "verdict", "words"),
    [
        ((-10, 400), "ok", "valid for 400 days"), ((-10, 20), "warn", "expires in 20 days"),
        ((-10, -3), "bad", "has expired 3 days ago"), ((5, 90), "bad", "is valid only in 5 days"),
    ],
)  # fmt: skip
def test_certificates(span: tuple[int, int], verdict: str, words: str) -> None:
    """Under 30 days is a warning; expired or not valid yet is bad."""
    file = Certificate("--etcd-certfile", "/a b.pem", ((span[0] * etcd.DAY_S, span[1] * etcd.DAY_S),))
    (one,) = etcd.certificates(replace(FACTS, certificates=(file,)))
    assert one.verdict.value == verdict
    assert words in one.seen
    assert verdict == "ok" or "'/a b.pem'" in one.fix


def test_one_of_several_authorities_that_expires() -> None:
    """A bundle of which one has expired and another has not is a warning."""
    file = Certificate("--etcd-cafile", "/ca", ((-9 * etcd.DAY_S, -etcd.DAY_S), (0.0, 900 * etcd.DAY_S)))
    (one,) = etcd.certificates(replace(FACTS, certificates=(file,)))
    assert (one.verdict, one.seen) == (Verdict.WARN, "/ca (one of 2) expired 24 hours ago")


def test_a_configuration_that_a_go_daemon_cannot_read() -> None:
    """It works here, so it is a warning, with the version, the member, and the command that tries a document."""
    good = b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
    assert etcd.configuration(replace(FACTS, config=parse_config(good))).verdict is Verdict.OK
    bad_document = good.replace(b"{", b'{"SubnetMax":null,', 1)
    one = etcd.configuration(replace(FACTS, config=parse_config(bad_document)))
    assert one.verdict is Verdict.WARN
    assert one.seen.startswith("/net/config: flanneld v0.11.0 and v0.28.9 cannot read SubnetMax: null should be")
    assert "config check" in one.fix


def test_clock() -> None:
    """Half a minute apart is a warning."""
    assert etcd.clock(FACTS).verdict is Verdict.OK
    one = etcd.clock(replace(FACTS, members=(MemberReport(URL, skew_s=-90.0),)))
    assert (one.verdict, one.seen) == (Verdict.WARN, f"90 s ahead of {URL}")


def test_reverse_path_filter() -> None:
    """Strict is a warning only where a second interface is on the same network."""
    strict = replace(FACTS, sysctls={"net/ipv4/conf/eth1/rp_filter": "1"})
    assert host.reverse_path(strict).verdict is Verdict.OK
    twin = Link(3, "eth2", 1500, True, (IPv4Interface("192.168.14.121/24"),))
    assert host.reverse_path(replace(strict, links=(ETH1, twin))).verdict is Verdict.WARN
    loose = {"net/ipv4/conf/eth1/rp_filter": "1", "net/ipv4/conf/all/rp_filter": "2"}
    assert host.reverse_path(replace(strict, links=(ETH1, twin), sysctls=loose)).verdict is Verdict.OK


def test_interface() -> None:
    """Down, or without the public address, is bad."""
    down = replace(ETH1, up=False)
    assert host.interface(replace(FACTS, choice=Choice(down, IPv4Address("192.168.14.21"), ""))).fix == (
        "ip link set eth1 up"
    )
    other = replace(FACTS, flags=replace(FLAGS, public_ip=IPv4Address("10.0.0.1")))
    assert host.interface(other).verdict is Verdict.BAD


DROP = "*filter\n:FORWARD DROP [0:0]\n{}COMMIT\n"
JUMP = (
    ":FLANNEL-FWD - [0:0]\n"
    '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD\n'
    "-A FLANNEL-FWD -j ACCEPT\n"
)
OURS, ANOTHERS = (JUMP.replace("FWD -j ACCEPT", f"FWD -s {net} -j ACCEPT") for net in ("172.7.0.0/16", "172.8.0.0/16"))


@pytest.mark.parametrize(
    ("rules", "runs", "asked", "verdict"),
    [
        ("", False, True, "ok"), ("", True, True, "bad"), ("", False, False, "bad"), (JUMP, True, True, "ok"),
        (OURS, True, True, "ok"), (ANOTHERS, True, True, "bad"),
        ("-A FORWARD -s 172.7.0.0/16 -j ACCEPT\n", False, False, "ok"),
    ],
)  # fmt: skip
def test_forward_policy(rules: str, runs: bool, asked: bool, verdict: str) -> None:
    """DROP is bad where no rule accepts and no daemon will set one."""
    facts = replace(
        FACTS, rules=FirewallFacts(DROP.format(rules)), daemon_runs=runs, flags=replace(FLAGS, forward_rules=asked)
    )
    assert host.forward_policy(facts).verdict.value == verdict


def test_chains_of_nft_that_drop() -> None:
    """Base chains at the hook forward whose policy is drop, but not iptables' own; junk is no listing."""
    listing = """{"nftables": [{"metainfo": {}},
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
        {"chain": {"family": "inet", "table": "fw", "name": "fwd", "hook": "forward", "policy": "drop"}},
        {"chain": {"family": "inet", "table": "fw", "name": "in", "hook": "input", "policy": "drop"}}]}"""
    assert host.dropping_chains(listing) == ("inet fw fwd",)
    with pytest.raises(ValueError, match="unexpected form"):
        host.dropping_chains("[]")


def test_networkd(tmp_path: Path) -> None:
    """Drop-ins are read in the order of their names, those of /etc first where two have one name."""
    assert networkd_settings(tmp_path) == Networkd(True, False, "")
    for folder, name, word in (
        ("etc/systemd", "networkd.conf", "yes"), ("usr/lib/systemd/networkd.conf.d", "50-a.conf", "yes"),
        ("etc/systemd/networkd.conf.d", "50-a.conf", "no"),
    ):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text(f"[Network]\n#ManageForeignRoutes=yes\nManageForeignRoutes={word}\n")
    found = networkd_settings(tmp_path)
    assert found == Networkd(True, True, str(tmp_path / "etc/systemd/networkd.conf.d/50-a.conf"))
    assert host.networkd(replace(FACTS, networkd=found)).verdict is Verdict.OK
    assert host.networkd(replace(FACTS, networkd=Networkd(True))).verdict is Verdict.WARN


@pytest.mark.parametrize(
    ("text", "runs", "verdict"),
    [
        (ENV, True, "ok"), (None, False, "ok"), (None, True, "bad"), (ENV.replace("21.1/24", "99.1/24"), True, "bad"),
        (ENV.replace("1500", "1450"), True, "warn"), ("junk", False, "bad"),
    ],
)  # fmt: skip
def test_subnet_file(text: str | None, runs: bool, verdict: str) -> None:
    """It has to be there when the daemon runs, and to say what the lease and the link say."""
    facts = replace(FACTS, subnet_text=text, daemon_runs=runs)
    assert docker.subnet_file(facts).verdict.value == verdict


def test_docker_version() -> None:
    """From 28 on it has to be told to let other hosts in."""
    facts = replace(FACTS, subnet_text=ENV)
    found = [
        docker.docker_version(replace(facts, docker=Docker(version, told))).verdict.value
        for version, told in (("", False), ("20.10.24", False), ("28.2.2", False), ("28.2.2", True))
    ]
    assert found == ["skipped", "ok", "warn", "ok"]


def test_bridge_mtu() -> None:
    """A bridge whose packets do not fit the LAN is a warning."""
    bridge = Link(5, "docker0", 9000, True, ())
    assert docker.bridge_mtu(replace(FACTS, links=(ETH1, bridge))).verdict is Verdict.WARN


def test_routes_that_are_missing() -> None:
    """Missing routes are bad once a daemon runs."""
    todo = Plan((Create(Route(PEER, IPv4Address("192.168.14.22"), 2)),), (), {})
    node = replace(NODE, todo=todo, desired=frozenset({PEER}))
    assert peers.routes(replace(FACTS, node=node)).verdict is Verdict.OK
    one = peers.routes(replace(FACTS, node=node, daemon_runs=True))
    assert (one.verdict, one.seen) == (Verdict.BAD, "0 of 1 peers have their route; missing: 172.7.22.0/24")


def test_foreign_routes() -> None:
    """The kernel's own and ours are not foreign, one that nobody asks for is a warning."""
    gateway = IPv4Address("192.168.14.9")
    routes = [KernelRoute(PEER, gateway, 2, protocol, 0, True) for protocol in (2, 103, 4)]
    (one,) = peers.foreign_routes(replace(FACTS, routes=tuple(routes)))
    assert (one.verdict, one.seen) == (Verdict.WARN, "172.7.22.0/24 via 192.168.14.9 dev eth1 proto static")


def test_lease() -> None:
    """A running daemon without a lease is bad, one whose lease runs out is a warning."""
    none = replace(NODE, own=None)
    assert peers.lease(replace(FACTS, node=none)).verdict is Verdict.OK
    assert peers.lease(replace(FACTS, node=none, daemon_runs=True)).verdict is Verdict.BAD
    assert peers.lease(FACTS).seen == "172.7.21.0/24, a reservation"


RECORD = Record(b"172.7.21.0-24", b'{"PublicIP":"192.168.14.21"}', 1, 1, 7)


@pytest.mark.parametrize(
    ("left", "shared", "runs", "seen", "cause"),
    [
        (TimeToLive(80_000, 86_400), (), True, "172.7.21.0/24, for 22.2 h", ""),
        (TimeToLive(1800, 86_400), (), True, "172.7.21.0/24, for 0.5 h", "it cannot reach etcd"),
        (TimeToLive(1800, 86_400), (), False, "172.7.21.0/24, for 0.5 h", ""),
        (TimeToLive(590, 600), (), True, "hangs on an etcd lease of 600 s, and not of 24 h", "lease.shortened"),
        (TimeToLive(590, 600), (), False, "172.7.21.0/24, for 0.2 h", ""),
        (TimeToLive(0, 0), (), True, "172.7.21.0/24, for 0.0 h", "it cannot reach etcd"),
        (
            TimeToLive(80_000, 86_400), (replace(RECORD, name=b"172.7.22.0-24"), replace(RECORD, name=b"x\n")), False,
            "172.7.21.0/24 hangs on one etcd lease with 172.7.22.0-24, x\\n", "whoever revokes it deletes all",
        ),
    ],
)  # fmt: skip
def test_why_the_lease_may_end(
    left: TimeToLive, shared: tuple[Record, ...], runs: bool, seen: str, cause: str
) -> None:
    """A short or a shared etcd lease is not taken for an etcd that cannot be reached, and a command ends it."""
    node = replace(NODE, own_record=RECORD, own_left=left, same_etcd_lease=shared)
    one = peers.lease(replace(FACTS, node=node, daemon_runs=runs))
    assert seen in one.seen
    assert (one.verdict is Verdict.WARN, cause in one.why) == (bool(cause), True)
    if "hangs on" in seen:
        assert one.fix == (
            f"ETCDCTL_API=3 etcdctl --endpoints={URL} put --lease=$(ETCDCTL_API=3 etcdctl --endpoints={URL} "
            "lease grant 86400 | cut -d' ' -f2) /net/subnets/172.7.21.0-24 '{\"PublicIP\":\"192.168.14.21\"}'"
        )


def test_start_script() -> None:
    """A shell between supervisor and the daemon is a warning that names the script."""
    script = Process(10, 1, "sh", ("/bin/sh", "/opt/flanneld.sh"), supervised=True)
    behind = Process(11, 10, "python3", ("python3", "-m", "pyflanneld"), supervised=True, leads=False)
    one = conflicts.start_script(replace(FACTS, processes=(script, behind)))
    assert one.verdict is Verdict.WARN
    assert "/opt/flanneld.sh" in one.fix
    assert conflicts.start_script(replace(FACTS, processes=(replace(behind, leads=True),))).verdict is Verdict.OK


def test_health_port() -> None:
    """Not ready is bad, in the daemon's own words; so is somebody else on the port."""
    listener = ListeningSocket("0.0.0.0:2401", Process(9, 1, "nginx"))
    taken = conflicts.health_port(replace(FACTS, health=HealthFacts(listener)))
    assert taken.seen == "0.0.0.0:2401 is in use by nginx (pid 9)"
    waits = HealthFacts(listener, False, "flanneld is not ready yet\nthe lease is gone")
    one = conflicts.health_port(replace(FACTS, health=waits, daemon_runs=True))
    assert (one.verdict, one.seen) == (Verdict.BAD, "flanneld is not ready yet / the lease is gone")


def test_a_port_that_another_daemon_has() -> None:
    """Only a warning for a health port that nobody asked for, and for that of the metrics; it names who has it."""
    other = Process(9, 1, "python", ("/opt/pyflanneld/bin/python", "-I", "-X", "faulthandler", "-m", "pyflanneld"))
    mine = replace(other, pid=8)
    health = HealthFacts(ListeningSocket("0.0.0.0:2401", other), True, "flanneld is ready")
    metrics = ListeningSocket("127.0.0.1:2402", other)
    flags = replace(FLAGS, healthz_asked=False, metrics_bind="127.0.0.1:2402")
    for runs in ({"daemon_runs": True, "daemon": mine}, {}):
        facts = replace(FACTS, flags=flags, health=health, metrics=metrics, **runs)
        one, two = conflicts.health_port(facts), conflicts.metrics_port(facts)
        assert (one.verdict, one.seen) == (Verdict.WARN, "0.0.0.0:2401 is in use by pyflanneld (pid 9)")
        assert "--healthz-port" in one.fix
        assert (two.verdict, two.seen) == (Verdict.WARN, "127.0.0.1:2402 is in use by pyflanneld (pid 9)")
        assert "--metrics-bind" in two.fix
    asked = replace(facts, flags=replace(flags, healthz_asked=True))
    assert conflicts.health_port(asked).verdict is Verdict.BAD
    own = replace(facts, daemon_runs=True, daemon=other)
    assert conflicts.health_port(own).seen == "the daemon reports that it is ready"
    assert conflicts.metrics_port(own).verdict is Verdict.OK


def test_other_daemons_of_the_host() -> None:
    """Those of other networks are listed; one whose network overlaps is bad, and both networks are named."""
    beside = ServedNetwork(IPv4Network("172.8.0.0/16"), 9)
    assert conflicts.networks(FACTS).verdict is Verdict.OK
    listed = conflicts.networks(replace(FACTS, served=(beside, ServedNetwork(IPv4Network("172.9.0.0/16"), 0)))).seen
    assert listed == (
        "172.8.0.0/16, which another pyflanneld (pid 9) serves on this host; "
        "172.9.0.0/16, which another pyflanneld serves on this host"
    )
    one = conflicts.networks(replace(FACTS, served=(beside, ServedNetwork(IPv4Network("172.0.0.0/12"), 10))))
    assert one.verdict is Verdict.BAD
    assert "172.7.0.0/16 overlaps 172.0.0.0/12, which another pyflanneld (pid 10) serves" in one.seen


def test_a_bridge_of_another_daemons_network() -> None:
    """Docker's bridge in another network of this host is bad only where the flag names it."""
    links = (ETH1, Link(3, "docker0", 1500, True, (IPv4Interface("172.8.21.1/24"),)))
    facts = replace(FACTS, links=links, served=(ServedNetwork(IPv4Network("172.8.0.0/16"), 9),))
    assert docker.bridge(facts).verdict is Verdict.BAD
    assert docker.bridge(replace(facts, flags=replace(FLAGS, docker_bridge_asked=False))).verdict is Verdict.SKIPPED
    elsewhere = replace(facts, served=(), flags=replace(FLAGS, docker_bridge_asked=False))
    assert docker.bridge(elsewhere).verdict is Verdict.BAD


@pytest.mark.parametrize(
    "word", [b"/a/b.c-1", b"it's", b"$(reboot); `x` \"y\"", b"a\nb", b"\xff\x01'\\", b"-x", b"", b"\x01f\x02a"]
)
def test_words_for_a_shell(word: bytes) -> None:
    """Whatever somebody has written into a key arrives as it is, and nothing of it is run."""
    script = f"{sys.executable} -c 'import os,sys; os.write(1, os.fsencode(sys.argv[1]))' {quoted(word)}"
    assert subprocess.run(["bash", "-c", script], capture_output=True, check=True, timeout=20).stdout == word


def test_the_command_that_deletes_a_key() -> None:
    """In the API in use, with the daemon's files; for a key that no command line carries, by the JSON gateway."""
    facts = replace(FACTS, flags=replace(FLAGS, credentials={3: ("--cacert=/a b",), 2: ()}))
    assert delete_key(facts, b"x y") == (
        f"ETCDCTL_API=3 etcdctl --endpoints={URL} '--cacert=/a b' del '/net/subnets/x y'"
    )
    assert delete_key(replace(facts, api=2), b"x") == f"ETCDCTL_API=2 etcdctl --endpoints={URL} rm /net/subnets/x"
    assert "/v3/kv/deleterange" in delete_key(facts, b"a\0b")


def test_the_text() -> None:
    """The worst first; what is well only on demand."""
    found = [ok("a", "fine"), bad("b", "broken", "because", "do this")]
    text = as_text(found, Paint(sys.stderr), whole=False)
    assert text.splitlines()[0] == "bad     b  broken"
    assert "fine" not in text
    assert "ok      a  fine" in as_text(found, Paint(sys.stderr), whole=True)


RULE = PolicyRule(100, 7, EVERYWHERE, EVERYWHERE, narrowed=False)
MAIN = PolicyRule(32766, 254, EVERYWHERE, EVERYWHERE, narrowed=False)


@pytest.mark.parametrize(
    ("rules", "verdict"),
    [
        ([MAIN], "ok"), ([RULE, MAIN], "warn"), ([MAIN, RULE], "ok"), ([replace(RULE, narrowed=True), MAIN], "warn"),
        ([replace(RULE, table=255), MAIN], "ok"), ([replace(MAIN, narrowed=True), RULE], "warn"),
        ([replace(RULE, destination=IPv4Network("10.99.0.0/16")), MAIN], "ok"),
    ],
)  # fmt: skip
def test_policy_rules(rules: list[PolicyRule], verdict: str) -> None:
    """What leads packets for the network to another table than main, and stands before it, is told."""
    assert host.policy_routing(replace(FACTS, policy_rules=tuple(rules))).verdict.value == verdict
