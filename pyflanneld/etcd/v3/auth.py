"""The token that etcd wants when authentication is on and no client certificate names us.

Theory of operation: a token is fetched with user name and password before the first call, and again when a call is
refused. etcd's *simple* tokens die after 300 s of not being used, on a change of users or roles, and with the server,
so a refusal is an ordinary event: the caller renews once, without anybody noticing, and only a second refusal counts.
One request at a time and at most one per second: checking a password is expensive for etcd (bcrypt), on purpose. A
refused password is not shown again for five seconds.
"""

import asyncio
from typing import Any, Final

from aetcd import rpc
from structlog.typing import FilteringBoundLogger

from pyflanneld.errors import RegistryDenied
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v3.channel import Endpoint
from pyflanneld.etcd.v3.grpc_errors import CALL_ERRORS, AuthNotEnabled, translate

_PAUSE_S: Final = 1.0
_REFUSED_PAUSE_S: Final = 5.0
NO_TOKEN: Final = ""


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
            response: Any = await endpoint.stubs().auth.Authenticate(request, timeout=self._timeout_s)
        except CALL_ERRORS as error:
            return self._answer_to(translate(error, endpoint.url), error)
        self._log.debug("auth.renewed", endpoint=endpoint.url, user=self._user)
        return str(response.token)

    def _answer_to(self, error: Exception, cause: BaseException) -> str:
        if isinstance(error, AuthNotEnabled):
            self._log.warning("auth.not_enabled", user=self._user)
            return NO_TOKEN
        if isinstance(error, RegistryDenied):
            self._refusal = error
            self._next_at = asyncio.get_running_loop().time() + _REFUSED_PAUSE_S
        raise error from cause
