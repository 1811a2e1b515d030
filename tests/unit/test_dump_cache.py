"""Lists of the kernel that are read anew only where they have changed, and the scopes of new routes."""

from collections import Counter
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyflanneld.core.objects.plan import Create, Drop, Replace
from pyflanneld.core.routes import Blackhole, KernelRoute, Route
from pyflanneld.netlink.dump_cache import AT_ONCE, DumpCache
from pyflanneld.netlink.route_scope import RouteScope


class Reader:
    """Reads a body as a number, and counts how often it reads; an empty one is of no interest."""

    def __init__(self) -> None:
        self.read: Counter[bytes] = Counter()

    def __call__(self, body: bytes) -> int | None:
        self.read[body] += 1
        return int(body.split(b"@")[0]) if body else None


@given(lists=st.lists(st.lists(st.integers(0, 9).map(lambda number: str(number).encode()), max_size=6), max_size=6))
async def test_any_sequence_of_lists(lists: list[list[bytes]]) -> None:
    """Whatever lists follow each other, each is read as if it were the first."""
    listing = DumpCache(Reader())
    for bodies in lists:
        assert await listing.update(bodies) == tuple(map(int, bodies))


async def test_only_what_has_changed() -> None:
    """Of a list in which one message is new only that one is read; of an equal one none."""
    reader = Reader()
    listing = DumpCache(reader)
    bodies = [str(number).encode() for number in range(2 * AT_ONCE)]
    first = await listing.update([*bodies, b""])
    assert await listing.update([*bodies, b""]) is first
    assert len(await listing.update([b"777", *bodies[1:]])) == len(first)
    assert set(reader.read.values()) == {1}


async def test_other_bytes_of_the_same_meaning() -> None:
    """Where bytes change that mean nothing, such as a running clock's, the values stay the identical object."""
    listing = DumpCache(Reader())
    before = await listing.update([b"1@10:00", b"2"])
    assert await listing.update([b"1@10:01", b"", b"2"]) is before


async def test_what_is_known_is_not_cut_again() -> None:
    """Of a list in which clocks have run only what begins like nothing known is cut, wherever it stands."""
    cut: list[bytes] = []

    def essence(body: bytes) -> bytes:
        cut.append(body)
        return body.split(b"@")[0]

    listing = DumpCache(Reader(), essence)
    before = await listing.update([b"11@0", b"12@0", b"130@0"])
    cut.clear()
    assert await listing.update([b"11@1", b"12@5", b"130@7"]) is before
    assert cut == [b"130@7"]  # of another length than the first
    assert await listing.update([b"14@2", b"11@2"]) == (14, 11)
    assert cut == [b"130@7", b"14@2"]


async def test_after_an_error() -> None:
    """A message that cannot be read is an error and changes nothing; the next list is read well."""
    listing = DumpCache(Reader())
    before = await listing.update([b"1", b"2"])
    with pytest.raises(ValueError, match="x"):
        await listing.update([b"1", b"x", b"3"])
    assert await listing.update([b"1", b"2"]) is before
    assert await listing.update([b"3"]) == (3,)


def create(number: int) -> Create:
    return Create(Route(IPv4Network((0x0A000000 + 256 * number, 24)), IPv4Address(0xAC100100 + number), 7))


def test_scopes() -> None:
    """The first thousand routes are global; of the rest no scope has much more than its share, none is the kernel's."""
    scopes = RouteScope()
    chosen = Counter(scopes.choose(create(number)) for number in range(16_000))
    assert chosen.pop(0) == 1000
    assert chosen.keys() == set(range(1, 200))
    assert max(chosen.values()) <= 1.1 * 15_000 / 199


def test_scopes_follow_what_is_there() -> None:
    """What the kernel holds counts, and what is taken over; a gateway keeps its scope; other changes stay global."""
    scopes = RouteScope(spread_from=10)
    scopes.held = 8
    assert scopes.choose(Replace(create(1).object)) == 0
    assert scopes.choose(create(1)) == 0
    chosen = scopes.choose(create(1))
    assert chosen == scopes.choose(create(1)) == scopes.choose(Replace(create(1).object)) != 0
    dst = IPv4Network("10.0.0.0/24")
    ipv6 = Create(Route(IPv6Network("fd00::/64"), IPv6Address("fd00::1"), 7))
    held = KernelRoute(dst, IPv4Address("192.168.1.2"), 7, 103, 0, plain=True)
    assert [scopes.choose(change) for change in (Create(Blackhole(dst)), Drop(held), ipv6)] == [0, 0, 0]
    scopes.held = 3
    assert scopes.choose(create(1)) == 0
