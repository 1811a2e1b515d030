"""What an answer of etcd's v2 API means: good, refused, denied, or no answer of such an API at all.

Error codes are those of ``etcdserver/api/v2error/error.go`` (etcd 3.4). A code below 300 is the answer of a working
server: nothing was done, and another member would say the same. An answer without etcd's headers is never believed: a
404 of a server whose v2 API is off must not look like an empty list.
"""

from dataclasses import dataclass
from typing import Final

import aiohttp
from pydantic import BaseModel, ValidationError

from pyflanneld.errors import ApiMissing, RegistryDenied, RegistryError, RegistryUnavailable

KEY_NOT_FOUND: Final = 100
COMPARE_FAILED: Final = 101
NOT_A_FILE: Final = 102
KEY_EXISTS: Final = 105
INDEX_CLEARED: Final = 401
_SERVER_ERRORS: Final = 300  # from here on the server could not answer, but for INDEX_CLEARED

_CLIENT_CERTIFICATE: Final = "the server may demand a client certificate, or another one"
_TLS_ALERTS: Final = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member said: its body, and where in which history it stands.

    Attributes:
        index: the store's index when it answered (``X-Etcd-Index``).
        cluster_id: ``X-Etcd-Cluster-Id``.
    """

    body: bytes
    index: int
    cluster_id: int


class V2Refused(RegistryUnavailable):
    """A working server said no; nothing was done.

    Attributes:
        code: etcd's error code.
        answer: the rest of what it said.
    """

    def __init__(self, text: str, code: int, answer: Answer) -> None:
        super().__init__(text)
        self.code = code
        self.answer = answer


class _Error(BaseModel):
    errorCode: int = 0
    message: str = ""
    cause: str = ""

    def __str__(self) -> str:
        return (self.message or "no reason given") + (f" ({self.cause})" if self.cause else "")


def checked(url: str, response: aiohttp.ClientResponse, body: bytes) -> Answer:
    """Return the answer of the member at *url* if it is a good one; raise what it means otherwise.

    Raises:
        Refused: a working server said no.
        RegistryDenied: user or rights are refused.
        ApiMissing: there is no v2 API.
        RegistryUnavailable: it cannot answer, or is no etcd.
    """
    text = f"{url}: HTTP {response.status}"
    if response.status == 401:
        raise RegistryDenied(f"{text}: user and password are refused, or needed")
    try:
        index, cluster = int(response.headers["X-Etcd-Index"]), int(response.headers["X-Etcd-Cluster-Id"], 16)
    except (KeyError, ValueError):
        raise _not_etcds(response.status, text, body) from None
    answer = Answer(body, index, cluster)
    if response.status in (200, 201):
        return answer
    raise _refusal(answer, response.status, text)


def _not_etcds(status: int, text: str, body: bytes) -> RegistryError:
    """Return what an answer without etcd's headers means."""
    if status == 403:
        return RegistryDenied(f"{text}: forbidden")
    if status == 404:
        return ApiMissing(f"{text}: there is no v2 API here; etcd 3.4 and 3.5 have it with --enable-v2")
    if status >= 500:
        return RegistryUnavailable(f"{text}: {_error(body)}")
    return RegistryUnavailable(f"{text}, which is no answer of etcd's v2 API")


def _refusal(answer: Answer, status: int, text: str) -> RegistryError:
    error = _error(answer.body)
    text = f"{text}: {error}"
    if 0 < error.errorCode < _SERVER_ERRORS or error.errorCode == INDEX_CLEARED:
        return V2Refused(text, error.errorCode, answer)
    return RegistryDenied(text) if status == 403 else RegistryUnavailable(text)


def _error(body: bytes) -> _Error:
    try:
        return _Error.model_validate_json(body)
    except ValidationError:
        return _Error()


def unavailable(url: str, error: Exception) -> RegistryUnavailable:
    """Return our error for what aiohttp raised."""
    text = f"{url}: {error or type(error).__name__}"
    hint = any(alert in text.upper().replace(" ", "_") for alert in _TLS_ALERTS)
    return RegistryUnavailable(f"{text}; {_CLIENT_CERTIFICATE}" if hint else text)
