"""The fold of the peers' leases: laws of the fold, every row of the poison, and a checker that knows only integers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import pairwise
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.etcd_types import Gone, PeerEvent, Put, Record, Snapshot
from pyflanneld.core.families import Address, Network
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import encode_name, parse_value
from pyflanneld.core.peers.table import PeerTable, View
from pyflanneld.core.peers.validation import LONGEST_SUBNET, FamilyContext, Quarantine, ValidationContext, Validator
from tests.support import strategies
from tests.support.strategies import CONTEXT, IPV4, lease, raw

OWN_NAME = encode_name(IPV4.own_subnet)
GOOD = (lease("10.5.1.0/24", "192.168.1.11", created=3), lease("10.5.2.0/24", "192.168.1.12", created=4))
GOOD_PEERS = {"10.5.1.0/24": "192.168.1.11", "10.5.2.0/24": "192.168.1.12"}


def with_ipv4(**fields: object) -> ValidationContext:
    return replace(CONTEXT, ipv4=replace(IPV4, **fields))


def listed(*records: Record, revision: int = 100) -> Snapshot:
    return Snapshot(records, revision, 1)


def table(*events: PeerEvent, context: ValidationContext = CONTEXT) -> PeerTable:
    """Return a table to which *events* have been applied, with a view after each."""
    peers = PeerTable(OWN_NAME)
    for event in events:
        peers.apply(event)
        peers.view(context)
    return peers


def view(*events: PeerEvent, context: ValidationContext = CONTEXT) -> View:
    return table(*events, context=context).view(context)


def text(peers: Mapping[IPv4Network, IPv4Address]) -> dict[str, str]:
    return {str(subnet): str(gateway) for subnet, gateway in peers.items()}


def reasons(seen: View) -> dict[bytes, str]:
    return {name: quarantine.reason for name, quarantine in seen.quarantined.items()}


# What is accepted.


def test_a_complete_list_is_the_whole_truth() -> None:
    """Each lease of the list is a peer, and a peer that the next list lacks is none."""
    assert text(view(listed(*GOOD)).peers) == GOOD_PEERS
    assert text(view(listed(*GOOD), listed(GOOD[0])).peers) == {"10.5.1.0/24": "192.168.1.11"}
    assert view(listed(*GOOD), listed()) == View({}, {}, frozenset(), frozenset())


def test_single_changes_are_folded_in() -> None:
    """A put adds or changes a peer, a deletion takes it away; each says that something has changed."""
    peers = table(listed(*GOOD))
    assert peers.apply(Put(lease("10.5.3.0/24", "192.168.1.13", created=101)))
    assert peers.apply(Put(lease("10.5.1.0/24", "192.168.1.21", created=3, changed=102)))
    assert peers.apply(Gone(b"10.5.2.0-24", 103))
    assert text(peers.view(CONTEXT).peers) == {"10.5.1.0/24": "192.168.1.21", "10.5.3.0/24": "192.168.1.13"}


def test_nothing_new_changes_nothing() -> None:
    """The same list, the same put and a deletion of what is not there say that nothing has changed."""
    peers = table(listed(*GOOD))
    assert not peers.apply(listed(*GOOD, revision=200))
    assert not peers.apply(Put(GOOD[0]))
    assert not peers.apply(Gone(b"10.5.9.0-24", 300))
    assert peers.apply(listed(*GOOD, lease("10.5.3.0/24"), revision=400))
    assert peers.apply(listed(*GOOD, revision=500))


def test_a_changed_gateway_on_a_list_is_taken_over() -> None:
    """Row F27: what changed while we were away is seen although its subnet is known."""
    moved = lease("10.5.1.0/24", "192.168.1.99", created=3, changed=150)
    assert text(view(listed(*GOOD), listed(moved, GOOD[1])).peers)["10.5.1.0/24"] == "192.168.1.99"


def test_the_own_key_is_no_peer() -> None:
    """Neither a list nor a change makes our own lease a peer, whatever its value says; it is not even quarantined."""
    own = lease(IPV4.own_subnet, "192.168.1.10", created=9)
    peers = table(listed(*GOOD, own))
    assert not peers.apply(Put(replace(own, value=b"junk", mod_revision=200)))
    assert not peers.apply(Gone(OWN_NAME, 201))
    seen = peers.view(CONTEXT)
    assert text(seen.peers) == GOOD_PEERS
    assert not seen.quarantined


def test_a_reservation_of_a_peer_is_a_lease() -> None:
    """Row F29: a key without TTL is honoured as any other."""
    assert text(view(listed(lease("10.5.1.0/24", lease_id=0))).peers) == {"10.5.1.0/24": "192.168.1.11"}


def test_subnets_of_other_lengths_are_accepted() -> None:
    """Rule V3: while SubnetLen is being changed, any proper part of the network up to /30 is a lease."""
    records = [lease("10.5.128.0/17"), lease("10.5.1.0/24"), lease("10.5.2.128/25"), lease("10.5.3.4/30")]
    assert set(text(view(listed(*records)).peers)) == {"10.5.128.0/17", "10.5.1.0/24", "10.5.2.128/25", "10.5.3.4/30"}


def test_many_keys_with_one_address_are_accepted() -> None:
    """Row F58: legal, if odd."""
    records = [lease(f"10.5.{number}.0/24", "192.168.1.11", created=number) for number in range(1, 11)]
    assert len(view(listed(*records)).peers) == 10


# Order and repetition: events may come twice and late.


def test_an_event_that_comes_twice_changes_nothing() -> None:
    """A repeated put or deletion is dropped."""
    peers = table(listed(*GOOD))
    for event in (Put(lease("10.5.3.0/24", created=101)), Gone(b"10.5.1.0-24", 102)):
        assert peers.apply(event)
        assert not peers.apply(event)


def test_an_older_event_does_not_undo_a_newer_one() -> None:
    """Time travel: a put or a deletion from before the known state of its key is dropped."""
    peers = table(listed(*GOOD), Put(lease("10.5.1.0/24", "192.168.1.21", created=3, changed=110)))
    assert not peers.apply(Put(lease("10.5.1.0/24", "192.168.1.15", created=3, changed=105)))
    assert not peers.apply(Gone(b"10.5.1.0-24", 109))
    assert not peers.apply(Gone(b"10.5.1.0-24", 110))
    assert text(peers.view(CONTEXT).peers)["10.5.1.0/24"] == "192.168.1.21"


def test_an_older_put_does_not_bring_back_what_was_deleted() -> None:
    """A deletion is remembered: a put from before it is dropped, one from after it counts."""
    peers = table(listed(*GOOD), Gone(b"10.5.1.0-24", 110))
    assert not peers.apply(Put(lease("10.5.1.0/24", created=3, changed=105)))
    assert "10.5.1.0/24" not in text(peers.view(CONTEXT).peers)
    assert peers.apply(Put(lease("10.5.1.0/24", "192.168.1.31", created=111)))
    assert text(peers.view(CONTEXT).peers)["10.5.1.0/24"] == "192.168.1.31"


def test_a_put_from_before_the_list_does_not_bring_back_what_the_list_lacks() -> None:
    """The list knows better than anything older: a put from before it, of a key that it lacks, is dropped."""
    peers = table(listed(*GOOD, revision=100))
    assert not peers.apply(Put(lease("10.5.3.0/24", created=50, changed=90)))
    assert not peers.apply(Put(lease("10.5.3.0/24", created=50, changed=100)))
    assert peers.apply(Put(lease("10.5.3.0/24", created=101)))


def test_a_list_from_an_older_history_counts() -> None:
    """Row F19: after a restored backup the list is the truth, with its own, lower revisions from then on."""
    peers = table(listed(*GOOD, revision=1000), Gone(b"10.5.2.0-24", 1001), listed(GOOD[0], revision=10))
    assert text(peers.view(CONTEXT).peers) == {"10.5.1.0/24": "192.168.1.11"}
    assert peers.apply(Put(lease("10.5.2.0/24", created=11)))


History = Sequence[tuple[PeerEvent, ...]]
GATEWAYS = ("192.168.1.11", "192.168.1.12", "192.168.1.13")
SUBNETS = ("10.5.1.0/24", "10.5.2.0/24", "10.5.2.0/25", "10.5.0.0/22", "10.5.3.128/25", "10.5.64.0/18")


@st.composite
def histories(draw: st.DrawFn) -> History:
    """The transactions of a cluster, in order: well-formed leases that come, change, change backend, and go."""
    held: dict[str, Record] = {}
    history = []
    for revision in range(10, 10 + draw(st.integers(0, 14))):
        events: list[PeerEvent] = []
        for subnet in draw(st.lists(st.sampled_from(SUBNETS), min_size=1, max_size=3, unique=True)):
            if subnet in held and draw(st.booleans()):
                events.append(Gone(held.pop(subnet).name, revision))
                continue
            created = held[subnet].create_revision if subnet in held else revision
            backend = draw(st.sampled_from(("host-gw", "host-gw", "host-gw", "wireguard")))
            record = lease(subnet, draw(st.sampled_from(GATEWAYS)), backend=backend, created=created, changed=revision)
            held[subnet] = record
            events.append(Put(record))
        history.append(tuple(events))
    return history


def state_after(history: History) -> Snapshot:
    """Return the list that etcd would give after *history*."""
    held: dict[bytes, Record] = {}
    for event in (event for events in history for event in events):
        if isinstance(event, Put):
            held[event.record.name] = event.record
        elif isinstance(event, Gone):
            del held[event.name]
    return Snapshot(tuple(held[name] for name in sorted(held)), 9 + len(history), 1)


@given(histories(), st.data())
def test_events_folded_in_any_split_equal_the_final_list(history: History, data: st.DataObject) -> None:
    """List at any point, watch from there, take a view at any time: the last one is that of the final list."""
    cut = data.draw(st.integers(0, len(history)))
    peers = PeerTable(OWN_NAME)
    peers.apply(state_after(history[:cut]))
    for events in history[cut:]:
        for event in data.draw(st.permutations(events)):
            peers.apply(event)
        if data.draw(st.booleans()):
            peers.view(CONTEXT)
    assert peers.view(CONTEXT) == view(state_after(history))


@given(histories(), st.data())
def test_repetitions_and_time_travel_change_nothing(history: History, data: st.DataObject) -> None:
    """Whatever of the past comes again, in whatever order, is dropped; a list in between changes nothing either."""
    cut = data.draw(st.integers(0, len(history)))
    past = [event for events in history[:cut] for event in events]
    peers = PeerTable(OWN_NAME)
    if data.draw(st.booleans()):
        peers.apply(state_after(history[:cut]))
    else:
        for event in past:
            peers.apply(event)
    for event in data.draw(st.lists(st.sampled_from(past), max_size=10)) if past else ():
        assert not peers.apply(event)
    for events in history[cut:]:
        for event in events:
            peers.apply(event)
    assert peers.view(CONTEXT) == view(state_after(history))


# Poison: it changes nothing else.


def assert_harmless(name: bytes, value: bytes, reason: str, *, frozen: Iterable[str] = ()) -> None:
    """Check that a record, in a list or as a change, leaves the good peers alone, and no trace once it is gone."""
    record = raw(name, value, created=120)
    for events in ((listed(*GOOD, record, revision=130),), (listed(*GOOD), Put(record))):
        peers = table(*events)
        seen = peers.view(CONTEXT)
        assert text(seen.peers) == GOOD_PEERS
        assert reasons(seen) == {name: reason}
        assert seen.frozen == {IPv4Network(subnet) for subnet in frozen}
        detail = seen.quarantined[name].detail
        assert detail.isascii()
        assert detail.isprintable()
        assert len(detail) <= 400
        assert peers.apply(Gone(name, 140))
        assert peers.view(CONTEXT) == view(listed(*GOOD))


@pytest.mark.parametrize("name", strategies.POISON_NAMES)
def test_a_junk_key_changes_nothing(name: bytes) -> None:
    """Rows F50, F53, F55 and F59: a key that is none is quarantined and counted, and that is all."""
    assert_harmless(name, GOOD[0].value, "bad_key")


@pytest.mark.parametrize("value", strategies.POISON_VALUES)
def test_an_unreadable_value_of_a_new_key_only_freezes_its_subnet(value: bytes) -> None:
    """Rows F51 to F53: no route is added for it, and none that an earlier run has put there is removed."""
    with pytest.raises(Invalid) as caught:
        parse_value(value)
    assert_harmless(b"10.5.3.0-24", value, caught.value.reason, frozen=["10.5.3.0/24"])


@pytest.mark.parametrize("value", strategies.POISON_VALUES)
def test_an_unreadable_value_of_a_known_peer_keeps_the_last_good_one(value: bytes) -> None:
    """Row F51: the peer stays as it was, is reported, and follows its key again once that can be read."""
    bad = replace(GOOD[0], value=value, mod_revision=150)
    for events in ((Put(bad),), (listed(bad, GOOD[1], revision=160),)):
        peers = table(listed(*GOOD), *events)
        seen = peers.view(CONTEXT)
        assert text(seen.peers) == GOOD_PEERS
        assert list(seen.quarantined) == [b"10.5.1.0-24"]
        assert not seen.frozen
        peers.apply(Put(lease("10.5.1.0/24", "192.168.1.21", created=3, changed=170)))
        after = peers.view(CONTEXT)
        assert text(after.peers)["10.5.1.0/24"] == "192.168.1.21"
        assert not after.quarantined


def test_absence_takes_a_peer_away_even_with_a_bad_value() -> None:
    """The last good value does not outlive its key."""
    bad = Put(replace(GOOD[0], value=b"junk", mod_revision=150))
    assert "10.5.1.0/24" not in text(view(listed(*GOOD), bad, Gone(b"10.5.1.0-24", 160)).peers)
    assert "10.5.1.0/24" not in text(view(listed(*GOOD), bad, listed(GOOD[1], revision=170)).peers)


DUAL = raw(
    b"10.5.3.0-24&fd00:5:0:3::-64",
    b'{"PublicIP":"192.168.1.13","PublicIPv6":"2001:db8::13","BackendType":"host-gw"}', created=9,
)  # fmt: skip
IPV6 = FamilyContext(
    network=IPv6Network("fd00:5::/48"),
    own_subnet=IPv6Network("fd00:5:0:34::/64"),
    link_addresses=(IPv6Interface("2001:db8::10/64"),),
    own_addresses=frozenset({IPv6Address("2001:db8::10")}),
    connected=(IPv6Network("2001:db8::/64"),),
)
DUAL_CONTEXT = replace(CONTEXT, ipv6=IPV6)


def dual(name: bytes = DUAL.name, ipv6: str = "2001:db8::13", **more: int) -> Record:
    value = f'{{"PublicIP":"192.168.1.13","PublicIPv6":"{ipv6}","BackendType":"host-gw"}}'.encode()
    return raw(name, value, **{"created": 9, **more})


def test_an_ipv4_only_node_uses_the_ipv4_subnet() -> None:
    """Row F53: a dual-stack key is a peer like any other, by the same rules, and its IPv6 subnet does not matter."""
    seen = view(listed(*GOOD, DUAL))
    assert text(seen.peers) == GOOD_PEERS | {"10.5.3.0/24": "192.168.1.13"}
    assert not seen.quarantined
    assert not view(listed(dual(b"10.5.3.0-24&::-0", "::1"))).quarantined
    beside = view(listed(*GOOD, dual(b"10.5.1.0-24&fd00:5:0:1::-64")))
    assert text(beside.peers) == GOOD_PEERS
    assert reasons(beside) == {b"10.5.1.0-24&fd00:5:0:1::-64": "overlaps_older"}


def test_a_dual_stack_node_uses_both_subnets() -> None:
    """Both subnets are peers; a key without IPv6 has one."""
    seen = view(listed(*GOOD, DUAL), context=DUAL_CONTEXT)
    assert text(seen.peers) == GOOD_PEERS | {"10.5.3.0/24": "192.168.1.13", "fd00:5:0:3::/64": "2001:db8::13"}
    assert not seen.quarantined


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (dual(b"10.5.3.0-24&fd00:6:0:3::-64"), "outside_network"),
        (dual(b"10.5.3.0-24&fd00:5::-48"), "outside_network"),
        (dual(b"10.5.3.0-24&::-0"), "outside_network"),
        (dual(b"10.5.3.0-24&fd00:5:0:3::-127"), "bad_length"),
        (dual(b"10.5.3.0-24&fd00:5:0:34::-64"), "overlaps_own"),
        (dual(b"10.5.3.0-24&fd00:5:0:30::-60"), "overlaps_own"),
        (dual(ipv6="2001:db8::10"), "own_elsewhere"),
        (dual(ipv6="::1"), "bad_gateway"),
        (dual(ipv6="::"), "bad_gateway"),
        (dual(ipv6="ff02::1"), "bad_gateway"),
        (dual(ipv6="fd00:5:0:34::1"), "bad_gateway"),
        (dual(ipv6="fd00:5:0:3::1"), "gateway_off_link"),
        (dual(ipv6="2001:db8::"), "gateway_off_link"),
        (dual(ipv6="fe80::1"), "gateway_off_link"),
        (dual(ipv6="2001:db8:1::13"), "gateway_off_link"),
        (replace(DUAL, value=DUAL.value.replace(b'"2001:db8::13"', b"null")), "bad_gateway"),
    ],
)
def test_a_bad_ipv6_part_costs_only_itself(record: Record, reason: str) -> None:
    """It is quarantined with its reason; the IPv4 subnet of the same key and all other peers stay."""
    seen = view(listed(*GOOD, record), context=DUAL_CONTEXT)
    assert text(seen.peers) == GOOD_PEERS | {"10.5.3.0/24": "192.168.1.13"}
    assert reasons(seen) == {record.name: reason}


def test_a_bad_value_keeps_both_subnets() -> None:
    """The last good gateways stay, also after a list; a bad IPv6 address keeps the last good one; absence ends both."""
    both = {"10.5.3.0/24": "192.168.1.13", "fd00:5:0:3::/64": "2001:db8::13"}
    for bad in (replace(DUAL, value=b"junk", mod_revision=150), dual(ipv6="fe80::1", changed=150)):
        for event in (Put(bad), listed(bad, revision=160)):
            assert text(view(listed(DUAL), event, context=DUAL_CONTEXT).peers) == both
        assert not view(listed(DUAL), Put(bad), Gone(DUAL.name, 170), context=DUAL_CONTEXT).peers


def test_an_unreadable_dual_stack_value_freezes_both_subnets() -> None:
    """What an earlier run has put for a key that was never understood stays, for each family."""
    seen = view(listed(replace(DUAL, value=b"junk")), context=DUAL_CONTEXT)
    assert {str(subnet) for subnet in seen.frozen} == {"10.5.3.0/24", "fd00:5:0:3::/64"}
    assert {str(subnet) for subnet in view(listed(replace(DUAL, value=b"junk"))).frozen} == {"10.5.3.0/24"}


def test_the_older_of_two_ipv6_subnets_counts() -> None:
    """Of overlapping IPv6 subnets the older one counts, each family for itself."""
    younger = dual(b"10.5.4.0-24&fd00:5:0:3::-64", "2001:db8::14", created=10)
    seen = view(listed(DUAL, younger), context=DUAL_CONTEXT)
    assert text(seen.peers)["fd00:5:0:3::/64"] == "2001:db8::13"
    assert "10.5.4.0/24" in text(seen.peers)
    assert reasons(seen) == {younger.name: "overlaps_older"}


@pytest.mark.parametrize(
    ("subnet", "reason"),
    [
        ("0.0.0.0/0", "outside_network"),
        ("0.0.0.0/1", "outside_network"),
        ("10.0.0.0/8", "outside_network"),
        ("10.5.0.0/16", "outside_network"),
        ("10.6.1.0/24", "outside_network"),
        ("192.168.1.0/24", "outside_network"),
        ("10.5.1.0/31", "bad_length"),
        ("10.5.3.1/32", "bad_length"),
        ("10.5.34.0/24", "overlaps_own"),
        ("10.5.34.0/25", "overlaps_own"),
        ("10.5.34.128/25", "overlaps_own"),
        ("10.5.32.0/22", "overlaps_own"),
        ("10.5.0.0/17", "overlaps_own"),
    ],
)
def test_a_subnet_that_is_nobodys_is_refused(subnet: str, reason: str) -> None:
    """Rows F54 and F55, rules V3 to V5: beyond the network, all of it, too long, or over our own."""
    record = lease(subnet)
    if record.name != OWN_NAME:
        assert_harmless(record.name, record.value, reason)
        assert_harmless(record.name, b"junk", "not_json")  # and it freezes nothing outside either


@pytest.mark.parametrize(
    ("gateway", "reason"),
    [
        ("192.168.1.10", "own_elsewhere"),
        ("192.168.7.1", "bad_gateway"),
        ("10.5.34.1", "bad_gateway"),
        ("10.5.3.1", "gateway_off_link"),
        ("10.5.2.1", "gateway_off_link"),
        ("10.5.255.255", "gateway_off_link"),
    ],
)
def test_a_gateway_of_our_own_or_inside_the_network_is_refused(gateway: str, reason: str) -> None:
    """Row F56: ourselves, by any link, our own subnet, the advertised subnet itself, another peer's."""
    context = with_ipv4(own_addresses=IPV4.own_addresses | {IPv4Address("192.168.7.1")})
    record = lease("10.5.3.0/24", gateway, created=120)
    seen = view(listed(*GOOD, record), context=context)
    assert text(seen.peers) == GOOD_PEERS
    assert reasons(seen) == {record.name: reason}


