"""The firewall rules as values and as texts: exactly flannel's, from whatever was there before, and nobody else's."""

import ast
import asyncio
import copy
import json
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyflanneld
from pyflanneld.core.firewall import nft
from pyflanneld.core.firewall.iptables import Chains, parse_rule, read, removal, render, repair
from pyflanneld.core.firewall.rules import (
    FORWARD,
    MASQUERADE,
    SECTIONS,
    AddressMatch,
    Family,
    Rule,
    Section,
    section_rules,
)
from tests.support.fakes.firewall import FakeFirewall

N, S = IPv4Network("10.5.0.0/16"), IPv4Network("10.5.34.0/24")
N6, S6 = IPv6Network("2001:cafe:42::/56"), IPv6Network("2001:cafe:42:7::/64")
EARLIER = IPv4Network("172.7.0.0/16")
JUMPS = {section: render(section.jump) for section in SECTIONS}

MASQUERADING = """\
-m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-s 10.5.34.0/24 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-s 10.5.0.0/16 -d 10.5.34.0/24 -m comment --comment "flanneld masq" -j RETURN
! -s 10.5.0.0/16 -d 10.5.34.0/24 -m comment --comment "flanneld masq" -j RETURN
-s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
! -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
"""
FORWARDING = """\
-s 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-d 10.5.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
"""
V0_11_MASQUERADING = (
    "-s 10.5.0.0/16 -d 10.5.0.0/16 -j RETURN",
    "-s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
    "! -s 10.5.0.0/16 -d 10.5.34.0/24 -j RETURN",
    "! -s 10.5.0.0/16 -d 10.5.0.0/16 -j MASQUERADE --random-fully",
)
V0_11_FORWARDING = ("-s 10.5.0.0/16 -j ACCEPT", "-d 10.5.0.0/16 -j ACCEPT")
V0_11 = {MASQUERADE: V0_11_MASQUERADING, FORWARD: V0_11_FORWARDING}
FOREIGN = (
    "-j DOCKER-USER",
    "-o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
    "-s 10.5.0.0/16 -p tcp -j ACCEPT",
    "-s 10.5.0.0/16 -d 10.5.0.0/16 -i eth0 -j RETURN",
    "-s 10.5.0.0/16 -j MASQUERADE",
    "-s 10.5.34.0/24 -j ACCEPT",
    "! -s 10.5.0.0/16 -d 10.6.0.0/24 -j RETURN",
    "-s 10.5.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random",
    '-m comment --comment "flanneld masquerade" -j RETURN',
    '-m comment --comment "say \\"flanneld masq\\" \\\\ here" -j ACCEPT',
    "-m mark --mark 0x4000/0xffff -j RETURN",
    "-m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-j REJECT --reject-with icmp-host-prohibited",
    "-g SOMEWHERE",
    "-s",
    '"',
)


def rules_of(section: Section, *, random_fully: bool = True) -> tuple[Rule, ...]:
    return section_rules(section, N, S, random_fully=random_fully)


def written(section: Section) -> list[str]:
    return [render(rule) for rule in rules_of(section)]


def saved(firewall: FakeFirewall) -> str:
    return asyncio.run(firewall.save(Family.IPV4, None))


def apply(firewall: FakeFirewall, text: str) -> None:
    asyncio.run(firewall.restore(Family.IPV4, text))


