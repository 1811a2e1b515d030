"""The checks of ``pyflanneld doctor`` for a network with vxlan, on facts made up."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from pyflanneld.commands.doctor.checks import conflicts, docker, examine, host, peers, vxlan
from pyflanneld.commands.doctor.collector import networkd_settings
from pyflanneld.commands.doctor.finding import Finding, Verdict
from pyflanneld.commands.doctor.host_facts import Facts, Networkd, NodeFacts
from pyflanneld.core.etcd_types import Record
from pyflanneld.core.host import Process, ServedNetwork
from pyflanneld.core.lease.codec import SubnetKey
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.link.vxlan import Vxlan
from pyflanneld.core.network.config import parse_config
from pyflanneld.core.objects.plan import Plan
from pyflanneld.core.peers.table import View
from pyflanneld.core.vxlan.device import Device
from tests.unit.test_doctor import ENV, FLAGS

NETWORK, OWN = IPv4Network("172.7.0.0/16"), IPv4Network("172.7.21.0/24")
ADDRESS = IPv4Address("192.168.14.21")
ETH1 = Link(2, "eth1", 1500, True, (IPv4Interface("192.168.14.21/24"),))
MAC = "aa:bb:cc:00:00:21"
TUNNEL = Vxlan(MAC, 1, 8472, 2, ADDRESS)
DEVICE = Device("flannel.1", TUNNEL, 1450, IPv4Interface("172.7.21.0/32"), NETWORK)
THERE = Link(3, "flannel.1", 1450, True, (IPv4Interface("172.7.21.0/32"),), vxlan=TUNNEL)
CONFIG = b'{"Network":"172.7.0.0/16","Backend":{"Type":"VxLAN"}}'
DIRECT = CONFIG.replace(b'"VxLAN"', b'"VxLAN","Directrouting":true')
LEASE = (
    b'{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"vxlan",'
    b'"BackendData":{"VNI":1,"VtepMAC":"aa:bb:cc:00:00:21"}}'
)
RECORD = Record(b"172.7.21.0-24", LEASE, 1, 1, 7)
NODE = NodeFacts(
    (NETWORK,), View({}, {}, frozenset(), frozenset()), Plan((), (), {}), frozenset(), SubnetKey(OWN), RECORD,
    devices=(DEVICE,), entries={"neighbours": (2, 2), "forwarding entries": (2, 2)},
)  # fmt: skip
FACTS = Facts(
    now_s=0.0, flags=FLAGS, links=(ETH1, THERE), choice=Choice(ETH1, ADDRESS, "named"), node=NODE, daemon_runs=True,
    config=parse_config(CONFIG),
)  # fmt: skip


def device(facts: Facts) -> Finding:
    (found,) = vxlan.devices(facts)
    return found


def with_device(there: Link | None) -> Facts:
    return replace(FACTS, links=(ETH1, there) if there is not None else (ETH1,))


def test_the_device_as_it_should_be() -> None:
    """It is told with all that two hosts have to agree on."""
    one = device(FACTS)
    assert (one.verdict, one.seen) == (
        Verdict.OK, "flannel.1, VNI 1, port 8472, MAC aa:bb:cc:00:00:21, MTU 1450, up"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("there", "seen"),
    [
        (None, "flannel.1 is not there"),
        (replace(THERE, up=False), "flannel.1: down"),
        (replace(THERE, mtu=1300), "flannel.1: MTU 1300 instead of 1450"),
        (replace(THERE, addresses=()), "flannel.1: without its address 172.7.21.0/32"),
        (replace(THERE, vxlan=replace(TUNNEL, port=4789)), "flannel.1: port 4789 instead of 8472"),
        (
            replace(THERE, vxlan=replace(TUNNEL, local=IPv4Address("10.0.0.1"))),
            "flannel.1: local address 10.0.0.1 instead of 192.168.14.21",
        ),
    ],
)
def test_a_device_that_is_not_as_it_should_be(there: Link | None, seen: str) -> None:
    """Bad while a daemon runs; before its start it is no news."""
    one = device(with_device(there))
    assert (one.verdict, one.seen) == (Verdict.BAD, seen)
    assert "daemon's log" in one.fix
    assert device(replace(with_device(there), daemon_runs=False)).verdict is Verdict.OK


def test_a_device_with_another_mac_address_than_the_lease() -> None:
    """The peers send to the one in the lease."""
    published = replace(RECORD, value=LEASE.replace(b"00:00:21", b"00:00:99"))
    one = device(replace(FACTS, node=replace(NODE, own_record=published)))
    assert one.seen == "flannel.1: MAC aa:bb:cc:00:00:21, but the lease says aa:bb:cc:00:00:99"
    without = replace(RECORD, value=b'{"PublicIP":"192.168.14.21","BackendType":"vxlan"}')
    assert device(replace(FACTS, node=replace(NODE, own_record=without))).seen.endswith("but the lease says none")


@pytest.mark.parametrize("runs", [True, False])
def test_something_else_in_the_way_of_the_device(runs: bool) -> None:
    """Whether or not a daemon runs, and with the command that takes it away."""
    other = Link(4, "vx0", 1450, True, (), vxlan=TUNNEL)
    one = device(replace(FACTS, links=(ETH1, other), daemon_runs=runs))
    assert (one.verdict, one.seen) == (Verdict.BAD, "vx0 has the VNI 1 on port 8472, and Linux allows that once")
    assert "ip link delete vx0" in one.fix


def test_a_daemon_of_before_a_change_of_the_backend() -> None:
    """It has no device to keep, and its file is the old one: a restart is what is needed, and nothing else is told."""
    earlier = replace(RECORD, value=b'{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"host-gw"}')
    node = replace(NODE, own_record=earlier, entries={"neighbours": (2, 0), "forwarding entries": (2, 0)})
    facts = replace(with_device(None), node=node, subnet_text=ENV)
    found = (*vxlan.devices(facts), vxlan.entries(facts), docker.subnet_file(facts), peers.backend(facts))
    wrong = [one for one in found if one.verdict in (Verdict.WARN, Verdict.BAD)]
    assert [one.seen for one in wrong] == ["the daemon still runs with host-gw, the network asks for vxlan"]
    assert peers.backend(replace(facts, daemon_runs=False)).verdict is Verdict.OK
    assert peers.backend(FACTS).verdict is Verdict.OK


def test_host_gw_needs_no_device() -> None:
    """Nothing is demanded there, and flannel's device is a leftover."""
    config = parse_config(CONFIG.replace(b"VxLAN", b"host-gw"))
    lease = replace(RECORD, value=b'{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"host-gw"}')
    facts = replace(FACTS, config=config, node=replace(NODE, own_record=lease, devices=(), entries={}))
    assert {one.check for one in examine(facts) if one.verdict is Verdict.SKIPPED} >= {
        "device", "UDP port", "tunnel entries", "device's owner"
    }  # fmt: skip
    assert conflicts.leftovers(facts).seen == "flannel.1 (flannel's vxlan)"
    not_restarted = replace(facts, node=replace(facts.node, own_record=RECORD) if facts.node else None)
    assert conflicts.leftovers(not_restarted).verdict is Verdict.OK


