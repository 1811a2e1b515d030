"""One watch on a v2 key or directory, for as long as it can be trusted.

Theory of operation. A long poll requests the first change at or after an index, and its response is that change; the
next poll, from the index after it, misses nothing, because etcd keeps the last 1000 changes of its whole tree. A poll
for an older one is an error (401), and the caller lists again. The header of the response comes at once, with the index
N at which the server accepted it: after a silence, whatever comes next is after N, so the next poll begins there, and
many changes elsewhere in the tree do not make our position too old.

A poll can wait for ever, and silence is not health: after 45 s the member has to answer a linearizable read, which a
member that was cut off from the others cannot, and the poll is sent again. The kernel's probes find a dead connection.

Balancers cut the connection of a poll that was idle for some time. Where the poll was open for 2 s it is sent again, as
after a silence; the read follows when 45 s have passed since the last sign of life.

Refreshes of a TTL are changes with an index of their own that no poll reports. The watch ends with an error, and the
caller lists again, when the connection cannot be opened again, and when a response is from another cluster or an older
history.
"""

import asyncio

from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import (
    ConnectionCut,
    HistoryChanged,
    NoAnswer,
    RegistryError,
    RegistryUnavailable,
    RevisionCompacted,
)
from pyflanneld.etcd.v2.http import PendingResponse, V2Client, V2Request
from pyflanneld.etcd.v2.keyspace import V2Event, parse_event
from pyflanneld.etcd.v2.responses import INDEX_CLEARED, V2Refused, V2Response


class LongPoll:
    """The changes at *path* after an index, one at a time, as an asynchronous iterator; close it after use.

    Args:
        http: sends the requests.
        path: of a key, or of a directory with everything below it.
        alive: a small key, to be read as a sign of life.
        after: the index up to which everything is known.
        cluster_id: the cluster of that index; ``None`` to accept any.
    """

    def __init__(
        self, http: V2Client, path: str, *, alive: str, after: int, cluster_id: int | None, log: FilteringBoundLogger
    ) -> None:
        self._http = http
        self._path = path
        self._alive = V2Request("GET", alive, {"quorum": "true"})
        self._known = after
        self._cluster_id = cluster_id
        self._log = log
        self._pending: PendingResponse | None = None
        self._member = http.members.current
        self._opened = False
        self._sent_at = self._heard_at = 0.0

    def __aiter__(self) -> "LongPoll":
        return self

    async def __anext__(self) -> V2Event | None:
        """Return the next change; ``None`` is a sign of life, the first one means "open"."""
        try:
            return await self._next()
        except RegistryUnavailable as error:
            self._http.members.leave(self._member, error)
            raise

    async def _next(self) -> V2Event | None:
        if self._pending is None:
            self._pending = await self._send()
        if not self._opened:
            self._opened = True
            self._heard_at = self._sent_at
            self._log.debug("watch.opened", endpoint=self._member.url, start_revision=self._known + 1)
            return None
        pending, self._pending = self._pending, None
        body = await self._body(pending)
        if body is None:
            self._known = max(self._known, pending.answer.index)
            self._pending = await self._send()  # at once: etcd may forget changes before our caller asks
            return None
        if not body.strip():
            raise RegistryUnavailable(f"{self._member.url}: etcd ended the watch")
        self._heard_at = asyncio.get_running_loop().time()
        event = parse_event(body, self._member.url)
        self._known = max(self._known, event.node.modified)
        return event

    async def _body(self, pending: PendingResponse) -> bytes | None:
        """Return what the poll brings; ``None`` when that was nothing, and the poll is to be sent again."""
        loop, timing = asyncio.get_running_loop(), self._http.timing
        try:
            async with asyncio.timeout(timing.silence_s):
                return await pending.body()
        except TimeoutError:
            await self._prove_alive()
        except ConnectionCut as cut:
            if loop.time() - self._sent_at < timing.steady_s:
                raise
            self._log.debug("watch.cut", endpoint=self._member.url, error=str(cut))
            if loop.time() - self._heard_at >= timing.silence_s:
                await self._prove_alive()
        finally:
            pending.close()
        return None

    async def _send(self) -> PendingResponse:
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
        self._sent_at = asyncio.get_running_loop().time()
        return pending

    def _check(self, answer: V2Response) -> None:
        """Raise if *answer* cannot continue what was seen."""
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
        except V2Refused as error:  # an absent key is an answer as well
            self._check(error.answer)
        except TimeoutError as error:
            raise NoAnswer(f"{self._member.url}: the watch is silent, and so is the server") from error
        self._heard_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """End the watch; this does not wake a task that waits for it."""
        if self._pending is not None:
            self._pending.close()
            self._pending = None