class TestTexts:
    def test_masquerading(self) -> None:
        """Six rules, word for word and in the order of flannel's FLANNEL-POSTRTG."""
        assert "".join(f"{render(rule)}\n" for rule in rules_of(MASQUERADE)) == MASQUERADING

    def test_masquerading_without_random_ports(self) -> None:
        """The same without --random-fully, and nothing else is different."""
        text = "".join(f"{render(rule)}\n" for rule in rules_of(MASQUERADE, random_fully=False))
        assert text == MASQUERADING.replace(" --random-fully", "")

    def test_forwarding(self) -> None:
        """Two rules, as in flannel's FLANNEL-FWD."""
        assert "".join(f"{render(rule)}\n" for rule in rules_of(FORWARD)) == FORWARDING

    def test_ipv6(self) -> None:
        """IPv6 has the same rules with its own prefixes and multicast."""
        found = [render(rule) for rule in section_rules(MASQUERADE, N6, S6, random_fully=False)]
        assert found[1] == f'-s {S6} -d {N6} -m comment --comment "flanneld masq" -j RETURN'
        assert found[4] == f'-s {N6} ! -d ff00::/8 -m comment --comment "flanneld masq" -j MASQUERADE'

    def test_the_first_transaction(self) -> None:
        """An empty host gets chain, rules and jump in one transaction of each table."""
        assert repair(FORWARD, Chains(), rules_of(FORWARD)) == (
            "*filter\n:FLANNEL-FWD - [0:0]\n"
            + "".join(f"-A FLANNEL-FWD {line}\n" for line in FORWARDING.splitlines())
            + '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD\nCOMMIT\n'
        )
        text = repair(MASQUERADE, Chains(), rules_of(MASQUERADE))
        assert text.startswith("*nat\n:FLANNEL-POSTRTG - [0:0]\n-A FLANNEL-POSTRTG -m mark")
        assert text.endswith('-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG\nCOMMIT\n')

    def test_nft(self) -> None:
        """One table, replaced as a whole; the rules are those of iptables, flannel's names and comments around them."""
        wanted = {section: rules_of(section) for section in SECTIONS}
        assert nft.repair(Family.IPV4, None, wanted) == """\
add table ip flannel-ipv4
delete table ip flannel-ipv4
table ip flannel-ipv4 {
  comment "rules for flannel-ipv4"
  chain forward {
    comment "chain to accept flannel traffic"
    type filter hook forward priority filter; policy accept;
    ip saddr 10.5.0.0/16 accept
    ip daddr 10.5.0.0/16 accept
  }
  chain postrtg {
    comment "chain to manage traffic masquerading by flannel"
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & 0x4000 == 0x4000 return
    ip saddr 10.5.34.0/24 ip daddr 10.5.0.0/16 return
    ip saddr 10.5.0.0/16 ip daddr 10.5.34.0/24 return
    ip saddr != 10.5.0.0/16 ip daddr 10.5.34.0/24 return
    ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
    ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
  }
}
"""

    def test_nft_has_only_what_is_asked(self) -> None:
        """A chain whose rules nobody asks for is not there, and IPv6 has its own words."""
        text = nft.repair(Family.IPV6, None, {MASQUERADE: section_rules(MASQUERADE, N6, S6, random_fully=False)})
        assert "forward" not in text
        assert "table ip6 flannel-ipv6 {" in text
        assert f"    ip6 saddr {N6} ip6 daddr != ff00::/8 masquerade\n" in text


class TestReading:
    @pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.table)
    def test_what_is_written_is_read(self, section: Section) -> None:
        """parse(render(rule)) == rule, for the jump as well."""
        for rule in (*rules_of(section), *rules_of(section, random_fully=False), section.jump):
            assert parse_rule(f"-A CHAIN {render(rule)}") == rule

    @pytest.mark.parametrize("line", V0_11_MASQUERADING + V0_11_FORWARDING)
    def test_the_order_of_options_does_not_matter(self, line: str) -> None:
        """Versions of iptables print matches in different orders; the rule is the same."""
        sides, _, verdict = line.partition("-j ")
        assert parse_rule(f"-A CHAIN -j {verdict} {sides}") == parse_rule(f"-A CHAIN {line}") is not None

    @pytest.mark.parametrize("line", FOREIGN)
    def test_foreign_rules_are_told_apart(self, line: str) -> None:
        """A rule that is nearly one of flannel's, or no rule at all, is never taken for one."""
        rule = parse_rule(f"-A POSTROUTING {line}")
        known = {parse_rule(f"-A CHAIN {one}") for one in (*written(MASQUERADE), *written(FORWARD))}
        known |= {parse_rule(f"-A CHAIN {one}") for one in (*V0_11_MASQUERADING, *V0_11_FORWARDING)}
        assert rule is None or rule not in known

    @given(st.text())
    def test_no_text_breaks_the_reader(self, text: str) -> None:
        """Whatever is printed gives chains; a foreign table cannot be mistaken for ours."""
        for section in SECTIONS:
            assert isinstance(read(text, section), Chains)
            assert read(f"*mangle\n{text}".replace("\n*", "\n"), section) == Chains()
        parse_rule(text)

    def test_tables_are_told_apart(self) -> None:
        """Of a save of everything, each section sees its own table."""
        firewall = FakeFirewall()
        firewall.put("filter", "FLANNEL-POSTRTG", "-j ACCEPT")
        firewall.put("nat", "FLANNEL-POSTRTG", *written(MASQUERADE))
        firewall.policies["FORWARD"] = "DROP"
        assert read(saved(firewall), MASQUERADE).own == rules_of(MASQUERADE)
        found = read(saved(firewall), FORWARD)
        assert (found.own, found.policy) == (None, "DROP")


