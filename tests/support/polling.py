"""Waiting in tests: ask again and again, with a deadline, instead of sleeping and hoping."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable


async def eventually(check: Callable[[], object | Awaitable[object]], within_s: float = 10.0) -> object:
    """Return the first true thing that *check* returns; raises ``TimeoutError`` when there is none in time."""
    async with asyncio.timeout(within_s):
        while not (answer := await _answer(check)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return answer


async def _answer(check: Callable[[], object | Awaitable[object]]) -> object:
    answer = check()
    return await answer if inspect.isawaitable(answer) else answer
