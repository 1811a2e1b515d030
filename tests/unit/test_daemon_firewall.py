"""The firewall in the life of a node: set before readiness, looked at again, repaired, taken over, cleared away."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from pyflanneld.core.families import Network
from pyflanneld.core.firewall.rules import SECTIONS, Family, Removal, Section
from pyflanneld.errors import FirewallError, ProgramMissing
from tests.support.fakes.firewall import FakeFirewall, FakeNft
from tests.support.fakes.node import CONFIG, FakeNode
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

PINNED = "FLANNEL_SUBNET=172.7.21.1/24\n"
NFT_CONFIG = CONFIG.replace(b'{"Network"', b'{"EnableNFTables":true,"Network"')
MASQ, FWD = ("nat", "FLANNEL-POSTRTG"), ("filter", "FLANNEL-FWD")
JUMP = '-m comment --comment "flanneld forward" -j FLANNEL-FWD'
OLD_FORWARD = ("-s 172.7.0.0/16 -j ACCEPT", "-d 172.7.0.0/16 -j ACCEPT")
OLD_MASQ = (
    "-s 172.7.0.0/16 -d 172.7.0.0/16 -j RETURN",
    "-s 172.7.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
)


class Third(FakeNft):
    """A firewall program with leftovers of ours, and a language of its own."""

    name = "third"

    def __init__(self, host: FakeFirewall) -> None:
        super().__init__(host)
        self.applied: list[str] = []

    async def removals(
        self, family: Family, networks: Sequence[Network], sections: Collection[Section],
        taken_over: Collection[Section] = (),  # noqa: ARG002 - the port's
    ) -> list[Removal]:
        """Return one for the sections that all have to go."""
        return [Removal(self.name, family, "remove ours", {})] if networks and set(sections) == set(SECTIONS) else []

    async def apply(self, family: Family, text: str) -> None:  # noqa: ARG002 - the port's
        """Note the transaction."""
        self.applied.append(text)


def node_with(config: bytes = CONFIG, *, env: str = PINNED, **options: Any) -> FakeNode:
    etcd = FakeEtcd()
    etcd.put_config(config)
    node = FakeNode(etcd, env=env)
    node.configure(**options)
    return node


def nft_chains(firewall: FakeFirewall) -> list[object]:
    items = firewall.nft.get(("ip", "flannel-ipv4"), [])
    return [item["chain"]["name"] for item in items if "chain" in item]  # type: ignore[index]


def conditions(node: FakeNode) -> list[str]:
    assert node.daemon is not None
    return [problem.event for problem in node.daemon._context.conditions.open().values()]


def test_rules_are_in_place_before_the_file_and_readiness() -> None:
    """Whoever waits for subnet.env or READY=1 finds the rules; by default these are the forwarding ones alone."""

    async def scenario() -> None:
        node = node_with()
        seen: dict[str, object] = {}
        write, send = node.file.write, node.manager.send

        def watched_write(text: str) -> bool:
            seen.setdefault("file", list(node.firewall.rules(*FWD) or ()))
            return write(text)

        def watched_send(state: str) -> None:
            seen.setdefault(state, list(node.firewall.rules(*FWD) or ()))
            send(state)

        node.file.write = watched_write  # type: ignore[method-assign]
        node.manager.send = watched_send  # type: ignore[method-assign]
        async with node.running():
            await until(lambda: "READY=1" in seen, 1)
        rules = node.firewall.rules(*FWD)
        assert len(rules or ()) == 2
        assert seen["file"] == seen["READY=1"] == rules
        assert node.firewall.rules("filter", "FORWARD") == [JUMP]
        assert node.firewall.rules(*MASQ) is None
        assert node.file.text is not None
        assert node.file.text.endswith("FLANNEL_IPMASQ=false\n")
        assert node.log.count("firewall.placed") == 1

    run(scenario())


def test_the_flags_decide() -> None:
    """--ip-masq brings the masquerading rules and FLANNEL_IPMASQ=true; each flag of the three is followed."""

    async def scenario() -> None:
        node = node_with(ip_masq=True, iptables_forward_rules=False)
        async with node.running():
            assert len(node.firewall.rules(*MASQ) or ()) == 6
            assert node.firewall.rules(*FWD) is None
            assert "--random-fully" in (node.firewall.rules(*MASQ) or ())[-1]
            assert node.file.text is not None
            assert node.file.text.endswith("FLANNEL_IPMASQ=true\n")
        node.configure(ip_masq_fully_random_disable=True)
        async with node.running():
            assert not any("--random-fully" in rule for rule in node.firewall.rules(*MASQ) or ())
        node.configure(ip_masq_fully_random_disable=False)
        node.firewall.random_fully = False
        async with node.running():
            assert not any("--random-fully" in rule for rule in node.firewall.rules(*MASQ) or ())

    run(scenario())


def test_a_look_that_finds_nothing_writes_nothing() -> None:
    """One save per table and period, and no write, for as long as all is well; also after a restart."""

    async def scenario() -> None:
        node = node_with(ip_masq=True)
        async with node.running():
            await asyncio.sleep(1)
            writes, saves = len(node.firewall.writes), node.firewall.calls["save"]
            await asyncio.sleep(600)
            assert len(node.firewall.writes) == writes == 2
            assert 2 * 118 <= node.firewall.calls["save"] - saves <= 2 * 121
        before = node.firewall.everything()
        async with node.running():
            await asyncio.sleep(60)
        assert len(node.firewall.writes) == writes
        assert node.firewall.everything() == before
        assert node.log.count("firewall.repaired") == 0

    run(scenario())


@pytest.mark.parametrize("resync_s", [1.0, 5.0, 60.0])
def test_a_spoiled_rule_is_repaired_within_the_resync(resync_s: float) -> None:
    """A rule deleted, doubled or moved, or the jump gone, is put right within --iptables-resync, and logged once."""

    async def scenario() -> None:
        node = node_with(iptables_resync_s=resync_s)
        async with node.running():
            wanted = list(node.firewall.rules(*FWD) or ())
            spoilers = (list.reverse, lambda rules: rules.append(rules[0]), lambda rules: rules.pop(), list.clear)
            for count, spoil in enumerate(spoilers, 1):
                rules = node.firewall.rules(*FWD)
                assert rules is not None
                spoil(rules)  # type: ignore[operator]
                await until(lambda: node.firewall.rules(*FWD) == wanted, resync_s + 0.1)
                await asyncio.sleep(0.1)
                assert node.log.count("firewall.repaired") == count
            node.firewall.drop(*FWD)
            await until(lambda: node.firewall.rules("filter", "FORWARD") == [JUMP], resync_s + 0.1)
            assert node.firewall.rules(*FWD) == wanted

    run(scenario())


def test_rules_of_the_go_daemon_are_taken_over_once() -> None:
    """v0.11.0's go in the transaction that brings ours; the same rules, set later by hand, are left alone."""

    async def scenario() -> None:
        node = node_with(ip_masq=True)
        node.firewall.put("filter", "FORWARD", "-j DOCKER-USER", *OLD_FORWARD, "-j REJECT")
        node.firewall.put("nat", "POSTROUTING", *OLD_MASQ)
        async with node.running():
            assert node.firewall.rules("filter", "FORWARD") == ["-j DOCKER-USER", JUMP, "-j REJECT"]
            assert len(node.firewall.rules("nat", "POSTROUTING") or ()) == 1
            assert len(node.firewall.writes) == 2
            node.firewall.put("filter", "FORWARD", OLD_FORWARD[0])
            await asyncio.sleep(60)
            assert OLD_FORWARD[0] in (node.firewall.rules("filter", "FORWARD") or ())
            assert len(node.firewall.writes) == 2

    run(scenario())