entrances = st.lists(st.sampled_from((*FOREIGN, "jump", "old", "old", "commented", "earlier")), max_size=8)
own_chains = st.none() | st.lists(st.sampled_from((*written(MASQUERADE), *written(FORWARD), *FOREIGN)), max_size=8)


@st.composite
def hosts(draw: st.DrawFn, section: Section) -> FakeFirewall:
    """Draw a host with foreign rules, among which rules of ours are missing, doubled, spoiled, out of order, or old."""
    firewall = FakeFirewall()
    kinds = draw(entrances)
    for kind in kinds:
        old = draw(st.sampled_from(V0_11[section]))
        if kind == "commented":
            old = old.replace(" -j", f' -m comment --comment "{section.comment}" -j')
        if kind == "earlier":
            old = old.replace("10.5.", "172.7.")
        line = JUMPS[section] if kind == "jump" else kind if kind in FOREIGN else old
        firewall.put(section.table, section.entrance, line)
    own = draw(own_chains)
    if own is not None or "jump" in kinds:
        firewall.put(section.table, section.chain, *(own or ()))
    firewall.put(section.table, "DOCKER", "-i docker0 -j RETURN")
    if draw(st.booleans()) and firewall.rules(section.table, section.chain) is not None:
        firewall.put(section.table, "DOCKER", f"-i eth7 -j {section.chain}")
    return firewall


def foreign(firewall: FakeFirewall, section: Section) -> dict[str, list[str]]:
    """Return what is not ours, with its order."""
    chains = copy.deepcopy(firewall.everything()[Family.IPV4, section.table])
    chains.pop(section.chain, None)
    chains[section.entrance] = [rule for rule in chains[section.entrance] if rule in FOREIGN]
    return chains


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.table)
@given(data=st.data())
def test_any_host_is_put_right_in_one_transaction(section: Section, data: st.DataObject) -> None:
    """The chain is exact, the jump is there once, old rules are gone, others untouched; a second plan is empty."""
    firewall = data.draw(hosts(section))
    before, entrance = foreign(firewall, section), firewall.rules(section.table, section.entrance)
    assert entrance is not None
    first = next((place for place, rule in enumerate(entrance) if rule not in FOREIGN), None)
    text = repair(section, read(saved(firewall), section), rules_of(section), plain=(N, EARLIER))
    if text:
        apply(firewall, text)
    assert firewall.rules(section.table, section.chain) == written(section)
    after = firewall.rules(section.table, section.entrance)
    assert after is not None
    assert [rule for rule in after if rule not in FOREIGN] == [JUMPS[section]]
    assert first is None or after.index(JUMPS[section]) == first
    assert foreign(firewall, section) == before
    assert repair(section, read(saved(firewall), section), rules_of(section), plain=(N, EARLIER)) == ""


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.table)
@given(data=st.data())
def test_any_host_is_rid_of_ours(section: Section, data: st.DataObject) -> None:
    """What is ours goes, the chain too unless others use it; plain rules stay; a second plan is empty."""
    firewall = data.draw(hosts(section))
    firewall.drop(section.table, section.chain)
    firewall.put(section.table, section.chain, *written(section))
    firewall.put(section.table, section.entrance, JUMPS[section])
    before = foreign(firewall, section)
    plain = [rule for rule in firewall.rules(section.table, section.entrance) or () if "comment" not in rule]
    apply(firewall, removal(section, read(saved(firewall), section), (N,)))
    assert firewall.rules(section.table, section.chain) is None
    left = firewall.rules(section.table, section.entrance)
    assert left is not None
    assert [rule for rule in left if "comment" not in rule] == plain
    assert foreign(firewall, section) == before
    assert removal(section, read(saved(firewall), section), (N,)) == ""


