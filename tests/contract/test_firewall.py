"""What the commands of every firewall program promise: in memory, and in namespaces, iptables in both forms."""

import abc
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from pyflanneld.core.families import Network
from pyflanneld.core.firewall import iptables, nft
from pyflanneld.core.firewall.iptables import Chains, read, render
from pyflanneld.core.firewall.rules import FORWARD, MASQUERADE, SECTIONS, Family, Rule, Section, section_rules
from pyflanneld.core.firewall.shared_chain import ChainRule
from pyflanneld.errors import FirewallError, ProgramMissing
from pyflanneld.firewall.command_runner import Programs
from pyflanneld.firewall.iptables import Iptables
from pyflanneld.firewall.nft import Nft
from tests.support.fakes.firewall import FakeFirewall, FakeIptables, FakeNft
from tests.support.network.firewall_host import FORMS, form_directory
from tests.support.network.namespaces import Namespace, namespace
from tests.support.network.rule_writers import GoIptables, OurDaemon, start_go_nft

PLACES: dict[Family, tuple[Network, Network]] = {
    Family.IPV4: (IPv4Network("10.5.0.0/16"), IPv4Network("10.5.34.0/24")),
    Family.IPV6: (IPv6Network("2001:cafe:42::/56"), IPv6Network("2001:cafe:42:7::/64")),
}
FAMILIES = pytest.mark.parametrize("family", list(Family), ids=lambda family: family.value)
EVERY_SECTION = pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.table)


def rules_of(family: Family, section: Section, *, random_fully: bool = True) -> tuple[Rule, ...]:
    return section_rules(section, *PLACES[family], random_fully=random_fully)


class Bed(abc.ABC):
    """A firewall, one without programs, and the hand of an administrator."""

    iptables: Iptables
    nft: Nft
    bare_iptables: Iptables
    bare_nft: Nft

    @abc.abstractmethod
    def append(self, family: Family, table: str, chain: str, rule: str) -> None:
        """Append a rule to a built-in chain."""

    @abc.abstractmethod
    def set_policy(self, chain: str, policy: str) -> None:
        """Set the policy of a chain of the IPv4 filter table."""

    async def chains(self, family: Family, section: Section) -> Chains:
        return read(await self.iptables.save(family, section.table), section)

    async def put_right(self, family: Family, section: Section) -> None:
        text = iptables.repair(section, await self.chains(family, section), rules_of(family, section), PLACES[family])
        await self.iptables.restore(family, text)

    def own(self, section: Section, rules: Iterable[Rule]) -> tuple[ChainRule, ...]:
        """Return *rules* as they stand in the section's chain."""
        return tuple(iptables.parse_chain_rule(f"-A {section.chain} {render(rule)}") for rule in rules)


class FakeBed(Bed):
    def __init__(self) -> None:
        self.fake, bare = FakeFirewall(), FakeFirewall()
        self.iptables, self.nft = FakeIptables(self.fake), FakeNft(self.fake)
        self.bare_iptables, self.bare_nft = FakeIptables(bare), FakeNft(bare)
        bare.absent = {"iptables", "ip6tables", "nft"}

    def append(self, family: Family, table: str, chain: str, rule: str) -> None:
        self.fake.put(table, chain, rule, family=family)

    def set_policy(self, chain: str, policy: str) -> None:
        self.fake.put("filter", chain)
        self.fake.policies[chain] = policy


class RealBed(Bed):
    def __init__(self, inside: Namespace, form: str, where: Path) -> None:
        programs, none = Programs([form_directory(where, form)]), Programs([os.fspath(where)])
        self.iptables, self.nft = Iptables(programs), Nft(programs)
        self.bare_iptables, self.bare_nft = Iptables(none), Nft(none)
        self._inside, self._form = inside, form

    def append(self, family: Family, table: str, chain: str, rule: str) -> None:
        program = "iptables" if family is Family.IPV4 else "ip6tables"
        self._inside.run(f"{program}-{self._form}", "--wait", "-t", table, "-A", chain, *rule.split())

    def set_policy(self, chain: str, policy: str) -> None:
        self._inside.run(f"iptables-{self._form}", "--wait", "-P", chain, policy)


@pytest.fixture(params=["fake", *(pytest.param(form, marks=pytest.mark.netns) for form in FORMS)])
async def bed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bed]:
    if request.param == "fake":
        yield FakeBed()
        return
    with namespace() as made, made.inside():
        yield RealBed(made, request.param, tmp_path)


