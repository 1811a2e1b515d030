"""Bad bytes: every kept input again, and inputs that come near them; ``make fuzz`` searches for more."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS
from tests.support.strategies import POISON_VALUES, json_documents, json_values

ONE_MIB = 1 << 20


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds(name: str) -> None:
    """Whatever was found once is read, or refused as it should be."""
    inputs = corpus.load(name)
    assert inputs
    for data in inputs:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_comes_near_the_corpus_holds(name: str) -> None:
    """The same for inputs that are cut, joined, repeated and spoiled."""
    inputs = corpus.load(name)

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(_near(inputs))
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(json_documents("Network", "SubnetLen", "SubnetMin", "Backend", "EnableIPv6", "PublicIP"), json_values())
def test_structured_documents_hold(document: bytes, anything: object) -> None:
    """JSON of the right names and wrong values is a matter for the configuration and the lease alike."""
    TARGETS["config"](document)
    TARGETS["value"](document)
    TARGETS["etcd_v2"](repr(anything).encode())


@pytest.mark.parametrize("number", range(len(POISON_VALUES)))
def test_reading_takes_little_memory(number: int) -> None:
    """What is too large or too deep is refused before it costs anything; the rest is small."""
    data = POISON_VALUES[number]
    tracemalloc.start()
    try:
        for name in ("value", "config"):
            TARGETS[name](data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < ONE_MIB, f"{len(data)} bytes"


@st.composite
def _near(draw: st.DrawFn, inputs: list[bytes]) -> bytes:
    """One or two of *inputs*, spoiled in up to four places."""
    data = bytearray(draw(st.sampled_from(inputs)) + draw(st.just(b"") | st.sampled_from(inputs)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 3)):
            case 0:
                data[at : at + 1] = draw(st.binary(max_size=3))
            case 1:
                del data[at : at + draw(st.integers(1, 16))]
            case 2:
                data[at:at] = data[at : at + draw(st.integers(1, 16))]
            case _:
                data[at:at] = draw(st.sampled_from((b"\xff", b"\x00", b"-", b"/", b"&", b'"', b"}", b"e999", b"\n")))
    return bytes(data)
