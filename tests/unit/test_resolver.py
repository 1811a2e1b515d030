"""Names of etcd members: what hangs holds up nobody else, and nothing is remembered."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pyflanneld.etcd.resolver import Resolver
from tests.support.polling import eventually

PORT = 2379
ANSWERS = {"etcd1": "192.0.2.1", "etcd2": "192.0.2.2"}


class Names:
    """A ``getaddrinfo`` that can be made to hang; ``asked`` holds what was asked, in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []
        self.answers = dict(ANSWERS)
        self.silent: set[tuple[str, int]] = set()
        self.goes_on = threading.Event()

    def getaddrinfo(self, host: str, port: int, family: int, kind: int, *, flags: int) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            return socket.getaddrinfo(host, port, family, kind, flags=flags)
        self.asked.append((host, family))
        if (host, family) in self.silent:
            self.goes_on.wait(30)
        if host not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, kind, 6, "", (self.answers[host], port))]


@pytest.fixture
def names() -> Iterator[Names]:
    made = Names()
    yield made
    made.goes_on.set()


async def address(resolver: Resolver, host: str) -> str:
    [found] = await resolver.addresses(host, PORT)
    return str(found[4][0])


@pytest.mark.parametrize("literal", ["192.0.2.9", "2001:db8::9"])
async def test_an_address_is_no_name(names: Names, literal: str) -> None:
    """An address needs no lookup."""
    assert await address(Resolver(names.getaddrinfo), literal) == literal
    assert names.asked == []


async def test_each_connection_asks_anew(names: Names) -> None:
    """A name that gets another address is followed: no answer is kept."""
    resolver = Resolver(names.getaddrinfo)
    assert await address(resolver, "etcd1") == "192.0.2.1"
    names.answers["etcd1"] = "192.0.2.77"
    assert await address(resolver, "etcd1") == "192.0.2.77"
    assert names.asked == [("etcd1", socket.AF_UNSPEC)] * 2


async def test_no_such_name(names: Names) -> None:
    """It is Python's own error, each time."""
    resolver = Resolver(names.getaddrinfo)
    for _ in range(2):
        with pytest.raises(socket.gaierror) as raised:
            await resolver.addresses("nowhere", PORT)
        assert raised.value.errno == socket.EAI_NONAME


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example"])
async def test_what_cannot_be_a_name(name: str) -> None:
    """A name that Python cannot even ask for is one that does not exist."""
    with pytest.raises(socket.gaierror):
        await Resolver().addresses(name, PORT)


async def test_a_silent_name_holds_up_no_other(names: Names) -> None:
    """While one name hangs, others are answered, and the loop turns."""
    resolver = Resolver(names.getaddrinfo)
    names.silent = {("etcd1", socket.AF_UNSPEC), ("etcd1", socket.AF_INET)}
    hangs = asyncio.create_task(address(resolver, "etcd1"))
    assert await address(resolver, "etcd2") == "192.0.2.2"
    assert not hangs.done()
    names.goes_on.set()
    assert await hangs == "192.0.2.1"


async def test_lookups_that_hang_do_not_pile_up(names: Names) -> None:
    """Who gives up and asks again waits for the lookup that is under way: two threads, however often one asks."""
    resolver = Resolver(names.getaddrinfo)
    names.silent = {("etcd1", socket.AF_UNSPEC), ("etcd1", socket.AF_INET)}
    for _ in range(5):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await resolver.addresses("etcd1", PORT)
    assert names.asked == [("etcd1", socket.AF_UNSPEC), ("etcd1", socket.AF_INET)]
    assert {thread.daemon for thread in threading.enumerate() if thread.name == "lookup etcd1"} == {True}
    names.goes_on.set()
    assert await address(resolver, "etcd1") == "192.0.2.1"


async def test_a_lookup_that_hangs_long_is_left(names: Names) -> None:
    """What was mended meanwhile is found, although the old lookup still hangs."""
    resolver = Resolver(names.getaddrinfo, joined_s=0.0)
    names.silent = {("etcd1", socket.AF_UNSPEC), ("etcd1", socket.AF_INET)}
    hangs = asyncio.create_task(address(resolver, "etcd1"))
    await eventually(lambda: len(names.asked) == 2)
    names.silent = set()
    assert await address(resolver, "etcd1") == "192.0.2.1"
    assert not hangs.done()
    names.goes_on.set()
    await hangs


async def test_ipv6_questions_that_nobody_answers(names: Names) -> None:
    """A name server that drops questions for IPv6 addresses: the IPv4 address is used, as soon as it is there."""
    names.silent = {("etcd1", socket.AF_UNSPEC)}
    assert await address(Resolver(names.getaddrinfo), "etcd1") == "192.0.2.1"


async def test_no_thread_to_be_had(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit of threads a lookup fails as any other does, and the next one may work."""
    resolver = Resolver(names.getaddrinfo)

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refused)
        with pytest.raises(OSError, match="can't start new thread"):
            await resolver.addresses("etcd1", PORT)
    assert await address(resolver, "etcd1") == "192.0.2.1"


def test_a_loop_that_has_ended(names: Names) -> None:
    """A lookup that outlives its loop ends quietly."""
    names.silent = {("etcd1", socket.AF_UNSPEC), ("etcd1", socket.AF_INET)}

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await Resolver(names.getaddrinfo).addresses("etcd1", PORT)

    asyncio.run(give_up())
    [lookup] = [thread for thread in threading.enumerate() if thread.name == "lookup etcd1"]
    names.goes_on.set()
    lookup.join(10)
    assert not lookup.is_alive()


def test_what_was_found_is_known() -> None:
    """The addresses of a name are those of its last answer; an address is no name."""

    async def scenario() -> None:
        answers = iter((["10.0.0.1", "10.0.0.2"], ["10.0.0.3"]))

        def look_up(host: str, port: int, *_: object, flags: int = 0) -> list[object]:
            if flags and host[0].isalpha():
                raise socket.gaierror(socket.EAI_NONAME, "a name")
            found = next(answers) if host[0].isalpha() else [host]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

        resolver = Resolver(look_up)
        await resolver.addresses("10.0.0.9", 1)
        await resolver.addresses("etcd1", 1)
        assert resolver.found == {"etcd1": {"10.0.0.1", "10.0.0.2"}}
        await resolver.addresses("etcd1", 1)
        assert resolver.found == {"etcd1": {"10.0.0.3"}}

    asyncio.run(scenario())
