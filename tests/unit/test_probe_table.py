"""Probing, decided: turns and their density, what answers amount to, and the search for a path's MTU."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.probe.reachability import ProbeState, worst_trouble
from pyflanneld.core.probe.table import (
    MAX_RATE,
    MTU_FLOOR_BYTES,
    TIMEOUT_S,
    MtuSearch,
    Probe,
    ProbeFailure,
    ProbeKind,
    ProbeReply,
    ProbeTable,
)

PEER = IPv4Network("172.7.22.0/24")
HOST = IPv4Address("192.168.14.22")
BRIDGE = IPv4Address("172.7.22.1")


def peers(count: int) -> dict[IPv4Network, IPv4Address]:
    base, hosts = int(IPv4Address("10.64.0.0")), int(IPv4Address("10.0.0.0"))
    return {IPv4Network((base + (n << 8), 24)): IPv4Address(hosts + n + 1) for n in range(count)}


def answer(probe: Probe) -> ProbeReply:
    return ProbeReply(probe.number, probe.address, 0.002)


class Walk:
    """One peer's table, on a network that loses the kinds of probes in *lost* and what is above *path_mtu*."""

    def __init__(self, link_mtu: int = 1500) -> None:
        self.table = ProbeTable()
        self.table.follow({PEER: HOST}, link_mtu)
        self.now_s = 1000.0
        self.rng = Random(1)
        self.lost: set[ProbeKind] = set()
        self.path_mtu = link_mtu
        self.told = False
        self.sizes: list[int] = []
        self.due = {ProbeKind.ADDRESS: 0, ProbeKind.SUBNET: 0}

    def rounds(self, count: int) -> ProbeState:
        """Do so many rounds; return what is thought of the peer."""
        for kind in [kind for _ in range(count) for kind in (ProbeKind.ADDRESS, ProbeKind.SUBNET)]:
            self.due[kind] += 1
        while any(self.due.values()):
            self.step()
        return self.table.reachability[PEER].state

    def step(self) -> None:
        probe = self.table.next_probe(self.now_s, self.rng)
        assert probe is not None
        if probe.kind in self.due:
            self.due[probe.kind] -= 1
        else:
            self.sizes.append(probe.size_bytes)
        if probe.size_bytes > self.path_mtu and self.told:
            self.table.record(ProbeFailure(probe.number, self.path_mtu), self.now_s)
        elif probe.kind not in self.lost and probe.size_bytes <= self.path_mtu:
            self.table.record(answer(probe), self.now_s)
        self.now_s += TIMEOUT_S + 1
        self.table.expire(self.now_s)


# Turns


@pytest.mark.parametrize("count", [1, 40, 4000])
def test_a_round_reaches_every_target_once(count: int) -> None:
    """Each peer's address and each subnet's first address, in an order that is not the same again."""
    table, rng = ProbeTable(), Random(7)
    table.follow(peers(count), 1500)
    rounds = []
    for _ in range(2):
        probes = [table.next_probe(0.0, rng) for _ in range(2 * count)]
        targets = [probe.address for probe in probes if probe is not None]
        assert len(set(targets)) == 2 * count
        rounds.append(targets)
    wanted = {address for net, host in peers(count).items() for address in (host, net.network_address + 1)}
    assert set(rounds[0]) == set(rounds[1]) == wanted
    assert count == 1 or rounds[0] != rounds[1]


@pytest.mark.parametrize(("count", "interval_s"), [(1, 30.0), (100, 30.0), (4000, 5.0), (4000, 30.0), (4000, 3600.0)])
def test_the_rate_is_bounded(count: int, interval_s: float) -> None:
    """In no second more than ``MAX_RATE`` probes leave; a round lasts about the interval, longer where it has to."""
    table, rng, now_s = ProbeTable(), Random(3), 0.0
    table.follow(peers(count), 1500)
    sent = []
    for _ in range(2 * count + 1):
        table.next_probe(now_s, rng)
        sent.append(now_s)
        now_s += table.pause_s(interval_s, rng)
    ahead = [later - earlier for earlier, later in zip(sent, sent[MAX_RATE:], strict=False)]
    assert all(span >= 1.0 - 1e-6 for span in ahead)
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    even_s = max(interval_s / (2 * count), 1 / MAX_RATE)
    assert max(gaps) <= 2 * even_s
    lasts_s = sent[-1]
    assert 0.5 * interval_s <= lasts_s <= max(1.5 * interval_s, 1.5 * 2 * count / MAX_RATE)


