"""Two networks on one host, their rules in the same chains: real packets of both, under a policy that drops."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pyflanneld.firewall.command_runner import Programs
from pyflanneld.firewall.iptables import Iptables
from pyflanneld.firewall.nft import Nft
from tests.support.fakes.node import CONFIG, FakeNode
from tests.support.network.firewall_host import (
    HOST_IN_WORLD,
    HOST_ON_LAN,
    NFT_CONFIG,
    PEER_POD,
    POD,
    WORLD,
    Crossing,
    Way,
    crossing,
)
from tests.support.network.namespaces import Namespace, namespace
from tests.support.network.rule_writers import GoIptables, start_go_nft
from tests.support.polling import eventually

pytestmark = pytest.mark.netns

POD2, PEER_POD2 = "172.8.21.2", "172.8.22.2"
SECOND = "FLANNEL_NETWORK=172.8.0.0/16\nFLANNEL_SUBNET=172.8.21.1/24\n"
PLACE2 = (IPv4Network("172.8.0.0/16"), IPv4Network("172.8.21.0/24"))
PROGRAMS = pytest.mark.parametrize("program", ["iptables", "legacy iptables", "nftables"])


@contextlib.contextmanager
def two_networks(where: Path, program: str) -> Iterator[tuple[Crossing, Namespace]]:
    """Lay the usual wires and those of a second network; yield the host and the second network's pod."""
    with crossing(where, "legacy" if program == "legacy iptables" else "nft") as site, namespace() as pod2:
        site.host.veth("docker1", "172.8.21.1/24", peer="eth0", peer_in=pod2)
        pod2.ip(f"address add {POD2}/24 dev eth0")
        pod2.ip("route add default via 172.8.21.1")
        site.peer.ip(f"address add {PEER_POD2}/32 dev lo")
        site.host.ip("route add 172.8.22.0/24 via 192.168.14.22")
        if program != "nftables":
            site.iptables("-P FORWARD DROP")
        yield site, pod2


@contextlib.asynccontextmanager
async def daemon(site: Crossing, program: str, *, second: bool) -> AsyncIterator[FakeNode]:
    config = NFT_CONFIG if program == "nftables" else CONFIG
    more = {"env": SECOND} if second else {}
    async with site.daemon(config.replace(b"172.7", b"172.8") if second else config, ip_masq=True, **more) as node:
        yield node


def check_packets(site: Crossing, pod2: Namespace, *, from_outside: bool = True) -> None:
    """Send a packet along each way across the host, and compare the source that arrives."""
    for sender, receiver, address, source, seen in (
        (site.pod, site.world, WORLD, "", HOST_IN_WORLD),
        (pod2, site.world, WORLD, "", HOST_IN_WORLD),
        (site.pod, site.peer, PEER_POD, "", POD),
        (pod2, site.peer, PEER_POD2, "", POD2),
        (site.peer, site.pod, POD, PEER_POD, PEER_POD),
        (site.peer, pod2, POD2, PEER_POD2, PEER_POD2),
        (site.pod, pod2, POD2, "", POD),
        (pod2, site.pod, POD, "", POD2),
        (site.peer, site.pod, POD, PEER_POD2, PEER_POD2),
        (site.peer, pod2, POD2, PEER_POD, PEER_POD),
        (site.world, site.pod, POD, "", WORLD),
        (site.world, pod2, POD2, "", WORLD),
        *(
            (site.world, site.peer, address, "", HOST_ON_LAN)
            for address in ((PEER_POD, PEER_POD2) if from_outside else (PEER_POD,))
        ),
    ):
        with Way(sender, receiver, address, source=source) as way:
            assert way.seen() == seen, (address, source)


@PROGRAMS
@pytest.mark.parametrize("order", [(False, True), (True, False)], ids=["first", "second"])
async def test_two_of_ours(tmp_path: Path, program: str, order: tuple[bool, bool]) -> None:
    """Whichever comes first, pods of both reach peers, each other and the world as they should; none repairs."""
    with two_networks(tmp_path, program) as (site, pod2):
        async with daemon(site, program, second=order[0]) as one, daemon(site, program, second=order[1]) as two:
            check_packets(site, pod2)
            assert one.log.count("firewall.repaired") == two.log.count("firewall.repaired") == 0
        async with daemon(site, program, second=True):
            check_packets(site, pod2)


@PROGRAMS
async def test_beside_a_go_daemon(tmp_path: Path, program: str) -> None:
    """A Go flanneld starts beside ours and empties the chains; ours are repaired once, it finds all of its own."""
    with two_networks(tmp_path, program) as (site, pod2):
        programs = Programs([site.programs])
        go = GoIptables(Iptables(programs), *PLACE2)
        async with daemon(site, program, second=False) as node:
            if program == "nftables":
                await start_go_nft(Nft(programs), *PLACE2)
            else:
                await go.start()
            await eventually(lambda: node.log.count("firewall.repaired") >= (1 if program == "nftables" else 2))
            before = node.log.count("firewall.repaired")
            check_packets(site, pod2, from_outside=program != "nftables")
            assert node.log.count("firewall.repaired") == before
            assert program == "nftables" or not await go.resync()


@PROGRAMS
async def test_who_leaves_takes_only_its_own(tmp_path: Path, program: str) -> None:
    """Without its flags the one removes its rules; pods of the other are masqueraded and forwarded as before."""
    with two_networks(tmp_path, program) as (site, pod2):
        async with daemon(site, program, second=False), daemon(site, program, second=True):
            pass
        config = NFT_CONFIG if program == "nftables" else CONFIG
        async with site.daemon(config, iptables_forward_rules=False) as node:
            await eventually(lambda: node.log.count("firewall.removed") == (1 if program == "nftables" else 2))
            rules = site.host.run("nft", "list", "ruleset") + "".join(site.saved("nat") + site.saved("filter"))
            assert "172.7." not in rules
            for receiver, address, seen in ((site.world, WORLD, HOST_IN_WORLD), (site.peer, PEER_POD2, POD2)):
                with Way(pod2, receiver, address) as way:
                    assert way.seen() == seen
