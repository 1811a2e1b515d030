"""Which of the endpoints belong to one cluster: two clusters behind one list must not be taken for one.

Theory of operation. A member that came up on its own, or a typing error, puts a second cluster behind the list. Each
member has keys of its own then, and which of them is asked is a matter of chance. So before the first answer is
believed every endpoint is asked for the id of its cluster, and each member again at each new connection. The cluster
of all that answer is the one in use; where they differ, that of most endpoints in the list, and where none has most,
nothing is believed until enough of them answer. An endpoint of another cluster is set aside, and comes back when it has
the right id. The cluster in use stays it as long as one endpoint of it answers: another one takes its place only when
there is nothing else, as after a restore.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import HistoryChanged, RegistryUnavailable

GRACE_S: Final = 1.0
"""How long the others may take after the first endpoint has told its id; 3 s for the first."""
_FIRST_S: Final = 3.0
AGAIN_S: Final = 60.0
"""How often endpoints that are set aside are asked again."""

Identify = Callable[[str], Coroutine[Any, Any, int | None]]
"""Returns the id of the cluster of an endpoint, by its URL; ``None`` where it does not tell. Does not raise."""


class Clusters:
    """The ids that the endpoints have told.

    Args:
        urls: all endpoints, in the operator's order; with one there is nothing to compare.
        identify: asks one.
        log: where events go.

    Attributes:
        known: the id of the cluster in use; ``None`` before the first answer.
        set_aside: the endpoints of other clusters.
    """

    def __init__(self, urls: Sequence[str], identify: Identify, log: FilteringBoundLogger) -> None:
        self._urls = tuple(urls)
        self._identify = identify
        self._log = log
        self._lock = asyncio.Lock()
        self._asked_at = -1.0
        self._told: Mapping[str, int] = {}
        self.known: int | None = None
        self.set_aside: frozenset[str] = frozenset()

    async def admit(self, url: str, told: Callable[[], Awaitable[int | None]]) -> None:
        """Check the cluster of an endpoint before it is used; *told* asks it, on the connection that is to be used.

        Raises:
            HistoryChanged: it belongs to another cluster than the one in use.
            RegistryUnavailable: there are several clusters, and it cannot be told which is right.
        """
        if len(self._urls) == 1:
            return
        began_at = asyncio.get_running_loop().time()
        if self.known is None:
            await self._compare(began_at)
        mine = await told()
        if mine is not None and mine != self.known:
            await self._compare(began_at)
        if self.known is None and self._told:
            seen = ", ".join(f"{one} of {cluster:x}" for one, cluster in sorted(self._told.items()))
            raise RegistryUnavailable(f"the endpoints belong to different clusters, and none has most of them: {seen}")
        if mine is not None and self.known is not None and mine != self.known:
            self.set_aside |= {url}
            raise HistoryChanged(f"{url}: it belongs to another cluster ({mine:x}) than the one in use")

    async def look_again(self) -> None:
        """Ask all endpoints again where some are set aside, and the last time is a while ago."""
        if self.set_aside and asyncio.get_running_loop().time() > self._asked_at + AGAIN_S:
            await self._compare(self._asked_at + AGAIN_S)

    async def _compare(self, since_at: float) -> None:
        """Ask all endpoints, and decide, unless another call has since."""
        async with self._lock:
            if self._asked_at >= since_at:
                return
            self._told = told = await self._ask_all()
            self._asked_at = asyncio.get_running_loop().time()
            before, aside = self.known, self.set_aside
            self.known, self.set_aside = chosen(self._urls, told, before)
            if self.set_aside - aside:
                self._log.warning("endpoint.set_aside", endpoints=sorted(self.set_aside), cluster=f"{self.known:x}")

    async def _ask_all(self) -> Mapping[str, int]:
        tasks = {asyncio.create_task(self._identify(url), name=f"identify-{url}"): url for url in self._urls}
        loop = asyncio.get_running_loop()
        told: dict[str, int] = {}
        give_up_at, waiting = loop.time() + _FIRST_S, set(tasks)
        try:
            while waiting and (left_s := give_up_at - loop.time()) > 0:
                done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                found = {tasks[task]: task.result() for task in done}
                told |= {url: mine for url, mine in found.items() if mine is not None}
                if told:
                    give_up_at = min(give_up_at, loop.time() + GRACE_S)
        finally:
            for task in waiting:
                task.cancel()
        return told


def chosen(urls: Sequence[str], told: Mapping[str, int], known: int | None) -> tuple[int | None, frozenset[str]]:
    """Return the cluster to use, ``None`` where that cannot be told, and the endpoints of others.

    Args:
        urls: all endpoints, in order.
        told: the id of each that has answered.
        known: the one in use so far.
    """
    votes = Counter(told.values())
    if votes and known not in votes:
        known, count = votes.most_common(1)[0]
        if len(votes) > 1 and count * 2 <= len(urls):
            return None, frozenset()
    return known, frozenset(url for url, mine in told.items() if mine != known)
