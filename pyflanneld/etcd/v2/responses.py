"""What a response of etcd's v2 API means: success, refused, denied, or not a response of this API at all.

Error codes are those of ``etcdserver/api/v2error/error.go`` (etcd 3.4). A code below 300 comes from a working
server: nothing was done, and another member would give the same answer. A response without etcd's headers is rejected:
a 404 of a server whose v2 API is off must not look like an empty list.
"""

from dataclasses import dataclass
from typing import Final

import aiohttp
from pydantic import BaseModel, ValidationError

from pyflanneld.core.etcd_types import MAX_REVISION
from pyflanneld.errors import ApiMissing, NotEtcd, RegistryDenied, RegistryError, RegistryUnavailable

KEY_NOT_FOUND: Final = 100
COMPARE_FAILED: Final = 101
NOT_A_FILE: Final = 102
KEY_EXISTS: Final = 105
INDEX_CLEARED: Final = 401
_SERVER_ERRORS: Final = 300  # from here on the server could not answer, except for INDEX_CLEARED


@dataclass(frozen=True, slots=True)
class V2Response:
    """The response of a member: its body, and its position in the history of which cluster.

    Attributes:
        index: the store's index at that time (``X-Etcd-Index``).
        cluster_id: ``X-Etcd-Cluster-Id``.
    """

    body: bytes
    index: int
    cluster_id: int


class V2Refused(RegistryUnavailable):
    """A working server refused the request; nothing was done.

    Attributes:
        code: etcd's error code.
        answer: the rest of the response.
    """

    def __init__(self, text: str, code: int, answer: V2Response) -> None:
        super().__init__(text)
        self.code = code
        self.answer = answer


class _Error(BaseModel):
    errorCode: int = 0
    message: str = ""
    cause: str = ""

    def __str__(self) -> str:
        return (self.message or "no reason given") + (f" ({self.cause})" if self.cause else "")


def checked(url: str, response: aiohttp.ClientResponse, body: bytes) -> V2Response:
    """Return the response of the member at *url* if it is a success; otherwise raise what it means.

    Raises:
        V2Refused: a working server refused the request.
        RegistryDenied: user or rights are refused.
        ApiMissing: there is no v2 API.
        NotEtcd: this is not etcd.
        RegistryUnavailable: it cannot answer.
    """
    text = f"{url}: HTTP {response.status}"
    if response.status == 401:
        raise RegistryDenied(f"{text}: user and password are refused, or needed")
    try:
        index, cluster = int(response.headers["X-Etcd-Index"]), int(response.headers["X-Etcd-Cluster-Id"], 16)
        if not 0 <= index <= MAX_REVISION or not 0 <= cluster < 2**64:
            raise ValueError("out of range")
    except (KeyError, ValueError):
        raise _without_headers(response.status, text, body) from None
    answer = V2Response(body, index, cluster)
    if response.status in (200, 201):
        return answer
    raise _refusal(answer, response.status, text)


def _without_headers(status: int, text: str, body: bytes) -> RegistryError:
    """Return what a response without etcd's headers means."""
    if status == 403:
        return RegistryDenied(f"{text}: forbidden")
    if status == 404:
        return ApiMissing(f"{text}: there is no v2 API here; etcd 3.4 and 3.5 have it with --enable-v2")
    if status >= 500:
        return RegistryUnavailable(f"{text}: {_error(body)}")
    return NotEtcd(f"{text}, not a response of etcd's v2 API")


def _refusal(answer: V2Response, status: int, text: str) -> RegistryError:
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