def test_a_lan_that_lies_inside_the_network_is_spared_and_served() -> None:
    """Row F45: peers on a LAN inside Network are followed, and none of them can claim the part that this host is in."""
    context = ValidationContext("host-gw", FamilyContext(
        IPv4Network("10.0.0.0/8"), IPv4Network("10.9.1.0/24"), (IPv4Interface("10.1.2.10/24"),),
        frozenset({IPv4Address("10.1.2.10")}),
    ))  # fmt: skip
    good, thief = lease("10.9.3.0/24", "10.1.2.11"), lease("10.1.2.0/25", "10.1.2.12", created=130)
    seen = view(listed(good, thief), context=context)
    assert text(seen.peers) == {"10.9.3.0/24": "10.1.2.11"}
    assert reasons(seen) == {thief.name: "captures_address"}


@pytest.mark.parametrize(
    ("gateway", "reason"),
    [
        ("0.0.0.0", "bad_gateway"),  # noqa: S104 - no socket in sight
        ("127.0.0.1", "bad_gateway"),
        ("127.255.0.3", "bad_gateway"),
        ("224.0.0.1", "bad_gateway"),
        ("239.255.255.250", "bad_gateway"),
        ("240.0.0.1", "bad_gateway"),
        ("255.255.255.255", "bad_gateway"),
        ("0.1.2.3", "gateway_off_link"),
        ("192.168.1.0", "gateway_off_link"),
        ("192.168.1.255", "gateway_off_link"),
        ("192.168.2.1", "gateway_off_link"),
        ("169.254.1.1", "gateway_off_link"),
        ("8.8.8.8", "gateway_off_link"),
    ],
)
def test_a_gateway_that_is_no_neighbour_is_refused(gateway: str, reason: str) -> None:
    """Row F56, rule V8: zero, loopback, multicast, reserved, broadcast, off the link: no route, and none removed."""
    assert_harmless(b"10.5.3.0-24", lease("10.5.3.0/24", gateway).value, reason, frozen=["10.5.3.0/24"])


