"""The transport of the v3 API: one gRPC channel per endpoint, and gRPC's errors translated into ours.

gRPC's own load balancing is not used: a channel knows one endpoint, and ``calls`` switches to another when it does not
answer. That keeps the reason visible in the log, lets a caller ask a second endpoint on purpose, and never repeats a
write.

The keepalive settings find a member that drops packets: a ping after 10 s of silence, 5 s for its answer. etcd closes
the connection of a client that pings more often than every 5 s (``--grpc-keepalive-min-time``), or three times while no
call is open (its server does not permit pings without calls). So we ping only while a call is open, usually the watch;
without one, the deadline of the next call finds the member.

Errors: etcd's codes and texts are those of ``api/v3rpc/rpctypes/error.go`` (etcd 3.4 and 3.5). A status code decides
where one suffices; a few refusals share their code with very different ones and differ only in their text.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

import grpc
from aetcd import rpc
from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import RegistryDenied, RegistryError, RegistryUnavailable, RevisionCompacted
from pyflanneld.etcd.access import Members, grpc_target
from pyflanneld.etcd.tls import Tls

_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # A bandwidth probe is a ping as well: one that is under way when the member goes away delays the keepalive's.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.max_pings_without_data", 0),  # 0: no limit of our own
    ("grpc.max_receive_message_length", -1),  # a page or a batch of events may exceed the default of 4 MiB
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 4_000),  # how long one attempt to connect may take; below a call's deadline
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),  # a write is never repeated without our knowledge
    ("grpc.enable_http_proxy", 0),  # etcd's own clients ignore http_proxy as well
    ("grpc.use_local_subchannel_pool", 1),
)

COMPACTED: Final = "required revision has been compacted"
AUTH_NOT_ENABLED: Final = "authentication is not enabled"
_DENIALS: Final = (
    "invalid auth token",
    "authentication failed",
    "user name is empty",
    "permission denied",
    "revision of auth store is old",  # 3.5
    "revision in header is old",  # 3.4: the same, not translated by the server
    "user name not found",
    "root user does not exist",
)
_REFUSAL_CODES: Final = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_DENIAL_CODES: Final = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_DENIAL_TEXT_CODES: Final = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNKNOWN}
)

# What gRPC's core says when the server ends the connection right after a successful TLS handshake, or within it by an
# alert about our certificate, whichever it notices first; and what that means.
_TLS_REJECTED: Final = ("TSI_DATA_CORRUPTED", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_", "ALERT_UNKNOWN_CA")
_TLS_REJECTED_HINT: Final = "the server closed the TLS connection: it may demand a client certificate, or another one"

CALL_ERRORS: Final[tuple[type[BaseException], ...]] = (
    grpc.aio.AioRpcError,
    grpc.aio.BaseError,
    asyncio.InvalidStateError,  # writing to a stream that the server has ended
)
"""What a call on a gRPC channel may raise."""


class CallRefused(RegistryUnavailable):
    """A working server refused the request (no space, no such lease, ...): nothing was done, and another endpoint would
    give the same answer."""


class LeaseNotFound(CallRefused):
    """The etcd lease that a key was to be attached to does not exist."""


class AuthNotEnabled(CallRefused):
    """We sent credentials to a server that asks for none."""


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
        """Return the services of this member; the first call connects.

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
        """Let the next call open a new connection. The old one ends with the last call that uses it: closing it here
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

    def __init__(self, urls: Sequence[str], tls: Tls | None, *, rng: random.Random, log: FilteringBoundLogger) -> None:
        super().__init__([Endpoint(url, tls) for url in urls], rng=rng, log=log)

    def reconnect(self) -> None:
        """Use a new connection to each member from now on."""
        for endpoint in self._all:
            endpoint.reconnect()

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in self.in_turn():
            await endpoint.close()


def translate(error: BaseException, endpoint: str) -> RegistryError:
    """Return our error for what a call to *endpoint* raised (one of ``CALL_ERRORS``)."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return RegistryUnavailable(f"{endpoint}: {error or type(error).__name__}")
    status: Any = error
    return _from_status(status.code(), status.details() or "", endpoint)


def _from_status(code: Any, details: str, endpoint: str) -> RegistryError:
    text = f"{endpoint}: {details or code.name} ({code.name})"
    if code in _DENIAL_CODES or (code in _DENIAL_TEXT_CODES and is_denial(details)):
        return RegistryDenied(text)
    if any(sign in details for sign in _TLS_REJECTED):
        return RegistryUnavailable(f"{text}; {_TLS_REJECTED_HINT}")
    if code not in _REFUSAL_CODES:
        return RegistryUnavailable(text)
    if COMPACTED in details:
        return RevisionCompacted(text)
    if AUTH_NOT_ENABLED in details:
        return AuthNotEnabled(text)
    if code is grpc.StatusCode.NOT_FOUND:
        return LeaseNotFound(text)
    return CallRefused(text)


def is_denial(reason: str) -> bool:
    """Return whether etcd's text is about missing rights or credentials."""
    return any(denial in reason for denial in _DENIALS)