def test_rules_of_the_network_before_go() -> None:
    """The network that subnet.env names from an earlier run is known: its chain and its plain rules are replaced."""

    async def scenario() -> None:
        node = node_with(env="FLANNEL_NETWORK=10.9.0.0/16\nFLANNEL_SUBNET=10.9.1.1/24\n")
        node.firewall.put("filter", "FORWARD", "-s 10.9.0.0/16 -j ACCEPT", "-s 10.8.0.0/16 -j ACCEPT")
        node.firewall.put(*FWD, "-s 10.9.0.0/16 -j ACCEPT")
        async with node.running():
            assert node.firewall.rules("filter", "FORWARD") == [JUMP, "-s 10.8.0.0/16 -j ACCEPT"]
            assert "172.7.0.0/16" in (node.firewall.rules(*FWD) or ())[0]
            node.firewall.put(*FWD, "-s 10.9.0.0/16 -j ACCEPT")  # by now it is another daemon's network
            await asyncio.sleep(60)
            assert "-s 10.9.0.0/16 -j ACCEPT" in (node.firewall.rules(*FWD) or ())

    run(scenario())


@pytest.mark.parametrize("resync_s", [5.0, 300.0])
def test_rules_that_cannot_be_looked_at_count_for_a_minute(resync_s: float) -> None:
    """A lock that is held for a moment is told and disturbs nobody, however seldom is looked; a minute after the look
    that was due nobody knows that they are there."""

    async def scenario() -> None:
        node = node_with(ip_masq=True, iptables_resync_s=resync_s)
        async with node.running():
            node.firewall.broken = FirewallError("the lock is held")
            await asyncio.sleep(resync_s + 25)
            assert (node.ready, conditions(node)) == (True, ["firewall.failed", "firewall.failed"])
            await asyncio.sleep(130)
            assert not node.ready
            assert "masquerading cannot be kept: the lock is held" in node.why_not
            node.firewall.broken = None
            await until(lambda: node.ready, resync_s + 5)

    run(scenario())


