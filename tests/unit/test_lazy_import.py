"""What is loaded behind the start: a moment without descriptors is waited for."""

import importlib
from types import ModuleType

import pytest

from pyflanneld.state import lazy_import
from pyflanneld.state.lazy_import import load_module


@pytest.mark.parametrize("on_thread", [False, True])
async def test_without_descriptors_it_is_tried_again(monkeypatch: pytest.MonkeyPatch, on_thread: bool) -> None:
    """A file that cannot be opened is no reason to end."""
    refusals, real = [OSError(24, "Too many open files")] * 3, importlib.import_module

    def refused(name: str) -> ModuleType:
        if refusals:
            raise refusals.pop()
        return real(name)

    monkeypatch.setattr(importlib, "import_module", refused)
    monkeypatch.setattr(lazy_import, "RETRY_S", 0.0)
    name = "pyflanneld.tasks.lease.duplicate_holder"
    assert await load_module(name, on_thread=on_thread) is real(name)
    assert refusals == []


async def test_what_is_not_there_is_said() -> None:
    """A broken installation is no moment that passes."""
    with pytest.raises(ModuleNotFoundError):
        await load_module("pyflanneld.tasks.nothing")
