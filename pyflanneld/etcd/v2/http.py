"""How a request to etcd's v2 API travels: deadline, TLS, user, and to which member.

A request that may be repeated is asked of each member at most once; a write is sent once, on a connection of its own,
for aiohttp repeats a PUT by itself when a connection that it reuses turns out to be dead. Redirects are not followed:
they could carry the password elsewhere. What comes back is judged in ``answers_v2``.
"""

import asyncio
import base64
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode
from weakref import WeakSet

import aiohttp
from yarl import URL

from pyflanneld.errors import ApiMissing, RegistryError, RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.members import Members
from pyflanneld.etcd.timing import Timing
from pyflanneld.etcd.tls import Tls
from pyflanneld.etcd.v2.responses import Answer, V2Refused, checked, unavailable

Form = Mapping[str, bytes | str | int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class HttpMember:
    """One etcd member, by the URL that the operator wrote."""

    url: str


@dataclass(frozen=True, slots=True)
class V2Request:
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


class Http:
    """Requests to the members of one cluster.

    Args:
        access: where it is.
        members: which of them is in use.
        timing: how long to wait.
        tls: the certificates in use, where they are shared; otherwise read here.

    Raises:
        UsageError: a TLS file is missing, unreadable or wrong.
    """

    def __init__(
        self, access: EtcdAccess, *, members: Members[HttpMember], timing: Timing, tls: Tls | None = None
    ) -> None:
        self.members = members
        self.timing = timing
        self._tls = tls or Tls(access)
        self._headers = {"Authorization": _basic(access)} if access.username else {}
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._old_sessions: list[aiohttp.ClientSession] = []
        self._pending: WeakSet[Pending] = WeakSet()
        self._closed = False

    async def once(self, request: V2Request) -> Answer:
        """Send a write to the member in use.

        Raises:
            Refused: nothing was done.
            RegistryDenied: nothing was done.
            RegistryUnavailable: otherwise; what was done is not known.
        """
        return await self._leaving(self.members.current, self.timing.rpc_s, lambda m: self.ask(m, request, fresh=True))

    async def anywhere(self, request: V2Request, *, elsewhere: bool = False) -> Answer:
        """Ask until somebody answers, each member at most once, within ``Timing.read_s``.

        Args:
            request: repeating it must be harmless.
            elsewhere: leave out the member in use if there is another one, and stay on it for other requests.
        """
        members = self.members.in_turn()
        alone = len(members) == 1
        leave = not elsewhere or alone
        return await self._first_answer(members if leave else members[1:], request, leave=leave)

    async def _first_answer(self, members: Sequence[HttpMember], request: V2Request, *, leave: bool) -> Answer:
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
        self, member: HttpMember, limit_s: float, ask: Callable[[HttpMember], Awaitable[T]], *, leave: bool = True
    ) -> T:
        try:
            async with asyncio.timeout(limit_s):
                answer = await ask(member)
        except V2Refused:
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
        if leave:
            self.members.answered(member)
        return answer

    async def ask(self, member: HttpMember, request: V2Request, *, fresh: bool = False) -> Answer:
        """Send *request* to *member* and read the answer; the deadline is the caller's.

        Args:
            member: whom to ask.
            request: what to ask.
            fresh: on a connection of its own.
        """
        try:
            async with await self._send(member, request, fresh=fresh) as response:
                return checked(member.url, response, await response.read())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unavailable(member.url, error) from error

    async def begin(self, member: HttpMember, request: V2Request) -> "Pending":
        """Ask for something that may take its time, and return as soon as the server has taken it up."""

        async def taken_up(member: HttpMember) -> Pending:
            try:
                response = await self._send(member, request, fresh=False)
                if response.status != 200:
                    async with response:
                        checked(member.url, response, await response.read())
                        raise RegistryUnavailable(f"{member.url}: HTTP {response.status} to a watch")
                return Pending(member, response)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise unavailable(member.url, error) from error

        pending = await self._leaving(member, self.timing.rpc_s, taken_up)
        self._pending.add(pending)
        return pending

    async def document(self, path: str) -> bytes:
        """Return what is at *path*, which is none of the v2 API's, on the member in use."""

        async def get(member: HttpMember) -> bytes:
            try:
                async with await self._send(member, V2Request("GET", path, {}), fresh=False) as response:
                    if response.status != 200:
                        raise RegistryUnavailable(f"{member.url}: HTTP {response.status} to {path}")
                    return await response.read()
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise unavailable(member.url, error) from error

        return await self._leaving(self.members.current, self.timing.rpc_s, get)

    async def _send(self, member: HttpMember, request: V2Request, *, fresh: bool) -> aiohttp.ClientResponse:
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
                connector=aiohttp.TCPConnector(ssl=self._tls.context() or True, limit=0, force_close=fresh),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the deadlines are ours
                headers=self._headers,
                auto_decompress=False,
            )
        return self._sessions[fresh]

    def reconnect(self) -> None:
        """Use new connections from now on; what is under way keeps the old ones, which aiohttp drops once they idle."""
        self._old_sessions += self._sessions.values()
        self._sessions = {}

    async def close(self) -> None:
        """Close all connections; requests under way fail."""
        self._closed = True
        for pending in tuple(self._pending):
            pending.end()
        self.reconnect()
        for session in self._old_sessions:
            await session.close()
        self._old_sessions.clear()


class Pending:
    """An answer whose body is still to come."""

    def __init__(self, member: HttpMember, response: aiohttp.ClientResponse) -> None:
        self.member = member
        self._response = response
        try:
            self.answer = checked(member.url, response, b"")
        except RegistryError:
            response.close()
            raise
        _find_dead_peer(response)

    async def body(self) -> bytes:
        """Return the body as soon as it is complete; given up by cancelling, the answer is void."""
        try:
            return await self._response.read()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unavailable(self.member.url, error) from error

    def end(self) -> None:
        """Let the one who waits for the body fail: aiohttp, closing a session, does not wake it."""
        self._response.content.set_exception(aiohttp.ClientConnectionError("closed"))

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


def _basic(access: EtcdAccess) -> str:
    return "Basic " + base64.b64encode(f"{access.username}:{access.password_text()}".encode()).decode()
