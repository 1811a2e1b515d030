"""The members of the cluster, and the connection to each.

A connection knows one member, and ``calls`` switches to another when it does not answer. That keeps the reason visible
in the log, lets a caller ask a second member on purpose, and never repeats a write.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Final, TypeVar

from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import HistoryChanged, NoAnswer, NotEtcd, RegistryError, RegistryUnavailable
from pyflanneld.etcd.access import Members, Timing
from pyflanneld.etcd.clusters import Clusters
from pyflanneld.etcd.connections import CONNECT_S, connect, why_lost
from pyflanneld.etcd.resolver import Resolver
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.connection import Http2
from pyflanneld.etcd.v3.methods import STATUS, A, Method, Q
from pyflanneld.etcd.v3.status import check_revision
from pyflanneld.etcd.v3.stream import ANSWER_BYTES, Metadata, Stream

_ALPN: Final = "h2"

DEFAULT_TIMING: Final = Timing()
_IDENTIFY_S: Final = 2.0
LONGEST_S: Final = 60.0
"""How long an answer may take whose parts keep coming."""

T = TypeVar("T")


class Endpoint:
    """One etcd member, by the URL that the operator wrote, and the connection to it.

    Attributes:
        answers_progress: whether it answers the progress requests of watches; ``None`` when that is not known.
    """

    def __init__(
        self, url: str, tls: Tls | None, timing: Timing = DEFAULT_TIMING, clusters: Clusters | None = None
    ) -> None:
        self.url = url
        self._clusters = clusters
        self._timing = timing
        self._tls = tls
        self._resolver = Resolver()
        self._connecting = asyncio.Lock()
        self._current: Http2 | None = None
        self._open: set[Http2] = set()
        self._closed = False
        self.answers_progress: bool | None = None

    async def ask(
        self,
        method: Method[Q, A],
        request: Q,
        *,
        timeout_s: float,
        metadata: Metadata = (),
        max_bytes: int = ANSWER_BYTES,
    ) -> A:
        """Send a request and return the answer; of a streaming method, the first one.

        Raises:
            NoAnswer: none within *timeout_s*, nor a part of it within as long after the last, in all ``LONGEST_S``. A
                connection on which nothing has come since gets no further call.
            AnswerTooLarge: the answer is longer than *max_bytes*, and is not read.
            RegistryError: the status of the call, or why there is none.
        """
        begun_at = asyncio.get_running_loop().time()
        stream = self.stream(method, metadata, max_bytes)
        try:
            return await within(timeout_s, self._ask(stream, method, request), lambda: stream.received_bytes)
        except TimeoutError as error:
            connection = self._current
            if connection is not None and connection.heard_at < begun_at:
                self._current = None
                connection.doubt()
            raise NoAnswer(f"{self.url}: no answer within {timeout_s:.3g} s") from error

    async def _ask(self, stream: Stream[Q, A], method: Method[Q, A], request: Q) -> A:
        with closing(stream):
            await stream.begin()
            await stream.send(request, last=not method.streaming)
            answer = await stream.receive()
            if answer is None:
                raise RegistryUnavailable(f"{self.url}: the call has ended without an answer")
            if "header" in answer.DESCRIPTOR.fields_by_name:
                check_revision(answer.header.revision, self.url)  # type: ignore[attr-defined]
            if not method.streaming and await stream.receive() is not None:
                raise NotEtcd(f"{self.url}: a second answer to one request")
            return answer

    def stream(self, method: Method[Q, A], metadata: Metadata, max_bytes: int = ANSWER_BYTES) -> Stream[Q, A]:
        """Return a call that is to begin."""
        return Stream(self._connection, method, metadata, max_bytes)

    async def _connection(self) -> Http2:
        """Return the connection in use; the first call opens one, and so does the first after it has ended.

        Raises:
            RegistryUnavailable: the registry was closed, or the member cannot be reached, and why.
        """
        await asyncio.sleep(0)  # so that what has come in the meantime is read, also that the server has gone
        async with self._connecting:
            if self._current is None or not self._current.usable:
                self._current = await self._connect()
            return self._current

    async def _connect(self) -> Http2:
        if self._closed:
            raise RegistryUnavailable(f"{self.url}: closed")
        give_up_at = asyncio.get_running_loop().time() + CONNECT_S
        context = self._context()
        connection = await self._dial(context)
        self.answers_progress = self.answers_progress or None  # a member may have taken the place of a proxy
        self._open = {connection, *(one for one in self._open if one.error is None)}
        try:
            await connection.opened(give_up_at)
        except RegistryUnavailable as error:
            if connection.lost is None:
                raise
            raise await why_lost(self.url, context, connection.lost, resolver=self._resolver) from error
        except asyncio.CancelledError:
            connection.end(RegistryUnavailable(f"{self.url}: closed"))
            raise
        if self._closed or self._context() is not context:
            connection.end(RegistryUnavailable(f"{self.url}: closed"))
            return await self._connect()
        if self._clusters is not None:
            try:
                await self._clusters.admit(self.url, partial(self._cluster_id, connection))
            except (HistoryChanged, asyncio.CancelledError):
                connection.end(RegistryUnavailable(f"{self.url}: not used"))
                raise
        return connection

    def _context(self) -> ssl.SSLContext | None:
        return self._tls.context((_ALPN,)) if self._tls else None

    async def _dial(self, context: ssl.SSLContext | None) -> Http2:
        """Open a connection, over which nothing has come yet. Raises as ``connect``."""
        make, alpn = partial(Http2, self.url, self._timing), _ALPN if context else None
        _, connection = await connect(self.url, make, context, resolver=self._resolver, alpn=alpn)
        return connection

    async def _cluster_id(self, connection: Http2) -> int | None:
        """Return the id of the member's cluster; ``None`` where it does not tell."""

        async def this() -> Http2:
            return connection

        call = Stream(this, STATUS, ())
        try:
            answer = await within(_IDENTIFY_S, self._ask(call, STATUS, rpc.StatusRequest()))
        except (RegistryError, TimeoutError):
            return None
        return answer.header.cluster_id or None

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses that the member's name had last."""
        return frozenset().union(*self._resolver.found.values())

    async def identify(self) -> int | None:
        """Return the id of the member's cluster, on a connection of its own; ``None`` where it does not tell."""
        try:
            connection = await self._dial(self._context())
        except RegistryError:
            return None
        try:
            await connection.opened(asyncio.get_running_loop().time() + _IDENTIFY_S)
            return await self._cluster_id(connection)
        except RegistryError:
            return None
        finally:
            connection.end(RegistryUnavailable(f"{self.url}: closed"))

    def reconnect(self) -> None:
        """Let the next call open a new connection. The old one ends with the last call that uses it."""
        if self._current is not None:
            self._current.retire()
            self._current = None

    async def close(self) -> None:
        """Close the connections; calls under way fail."""
        self._closed = True
        for connection in self._open:
            connection.end(RegistryUnavailable(f"{self.url}: closed"))
        for connection in self._open:
            await connection.closed()


