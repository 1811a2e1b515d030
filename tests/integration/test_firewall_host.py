"""The rules on a host that others use too: Docker's stay, spoiled ones are repaired, old ones taken over or removed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fakes.node import CONFIG, FakeNode
from tests.support.fakes.registry import FakeEtcd
from tests.support.network.firewall_host import FORMS, NFT_CONFIG, RESYNC_S, Crossing, crossing
from tests.support.polling import eventually

pytestmark = pytest.mark.netns

JUMP = '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD'
MASQ_JUMP = '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG'
FORWARDING = [
    '-A FLANNEL-FWD -s 172.7.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
    '-A FLANNEL-FWD -d 172.7.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
]
MASQUERADING = [
    '-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN',
    '-A FLANNEL-POSTRTG -s 172.7.21.0/24 -d 172.7.0.0/16 -m comment --comment "flanneld masq" -j RETURN',
    '-A FLANNEL-POSTRTG -s 172.7.0.0/16 -d 172.7.21.0/24 -m comment --comment "flanneld masq" -j RETURN',
    '-A FLANNEL-POSTRTG ! -s 172.7.0.0/16 -d 172.7.21.0/24 -m comment --comment "flanneld masq" -j RETURN',
    '-A FLANNEL-POSTRTG -s 172.7.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" '
    "-j MASQUERADE --random-fully",
    '-A FLANNEL-POSTRTG ! -s 172.7.0.0/16 -d 172.7.0.0/16 -m comment --comment "flanneld masq" '
    "-j MASQUERADE --random-fully",
]
DOCKER_NAT = (
    "*nat", ":DOCKER - [0:0]",
    "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
    "-A POSTROUTING -s 172.7.21.0/24 ! -o docker0 -j MASQUERADE",
    "-A POSTROUTING -s 172.7.21.2/32 -d 172.7.21.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE",
    "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.7.21.2:80",
    "COMMIT",
)  # fmt: skip
DOCKER_FILTER = (
    "*filter", ":DOCKER - [0:0]", ":DOCKER-USER - [0:0]", ":FORWARD DROP [0:0]",
    "-A FORWARD -j DOCKER-USER",
    "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-A FORWARD -o docker0 -j DOCKER",
    "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
    "-A DOCKER-USER -s 172.7.0.0/16 -m comment --comment \"ours, says the \\\"admin\\\"\" -j RETURN",
    "-A DOCKER -d 172.7.21.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT",
    "COMMIT",
)  # fmt: skip
TABLES = ("nat", "filter")


@pytest.fixture(params=FORMS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Crossing]:
    """A host with Docker's rules."""
    with crossing(tmp_path, request.param) as made:
        made.restore(*DOCKER_NAT)
        made.restore(*DOCKER_FILTER)
        yield made


def ours(site: Crossing, table: str) -> list[str]:
    return [line for line in site.saved(table) if line not in site.others(table) and line.startswith("-")]


async def repaired(site: Crossing, wanted: dict[str, list[str]], node: FakeNode, count: int) -> None:
    """Wait until the host is as it was, which has to be soon, and logged once."""
    await eventually(lambda: {table: site.saved(table) for table in TABLES} == wanted, RESYNC_S + 3)
    await eventually(lambda: node.log.count("firewall.repaired") == count)


async def test_the_rules_are_flannels(site: Crossing) -> None:
    """Word for word as iptables-save shows those of flannel 0.28, in both tables."""
    async with site.daemon(ip_masq=True):
        assert sorted(ours(site, "nat")) == sorted([MASQ_JUMP, *MASQUERADING])
        assert sorted(ours(site, "filter")) == sorted([JUMP, *FORWARDING])
        assert [line for line in site.saved("nat") if line.startswith("-A FLANNEL")] == MASQUERADING
        assert [line for line in site.saved("filter") if line.startswith("-A FLANNEL")] == FORWARDING


async def test_dockers_rules_are_left_alone(site: Crossing) -> None:
    """Through start, repair, stop and removal, every other chain, rule and policy is as it was, in its order."""
    before = {table: site.others(table) for table in TABLES}
    async with site.daemon(ip_masq=True) as node:
        site.iptables("-F FLANNEL-FWD")
        await eventually(lambda: node.log.count("firewall.repaired") == 1)
        assert {table: site.others(table) for table in TABLES} == before
    assert sorted(ours(site, "filter")) == sorted([JUMP, *FORWARDING])
    assert {table: site.others(table) for table in TABLES} == before
    async with site.daemon(iptables_forward_rules=False) as node:
        await eventually(lambda: node.log.count("firewall.removed") == 2)
    assert {table: site.saved(table) for table in TABLES} == before


