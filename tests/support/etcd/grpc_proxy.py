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

import grpc
from aetcd import rpc

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


class Proxy(grpc.GenericRpcHandler):  # type: ignore[misc]
    """One path: every method as a stream of bytes both ways, which unary calls are too."""

    def __init__(self, path: int, upstream: str, orders: Path) -> None:
        self._path = str(path)
        self._channel: Any = grpc.aio.insecure_channel(upstream)
        self._orders = orders

    def service(self, details: Any) -> Any:
        """Take every call."""
        return grpc.stream_stream_rpc_method_handler(partial(self._serve, details.method))

    def _order(self, kinds: tuple[str, ...]) -> str:
        orders = json.loads(self._orders.read_text())[self._path]
        return next((orders[kind] for kind in kinds if kind in orders), "")

    async def _serve(self, method: str, requests: Any, context: Any) -> None:
        first = await anext(aiter(requests))
        kinds = kinds_of(method, first)
        for kind in kinds:
            print(self._path, kind, flush=True)
        match self._order(kinds).split():
            case ["refuse"]:
                await refuse(context)
            case ["abuse"]:
                await context.abort(grpc.StatusCode.UNAVAILABLE, ABUSE)
            case ["hold"]:
                await asyncio.Event().wait()
            case ["forge", ttl_s]:
                asked = rpc.LeaseKeepAliveRequest.FromString(first)
                forged = rpc.LeaseKeepAliveResponse(ID=asked.ID, TTL=int(ttl_s))
                await context.write(forged.SerializeToString())
            case _:
                await self._forward(method, kinds, first, requests, context)

    async def _forward(self, method: str, kinds: tuple[str, ...], first: bytes, requests: Any, context: Any) -> None:
        shown = tuple(pair for pair in context.invocation_metadata() if pair[0] in ("token", "hasleader"))
        call = self._channel.stream_stream(method)(metadata=shown)
        asking = asyncio.create_task(forward(first, requests, call))
        try:
            await self._answer(call, kinds, context)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())
        finally:
            asking.cancel()
            call.cancel()

    async def _answer(self, call: Any, kinds: tuple[str, ...], context: Any) -> None:
        """Forward the answers, as long as the orders allow that."""
        reading = asyncio.ensure_future(call.read())
        while True:
            done, _ = await asyncio.wait({reading}, timeout=LOOK_S)
            order = self._order(kinds)
            if order == "refuse":
                await refuse(context)
            if not done:
                continue
            answer = reading.result()
            if answer is grpc.aio.EOF:
                return
            if order == "swallow":
                await asyncio.Event().wait()
            if not (order == "deaf" and rpc.WatchResponse.FromString(answer).events):
                await context.write(answer)
            reading = asyncio.ensure_future(call.read())


async def refuse(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out")


async def forward(first: bytes, requests: Any, call: Any) -> None:
    """Forward what the client sends."""
    await call.write(first)
    async for request in requests:
        await call.write(request)
    await call.done_writing()


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
        server: Any = grpc.aio.server()
        server.add_generic_rpc_handlers((Proxy(path, upstream, folder / "orders"),))
        server.add_insecure_port(end)
        await server.start()
        servers.append(server)
    print("listening", flush=True)
    await asyncio.gather(*(server.wait_for_termination() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3:]))
