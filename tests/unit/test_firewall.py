"""The firewall rules as values and as texts: exactly flannel's, from whatever was there before, and nobody else's."""

import ast
import asyncio
import copy
import json
import re
from collections.abc import Sequence
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyflanneld
from pyflanneld.core.firewall import nft
from pyflanneld.core.firewall.iptables import Chains, parse_chain_rule, parse_rule, read, removal, render, repair
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
from pyflanneld.core.firewall.shared_chain import ChainRule
from tests.support.fakes.firewall import FakeFirewall

N, S = IPv4Network("10.5.0.0/16"), IPv4Network("10.5.34.0/24")
N6, S6 = IPv6Network("2001:cafe:42::/56"), IPv6Network("2001:cafe:42:7::/64")
EARLIER = IPv4Network("172.7.0.0/16")
TABLE = ("ip", "flannel-ipv4")
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


WANTED = {section: rules_of(section) for section in SECTIONS}


def standing(*lines: str) -> tuple[ChainRule, ...]:
    """Return rules of a chain, written as ``iptables-save`` does without ``-A CHAIN``."""
    return tuple(parse_chain_rule(f"-A CHAIN {line}") for line in lines)


def ours_alone(line: str) -> bool:
    """Return whether a rule names N or EARLIER and nothing outside it; the comments here contain no address."""
    ends = [ip_network(end) for end in re.findall(r"-[sd] (\S+)", line) if end != "224.0.0.0/4"]
    return any(network in ends and all(end.subnet_of(network) for end in ends) for network in (N, EARLIER))


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
        """An empty host gets chain, rules and jump in one transaction of each table, which fails where a chain is."""
        assert repair(FORWARD, Chains(), rules_of(FORWARD), (N,)) == (
            "*filter\n-N FLANNEL-FWD\n"
            + "".join(f"-A FLANNEL-FWD {line}\n" for line in FORWARDING.splitlines())
            + '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD\nCOMMIT\n'
        )
        text = repair(MASQUERADE, Chains(), rules_of(MASQUERADE), (N,))
        assert text.startswith("*nat\n-N FLANNEL-POSTRTG\n-A FLANNEL-POSTRTG -m mark")
        assert text.endswith('-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG\nCOMMIT\n')

    def test_nft(self) -> None:
        """One table, in one transaction; the rules are those of iptables, flannel's names and comments around them."""
        assert nft.repair(Family.IPV4, None, WANTED, (N,)) == """\
table ip flannel-ipv4 {
  comment "rules for flannel-ipv4"
  chain forward {
    comment "chain to accept flannel traffic"
    type filter hook forward priority filter; policy accept;
  }
  chain postrtg {
    comment "chain to manage traffic masquerading by flannel"
    type nat hook postrouting priority srcnat; policy accept;
  }
}
add rule ip flannel-ipv4 forward ip saddr 10.5.0.0/16 accept
add rule ip flannel-ipv4 forward ip daddr 10.5.0.0/16 accept
add rule ip flannel-ipv4 postrtg meta mark & 0x4000 == 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.34.0/24 ip daddr 10.5.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr 10.5.34.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr != 10.5.0.0/16 ip daddr 10.5.34.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
"""

    def test_nft_has_only_what_is_asked(self) -> None:
        """A chain whose rules nobody asks for is not there, and IPv6 has its own words."""
        wanted = {MASQUERADE: section_rules(MASQUERADE, N6, S6, random_fully=False)}
        text = nft.repair(Family.IPV6, None, wanted, (N6,))
        assert "forward" not in text
        assert "table ip6 flannel-ipv6 {" in text
        assert f"postrtg ip6 saddr {N6} ip6 daddr != ff00::/8 masquerade\n" in text


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
        assert read(saved(firewall), MASQUERADE).own == standing(*written(MASQUERADE))
        found = read(saved(firewall), FORWARD)
        assert (found.own, found.policy) == (None, "DROP")