def test_no_peer_no_probe() -> None:
    """An empty network is silent, and so is one whose last peer has gone in the midst of a round."""
    table, rng = ProbeTable(), Random(1)
    assert table.next_probe(0.0, rng) is None
    table.follow(peers(3), 1500)
    assert table.next_probe(0.0, rng) is not None
    table.follow({}, 1500)
    assert table.next_probe(0.0, rng) is None
    assert table.reachability == {}


def test_ipv6_subnets_are_left_out() -> None:
    """A dual-stack peer is one host: it is probed by its IPv4 address."""
    table = ProbeTable()
    table.follow({PEER: HOST, IPv6Network("2001:db8:7::/64"): IPv6Address("fe80::1")}, 1500)
    assert set(table.reachability) == {PEER}


# Answers


def test_all_is_well() -> None:
    """A peer that answers is reachable: no loss, a round trip, the link's MTU, and nothing to tell."""
    walk = Walk()
    assert walk.rounds(12) is ProbeState.REACHABLE
    reach = walk.table.reachability[PEER]
    assert (reach.gateway, reach.mtu, reach.is_good) == (HOST, 1500, True)
    for sample in (reach.address, reach.subnet):
        assert (sample.count, sample.loss, sample.rtt_s, sample.smoothed_rtt_s) == (10, 0.0, 0.002, 0.002)
    assert worst_trouble(walk.table.trouble) is None
    assert walk.sizes == [1500]


def test_before_the_first_answers() -> None:
    """A peer of which nothing is known is not in trouble."""
    table = ProbeTable()
    table.follow({PEER: HOST}, 1500)
    reach = table.reachability[PEER]
    assert (reach.state, reach.address.loss, reach.address.rtt_s, reach.mtu) == (ProbeState.UNKNOWN, None, None, None)
    assert reach.is_good


def test_a_silent_host() -> None:
    """Three probes without an answer and it is silent; the first answer ends that, and begins the count anew."""
    walk = Walk()
    walk.rounds(5)
    walk.lost = {ProbeKind.ADDRESS, ProbeKind.SUBNET, ProbeKind.MTU}
    walk.rounds(2)
    assert walk.table.reachability[PEER].state is not ProbeState.SILENT
    assert walk.rounds(1) is ProbeState.SILENT
    said = worst_trouble(walk.table.trouble)
    assert said == (ProbeState.SILENT, "192.168.14.22, the host of 172.7.22.0/24, does not answer probes")
    walk.lost = set()
    assert walk.rounds(1) is ProbeState.REACHABLE
    assert walk.table.reachability[PEER].address.loss == 0.0


def test_a_silent_subnet() -> None:
    """The host answers and its bridge does not: said as such, with the address that should answer."""
    walk = Walk()
    walk.lost = {ProbeKind.SUBNET}
    assert walk.rounds(4) is ProbeState.SUBNET_SILENT
    said = worst_trouble(walk.table.trouble)
    assert said is not None
    assert said[1] == "192.168.14.22 answers probes, but 172.7.22.1 behind it does not: is Docker's bridge up there?"


def test_a_lossy_path() -> None:
    """Two of ten lost are told, one is not."""
    walk = Walk()
    walk.rounds(9)
    for _ in range(2):
        walk.lost = {ProbeKind.ADDRESS}
        walk.rounds(1)
        walk.lost = set()
        state = walk.rounds(1)
    assert state is ProbeState.LOSSY
    said = worst_trouble(walk.table.trouble)
    assert said is not None
    assert said[1] == "probes to 192.168.14.22, the host of 172.7.22.0/24, are lost: 2 of the last 10"
    assert walk.rounds(10) is ProbeState.REACHABLE
    walk.lost = {ProbeKind.ADDRESS}
    assert walk.rounds(1) is ProbeState.REACHABLE, "one of ten"


def test_the_gravest_is_told_first_with_the_number_of_all() -> None:
    """One sentence for all peers in trouble."""
    table, rng, now_s = ProbeTable(), Random(1), 0.0
    table.follow(peers(5), 1500)
    quiet = IPv4Address("10.0.0.4")
    for _ in range(60):
        probe = table.next_probe(now_s, rng)
        assert probe is not None
        if probe.kind is not ProbeKind.SUBNET and probe.address != quiet:
            table.record(answer(probe), now_s)
        now_s += 3.0
        table.expire(now_s)
    state, text = worst_trouble(table.trouble) or (None, "")
    assert state is ProbeState.SILENT
    assert text == "10.0.0.4, the host of 10.64.3.0/24, does not answer probes (and 4 more in trouble)"


