"""Several networks in the same chains: daemons of ours and Go ones in any order, and the hands of administrators."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import cache
from ipaddress import IPv4Address, IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.families import Network
from pyflanneld.core.firewall import shared_chain
from pyflanneld.core.firewall.rules import SECTIONS, Family, Removal, Section, WantedRules
from pyflanneld.core.firewall.shared_chain import ChainRule
from pyflanneld.errors import FirewallError
from pyflanneld.ports import FirewallProgram
from tests.support.fakes.firewall import FakeFirewall
from tests.support.network.rule_writers import GoIptables, OurDaemon

NETWORKS = tuple((IPv4Network(f"10.{n}.0.0/16"), IPv4Network(f"10.{n}.34.0/24")) for n in (5, 6, 7))
CHAINS = tuple((section.table, section.chain) for section in SECTIONS)
FOREIGN = (
    "-j RETURN",
    "-j DOCKER-USER",
    "-j REJECT --reject-with icmp-host-prohibited",
    '-m comment --comment "the admin\'s, about -s 10.5.0.0/16" -j ACCEPT',
    "-s 10.5.0.0/16 -d 10.6.0.0/16 -j RETURN",
    "-s 10.5.34.0/24 -j ACCEPT",
    "! -s 10.5.0.0/16 -d 192.168.7.0/24 -j MASQUERADE",
    "-s 192.168.7.0/24 -j LOG --log-prefix \"x y\"",
    "-s 10.0.0.0/8 -j MASQUERADE",
    "-m mark --mark 0x1/0x1 -j RETURN",
)
PACKETS = [
    (IPv4Address(source), IPv4Address(destination))
    for source in ("10.5.34.2", "10.5.8.2", "10.6.34.2", "10.6.8.2", "10.7.34.2", "192.0.2.1")
    for destination in (*(f"10.{n}.{m}.3" for n in (5, 6, 7) for m in (34, 9)), "192.0.2.2", "224.0.0.9")
]


class Host:
    """A host with a pyflanneld for two networks and a Go flanneld for a third."""

    def __init__(self) -> None:
        self.firewall = FakeFirewall()
        programs = self.firewall.programs()
        self.one, self.two = (OurDaemon(programs, "iptables", *place) for place in NETWORKS[:2])
        self.go = GoIptables(programs["iptables"], *NETWORKS[2])  # type: ignore[arg-type]

    async def settle(self) -> None:
        """Let each daemon check in turn, until none of them writes any more."""
        for _ in range(4):
            if not any([await check() for check in (self.one.check, self.two.check, self.go.resync)]):
                return
        raise AssertionError(f"they fight: {self.firewall.writes[-6:]}")

    def chain(self, table: str, name: str) -> list[str]:
        return self.firewall.rules(table, name) or []

    def foreign(self) -> list[str]:
        return [rule for where in CHAINS for rule in self.chain(*where) if rule in FOREIGN]

    def insert(self, table: str, name: str, place: int, rule: str) -> None:
        self.firewall.put(table, name)
        self.chain(table, name).insert(place, rule)

    def delete(self, table: str, name: str, place: int) -> None:
        rules = self.chain(table, name)
        if rules:
            del rules[place % len(rules)]


History = list[Callable[[Host], Awaitable[object] | None]]


@st.composite
def histories(draw: st.DrawFn, *, foreign: bool) -> History:
    """Draw what happens on a host: daemons that check, a Go daemon's start, rules that others delete or insert."""
    steps = []
    kinds = ["one", "two", "go", "start", "delete", *(["insert"] * 3 * foreign)]
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=12)):
        where, place = draw(st.sampled_from(CHAINS)), draw(st.integers(0, 9))
        rule = draw(st.sampled_from(FOREIGN))
        steps.append(
            {
                "one": lambda host: host.one.check(),
                "two": lambda host: host.two.check(),
                "go": lambda host: host.go.resync() if host.chain(*CHAINS[0]) and host.chain(*CHAINS[1]) else None,
                "start": lambda host: host.go.start(),
                "delete": lambda host, where=where, place=place: host.delete(*where, place),
                "insert": lambda host, where=where, place=place, rule=rule: host.insert(*where, place, rule),
            }[kind]
        )
    return steps


