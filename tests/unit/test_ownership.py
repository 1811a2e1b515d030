"""This host's lease: each thing that a renewal can show, and what follows from it."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.etcd_types import Record, Renewal
from pyflanneld.core.lease.codec import LeaseAttrs, encode_value
from pyflanneld.core.lease.ownership import (
    DRIFT_MARGIN_S,
    LONGEST_INTERVAL_S,
    Assessment,
    Confirmed,
    HeldByOther,
    OwnLease,
    Retake,
    Rewrite,
    Unreadable,
    assess,
    confirmed,
    renewal_interval_s,
)
from tests.support import strategies
from tests.support.strategies import lease

SUBNET = IPv4Network("10.5.34.0/24")
OURS, MOVED, OTHER = IPv4Address("192.168.1.10"), IPv4Address("192.168.1.20"), IPv4Address("192.168.1.11")
PUBLISH = LeaseAttrs(OURS, "host-gw")
RECORD = lease(SUBNET, str(OURS), created=5, lease_id=77)
SENT_S = 1000.0
HELD = confirmed(SUBNET, OURS, RECORD, 86400.0, 0.0)


def renewed(record: Record | None, ttl_s: float | None = 86400.0, *, held: OwnLease = HELD) -> Assessment:
    return assess(held, PUBLISH, Renewal(record, ttl_s), SENT_S)


def confirmed_lease(finding: Assessment) -> OwnLease:
    assert isinstance(finding, Confirmed)
    return finding.lease


def test_a_renewed_lease_is_confirmed_from_the_sending_of_the_request() -> None:
    """Ownership lasts from when the request was sent, for the granted time, less the margin for drifting clocks."""
    held = confirmed_lease(renewed(RECORD, 600.0))
    assert held == OwnLease(SUBNET, OURS, RECORD, 600.0, SENT_S, SENT_S + 600.0 - DRIFT_MARGIN_S)
    assert not held.reserved


def test_a_value_that_an_old_flannel_wrote_is_confirmed() -> None:
    """A value that says the same in other bytes needs no rewriting."""
    same = replace(RECORD, value=b'{ "publicIP": "192.168.1.10", "BackendType": "host-gw", "x": 1 }', mod_revision=9)
    assert confirmed_lease(renewed(same)).record == same


@pytest.mark.parametrize("lease_id", [0, 77])
def test_an_absent_key_is_taken_again(lease_id: int) -> None:
    """The key is gone: create it again, whether it was leased or reserved, and whatever the renewal said."""
    held = confirmed(SUBNET, OURS, replace(RECORD, lease_id=lease_id), 86400.0, 0.0)
    assert renewed(None, 0.0, held=held) == Retake()
    assert renewed(None, None, held=held) == Retake()


def test_a_reservation_stays_one() -> None:
    """A key without TTL is ours for good: confirmed without end, and reserved."""
    reserved = replace(RECORD, lease_id=0)
    held = confirmed_lease(renewed(reserved, None, held=confirmed(SUBNET, OURS, reserved, None, 0.0)))
    assert held.reserved
    assert (held.ttl_s, held.confirmed_until_s) == (inf, inf)


def test_a_lease_made_a_reservation_is_one_from_then_on() -> None:
    """An operator put the key again without TTL: honoured at once, with no renewal to wait for."""
    held = confirmed_lease(renewed(replace(RECORD, lease_id=0, mod_revision=9), 0.0))
    assert held.reserved
    assert held.confirmed_until_s == inf


def test_a_reservation_made_a_lease_is_adopted() -> None:
    """The other way round: the key hangs on a lease now, which nobody has renewed yet."""
    reserved = confirmed(SUBNET, OURS, replace(RECORD, lease_id=0), None, 0.0)
    held = confirmed_lease(renewed(RECORD, None, held=reserved))
    assert not held.reserved
    assert held.confirmed_until_s < SENT_S


def test_our_address_on_another_lease_is_adopted_but_not_confirmed() -> None:
    """Somebody put the key again: it is ours by its value, and its new lease is renewed by the next round, at once."""
    again = replace(RECORD, lease_id=99, mod_revision=9)
    held = confirmed_lease(renewed(again, 86400.0))
    assert held.record == again
    assert held.confirmed_until_s < SENT_S
    assert renewal_interval_s(held.ttl_s, 3600.0) == 1.0
    assert confirmed_lease(renewed(again, 600.0, held=held)).confirmed_until_s == SENT_S + 600.0 - DRIFT_MARGIN_S


def test_a_lease_that_no_longer_exists_confirms_nothing() -> None:
    """Row F34: a time to live of 0 proves nothing, even while the key can still be read; the next renewal is soon."""
    held = confirmed_lease(renewed(RECORD, 0.0))
    assert held.confirmed_until_s < SENT_S
    assert renewal_interval_s(held.ttl_s, 3600.0) == 1.0


def test_a_lease_without_a_granted_time_confirms_nothing() -> None:
    """No time to live is no end only for a key that hangs on no lease."""
    assert confirmed(SUBNET, OURS, RECORD, None, SENT_S).confirmed_until_s < SENT_S
    assert confirmed(SUBNET, OURS, replace(RECORD, lease_id=0), 60.0, SENT_S).confirmed_until_s == inf


@pytest.mark.parametrize(
    "attrs",
    [
        LeaseAttrs(OTHER, "host-gw"),
        LeaseAttrs(MOVED, "host-gw"),
        LeaseAttrs(OURS, "vxlan"),
        LeaseAttrs(OURS, ""),
        LeaseAttrs(OURS, "host-gw", IPv6Address("2001:db8::10")),
    ],
)
def test_another_value_on_our_own_lease_is_rewritten(attrs: LeaseAttrs) -> None:
    """The lease that we keep alive proves the key ours; a value that is not what we publish is put right."""
    changed = replace(RECORD, value=encode_value(attrs), mod_revision=9)
    finding = renewed(changed)
    assert isinstance(finding, Rewrite)
    assert finding.lease == OwnLease(SUBNET, OURS, changed, 86400.0, SENT_S, SENT_S + 86400.0 - DRIFT_MARGIN_S)


@pytest.mark.parametrize("lease_id", [0, 99])
def test_our_value_with_another_backend_is_rewritten(lease_id: int) -> None:
    """Ours by its address on any lease or none: the rest of the value is put right."""
    changed = lease(SUBNET, str(OURS), backend="vxlan", created=5, lease_id=lease_id)
    assert isinstance(renewed(changed), Rewrite)


def test_a_moved_address_is_published() -> None:
    """When our address has moved, the lease that carries the old one is ours still, and rewritten."""
    held = confirmed(SUBNET, MOVED, lease(SUBNET, str(MOVED), created=5), 86400.0, 0.0)
    finding = renewed(held.record, held=held)
    assert isinstance(finding, Rewrite)
    assert finding.lease.public_ip == MOVED
    other_lease = replace(held.record, lease_id=99)
    assert isinstance(renewed(other_lease, held=held), Rewrite)
    rewritten = lease(SUBNET, str(OURS), created=5, changed=9, lease_id=99)
    assert confirmed_lease(renewed(rewritten, held=held)).public_ip == OURS


@pytest.mark.parametrize("lease_id", [0, 99])
def test_another_nodes_address_means_taken(lease_id: int) -> None:
    """Rows F24 and F25: another address on another lease, or on none, is another owner; he is named."""
    theirs = lease(SUBNET, str(OTHER), created=8, lease_id=lease_id)
    assert renewed(theirs) == HeldByOther(OTHER)


def test_a_reservation_for_another_node_means_taken() -> None:
    """Without a lease nothing but the address proves a key ours."""
    reserved = confirmed(SUBNET, OURS, replace(RECORD, lease_id=0), None, 0.0)
    assert renewed(lease(SUBNET, str(OTHER), lease_id=0), None, held=reserved) == HeldByOther(OTHER)


@pytest.mark.parametrize("value", strategies.POISON_VALUES[:40])
def test_an_unreadable_value_on_our_own_lease_is_rewritten(value: bytes) -> None:
    """Our lease proves the key ours, whatever somebody has written into it."""
    assert isinstance(renewed(replace(RECORD, value=value, mod_revision=9)), Rewrite)


@pytest.mark.parametrize("lease_id", [0, 99])
@pytest.mark.parametrize("value", [b"", b"null", b"{}", b"\xff", b"[" * 1000, b'{"PublicIP":"\\u001b[2J"}'])
def test_an_unreadable_value_without_our_lease_is_nobodys(value: bytes, lease_id: int) -> None:
    """Nothing proves it ours or another's: say why in one line, and wait."""
    finding = renewed(replace(RECORD, value=value, lease_id=lease_id))
    assert isinstance(finding, Unreadable)
    assert finding.why.isascii()
    assert finding.why.isprintable()


