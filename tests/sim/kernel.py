"""A kernel that watches the daemon's hands: each change is checked at the moment at which it is made."""

import asyncio
from collections.abc import Callable
from random import Random

from pyflanneld.core.families import Network
from pyflanneld.core.links import Link
from pyflanneld.core.routes import Create, Drop, KernelRoute, Replace, RouteChange, usual_metric
from tests.fakes.kernel import FakeKernel

Judge = Callable[[RouteChange, KernelRoute | None], None]
"""Told of each change that the daemon is about to make, and of the route that stands there."""


class SimKernel(FakeKernel):
    """``FakeKernel`` with delays, and with a judge."""

    def __init__(self, link: Link, rng: Random, judge: Judge) -> None:
        super().__init__(link)
        self._rng = rng
        self._judge = judge
        self.awake = asyncio.Event()
        self.awake.set()

    async def _called(self, name: str) -> None:
        await self.awake.wait()
        if self._rng.random() < 0.2:
            await asyncio.sleep(self._rng.uniform(0, 0.01))
        await super()._called(name)

    def _apply(self, change: RouteChange) -> int:
        there = self.standing(change.route.dst)
        result = super()._apply(change)
        if result == 0 and isinstance(change, Create | Replace | Drop):
            self._judge(change, there)
        return result

    def standing(self, dst: Network) -> KernelRoute | None:
        """Return the route for *dst* with the usual metric."""
        return self._routes.get((dst, usual_metric(dst)))
