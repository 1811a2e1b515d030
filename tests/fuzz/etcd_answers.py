"""Whole answers of etcd, of either API, to each call that the daemon makes: nothing but a ``RegistryError`` may come.

An input's first byte picks the call. For v3 the rest is the message of every answer; for v2 it is a line with status,
index and cluster, and the body. What comes of a list goes on as in the daemon: it is folded in and validated, watched
on from, and a subnet is created by it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any
from unittest import mock

from google.protobuf.message import DecodeError

from pyflanneld.core.etcd_types import Position, Record, Renewal, Snapshot
from pyflanneld.core.lease.codec import LeaseAttrs
from pyflanneld.core.lease.ownership import assess, confirmed, renewal_interval_s
from pyflanneld.core.peers.table import PeerTable
from pyflanneld.core.peers.validation import ValidationContext
from pyflanneld.errors import NotEtcd, RegistryError, RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v2.http import V2Client, V2Request
from pyflanneld.etcd.v2.registry import EtcdV2Registry
from pyflanneld.etcd.v3.channel import Endpoint
from pyflanneld.etcd.v3.methods import Method
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from tests.support.fakes.virtual_time import Journal

HELD = Record(b"10.5.34.0-24", b"{}", 3, 5, 77)
LISTED = Snapshot((HELD,), 5, 1)
ACCESS = EtcdAccess(("http://127.0.0.1:1",), "/net")
Registry = EtcdV2Registry | EtcdV3Registry


def v3(data: bytes, context: ValidationContext) -> None:
    """Answer a call of the v3 API."""
    with mock.patch.object(Endpoint, "stream", lambda _self, method, *_: _Stream(method, data[1:])):
        registry = EtcdV3Registry(ACCESS, rng=random.Random(0), log=Journal())
        asyncio.run(_call(registry, data[:1], context))


def v2(data: bytes, context: ValidationContext) -> None:
    """Answer a call of the v2 API."""
    line, _, body = data[1:].partition(b"\n")
    status, index, cluster, *_ = [*line.decode("latin-1").split(" "), "", "", ""]
    response = _Response(int(status) if status in ("201", "400", "401", "403", "404", "500") else 200, body)
    response.headers = {"X-Etcd-Index": index, "X-Etcd-Cluster-Id": cluster}

    async def send(_client: V2Client, _member: object, request: V2Request, **_: object) -> _Response:
        return _Response(200, b'{"etcdserver":"3.4.38"}') if request.path == "/version" else response

    with mock.patch.object(V2Client, "_send", send):
        registry = EtcdV2Registry(ACCESS, rng=random.Random(0), log=Journal())
        asyncio.run(_call(registry, data[:1], context))


async def _call(registry: Registry, which: bytes, context: ValidationContext) -> None:
    calls: tuple[Callable[[], Awaitable[object]], ...] = (
        registry.read_config,
        lambda: _follow(registry, context),
        lambda: _watch(registry, LISTED, context),
        lambda: _renew(registry),
        lambda: registry.time_left(HELD),
        lambda: registry.times_to_live([HELD]),
        lambda: registry.create_subnet(b"10.5.35.0-24", b"{}", ttl_s=60, listed=LISTED),
        lambda: registry.reserve_subnet(b"10.5.35.0-24", b"{}", listed=LISTED),
        lambda: registry.rewrite_subnet(HELD, b"{}"),
        lambda: registry.delete_subnet(HELD),
    )
    with suppress(RegistryError):
        await calls[(which or b"\0")[0] % len(calls)]()


async def _follow(registry: Registry, context: ValidationContext) -> None:
    listed = await registry.list_subnets()
    await _watch(registry, listed, context)
    await registry.create_subnet(b"10.5.35.0-24", b"{}", ttl_s=60, listed=listed)


async def _watch(registry: Registry, listed: Snapshot, context: ValidationContext) -> None:
    table, position = PeerTable(HELD.name), listed.position
    table.apply(listed)
    for _ in range(2):
        async with registry.watch_subnets(position) as batches:
            with suppress(RegistryUnavailable):
                for _ in range(3):
                    for event in await anext(batches):
                        table.apply(event)
                        position = Position(max(position.revision, event.revision), position.cluster_id)
    for quarantine in table.view(context).quarantined.values():
        assert quarantine.detail.isprintable()


async def _renew(registry: Registry) -> Renewal:
    renewal, address = await registry.renew(HELD), IPv4Address("192.168.1.10")
    own = confirmed(IPv4Network("10.5.34.0/24"), address, HELD, 60.0, 0.0)
    assess(own, LeaseAttrs(address, "host-gw"), renewal, 0.0)
    assert 0 < renewal_interval_s(renewal.ttl_s or 60.0, 3600.0) <= 3600
    return renewal


class _Stream:
    """A call that gets *body* as its answer; a stream gets it twice."""

    received_bytes = 0

    def __init__(self, method: Method[Any, Any], body: bytes) -> None:
        self._method, self._left = method, [body, body] if method.streaming else [body]

    async def begin(self) -> None:
        pass

    async def send(self, request: Any, *, last: bool = False) -> None:  # noqa: ARG002
        request.SerializeToString()

    async def receive(self) -> Any:
        if not self._left:
            return None
        try:
            return self._method.answer.FromString(self._left.pop())
        except DecodeError as error:
            raise NotEtcd("it cannot be read") from error

    def close(self) -> None:
        pass


class _Response:
    """What aiohttp makes of an answer of the v2 API."""

    headers: dict[str, str]
    connection = None  # the body has come

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.content = SimpleNamespace(iter_any=self._pieces, set_exception=lambda _: None)
        self._body = body

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield self._body

    async def __aenter__(self) -> "_Response":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass
