"""One watch on a range of keys, for as long as it can be trusted.

Theory of operation: a ``Watch`` opens a stream on the endpoint in use with the first ``__anext__``, and ends with an
error at the first sign that it cannot be trusted: the caller then lists again and opens another one. It never repairs
anything, because a gap in the history cannot be seen from inside. The signs:

* the stream ends, or etcd cancels the watch. A refused creation looks like ``created`` and ``canceled`` at once, with
  ``watch_id`` -1; the reason is a text. A refused token is renewed and the watch opened once more;
* nothing at all came for 45 s. After 30 s of silence we request progress, which every etcd since 3.4 answers. Where
  that is not answered, the endpoint has to answer a read (``silence``);
* the response is from another cluster, or its revision is older than what was seen (a restored backup, or a member that
  is behind): etcd would otherwise wait, silently, until it reaches those revisions again.

A connection that is cut is no such sign: balancers do it to what is idle, and our pings need not come often enough. A
watch that was open for 2 s is opened again, once, from the revision after the last that it has told. As etcd keeps its
history, nothing is missed. If that fails, the watch has ended.

Defences against etcd 3.4 before 3.4.38 and 3.5 before 3.5.23 (their changelogs): events are delivered twice, old events
are replayed after a member took a snapshot, and a watch on a future revision gets older events. So an event before the
start revision, or not newer than the last one of its key, is dropped. A response to a progress request may overtake
events that were before it, or come after events that it does not count yet (seen with 3.4.23 under load), so its
revision proves that the member is alive and little else.

Wire format: ``etcdserverpb.WatchRequest``/``WatchResponse`` (etcd 3.4 and 3.5, ``rpc.proto``).
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from structlog.typing import FilteringBoundLogger

from pyflanneld.core.etcd_types import Gone, Put, bounded_name
from pyflanneld.errors import (
    ConnectionCut,
    HistoryChanged,
    NoAnswer,
    RegistryDenied,
    RegistryError,
    RegistryUnavailable,
    RevisionCompacted,
)
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.calls import Caller, metadata
from pyflanneld.etcd.v3.channel import Endpoint, within
from pyflanneld.etcd.v3.keyspace import KeySpace
from pyflanneld.etcd.v3.methods import WATCH
from pyflanneld.etcd.v3.silence import note_no_progress, read_header, takes_progress_requests
from pyflanneld.etcd.v3.status import COMPACTED, check_revision, is_denial
from pyflanneld.etcd.v3.stream import AnswerTooLarge

RESPONSE_BYTES: Final = 64 * 1024 * 1024
"""How long one response may be, with all its fragments; behind a longer one the list takes over."""
KEYS_KEPT: Final = 10_000
"""Of how many keys the last revision is remembered."""


class WatchStream:
    """A watch stream; a read that was given up after a time limit is continued by the next."""

    def __init__(self, endpoint: Endpoint, token: str, rpc_s: float) -> None:
        self.url = endpoint.url
        self.endpoint = endpoint
        self._rpc_s = rpc_s
        self._stream = endpoint.stream(WATCH, metadata(token))
        self._reading: asyncio.Task[rpc.WatchResponse | None] | None = None

    async def begin(self, request: rpc.WatchRequest) -> None:
        """Begin with *request*. Raises ``RegistryUnavailable``."""
        try:
            await within(self._rpc_s, self._stream.begin())
        except TimeoutError as error:
            raise NoAnswer(f"{self.url}: no watch stream within {self._rpc_s:g} s") from error
        await self.send(request)

    async def send(self, request: rpc.WatchRequest) -> None:
        """Write *request*. Raises ``RegistryUnavailable`` where the stream does not even take it."""
        try:
            await within(self._rpc_s, self._stream.send(request))
        except TimeoutError as error:
            raise NoAnswer(f"{self.url}: the watch stream takes no requests") from error

    async def receive(self, timeout_s: float) -> rpc.WatchResponse | None:
        """Return the next response, or ``None`` when there was none within *timeout_s*."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._stream.receive(), name="etcd-watch-read")
        done, _ = await asyncio.wait({self._reading}, timeout=max(timeout_s, 0.0))
        if not done:
            return None
        reading, self._reading = self._reading, None
        response = reading.result()
        if response is None:
            raise RegistryUnavailable(f"{self.url}: etcd ended the watch stream")
        return response

    async def close(self) -> None:
        """End the stream, and the read that is still waiting."""
        self._stream.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                self._reading.exception()  # retrieved, so that asyncio does not report it


