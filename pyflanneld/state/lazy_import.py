"""Modules that the start does without: each is loaded when it is needed."""

import asyncio
import importlib
from typing import Any

RETRY_S = 0.5


async def load_module(name: str, *, on_thread: bool = False) -> Any:
    """Return the module *name*; where no file can be opened, because there are no descriptors left, try again.

    Args:
        name: the whole of it.
        on_thread: load it beside the loop, for what takes longer than a loop should wait.
    """
    while True:
        try:
            if on_thread:
                return await asyncio.to_thread(importlib.import_module, name)
            return importlib.import_module(name)
        except OSError:
            await asyncio.sleep(RETRY_S)
