"""One watch on a v2 key or directory, for as long as it can be believed.

Theory of operation. A long poll asks for the first change at or after an index and is answered with that one; asking
again from the index behind it loses nothing, for etcd keeps the last 1000 changes of its whole tree. Those that are
gone are told as an error (401), and the caller lists again. The answer's header comes at once, with the index N at
which it was taken up: after a silence whatever comes next lies behind N, so the next poll begins there, and a busy tree
elsewhere does not make our position too old.

A poll can wait for ever, and silence is not health: after 45 s the member has to answer a linearizable read, which one
that was cut off from the others cannot, and the poll is asked anew. A dead connection is found by the kernel's probes.

Refreshes of a TTL are changes with an index of their own that no poll tells. The watch is given up, for the caller to
list again, when the connection breaks, and when the answer is from another cluster or an older history.
"""

import asyncio

from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import HistoryChanged, RegistryError, RegistryUnavailable, RevisionCompacted
from pyflanneld.etcd.v2.http import Http, Pending, V2Request
from pyflanneld.etcd.v2.keyspace import Event, parse_event
from pyflanneld.etcd.v2.responses import INDEX_CLEARED, Answer, V2Refused


class LongPoll:
    """The changes at *path* after an index, one after another; to be closed after use.

    Args:
        http: sends the requests.
        path: of a key, or of a directory with all that is below.
        alive: a small key, to be read as a sign of life.
        after: the index up to which all is known.
        cluster_id: the cluster that it was heard from; ``None`` to believe the first answer.
    """

    def __init__(
        self, http: Http, path: str, *, alive: str, after: int, cluster_id: int | None, log: FilteringBoundLogger
    ) -> None:
        self._http = http
        self._path = path
        self._alive = V2Request("GET", alive, {"quorum": "true"})
        self._known = after
        self._cluster_id = cluster_id
        self._log = log
        self._pending: Pending | None = None
        self._member = http.members.current
        self._opened = False

    async def next(self) -> Event | None:
        """Return the next change; ``None`` is a sign of life, the first one says "open"."""
        try:
            return await self._next()
        except RegistryUnavailable as error:
            self._http.members.leave(self._member, error)
            raise

    async def _next(self) -> Event | None:
        if self._pending is None:
            self._pending = await self._ask()
        if not self._opened:
            self._opened = True
            self._log.debug("watch.opened", endpoint=self._member.url, start_revision=self._known + 1)
            return None
        pending, self._pending = self._pending, None
        try:
            async with asyncio.timeout(self._http.timing.silence_s):
                body = await pending.body()
        except TimeoutError:
            await self._prove_alive()
            self._known = max(self._known, pending.answer.index)
            self._pending = await self._ask()  # at once: the history does not wait for our caller
            return None
        finally:
            pending.close()
        if not body.strip():
            raise RegistryUnavailable(f"{self._member.url}: etcd ended the watch")
        event = parse_event(body, self._member.url)
        self._known = max(self._known, event.node.modified)
        return event

    async def _ask(self) -> Pending:
        query: dict[str, str | int] = {"wait": "true", "recursive": "true", "waitIndex": self._known + 1}
        try:
            pending = await self._http.begin(self._member, V2Request("GET", self._path, query))
        except V2Refused as error:
            if error.code == INDEX_CLEARED:
                raise RevisionCompacted(str(error)) from error
            raise
        try:
            self._check(pending.answer)
        except RegistryError:
            pending.close()
            raise
        return pending

    def _check(self, answer: Answer) -> None:
        """Raise if *answer* cannot be the continuation of what was seen; else take note of its index."""
        where = self._member.url
        if self._cluster_id is None:
            self._cluster_id = answer.cluster_id
        if answer.cluster_id != self._cluster_id:
            raise HistoryChanged(f"{where}: another cluster answered the watch")
        if answer.index < self._known:
            raise HistoryChanged(f"{where}: the watch went back to index {answer.index} from {self._known}")

    async def _prove_alive(self) -> None:
        try:
            async with asyncio.timeout(self._http.timing.rpc_s):
                self._check(await self._http.ask(self._member, self._alive))
        except V2Refused as error:  # an absent key is an answer too
            self._check(error.answer)
        except TimeoutError as error:
            raise RegistryUnavailable(f"{self._member.url}: the watch is silent, and so is the server") from error

    async def close(self) -> None:
        """End the watch; the one waiting for it is not woken by this."""
        if self._pending is not None:
            self._pending.close()
            self._pending = None
