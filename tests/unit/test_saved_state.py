"""The text of the last good state: what is written is read back, what is not understood is refused with its reason."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.saved_state import MAX_BYTES, NOT_KEPT, SavedState, as_kept, decode_state, encode_state

CONFIG = b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
VALUE = b'{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"host-gw"}'
OWN = Record(b"172.7.21.0-24", VALUE, 5, 9, 7587848)
PEER = Record(b"172.7.22.0-24", VALUE.replace(b".21", b".22"), 6, 6, NOT_KEPT)
STATE = SavedState(1_700_000_000.5, 1_700_086_400.25, "/coreos.com/network", 3, 2**64 - 1, 77, CONFIG, OWN, (PEER,))
DOCUMENT = json.loads(encode_state(STATE))

texts = st.text(st.characters(codec="utf-8")).map(str.encode)
numbers = st.integers(0, 2**63)
peers = st.builds(lambda name, value, at: Record(name, value, at, at, NOT_KEPT), texts, texts, numbers)
states = st.builds(
    SavedState, saved_at_s=st.floats(0, 1e11), lease_end_s=st.none() | st.floats(0, 1e11),
    prefix=st.text(st.characters(codec="utf-8")), api=st.sampled_from((2, 3)), cluster_id=st.integers(0, 2**64 - 1),
    revision=numbers, config=texts,
    own=st.builds(Record, st.just(OWN.name), st.just(VALUE), numbers, numbers, numbers),
    peers=st.lists(peers, max_size=5).map(tuple),
)  # fmt: skip


@given(states)
def test_what_is_written_is_read_back(state: SavedState) -> None:
    """Any state, any text in it."""
    assert decode_state(encode_state(state)) == state


@given(st.dictionaries(st.sampled_from(sorted(DOCUMENT)), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=2), max_leaves=8,
)))  # fmt: skip
def test_any_other_value_is_refused_or_read_back(changes: dict[str, object]) -> None:
    """Nothing but ``Invalid`` comes out of it, and whatever is accepted can be written again."""
    try:
        state = decode_state(json.dumps(DOCUMENT | changes).encode())
    except Invalid:
        return
    assert decode_state(encode_state(state)) == state


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"format": 2}, "format"), ({"format": True}, "format"), ({"more": 1}, "fields"),
        ({"saved_at": "now"}, "saved_at"), ({"saved_at": True}, "saved_at"), ({"saved_at": -1}, "saved_at"),
        ({"saved_at": 10**400}, "saved_at"), ({"lease_end": []}, "lease_end"), ({"prefix": 1}, "prefix"),
        ({"api": 1}, "api"), ({"api": 3.0}, "api"), ({"cluster": 2**64}, "cluster"), ({"revision": -1}, "revision"),
        ({"config": None}, "config"), ({"config": "\ud800"}, "config"), ({"own": {}}, "own"), ({"own": [1]}, "own"),
        ({"own": ["x", VALUE.decode(), 1, 1, 1]}, "key"), ({"own": [OWN.name.decode(), "{}", 1, 1, 1]}, "PublicIP"),
        ({"peers": [["172.7.22.0-24", "{}"]]}, "peers"), ({"peers": [["172.7.22.0-24", "{}", "1"]]}, "peers"),
    ],
)  # fmt: skip
def test_the_field_is_named(changes: dict[str, object], field: str) -> None:
    """Field, value, what would be right."""
    with pytest.raises(Invalid) as caught:
        decode_state(json.dumps(DOCUMENT | changes).encode())
    assert caught.value.field == field
    assert " is not usable: " in str(caught.value)


@pytest.mark.parametrize("field", sorted(DOCUMENT))
def test_each_field_is_needed(field: str) -> None:
    """A file that lacks one was not written by this program."""
    with pytest.raises(Invalid, match=field):
        decode_state(json.dumps({name: value for name, value in DOCUMENT.items() if name != field}).encode())


@given(st.integers(0, len(encode_state(STATE)) - 3))
def test_a_torn_file_is_refused(length: int) -> None:
    """Cut anywhere before the last brace."""
    with pytest.raises(Invalid):
        decode_state(encode_state(STATE)[:length])


def test_bounds_hold_for_both_directions() -> None:
    """A file beyond the bound is neither written nor read; the largest IPv4 networks of a /8 fit in."""
    many = tuple(replace(PEER, name=f"10.{i >> 8}.{i & 255}.0-24".encode()) for i in range(40_000))
    assert len(decode_state(encode_state(replace(STATE, peers=many))).peers) == 40_000
    with pytest.raises(Invalid, match="at most"):
        encode_state(replace(STATE, peers=many * 3))
    with pytest.raises(Invalid, match="objects and lists"):
        encode_state(replace(STATE, peers=(replace(PEER, value=b"[" * 300_000),)))
    with pytest.raises(Invalid, match="at most"):
        decode_state(b" " * (MAX_BYTES + 1))
    with pytest.raises(Invalid, match="objects and lists"):
        decode_state(b"[" * MAX_BYTES)
    with pytest.raises(Invalid, match="UTF-8"):
        encode_state(replace(STATE, config=b"\xff"))


def test_times_and_revisions_are_no_news() -> None:
    """A renewal changes them all the time; what a boot would do differently is news."""
    later = replace(STATE, saved_at_s=1.0, lease_end_s=2.0, revision=99, own=replace(OWN, mod_revision=99))
    assert not later.differs_from(STATE)
    for changes in (
        {"peers": ()}, {"config": b"{}"}, {"cluster_id": 1}, {"own": replace(OWN, lease_id=1)}, {"api": 2},
        {"prefix": "/x"}, {"peers": (as_kept(replace(PEER, value=b"{}")),)},
    ):  # fmt: skip
        assert replace(STATE, **changes).differs_from(STATE), changes  # type: ignore[arg-type]
    assert as_kept(replace(PEER, mod_revision=99, lease_id=5)) == PEER
