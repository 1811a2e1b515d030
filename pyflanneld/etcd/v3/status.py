"""The status of a call, by which etcd says what has failed, as our errors.

Codes are gRPC's: https://grpc.github.io/grpc/core/md_doc_statuscodes.html. Texts are those of
``api/v3rpc/rpctypes/error.go`` (etcd 3.4 and 3.5). A code decides where one suffices; a few refusals share their code
with very different ones and differ only in their text.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from grpclib.const import Status

from pyflanneld.core.etcd_types import MAX_REVISION
from pyflanneld.errors import NotEtcd, RegistryDenied, RegistryError, RegistryUnavailable, RevisionCompacted

COMPACTED: Final = "required revision has been compacted"
_AUTH_NOT_ENABLED: Final = "authentication is not enabled"
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
_REFUSALS: Final = frozenset(
    {
        Status.NOT_FOUND,
        Status.ALREADY_EXISTS,
        Status.FAILED_PRECONDITION,
        Status.INVALID_ARGUMENT,
        Status.OUT_OF_RANGE,
        Status.RESOURCE_EXHAUSTED,
    }
)
_CODES_OF_DENIALS: Final = frozenset({Status.UNAUTHENTICATED, Status.PERMISSION_DENIED})
_CODES_WITH_DENIALS: Final = frozenset({Status.INVALID_ARGUMENT, Status.FAILED_PRECONDITION, Status.UNKNOWN})
_CODES: Final = {str(code.value): code for code in Status}
_HTTP_OK: Final = "200"
_HTTP_DENIALS: Final = ("401", "403")


class CallRefused(RegistryUnavailable):
    """A working server refused the request (no space, no such lease, ...): nothing was done, and another endpoint would
    give the same answer."""


class LeaseNotFound(CallRefused):
    """The etcd lease that a key was to be attached to does not exist."""


class AuthNotEnabled(CallRefused):
    """We sent credentials to a server that asks for none."""


def check_headers(headers: Mapping[str, str], url: str) -> None:
    """Raise unless the headers of an answer are those of gRPC; some proxies answer with a status of HTTP's own."""
    status = headers.get(":status", "")
    if status in _HTTP_DENIALS:
        raise RegistryDenied(f"{url}: HTTP status {status}")
    if status != _HTTP_OK:
        raise RegistryUnavailable(f"{url}: HTTP status {status[:9]}")
    if not headers.get("content-type", "").startswith("application/grpc"):
        raise NotEtcd(f"{url}: the answer is not gRPC's")


def check_revision(revision: int, url: str) -> None:
    """Raise unless *revision* can be one of etcd's, also of a false one: what follows it must be a number too."""
    if not 0 <= revision <= MAX_REVISION:
        raise NotEtcd(f"{url}: {revision} is no revision")


def check_status(headers: Mapping[str, str], url: str) -> None:
    """Raise the error of the status in *headers*, which end a call; return if it is OK."""
    code = _CODES.get(headers.get("grpc-status", ""), Status.UNKNOWN)
    if code is not Status.OK:
        raise from_status(code, unquote(headers.get("grpc-message", "")), url)


def from_status(code: Status, details: str, url: str) -> RegistryError:
    """Return our error for a status other than OK, of the member at *url*."""
    text = f"{url}: {details or code.name} ({code.name})"
    if code in _CODES_OF_DENIALS or (code in _CODES_WITH_DENIALS and is_denial(details)):
        return RegistryDenied(text)
    if code not in _REFUSALS:
        return RegistryUnavailable(text)
    if COMPACTED in details:
        return RevisionCompacted(text)
    if _AUTH_NOT_ENABLED in details:
        return AuthNotEnabled(text)
    if code is Status.NOT_FOUND:
        return LeaseNotFound(text)
    return CallRefused(text)


def is_denial(reason: str) -> bool:
    """Return whether etcd's text is about missing rights or credentials."""
    return any(denial in reason for denial in _DENIALS)
