"""A gRPC proxy before a real etcd that refuses, delays, drops or forges by kind of request, as a test orders.

    with fault_proxy(lab, paths=2) as proxy:             # each path is a URL of its own for a daemon
        launch(node, etcd_endpoints=proxy.url(0))
        proxy.order({"KV/Range page": "refuse"})       # replaces the orders of all paths; ``path=0`` for one
        until(lambda: proxy.met("KV/Range page"), "the second page is requested")

Kinds are the methods of etcd's API, ``KV/Range`` also by what it is for: ``config``, ``list``, ``page`` (further ones).

    refuse      answer with UNAVAILABLE, as an overloaded server does; an open watch ends in the same way
    abuse       the same, with an error text that is made for terminals, logs and service managers: ``ABUSE``
    hold        neither forward it nor answer it
    swallow     forward it, and keep the answer
    deaf        a watch stays open, its events are lost
    forge 8     a keep-alive succeeds, for 8 s, whatever etcd would answer: before 3.4.38 it may, for a revoked lease

The program itself runs in etcd's namespace: ``python tests/support/etcd/grpc_proxy.py UPSTREAM FOLDER HOST:PORT...``.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from grpclib.client import Channel
from grpclib.client import Stream as Asking
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from pyflanneld.etcd.v3 import methods
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS
from pyflanneld.lab.process import Background
from pyflanneld.lab.run import until

ABUSE = "etcdserver: x\nREADY=1\nMAINPID=1\n\x1b[2J\x1b]0;owned\x07\r\u202e" + "long " * 500
FIRST_PORT = 2391
LOOK_S = 0.05
Orders = Mapping[str, str]


# The test's side


class FaultProxy:
    """The running proxy."""

    def __init__(self, process: Background, paths: int) -> None:
        self._process = process
        self._orders: dict[str, Orders] = {str(path): {} for path in range(paths)}
        self.order({})

    def url(self, path: int = 0) -> str:
        """Return the endpoint of a path."""
        return f"http://{ADDRESS.ip}:{FIRST_PORT + path}"

    def order(self, orders: Orders, path: int | None = None) -> None:
        """Follow these orders from now on, on one path or on all; without any, forward everything."""
        self._orders |= {each: orders for each in self._orders if path is None or each == str(path)}
        new = self._process.folder / "orders.new"
        new.write_text(json.dumps(self._orders))
        new.replace(self._process.folder / "orders")

    def met(self, kind: str, path: int = 0) -> int:
        """Return how many requests of a kind have come on a path; those of an open stream count as one."""
        return self.all_met(path).count(kind)

    def all_met(self, path: int = 0) -> list[str]:
        """Return the kinds of all requests that have come on a path, in order."""
        lines = self._process.log.read_text().rpartition("\n")[0].splitlines()
        return [line.removeprefix(f"{path} ") for line in lines if line.startswith(f"{path} ")]


@contextlib.contextmanager
def fault_proxy(lab: Lab, paths: int = 1) -> Iterator[FaultProxy]:
    """Run a proxy before the laboratory's etcd until the block ends."""
    process = Background(lab.etcd.namespace, lab.folder / "proxy")
    process.folder.mkdir(exist_ok=True)
    process.log.unlink(missing_ok=True)
    proxy = FaultProxy(process, paths)
    ends = [f"{ADDRESS.ip}:{FIRST_PORT + path}" for path in range(paths)]
    process.start(sys.executable, "-P", __file__, "127.0.0.1:2379", str(process.folder), *ends)
    try:
        until(lambda: "listening\n" in process.log.read_text(), "the proxy listens")
        yield proxy
    finally:
        process.stop()


# The proxy's side