def test_our_own_device_is_no_leftover() -> None:
    """Nor one that may be ours, nor that of another daemon on this host."""
    assert conflicts.leftovers(FACTS).verdict is Verdict.OK
    assert conflicts.leftovers(replace(FACTS, node=None)).verdict is Verdict.OK
    beside = Link(9, "flannel.2", 1450, True, (IPv4Interface("172.8.3.0/32"),), vxlan=replace(TUNNEL, vni=2))
    facts = replace(FACTS, links=(ETH1, THERE, beside))
    assert conflicts.leftovers(facts).seen == "flannel.2 (flannel's vxlan)"
    served = (ServedNetwork(IPv4Network("172.8.0.0/16"), 9),)
    assert conflicts.leftovers(replace(facts, served=served)).verdict is Verdict.OK


def test_its_address_is_no_overlap() -> None:
    """Of an earlier lease either: the daemon puts it right."""
    earlier = replace(THERE, addresses=(IPv4Interface("172.7.99.0/32"),))
    (one,) = host.underlay(with_device(earlier))
    assert one.verdict is Verdict.OK


@pytest.mark.parametrize(("mtu", "verdict"), [(1450, "ok"), (1500, "warn"), (1400, "warn")])
def test_the_mtu_of_the_subnet_file(mtu: int, verdict: str) -> None:
    """It is the link's less what vxlan adds."""
    one = docker.subnet_file(replace(FACTS, subnet_text=ENV.replace("1500", str(mtu))))
    assert one.verdict.value == verdict
    if verdict == "warn":
        assert one.seen.endswith(f"says MTU {mtu}, but vxlan on eth1 has room for 1450")


def test_the_mtu_of_the_bridge() -> None:
    """A bridge with the link's own MTU sends packets that do not fit."""
    one = docker.bridge_mtu(replace(FACTS, links=(ETH1, THERE, Link(5, "docker0", 1500, True, ()))))
    assert (one.verdict, one.seen) == (Verdict.WARN, "docker0 has 1500, vxlan on eth1 has room for 1450")
    assert "--mtu=1450" in one.fix


def test_a_public_address_behind_nat() -> None:
    """It need not be on the interface."""
    facts = replace(FACTS, flags=replace(FLAGS, public_ip=IPv4Address("203.0.113.7")))
    assert host.interface(facts).verdict is Verdict.OK


def test_a_program_on_the_port() -> None:
    """It is named; with the device up, what holds the port is the kernel."""
    holder = Process(9, 1, "dnsmasq")
    one = vxlan.udp_port(replace(with_device(None), udp_holder=holder))
    assert (one.verdict, one.seen) == (Verdict.BAD, "8472 is in use by dnsmasq (pid 9)")
    assert vxlan.udp_port(replace(FACTS, udp_holder=holder)).verdict is Verdict.OK


def test_another_device_on_the_port() -> None:
    """Another VNI may be there; one with group policies may not."""
    other = Link(4, "vx0", 1450, True, (), vxlan=replace(TUNNEL, vni=7))
    assert vxlan.udp_port(replace(FACTS, links=(ETH1, THERE, other))).verdict is Verdict.OK
    gbp = replace(other, vxlan=replace(TUNNEL, vni=7, gbp=True))
    assert vxlan.udp_port(replace(FACTS, links=(ETH1, gbp))).seen == "vx0 has 8472 too, with GBP"


def test_entries_that_are_missing() -> None:
    """Bad while a daemon runs."""
    lacking = replace(NODE, entries={"neighbours": (2, 2), "forwarding entries": (2, 1)})
    one = vxlan.entries(replace(FACTS, node=lacking))
    assert (one.verdict, one.seen) == (Verdict.BAD, "2 of 2 neighbours, 1 of 2 forwarding entries")
    assert vxlan.entries(replace(FACTS, node=lacking, daemon_runs=False)).verdict is Verdict.OK
    assert vxlan.entries(FACTS).verdict is Verdict.OK


def test_without_its_device_nothing_is_said_of_routes() -> None:
    """Where none can be wanted, "0 of 0 peers have their route" says nothing."""
    for one in (peers.routes(with_device(None)), vxlan.entries(with_device(None))):
        assert (one.verdict, one.seen) == (Verdict.SKIPPED, "they wait for the device flannel.1")


@pytest.mark.parametrize(
    ("config", "sysctls", "verdict"),
    [
        (DIRECT, {"eth1": "1"}, "warn"), (DIRECT, {"flannel.1": "1"}, "warn"), (DIRECT, {"all": "1"}, "warn"),
        (DIRECT, {"all": "1", "eth1": "2", "flannel.1": "2"}, "ok"), (DIRECT, {}, "ok"), (CONFIG, {"all": "1"}, "ok"),
    ],
)  # fmt: skip
def test_a_strict_filter_with_direct_routing(config: bytes, sysctls: dict[str, str], verdict: str) -> None:
    """Two hosts may differ in who is direct, and the command sets what is strict."""
    known = {f"net/ipv4/conf/{name}/rp_filter": value for name, value in sysctls.items()}
    one = host.reverse_path(replace(FACTS, config=parse_config(config), sysctls=known))
    assert one.verdict.value == verdict
    if sysctls == {"all": "1"} and verdict == "warn":
        assert one.fix == "sysctl -w net.ipv4.conf.eth1.rp_filter=2; sysctl -w net/ipv4/conf/flannel.1/rp_filter=2"


def test_forwarding_on_the_device() -> None:
    """What comes through the tunnels is forwarded by the device's own setting."""
    known = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/flannel.1/forwarding": "0"}
    one = host.forwarding(replace(FACTS, sysctls=known))
    assert one.verdict is Verdict.BAD
    assert one.fix.startswith("sysctl -w net/ipv4/conf/flannel.1/forwarding=1 ")


def test_a_device_that_networkd_configures(tmp_path: Path) -> None:
    """By networkd's own notes of its links; one that it leaves alone is none."""
    folder = tmp_path / "run/systemd/netif/links"
    folder.mkdir(parents=True)
    for index, state in ((2, "configured"), (3, "unmanaged"), (4, "failed")):
        (folder / str(index)).write_text(f"# This is private data. Do not parse.\nADMIN_STATE={state}\n")
    known = networkd_settings(tmp_path)
    assert known.managed == {2, 4}
    assert vxlan.managed(replace(FACTS, networkd=known)).verdict is Verdict.OK
    one = vxlan.managed(replace(FACTS, networkd=Networkd(runs=True, managed=frozenset({3}))))
    assert (one.verdict, one.seen) == (Verdict.WARN, "systemd-networkd configures flannel.1")
    assert "/etc/systemd/network/00-flannel.network" in one.fix
