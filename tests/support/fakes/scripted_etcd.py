"""A gRPC server with etcd's protocol whose responses, right or wrong, are a test's.

For responses that a healthy etcd hardly ever gives. Each request goes to the handler of its name; without one the
response is an empty message. Handlers may be changed at any time.

    async with ScriptedEtcd.running() as server:
        server.on["Range"] = lambda request: rpc.RangeResponse(header=header(7), count=1)
        server.on["Txn"] = Refusal(grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out")
        server.on["LeaseGrant"] = never
        stream = await server.watches.get()       # the next Watch stream a client has opened
        await stream.say(rpc.WatchResponse(...))
"""

import asyncio
import inspect
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from aetcd import rpc
from aetcd.rpc import rpc_pb2_grpc as services

CLUSTER = 4711


def header(revision: int, cluster_id: int = CLUSTER) -> Any:
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

    def __init__(self, code: Any, details: str = "") -> None:
        super().__init__(code, details)
        self.code, self.details = code, details


async def never(_request: Any) -> Any:
    """Handle a request by not answering it."""
    await asyncio.Event().wait()


class WatchStream:
    """The server's end of one Watch stream."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.metadata = dict(context.invocation_metadata())
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.status: Refusal | None = None

    async def say(self, *responses: Any) -> None:
        """Send *responses*."""
        for response in responses:
            await self._context.write(response)

    async def opened(self, revision: int) -> Any:
        """Await the creation request, confirm it at *revision*, and return it."""
        request = await self.requests.get()
        await self.say(rpc.WatchResponse(header=header(revision), created=True))
        return request.create_request

    def end(self, status: Refusal | None = None) -> None:
        """End the stream, with a status or without."""
        self.status = status
        self.ended.set()


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
        server: Any = grpc.aio.server()
        services.add_KVServicer_to_server(_Kv(scripted), server)
        services.add_LeaseServicer_to_server(_Lease(scripted), server)
        services.add_AuthServicer_to_server(_Auth(scripted), server)
        services.add_WatchServicer_to_server(_Watch(scripted), server)
        port = server.add_insecure_port("127.0.0.1:0")
        scripted.url = f"http://127.0.0.1:{port}"
        await server.start()
        try:
            yield scripted
        finally:
            await server.stop(grace=None)

    async def answer(self, name: str, request: Any, context: Any, default: Callable[..., Any]) -> Any:
        """Answer one request by its handler."""
        self.asked[name].append(request)
        self.order.append(name)
        self.tokens.append(dict(context.invocation_metadata()).get("token"))
        handler = self.on.get(name, lambda _request: default())
        try:
            if isinstance(handler, Refusal):
                raise handler
            answer = handler(request)
            return await answer if inspect.isawaitable(answer) else answer
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.details)


class _Kv(services.KVServicer):  # type: ignore[misc]
    def __init__(self, scripted: ScriptedEtcd) -> None:
        self._scripted = scripted

    async def Range(self, request: Any, context: Any) -> Any:
        return await self._scripted.answer("Range", request, context, lambda: rpc.RangeResponse(header=header(1)))

    async def Txn(self, request: Any, context: Any) -> Any:
        return await self._scripted.answer("Txn", request, context, lambda: rpc.TxnResponse(header=header(1)))


class _Lease(services.LeaseServicer):  # type: ignore[misc]
    def __init__(self, scripted: ScriptedEtcd) -> None:
        self._scripted = scripted

    async def LeaseGrant(self, request: Any, context: Any) -> Any:
        return await self._scripted.answer("LeaseGrant", request, context, rpc.LeaseGrantResponse)

    async def LeaseRevoke(self, request: Any, context: Any) -> Any:
        return await self._scripted.answer("LeaseRevoke", request, context, rpc.LeaseRevokeResponse)

    async def LeaseKeepAlive(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            answer = await self._scripted.answer("LeaseKeepAlive", request, context, rpc.LeaseKeepAliveResponse)
            if answer is None:  # end the stream instead
                return
            yield answer


class _Auth(services.AuthServicer):  # type: ignore[misc]
    def __init__(self, scripted: ScriptedEtcd) -> None:
        self._scripted = scripted

    async def Authenticate(self, request: Any, context: Any) -> Any:
        return await self._scripted.answer("Authenticate", request, context, rpc.AuthenticateResponse)


class _Watch(services.WatchServicer):  # type: ignore[misc]
    def __init__(self, scripted: ScriptedEtcd) -> None:
        self._scripted = scripted

    async def Watch(self, requests: Any, context: Any) -> None:
        stream = WatchStream(context)
        self._scripted.watches.put_nowait(stream)
        reading = asyncio.create_task(self._read(requests, stream))
        try:
            await stream.ended.wait()
        finally:
            reading.cancel()
        if stream.status is not None:
            await context.abort(stream.status.code, stream.status.details)

    async def _read(self, requests: Any, stream: WatchStream) -> None:
        async for request in requests:
            stream.requests.put_nowait(request)