def test_what_nobody_asks_for_any_more_is_removed() -> None:
    """A flag that was switched off takes its rules along, but only after the other rules are in place."""

    async def scenario() -> None:
        node = node_with(ip_masq=True)
        async with node.running():
            pass
        node.configure(ip_masq=False)
        async with node.running():
            await until(lambda: node.firewall.rules(*MASQ) is None, 5)
            assert node.firewall.rules("nat", "POSTROUTING") == []
            assert node.firewall.rules(*FWD)
        node.configure(iptables_forward_rules=False)
        async with node.running():
            await until(lambda: node.firewall.rules(*FWD) is None, 5)
        assert node.log.count("firewall.removed") == 2
        assert conditions(node) == []

    run(scenario())


def test_nothing_is_run_where_nothing_is_asked_for_or_there() -> None:
    """Without the flags, a host without iptables and nft hears nothing about them."""

    async def scenario() -> None:
        node = node_with(iptables_forward_rules=False)
        node.firewall.absent = {"iptables", "nft"}
        async with node.running():
            await asyncio.sleep(400)
            assert conditions(node) == []
        assert not node.firewall.calls
        assert not [event for level, event, _ in node.log.events if level == "warning"]

    run(scenario())


class TestNft:
    def test_one_table_instead_of_iptables(self) -> None:
        """With EnableNFTables both sections are in flannel's table, iptables has nothing; repaired like iptables."""

        async def scenario() -> None:
            node = node_with(NFT_CONFIG, ip_masq=True)
            async with node.running():
                assert nft_chains(node.firewall) == ["forward", "postrtg"]
                assert node.firewall.rules(*FWD) is None
                node.firewall.nft.clear()
                await until(lambda: nft_chains(node.firewall) == ["forward", "postrtg"], 5.1)
                assert node.log.count("firewall.repaired") == 1
                writes = len(node.firewall.writes)
                await asyncio.sleep(60)
                assert len(node.firewall.writes) == writes

        run(scenario())

    def test_the_change_to_nft_and_back(self) -> None:
        """Rules move from iptables, v0.11.0's included, to nft and back; the new ones come before the old ones go."""

        async def scenario() -> None:
            node = node_with(ip_masq=True)
            node.firewall.put("filter", "FORWARD", "-j DOCKER-USER")
            async with node.running():
                await asyncio.sleep(1)
            node.firewall.put("nat", "POSTROUTING", *OLD_MASQ)
            node.firewall.writes.clear()
            node.registry.etcd.put_config(NFT_CONFIG)
            async with node.running():
                await until(lambda: node.firewall.rules(*MASQ) is None, 5)
                assert node.firewall.rules("filter", "FORWARD") == ["-j DOCKER-USER"]
                assert node.firewall.rules("nat", "POSTROUTING") == []
                assert nft_chains(node.firewall) == ["forward", "postrtg"]
            assert [text.split()[0] for text in node.firewall.writes] == ["table", "*filter", "*nat"]
            node.registry.etcd.put_config(CONFIG)
            node.firewall.writes.clear()
            async with node.running():
                await until(lambda: node.firewall.nft == {}, 5)
                assert node.firewall.rules(*MASQ)
            assert [text.split()[0] for text in node.firewall.writes] == ["*filter", "*nat", "delete"]

        run(scenario())

    def test_a_flag_that_is_off_now_takes_its_rules_along(self) -> None:
        """Without --ip-masq the masquerading chain goes from the table, the other one stays."""

        async def scenario() -> None:
            node = node_with(NFT_CONFIG, ip_masq=True)
            async with node.running():
                pass
            node.configure(ip_masq=False)
            async with node.running():
                await until(lambda: nft_chains(node.firewall) == ["forward"], 5)
                assert node.log.count("firewall.removed") == 1

        run(scenario())

    @pytest.mark.parametrize(("network", "stays"), [("172.7.0.0/16", False), ("10.44.0.0/16", True)])
    def test_whose_table_is_removed(self, network: str, stays: bool) -> None:
        """Only a table that is about this network, or the one before, and only when iptables has the rules."""

        async def scenario() -> None:
            other = node_with(NFT_CONFIG.replace(b"172.7.0.0/16", network.encode()), env="")
            async with other.running():
                pass
            node = node_with()
            node.firewall.nft = other.firewall.nft
            node.firewall.absent = {"iptables"}
            async with node.running():
                await asyncio.sleep(60)
                assert nft_chains(node.firewall) == ["forward"]
                node.firewall.absent = set()
                await asyncio.sleep(60)
                assert node.firewall.rules(*FWD)
                assert bool(nft_chains(node.firewall)) is stays

        run(scenario())

    def test_a_drop_that_nft_cannot_overrule_is_told(self) -> None:
        """iptables' FORWARD with the policy DROP, as Docker sets it, gets a warning that says what to do."""

        async def scenario() -> None:
            node = node_with(NFT_CONFIG)
            node.firewall.policies["FORWARD"] = "DROP"
            node.firewall.put("filter", "FORWARD")
            async with node.running():
                await until(lambda: node.log.count("firewall.forward_dropped") == 1, 5)

        run(scenario())

    def test_another_program_of_the_table_is_searched_too(self) -> None:
        """What a third program holds of ours is removed with its own transaction; no task has to know its name."""

        async def scenario() -> None:
            node = node_with()
            third = Third(FakeFirewall())
            node.firewall_programs["third"] = third
            async with node.running():
                await until(lambda: third.applied == ["remove ours"], 5)
                assert node.firewall.rules(*FWD)

        run(scenario())

    def test_iptables_is_not_needed(self) -> None:
        """flanneld needs iptables even with EnableNFTables; here nft is enough."""

        async def scenario() -> None:
            node = node_with(NFT_CONFIG, ip_masq=True)
            node.firewall.absent = {"iptables", "ip6tables"}
            async with node.running():
                assert nft_chains(node.firewall) == ["forward", "postrtg"]
                await asyncio.sleep(400)
                assert conditions(node) == []

        run(scenario())