async def test_whatever_is_spoiled_is_repaired(site: Crossing) -> None:
    """Deleted, doubled, added, out of order, changed, jump gone or doubled, chain emptied: back as it was."""
    async with site.daemon(ip_masq=True) as node:
        wanted = {table: site.saved(table) for table in TABLES}
        first, second, *_ = (line.removeprefix("-A FLANNEL-FWD ") for line in FORWARDING)
        damages = (
            ("*filter", f"-D FLANNEL-FWD {first}"),
            ("*filter", f"-A FLANNEL-FWD {second}"),
            ("*filter", "-I FLANNEL-FWD 1 -s 172.7.0.0/16 -p tcp -j DROP"),
            ("*filter", f"-D FLANNEL-FWD {first}", f"-A FLANNEL-FWD {first}"),
            ("*filter", f"-D FLANNEL-FWD {second}", f"-A FLANNEL-FWD {second.replace('ACCEPT', 'RETURN')}"),
            ("*filter", "-F FLANNEL-FWD"),
            ("*filter", JUMP),
            ("*filter", JUMP.replace("-A", "-D", 1), "-F FLANNEL-FWD", "-X FLANNEL-FWD"),
            ("*nat", MASQ_JUMP.replace("-A", "-D", 1)),
            ("*nat", "-D FLANNEL-POSTRTG " + MASQUERADING[4].removeprefix("-A FLANNEL-POSTRTG ")),
        )
        for count, damage in enumerate(damages, 1):
            site.restore(*damage, "COMMIT")
            await repaired(site, wanted, node, count)


async def test_others_may_come_between(site: Crossing) -> None:
    """Rules that others put before and behind our jump are no reason to touch anything."""
    async with site.daemon() as node:
        site.iptables("-I FORWARD 1 -i eth7 -j DROP")
        site.iptables("-A FORWARD -i eth8 -j DROP")
        site.iptables("-F FLANNEL-FWD")  # the repair shows that it has been looked at
        await eventually(lambda: node.log.count("firewall.repaired") == 1)
        forward = [line for line in site.saved("filter") if line.startswith("-A FORWARD")]
        assert (forward[0], forward[-2:]) == ("-A FORWARD -i eth7 -j DROP", [JUMP, "-A FORWARD -i eth8 -j DROP"])


@pytest.mark.parametrize("network", ["172.7.0.0/16", "10.9.0.0/16"], ids=["same network", "earlier network"])
async def test_rules_of_v0_11_are_taken_over(site: Crossing, network: str) -> None:
    """As that binary leaves them, for this network or the one before: gone, and ours at their place."""
    subnet = network.replace("0.0/16", "19.0/24")
    before = {table: site.others(table) for table in TABLES}
    for rule in (f"-s {network} -j ACCEPT", f"-d {network} -j ACCEPT"):
        site.iptables(f"-A FORWARD {rule}")
    for rule in (
        f"-s {network} -d {network} -j RETURN",
        f"-s {network} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
        f"! -s {network} -d {subnet} -j RETURN",
        f"! -s {network} -d {network} -j MASQUERADE --random-fully",
    ):
        site.iptables(f"-t nat -A POSTROUTING {rule}")
    site.iptables("-A FORWARD -j REJECT")
    async with site.daemon(env=f"FLANNEL_NETWORK={network}\nFLANNEL_SUBNET=172.7.21.1/24\n", ip_masq=True):
        assert sorted(ours(site, "nat")) == sorted([MASQ_JUMP, *MASQUERADING])
        forward = [line for line in site.saved("filter") if line.startswith("-A FORWARD")]
        assert forward[-2:] == [JUMP, "-A FORWARD -j REJECT --reject-with icmp-port-unreachable"]
        site.iptables("-D FORWARD -j REJECT")
        assert {table: site.others(table) for table in TABLES} == before