async def live(host: Host, history: History) -> None:
    for step in history:
        happening = step(host)
        if happening is not None:
            await happening
    await host.one.check()  # the chains are there, so that the Go daemon can append to them
    await host.settle()


@cache
def sides(rule: str) -> list[tuple[bool, str, Network]]:
    """Return what a rule compares: negated or not, which end, with which network."""
    return [(bool(no), end, ip_network(network)) for no, end, network in re.findall(r"(! )?-([sd]) (\S+)", rule)]


def matches(rule: str, source: IPv4Address, destination: IPv4Address, *, marked: bool) -> bool:
    """Return whether a rule of flannel's takes a packet."""
    ends = {"s": source, "d": destination}
    return (marked or "--mark" not in rule) and all((ends[end] in net) is not no for no, end, net in sides(rule))


def verdict(rules: list[str], source: IPv4Address, destination: IPv4Address, *, marked: bool = False) -> str:
    """Return the target of the first rule that takes the packet, ``RETURN`` at the end."""
    taken = (rule for rule in rules if matches(rule, source, destination, marked=marked))
    return re.split(r"-j ", next(taken, "-j RETURN"))[1].split()[0]


@given(histories(foreign=False))
def test_every_network_gets_its_verdict(history: History) -> None:
    """Whoever came first and whatever was spoiled: what one network exempts is not masqueraded, the rest is."""
    host = Host()
    asyncio.run(live(host, history))
    masquerading, forwarding = host.chain(*CHAINS[1]), host.chain(*CHAINS[0])
    assert len(masquerading) == 1 + 3 * 5
    assert len(forwarding) == 3 * 2
    for source, destination in PACKETS:
        returned = any(
            (source in subnet and destination in network) or (source in network and destination in subnet)
            or (source not in network and destination in subnet)
            for network, subnet in NETWORKS
        )  # fmt: skip
        masqueraded = any(
            (source in network and not destination.is_multicast) or (source not in network and destination in network)
            for network, _ in NETWORKS
        )
        expected = "MASQUERADE" if masqueraded and not returned else "RETURN"
        assert verdict(masquerading, source, destination) == expected
        assert verdict(masquerading, source, destination, marked=True) == "RETURN"
        inside = any(source in network or destination in network for network, _ in NETWORKS)
        assert verdict(forwarding, source, destination) == ("ACCEPT" if inside else "RETURN")
    for section in SECTIONS:
        assert [section.chain in rule for rule in host.chain(section.table, section.entrance)] == [True]


@given(histories(foreign=True), st.data())
def test_what_others_have_written_stays(
    history: History, data: st.DataObject
) -> None:
    """Our daemons change neither presence nor order of foreign rules; ours stand before what takes all packets."""
    host = Host()
    asyncio.run(live(host, history))
    for table, name in CHAINS:
        for rule in data.draw(st.lists(st.sampled_from(FOREIGN), max_size=3)):
            host.insert(table, name, data.draw(st.integers(0, 9)), rule)
    before = host.foreign()
    asyncio.run(host.settle())
    assert host.foreign() == before
    for where in CHAINS:
        rules = host.chain(*where)
        ours = [i for i, rule in enumerate(rules) if "flanneld " in rule and re.search(r"10\.[56]\.0", rule)]
        takes_all = [i for i, rule in enumerate(rules) if rule in (FOREIGN[0], *FOREIGN[2:4])]
        assert not takes_all or max(ours) < min(takes_all)
    asyncio.run(host.one.leave())
    asyncio.run(host.two.leave())
    assert host.foreign() == before
    assert not asyncio.run(host.go.resync())


