"""A list of the kernel's as values, read anew only where its bytes have changed.

The daemon reads all links and routes every few seconds, and mostly nothing has changed. So the bytes of the last list
are kept, message by message without their headers: comparing 4,000 of them takes 0.1 ms, decoding them 40 (plain
routes) to 1,000 (links).
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
AT_ONCE = 64  # messages to decode before the other tasks have their turn: up to 20 ms of links


class DumpCache(Generic[T]):
    """What one kind of dump has brought.

    Args:
        decode: reads the body of one message; ``None`` if it is of no interest. May raise ``ValueError``.
        essence: cuts off what changes by itself; that stands behind all that is decoded.
    """

    def __init__(self, decode: Callable[[bytes], T | None], essence: Callable[[bytes], bytes] | None = None) -> None:
        self._decode = decode
        self._essence = essence
        self._bodies: list[bytes] = []
        self._decoded: list[T | None] = []
        self._values: tuple[T, ...] = ()

    def known(self) -> dict[bytes, T | None]:
        """Return what was made of each message of the last list."""
        return dict(zip(self._bodies, self._decoded, strict=True))

    async def update(self, bodies: list[bytes]) -> tuple[T, ...]:
        """Return the values in *bodies*, in order: the identical tuple as the last time if they are equal.

        Not more than one call at a time. Raises what *decode* raises, and then remembers the list before.
        """
        if self._essence is not None:
            bodies = self._essences(bodies, self._essence)
        if bodies != self._bodies:
            known = self.known()
            fresh = [body for body in bodies if body not in known]
            for start in range(0, len(fresh), AT_ONCE):
                if start:
                    await asyncio.sleep(0)
                known |= {body: self._decode(body) for body in fresh[start : start + AT_ONCE]}
            decoded = [known[body] for body in bodies]
            self._bodies, self._decoded = bodies, decoded
            values = tuple(value for value in decoded if value is not None)
            if values != self._values:  # some messages carry clocks: the rest of a lifetime, a bridge's timers
                self._values = values
        return self._values

    def _essences(self, bodies: list[bytes], essence: Callable[[bytes], bytes]) -> list[bytes]:
        """Cut each of *bodies*. What begins as a known one is cut as that: they mostly have one length."""
        known, end = set(self._bodies), len(self._bodies[0]) if self._bodies else 0
        return [start if (start := body[:end]) in known else essence(body) for body in bodies]