class TestPlans:
    def test_the_jump_may_stand_anywhere(self) -> None:
        """Foreign rules before and behind the jump are no reason to write."""
        found = Chains((None, FORWARD.jump, None), rules_of(FORWARD))
        assert repair(FORWARD, found, rules_of(FORWARD)) == ""

    def test_a_spoiled_order_is_seen(self) -> None:
        """The right rules in another order, or one of them twice, are put right without touching the jump."""
        rules = rules_of(MASQUERADE)
        for own in (rules[::-1], (*rules, rules[-1]), rules[:-1], (rules[0], None, *rules[1:])):
            text = repair(MASQUERADE, Chains((MASQUERADE.jump,), own), rules)
            assert text.count("\n") == len(rules) + 3
            assert "-A POSTROUTING" not in text

    def test_old_rules_are_taken_over_where_they_stand(self) -> None:
        """The jump comes to the place of v0.11.0's first rule, so what stood behind that still stands behind it."""
        old = [parse_rule(f"-A FORWARD {line}") for line in V0_11_FORWARDING]
        found = Chains((None, *old, None), None)
        text = repair(FORWARD, found, rules_of(FORWARD), plain=(N,))
        assert text.splitlines()[-4:] == [
            "-D FORWARD -s 10.5.0.0/16 -j ACCEPT",
            "-D FORWARD -d 10.5.0.0/16 -j ACCEPT",
            '-I FORWARD 2 -m comment --comment "flanneld forward" -j FLANNEL-FWD',
            "COMMIT",
        ]

    def test_plain_rules_are_an_administrators_later_on(self) -> None:
        """Without a take-over, rules without flannel's comment are left alone, whatever they look like."""
        for section, lines in V0_11.items():
            found = Chains((section.jump, *(parse_rule(f"-A X {line}") for line in lines)), rules_of(section))
            assert repair(section, found, rules_of(section)) == ""
            assert "-D" in repair(section, found, rules_of(section), plain=(N,))

    def test_the_subnet_of_the_old_rules_may_be_another(self) -> None:
        """v0.11.0's rule for incoming packets is known by the network, whatever subnet the node had then."""
        old = parse_rule("-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.77.0/24 -j RETURN")
        assert "-D POSTROUTING" in repair(MASQUERADE, Chains((old,)), rules_of(MASQUERADE), plain=(N,))

    def test_a_chain_of_another_network_is_not_removed(self) -> None:
        """Somebody else's flannel on this host keeps its rules when ours are switched off."""
        for section in SECTIONS:
            found = Chains((section.jump,), rules_of(section))
            assert removal(section, found, (EARLIER,)) == ""
            assert f"-X {section.chain}" in removal(section, found, (EARLIER, N))

    def test_a_chain_that_others_use_is_only_emptied(self) -> None:
        """It cannot be deleted, and the transaction that tried would fail as a whole."""
        found = Chains((FORWARD.jump,), rules_of(FORWARD), entered_elsewhere=True)
        lines = removal(FORWARD, found, (N,)).splitlines()
        assert lines == ["*filter", f"-D FORWARD {JUMPS[FORWARD]}", "-F FLANNEL-FWD", "COMMIT"]
        assert removal(FORWARD, Chains(own=(), entered_elsewhere=True), (N,)) == ""


expressions = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["match", "left", "right", "op", "payload", "prefix", "&", "accept"]), inner)
    ),
)


WANTED = {section: rules_of(section) for section in SECTIONS}


