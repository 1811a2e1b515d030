"""How a request to etcd's v2 API travels: deadline, TLS, user, which member, and what its errors mean.

A request that may be repeated is asked of each member at most once; a write is sent once, on a connection of its own,
for aiohttp repeats a PUT by itself when a connection that it reuses turns out to be dead. Redirects are not followed:
they could carry the password elsewhere.

Error codes are those of etcd's ``client/keys.go`` and ``etcdserver/api/v2error`` (3.4). A code below 300 is the answer
of a working server: nothing was done, and another member would say the same.
"""

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlencode

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from pyflanneld.errors import RegistryDenied, RegistryError, RegistryUnavailable
from pyflanneld.registry.access import EtcdAccess
from pyflanneld.registry.members import Members
from pyflanneld.registry.timing import Timing
from pyflanneld.registry.tls import load_tls

KEY_NOT_FOUND: Final = 100
COMPARE_FAILED: Final = 101
NOT_A_FILE: Final = 102
KEY_EXISTS: Final = 105
INDEX_CLEARED: Final = 401
_SERVER_ERRORS: Final = 300  # from here on the server could not answer, but for INDEX_CLEARED

_CLIENT_CERTIFICATE: Final = "the server may demand a client certificate, or another one"
_TLS_ALERTS: Final = ("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")
Form = Mapping[str, bytes | str | int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class HttpMember:
    """One etcd member, by the URL that the operator wrote."""

    url: str


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


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        method: ``"GET"``, ``"PUT"`` or ``"DELETE"``.
        path: from the root, encoded.
        query: behind the question mark.
        form: the body's fields.
    """

    method: str
    path: str
    query: Mapping[str, str | int]
    form: Form | None = None


class Refused(RegistryUnavailable):
    """A working server said no; nothing was done.

    Attributes:
        code: etcd's error code.
        answer: the rest of what it said.
    """

    def __init__(self, text: str, code: int, answer: Answer) -> None:
        super().__init__(text)
        self.code = code
        self.answer = answer


class ApiMissing(RegistryUnavailable):
    """The server answers, and has no v2 API (any more), or has it switched off."""


class _Error(BaseModel):
    errorCode: int = 0
    message: str = ""
    cause: str = ""


class Http:
    """Requests to the members of one cluster.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """

    def __init__(self, access: EtcdAccess, *, members: Members[HttpMember], timing: Timing) -> None:
        self.members = members
        self.timing = timing
        self._tls = _tls_context(access)
        self._headers = {"Authorization": _basic(access)} if access.username else {}
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._closed = False

    async def once(self, request: Request) -> Answer:
        """Send a write to the member in use.

        Raises:
            Refused: nothing was done.
            RegistryDenied: nothing was done.
            RegistryUnavailable: otherwise; what was done is not known.
        """
        return await self._leaving(self.members.current, self.timing.rpc_s, lambda m: self.ask(m, request, fresh=True))

    async def anywhere(self, request: Request, *, elsewhere: bool = False) -> Answer:
        """Ask until somebody answers, each member at most once, within ``Timing.read_s``.

        Args:
            request: repeating it must be harmless.
            elsewhere: leave out the member in use if there is another one, and stay on it for other requests.
        """
        members = self.members.in_turn()
        alone = len(members) == 1
        leave = not elsewhere or alone
        return await self._first_answer(members if leave else members[1:], request, leave=leave)

    async def _first_answer(self, members: Sequence[HttpMember], request: Request, *, leave: bool) -> Answer:
        loop = asyncio.get_running_loop()
        rpc_s, give_up_at = self.timing.rpc_s, loop.time() + self.timing.read_s
        for number, member in enumerate(members, 1):
            try:
                limit_s = min(rpc_s, give_up_at - loop.time())
                return await self._leaving(member, limit_s, lambda m: self.ask(m, request), leave=leave)
            except (Refused, ApiMissing):
                raise
            except RegistryUnavailable:
                if number == len(members) or loop.time() > give_up_at - rpc_s / 5:
                    raise
        raise AssertionError("unreachable: there is a member")

    async def _leaving(
        self, member: HttpMember, limit_s: float, ask: Callable[[HttpMember], Awaitable[T]], *, leave: bool = True
    ) -> T:
        try:
            async with asyncio.timeout(limit_s):
                return await ask(member)
        except Refused:
            raise
        except TimeoutError as error:
            late = RegistryUnavailable(f"{member.url}: no answer within {limit_s:.3g} s")
            if leave:
                self.members.leave(member, late)
            raise late from error
        except RegistryUnavailable as error:
            if leave:
                self.members.leave(member, error)
            raise

    async def ask(self, member: HttpMember, request: Request, *, fresh: bool = False) -> Answer:
        """Send *request* to *member* and read the answer; the deadline is the caller's.

        Args:
            member: whom to ask.
            request: what to ask.
            fresh: on a connection of its own.
        """
        try:
            async with await self._send(member, request, fresh=fresh) as response:
                return _checked(member, response, await response.read())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unavailable(member, error) from error

    async def begin(self, member: HttpMember, request: Request) -> "Pending":
        """Ask for something that may take its time, and return as soon as the server has taken it up."""

        async def taken_up(member: HttpMember) -> Pending:
            try:
                response = await self._send(member, request, fresh=False)
                if response.status != 200:
                    async with response:
                        _checked(member, response, await response.read())
                        raise RegistryUnavailable(f"{member.url}: HTTP {response.status} to a watch")
                return Pending(member, response)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _unavailable(member, error) from error

        return await self._leaving(member, self.timing.rpc_s, taken_up)

    async def document(self, path: str) -> bytes:
        """Return what is at *path*, which is none of the v2 API's, on the member in use."""

        async def get(member: HttpMember) -> bytes:
            try:
                async with await self._send(member, Request("GET", path, {}), fresh=False) as response:
                    if response.status != 200:
                        raise RegistryUnavailable(f"{member.url}: HTTP {response.status} to {path}")
                    return await response.read()
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _unavailable(member, error) from error

        return await self._leaving(self.members.current, self.timing.rpc_s, get)

    async def _send(self, member: HttpMember, request: Request, *, fresh: bool) -> aiohttp.ClientResponse:
        query = f"?{urlencode(request.query)}" if request.query else ""
        form = {"Content-Type": "application/x-www-form-urlencoded"} if request.form is not None else {}
        return await self._session(fresh).request(
            request.method,
            URL(f"{member.url}{request.path}{query}", encoded=True),
            data=urlencode(request.form).encode() if request.form is not None else None,
            headers=form,
            allow_redirects=False,
        )

    def _session(self, fresh: bool) -> aiohttp.ClientSession:
        if self._closed:
            raise RegistryUnavailable(f"{self.members.current.url}: closed")
        if fresh not in self._sessions:
            self._sessions[fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls or True, limit=0, force_close=fresh),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the deadlines are ours
                headers=self._headers,
                auto_decompress=False,
            )
        return self._sessions[fresh]

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._closed = True
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


