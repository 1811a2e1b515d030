"""What is loaded behind the start: a moment without descriptors is waited for."""

import asyncio
from collections.abc import Callable

import pytest

from pyflanneld.daemon import deferred


@pytest.mark.parametrize("on_thread", [False, True])
async def test_without_descriptors_it_is_tried_again(monkeypatch: pytest.MonkeyPatch, on_thread: bool) -> None:
    """A file that cannot be opened is no reason to end."""
    refusals = [OSError(24, "Too many open files")] * 3

    def importing() -> Callable[[], object]:
        if refusals:
            raise refusals.pop()
        return deferred.http

    monkeypatch.setattr(deferred, "RETRY_S", 0.0)
    assert await deferred.load(importing, on_thread=on_thread) is deferred.http
    assert refusals == []


async def test_what_is_not_there_is_reported() -> None:
    """A broken installation is no moment that passes."""

    def importing() -> None:
        raise ModuleNotFoundError("No module named 'aiohttp'")

    async with asyncio.timeout(10):
        with pytest.raises(ModuleNotFoundError):
            await deferred.load(importing)


def test_each_group_can_be_imported() -> None:
    """Whatever is deferred is there, under the names that the others call."""
    for importing in (deferred.firewall, deferred.firewall_check, deferred.metrics):
        assert callable(importing())
    assert [listener.__name__ for listener in deferred.http()] == [
        "health_listener", "operator_listener", "monitor_listener",
    ]  # fmt: skip
    deferred.certificates()