@FAMILIES
@EVERY_SECTION
class TestIptables:
    async def test_a_bare_host_has_nothing_of_ours(self, bed: Bed, family: Family, section: Section) -> None:
        """A save of all tables shows none, and of one it has no chain of ours; the policy is to accept."""
        assert read(await bed.iptables.save(family, None), section) == Chains()
        assert await bed.chains(family, section) == Chains(policy="ACCEPT")

    async def test_what_is_written_is_read(self, bed: Bed, family: Family, section: Section) -> None:
        """After the plan's transaction the next plan is empty, whether random ports are asked for or not."""
        for random_fully in (True, False):
            rules = rules_of(family, section, random_fully=random_fully)
            text = iptables.repair(section, await bed.chains(family, section), rules, PLACES[family])
            await bed.iptables.restore(family, text)
            found = await bed.chains(family, section)
            assert found == Chains((section.jump,), bed.own(section, rules), policy="ACCEPT")
            assert iptables.repair(section, found, rules, PLACES[family]) == ""
            assert read(await bed.iptables.save(family, None), section) == found

    async def test_others_stay_where_they_are(self, bed: Bed, family: Family, section: Section) -> None:
        """Rules of others before and behind the jump survive its repair and its removal, in their order."""
        bed.append(family, section.table, section.entrance, "-s " + str(PLACES[family][0]) + " -j RETURN")
        await bed.put_right(family, section)
        bed.append(family, section.table, section.entrance, "-d " + str(PLACES[family][1]) + " -j ACCEPT")
        before = await bed.chains(family, section)
        assert [rule == section.jump for rule in before.entrance] == [False, True, False]
        assert None not in before.entrance
        jump = render(section.jump)
        await bed.iptables.restore(
            family, f"*{section.table}\n-D {section.entrance} {jump}\n-I {section.entrance} 2 {jump}\nCOMMIT\n"
        )
        assert await bed.chains(family, section) == before
        await bed.iptables.restore(family, iptables.removal(section, before, PLACES[family]))
        after = await bed.chains(family, section)
        assert (after.entrance, after.own) == ((before.entrance[0], before.entrance[2]), None)

    async def test_a_spoiled_order_is_put_right(self, bed: Bed, family: Family, section: Section) -> None:
        """A spoiled order is right again, with nothing of what was there before."""
        rules = rules_of(family, section)
        spoiled = [f"-A {section.chain} {render(rule)}" for rule in (*rules[::-1], rules[0])]
        text = "\n".join([f"*{section.table}", f":{section.chain} - [0:0]", *spoiled, "COMMIT", ""])
        await bed.iptables.restore(family, text)
        assert (await bed.chains(family, section)).own == bed.own(section, (*rules[::-1], rules[0]))
        await bed.put_right(family, section)
        assert await bed.chains(family, section) == Chains((section.jump,), bed.own(section, rules), policy="ACCEPT")

    async def test_a_deletion_takes_one(self, bed: Bed, family: Family, section: Section) -> None:
        """Of two equal rules one goes, so a doubled jump takes two deletions."""
        await bed.put_right(family, section)
        jump = f"{section.entrance} {render(section.jump)}"
        await bed.iptables.restore(family, f"*{section.table}\n-A {jump}\n-A {jump}\nCOMMIT\n")
        assert (await bed.chains(family, section)).entrance == (section.jump,) * 3
        await bed.iptables.restore(family, f"*{section.table}\n-D {jump}\nCOMMIT\n")
        assert (await bed.chains(family, section)).entrance == (section.jump,) * 2
        await bed.put_right(family, section)
        assert (await bed.chains(family, section)).entrance == (section.jump,)

    @pytest.mark.parametrize(
        "line",
        ["-D {entrance} -s 192.0.2.0/24 -j ACCEPT", "-X {chain}", "-I {entrance} 9 -j ACCEPT", "-A NOWHERE -j ACCEPT"],
    )
    async def test_all_or_nothing(self, bed: Bed, family: Family, section: Section, line: str) -> None:
        """A line that cannot be followed is an error, and none of the others takes effect."""
        await bed.put_right(family, section)
        before = await bed.chains(family, section)
        line = line.format(entrance=section.entrance, chain=section.chain)
        if family is Family.IPV6:
            line = line.replace("192.0.2.0/24", "2001:db8::/32")
        text = f"*{section.table}\n-A {section.chain} -j RETURN\n-A {section.entrance} -j RETURN\n{line}\nCOMMIT\n"
        with pytest.raises(FirewallError, match="fail"):
            await bed.iptables.restore(family, text)
        assert await bed.chains(family, section) == before

    async def test_a_chain_that_others_use(self, bed: Bed, family: Family, section: Section) -> None:
        """It is seen that somebody else's rule leads into our chain, and the removal leaves it, empty."""
        await bed.put_right(family, section)
        bed.append(family, section.table, section.entrance, f"-o eth7 -j {section.chain}")
        found = await bed.chains(family, section)
        assert found.entered_elsewhere
        await bed.iptables.restore(family, iptables.removal(section, found, PLACES[family]))
        assert await bed.chains(family, section) == Chains((None,), (), entered_elsewhere=True, policy="ACCEPT")

    async def test_a_chain_that_is_there_is_not_made_again(self, bed: Bed, family: Family, section: Section) -> None:
        """A transaction that was planned without the chain fails, and does not empty what somebody has filled."""
        text = iptables.repair(section, Chains(), rules_of(family, section), PLACES[family])
        await bed.put_right(family, section)
        before = await bed.chains(family, section)
        with pytest.raises(FirewallError, match="fail"):
            await bed.iptables.restore(family, text)
        assert await bed.chains(family, section) == before

    async def test_foreign_rules_in_the_chain_stay(self, bed: Bed, family: Family, section: Section) -> None:
        """Before, between and behind ours: they keep their order when ours are repaired and removed."""
        await bed.put_right(family, section)
        texts = ["-i eth7 -j ACCEPT", "-o eth8 -m comment --comment \"a \\\"b\\\" c\" -j RETURN", "-j RETURN"]
        lines = [f"-I {section.chain} {place} {text}" for place, text in zip((1, 3, 5), texts, strict=True)]
        lines = [lines[0], lines[1], f"-A {section.chain} {texts[2]}"]
        await bed.iptables.restore(family, "\n".join([f"*{section.table}", *lines, "COMMIT", ""]))
        spoil = f"*{section.table}\n-D {section.chain} {render(rules_of(family, section)[-1])}\nCOMMIT\n"
        await bed.iptables.restore(family, spoil)
        await bed.put_right(family, section)
        found = await bed.chains(family, section)
        assert [one.key for one in found.own or () if one.rule not in rules_of(family, section)] == texts
        assert [one.rule for one in found.own or () if one.key not in texts] == list(rules_of(family, section))
        assert iptables.repair(section, found, rules_of(family, section), PLACES[family]) == ""
        await bed.iptables.restore(family, iptables.removal(section, found, PLACES[family]))
        found = await bed.chains(family, section)
        assert [one.key for one in found.own or () if not one.shared] == texts
        assert found.entrance == (section.jump,)