@pytest.mark.parametrize(
    ("link", "near", "far"),
    [
        ("172.16.0.4/31", ("172.16.0.5",), ("172.16.0.6", "172.16.0.3")),
        ("172.16.0.4/30", ("172.16.0.5", "172.16.0.6"), ("172.16.0.7", "172.16.0.8")),
        ("172.16.0.4/32", (), ("172.16.0.5", "172.16.0.3")),
        ("172.16.9.4/20", ("172.16.0.1", "172.16.15.254"), ("172.16.15.255", "172.16.0.0", "172.16.16.1")),
    ],
)
def test_a_neighbour_is_what_the_link_reaches(link: str, near: Sequence[str], far: Sequence[str]) -> None:
    """Point-to-point links have no broadcast; a /32 reaches nobody; each address of the link counts."""
    context = with_ipv4(link_addresses=(IPv4Interface("192.168.1.10/24"), IPv4Interface(link)))
    records = [lease(f"10.5.{number}.0/24", gateway) for number, gateway in enumerate((*near, *far, "192.168.1.9"))]
    assert set(text(view(listed(*records), context=context).peers).values()) == {*near, "192.168.1.9"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"own_addresses": frozenset({IPv4Address("10.5.3.7")})}, "captures_address"),
        ({"protected": frozenset({IPv4Address("10.5.3.255")})}, "captures_address"),
        (
            {"own_addresses": frozenset({IPv4Address("10.5.3.7")}), "connected": (IPv4Network("10.5.0.0/16"),)},
            "captures_address",
        ),
        (
            {"protected": frozenset({IPv4Address("10.5.3.7")}), "connected": (IPv4Network("10.5.3.128/25"),)},
            "captures_address",
        ),
    ],
)
def test_what_this_host_needs_is_not_captured(change: dict[str, object], reason: str) -> None:
    """Rule V9: no route over an address of our own, or one to be protected (etcd's), that no longer prefix protects."""
    record = lease("10.5.3.0/24")
    seen = view(listed(record), context=with_ipv4(**change))
    assert not seen.peers
    assert reasons(seen) == {record.name: reason}
    assert not view(listed(replace(record, value=b"junk")), context=with_ipv4(**change)).frozen


