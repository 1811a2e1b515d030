"""Which subnet a node takes: its own again, the remembered one, or a free one; checked against a naive oracle."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.lease.allocation import (
    CHOICES,
    Choice,
    Claim,
    Discard,
    Exhausted,
    Reuse,
    SubnetRequest,
    choose,
    free_pairs,
    free_subnets,
)
from pyflanneld.core.lease.codec import SubnetKey, encode_name
from pyflanneld.core.network.config import SubnetRange
from tests.support import strategies
from tests.support.strategies import lease, raw

OWN = IPv4Address("192.168.1.10")
RANGE = SubnetRange(IPv4Network("10.5.0.0/16"), 24, IPv4Address("10.5.1.0"), IPv4Address("10.5.255.0"))
SMALL = SubnetRange(IPv4Network("10.5.0.0/22"), 24, IPv4Address("10.5.1.0"), IPv4Address("10.5.3.0"))

RANGE6 = SubnetRange(IPv6Network("fd00:5::/48"), 64, IPv6Address("fd00:5:0:1::"), IPv6Address("fd00:5:0:ffff::"))
REQUEST6 = SubnetRequest(RANGE6)


def pick(
    records: Iterable[Record] = (),
    subnet_range: SubnetRange[IPv4Network] = RANGE,
    *,
    previous: str | None = None,
    underlay: Sequence[str] = (),
    around: Sequence[str] = (),
    seed: int = 0,
    ipv6: SubnetRequest[IPv6Network] | None = None,
) -> Choice:
    ipv4 = SubnetRequest(
        subnet_range, IPv4Network(previous) if previous else None, tuple(IPv4Network(text) for text in underlay),
        tuple(IPv4Network(text) for text in around),
    )
    return choose(tuple(records), OWN, ipv4, ipv6, Random(seed))


def claimed(choice: Choice) -> IPv4Network:
    assert isinstance(choice, Claim)
    return choice.subnet


def naive_free(subnet_range: SubnetRange[IPv4Network], taken: Iterable[IPv4Network]) -> list[tuple[int, int]]:
    """Every free subnet as (first, last) integers, by comparing everything with everything."""
    size = 2 ** (32 - subnet_range.subnet_len)
    spans = [(int(net.network_address), int(net.network_address) + 2 ** (32 - net.prefixlen) - 1) for net in taken]
    free = []
    for first in range(int(subnet_range.subnet_min), int(subnet_range.subnet_max) + 1, size):
        last = first + size - 1
        if not any(start <= last and end >= first for start, end in spans):
            free.append((first, last))
    return free


@st.composite
def crowded(draw: st.DrawFn) -> tuple[SubnetRange[IPv4Network], list[IPv4Network]]:
    """A range, and subnets of mixed lengths in and around it, most of them where they are in the way."""
    subnet_range = draw(strategies.ranges(bits=9))
    fitting = st.integers(int(subnet_range.subnet_min), int(subnet_range.subnet_max) | 0xFF).map(
        lambda address: IPv4Network((address, subnet_range.subnet_len), strict=False)
    )
    strangers = strategies.subnets(subnet_range.network, longest=32) | strategies.networks()
    taken = st.lists(fitting | strangers, max_size=12)
    return subnet_range, draw(taken)


@given(crowded())
def test_what_is_free_is_what_the_naive_oracle_finds(drawn: tuple[SubnetRange[IPv4Network], list[IPv4Network]]) -> None:
    """Free subnets are exactly those that overlap nothing taken, of whatever length, from the lowest."""
    subnet_range, taken = drawn
    found = [(int(net.network_address), int(net.broadcast_address)) for net in free_subnets(subnet_range, taken)]
    assert found == naive_free(subnet_range, taken)


@given(crowded(), st.integers(0, 2**32 - 1))
def test_a_claimed_subnet_is_free_admitted_and_among_the_first(
    drawn: tuple[SubnetRange[IPv4Network], list[IPv4Network]], seed: int
) -> None:
    """A claim overlaps no lease, may be leased here, and is one of the first 100 free; none free is said as such."""
    subnet_range, taken = drawn
    records = [lease(net, created=number) for number, net in enumerate(taken)]
    choice = choose(records, OWN, SubnetRequest(subnet_range), None, Random(seed))
    free = naive_free(subnet_range, [net for net in taken if not subnet_range.network.subnet_of(net)])
    if not free:
        assert choice == Exhausted()
        return
    subnet = claimed(choice)
    assert subnet_range.admits(subnet)
    assert (int(subnet.network_address), int(subnet.broadcast_address)) in free[:CHOICES]


@given(crowded(), st.data())
def test_a_remembered_subnet_is_taken_exactly_if_it_is_free(
    drawn: tuple[SubnetRange[IPv4Network], list[IPv4Network]], data: st.DataObject
) -> None:
    """The remembered subnet is claimed if it is admitted and free; else something else is, with the reason."""
    subnet_range, taken = drawn
    offered = list(islice(subnet_range.subnets(), 300))
    previous = data.draw(strategies.subnets(subnet_range.network) | st.sampled_from(offered))
    records = [lease(net) for net in taken]
    choice = choose(records, OWN, SubnetRequest(subnet_range, previous), None, Random(1))
    free = naive_free(subnet_range, [net for net in taken if not subnet_range.network.subnet_of(net)])
    fits = previous.prefixlen == subnet_range.subnet_len
    if fits and (int(previous.network_address), int(previous.broadcast_address)) in free:
        assert choice == Claim(previous, None)
    elif free:
        assert isinstance(choice, Claim)
        assert choice.subnet != previous
        assert choice.previous_refused is not None
    else:
        assert choice == Exhausted()


def test_the_choice_is_spread_over_the_first_hundred() -> None:
    """Many nodes at once choose all over the first 100 free subnets, and never beyond."""
    seen = {claimed(pick(seed=seed)) for seed in range(1500)}
    assert seen == set(islice(RANGE.subnets(), CHOICES))
    assert CHOICES == 100


def test_the_same_seed_chooses_the_same() -> None:
    """The choice depends on its arguments only."""
    assert pick(seed=5) == pick(seed=5)


def test_a_lease_with_our_address_is_held_again() -> None:
    """Our own lease is known by the published address, before anything that the file remembers."""
    own = lease("10.5.34.0/24", str(OWN))
    others = (lease("10.5.35.0/24"), own, lease("10.5.36.0/24", "192.168.1.12"))
    assert pick(others) == Reuse(own, IPv4Network("10.5.34.0/24"))
    assert pick(others, previous="10.5.40.0/24") == Reuse(own, IPv4Network("10.5.34.0/24"))


def test_of_several_own_leases_the_remembered_one_is_held() -> None:
    """Where several leases carry our address, the one that the file names is ours, else the oldest."""
    young, old = lease("10.5.34.0/24", str(OWN), created=9), lease("10.5.80.0/24", str(OWN), created=4)
    assert pick((young, old), previous="10.5.34.0/24") == Reuse(young, IPv4Network("10.5.34.0/24"))
    for records in ((young, old), (old, young)):
        assert pick(records) == Reuse(old, IPv4Network("10.5.80.0/24"))
        assert pick(records, previous="10.5.90.0/24") == Reuse(old, IPv4Network("10.5.80.0/24"))


def test_a_reservation_of_ours_is_held() -> None:
    """A key without TTL that carries our address is our reservation."""
    reserved = lease("10.5.34.0/24", str(OWN), lease_id=0)
    assert pick([reserved]) == Reuse(reserved, IPv4Network("10.5.34.0/24"))


def test_a_lease_of_ours_by_another_backend_is_held() -> None:
    """As in flannel, the backend of our lease does not matter; its value is rewritten later."""
    own = lease("10.5.34.0/24", str(OWN), backend="vxlan")
    assert pick([own]) == Reuse(own, IPv4Network("10.5.34.0/24"))


@pytest.mark.parametrize("subnet", ["10.5.34.0/25", "10.5.32.0/23", "10.5.0.0/24", "10.6.1.0/24", "172.7.21.0/24"])
def test_a_lease_of_ours_that_does_not_fit_is_discarded(subnet: str) -> None:
    """Of another length, beyond the bounds or of another network: deleted, then chosen again."""
    own = lease(subnet, str(OWN))
    assert pick([own]) == Discard(own)


def test_a_fitting_lease_spares_the_others() -> None:
    """Where one lease of ours fits, none is deleted."""
    good = lease("10.5.34.0/24", str(OWN), created=9)
    assert pick([lease("10.5.34.0/25", str(OWN)), good]) == Reuse(good, IPv4Network("10.5.34.0/24"))


def test_a_reservation_is_never_discarded() -> None:
    """A key without TTL that carries our address and does not fit is the operator's: it stays, and blocks."""
    reserved = lease("10.5.0.0/17", str(OWN), lease_id=0)
    subnet = claimed(pick([reserved]))
    assert not subnet.overlaps(IPv4Network("10.5.0.0/17"))


