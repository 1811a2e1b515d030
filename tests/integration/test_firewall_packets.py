"""Packets across a host that the daemon's rules stand on: who is masqueraded, who is let through, and never a gap."""

import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.fakes.node import CONFIG, FakeNode
from tests.support.network.firewall_host import (
    DUAL_CONFIG,
    DUAL_NFT_CONFIG,
    FORMS,
    HOST_IN_WORLD,
    HOST_IN_WORLD6,
    HOST_ON_LAN,
    HOST_ON_LAN6,
    NFT_CONFIG,
    PEER6,
    PEER_POD,
    PEER_POD6,
    POD,
    POD6,
    WORLD,
    WORLD6,
    Crossing,
    Way,
    crossing,
)
from tests.support.polling import eventually

pytestmark = pytest.mark.netns

V0_11_MASQUERADING = (
    "*nat",
    "-A POSTROUTING -s 172.7.0.0/16 -d 172.7.0.0/16 -j RETURN",
    "-A POSTROUTING -s 172.7.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
    "-A POSTROUTING ! -s 172.7.0.0/16 -d 172.7.21.0/24 -j RETURN",
    "-A POSTROUTING ! -s 172.7.0.0/16 -d 172.7.0.0/16 -j MASQUERADE --random-fully",
    "COMMIT",
)
V0_11_FORWARDING = (
    "*filter",
    "-A FORWARD -s 172.7.0.0/16 -j ACCEPT",
    "-A FORWARD -d 172.7.0.0/16 -j ACCEPT",
    "COMMIT",
)
MARKING = "table ip test {{ chain c {{ type filter hook prerouting priority -150; meta mark set {mark}; }}; }}"


@pytest.fixture(params=FORMS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crossing]:
    with crossing(tmp_path, request.param) as made:
        yield made


@pytest.fixture(params=["iptables", "legacy iptables", "nftables"])
async def masquerading(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Crossing]:
    """A host whose daemon was asked for masquerading, in each of the three ways."""
    with crossing(tmp_path, "legacy" if request.param == "legacy iptables" else "nft") as made:
        async with made.daemon(NFT_CONFIG if request.param == "nftables" else CONFIG, ip_masq=True):
            yield made


async def test_who_is_masqueraded(masquerading: Crossing) -> None:
    """What leaves the network is, what stays inside is not; who comes to a pod here is not, to a pod elsewhere is."""
    site = masquerading
    for sender, receiver, address, source, seen in (
        (site.pod, site.world, WORLD, "", HOST_IN_WORLD),
        (site.pod, site.peer, PEER_POD, "", POD),
        (site.peer, site.pod, POD, PEER_POD, PEER_POD),
        (site.peer, site.pod, POD, "192.168.14.22", "192.168.14.22"),
        (site.world, site.pod, POD, "", WORLD),
        (site.world, site.peer, PEER_POD, "", HOST_ON_LAN),
        (site.host, site.pod, POD, "", "172.7.21.1"),
        (site.host, site.peer, PEER_POD, "", HOST_ON_LAN),
        (site.world, site.peer, "192.168.14.22", "", WORLD),
    ):
        with Way(sender, receiver, address, source=source) as way:
            assert way.seen() == seen, (address, source)


@pytest.mark.parametrize("program", ["iptables", "legacy iptables", "nftables"])
async def test_who_is_masqueraded_in_ipv6(program: str, tmp_path: Path) -> None:
    """The same in a dual-stack network, beside IPv4, in each of the three ways."""
    with crossing(tmp_path, "legacy" if program == "legacy iptables" else "nft") as site:
        async with site.daemon(DUAL_NFT_CONFIG if program == "nftables" else DUAL_CONFIG, ip_masq=True):
            for sender, receiver, address, source, seen in (
                (site.pod, site.world, WORLD6, "", HOST_IN_WORLD6),
                (site.pod, site.peer, PEER_POD6, "", POD6),
                (site.peer, site.pod, POD6, PEER_POD6, PEER_POD6),
                (site.world, site.pod, POD6, "", WORLD6),
                (site.world, site.peer, PEER_POD6, "", HOST_ON_LAN6),
                (site.world, site.peer, PEER6, "", WORLD6),
                (site.pod, site.world, WORLD, "", HOST_IN_WORLD),
                (site.pod, site.peer, PEER_POD, "", POD),
            ):
                with Way(sender, receiver, address, source=source) as way:
                    assert way.seen() == seen, (address, source)


@pytest.mark.parametrize(("mark", "seen"), [("0x4000", POD), ("0x4001", POD), ("0x1", HOST_IN_WORLD)])
async def test_a_mark_keeps_off(masquerading: Crossing, mark: str, seen: str) -> None:
    """What kube-proxy has marked as masqueraded by itself is left alone, whatever other marks stand beside it."""
    masquerading.host.run("nft", "-f", "-", stdin=MARKING.format(mark=mark))
    with Way(masquerading.pod, masquerading.world, WORLD) as way:
        assert way.seen() == seen


async def test_nothing_is_masqueraded_unasked(site: Crossing) -> None:
    """Without --ip-masq a pod is seen by its own address."""
    async with site.daemon():
        with Way(site.pod, site.world, WORLD) as way:
            assert way.seen() == POD


async def test_forwarding_under_a_dropping_policy(site: Crossing) -> None:
    """With FORWARD's policy DROP, pods are reached and reach others; what is not theirs is still dropped."""
    site.iptables("-P FORWARD DROP")
    async with site.daemon():
        with Way(site.pod, site.peer, PEER_POD) as out, Way(site.peer, site.pod, POD, source=PEER_POD) as back:
            assert (out.seen(), back.seen()) == (POD, PEER_POD)
        assert site.dropped() == 0
        with Way(site.world, site.peer, "192.168.14.22") as way:
            way.send()
            await eventually(lambda: site.dropped() == 1)
            assert not way.arrived()


async def test_without_the_rules_the_policy_drops(site: Crossing) -> None:
    """--iptables-forward-rules=false leaves forwarding to the host's own rules."""
    site.iptables("-P FORWARD DROP")
    async with site.daemon(iptables_forward_rules=False):
        with Way(site.pod, site.peer, PEER_POD) as way:
            way.send()
            await eventually(lambda: site.dropped() == 1)
            assert not way.arrived()


async def test_what_nft_cannot_do(site: Crossing) -> None:
    """An accept in nft's own table does not overrule the drop of iptables' policy, which is why the log warns."""
    site.iptables("-P FORWARD DROP")
    async with site.daemon(NFT_CONFIG) as node:
        await eventually(lambda: node.log.count("firewall.forward_dropped"))
        with Way(site.pod, site.peer, PEER_POD) as way:
            way.send()
            await eventually(lambda: site.dropped() == 1)


# No gap


@contextlib.contextmanager
def streams(site: Crossing) -> Iterator[None]:
    """Send packets without a pause inside the block, each a new connection: to another pod, and to the world.

    Raises ``AssertionError`` when one was lost, or seen with another source address than it should have.
    """
    stop, wrong, count = threading.Event(), list[str](), [0]

    def send() -> None:
        with Way(site.pod, site.peer, PEER_POD) as inner, Way(site.pod, site.world, WORLD) as outer:
            while not stop.is_set() and not wrong:
                for way, expected in ((inner, POD), (outer, HOST_IN_WORLD)):
                    try:
                        seen = way.seen(2.0)
                    except TimeoutError:
                        seen = "nothing"
                    if seen != expected:
                        wrong.append(f"{seen} instead of {expected} after {count[0]} packets")
                    count[0] += 1

    thread = threading.Thread(target=send, name="streams")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert count[0] > 50


def settled(node: FakeNode, *events: str) -> object:
    """Wait until each of *events* is in the node's log."""
    return eventually(lambda: all(node.log.count(event) for event in events))


async def test_no_gap_when_old_rules_are_taken_over(site: Crossing) -> None:
    """From v0.11.0's rules to ours under a DROP policy: no packet dropped, none masqueraded or not as it should be."""
    site.iptables("-P FORWARD DROP")
    site.restore(*V0_11_MASQUERADING)
    site.restore(*V0_11_FORWARDING)
    with streams(site):
        for _ in range(3):
            async with site.daemon(ip_masq=True) as node:
                assert node.log.count("firewall.placed") <= 2
            site.restore(*V0_11_MASQUERADING)
            site.restore(*V0_11_FORWARDING)


async def test_no_gap_while_rules_are_repaired(masquerading: Crossing) -> None:
    """A doubled rule, and whatever else is wrong without harm to packets, is put right without harm to packets."""
    site = masquerading
    with streams(site):
        for _ in range(3):
            if "flannel-ipv4" in site.host.run("nft", "list", "tables"):
                more = "ip saddr 172.7.0.0/16 ip daddr 172.7.0.0/16 return"
                site.host.run("nft", f"add rule ip flannel-ipv4 postrtg {more}")
                await eventually(lambda: count_rules(site) == 8)
            else:
                before = site.saved("nat")
                site.iptables("-t nat -A FLANNEL-POSTRTG -s 172.7.0.0/16 -d 172.7.0.0/16 -j RETURN")
                await eventually(lambda was=before: site.saved("nat") == was)


def count_rules(site: Crossing) -> int:
    """Return how many rules nft's table has."""
    return site.host.run("nft", "-j", "list", "table", "ip", "flannel-ipv4").count('"rule"')


async def test_no_gap_between_iptables_and_nft(site: Crossing) -> None:
    """When EnableNFTables is switched on and off again, the rules of one are there before those of the other go."""
    async with site.daemon(ip_masq=True):
        pass
    with streams(site):
        async with site.daemon(NFT_CONFIG, ip_masq=True) as node:
            await eventually(lambda: node.log.count("firewall.removed") == 2)
            assert not [line for table in ("nat", "filter") for line in site.saved(table) if "FLANNEL" in line]
        async with site.daemon(CONFIG, ip_masq=True) as node:
            await eventually(lambda: node.log.count("firewall.removed") == 1)
            assert "flannel" not in site.host.run("nft", "list", "tables")
