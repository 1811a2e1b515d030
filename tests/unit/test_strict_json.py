"""Reading JSON from etcd: what Go reads is read alike, and nothing else gets through or hurts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.invalid import Invalid, shown
from pyflanneld.core.strict_json import MAX_BRACKETS, MAX_BYTES, parse_object
from tests.support import strategies


def refusal(data: bytes) -> Invalid:
    with pytest.raises(Invalid) as caught:
        parse_object(data, "document")
    return caught.value


def test_an_object_is_read_with_its_names_in_lower_case() -> None:
    """Names of the top level lose their case, their values and everything below stay as they came."""
    assert parse_object(b' {"Network":"A","BACKEND":{"Type":"B"}}\n', "x") == {"network": "A", "backend": {"Type": "B"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":1,"a":2}', 2),
        ('{"A":1,"a":2}', 2),
        ('{"a":1,"A":2}', 2),
        ('{"A":1,"a":2,"A":3}', 3),
        ('{"a":1,"A":2,"a":3}', 3),
        ('{"a":1,"\\u0041":2}', 2),
    ],
)
def test_of_names_that_differ_in_case_the_last_wins(text: str, value: int) -> None:
    """As in Go, the last member of a name counts, however each of them is spelt."""
    assert parse_object(text.encode(), "x") == {"a": value}


@given(st.lists(st.tuples(st.sampled_from(("ab", "aB", "Ab", "AB", "c", "C")), st.integers()), max_size=8))
def test_members_are_folded_in_the_order_of_the_text(members: list[tuple[str, int]]) -> None:
    """Whatever the mixture of spellings, the result is that of taking the members one by one."""
    text = ",".join(f'"{name}":{value}' for name, value in members)
    expected: dict[str, object] = {}
    for name, value in members:
        expected[name.lower()] = value
    assert parse_object(f"{{{text}}}".encode(), "x") == expected


@pytest.mark.parametrize(
    "value", [b"", b"null", b"[]", b'"x"', b"7", b"{", b'{"a":1}{}', b"{'a':1}", b'{"a":1,}', b"\xff"]
)
def test_what_is_no_json_object_is_refused(value: bytes) -> None:
    """Text that is broken, or that is no object, has one of two reasons."""
    assert refusal(value).reason in {"not_json", "not_an_object"}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[1e400]", "9" * 4301])
def test_numbers_that_are_none_are_refused(number: str) -> None:
    """NaN, infinities, numbers that would become one, and integers too long to convert are not JSON to us."""
    assert refusal(f'{{"a":{number}}}'.encode()).reason == "not_json"


def test_the_size_is_bounded() -> None:
    """A text of exactly the limit is read, one byte more is not."""
    filler = b"x" * (MAX_BYTES - 8)
    assert parse_object(b'{"a":"' + filler + b'"}', "x") == {"a": filler.decode()}
    assert refusal(b'{"a":"' + filler + b'y"}').reason == "too_large"


def test_the_nesting_is_bounded() -> None:
    """Brackets are counted before anything is parsed: the limit is read, one more is not, 100,000 are no trouble."""
    deep = MAX_BRACKETS - 1
    assert parse_object(b'{"a":' + b"[" * deep + b"]" * deep + b"}", "x")
    assert refusal(b'{"a":[' + b"[" * deep + b"]" * deep + b"]}").reason == "too_large"
    assert refusal(b'{"a":' * 12_000).reason == "too_large"


@given(strategies.poison_values() | st.binary(max_size=80) | strategies.json_documents("Network", "PublicIP"))
def test_any_bytes_give_an_object_or_one_clean_line(data: bytes) -> None:
    """Nothing but Invalid is ever raised; its message is one short printable ASCII line, whatever came in."""
    text, document = "", {}
    try:
        document = parse_object(data, "document")
    except Invalid as error:
        text = str(error)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 300
    assert all(name == name.lower() for name in document)
    json.dumps(document, allow_nan=False)  # raises where an infinity got through


@given(st.text() | st.binary() | strategies.json_values())
def test_a_shown_value_is_short_printable_ascii(value: object) -> None:
    """What is shown of outside input can neither flood nor forge a log, however long or odd it is."""
    text = shown(value)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 123


def test_a_long_value_is_shown_by_its_beginning() -> None:
    """A cut is marked with dots, and a value of the limit's length is not cut."""
    assert shown("a" * 118) == "'" + "a" * 118 + "'"
    assert shown("a" * 5000) == "'" + "a" * 119 + "..."
    assert shown(b"\x1b" * 5000).endswith("...")