class Unread(CodecBase):
    """Messages as bytes."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: Any) -> bytes:  # noqa: ARG002
        return message

    def decode(self, data: bytes, message_type: Any) -> bytes:  # noqa: ARG002
        return data


class Proxy:
    """One path: every method as a stream of bytes both ways, which unary calls are too."""

    def __init__(self, path: int, upstream: str, orders: Path) -> None:
        self._path = str(path)
        host, _, port = upstream.rpartition(":")
        self._channel = Channel(host, int(port), codec=Unread())
        self._orders = orders

    def __mapping__(self) -> dict[str, Handler]:
        """Take every call."""
        paths = [method.path for method in vars(methods).values() if isinstance(method, methods.Method)]
        return {path: Handler(partial(self._serve, path), Cardinality.STREAM_STREAM, bytes, bytes) for path in paths}

    def _order(self, kinds: tuple[str, ...]) -> str:
        orders = json.loads(self._orders.read_text())[self._path]
        return next((orders[kind] for kind in kinds if kind in orders), "")

    async def _serve(self, method: str, stream: Stream[bytes, bytes]) -> None:
        first = await stream.recv_message()
        assert first is not None
        kinds = kinds_of(method, first)
        for kind in kinds:
            print(self._path, kind, flush=True)
        match self._order(kinds).split():
            case ["refuse"]:
                raise REFUSAL
            case ["abuse"]:
                raise GRPCError(Status.UNAVAILABLE, ABUSE)
            case ["hold"]:
                await asyncio.Event().wait()
            case ["forge", ttl_s]:
                asked = rpc.LeaseKeepAliveRequest.FromString(first)
                forged = rpc.LeaseKeepAliveResponse(ID=asked.ID, TTL=int(ttl_s))
                await stream.send_message(forged.SerializeToString())
            case _:
                await self._forward(method, kinds, first, stream)

    async def _forward(self, method: str, kinds: tuple[str, ...], first: bytes, stream: Stream[bytes, bytes]) -> None:
        shown = [(name, value) for name, value in (stream.metadata or {}).items() if name in ("token", "hasleader")]
        call = self._channel.request(method, Cardinality.STREAM_STREAM, bytes, bytes, metadata=shown)
        async with call:
            await call.send_message(first)
            asking = asyncio.create_task(forward(stream, call))
            try:
                await self._answer(call, kinds, stream)
                await asking
            finally:
                asking.cancel()

    async def _answer(self, call: Asking[bytes, bytes], kinds: tuple[str, ...], stream: Stream[bytes, bytes]) -> None:
        """Forward the answers, as long as the orders allow that."""
        reading = asyncio.ensure_future(call.recv_message())
        while True:
            done, _ = await asyncio.wait({reading}, timeout=LOOK_S)
            order = self._order(kinds)
            if order == "refuse":
                reading.cancel()
                raise REFUSAL
            if not done:
                continue
            answer = reading.result()
            if answer is None:
                return
            if order == "swallow":
                await asyncio.Event().wait()
            if not (order == "deaf" and rpc.WatchResponse.FromString(answer).events):
                await stream.send_message(answer)
            reading = asyncio.ensure_future(call.recv_message())


REFUSAL = GRPCError(Status.UNAVAILABLE, "etcdserver: request timed out")


async def forward(stream: Stream[bytes, bytes], call: Asking[bytes, bytes]) -> None:
    """Forward what the client sends."""
    async for request in stream:
        await call.send_message(request)
    await call.end()


def kinds_of(method: str, request: bytes) -> tuple[str, ...]:
    """Return the kinds that a request is of."""
    kind = method.removeprefix("/etcdserverpb.")
    if kind != "KV/Range":
        return (kind,)
    asked = rpc.RangeRequest.FromString(request)
    if not asked.range_end:
        return (kind, f"{kind} config") if asked.key.endswith(b"/config") else (kind,)
    return (kind, f"{kind} page" if asked.revision else f"{kind} list")


async def serve(upstream: str, folder: Path, ends: list[str]) -> None:
    servers = []
    for path, end in enumerate(ends):
        host, _, port = end.rpartition(":")
        server = Server([Proxy(path, upstream, folder / "orders")], codec=Unread())
        await server.start(host, int(port))
        servers.append(server)
    print("listening", flush=True)
    await asyncio.gather(*(server.wait_closed() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