class TestNft:
    def listing(self) -> dict[str, list[dict[str, dict[str, object]]]]:
        firewall = FakeFirewall()
        asyncio.run(firewall.load(nft.repair(Family.IPV4, None, WANTED)))
        found: dict[str, list[dict[str, dict[str, object]]]] = json.loads(
            asyncio.run(firewall.list_table(Family.IPV4, "flannel-ipv4")) or ""
        )
        return found

    def plan(self, listing: object) -> str:
        return nft.repair(Family.IPV4, nft.read(json.dumps(listing)), WANTED)

    def test_what_is_written_is_read(self) -> None:
        """A second plan is empty, also when a later nft prints flags as a list."""
        listing = self.listing()
        assert self.plan(listing) == ""
        assert self.plan(json.loads(json.dumps(listing).replace('"fully-random"', '["fully-random"]'))) == ""

    def test_whatever_is_spoiled_is_replaced(self) -> None:
        """A rule missing, doubled, moved or added; another hook, priority or policy; more chains; a sleeping table."""
        items = self.listing()["nftables"]
        rules = [place for place, item in enumerate(items) if "rule" in item]
        spoiled = [[*items[:place], *items[place + 1 :]] for place in rules]
        spoiled += [[*items, items[rules[-1]]], [*items[:-2], items[-1], items[-2]], [*items, {"set": {"name": "x"}}]]
        spoiled.append([*items, {"chain": {"name": "more"}}])
        spoiled.append([*items, {"rule": {"chain": "forward", "expr": [{"drop": None}]}}])
        for change in ({"hook": "input"}, {"prio": 1}, {"policy": "drop"}, {"type": "route"}):
            spoiled.append([_with(item, "chain", change) for item in items])
        spoiled.append([_with(item, "table", {"flags": "dormant"}) for item in items])
        for one in spoiled:
            assert self.plan({"nftables": one}).startswith("add table ip flannel-ipv4\ndelete table")

    @pytest.mark.parametrize("listing", ["", "{", "[]", "{}", '{"nftables": 1}', '{"nftables": [{"rule": {}}]}'])
    def test_what_is_no_listing_is_an_error(self, listing: str) -> None:
        """An unknown form is told as such, never as an empty table."""
        with pytest.raises(ValueError, match=r"."):
            nft.read(listing)

    @given(expressions)
    def test_unknown_rules_are_foreign(self, expression: object) -> None:
        """A rule of any other form is never taken for ours, and no obstacle to a repair."""
        items = [*self.listing()["nftables"], {"rule": {"chain": "forward", "expr": [expression]}}]
        assert self.plan({"nftables": items}) != ""

    def test_whose_table_it_is(self) -> None:
        """A table about other networks is somebody else's; an empty one is nobody's."""
        found = nft.read(json.dumps(self.listing()))
        assert found.names((N, EARLIER))
        assert not found.names((EARLIER,))
        assert nft.Table({}).names((EARLIER,))


def _with(item: dict[str, dict[str, object]], kind: str, change: dict[str, object]) -> dict[str, dict[str, object]]:
    return {kind: item[kind] | change} if kind in item else item


def test_sides_of_different_families_never_meet() -> None:
    """A rule for IPv6 is no old rule of an IPv4 network, and asking does not fail."""
    rule = Rule("RETURN", AddressMatch(N6, negated=True), AddressMatch(S6))
    found = Chains((rule, MASQUERADE.jump), rules_of(MASQUERADE))
    assert repair(MASQUERADE, found, rules_of(MASQUERADE), (N,)) == ""


def test_one_module_starts_programs() -> None:
    """Nothing in the daemon but firewall/command_runner.py starts a process; lab and docker-opts are no part of it."""
    root, starts = Path(pyflanneld.__file__).parent, ("subprocess", "create_subprocess", "posix_spawn", "exec", "popen")
    starters = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            if any(name.startswith(starts) for name in names):
                starters.add(path.relative_to(root).as_posix())
    others = ("lab/", "commands/docker_opts.py")
    assert {name for name in starters if not name.startswith(others)} == {"firewall/command_runner.py"}