@pytest.mark.parametrize(
    "change",
    [
        {"connected": (IPv4Network("10.5.3.64/26"),)},
        {"connected": (IPv4Network("10.5.2.0/23"),)},
        {"connected": (IPv4Network("10.5.3.64/26"),), "own_addresses": frozenset({IPv4Address("10.5.3.65")})},
        {"connected": (IPv4Network("10.5.3.7/32"),), "protected": frozenset({IPv4Address("10.5.3.7")})},
        {"connected": (IPv4Network("10.0.0.0/8"),), "protected": frozenset({IPv4Address("10.5.4.1")})},
    ],
)
def test_a_connected_network_that_holds_a_subnet_or_lies_in_it_refuses_nobody(change: dict[str, object]) -> None:
    """Rule V9: the kernel takes the longer prefix, and what a longer one protects is not taken away."""
    assert text(view(listed(lease("10.5.3.0/24")), context=with_ipv4(**change)).peers) == {
        "10.5.3.0/24": "192.168.1.11"
    }


def test_a_subnet_that_is_a_connected_network_gets_no_route_and_loses_none() -> None:
    """Two routes for one prefix: the kernel uses one, so the one that is there stays, and no other is put."""
    record, context = lease("10.5.3.0/24"), with_ipv4(connected=(IPv4Network("10.5.3.0/24"),))
    seen = view(listed(record), context=context)
    assert (seen.peers, reasons(seen)) == ({}, {record.name: "captures_network"})
    assert seen.frozen == {IPv4Network("10.5.3.0/24")}