class Pending:
    """An answer whose body is still to come."""

    def __init__(self, member: HttpMember, response: aiohttp.ClientResponse) -> None:
        self.member = member
        self._response = response
        self.answer = _checked(member, response, b"")
        _find_dead_peer(response)

    async def body(self) -> bytes:
        """Return the body as soon as it is complete; given up by cancelling, the answer is void."""
        try:
            return await self._response.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unavailable(self.member, error) from error

    def close(self) -> None:
        """Give up waiting."""
        self._response.close()


def _find_dead_peer(response: aiohttp.ClientResponse) -> None:
    """Let the kernel probe a connection on which nothing is said: after 10 s, and twice more, 5 s apart."""
    connection = response.connection
    sock = connection.transport.get_extra_info("socket") if connection and connection.transport else None
    if sock is None:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 2)):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _checked(member: HttpMember, response: aiohttp.ClientResponse, body: bytes) -> Answer:
    """Return the answer if it is a good one; raise what it means otherwise."""
    text = f"{member.url}: HTTP {response.status}"
    if response.status == 401:
        raise RegistryDenied(f"{text}: user and password are refused, or needed")
    try:
        index, cluster = int(response.headers["X-Etcd-Index"]), int(response.headers["X-Etcd-Cluster-Id"], 16)
    except (KeyError, ValueError):
        raise _no_answer(response, text) from None
    answer = Answer(body, index, cluster)
    if response.status in (200, 201):
        return answer
    raise _told(answer, response.status, text)


def _no_answer(response: aiohttp.ClientResponse, text: str) -> RegistryError:
    """Return what an answer without etcd's headers means."""
    if response.status == 403:
        return RegistryDenied(f"{text}: forbidden")
    if response.status == 404:
        return ApiMissing(f"{text}: there is no v2 API here; etcd 3.4 and 3.5 have it with --enable-v2")
    return RegistryUnavailable(f"{text}, which is no answer of etcd's v2 API")


def _told(answer: Answer, status: int, text: str) -> RegistryError:
    try:
        error = _Error.model_validate_json(answer.body)
    except ValidationError:
        error = _Error()
    text = f"{text}: {error.message or 'no reason given'}" + (f" ({error.cause})" if error.cause else "")
    if 0 < error.errorCode < _SERVER_ERRORS or error.errorCode == INDEX_CLEARED:
        return Refused(text, error.errorCode, answer)
    if status == 403:
        return RegistryDenied(text)
    return RegistryUnavailable(text)


def _unavailable(member: HttpMember, error: Exception) -> RegistryUnavailable:
    text = f"{member.url}: {error or type(error).__name__}"
    hint = any(alert in text.upper().replace(" ", "_") for alert in _TLS_ALERTS)
    return RegistryUnavailable(f"{text}; {_CLIENT_CERTIFICATE}" if hint else text)


def _tls_context(access: EtcdAccess) -> ssl.SSLContext | None:
    """Return how https is spoken: the server is always verified, its name too."""
    material = load_tls(access)
    if material is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=material.ca.decode("ascii", "ignore"))
    if access.cert_file is not None:
        context.load_cert_chain(access.cert_file, access.key_file)
    return context


def _basic(access: EtcdAccess) -> str:
    return "Basic " + base64.b64encode(f"{access.username}:{access.password_text()}".encode()).decode()