async def test_the_families_are_apart(bed: Bed) -> None:
    """What is written for IPv4 does not show up in IPv6."""
    await bed.put_right(Family.IPV4, FORWARD)
    assert (await bed.chains(Family.IPV6, FORWARD)).own is None


async def test_the_policy_is_read(bed: Bed) -> None:
    """FORWARD's policy, which Docker sets to DROP."""
    bed.set_policy("FORWARD", "DROP")
    assert (await bed.chains(Family.IPV4, FORWARD)).policy == "DROP"


async def test_random_ports_are_known(bed: Bed) -> None:
    """Version 1.6.2 and later know --random-fully, and no earlier one is here."""
    assert await bed.iptables.can_randomize(Family.IPV4)


@FAMILIES
class TestNft:
    WANTED = pytest.mark.parametrize("sections", [SECTIONS, (FORWARD,), (MASQUERADE,)], ids=len)

    async def table(self, bed: Bed, family: Family) -> nft.Table | None:
        listing = await bed.nft.list_table(family, nft.table_name(family))
        return None if listing is None else nft.read(listing)

    @WANTED
    @pytest.mark.parametrize("random_fully", [True, False])
    async def test_what_is_written_is_read(
        self, bed: Bed, family: Family, sections: tuple[Section, ...], random_fully: bool
    ) -> None:
        """After the plan's transaction the next plan is empty; so it is when another table was there before."""
        await bed.nft.load(nft.repair(family, None, {FORWARD: rules_of(family, FORWARD)}, PLACES[family]))
        wanted = {section: rules_of(family, section, random_fully=random_fully) for section in sections}
        text = nft.repair(family, await self.table(bed, family), wanted, PLACES[family])
        await bed.nft.load(text or "\n")
        found = await self.table(bed, family)
        assert found is not None
        for section, rules in wanted.items():
            written = [one.rule for one in found.chains[nft.HOOKS[section].chain].rules]
            assert written == [replace(rule, comment="") for rule in rules]
        assert nft.repair(family, found, wanted, PLACES[family]) == ""

    async def test_absence_and_removal(self, bed: Bed, family: Family) -> None:
        """A table that is not there is told as such; removing it works whether or not it is there."""
        assert await self.table(bed, family) is None
        wanted = {section: rules_of(family, section) for section in SECTIONS}
        await bed.nft.load(nft.repair(family, None, wanted, PLACES[family]))
        other = next(one for one in Family if one is not family)
        assert await self.table(bed, other) is None
        for sections in ([MASQUERADE], SECTIONS):
            found = await self.table(bed, family)
            await bed.nft.load(nft.removal(family, found, sections, PLACES[family]))
            found = await self.table(bed, family)
            assert found is None or found.chains.keys() == {"forward"}
        assert found is None
        assert nft.removal(family, found, SECTIONS, PLACES[family]) == ""

    async def test_what_sleeps_or_drops_is_repaired(self, bed: Bed, family: Family) -> None:
        """A dormant table, a policy of drop, a chain on another priority: as wanted again, with all rules, at once."""
        wanted = {section: rules_of(family, section) for section in SECTIONS}
        name = f"{nft.family_word(family)} {nft.table_name(family)}"
        good = nft.repair(family, None, wanted, PLACES[family])
        await bed.nft.load(good)
        before = await self.table(bed, family)
        assert before is not None
        for damaged in (
            good.replace("priority filter", "priority 10"),
            good.replace("accept;", "drop;", 1),
            good.replace('  comment "rules', '  flags dormant;\n  comment "rules', 1),
        ):
            await bed.nft.load(f"delete table {name}\n{damaged}")
            found = await self.table(bed, family)
            await bed.nft.load(nft.repair(family, found, wanted, PLACES[family]))
            found = await self.table(bed, family)
            assert found is not None
            assert nft.repair(family, found, wanted, PLACES[family]) == ""
            assert (found.asleep, found.chains.keys()) == (False, before.chains.keys())

    async def test_all_or_nothing(self, bed: Bed, family: Family) -> None:
        """A text that is wrong at its end changes nothing."""
        wanted = {FORWARD: rules_of(family, FORWARD)}
        await bed.nft.load(nft.repair(family, None, wanted, PLACES[family]))
        word, before = nft.family_word(family), await self.table(bed, family)
        with pytest.raises(FirewallError, match="No such file"):
            await bed.nft.load(
                f"{nft.removal(family, before, SECTIONS, PLACES[family])}delete table {word} nowhere\n"
            )
        assert await self.table(bed, family) == before is not None

    async def test_the_listing_is_one_tables(self, bed: Bed, family: Family) -> None:
        """It is JSON that names our table alone."""
        await bed.nft.load(nft.repair(family, None, {FORWARD: rules_of(family, FORWARD)}, PLACES[family]))
        listing = await bed.nft.list_table(family, nft.table_name(family))
        tables = [item["table"]["name"] for item in json.loads(listing or "")["nftables"] if "table" in item]
        assert tables == [nft.table_name(family)]