def test_a_next_hop_is_not_captured_but_by_its_own_peer() -> None:
    """Where the LAN shares the network's addresses, a subnet may hold its own host's address, and of others only those
    that came later: nobody loses a route because somebody else writes a key."""
    lan = IPv4Interface("10.5.200.1/16")
    context = ValidationContext("host-gw", FamilyContext(
        IPv4Network("10.5.0.0/20"), IPv4Network("10.5.1.0/24"), (lan,), frozenset({lan.ip}),
    )).with_lookups(next_hops=dict(
        zip(map(IPv4Address, ("10.5.3.7", "10.5.4.7", "10.5.5.7")), (2, 2, 900), strict=True)
    ))  # fmt: skip
    own, thief = lease("10.5.3.0/24", "10.5.3.7", created=99), lease("10.5.4.0/24", "10.5.200.7", created=99)
    seen = view(listed(own, thief, lease("10.5.5.0/24", "10.5.200.9", created=99)), context=context)
    assert text(seen.peers) == {"10.5.3.0/24": "10.5.3.7", "10.5.5.0/24": "10.5.200.9"}
    assert reasons(seen) == {thief.name: "captures_address"}


def test_a_lease_of_another_backend_is_no_peer_and_no_fault() -> None:
    """Rule V10: another backend's lease is counted apart, exactly by its name, whatever its address is."""
    for number, backend in enumerate(("wireguard", "", "Host-GW", "host-gw ", "\ud800", "x" * 9000)):
        record = lease(f"10.5.{number + 10}.0/24", "8.8.8.8", backend=backend, created=120)
        seen = view(listed(*GOOD, record))
        assert seen == View(view(listed(*GOOD)).peers, {}, frozenset(), frozenset({record.name}))


def test_a_change_of_backend_withdraws() -> None:
    """Row F28: a peer that turns to another backend is withdrawn, stays so while unreadable, and can come back."""
    peers = table(listed(*GOOD), Put(lease("10.5.1.0/24", backend="wireguard", created=3, changed=110)))
    assert text(peers.view(CONTEXT).peers) == {"10.5.2.0/24": "192.168.1.12"}
    peers.apply(Put(replace(GOOD[0], value=b"junk", mod_revision=111)))
    assert text(peers.view(CONTEXT).peers) == {"10.5.2.0/24": "192.168.1.12"}
    peers.apply(Put(replace(GOOD[0], mod_revision=112)))
    assert text(peers.view(CONTEXT).peers) == GOOD_PEERS


def test_a_peers_subnet_that_is_moved_to_us_is_nobody_elses() -> None:
    """A reservation is given our address: that is no bad value, so the peer that had it has no route any more."""
    seen = view(listed(*GOOD), Put(lease("10.5.1.0/24", "192.168.1.10", created=3, changed=110)))
    assert text(seen.peers) == {"10.5.2.0/24": "192.168.1.12"}
    assert not seen.frozen
    assert reasons(seen) == {b"10.5.1.0-24": "own_elsewhere"}


@pytest.mark.parametrize("gateway", ["10.5.34.1", "224.0.0.1", "8.8.8.8", "10.5.9.9"])
def test_a_bad_gateway_of_a_known_peer_keeps_the_last_good_one(gateway: str) -> None:
    """A value that can be read and not be used is as bad as one that cannot be read."""
    seen = view(listed(*GOOD), Put(lease("10.5.1.0/24", gateway, created=3, changed=110)))
    assert text(seen.peers) == GOOD_PEERS
    assert list(seen.quarantined) == [b"10.5.1.0-24"]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(("bad", "bad", "good", "gone"))), max_size=20), st.data())
def test_bad_values_never_change_the_peers(steps: list[tuple[int, str]], data: st.DataObject) -> None:
    """With values good and bad in any order, the peers are those of the good ones alone, as a plain dictionary says."""
    peers = PeerTable(OWN_NAME)
    expected: dict[str, str] = {}
    for revision, (number, what) in enumerate(steps, start=1):
        subnet = f"10.5.{number}.0/24"
        if what == "gone":
            expected.pop(subnet, None)
            peers.apply(Gone(encode_name(IPv4Network(subnet)), revision))
        elif what == "good":
            expected[subnet] = data.draw(st.sampled_from(GATEWAYS))
            peers.apply(Put(lease(subnet, expected[subnet], created=revision)))
        else:
            value = data.draw(strategies.poison_values())
            peers.apply(Put(raw(encode_name(IPv4Network(subnet)), value, created=revision)))
        assert text(peers.view(CONTEXT).peers) == expected