async def test_rules_of_v0_28_are_ours(site: Crossing) -> None:
    """A host where current flannel has just stopped needs no change at all."""
    site.restore("*nat", ":FLANNEL-POSTRTG - [0:0]", MASQ_JUMP, *MASQUERADING, "COMMIT")
    site.restore("*filter", ":FLANNEL-FWD - [0:0]", JUMP, *FORWARDING, "COMMIT")
    before = {table: site.saved(table) for table in TABLES}
    async with site.daemon(ip_masq=True) as node:
        assert {table: site.saved(table) for table in TABLES} == before
    assert node.log.count("firewall.placed") == node.log.count("firewall.repaired") == 0


async def test_commented_rules_without_a_chain_are_taken_over(site: Crossing) -> None:
    """Versions before 0.20 wrote the comment, but straight into the built-in chain; another network's stay."""
    commented = '-A POSTROUTING -s 172.7.0.0/16 -d 172.7.0.0/16 -m comment --comment "flanneld masq" -j RETURN'
    another = commented.replace("172.7.", "10.1.")
    site.restore("*nat", commented, another, "COMMIT")
    async with site.daemon(ip_masq=True):
        assert sorted(ours(site, "nat")) == sorted([MASQ_JUMP, another, *MASQUERADING])


async def test_nft_and_back(site: Crossing) -> None:
    """With EnableNFTables the table is there and repaired, and iptables is rid of ours; without it, the reverse."""
    etcd = FakeEtcd()
    others = {table: site.others(table) for table in TABLES}
    async with site.daemon(etcd=etcd, ip_masq=True):
        pass
    async with site.daemon(NFT_CONFIG, etcd=etcd, ip_masq=True) as node:
        await eventually(lambda: {table: site.saved(table) for table in TABLES} == others)
        wanted = site.host.run("nft", "list", "table", "ip", "flannel-ipv4")
        assert "ip saddr != 172.7.0.0/16 ip daddr 172.7.21.0/24 return" in wanted
        for count, damage in enumerate(
            (
                "delete table ip flannel-ipv4",
                "flush chain ip flannel-ipv4 postrtg",
                "insert rule ip flannel-ipv4 forward ip saddr 172.7.0.0/16 tcp dport 80 drop",
                "insert rule ip flannel-ipv4 postrtg ip saddr 172.7.0.0/16 return",
                "add chain ip flannel-ipv4 forward { policy drop; }",
            ),
            1,
        ):
            site.host.run("nft", damage)
            await eventually(
                lambda: site.host.run("nft", "list", "table", "ip", "flannel-ipv4", check=False) == wanted
            )
            await eventually(lambda number=count: node.log.count("firewall.repaired") == number)
    async with site.daemon(CONFIG, etcd=etcd, ip_masq=True):
        await eventually(lambda: "flannel" not in site.host.run("nft", "list", "tables"))
        assert sorted(ours(site, "nat")) == sorted([MASQ_JUMP, *MASQUERADING])


async def test_what_others_have_in_the_table_of_nft(site: Crossing) -> None:
    """A rule that would take all packets before ours comes behind them, another chain is left alone; both stay."""
    async with site.daemon(NFT_CONFIG, ip_masq=True) as node:
        site.host.run("nft", "add chain ip flannel-ipv4 more")
        site.host.run("nft", "insert rule ip flannel-ipv4 postrtg counter return")
        await eventually(lambda: node.log.count("firewall.repaired") == 1)
        found = site.host.run("nft", "list", "chain", "ip", "flannel-ipv4", "postrtg").split("\n\t\t")
        assert "mark" in found[3]
        assert found[-1].startswith("counter packets")
    async with site.daemon(CONFIG):
        await eventually(lambda: "172.7." not in site.host.run("nft", "list", "table", "ip", "flannel-ipv4"))
        left = site.host.run("nft", "list", "table", "ip", "flannel-ipv4")
        assert [text in left for text in ("chain more", "counter packets", "chain forward")] == [True, True, False]


async def test_nothing_is_touched_where_nothing_was_and_nothing_is_asked(site: Crossing) -> None:
    """Without both flags there is not one chain of ours, and no table that was not there before."""
    before = site.host.run("nft", "list", "ruleset") + "".join(site.saved("nat") + site.saved("filter"))
    async with site.daemon(iptables_forward_rules=False):
        await eventually(lambda: "firewall-rules" not in {task.get_name() for task in asyncio.all_tasks()})
    assert site.host.run("nft", "list", "ruleset") + "".join(site.saved("nat") + site.saved("filter")) == before
