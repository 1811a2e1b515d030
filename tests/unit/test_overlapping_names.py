"""The ranges of names that a creation is guarded by: none that overlaps is missing, and hardly one too many."""

from ipaddress import IPv4Network, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.lease.codec import encode_name
from pyflanneld.core.lease.overlapping_names import overlapping_names

NUMBERS = st.integers(0, 2**32 - 1)
LENGTHS = st.integers(0, 32)


def network(number: int, length: int) -> IPv4Network:
    return IPv4Network((number >> (32 - length) << (32 - length), length))


def guarded(subnet: IPv4Network, name: bytes) -> bool:
    return any(start <= name < end for start, end in overlapping_names(subnet))


@given(NUMBERS, LENGTHS, NUMBERS, LENGTHS, st.booleans())
def test_all_that_overlaps_is_guarded(one: int, length: int, other: int, other_length: int, dual: bool) -> None:
    """Whatever covers a subnet or lies in it, with an IPv6 subnet behind it or without."""
    subnet = network(one, length)
    shared = min(length, other_length)
    mixed = network((one >> (32 - shared) << (32 - shared)) | (other & ((1 << (32 - shared)) - 1)), other_length)
    assert mixed.overlaps(subnet)
    assert guarded(subnet, encode_name(mixed, IPv6Network("fd00:1::/64") if dual else None))


@given(NUMBERS, st.sampled_from([8, 16, 20, 24, 27, 28, 30]), NUMBERS)
def test_a_neighbour_of_the_usual_lengths_is_not(one: int, length: int, other: int) -> None:
    """Of subnets of one length, each is in the ranges of none but itself."""
    subnet, neighbour = network(one, length), network(other, length)
    assert guarded(subnet, encode_name(neighbour)) is (subnet == neighbour)


@given(NUMBERS, LENGTHS)
def test_etcd_takes_that_many(one: int, length: int) -> None:
    """With the key itself there are fewer comparisons than the 128 that etcd takes."""
    ranges = list(overlapping_names(network(one, length)))
    assert len(ranges) <= 64
    assert all(start < end for start, end in ranges)