NETWORKS = tuple((IPv4Network(f"10.{n}.0.0/16"), IPv4Network(f"10.{n}.34.0/24")) for n in (5, 6, 7))
NETWORKS6 = tuple((IPv6Network(f"2001:cafe:{n}::/56"), IPv6Network(f"2001:cafe:{n}:7::/64")) for n in (5, 6))


class TestSeveralNetworks:
    """Daemons for several networks on one host: after one turn of each nobody writes any more."""

    async def settled(self, *checks: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(2):
            for check in checks:
                await check()
        assert [await check() for check in checks] == [False] * len(checks)

    @pytest.mark.parametrize("program", ["iptables", "nft"])
    @pytest.mark.parametrize("places", [NETWORKS[:2], NETWORKS6], ids=["ipv4", "ipv6"])
    async def test_two_of_ours(self, bed: Bed, program: str, places: tuple[tuple[Network, Network], ...]) -> None:
        """Each writes once; who leaves takes only its own, and the last one leaves nothing at all."""
        programs = {"iptables": bed.iptables, "nft": bed.nft}
        one, two = (OurDaemon(programs, program, *place) for place in places)
        await self.settled(one.check, two.check)
        assert (one.writes, two.writes) == (1, 1)
        await one.leave()
        await self.settled(two.check)
        assert two.writes == 1
        await two.leave()
        family = Family.of(places[0][0])
        assert "FLANNEL" not in await bed.iptables.save(family, None)
        assert await bed.nft.list_table(family, nft.table_name(family)) is None

    async def test_two_of_ours_beside_a_go_daemon(self, bed: Bed) -> None:
        """Its start empties the chains and ours come again, beside its own; neither fights the other."""
        programs = {"iptables": bed.iptables}
        one, two = (OurDaemon(programs, "iptables", *place) for place in NETWORKS[:2])
        go = GoIptables(bed.iptables, *NETWORKS[2])
        await go.start()
        await self.settled(one.check, go.resync, two.check)
        assert (one.writes, two.writes) == (1, 1)
        await go.start()
        await self.settled(go.resync, two.check, one.check)
        assert (one.writes, two.writes) == (2, 2)
        await one.leave()
        await two.leave()
        assert not await go.resync()

    async def test_a_go_daemon_that_comes_last(self, bed: Bed) -> None:
        """One that finds the chains and appends: the mark's rule, which it moves, is put first again, and it agrees."""
        one = OurDaemon({"iptables": bed.iptables}, "iptables", *NETWORKS[0])
        go = GoIptables(bed.iptables, *NETWORKS[2])
        await one.check()
        await self.settled(go.resync, one.check)
        found = read(await bed.iptables.save(Family.IPV4, "nat"), MASQUERADE).own or ()
        assert [one.shared for one in found] == [True] + [False] * 10
        targets = [one.rule.target for one in found if one.rule]
        assert targets == ["RETURN"] * 7 + ["MASQUERADE"] * 4

    async def test_two_of_ours_beside_a_go_daemon_in_nft(self, bed: Bed) -> None:
        """The same in nft's table, where the Go daemon writes once and never looks again."""
        programs = {"nft": bed.nft}
        one, two = (OurDaemon(programs, "nft", *place) for place in NETWORKS[:2])
        for writes in (1, 2):
            await start_go_nft(bed.nft, *NETWORKS[2])
            theirs = await bed.nft.list_table(Family.IPV4, "flannel-ipv4")
            await self.settled(one.check, two.check)
            assert (one.writes, two.writes) == (writes, writes)
        await one.leave()
        await two.leave()
        left = await bed.nft.list_table(Family.IPV4, "flannel-ipv4")
        assert self.rules(left) == self.rules(theirs)

    def rules(self, listing: str | None) -> list[object]:
        """Return the rules of flannel's, the shared one of ours left out."""
        chains = nft.read(listing or "").chains
        return [one.rule for name in ("forward", "postrtg") for one in chains[name].rules if not one.shared]


async def test_what_is_missing_is_told(bed: Bed) -> None:
    """Without the programs, the questions and every call say which one is missing."""
    for family, name in ((Family.IPV4, "iptables"), (Family.IPV6, "ip6tables")):
        with pytest.raises(ProgramMissing, match=name):
            bed.bare_iptables.require(family)
        with pytest.raises(ProgramMissing, match=name):
            await bed.bare_iptables.save(family, "filter")
        with pytest.raises(ProgramMissing, match=name):
            await bed.bare_iptables.restore(family, "*filter\nCOMMIT\n")
        with pytest.raises(ProgramMissing, match=name):
            await bed.bare_iptables.can_randomize(family)
        bed.iptables.require(family)
    with pytest.raises(ProgramMissing, match="nft"):
        bed.bare_nft.require(Family.IPV4)
    with pytest.raises(ProgramMissing, match="nft"):
        await bed.bare_nft.list_table(Family.IPV4, "flannel-ipv4")
    with pytest.raises(ProgramMissing, match="nft"):
        await bed.bare_nft.load("")
    bed.nft.require(Family.IPV4)
