"""How a request to etcd's v2 API is sent: deadline, TLS, user, and to which member.

A request that may be repeated is sent to each member at most once. A write is sent once, on a connection of its own,
because aiohttp itself repeats a PUT when a connection that it reuses turns out to be dead. Redirects are not followed:
they could carry the password elsewhere. ``responses`` decides what a response means.
"""

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlencode
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from pyflanneld.errors import ApiMissing, ConnectionCut, NoAnswer, NotEtcd, RegistryError, RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess, Members, Timing
from pyflanneld.etcd.connections import connect, failure, why_lost
from pyflanneld.etcd.resolver import Resolver
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v2.responses import V2Refused, V2Response, checked

Form = Mapping[str, bytes | str | int]
T = TypeVar("T")
BODY_BYTES: Final = 32 * 1024 * 1024
"""The longest body that is read. A list of 4,000 subnets takes 1 MB; v2 has no pages."""
_HTTP_ERRORS: Final = (aiohttp.ClientError, OSError, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class V2Member:
    """One etcd member, by the URL that the operator wrote."""

    url: str


@dataclass(frozen=True, slots=True)
class V2Request:
    """One request.

    Attributes:
        method: ``"GET"``, ``"PUT"`` or ``"DELETE"``.
        path: from the root, encoded.
        query: after the question mark.
        form: the body's fields.
    """

    method: str
    path: str
    query: Mapping[str, str | int]
    form: Form | None = None


class V2Client:
    """Requests to the members of one cluster.

    Args:
        access: where it is.
        members: which of them is in use.
        timing: how long to wait.
        tls: the certificates in use, where they are shared; otherwise they are read here.
        admit: raises where a member must not be used; asked when it is another one than before.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """

    def __init__(
        self,
        access: EtcdAccess,
        *,
        members: Members[V2Member],
        timing: Timing,
        tls: Tls | None = None,
        admit: Callable[[V2Member], Awaitable[None]] | None = None,
    ) -> None:
        self._admit = admit
        self._admitted: V2Member | None = None
        self.members = members
        self.timing = timing
        self._tls = tls or Tls(access)
        self._resolver = Resolver()
        self._headers = {"Authorization": _basic(access)} if access.username else {}
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._retired: dict[aiohttp.ClientSession, asyncio.Task[None]] = {}
        self._pending: WeakSet[PendingResponse] = WeakSet()
        self._closed = False

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses that the members' names had last."""
        return frozenset().union(*self._resolver.found.values())

    async def once(self, request: V2Request) -> V2Response:
        """Send a write to the member in use.

        Raises:
            V2Refused: nothing was done.
            RegistryDenied: nothing was done.
            RegistryUnavailable: otherwise; what was done is unknown.
        """
        return await self._leaving(self.members.current, self.timing.rpc_s, lambda m: self.ask(m, request, fresh=True))

    async def anywhere(self, request: V2Request, *, elsewhere: bool = False) -> V2Response:
        """Send a request until a member answers, to each at most once, within ``Timing.read_s``.

        Args:
            request: repeating it must be harmless.
            elsewhere: leave out the member in use if there is another one, and keep it for other requests.
        """
        members = self.members.in_turn()
        alone = len(members) == 1
        leave = not elsewhere or alone
        return await self._first_answer(members if leave else members[1:], request, leave=leave)

    async def _first_answer(self, members: Sequence[V2Member], request: V2Request, *, leave: bool) -> V2Response:
        loop = asyncio.get_running_loop()
        rpc_s, give_up_at = self.timing.rpc_s, loop.time() + self.timing.read_s
        for number, member in enumerate(members, 1):
            try:
                limit_s = min(rpc_s, give_up_at - loop.time())
                return await self._leaving(member, limit_s, lambda m: self.ask(m, request), leave=leave)
            except (V2Refused, ApiMissing):
                raise
            except RegistryUnavailable:
                if number == len(members) or loop.time() > give_up_at - rpc_s / 5:
                    raise
        raise AssertionError("unreachable: there is a member")

    async def _leaving(
        self, member: V2Member, limit_s: float, ask: Callable[[V2Member], Awaitable[T]], *, leave: bool = True
    ) -> T:
        try:
            async with asyncio.timeout(limit_s):
                if self._admit is not None and member is not self._admitted:
                    await self._admit(member)
                    self._admitted = member
                answer = await ask(member)
        except V2Refused:
            raise
        except TimeoutError as error:
            timeout = NoAnswer(f"{member.url}: no answer within {limit_s:.3g} s")
            if leave:
                self.members.leave(member, timeout)
            raise timeout from error
        except RegistryUnavailable as error:
            if leave:
                self.members.leave(member, error)
            raise
        if leave:
            self.members.answered(member)
        return answer

    async def ask(self, member: V2Member, request: V2Request, *, fresh: bool = False) -> V2Response:
        """Send *request* to *member* and read the response; the deadline is the caller's.

        Args:
            member: where to send it.
            request: what to send.
            fresh: on a connection of its own.
        """
        async with await self._send(member, request, fresh=fresh) as response:
            return checked(member.url, response, await _body(member, response))

    async def begin(self, member: V2Member, request: V2Request) -> "PendingResponse":
        """Send a request whose response may take long, and return as soon as the server has accepted it."""

        async def accepted(member: V2Member) -> PendingResponse:
            response = await self._send(member, request, fresh=False)
            if response.status != 200:
                async with response:
                    checked(member.url, response, await _body(member, response))
                    raise RegistryUnavailable(f"{member.url}: HTTP {response.status} to a watch")
            return PendingResponse(member, response)

        pending = await self._leaving(member, self.timing.rpc_s, accepted)
        self._pending.add(pending)
        return pending

    async def document(self, path: str) -> bytes:
        """Return what is at *path*, outside the v2 API, on the member in use."""

        async def get(member: V2Member) -> bytes:
            async with await self._send(member, V2Request("GET", path, {}), fresh=False) as response:
                if response.status != 200:
                    raise RegistryUnavailable(f"{member.url}: HTTP {response.status} to {path}")
                return await _body(member, response)

        return await self._leaving(self.members.current, self.timing.rpc_s, get)

    async def _send(self, member: V2Member, request: V2Request, *, fresh: bool) -> aiohttp.ClientResponse:
        query = f"?{urlencode(request.query)}" if request.query else ""
        form = {"Content-Type": "application/x-www-form-urlencoded"} if request.form is not None else {}
        try:
            return await self._session(fresh).request(
                request.method,
                URL(f"{member.url}{request.path}{query}", encoded=True),
                data=urlencode(request.form).encode() if request.form is not None else None,
                headers=form,
                allow_redirects=False,
            )
        except (aiohttp.ServerDisconnectedError, OSError) as error:
            raise await why_lost(member.url, self._tls.context(), _os_error(error), resolver=self._resolver) from error
        except _HTTP_ERRORS as error:
            raise unavailable(member.url, error) from error

    def _session(self, fresh: bool) -> aiohttp.ClientSession:
        if self._closed:
            raise RegistryUnavailable(f"{self.members.current.url}: closed")
        if fresh not in self._sessions:
            self._sessions[fresh] = aiohttp.ClientSession(
                connector=_Connector(self._tls.context(), self._resolver, force_close=fresh),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # the deadlines are ours
                headers=self._headers,
                auto_decompress=False,
            )
        return self._sessions[fresh]

    def reconnect(self) -> None:
        """Use new connections from now on; requests under way keep the old ones."""
        for session in self._sessions.values():
            self._retired[session] = asyncio.create_task(self._retire(session), name="etcd-v2-retired")
        self._sessions, self._admitted = {}, None

    async def _retire(self, session: aiohttp.ClientSession) -> None:
        """Close *session* when every request on it is over: none takes longer than a long poll."""
        await asyncio.sleep(self.timing.rpc_s + self.timing.silence_s)
        await session.close()
        self._retired.pop(session, None)

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._closed = True
        for pending in tuple(self._pending):
            pending.end()
        self.reconnect()
        retired, self._retired = self._retired, {}
        for session, task in retired.items():
            task.cancel()
            await session.close()


class PendingResponse:
    """A response whose body is still to come."""

    def __init__(self, member: V2Member, response: aiohttp.ClientResponse) -> None:
        self.member = member
        self._response = response
        self._socket = response.connection.protocol if response.connection else None
        try:
            self.answer = checked(member.url, response, b"")
        except RegistryError:
            response.close()
            raise

    async def body(self) -> bytes:
        """Return the body as soon as it is complete; after a cancellation the response is void."""
        try:
            return await _body(self.member, self._response)
        except ConnectionCut as cut:  # aiohttp says that of each end
            if isinstance(self._socket, _Socket) and isinstance(self._socket.lost, OSError):
                raise failure(self.member.url, self._socket.lost) from cut
            raise

    def end(self) -> None:
        """Let the task that waits for the body fail: aiohttp does not wake it when it closes the session."""
        self._response.content.set_exception(aiohttp.ClientConnectionError("closed"))

    def close(self) -> None:
        """Give up waiting."""
        self._response.close()


class _Socket(ResponseHandler):
    """aiohttp's end of a connection.

    Attributes:
        lost: what has ended it.
    """

    lost: BaseException | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take note of what the socket has raised."""
        self.lost = exc
        super().connection_lost(exc)


class _Connector(aiohttp.BaseConnector):
    """aiohttp's pool of connections, opened as those of the v3 API are."""

    def __init__(self, context: ssl.SSLContext | None, resolver: Resolver, *, force_close: bool) -> None:
        super().__init__(limit=0, force_close=force_close)
        self._open = partial(connect, context=context, resolver=resolver)

    async def _create_connection(self, req: aiohttp.ClientRequest, *_: Any) -> Any:
        # To be overridden: https://docs.aiohttp.org/en/stable/client_reference.html#aiohttp.BaseConnector
        make = partial(_Socket, loop=asyncio.get_running_loop())
        return (await self._open(f"{req.url.scheme}://{req.url.raw_authority}", make))[1]


async def _body(member: V2Member, response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    try:
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > BODY_BYTES:
                response.close()
                raise RegistryUnavailable(f"{member.url}: an answer of more than {BODY_BYTES} bytes, which is not read")
        return bytes(body)
    except _HTTP_ERRORS as error:
        raise unavailable(member.url, error) from error


def unavailable(url: str, error: Exception) -> RegistryUnavailable:
    """Return our error for what aiohttp raised."""
    if cause := _os_error(error):
        return failure(url, cause)
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return ConnectionCut(f"{url}: the server closed the connection")
    if isinstance(error, aiohttp.ClientResponseError):
        return NotEtcd(f"{url}: this server does not speak HTTP/1: {error.message}")
    return RegistryUnavailable(f"{url}: {str(error) or type(error).__name__}")


def _os_error(error: Exception) -> OSError | None:
    """Return the error of Python's that aiohttp has wrapped."""
    return next((one for one in (error.__cause__, error) if isinstance(one, OSError)), None)


def _basic(access: EtcdAccess) -> str:
    return "Basic " + base64.b64encode(f"{access.username}:{access.password_text()}".encode()).decode()
