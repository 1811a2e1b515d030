"""Endpoints: one gRPC channel each, made when first needed, and which of them is in use.

gRPC's own balancing is not used: a channel knows one endpoint, and *we* move on when it does not answer. That keeps
the reason visible in the log, lets a caller ask a second endpoint on purpose, and never repeats a write.

The keepalive settings find a black-holed member: a ping after 10 s of silence, 5 s for its answer. etcd closes the
connection of a client that pings more often than every 5 s (``--grpc-keepalive-min-time``), or three times while no
call is open (its server does not permit pings without calls), so we ping only while a call, usually the watch, is open;
without one the deadline of the next call does the finding.
"""

import random
from collections.abc import Sequence
from typing import Any, Final

import grpc
from aetcd import rpc
from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import RegistryUnavailable
from pyflanneld.etcd.access import grpc_target
from pyflanneld.etcd.members import Members
from pyflanneld.etcd.tls import Tls

_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # A bandwidth probe is a ping as well: one that is under way when the member goes away holds the keepalive's back.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.max_pings_without_data", 0),  # 0: no limit of our own
    ("grpc.max_receive_message_length", -1),  # a page or a batch of events may exceed the default of 4 MiB
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 4_000),  # how long one attempt to connect may take; below a call's deadline
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),  # a write is never repeated behind our back
    ("grpc.enable_http_proxy", 0),  # etcd's own clients ignore http_proxy as well
    ("grpc.use_local_subchannel_pool", 1),
)


class Stubs:
    """etcd's services on one channel. gRPC has no types: what comes out is ``Any``."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.kv: Any = rpc.KVStub(channel)
        self.lease: Any = rpc.LeaseStub(channel)
        self.watch: Any = rpc.WatchStub(channel)
        self.auth: Any = rpc.AuthStub(channel)


class Endpoint:
    """One etcd member, by the URL that the operator wrote."""

    def __init__(self, url: str, tls: Tls | None) -> None:
        self.url = url
        self._tls = tls
        self._stubs: Stubs | None = None
        self._closed = False

    def stubs(self) -> Stubs:
        """Return the services of this member; connecting is left to the first call.

        Raises:
            RegistryUnavailable: the registry was closed.
        """
        if self._closed:
            raise RegistryUnavailable(f"{self.url}: closed")
        if self._stubs is None:
            self._stubs = Stubs(self._open())
        return self._stubs

    def _open(self) -> Any:
        material = self._tls.material if self._tls else None
        if material is None:
            return grpc.aio.insecure_channel(grpc_target(self.url), options=_OPTIONS)
        credentials = grpc.ssl_channel_credentials(
            root_certificates=material.ca, private_key=material.key, certificate_chain=material.cert
        )
        return grpc.aio.secure_channel(grpc_target(self.url), credentials, options=_OPTIONS)

    def reconnect(self) -> None:
        """Have the next call open a new connection. The old one goes with the last call that uses it: closing it here
        would cancel that call, which looks to its task as if the task itself were cancelled."""
        self._stubs = None

    async def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._closed = True
        if self._stubs is not None:
            await self._stubs.channel.close()
            self._stubs = None


class Endpoints(Members[Endpoint]):
    """All members and the one in use."""

    def __init__(
        self, urls: Sequence[str], tls: Tls | None, *, rng: random.Random, log: FilteringBoundLogger
    ) -> None:
        super().__init__([Endpoint(url, tls) for url in urls], rng=rng, log=log)

    def reconnect(self) -> None:
        """Have every member connected to anew."""
        for endpoint in self._all:
            endpoint.reconnect()

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in self.in_turn():
            await endpoint.close()