SHARED = written(MASQUERADE)[:1]
THIRD_NETWORKS = [line.replace("10.5.", "10.6.") for line in (*written(MASQUERADE)[1:], *written(FORWARD))]
others = st.lists(st.sampled_from((*FOREIGN, *THIRD_NETWORKS)), max_size=4)
entrances = st.lists(st.sampled_from((*FOREIGN, "jump", "old", "old", "commented", "earlier")), max_size=8)
own_chains = st.none() | st.lists(
    st.sampled_from((*written(MASQUERADE), *written(FORWARD), *FOREIGN, *THIRD_NETWORKS)), max_size=8
)


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
    own = chains.pop(section.chain, [])
    chains["others in ours"] = [rule for rule in own if not ours_alone(rule) and rule not in SHARED]
    chains[section.entrance] = [rule for rule in chains[section.entrance] if rule in FOREIGN]
    return chains


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.table)
@given(data=st.data())
def test_any_host_is_put_right_in_one_transaction(section: Section, data: st.DataObject) -> None:
    """Ours are exact, the jump is there once, old rules are gone, others untouched; a second plan is empty."""
    firewall = data.draw(hosts(section))
    before, entrance = foreign(firewall, section), firewall.rules(section.table, section.entrance)
    assert entrance is not None
    first = next((place for place, rule in enumerate(entrance) if rule not in FOREIGN), None)
    text = put_right(section, read(saved(firewall), section))
    if text:
        apply(firewall, text)
    own = firewall.rules(section.table, section.chain)
    assert own is not None
    assert [rule for rule in own if rule in SHARED or ours_alone(rule)] == written(section)
    if not before["others in ours"]:
        assert own == written(section)
    after = firewall.rules(section.table, section.entrance)
    assert after is not None
    assert [rule for rule in after if rule not in FOREIGN] == [JUMPS[section]]
    assert first is None or after.index(JUMPS[section]) == first
    assert foreign(firewall, section) == before
    assert put_right(section, read(saved(firewall), section)) == ""


def put_right(section: Section, found: Chains) -> str:
    return repair(section, found, rules_of(section), (N, EARLIER), take_over=True)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.table)
@given(data=st.data())
def test_any_host_is_rid_of_ours(section: Section, data: st.DataObject) -> None:
    """What is ours goes, chain and jump too unless others use the chain; plain rules stay; a second plan is empty."""
    firewall = data.draw(hosts(section))
    firewall.drop(section.table, section.chain)
    firewall.put(section.table, section.chain, *data.draw(st.permutations([*written(section), *data.draw(others)])))
    firewall.put(section.table, section.entrance, JUMPS[section])
    before = foreign(firewall, section)
    plain = [rule for rule in firewall.rules(section.table, section.entrance) or () if "comment" not in rule]
    apply(firewall, removal(section, read(saved(firewall), section), (N, EARLIER)))
    own = firewall.rules(section.table, section.chain)
    left = firewall.rules(section.table, section.entrance)
    assert left is not None
    if before["others in ours"]:
        assert [rule for rule in own or () if rule not in SHARED] == before["others in ours"]
        assert JUMPS[section] in left
        assert set(own or ()) >= {rule for rule in SHARED if rule in written(section)}
    else:
        assert own is None
    assert [rule for rule in left if "comment" not in rule] == plain
    assert foreign(firewall, section) == before
    assert removal(section, read(saved(firewall), section), (N, EARLIER)) == ""