# The context changes under the peers.


def test_a_renumbered_link_freezes_what_it_cannot_reach() -> None:
    """While the gateways are off the link no route is wanted and none is removed; back on it, all are peers again."""
    peers = table(listed(*GOOD))
    away = with_ipv4(link_addresses=(IPv4Interface("172.16.0.1/24"),))
    seen = peers.view(away)
    assert not seen.peers
    assert seen.frozen == {IPv4Network(subnet) for subnet in GOOD_PEERS}
    assert set(reasons(seen).values()) == {"gateway_off_link"}
    assert peers.view(with_ipv4(link_addresses=())).frozen == seen.frozen
    assert text(peers.view(CONTEXT).peers) == GOOD_PEERS


def test_a_moved_own_subnet_withdraws_what_it_covers() -> None:
    """A peer that overlaps our new subnet is neither kept as last good nor frozen."""
    context = with_ipv4(own_subnet=IPv4Network("10.5.1.0/25"))
    for events in ((listed(*GOOD),), (listed(*GOOD), Put(replace(GOOD[0], value=b"junk", mod_revision=150)))):
        seen = table(*events).view(context)
        assert text(seen.peers) == {"10.5.2.0/24": "192.168.1.12"}
        assert not seen.frozen


# Overlaps.


@pytest.mark.parametrize(("old", "young"), [("10.5.2.0/23", "10.5.3.0/24"), ("10.5.3.0/24", "10.5.2.0/23")])
def test_of_two_that_overlap_the_older_counts(old: str, young: str) -> None:
    """Row F57: the lowest create revision wins, whatever the order of arrival, and the younger one waits its turn."""
    first, second = lease(old, created=5, changed=90), lease(young, "192.168.1.12", created=6, changed=7)
    arrivals = [listed(first, second)], [listed(second, first)], [Put(first), Put(second)], [Put(second), Put(first)]
    for events in arrivals:
        seen = view(*events)
        assert text(seen.peers) == {old: "192.168.1.11"}
        assert reasons(seen) == {second.name: "overlaps_older"}
        assert not seen.frozen
        assert text(view(*events, Gone(first.name, 200)).peers) == {young: "192.168.1.12"}


def test_a_key_that_was_made_again_is_young() -> None:
    """Deleted and created again unseen, with the same value: its new age is what counts."""
    first, second = lease("10.5.2.0/23", created=5), lease("10.5.3.0/24", "192.168.1.12", created=6)
    again = replace(first, create_revision=150, mod_revision=150)
    seen = view(listed(first, second), listed(again, second, revision=160))
    assert text(seen.peers) == {"10.5.3.0/24": "192.168.1.12"}


def test_two_of_the_same_age_are_told_apart_by_name() -> None:
    """Keys of one transaction have one create revision; every node must come to the same answer all the same."""
    one, other = lease("10.5.2.0/24", created=5), lease("10.5.2.0/25", "192.168.1.12", created=5)
    views = [view(*events) for events in ([Put(one), Put(other)], [Put(other), Put(one)], [listed(other, one)])]
    assert views[0] == views[1] == views[2]
    assert text(views[0].peers) == {"10.5.2.0/24": "192.168.1.11"}


def test_one_that_is_rejected_blocks_no_other() -> None:
    """An older key that is quarantined or another backend's does not keep a younger one out."""
    young = lease("10.5.3.0/24", created=50)
    for old in (lease("10.5.2.0/23", "8.8.8.8"), lease("10.5.2.0/23", backend="ipip"), raw(b"10.5.2.0-23", b"junk")):
        assert text(view(listed(old, young)).peers) == {"10.5.3.0/24": "192.168.1.11"}


@given(
    st.lists(st.tuples(strategies.subnets(IPv4Network("10.5.0.0/21")), st.integers(1, 12)), max_size=25),
    st.randoms(use_true_random=False),
)
def test_overlaps_are_settled_as_a_naive_oracle_does(drawn: list[tuple[IPv4Network, int]], order: object) -> None:
    """From the oldest on, each lease counts that overlaps none before it; the order of arrival does not matter."""
    leases = dict(drawn)
    expected: set[tuple[int, int]] = set()
    for subnet, _ in sorted(leases.items(), key=lambda item: (item[1], encode_name(item[0]))):
        first = int(subnet.network_address)
        last = first + 2 ** (32 - subnet.prefixlen) - 1
        if not any(low <= last and first <= high for low, high in expected):
            expected.add((first, last))
    records = [lease(subnet, created=age) for subnet, age in leases.items()]
    order.shuffle(records)  # type: ignore[attr-defined]
    seen = view(listed(*records))
    assert {(int(peer.network_address), int(peer.broadcast_address)) for peer in seen.peers} == expected
    assert len(seen.peers) + len(seen.quarantined) == len(records)


def test_thousands_of_leases_of_mixed_lengths_are_validated_in_a_moment() -> None:
    """Whatever lengths anybody writes into etcd, to validate them never blocks the daemon."""
    context = with_ipv4(network=IPv4Network("10.0.0.0/8"))
    narrow = [lease(IPv4Network((0x0A400000 + (n << 8), 24)), created=n + 1) for n in range(2000)]
    wide = [lease(IPv4Network((0x0A800000 + (n << 9), 23)), created=n + 5000) for n in range(2000)]
    peers = PeerTable(OWN_NAME)
    peers.apply(listed(*narrow, *wide))
    began = perf_counter()
    assert len(peers.view(context).peers) == 4000
    assert perf_counter() - began < 2.0


# A view costs only what has changed.

AWAY = replace(with_ipv4(link_addresses=(IPv4Interface("172.16.0.1/24"),)), ipv6=IPV6)
MOVED = replace(with_ipv4(own_subnet=IPv4Network("10.5.1.0/25")), ipv6=IPV6)
NAMES = (
    *map(encode_name, map(IPv4Network, SUBNETS)), DUAL.name, b"10.5.4.0-24&fd00:5:0:3::-64",
    b"10.5.2.0-24&fd00:5::-50", b"10.6.1.0-24", b"0.0.0.0-0", b"10.5.1.0-31", b"junk",
)  # fmt: skip
VALUES = (
    *(lease("10.5.1.0/24", gateway).value for gateway in (*GATEWAYS, "8.8.8.8", "172.16.0.9")),
    *(dual(ipv6=ipv6).value for ipv6 in ("2001:db8::13", "2001:db8::14", "fe80::1")),
    lease("10.5.1.0/24", backend="wireguard").value, b"junk",
)  # fmt: skip