def test_an_unreadable_reservation_is_nobodys() -> None:
    """That both keys hang on no lease is no proof that they are one and the same."""
    reserved = confirmed(SUBNET, OURS, replace(RECORD, lease_id=0), None, 0.0)
    assert isinstance(renewed(replace(RECORD, lease_id=0, value=b"{}"), None, held=reserved), Unreadable)


@given(
    strategies.lease_attrs().map(encode_value) | strategies.poison_values() | st.just(RECORD.value),
    st.sampled_from((0, 77, 99)), st.sampled_from((0, 77)), st.sampled_from((None, 0.0, 5.0, 86400.0)),
)
def test_nothing_is_confirmed_for_longer_than_it_was_granted(
    value: bytes, lease_id: int, held_id: int, ttl_s: float | None
) -> None:
    """Whatever is seen: a proof without end needs a key without TTL, and any other ends with the granted time."""
    record = Record(b"10.5.34.0-24", value, 5, 9, lease_id)
    finding = renewed(record, ttl_s, held=confirmed(SUBNET, OURS, replace(RECORD, lease_id=held_id), 60.0, 0.0))
    if isinstance(finding, Confirmed | Rewrite):
        granted = inf if lease_id == 0 else (ttl_s or 0.0) if lease_id == held_id else 0.0
        assert finding.lease.confirmed_until_s == SENT_S + granted - DRIFT_MARGIN_S
        assert finding.lease.record == record


@pytest.mark.parametrize(
    ("ttl_s", "margin_s", "interval_s"),
    [
        (86400.0, 3600.0, 300.0),
        (86400.0, 86399.0, 1.0),
        (86400.0, 86340.0, 60.0),
        (86400.0, 60.0, 300.0),
        (600.0, 60.0, 60.0),
        (60.0, 0.0, 6.0),
        (10.0, 3600.0, 1.0),
        (0.0, 3600.0, 1.0),
        (inf, 3600.0, 300.0),
    ],
)
def test_the_interval_is_the_smallest_of_three(ttl_s: float, margin_s: float, interval_s: float) -> None:
    """A tenth of the TTL, five minutes, or what the operator's margin leaves, and never less than a second."""
    assert renewal_interval_s(ttl_s, margin_s) == interval_s


@given(st.floats(0, 1e9) | st.just(inf), st.floats(0, 86400))
def test_the_interval_is_within_bounds(ttl_s: float, margin_s: float) -> None:
    """No time to live and no margin makes the daemon spin or sleep on."""
    assert 1.0 <= renewal_interval_s(ttl_s, margin_s) <= LONGEST_INTERVAL_S
