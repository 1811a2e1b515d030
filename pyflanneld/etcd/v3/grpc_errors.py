"""gRPC's errors in our words: translated here, once, and nowhere else.

etcd's codes and texts are those of ``api/v3rpc/rpctypes/error.go`` (etcd 3.4 and 3.5). A status code decides wherever
one suffices; a few refusals share their code with quite different ones and can only be told apart by their text.
"""

import asyncio
from typing import Any, Final

import grpc

from pyflanneld.errors import RegistryDenied, RegistryError, RegistryUnavailable, RevisionCompacted

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
_ANSWERS: Final = frozenset(
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

# What gRPC's core says when the server ends the connection right after a good TLS handshake, or within it by an alert
# about our certificate, whichever is noticed first; and what that means.
_TLS_REJECTED: Final = ("TSI_DATA_CORRUPTED", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_", "ALERT_UNKNOWN_CA")
_TLS_REJECTED_HINT: Final = "the server closed the TLS connection: it may demand a client certificate, or another one"

# What a call on a gRPC channel may raise. InvalidStateError: writing to a stream that the server has ended.
CALL_ERRORS: Final[tuple[type[BaseException], ...]] = (
    grpc.aio.AioRpcError,
    grpc.aio.BaseError,
    asyncio.InvalidStateError,
)


class CallRefused(RegistryUnavailable):
    """A working server said no (no space, no such lease, ...): nothing was done, and another endpoint would say the
    same."""


class LeaseNotFound(CallRefused):
    """The etcd lease that a write wanted to hang a key on does not exist."""


class AuthNotEnabled(CallRefused):
    """We showed credentials to a server that asks for none."""


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
    if code not in _ANSWERS:
        return RegistryUnavailable(text)
    if COMPACTED in details:
        return RevisionCompacted(text)
    if AUTH_NOT_ENABLED in details:
        return AuthNotEnabled(text)
    if code is grpc.StatusCode.NOT_FOUND:
        return LeaseNotFound(text)
    return CallRefused(text)


def is_denial(reason: str) -> bool:
    """Whether etcd's text speaks of missing rights or credentials."""
    return any(denial in reason for denial in _DENIALS)
