"""A gRPC server with etcd's protocol whose responses, right or wrong, are a test's.

For responses that a healthy etcd hardly ever gives. Each request goes to the handler of its name; without one the
response is an empty message. Handlers may be changed at any time.

    async with ScriptedEtcd.running() as server:
        server.on["Range"] = lambda request: rpc.RangeResponse(header=header(7), count=1)
        server.on["Txn"] = Refusal(Status.UNAVAILABLE, "etcdserver: request timed out")
        server.on["LeaseGrant"] = never
        stream = await server.watches.get()       # the next Watch stream a client has opened
        await stream.say(rpc.WatchResponse(...))
"""

import asyncio
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from pyflanneld.etcd.v3 import methods
from pyflanneld.etcd.v3 import rpc_pb2 as rpc

CLUSTER = 4711


def header(revision: int, cluster_id: int = CLUSTER) -> rpc.ResponseHeader:
    """Return a response header."""
    return rpc.ResponseHeader(cluster_id=cluster_id, revision=revision)


def key_value(name: bytes, mod: int, *, lease: int = 0, value: bytes = b"{}") -> Any:
    """Return the subnet *name* below ``/net``, as etcd would."""
    key = b"/net/subnets/" + name
    return rpc.KeyValue(key=key, value=value, create_revision=mod, mod_revision=mod, lease=lease, version=1)


def refused_creation() -> Any:
    """Return how etcd refuses a watch: created and cancelled at once, with an invalid ID."""
    reason = "etcdserver: permission denied"
    return rpc.WatchResponse(header=header(10), created=True, canceled=True, watch_id=-1, cancel_reason=reason)


class Refusal(Exception):
    """Raised or given as a handler: end the call with a status."""

    def __init__(self, code: Status, details: str = "") -> None:
        super().__init__(code, details)
        self.code, self.details = code, details


async def never(_request: Any) -> Any:
    """Handle a request by not answering it."""
    await asyncio.Event().wait()


class WatchStream:
    """The server's end of one Watch stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.metadata = dict(stream.metadata)
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.status: Refusal | None = None

    async def say(self, *responses: Any) -> None:
        """Send *responses*."""
        for response in responses:
            await self._stream.send_message(response)

    async def opened(self, revision: int) -> Any:
        """Await the creation request, confirm it at *revision*, and return it."""
        request = await self.requests.get()
        await self.say(rpc.WatchResponse(header=header(revision), created=True))
        return request.create_request

    def end(self, status: Refusal | None = None) -> None:
        """End the stream, with a status or without."""
        self.status = status
        self.ended.set()


DEFAULTS: dict[str, Callable[[], Any]] = {
    "MemberList": lambda: rpc.MemberListResponse(header=header(1)),
    "Range": lambda: rpc.RangeResponse(header=header(1)),
    "Txn": lambda: rpc.TxnResponse(header=header(1)),
}
LEASES = (methods.LEASE_GRANT, methods.LEASE_REVOKE)
UNARY = (methods.RANGE, methods.TXN, *LEASES, methods.AUTHENTICATE, methods.MEMBER_LIST)


class ScriptedEtcd:
    """The server. Made by ``running``."""

    def __init__(self) -> None:
        self.on: dict[str, Any] = {}
        self.asked: defaultdict[str, list[Any]] = defaultdict(list)
        self.order: list[str] = []
        self.tokens: list[str | None] = []
        self.watches: asyncio.Queue[WatchStream] = asyncio.Queue()
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator["ScriptedEtcd"]:
        """Listen on a free loopback port until the block ends."""
        scripted = cls()
        server = Server([scripted])
        await server.start("127.0.0.1", 0)
        assert server._server is not None
        port = server._server.sockets[0].getsockname()[1]
        scripted.url = f"http://127.0.0.1:{port}"
        try:
            yield scripted
        finally:
            server.close()
            await server.wait_closed()

    def __mapping__(self) -> dict[str, Handler]:
        """Return who handles what, as grpclib's server asks for it."""
        found = {method.path: self._handler(method, self._unary, Cardinality.UNARY_UNARY) for method in UNARY}
        for method, handle in ((methods.LEASE_KEEP_ALIVE, self._keep_alive), (methods.WATCH, self._watch)):
            found[method.path] = self._handler(method, handle, Cardinality.STREAM_STREAM)
        return found

    @staticmethod
    def _handler(method: methods.Method[Any, Any], handle: Callable[..., Any], cardinality: Cardinality) -> Handler:
        return Handler(partial(handle, method), cardinality, method.request, method.answer)

    async def _answer(self, method: methods.Method[Any, Any], request: Any, stream: Stream[Any, Any]) -> Any:
        """Answer one request by its handler."""
        name = method.path.rpartition("/")[2]
        self.asked[name].append(request)
        self.order.append(name)
        assert stream.metadata is not None
        self.tokens.append(str(stream.metadata["token"]) if "token" in stream.metadata else None)
        handler = self.on.get(name, lambda _request: DEFAULTS.get(name, method.answer)())
        try:
            if isinstance(handler, Refusal):
                raise handler
            answer = handler(request)
            return await answer if inspect.isawaitable(answer) else answer
        except Refusal as refusal:
            raise GRPCError(refusal.code, refusal.details) from refusal

    async def _unary(self, method: methods.Method[Any, Any], stream: Stream[Any, Any]) -> None:
        await stream.send_message(await self._answer(method, await stream.recv_message(), stream))

    async def _keep_alive(self, method: methods.Method[Any, Any], stream: Stream[Any, Any]) -> None:
        async for request in stream:
            answer = await self._answer(method, request, stream)
            if answer is None:  # end the stream instead
                return
            await stream.send_message(answer)

    async def _watch(self, _method: methods.Method[Any, Any], stream: Stream[Any, Any]) -> None:
        watching = WatchStream(stream)
        self.watches.put_nowait(watching)
        reading = asyncio.create_task(self._read(stream, watching))
        try:
            await watching.ended.wait()
        finally:
            reading.cancel()
        if watching.status is not None:
            raise GRPCError(watching.status.code, watching.status.details)

    async def _read(self, stream: Stream[Any, Any], watching: WatchStream) -> None:
        async for request in stream:
            watching.requests.put_nowait(request)