def test_answers_of_strangers_and_late_ones_tell_nothing() -> None:
    """An answer counts once, from the address that was asked, before it is given up."""
    table, rng = ProbeTable(), Random(1)
    table.follow({PEER: HOST}, 1500)
    probe = table.next_probe(0.0, rng)
    assert probe is not None
    table.record(ProbeReply(probe.number, IPv4Address("192.168.14.99"), 0.001), 0.1)
    table.record(ProbeReply(probe.number + 1, probe.address, 0.001), 0.1)
    assert table.reachability[PEER].state is ProbeState.UNKNOWN
    assert table.due_s == TIMEOUT_S
    table.expire(TIMEOUT_S - 0.1)
    assert table.reachability[PEER].state is ProbeState.UNKNOWN
    table.expire(TIMEOUT_S)
    assert table.due_s == inf
    table.record(answer(probe), TIMEOUT_S + 0.1)
    reach = table.reachability[PEER]
    assert {reach.address.loss, reach.subnet.loss} == {1.0, None}


def test_a_new_gateway_is_a_new_beginning() -> None:
    """What was known of the old host does not count for the new one; an unchanged peer keeps its past."""
    walk = Walk()
    walk.rounds(4)
    walk.table.follow({PEER: HOST, **peers(1)}, 1500)
    assert walk.table.reachability[PEER].address.count == 4
    walk.table.follow({PEER: IPv4Address("192.168.14.23")}, 1500)
    assert walk.table.reachability[PEER].address.count == 0
    walk.table.follow({PEER: IPv4Address("192.168.14.23")}, 9000)
    assert walk.table.reachability[PEER].link_mtu == 9000


def test_the_round_trip_is_smoothed() -> None:
    """One slow answer shows as the last, and moves the average by an eighth."""
    table, rng = ProbeTable(), Random(1)
    table.follow({PEER: HOST}, 1500)
    for rtt_s in (0.008, 0.016):
        done = False
        while not done:
            probe = table.next_probe(0.0, rng)
            assert probe is not None
            done = probe.kind is ProbeKind.ADDRESS
            table.record(ProbeReply(probe.number, probe.address, rtt_s), 5.0)
    sample = table.reachability[PEER].address
    assert (sample.last_s, sample.rtt_s) == (5.0, 0.016)
    assert sample.smoothed_rtt_s == pytest.approx(0.009)


# The path's MTU


def test_a_router_that_says_what_fits() -> None:
    """Its word is tried and then believed: two large probes, and the MTU is known."""
    walk = Walk()
    walk.path_mtu, walk.told = 1400, True
    assert walk.rounds(6) is ProbeState.MTU_SMALLER
    assert walk.sizes == [1500, 1400]
    said = worst_trouble(walk.table.trouble)
    assert said is not None
    assert said[1] == (
        "packets to 192.168.14.22, the host of 172.7.22.0/24, get through up to 1400 bytes only, "
        "but this host sends up to 1500"
    )


@given(mtu=st.integers(MTU_FLOOR_BYTES, 9000), link=st.integers(68, 9000))
def test_a_path_that_says_nothing(mtu: int, link: int) -> None:
    """The MTU is found by halving, in a bounded number of probes, whatever it is."""
    search, probes = MtuSearch(link), 0
    while (size_bytes := search.size_bytes) is not None:
        probes += 1
        assert probes <= 32
        if size_bytes <= mtu:
            search.passed(size_bytes)
        else:
            search.missed(size_bytes, None)
    assert search.mtu == min(mtu, link)


@given(answers=st.lists(st.one_of(st.none(), st.integers(-1, 70000), st.just("passed")), max_size=200))
def test_lies_about_the_mtu_end(answers: list[int | str | None]) -> None:
    """Whatever is answered, sizes stay within the link's and the search ends."""
    search, told = MtuSearch(1500), iter(answers)
    for _ in range(300):
        size_bytes = search.size_bytes
        if size_bytes is None:
            break
        assert MTU_FLOOR_BYTES <= size_bytes <= 1500
        word = next(told, None)
        if word == "passed":
            search.passed(size_bytes)
        else:
            search.missed(size_bytes, word if isinstance(word, int) else None)
    assert search.mtu is not None


def test_large_probes_wait_for_small_ones() -> None:
    """As long as a host answers nothing, its silence says nothing about sizes."""
    walk = Walk()
    walk.lost = {ProbeKind.ADDRESS, ProbeKind.SUBNET, ProbeKind.MTU}
    walk.rounds(20)
    assert walk.sizes == []
    assert walk.table.reachability[PEER].mtu is None
