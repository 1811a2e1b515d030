"""Two clusters behind one list of endpoints: which is used, and which endpoints are set aside."""

import asyncio

import pytest

from pyflanneld.errors import HistoryChanged, RegistryUnavailable
from pyflanneld.etcd.clusters import AGAIN_S, Clusters, chosen
from tests.support.fakes.virtual_time import Journal, run

URLS = ("a", "b", "c")


@pytest.mark.parametrize(
    ("told", "known", "expected"),
    [
        ({"a": 1, "b": 1, "c": 1}, None, (1, set())),
        ({"a": 2, "b": 1, "c": 1}, None, (1, {"a"})),
        ({"b": 2, "c": 1}, None, (None, set())),
        ({"b": 2, "c": 3}, 1, (None, set())),
        ({"a": 2, "b": 1, "c": 3}, None, (None, set())),
        ({"c": 2}, None, (2, set())),
        ({"a": 2, "b": 1, "c": 2}, 1, (1, {"a", "c"})),
        ({"a": 2, "b": 2}, 1, (2, set())),
        ({}, 1, (1, set())),
        ({}, None, (None, set())),
    ],
)
def test_chosen(told: dict[str, int], known: int | None, expected: tuple[int | None, set[str]]) -> None:
    """The one in use stays while any endpoint is of it; else that of all that answer, or that of most endpoints."""
    assert chosen(URLS, told, known) == expected


class Site:
    """Endpoints that tell a cluster each; ``None`` for one that is silent, and takes its time for that."""

    def __init__(self, *urls: str, **told: int | None) -> None:
        self.told, self.asked, self.log = told, 0, Journal()
        self.clusters = Clusters(urls or URLS, self.identify, self.log)

    async def identify(self, url: str) -> int | None:
        self.asked += 1
        if self.told[url] is None:
            await asyncio.sleep(100)
        return self.told[url]

    async def admitted(self, url: str) -> bool:
        async def told() -> int | None:
            return self.told[url]

        try:
            await self.clusters.admit(url, told)
        except HistoryChanged:
            return False
        return True


def test_all_are_asked_before_the_first_is_used() -> None:
    """The odd one is refused, although it is the first that is used; the others are not asked again."""

    async def scenario() -> None:
        site = Site(a=1, b=1, c=2)
        assert not await site.admitted("c")
        assert site.clusters.set_aside == {"c"}
        assert site.log.count("endpoint.set_aside") == 1
        assert await site.admitted("a")
        assert await site.admitted("b")
        assert site.asked == len(URLS)

    run(scenario())


def test_one_that_is_silent_holds_nobody_up_for_long() -> None:
    """The others go on after a second, and it is checked when it is used."""

    async def scenario() -> None:
        site, began = Site(a=None, b=1, c=1), asyncio.get_running_loop().time()
        assert await site.admitted("b")
        assert asyncio.get_running_loop().time() - began < 1.5  # virtual
        await asyncio.sleep(10)
        site.told["a"] = 2
        assert not await site.admitted("a")

    run(scenario())


def test_it_comes_back_when_it_is_right_again() -> None:
    """Endpoints that are set aside are asked again once a minute."""

    async def scenario() -> None:
        site = Site(a=1, b=1, c=2)
        assert not await site.admitted("c")
        site.told["c"] = 1
        await site.clusters.look_again()
        assert site.clusters.set_aside == {"c"}
        await asyncio.sleep(AGAIN_S + 1)
        await site.clusters.look_again()
        assert not site.clusters.set_aside

    run(scenario())


def test_a_restored_cluster() -> None:
    """When every endpoint that answers is of another cluster, that is the one."""

    async def scenario() -> None:
        site = Site(a=1, b=1, c=1)
        assert await site.admitted("a")
        await asyncio.sleep(10)
        site.told.update(a=7, b=7, c=None)
        assert await site.admitted("b")
        assert site.clusters.known == 7

    run(scenario())


def test_a_single_endpoint_is_not_asked() -> None:
    """There is nothing to compare."""

    async def scenario() -> None:
        site = Site("a", a=1)
        assert await site.admitted("a")
        assert not site.asked

    run(scenario())


def test_nothing_is_believed_while_it_cannot_be_told() -> None:
    """Two clusters answer and the endpoint that would decide is silent: nobody is used until it answers."""

    async def scenario() -> None:
        site = Site(a=None, b=1, c=2)
        for url in ("b", "c"):
            with pytest.raises(RegistryUnavailable, match="b of 1, c of 2"):
                await site.admitted(url)
        site.told["a"] = 1
        await asyncio.sleep(1)
        assert await site.admitted("b")
        assert not await site.admitted("c")

    run(scenario())