@contextmanager
def refused(node: FakeNode, what: str) -> Iterator[None]:
    """Expect the start to fail without a lease taken."""
    with pytest.raises(ExceptionGroup) as caught:
        yield
    (error,) = caught.value.exceptions
    assert isinstance(error, ProgramMissing)
    assert error.exit_code == 1
    assert what in str(error)
    assert not node.registry.etcd.records()


class TestMissing:
    @pytest.mark.parametrize(("config", "program"), [(CONFIG, "iptables"), (NFT_CONFIG, "nft")])
    def test_masquerading_without_its_program_ends_the_start(self, config: bytes, program: str) -> None:
        """Exit code 1, a message that names the flag and the program, and no lease in etcd."""

        async def scenario() -> None:
            node = node_with(config, ip_masq=True)
            node.firewall.absent = {program}
            with refused(node, f"--ip-masq is asked for, but there is no program {program}"):
                await node.build().run()

        run(scenario())

    def test_forwarding_without_its_program_is_told_once(self) -> None:
        """One warning, however long it lasts; the node is ready; once the program is there, so are the rules."""

        async def scenario() -> None:
            node = node_with()
            node.firewall.absent = {"iptables"}
            async with node.running():
                await asyncio.sleep(4000)
                assert node.ready
                assert conditions(node) == ["firewall.program_missing"]
                assert node.log.count("firewall.program_missing") == 1
                node.firewall.absent = set()
                await until(lambda: node.firewall.rules(*FWD), 5.1)
                await until(lambda: conditions(node) == [], 1)

        run(scenario())