class Third(FirewallProgram):
    """A firewall program in a file of its own: it holds chains in memory, and its language is the name of a plan."""

    name = "third"
    one_transaction = True

    def __init__(self) -> None:
        self.chains: dict[Section, tuple[ChainRule, ...]] = {}
        self._plans = [self.chains]

    def for_reading(self) -> FirewallProgram:
        return self

    def require(self, family: Family) -> None:
        """Be there for both."""

    async def needed(
        self, family: Family, wanted: WantedRules, networks: Sequence[Network], *, take_over: bool  # noqa: ARG002
    ) -> str:
        after = dict(self.chains)
        for section, rules in wanted.items():
            chain = after.get(section, ())
            plan = shared_chain.change(chain, rules, networks)
            left = [one for one in chain if one not in plan.deletions]
            for new in plan.insertions:
                left.insert(new.place, ChainRule(str(new.rule), new.rule, new.rule.named, shared=not new.rule.named))
            after[section] = tuple(left)
        return self._planned(after)

    async def removals(
        self, family: Family, networks: Sequence[Network], sections: Collection[Section],
        taken_over: Collection[Section] = (),  # noqa: ARG002 - as above, the port's
    ) -> list[Removal]:
        after = dict(self.chains)
        for section in sections:
            ours = shared_chain.deletions(after.get(section, ()), networks)
            after[section] = () if ours is None else tuple(one for one in after[section] if one not in ours)
        text = self._planned({section: chain for section, chain in after.items() if chain})
        return [Removal(self.name, family, text, {})] if text else []

    def only_adds(self, text: str) -> bool:
        return "-" not in text

    async def drops_forward(self, family: Family) -> str:  # noqa: ARG002
        return ""

    async def apply(self, family: Family, text: str) -> None:  # noqa: ARG002
        self.chains = self._plans[int(text)]

    def _planned(self, after: dict[Section, tuple[ChainRule, ...]]) -> str:
        if after == self.chains:
            return ""
        self._plans.append(after)
        return str(len(self._plans) - 1)


def test_a_third_program_needs_nothing_but_its_own_file() -> None:
    """On the port and the pure plan alone it keeps the rules of two networks, and gives them up, like the others."""

    async def scenario() -> None:
        third = Third()
        one, two = (OurDaemon({"third": third}, "third", *place) for place in NETWORKS[:2])
        await one.check()
        alone = third.chains
        await two.check()
        assert [len(chain) for chain in third.chains.values()] == [4, 11]
        assert not await one.check()
        assert not await two.check()
        await two.leave()
        assert third.chains == alone
        await one.leave()
        assert third.chains == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("program", ["iptables", "nft"])
def test_the_last_one_takes_the_chain_along(program: str) -> None:
    """Who leaves takes their own rules; chain, jump and the mark's rule stay for the others, and go with the last."""

    async def scenario() -> None:
        host = FakeFirewall()
        one, two = (OurDaemon(host.programs(), program, *place) for place in NETWORKS[:2])
        await one.check()
        alone = host.everything(), str(host.nft)
        await two.check()
        await two.leave()
        assert not await one.check()
        assert (host.everything(), re.sub(r"'handle': \d+", "", str(host.nft))) == (
            alone[0], re.sub(r"'handle': \d+", "", alone[1])
        )  # fmt: skip
        await one.leave()
        assert not host.nft
        assert not any(rules for chains in host.everything().values() for rules in chains.values())
        assert all(host.rules(*where) is None for where in CHAINS)

    asyncio.run(scenario())


def test_a_chain_that_changes_between_check_and_write() -> None:
    """A daemon whose transaction no longer fits what is there writes what does, at once and without a complaint."""

    async def scenario() -> None:
        firewall = FakeFirewall()
        programs = firewall.programs()
        one, two = (OurDaemon(programs, "iptables", *place) for place in NETWORKS[:2])
        apply, program = programs["iptables"].apply, programs["iptables"]

        async def late(family: object, text: str) -> None:
            program.apply = apply  # type: ignore[method-assign]
            await two.check()
            await apply(family, text)  # type: ignore[arg-type]

        program.apply = late  # type: ignore[method-assign]
        assert await one.check()
        assert not await two.check()
        assert not await one.check()
        firewall.broken = FirewallError("the lock is held")
        with pytest.raises(FirewallError, match="lock"):
            await one.check()

    asyncio.run(scenario())