class Endpoints(Members[Endpoint]):
    """All members and the one in use."""

    def __init__(
        self,
        urls: Sequence[str],
        tls: Tls | None,
        *,
        rng: random.Random,
        log: FilteringBoundLogger,
        timing: Timing = DEFAULT_TIMING,
    ) -> None:
        self.clusters = Clusters(urls, self._identify, log)
        members = [Endpoint(url, tls, timing, self.clusters) for url in urls]
        super().__init__(members, rng=rng, log=log, set_aside=lambda: self.clusters.set_aside)

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses that the members' names had last."""
        return frozenset().union(*(endpoint.addresses for endpoint in self._all))

    async def _identify(self, url: str) -> int | None:
        return await next(endpoint for endpoint in self._all if endpoint.url == url).identify()

    def reconnect(self) -> None:
        """Use a new connection to each member from now on."""
        for endpoint in self._all:
            endpoint.reconnect()

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in self._all:
            await endpoint.close()


async def within(limit_s: float, work: Coroutine[Any, Any, T], progress: Callable[[], int] = lambda: 0) -> T:
    """Return the result of *work*, which gets a task of its own: grpclib ends its waits by cancelling the task.

    Raises:
        TimeoutError: it takes longer than *limit_s*, and than as long after *progress* was another, in all
            ``LONGEST_S``; it is cancelled then, and when the caller is.
    """
    loop = asyncio.get_running_loop()
    give_up_at, seen = loop.time() + LONGEST_S, -1
    task = asyncio.create_task(work, name="etcd-call")
    task.add_done_callback(_retrieved)
    try:
        while not task.done():
            made = progress()
            if seen == made or loop.time() >= give_up_at:
                raise TimeoutError
            seen = made
            await asyncio.wait({task}, timeout=max(limit_s, 0.0))
    finally:
        task.cancel()
    return task.result()


def _retrieved(task: asyncio.Task[Any]) -> None:
    """Take note of the task's error, so that asyncio does not report one that nobody waits for."""
    if not task.cancelled():
        task.exception()