class TestPlans:
    def test_the_jump_may_stand_anywhere(self) -> None:
        """Foreign rules before and behind the jump are no reason to write."""
        found = Chains((None, FORWARD.jump, None), standing(*written(FORWARD)))
        assert repair(FORWARD, found, rules_of(FORWARD), (N,)) == ""

    def test_a_spoiled_order_is_seen(self) -> None:
        """The right rules in another order, or one of them twice, are put right without touching the jump."""
        rules, lines = rules_of(MASQUERADE), written(MASQUERADE)
        more = "-s 10.5.0.0/16 -p tcp -j RETURN"
        for own in (lines[::-1], [*lines, lines[-1]], lines[:-1], [lines[0], more, *lines[1:]], lines[1:], lines * 2):
            text = repair(MASQUERADE, Chains((MASQUERADE.jump,), standing(*own)), rules, (N,))
            assert text
            assert "-A POSTROUTING" not in text
            firewall = FakeFirewall()
            firewall.put("nat", "FLANNEL-POSTRTG", *own)
            apply(firewall, text)
            assert firewall.rules("nat", "FLANNEL-POSTRTG") == lines

    def test_rules_of_others_behind_ours_are_no_reason_to_move(self) -> None:
        """An administrator's rule that returns, masquerades or takes all packets does not matter behind ours."""
        for more in ("-s 10.0.0.0/8 -j RETURN", "-s 10.0.0.0/8 -j MASQUERADE", "-j RETURN"):
            found = Chains((MASQUERADE.jump,), standing(*written(MASQUERADE), more))
            assert repair(MASQUERADE, found, rules_of(MASQUERADE), (N,)) == ""

    def test_old_rules_are_taken_over_where_they_stand(self) -> None:
        """The jump comes to the place of v0.11.0's first rule, so what stood behind that still stands behind it."""
        old = [parse_rule(f"-A FORWARD {line}") for line in V0_11_FORWARDING]
        found = Chains((None, *old, None), None)
        text = repair(FORWARD, found, rules_of(FORWARD), (N,), take_over=True)
        assert text.splitlines()[-4:] == [
            "-D FORWARD -s 10.5.0.0/16 -j ACCEPT",
            "-D FORWARD -d 10.5.0.0/16 -j ACCEPT",
            '-I FORWARD 2 -m comment --comment "flanneld forward" -j FLANNEL-FWD',
            "COMMIT",
        ]

    def test_plain_rules_are_an_administrators_later_on(self) -> None:
        """Without a take-over, rules without flannel's comment are left alone, whatever they look like."""
        for section, lines in V0_11.items():
            found = Chains((section.jump, *(parse_rule(f"-A X {line}") for line in lines)), standing(*written(section)))
            assert repair(section, found, rules_of(section), (N,)) == ""
            assert "-D" in repair(section, found, rules_of(section), (N,), take_over=True)

    def test_the_subnet_of_the_old_rules_may_be_another(self) -> None:
        """v0.11.0's rule for incoming packets is known by the network, whatever subnet the node had then."""
        old = parse_rule("-A POSTROUTING ! -s 10.5.0.0/16 -d 10.5.77.0/24 -j RETURN")
        text = repair(MASQUERADE, Chains((old,)), rules_of(MASQUERADE), (N,), take_over=True)
        assert "-D POSTROUTING" in text

    def test_commented_rules_without_a_chain_are_of_a_network_too(self) -> None:
        """Those of v0.12 to v0.19 go at any time; another network's, whose daemon would put them again, stay."""
        for network, gone in ((N, True), (EARLIER, False)):
            line = f'-A POSTROUTING -s {network} -d {network} -m comment --comment "flanneld masq" -j RETURN'
            found = Chains((MASQUERADE.jump, parse_rule(line)), standing(*written(MASQUERADE)))
            assert ("-D POSTROUTING" in repair(MASQUERADE, found, rules_of(MASQUERADE), (N,))) is gone

    def test_a_chain_of_another_network_is_not_removed(self) -> None:
        """Somebody else's flannel on this host keeps its rules when ours are switched off."""
        for section in SECTIONS:
            found = Chains((section.jump,), standing(*written(section)))
            assert removal(section, found, (EARLIER,)) == ""
            assert f"-X {section.chain}" in removal(section, found, (EARLIER, N))

    def test_a_chain_that_others_use_is_only_emptied(self) -> None:
        """It cannot be deleted, and the transaction that tried would fail as a whole."""
        found = Chains((FORWARD.jump,), standing(*written(FORWARD)), entered_elsewhere=True)
        lines = removal(FORWARD, found, (N,)).splitlines()
        deleted = [f"-D FLANNEL-FWD {rule}" for rule in written(FORWARD)]
        assert lines == ["*filter", f"-D FORWARD {JUMPS[FORWARD]}", *deleted, "COMMIT"]
        assert removal(FORWARD, Chains(own=(), entered_elsewhere=True), (N,)) == ""


