"""What the migration decides, without an etcd: converted bytes, conflicts, and that repeating does nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import LeaseAttrs, encode_value, parse_value
from pyflanneld.core.lease.migration import MigrationFate, OldKey, convert, plan_migration, same_config
from tests.support import strategies

NAME = b"172.7.21.0-24"
OLD = b'{"PublicIP":"192.168.14.21","BackendType":"host-gw"}'
NEW = b'{"PublicIP":"192.168.14.21","PublicIPv6":null,"BackendType":"host-gw"}'


def record(name: bytes = NAME, value: bytes = NEW, lease_id: int = 7) -> Record:
    return Record(name, value, 5, 5, lease_id)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (OLD, NEW),
        (NEW, NEW),
        (b'{"PublicIP":"192.168.14.21"}', b'{"PublicIP":"192.168.14.21","PublicIPv6":null}'),
        (
            b'{"PublicIP":"10.37.7.195","BackendType":"vxlan","BackendData":{"VtepMAC":"82:4b:b6:2f:54:4e"}}',
            b'{"PublicIP":"10.37.7.195","PublicIPv6":null,"BackendType":"vxlan",'
            b'"BackendData":{"VtepMAC":"82:4b:b6:2f:54:4e"}}',
        ),
    ],
)
def test_converted_bytes(old: bytes, new: bytes) -> None:
    """The bytes are those of current flannel, and everything that was said is kept."""
    assert convert(old) == new


@given(strategies.lease_attrs())
def test_conversion_is_the_other_spelling(attrs: LeaseAttrs) -> None:
    """Converting what we write to v2 gives what we write to v3, and converting again changes nothing."""
    assert convert(encode_value(attrs, api=2)) == encode_value(attrs, api=3)
    assert convert(convert(encode_value(attrs, api=2))) == encode_value(attrs, api=3)


@given(strategies.poison_values() | st.binary(max_size=50))
def test_conversion_of_anything(value: bytes) -> None:
    """A value is refused with a reason, or becomes one that says the same; nothing else happens."""
    try:
        converted = convert(value)
    except Invalid:
        return
    assert parse_value(converted) == parse_value(value)


def test_nothing_there() -> None:
    """A lease and a reservation are copied, each with what it had left."""
    steps = plan_migration([OldKey(NAME, OLD, 5000), OldKey(b"172.7.22.0-24", OLD, None)], ())
    assert [(step.fate, step.value, step.key.ttl_s) for step in steps] == [
        (MigrationFate.COPY, NEW, 5000), (MigrationFate.COPY, NEW, None),
    ]


def test_there_already() -> None:
    """What was copied before, or says the same in other bytes, is left as it is."""
    for value in (NEW, OLD, json.dumps(json.loads(NEW), indent=1).encode()):
        (step,) = plan_migration([OldKey(NAME, OLD, 5000)], [record(value=value)])
        assert step.fate is MigrationFate.THERE


@pytest.mark.parametrize(
    ("key", "there", "why"),
    [
        (OldKey(NAME, OLD, 5000), record(value=NEW.replace(b".21", b".99")), "192.168.14.99"),
        (OldKey(NAME, OLD, 5000), record(value=b"junk"), "junk"),
        (OldKey(NAME, OLD, None), record(), "reservation"),
        (OldKey(NAME, OLD, 5000), record(lease_id=0), "reservation"),
        (OldKey(NAME, OLD, 5000), record(b"172.7.20.0-23"), "172.7.20.0-23, which overlaps"),
        (OldKey(b"172.7.33.0-24&fd00::-64", OLD, 5000), record(b"172.7.34.0-24&fd00::-64"), "which overlaps"),
    ],
)
def test_conflicts(key: OldKey, there: Record, why: str) -> None:
    """Whatever else stands in the way is a conflict, and the reason is told."""
    (step,) = plan_migration([key], [record(b"junk"), there])
    assert step.fate is MigrationFate.CONFLICT
    assert why in step.why


@pytest.mark.parametrize("key", [OldKey(b"x", OLD, 5), OldKey(NAME, b"x", 5), OldKey(NAME, b"", None)])
def test_left_out(key: OldKey) -> None:
    """What is no lease is left out, with the reason."""
    (step,) = plan_migration([key], ())
    assert step.fate is MigrationFate.LEFT_OUT
    assert step.why


def test_same_config() -> None:
    """Configurations are compared by what they say; junk by its bytes."""
    assert same_config(b'{"Network": "10.0.0.0/8"}', b'{"Network":"10.0.0.0/8"}')
    assert not same_config(b'{"Network":"10.0.0.0/8"}', b'{"Network":"10.0.0.0/9"}')
    assert same_config(b"x", b"x")
    assert not same_config(b"x", b"{}")