@st.composite
def steps(draw: st.DrawFn) -> list[PeerEvent | ValidationContext]:
    """What happens between views, good and bad: changes, lists, and another context."""
    found: list[PeerEvent | ValidationContext] = []
    held: dict[bytes, Record] = {}
    for revision in range(1, draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(("put", "put", "put", "gone", "list", "context", "context")))
        name, value = draw(st.sampled_from(NAMES)), draw(st.sampled_from(VALUES))
        if kind == "put":
            created = held[name].create_revision if name in held else draw(st.integers(1, revision))
            held[name] = raw(name, value, created=created, changed=revision)
            found.append(Put(held[name]))
        elif kind == "gone":
            held.pop(name, None)
            found.append(Gone(name, revision))
        elif kind == "list":
            for lost in draw(st.sets(st.sampled_from(NAMES), max_size=3)):
                held.pop(lost, None)
            found.append(Snapshot(tuple(held.values()), revision, 1))
        else:
            found.append(draw(st.sampled_from((CONTEXT, DUAL_CONTEXT, DUAL_CONTEXT, AWAY, MOVED))))
    return found


@given(steps(), st.data())
def test_a_view_of_what_has_changed_equals_a_view_of_everything(
    found: list[PeerEvent | ValidationContext], data: st.DataObject
) -> None:
    """Whatever comes, in whatever portions: what is accepted, rejected and frozen is the same."""
    some, all_ = PeerTable(OWN_NAME), PeerTable(OWN_NAME)
    context = DUAL_CONTEXT
    for one in found:
        if isinstance(one, ValidationContext):
            context = one
        else:
            assert some.apply(one) == all_.apply(one)
        if data.draw(st.booleans()):
            all_._begin(context)
            assert some.view(context) == all_.view(context)


@given(steps())
def test_what_is_not_named_as_changed_has_not_changed(found: list[PeerEvent | ValidationContext]) -> None:
    """A view names every subnet that is a peer, or frozen, in another way than before."""
    peers = PeerTable(OWN_NAME)
    context, before, frozen = DUAL_CONTEXT, dict[Network, Address](), frozenset[Network]()
    for one in found:
        if isinstance(one, ValidationContext):
            context = one
        else:
            peers.apply(one)
        seen = peers.view(context)
        if seen.changed is not None:
            different = {subnet for subnet, _ in before.items() ^ seen.peers.items()} | (frozen ^ seen.frozen)
            assert different <= seen.changed
        before, frozen = dict(seen.peers), seen.frozen
        assert peers.view(context).changed == frozenset()


def test_a_view_after_one_change_names_one_subnet() -> None:
    """With thousands of peers, one that changes concerns itself alone."""
    context = with_ipv4(network=IPv4Network("10.0.0.0/8"))
    peers = table(listed(*(lease(IPv4Network((0x0A400000 + (n << 8), 24)), created=n + 1) for n in range(2000))))
    assert peers.view(context).changed is None
    peers.apply(Put(lease("10.64.9.0/24", "192.168.1.12", created=10, changed=110)))
    assert peers.view(context).changed == {IPv4Network("10.64.9.0/24")}


def test_a_lease_that_was_only_put_again_changes_nothing() -> None:
    """A flanneld renews its lease by putting the same key again: nothing is to be validated."""
    peers = table(listed(*GOOD))
    assert not peers.apply(Put(replace(GOOD[0], mod_revision=110, lease_id=78)))
    assert not peers.apply(Put(replace(GOOD[0], mod_revision=109, value=b"junk")))
    assert text(peers.view(CONTEXT).peers) == GOOD_PEERS


# The checker of invariant I7, which shares nothing with the code that it checks.

NEIGHBOUR = IPv4Address("192.168.1.77")


def span(net: IPv4Network) -> tuple[int, int]:
    first = int(net.network_address)
    return first, first + 2 ** (32 - net.prefixlen) - 1


def violations(context: FamilyContext, peers: Mapping[IPv4Network, IPv4Address]) -> list[str]:
    """Return what is wrong with *peers*, by integers alone."""
    low, high = span(context.network)
    needed = {int(address) for address in (*context.own_addresses, *context.protected)}
    near = [span(net) for net in (*context.connected, *(own.network for own in context.link_addresses))]
    found = []
    for subnet, gateway in peers.items():
        first, last = span(subnet)
        if not (low <= first and last <= high and last - first < high - low):
            found.append(f"{subnet} is no proper part of the network")
        if last - first < 3:
            found.append(f"{subnet} is too small")
        own_first, own_last = span(context.own_subnet)
        if (first <= own_last and own_first <= last) or (first, last) in near:
            found.append(f"{subnet} covers our own subnet, or is a connected network")
        longer = [(low, high) for low, high in near if high - low < last - first]
        kept = {address for address in needed for low, high in longer if low <= address <= high}
        if any(first <= address <= last for address in needed - kept):
            found.append(f"{subnet} captures an address")
        found += [f"gateway {gateway}: {why}" for why in gateway_faults(context, int(gateway))]
    spans = sorted(map(span, peers))
    found += [f"{a} overlaps {b}" for a, b in pairwise(spans) if b[0] <= a[1]]
    return found


def gateway_faults(context: FamilyContext, gateway: int) -> Iterable[str]:
    """Yield what is wrong with a gateway, by integers alone."""
    low, high = span(context.own_subnet)
    if low <= gateway <= high:
        yield "inside our own subnet"
    if gateway >> 24 in {0, 127} or gateway >> 28 >= 14:
        yield "no address of a host"
    if gateway in {int(address) for address in context.own_addresses} | {int(own.ip) for own in context.link_addresses}:
        yield "our own"
    edges = [(span(own.network), own.network.prefixlen < 31) for own in context.link_addresses]
    if not any(first + broadcasts <= gateway <= last - broadcasts for (first, last), broadcasts in edges):
        yield "off the link"