expressions = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["match", "left", "right", "op", "payload", "prefix", "&", "accept"]), inner)
    ),
)


@cache
def wanted_items() -> list[dict[str, Any]]:
    """Return what nft lists of our table."""
    firewall = FakeFirewall()
    asyncio.run(firewall.load(nft.repair(Family.IPV4, None, WANTED, (N,))))
    return firewall.nft[TABLE]


class TestNft:
    def host(self) -> FakeFirewall:
        firewall = FakeFirewall()
        firewall.nft[TABLE] = copy.deepcopy(wanted_items())
        return firewall

    def listing(self, firewall: FakeFirewall) -> str:
        return asyncio.run(firewall.list_table(Family.IPV4, "flannel-ipv4")) or ""

    def plan(self, listing: str) -> str:
        return nft.repair(Family.IPV4, nft.read(listing), WANTED, (N,))

    def removal(self, firewall: FakeFirewall, *networks: IPv4Network, sections: Sequence[Section] = SECTIONS) -> str:
        return nft.removal(Family.IPV4, nft.read(self.listing(firewall)), sections, networks)

    def test_what_is_written_is_read(self) -> None:
        """A second plan is empty, also when a later nft prints flags as a list."""
        listing = self.listing(self.host())
        assert self.plan(listing) == ""
        assert self.plan(listing.replace('"fully-random"', '["fully-random"]')) == ""

    def test_whatever_is_spoiled_is_repaired(self) -> None:
        """A rule missing, doubled or moved; another hook, priority or policy; a sleeping table."""
        items = self.host().nft[TABLE]
        rules = [place for place, item in enumerate(items) if "rule" in item]
        spoiled = [[*items[:place], *items[place + 1 :]] for place in rules]
        spoiled += [[*items, _with(items[place], "rule", {"handle": 99})] for place in rules]
        spoiled += [[*items[:place], *items[place + 1 :], items[place]] for place in rules[2:-1]]
        for change in ({"hook": "input"}, {"prio": 1}, {"policy": "drop"}, {"type": "route"}):
            spoiled.append([_with(item, "chain", change) for item in items])
        spoiled.append([_with(item, "table", {"flags": "dormant"}) for item in items])
        for one in spoiled:
            firewall = FakeFirewall()
            firewall.nft[TABLE] = copy.deepcopy(one)
            text = self.plan(self.listing(firewall))
            assert text
            asyncio.run(firewall.load(text))
            assert _without_handles(firewall.nft[TABLE]) == _without_handles(items)

    def test_what_others_have_there_stays(self) -> None:
        """A set, another chain, a rule behind ours: no reason to write. What takes all packets comes behind ours."""
        items = self.host().nft[TABLE]
        last = {"rule": {"chain": "postrtg", "handle": 99, "expr": [{"counter": {}}, {"return": None}]}}
        for more in ({"set": {"name": "x"}}, {"chain": {"name": "more"}}, last):
            assert self.plan(json.dumps({"nftables": [*items, more]})) == ""
        firewall = FakeFirewall()
        firewall.nft[TABLE] = [*(item for item in items if "rule" not in item), last]
        asyncio.run(firewall.load(self.plan(self.listing(firewall))))
        assert _without_handles(firewall.nft[TABLE]) == _without_handles([*items, last])

    def test_a_chain_on_another_hook_keeps_the_rules_of_other_networks(self) -> None:
        """It has to be made anew; the rules that a flanneld can have written for others are put again."""
        items = [_with(item, "chain", {"prio": 1}) for item in self.host().nft[TABLE]]
        text = json.dumps({"nftables": [*items]}).replace("10.5.", "10.6.")
        assert nft.repair(Family.IPV4, nft.read(text), WANTED, (N,)).count("10.6.0.0/16") == 8

    @pytest.mark.parametrize("listing", ["", "{", "[]", "{}", '{"nftables": 1}', '{"nftables": [{"rule": {}}]}'])
    def test_what_is_no_listing_is_an_error(self, listing: str) -> None:
        """An unknown form is told as such, never as an empty table."""
        with pytest.raises(ValueError, match=r"."):
            nft.read(listing)

    @given(st.lists(expressions))
    def test_unknown_rules_are_foreign(self, expression: object) -> None:
        """A rule of any other form is never taken for ours: it stays, and is no obstacle."""
        more = {"rule": {"chain": "forward", "handle": 99, "expr": expression}}
        assert self.plan(json.dumps({"nftables": [*wanted_items(), more]})) == ""

    def test_whose_rules_are_removed(self) -> None:
        """A table about other networks is somebody else's; with theirs in it only ours go; an empty one is nobody's."""
        firewall = self.host()
        assert self.removal(firewall, EARLIER) == ""
        assert self.removal(firewall, N, EARLIER) == "delete table ip flannel-ipv4\n"
        assert self.removal(firewall, N, sections=[MASQUERADE]).splitlines() == [
            "flush chain ip flannel-ipv4 postrtg", "delete chain ip flannel-ipv4 postrtg"
        ]  # fmt: skip
        before = _without_handles(firewall.nft[TABLE])
        rules = {section: section_rules(section, EARLIER, EARLIER, random_fully=True) for section in SECTIONS}
        text = nft.repair(Family.IPV4, nft.read(self.listing(firewall)), rules, (EARLIER,))
        asyncio.run(firewall.load(text))
        asyncio.run(firewall.load(self.removal(firewall, EARLIER)))
        assert _without_handles(firewall.nft[TABLE]) == before
        assert nft.removal(Family.IPV4, nft.Table({}), SECTIONS, (EARLIER,)) == "delete table ip flannel-ipv4\n"
        assert nft.removal(Family.IPV4, nft.Table({}, more=True), SECTIONS, (EARLIER,)) == ""


