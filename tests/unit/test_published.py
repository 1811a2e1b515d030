"""When another address than that of the start is published, and when not."""

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.link.published import AT_ONCE_S, RENUMBERED_S, RETURN_S, Published
from pyflanneld.core.link.selection import Link

OWN, VIP, NEW = IPv4Address("192.168.14.21"), IPv4Address("192.168.14.100"), IPv4Address("192.168.14.77")


def links(*addresses: str) -> list[Link]:
    return [Link(2, "eth1", 1500, True, tuple(IPv4Interface(text) for text in addresses))]


OF_BOTH, OF_OWN, OF_VIP = links(f"{OWN}/24", f"{VIP}/24"), links(f"{OWN}/24"), links(f"{VIP}/24")


def at_start(there: list[Link]) -> Published:
    return Published(OWN, OWN).seen(there, OWN, 0.0)


def test_it_stays_while_it_is_there() -> None:
    """Whatever comes beside it, in whichever order, and whenever."""
    known = at_start(OF_OWN).seen(OF_BOTH, OWN, 5.0).seen(links(f"{VIP}/24", f"{OWN}/24"), OWN, 9.0)
    assert (known.address, known.gone_s, known.other) == (OWN, None, None)


def test_what_was_beside_it_waits() -> None:
    """A VIP that was there with it is published a minute after it has gone, and not a moment sooner."""
    known = at_start(OF_OWN).seen(OF_BOTH, OWN, 5.0).seen(OF_VIP, VIP, 10.0)
    assert (known.other, known.due_s, known.wait_s) == (VIP, 10.0 + RETURN_S, RETURN_S)
    assert known.seen(OF_VIP, VIP, 9.999 + RETURN_S).address == OWN
    assert known.seen(OF_VIP, VIP, 10.0 + RETURN_S).address == VIP


def test_a_new_number_is_followed_soon() -> None:
    """Gone and another one there in one look, or shortly after: one that was never beside it, on as wide a network."""
    known = at_start(OF_OWN)
    for gone in (known, known.seen(links(), None, 3.0)):
        began = gone.seen(links(f"{NEW}/24"), NEW, 3.0 + AT_ONCE_S)
        assert (began.address, began.wait_s) == (OWN, RENUMBERED_S)
        assert began.seen(links(f"{NEW}/24"), NEW, 3.0 + AT_ONCE_S + RENUMBERED_S).address == NEW


@pytest.mark.parametrize(
    ("gone_for_s", "other"),
    [(AT_ONCE_S + 0.1, f"{VIP}/24"), (30.0, f"{VIP}/24"), (0.0, f"{VIP}/32"), (0.0, f"{VIP}/16")],
)
def test_what_comes_later_or_is_of_another_length_waits(gone_for_s: float, other: str) -> None:
    """The own one was gone for a while, as with a DHCP lease that was lost; or the other one is a keepalived's /32."""
    known = at_start(OF_OWN).seen(links(), None, 10.0).seen(links(other), VIP, 10.0 + gone_for_s)
    assert (known.wait_s, known.due_s) == (RETURN_S, 10.0 + gone_for_s + RETURN_S)


def test_a_vip_that_goes_along_and_comes_first_waits() -> None:
    """Linux deletes the secondary addresses with the primary; the one that keepalived puts again is known."""
    known = at_start(OF_BOTH).seen(links(), None, 1.0).seen(OF_VIP, VIP, 1.1)
    assert known.wait_s == RETURN_S


def test_what_was_not_seen_since_the_start_is_waited_for() -> None:
    """The first look finds another one: nobody can tell since when."""
    assert Published(OWN, OWN).seen(links(f"{NEW}/24"), NEW, 100.0).wait_s == RETURN_S


def test_a_wait_begins_anew_with_another_one() -> None:
    """Only one that stays is published: each that comes, and one that comes back, has the whole wait before it."""
    known = at_start(OF_BOTH).seen(OF_VIP, VIP, 0.0).seen(links(f"{NEW}/24"), NEW, 50.0)
    assert known.due_s == 50.0 + RETURN_S
    back = known.seen(links(), None, 55.0)
    assert back.other is None
    assert back.seen(links(f"{NEW}/24"), NEW, 56.0).due_s == 56.0 + RETURN_S


def test_the_first_one_is_published_again_at_once() -> None:
    """During the wait it is as if nothing had been, and afterwards it takes its place back."""
    waiting = at_start(OF_BOTH).seen(OF_VIP, VIP, 0.0)
    assert waiting.seen(OF_BOTH, OWN, 59.0).gone_s is None
    other = waiting.seen(OF_VIP, VIP, RETURN_S)
    assert (other.address, other.first) == (VIP, OWN)
    assert other.seen(OF_BOTH, OWN, RETURN_S + 1).address == OWN


def test_what_it_is_moved_to_for_good_is_waited_for() -> None:
    """The one of the start is any other one then; moved for the time being, it takes its place back."""
    away = at_start(OF_OWN).moved(OF_BOTH, VIP, for_good=False)
    assert (away.address, away.seen(OF_BOTH, OWN, 5.0).address) == (VIP, OWN)
    waiting = at_start(OF_OWN).moved(OF_BOTH, VIP, for_good=True).seen(OF_OWN, OWN, 5.0)
    assert (waiting.address, waiting.other, waiting.due_s) == (VIP, OWN, 5.0 + RETURN_S)


def test_ipv6_has_the_same_rules() -> None:
    """Each family for itself, by its own addresses."""
    own, vip = IPv6Address("2001:db8::21"), IPv6Address("2001:db8::100")

    def seen(known: Published, now_s: float, *addresses: IPv6Address) -> Published:
        there = Link(2, "eth1", 1500, True, (), addresses6=tuple(IPv6Interface(f"{one}/64") for one in addresses))
        return known.seen([there], own if own in addresses else vip, now_s)

    known = seen(seen(Published(own, own), 0.0, own, vip), 1.0, vip)
    assert (known.address, known.due_s) == (own, 1.0 + RETURN_S)
    assert seen(known, 2.0, own).gone_s is None


@given(
    st.lists(st.tuples(st.floats(0.01, 200.0), st.sets(st.sampled_from((OWN, VIP, NEW))), st.booleans()), max_size=30)
)
def test_no_other_is_published_while_it_may_be_back(looks: list[tuple[float, set[IPv4Address], bool]]) -> None:
    """In any sequence: one that was beside it is not published before the first was gone for a minute."""
    known, now_s, there_s = at_start(OF_BOTH), 0.0, 0.0
    for passed_s, there, backwards in looks:
        now_s += passed_s
        order = sorted(there, reverse=backwards)
        kept = [one for one in (OWN, known.address) if one in there]
        known = known.seen(links(*(f"{one}/24" for one in order)), next(iter((*kept, *order)), None), now_s)
        there_s = now_s if OWN in there else there_s
        assert known.address == OWN or OWN not in there
        assert known.address != VIP or now_s - there_s >= RETURN_S