class Watch:
    """The changes of ``[key, range_end)`` after a revision, as an asynchronous iterator; close it after use.

    Args:
        caller: provides the endpoint and the token.
        keys: turns keys into names.
        key: the first key of the range.
        range_end: the key after the last; empty for the single *key*.
        after_revision: the revision up to which everything is known.
        cluster_id: the cluster of that revision; ``None`` to accept any.
        log: gets ``watch.opened``, ``watch.cut`` and ``watch.progress_unanswered``.
    """

    def __init__(
        self,
        caller: Caller,
        keys: KeySpace,
        *,
        key: bytes,
        range_end: bytes,
        after_revision: int,
        cluster_id: int | None,
        log: FilteringBoundLogger,
    ) -> None:
        self._caller = caller
        self._timing = caller.timing
        self._keys = keys
        self._create = rpc.WatchCreateRequest(
            key=key, range_end=range_end, start_revision=after_revision + 1, progress_notify=True, fragment=True
        )
        self._start = after_revision + 1
        self._seen = after_revision
        self._cluster_id = cluster_id
        self._last: dict[bytes, int] = {}
        self._stream: WatchStream | None = None
        self._opened_at = self._received_at = 0.0
        self._whole = True  # no response is under way of which a part has come
        self._requested_at: float | None = None
        self._log = log

    def __aiter__(self) -> "Watch":
        return self

    async def __anext__(self) -> tuple[Put | Gone, ...]:
        """Return the next changes, oldest first; an empty tuple is a sign of life, the first one means "open"."""
        endpoint = self._caller.endpoints.current
        try:
            if self._stream is None:
                await self._open(endpoint)
                return ()
            try:
                return await self._changes(self._stream)
            except ConnectionCut as cut:
                await self._reopen(self._stream, cut)
                return ()
        except RegistryUnavailable as error:
            self._caller.endpoints.leave(endpoint if self._stream is None else self._stream.endpoint, error)
            raise

    async def close(self) -> None:
        """End the watch; this does not wake a task that waits for it."""
        if self._stream is not None:
            await self._stream.close()

    async def _open(self, endpoint: Endpoint) -> None:
        tokens = self._caller.tokens
        token = await tokens.current(endpoint)
        try:
            await self._open_with(endpoint, token)
        except RegistryDenied:
            if not tokens.renewable:
                raise
            await self.close()
            await self._open_with(endpoint, await tokens.renewed(endpoint, token))
        self._log.debug("watch.opened", endpoint=endpoint.url, start_revision=self._create.start_revision)

    async def _open_with(self, endpoint: Endpoint, token: str) -> None:
        self._stream = WatchStream(endpoint, token, self._timing.rpc_s)
        await self._stream.begin(rpc.WatchRequest(create_request=self._create))
        response = await self._stream.receive(self._timing.rpc_s)
        if response is None:
            raise NoAnswer(f"{endpoint.url}: no answer to opening a watch within {self._timing.rpc_s:g} s")
        self._opened_at = asyncio.get_running_loop().time()
        # A silence goes on where the watch is opened again: what is between may have answered by itself.
        self._received_at = self._received_at or self._opened_at
        self._check(response)

    async def _reopen(self, stream: WatchStream, cut: ConnectionCut) -> None:
        """Watch on by a new connection, to the endpoint in use: the calls may have left that of *stream* since.

        Raises *cut* where the watch was too short for that, or cannot be continued.
        """
        if not self._whole or asyncio.get_running_loop().time() - self._opened_at < self._timing.steady_s:
            raise cut
        self._log.debug("watch.cut", endpoint=stream.url, error=str(cut))
        await self.close()
        self._start = self._create.start_revision = self._seen + 1
        self._requested_at = None
        await self._open(self._caller.endpoints.current)

    async def _changes(self, stream: WatchStream) -> tuple[Put | Gone, ...]:
        """Return the changes of one response, which etcd may have cut into fragments.

        A thousand revisions may be in one, with values of any length: each fragment is made small when it has come.
        """
        changes: list[Put | Gone] = []
        size = 0
        while True:
            response = await self._next_response(stream)
            if response is None:
                return ()
            self._check(response)
            self._whole = not response.fragment
            changes += map(self._keys.change, self._fresh(response.events))
            size += response.ByteSize()
            if size > RESPONSE_BYTES:
                raise AnswerTooLarge(f"{stream.url}: the fragments of one response exceed {RESPONSE_BYTES} bytes")
            if not response.fragment:
                return tuple(changes)

    async def _next_response(self, stream: WatchStream) -> rpc.WatchResponse | None:
        """Return the next response; ``None`` when the endpoint has shown in another way that it works."""
        loop, timing, response = asyncio.get_running_loop(), self._timing, None
        if self._requested_at is None:
            response = await stream.receive(self._received_at + timing.progress_s - loop.time())
            if response is None:
                await self._request_progress(stream)
        if response is None and self._requested_at is not None:
            response = await stream.receive(self._requested_at + timing.silence_s - timing.progress_s - loop.time())
            if response is not None and not response.events:
                stream.endpoint.answers_progress = True
        if response is None:
            await self._prove_alive(stream)
        self._received_at, self._requested_at = loop.time(), None
        return response

    async def _request_progress(self, stream: WatchStream) -> None:
        """Request progress where that is answered, or may be."""
        if await takes_progress_requests(self._caller, stream.endpoint, self._log):
            self._requested_at = asyncio.get_running_loop().time()
            await stream.send(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))

    async def _prove_alive(self, stream: WatchStream) -> None:
        """Raise unless the endpoint answers a read, and has never answered a progress request."""
        endpoint = stream.endpoint
        if endpoint.answers_progress or not self._whole:
            endpoint.answers_progress = None
            raise NoAnswer(f"{stream.url}: the watch was silent for {self._timing.silence_s:g} s")
        header = await read_header(self._caller, endpoint, self._create.key)
        if header is not None:
            self._check(rpc.WatchResponse(header=header))
        if self._requested_at is not None:
            note_no_progress(endpoint, self._log)

    def _check(self, response: rpc.WatchResponse) -> None:
        """Raise if *response* ends the watch or cannot continue what was seen."""
        where = self._stream.url if self._stream else ""
        if response.canceled:
            raise _cancellation(response, where)
        check_revision(response.header.revision, where)
        if not response.header.cluster_id:
            return  # from etcd's gRPC proxy itself: it joins a watch that other clients share
        if self._cluster_id is None:
            self._cluster_id = response.header.cluster_id
        if response.header.cluster_id != self._cluster_id:
            raise HistoryChanged(f"{where}: another cluster answered the watch")
        now = response.header.revision
        before = self._seen if response.events else self._start - 1
        if now < before:
            raise HistoryChanged(f"{where}: the watch went back to revision {now} from {before}")

    def _fresh(self, events: Iterable[rpc.Event]) -> Iterator[rpc.Event]:
        """Return what is new among *events*."""
        if len(self._last) > KEYS_KEPT:
            self._start = self._seen  # whatever is older is a repetition
            self._last.clear()
        for event in events:
            name, revision = bounded_name(event.kv.key), event.kv.mod_revision
            if revision < self._start or revision <= self._last.get(name, 0):
                continue
            self._last[name] = revision
            self._seen = max(self._seen, revision)
            yield event


def _cancellation(response: rpc.WatchResponse, where: str) -> RegistryError:
    reason = response.cancel_reason
    text = f"{where}: etcd cancelled the watch: {reason or 'no reason given'}"
    if response.compact_revision or COMPACTED in reason:
        return RevisionCompacted(f"{text} (compacted at {response.compact_revision})")
    if is_denial(reason):
        return RegistryDenied(text)
    return RegistryUnavailable(text)