def test_a_key_of_the_other_form_gives_its_ipv4_subnet_back() -> None:
    """After a change to or from dual stack our key is deleted, and its IPv4 subnet is the one to claim again."""
    dual = raw(strategies.DUAL_STACK_NAME, lease("10.5.3.0/24", str(OWN)).value)
    assert pick([dual], SMALL) == Discard(dual, keep=IPv4Network("10.5.3.0/24"))
    ipv4_only = lease("10.5.3.0/24", str(OWN))
    assert pick([ipv4_only], SMALL, ipv6=REQUEST6) == Discard(ipv4_only, keep=IPv4Network("10.5.3.0/24"))


def test_a_reservation_of_the_other_form_stays() -> None:
    """It is the operator's to rewrite; until then its subnet is taken."""
    dual = raw(strategies.DUAL_STACK_NAME, lease("10.5.3.0/24", str(OWN)).value, lease_id=0)
    choice = pick([dual], SMALL, previous="10.5.3.0/24")
    assert isinstance(choice, Claim)
    assert choice.subnet != IPv4Network("10.5.3.0/24")
    assert choice.previous_refused is not None


def test_a_dual_stack_lease_of_ours_is_reused() -> None:
    """It is known by the IPv4 address, with both subnets; one whose IPv6 subnet does not fit is given up."""
    dual = raw(b"10.5.3.0-24&fd00:5:0:3::-64", lease("10.5.3.0/24", str(OWN)).value)
    assert pick([dual], ipv6=REQUEST6) == Reuse(dual, IPv4Network("10.5.3.0/24"), IPv6Network("fd00:5:0:3::/64"))
    misfit = raw(b"10.5.3.0-24&fd00:9:0:3::-64", dual.value)
    assert pick([misfit], ipv6=REQUEST6) == Discard(misfit, keep=IPv4Network("10.5.3.0/24"))


