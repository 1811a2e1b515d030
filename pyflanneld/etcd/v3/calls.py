"""How a v3 call is made: deadline, token, which endpoint, and what happens when it fails.

A read may be sent again to the next endpoint, because it changes nothing. A write is sent once: without an answer its
outcome is unknown.

etcd wants a token when authentication is on and no client certificate names the user. It is fetched with user name and
password before the first call, and again when a call is refused. etcd's *simple* tokens expire after 300 s without use,
on a change of users or roles, and with the server, so a refusal is an ordinary event: the token is renewed and the call
repeated once, writes too, because a refused call has done nothing. Only a second refusal is an error. There is one
request for a token at a time and at most one per second: checking a password is expensive for etcd (bcrypt), on
purpose. A refused password is not sent again for five seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import ConnectionCut, RegistryDenied, RegistryError, RegistryUnavailable
from pyflanneld.etcd.access import EtcdAccess, Timing
from pyflanneld.etcd.v3 import rpc_pb2 as rpc
from pyflanneld.etcd.v3.channel import Endpoint, Endpoints
from pyflanneld.etcd.v3.methods import AUTHENTICATE, A, Method, Q
from pyflanneld.etcd.v3.status import AuthNotEnabled, CallRefused
from pyflanneld.etcd.v3.stream import ANSWER_BYTES, AnswerTooLarge, Metadata

_PAUSE_S: Final = 1.0
_REFUSED_PAUSE_S: Final = 5.0
NO_TOKEN: Final = ""

Send = Callable[[Endpoint, float], Awaitable[A]]
"""Sends one request to an endpoint, within so many seconds."""


def metadata(token: str) -> Metadata:
    """Return the headers of a call: our token, and that a member without a leader must not answer.

    ``hasleader`` (``rpctypes.MetadataRequireLeaderKey``) also makes etcd end the watches of a member that was cut off
    from the others.
    """
    leader = (("hasleader", "true"),)
    return (*leader, ("token", token)) if token else leader


class Tokens:
    """The current token, shared by all calls."""

    def __init__(self, access: EtcdAccess, *, rpc_timeout_s: float, log: FilteringBoundLogger) -> None:
        self._user = access.username or ""
        self._password = access.password_text
        self._timeout_s = rpc_timeout_s
        self._log = log
        self._token: str | None = None if self._user else NO_TOKEN
        self._lock = asyncio.Lock()
        self._next_at = 0.0
        self._refusal: RegistryDenied | None = None

    @property
    def renewable(self) -> bool:
        """Whether there are credentials to fetch another token with."""
        return bool(self._user)

    async def current(self, endpoint: Endpoint) -> str:
        """Return the token to send, fetched from *endpoint* if there is none yet; ``NO_TOKEN`` to send none."""
        return await self.renewed(endpoint, None) if self._token is None else self._token

    async def renewed(self, endpoint: Endpoint, refused: str | None) -> str:
        """Return another token than *refused*.

        Raises:
            RegistryDenied: etcd does not know this user or password.
            RegistryUnavailable: no answer.
        """
        async with self._lock:
            if self._token is not None and self._token != refused:
                return self._token  # renewed by another call while we waited
            await self._wait_turn()
            self._token = await self._authenticate(endpoint)
            return self._token

    async def _wait_turn(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = self._next_at - loop.time()
        if wait_s > 0 and self._refusal is not None:
            raise RegistryDenied(str(self._refusal))
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        self._refusal = None
        self._next_at = loop.time() + _PAUSE_S

    async def _authenticate(self, endpoint: Endpoint) -> str:
        request = rpc.AuthenticateRequest(name=self._user, password=self._password())
        try:
            response = await endpoint.ask(AUTHENTICATE, request, timeout_s=self._timeout_s)
        except RegistryError as error:
            return self._without_token(error)
        self._log.debug("auth.renewed", endpoint=endpoint.url, user=self._user)
        return response.token

    def _without_token(self, error: RegistryError) -> str:
        """Return ``NO_TOKEN`` where etcd asks for none; else raise *error*."""
        if isinstance(error, AuthNotEnabled):
            self._log.warning("auth.not_enabled", user=self._user)
            return NO_TOKEN
        if isinstance(error, RegistryDenied):
            self._refusal = error
            self._next_at = asyncio.get_running_loop().time() + _REFUSED_PAUSE_S
        raise error


class Caller:
    """Makes calls on the endpoint in use, or on others where that is harmless."""

    def __init__(self, endpoints: Endpoints, tokens: Tokens, timing: Timing) -> None:
        self.endpoints = endpoints
        self.tokens = tokens
        self.timing = timing

    async def write(self, method: Method[Q, A], request: Q) -> A:
        """Send a request once.

        Raises:
            CallRefused: a working server refused it; nothing was done.
            RegistryUnavailable: otherwise; what was done is unknown.
            RegistryDenied: nothing was done.
        """
        return await self._leaving(self.endpoints.current, self._sending(method, request), self.timing.rpc_s)

    async def read(
        self, method: Method[Q, A], request: Q, *, elsewhere: bool = False, max_bytes: int = ANSWER_BYTES
    ) -> A:
        """Send a request until an endpoint answers, to each at most once, within ``Timing.read_s``.

        Once more to one where it has met the end of a connection, which may have been idle for too long.

        Args:
            method: repeating it must be harmless.
            request: what is sent.
            elsewhere: leave out the endpoint in use if there is another one, and keep it for other calls.
            max_bytes: how large an answer may be. A larger one is ``AnswerTooLarge``, and no other endpoint is asked.
        """
        members, send = self.endpoints.in_turn(), _repeated(self._sending(method, request, max_bytes))
        if elsewhere and len(members) > 1:
            return await self._first_answer(members[1:], send)
        return await self._first_answer(members, lambda endpoint, limit_s: self._leaving(endpoint, send, limit_s))

    async def _first_answer(self, members: Sequence[Endpoint], send: Send[A]) -> A:
        loop = asyncio.get_running_loop()
        rpc_s, give_up_at = self.timing.rpc_s, loop.time() + self.timing.read_s
        for endpoint in members[:-1]:
            try:
                return await send(endpoint, min(rpc_s, give_up_at - loop.time()))
            except (CallRefused, AnswerTooLarge):
                raise
            except RegistryUnavailable:
                if loop.time() > give_up_at - rpc_s / 5:
                    raise
        return await send(members[-1], min(rpc_s, give_up_at - loop.time()))

    async def _leaving(self, endpoint: Endpoint, send: Send[A], limit_s: float) -> A:
        """Send the request; switch to another endpoint if this one does not answer."""
        try:
            answer = await send(endpoint, limit_s)
        except (CallRefused, AnswerTooLarge):
            raise
        except RegistryUnavailable as error:
            self.endpoints.leave(endpoint, error)
            raise
        self.endpoints.answered(endpoint)
        return answer

    def _sending(self, method: Method[Q, A], request: Q, max_bytes: int = ANSWER_BYTES) -> Send[A]:
        """Return what sends the request with the current token, and once more with another one if it is refused."""

        async def send(endpoint: Endpoint, limit_s: float) -> A:
            async def ask(token: str) -> A:
                shown = metadata(token)
                return await endpoint.ask(method, request, timeout_s=limit_s, metadata=shown, max_bytes=max_bytes)

            token = await self.tokens.current(endpoint)
            try:
                return await ask(token)
            except RegistryDenied:
                if not self.tokens.renewable:
                    raise
            return await ask(await self.tokens.renewed(endpoint, token))

        return send


def _repeated(send: Send[A]) -> Send[A]:
    """Return what sends the request again on a new connection where the first is cut, within the same time."""

    async def repeated(endpoint: Endpoint, limit_s: float) -> A:
        give_up_at = asyncio.get_running_loop().time() + limit_s
        try:
            return await send(endpoint, limit_s)
        except ConnectionCut:
            left_s = give_up_at - asyncio.get_running_loop().time()
            if left_s <= 0:
                raise
        return await send(endpoint, left_s)

    return repeated