def _without_handles(items: Sequence[dict[str, Any]]) -> list[object]:
    """Return the declarations, and the rules of each chain in order."""
    bare = [{kind: {k: v for k, v in item[kind].items() if k != "handle"}} for item in items for kind in item]
    return [item for name in ("table", "chain", "forward", "postrtg") for item in bare
            if name in item or ("rule" in item and item["rule"]["chain"] == name)]  # fmt: skip


def _with(item: dict[str, Any], kind: str, change: dict[str, object]) -> dict[str, Any]:
    return {kind: item[kind] | change} if kind in item else item


def test_sides_of_different_families_never_meet() -> None:
    """A rule for IPv6 is no old rule of an IPv4 network, and asking does not fail."""
    rule = Rule("RETURN", AddressMatch(N6, negated=True), AddressMatch(S6))
    found = Chains((rule, MASQUERADE.jump), standing(*written(MASQUERADE)))
    assert repair(MASQUERADE, found, rules_of(MASQUERADE), (N,), take_over=True) == ""


def test_one_module_starts_programs() -> None:
    """Nothing in the daemon but firewall/command_runner.py starts a process; lab and docker-opts are no part of it."""
    root, starts = Path(pyflanneld.__file__).parent, ("subprocess", "create_subprocess", "posix_spawn", "exec", "popen")
    starters = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.attr] if isinstance(node, ast.Attribute) else []
            if any(name.startswith(starts) and name != "exec_module" for name in names):
                starters.add(path.relative_to(root).as_posix())
    others = ("lab/", "commands/docker_opts.py")
    assert {name for name in starters if not name.startswith(others)} == {"firewall/command_runner.py"}