def test_both_remembered_subnets_are_claimed() -> None:
    """What the subnet file names is claimed while it is free, each subnet for itself."""
    both = SubnetRequest(RANGE6, IPv6Network("fd00:5:0:7::/64"))
    choice = pick(previous="10.5.34.0/24", ipv6=both)
    assert choice == Claim(IPv4Network("10.5.34.0/24"), None, IPv6Network("fd00:5:0:7::/64"))
    taken = raw(b"10.5.9.0-24&fd00:5:0:7::-64", b"junk")
    other = pick([taken], previous="10.5.34.0/24", ipv6=both)
    assert isinstance(other, Claim)
    assert (other.subnet, other.previous_refused) == (
        IPv4Network("10.5.34.0/24"), "IPv6: it overlaps fd00:5:0:7::/64, which is taken",
    )
    assert other.ipv6 != both.previous


@given(st.sets(st.integers(1, 120)), st.integers(0, 5))
def test_a_free_ipv6_subnet_is_among_the_lowest_hundred(taken: set[int], seed: int) -> None:
    """The IPv6 subnet overlaps no lease and no underlay, and is one of the first hundred that are free."""
    records = [raw(f"10.9.{n}.0-24&fd00:5:0:{n:x}::-64".encode(), b"") for n in taken]
    underlay = IPv6Network("fd00:5:0:100::/60")
    choice = pick(records, ipv6=SubnetRequest(RANGE6, None, (underlay,)), seed=seed)
    assert isinstance(choice, Claim)
    assert choice.ipv6 is not None
    number = int(choice.ipv6.network_address) - int(RANGE6.network.network_address) >> 64
    free = [n for n in range(1, 65536) if n not in taken and not 0x100 <= n < 0x110]
    assert number in free[:CHOICES]