@given(strategies.contexts(), st.data())
def test_no_accepted_peer_violates_the_invariant(context: FamilyContext, data: st.DataObject) -> None:
    """Invariant I7: whatever stands in etcd, on whatever host, no accepted peer is one that must not be installed."""
    near = strategies.subnets(context.network, longest=32) | strategies.networks(0, 32)
    names = near.map(encode_name) | strategies.poison_names()
    values = strategies.gateways().map(lambda gateway: lease("10.5.1.0/24", str(gateway)).value)
    records = st.builds(raw, names, values | values | values | strategies.poison_values(), created=st.integers(1, 9))
    peers = PeerTable(encode_name(context.own_subnet))
    for number in range(data.draw(st.integers(1, 2))):
        found = {record.name: record for record in data.draw(st.lists(records, max_size=10))}
        peers.apply(Snapshot(tuple(found.values()), 10 + number, 1))
        seen = peers.view(ValidationContext("host-gw", context))
        assert violations(context, seen.peers) == []
        frozen = [why for subnet in seen.frozen for why in violations(context, {subnet: NEIGHBOUR})]
        assert [why for why in frozen if not why.startswith("gateway")] == []
        assert all(isinstance(entry, Quarantine) and entry.detail.isprintable() for entry in seen.quarantined.values())


@pytest.mark.parametrize(
    ("subnet", "gateway"),
    [
        ("10.5.0.0/16", "192.168.1.11"), ("10.6.1.0/24", "192.168.1.11"), ("0.0.0.0/0", "192.168.1.11"),
        ("10.5.34.0/25", "192.168.1.11"), ("10.5.0.0/17", "192.168.1.11"), ("10.5.1.0/31", "192.168.1.11"),
        ("192.168.1.0/24", "192.168.1.11"), ("10.5.1.0/24", "192.168.1.10"), ("10.5.1.0/24", "192.168.1.255"),
        ("10.5.1.0/24", "192.168.1.0"), ("10.5.1.0/24", "192.168.2.1"), ("10.5.1.0/24", "127.0.0.1"),
        ("10.5.1.0/24", "224.0.0.1"), ("10.5.1.0/24", "10.5.1.1"),
    ],
)  # fmt: skip
def test_the_checker_sees_a_violation(subnet: str, gateway: str) -> None:
    """The checker itself finds each kind of fault, and none in a good peer."""
    assert violations(IPV4, {IPv4Network(subnet): IPv4Address(gateway)})
    assert not violations(IPV4, {IPv4Network("10.5.1.0/24"): IPv4Address("192.168.1.11")})


# The rules once more, in the words of ``ipaddress``; all that they share with those they check is the order.

def named_reason(context: FamilyContext, subnet: Network, gateway: Address | None, *, on_link: bool) -> str | None:
    reason = subnet_reason(context, subnet)
    return gateway_reason(context, gateway, on_link=on_link) if reason is None else reason


def subnet_reason(context: FamilyContext, subnet: Network) -> str | None:
    network = context.network
    if not subnet.subnet_of(network) or subnet == network:  # type: ignore[arg-type]
        return "outside_network"
    if subnet.prefixlen > LONGEST_SUBNET[subnet.version]:
        return "bad_length"
    if subnet.overlaps(context.own_subnet):
        return "overlaps_own"
    near = (*context.connected, *(own.network for own in context.link_addresses))
    if subnet in near:
        return "captures_network"
    longer = [net for net in near if net.prefixlen > subnet.prefixlen]
    needed = [address for address in (*context.own_addresses, *context.protected) if address in subnet]
    return "captures_address" if any(all(address not in net for net in longer) for address in needed) else None


def gateway_reason(context: FamilyContext, gateway: Address | None, *, on_link: bool) -> str | None:
    if gateway is None or gateway.is_unspecified or gateway.is_loopback or gateway.is_multicast or gateway.is_reserved:
        return "bad_gateway"
    if getattr(gateway, "ipv4_mapped", None) is not None:
        return "bad_gateway"
    if gateway in [own.ip for own in context.link_addresses]:
        return "own_elsewhere"
    if gateway in context.own_addresses:
        return "bad_gateway"
    if gateway in context.own_subnet:
        return "bad_gateway"
    on_some_link = any(reaches(own.network, gateway) for own in context.link_addresses)
    return None if on_some_link or not on_link else "gateway_off_link"


def reaches(network: Network, gateway: Address) -> bool:
    if network.prefixlen >= network.max_prefixlen - 1:
        return gateway in network
    broadcast = network.version == 4 and gateway == network.broadcast_address
    return gateway in network and gateway != network.network_address and not broadcast


def reason_found(quarantine: Quarantine | None) -> str | None:
    return None if quarantine is None else quarantine.reason


@given(strategies.contexts(), st.booleans(), st.data())
def test_each_lease_is_rejected_for_the_reason_of_the_rules(
    context: FamilyContext, on_link: bool, data: st.DataObject
) -> None:
    """Whole numbers find what the rules find, in the same order."""
    subnet = data.draw(strategies.subnets(context.network, longest=32) | strategies.networks(0, 32))
    own = [own.ip for own in context.link_addresses]
    gateway = data.draw(strategies.gateways() | st.sampled_from(own) | st.none())
    link = data.draw(st.sampled_from((context.link_addresses, (IPv4Interface("126.0.0.1/7"),), ())))
    context = replace(context, link_addresses=link)
    validator = Validator(context, gateways_on_link=on_link)
    assert reason_found(validator.check_subnet(subnet)) == subnet_reason(context, subnet)
    found = reason_found(validator.check(subnet, gateway, 1, ""))
    assert found == named_reason(context, subnet, gateway, on_link=on_link)


@given(st.integers(0, 2**128 - 1), st.integers(1, 128), st.integers(0, 2**16), st.sampled_from((-1, 0, 1)))
def test_each_ipv6_lease_is_rejected_for_the_reason_of_them(near: int, length: int, offset: int, edge: int) -> None:
    """The same for IPv6, on links of every length and kind, at their edges and inside."""
    network = IPv6Network((near, length), strict=False)
    context = replace(IPV6, link_addresses=(IPv6Interface((near, length)),))
    base = int(network.network_address) if edge <= 0 else int(network.broadcast_address)
    subnet, gateway = IPv6Network("fd00:5:0:3::/64"), IPv6Address((base + edge * offset) % 2**128)
    for on_link in (True, False):
        found = Validator(context, gateways_on_link=on_link).check(subnet, gateway, 1)
        assert reason_found(found) == named_reason(context, subnet, gateway, on_link=on_link)