class TestFailing:
    def test_masquerading_stands_against_readiness_until_it_is_in_place(self) -> None:
        """A program that fails is tried again soon; the node is ready, and says READY=1, when the rules are set."""

        async def scenario() -> None:
            node = node_with(ip_masq=True)
            node.firewall.broken = FirewallError("the lock is held")
            async with node.running(ready=False):
                await asyncio.sleep(100)
                assert not node.ready
                assert "the lock is held" in node.why_not
                assert "READY=1" not in node.manager.told
                assert node.file.text not in (None, PINNED)  # it was tried
                assert node.log.count("firewall.failed") <= 2
                node.firewall.broken = None
                await until(lambda: node.ready, 5.1)
                assert node.manager.told.count("READY=1") == 1

        run(scenario())

    def test_a_failing_look_is_no_reason_to_be_unready(self) -> None:
        """Rules that are in place stay in place while the program fails; it is a problem, but none that blocks."""

        async def scenario() -> None:
            node = node_with(ip_masq=True)
            async with node.running():
                node.firewall.broken = FirewallError("the lock is held")
                await asyncio.sleep(60)
                assert conditions(node) == ["firewall.failed", "firewall.failed"]
                assert node.ready
                node.firewall.broken = None
                await until(lambda: conditions(node) == [], 5.1)

        run(scenario())

    def test_forwarding_that_fails_does_not_block(self) -> None:
        """The other rules are set all the same, and the node is ready."""

        async def scenario() -> None:
            node = node_with(ip_masq=True)
            restore = node.firewall.restore

            async def refuse_filter(family: Family, text: str) -> None:
                if "*filter" in text:
                    raise FirewallError("no such table")
                await restore(family, text)

            node.firewall.restore = refuse_filter  # type: ignore[method-assign]
            async with node.running():
                assert node.firewall.rules(*MASQ)
                assert conditions(node) == ["firewall.failed"]

        run(scenario())

    def test_rules_that_read_back_differently_are_not_written_for_ever(self) -> None:
        """An iptables whose words we do not understand is written to ever more seldom, and told of; nothing blocks."""

        async def scenario() -> None:
            node = node_with(ip_masq=True, iptables_forward_rules=False)
            save, restore = node.firewall.save, node.firewall.restore

            async def understand(family: Family, text: str) -> None:
                await restore(family, text.replace("-j return", "-j RETURN"))

            async def foreign_tongue(family: Family, table: str | None) -> str:
                return (await save(family, table)).replace("-j RETURN", "-j return")

            node.firewall.save = foreign_tongue  # type: ignore[method-assign]
            node.firewall.restore = understand  # type: ignore[method-assign]
            async with node.running():
                await asyncio.sleep(3600)
                assert len(node.firewall.writes) < 30
                assert len(node.firewall.rules(*MASQ) or ()) == 6
                assert conditions(node) == ["firewall.misread"]
                assert node.ready

        run(scenario())

    def test_somebody_who_flushes_all_the_time(self) -> None:
        """While he does, the node is not ready with masquerading; seconds after he stops, the rules are in place."""

        async def scenario() -> None:
            node = node_with(ip_masq=True, iptables_forward_rules=False)
            restore, flushing = node.firewall.restore, True

            async def flushed(family: Family, text: str) -> None:
                await restore(family, text)
                if flushing:
                    node.firewall.drop(*MASQ)

            async with node.running():
                node.firewall.restore = flushed  # type: ignore[method-assign]
                node.firewall.drop(*MASQ)
                await asyncio.sleep(600)
                assert not node.ready
                assert conditions(node) == ["firewall.failed"]
                flushing = False
                await until(lambda: node.ready and bool(node.firewall.rules(*MASQ)), 6)
                writes = len(node.firewall.writes)
                await asyncio.sleep(600)
                assert len(node.firewall.writes) == writes

        run(scenario())

    def test_a_removal_that_keeps_failing_is_given_up(self) -> None:
        """A program that nobody needs is not called for ever."""

        async def scenario() -> None:
            node = node_with(iptables_forward_rules=False)
            node.firewall.broken = FirewallError("not permitted")
            async with node.running():
                await asyncio.sleep(600)
                calls = sum(node.firewall.calls.values())
                assert node.log.count("firewall.removal_failed") == 1
                await asyncio.sleep(600)
                assert sum(node.firewall.calls.values()) == calls
                assert conditions(node) == []

        run(scenario())

    def test_a_hung_firewall_is_a_stopped_loop(self) -> None:
        """A program that never comes back, deadline or not, shows in liveness."""

        async def scenario() -> None:
            node = node_with()
            async with node.running():

                async def hang(family: Family, table: str | None) -> str:
                    await asyncio.sleep(10**6)
                    return f"{family} {table}"

                node.firewall.save = hang  # type: ignore[method-assign]
                await asyncio.sleep(300)
                assert node.daemon is not None
                assert not node.daemon.health().live

        run(scenario())


def test_stopping_leaves_the_rules() -> None:
    """Nothing is taken away at the end."""

    async def scenario() -> None:
        node = node_with(ip_masq=True)
        async with node.running():
            await asyncio.sleep(10)
            before = node.firewall.everything()
        assert node.firewall.everything() == before

    run(scenario())