@given(st.sets(st.integers(1, 255)), st.sets(st.integers(1, 400)), st.integers(0, 99))
def test_free_subnets_are_chosen_in_pairs(taken: set[int], taken6: set[int], seed: int) -> None:
    """The two have the same number, as long as there is such a pair; what others choose from is told."""
    records = [raw(f"10.5.{n}.0-24".encode(), b"") for n in taken]
    records += [raw(f"10.9.{n}.0-26&fd00:5:0:{n:x}::-64".encode(), b"") for n in taken6 if n < 256]
    free = [n for n in range(1, 256) if n not in taken | taken6][:CHOICES]
    choice = pick(records, seed=seed, ipv6=REQUEST6)
    if taken == set(range(1, 256)):
        assert choice == Exhausted()
        return
    assert isinstance(choice, Claim)
    pairs = [SubnetKey(IPv4Network(f"10.5.{n}.0/24"), IPv6Network(f"fd00:5:0:{n:x}::/64")) for n in free]
    assert choice.choices == tuple(pairs)
    assert choice.key in pairs or not pairs


def test_what_was_lost_is_not_chosen_again_and_stays_a_choice_of_the_others() -> None:
    """All by one list have the same choices, whoever has lost what."""
    first = pick(ipv6=REQUEST6)
    assert isinstance(first, Claim)
    for seed in range(300):
        again = choose((), OWN, SubnetRequest(RANGE), REQUEST6, Random(seed), lost=[first.key])
        assert isinstance(again, Claim)
        assert not again.key.overlaps(first.key)
        assert again.choices == first.choices


def test_a_pair_beyond_the_other_range_is_none() -> None:
    """Where one range is longer, what has no partner is chosen for itself."""
    short = SubnetRange(IPv6Network("fd00:5::/48"), 64, IPv6Address("fd00:5:0:1::"), IPv6Address("fd00:5:0:3::"))
    shared = [pair.ipv4 for pair in free_pairs(RANGE, (), short, ())]
    assert shared == list(islice(RANGE.subnets(), 3))
    paired = {claimed(pick(seed=seed, ipv6=SubnetRequest(short))) for seed in range(60)}
    assert paired == set(shared)
    records = [raw(f"10.5.{n}.0-24".encode(), b"") for n in (1, 2, 3)]
    other = pick(records, ipv6=SubnetRequest(short))
    assert isinstance(other, Claim)
    assert other.choices == ()
    assert other.ipv6 in list(short.subnets())


def test_the_partner_of_a_remembered_subnet_is_chosen() -> None:
    """A file that names the IPv4 subnet alone leads to the IPv6 one with the same number."""
    choice = pick(previous="10.5.34.0/24", ipv6=REQUEST6)
    assert choice == Claim(IPv4Network("10.5.34.0/24"), None, IPv6Network("fd00:5:0:22::/64"))


def test_an_exhausted_family_is_exhaustion() -> None:
    """Without a free IPv6 subnet there is no lease: an IPv4 one alone would be a key of the other form."""
    small = SubnetRange(IPv6Network("fd00:5::/62"), 64, IPv6Address("fd00:5:0:1::"), IPv6Address("fd00:5:0:1::"))
    assert pick([raw(b"10.9.1.0-24&fd00:5:0:1::-64", b"")], ipv6=SubnetRequest(small)) == Exhausted()


def test_the_remembered_subnet_is_claimed() -> None:
    """The subnet that the file names is claimed while it is free."""
    assert pick([lease("10.5.35.0/24")], previous="10.5.34.0/24") == Claim(IPv4Network("10.5.34.0/24"), None)


@pytest.mark.parametrize(
    ("previous", "why"),
    [
        ("10.5.35.0/24", "it overlaps 10.5.35.0/24, which is taken"),
        ("10.5.36.0/24", "it overlaps 10.5.36.128/25, which is taken"),
        ("10.5.41.0/24", "it overlaps 10.5.40.0/22, which is taken"),
        ("10.5.0.0/24", "it is not one of the subnets of 10.5.0.0/16 that may be leased"),
        ("10.5.34.0/25", "it is not one of the subnets of 10.5.0.0/16 that may be leased"),
        ("172.7.21.0/24", "it is not one of the subnets of 10.5.0.0/16 that may be leased"),
    ],
)
def test_a_remembered_subnet_is_refused_with_its_reason(previous: str, why: str) -> None:
    """Row F49: taken, overlapped or of another network; another one is claimed, and the reason is given."""
    records = [lease("10.5.35.0/24"), lease("10.5.36.128/25"), lease("10.5.40.0/22")]
    choice = pick(records, previous=previous)
    assert isinstance(choice, Claim)
    assert choice.previous_refused == why
    assert not choice.subnet.overlaps(IPv4Network(previous))


def test_a_full_network_is_said_to_be_full() -> None:
    """Nothing free is an answer of its own, with a remembered subnet or without."""
    records = [lease(f"10.5.{number}.0/24") for number in (1, 2, 3)]
    assert pick(records, SMALL) == Exhausted()
    assert pick(records, SMALL, previous="10.5.2.0/24") == Exhausted()
    assert claimed(pick(records[1:], SMALL)) == IPv4Network("10.5.1.0/24")


@pytest.mark.parametrize("value", strategies.POISON_VALUES)
def test_a_broken_value_does_not_free_its_subnet(value: bytes) -> None:
    """Rows F51 to F53: a key claims its subnet whatever its value says."""
    records = [lease("10.5.1.0/24"), lease("10.5.3.0/24"), raw(b"10.5.2.0-24", value)]
    assert pick(records, SMALL) == Exhausted()


@pytest.mark.parametrize("name", strategies.POISON_NAMES)
def test_a_junk_key_takes_nothing(name: bytes) -> None:
    """Rows F50, F55 and F59: a key that names no subnet is neither in the way nor ours."""
    own_value = lease("10.5.1.0/24", str(OWN)).value
    records = [lease("10.5.1.0/24"), lease("10.5.3.0/24"), raw(name, own_value)]
    assert claimed(pick(records, SMALL)) == IPv4Network("10.5.2.0/24")


@pytest.mark.parametrize("subnet", ["0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/8", "10.5.0.0/16"])
def test_a_key_as_large_as_the_network_takes_nothing(subnet: str) -> None:
    """Row F54: a key that claims the whole network or more is nobody's lease and cannot keep new nodes out."""
    junk = lease(subnet)
    assert isinstance(pick([junk]), Claim)
    assert pick([junk], previous="10.5.34.0/24") == Claim(IPv4Network("10.5.34.0/24"), None)


def test_a_part_of_the_network_is_taken_whatever_its_length() -> None:
    """Row F43: keys of any other length that are proper parts of the network are respected."""
    records = [lease("10.5.0.0/23"), lease("10.5.3.255/32")]
    assert claimed(pick(records, SMALL)) == IPv4Network("10.5.2.0/24")


def test_the_underlay_is_avoided() -> None:
    """Row F45: no lease overlaps the networks that our own traffic uses; a remembered one gives way to them."""
    choice = pick((), SMALL, previous="10.5.2.0/24", underlay=["10.5.2.0/23"])
    assert choice == Claim(IPv4Network("10.5.1.0/24"), "it overlaps 10.5.2.0/23, which is taken")
    assert pick((), SMALL, underlay=["10.5.0.0/22"]) == Exhausted()
    assert pick((), SMALL, underlay=["10.0.0.0/8"]) == Exhausted()


def test_a_part_of_the_lan_is_taken_where_there_is_nothing_else() -> None:
    """As flanneld: a LAN that is wider than a lease may hold one, but not over the address of a host that is known."""
    assert claimed(pick((), SMALL, around=["10.5.0.0/23"])) != IPv4Network("10.5.1.0/24")
    hosts = [lease("10.9.1.0/24", "10.5.1.11", created=1), lease("10.9.2.0/24", "10.5.2.11", created=2)]
    for seed in range(20):
        choice = pick(hosts, SMALL, around=["10.5.0.0/16"], seed=seed)
        assert claimed(choice) == IPv4Network("10.5.3.0/24")
    assert pick(hosts, SMALL, around=["10.5.0.0/16"], underlay=["10.5.3.7/32"]) == Exhausted()
    assert claimed(pick((), SMALL, previous="10.5.2.0/24", around=["10.5.0.0/16"])) == IPv4Network("10.5.2.0/24")


@given(st.lists(st.integers(0, 254).map(lambda n: IPv4Network((0x0A050000 + (n << 8), 24))), unique=True, max_size=60))
def test_nodes_that_start_one_after_the_other_never_overlap(held: list[IPv4Network]) -> None:
    """Whoever comes next gets a subnet of its own, until none is left."""
    records = [lease(net) for net in held]
    for number in range(5):
        subnet = claimed(pick(records, seed=number))
        assert all(not subnet.overlaps(net) for net in held)
        held = [*held, subnet]
        records.append(raw(encode_name(subnet), b"", created=number))
