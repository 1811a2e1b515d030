"""How a call is made: deadline, token, which endpoint, and what happens when it fails.

A read may be asked again on the next endpoint, for it changes nothing. A write is sent once: after no answer nobody
here knows what became of it. A refused token is renewed and the call repeated once, writes too, since a refusal means
that nothing was done.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypedDict, TypeVar

from pyflanneld.errors import RegistryDenied, RegistryUnavailable
from pyflanneld.etcd.timing import Timing
from pyflanneld.etcd.v3.auth import Tokens
from pyflanneld.etcd.v3.channel import Endpoint, Endpoints, Stubs
from pyflanneld.etcd.v3.grpc_errors import CALL_ERRORS, CallRefused, translate

__all__ = ["Attempt", "Caller", "How", "Timing", "keep_alive", "metadata"]

T = TypeVar("T")


class How(TypedDict):
    """The keyword arguments of a gRPC call."""

    timeout: float
    metadata: tuple[tuple[str, str], ...]


Attempt = Callable[[Stubs, How], Awaitable[T]]


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    """Return the headers of a call: our token, and that a member without a leader must not answer.

    ``hasleader`` (``rpctypes.MetadataRequireLeaderKey``) also makes etcd end the watches of a member that was cut off
    from the others.
    """
    leader = (("hasleader", "true"),)
    return (*leader, ("token", token)) if token else leader


class Caller:
    """Makes calls on the endpoint in use, or on others where that is harmless."""

    def __init__(self, endpoints: Endpoints, tokens: Tokens, timing: Timing) -> None:
        self.endpoints = endpoints
        self.tokens = tokens
        self.timing = timing

    async def write(self, attempt: Attempt[T]) -> T:
        """Send a request once.

        Raises:
            RequestRefused: a working server said no, nothing was done.
            RegistryUnavailable: otherwise; what was done is not known.
            RegistryDenied: nothing was done.
        """
        return await self._leaving(self.endpoints.current, attempt, self.timing.rpc_s)

    async def read(self, attempt: Attempt[T], *, elsewhere: bool = False) -> T:
        """Ask until somebody answers, each endpoint at most once, within ``Timing.read_s``.

        Args:
            attempt: makes the request; repeating it must be harmless.
            elsewhere: leave out the endpoint in use if there is another one, and stay on it for other calls.
        """
        members = self.endpoints.in_turn()
        if elsewhere and len(members) > 1:
            return await self._first_answer(members[1:], attempt, self._once)
        return await self._first_answer(members, attempt, self._leaving)

    async def _first_answer(
        self,
        members: Sequence[Endpoint],
        attempt: Attempt[T],
        ask: Callable[[Endpoint, Attempt[T], float], Awaitable[T]],
    ) -> T:
        loop = asyncio.get_running_loop()
        rpc_s, give_up_at = self.timing.rpc_s, loop.time() + self.timing.read_s
        for endpoint in members[:-1]:
            try:
                return await ask(endpoint, attempt, min(rpc_s, give_up_at - loop.time()))
            except CallRefused:
                raise
            except RegistryUnavailable:
                if loop.time() > give_up_at - rpc_s / 5:
                    raise
        return await ask(members[-1], attempt, min(rpc_s, give_up_at - loop.time()))

    async def _leaving(self, endpoint: Endpoint, attempt: Attempt[T], timeout_s: float) -> T:
        try:
            answer = await self._once(endpoint, attempt, timeout_s)
        except CallRefused:
            raise
        except RegistryUnavailable as error:
            self.endpoints.leave(endpoint, error)
            raise
        self.endpoints.answered(endpoint)
        return answer

    async def _once(self, endpoint: Endpoint, attempt: Attempt[T], timeout_s: float) -> T:
        token = await self.tokens.current(endpoint)
        try:
            return await _send(endpoint, attempt, token, timeout_s)
        except RegistryDenied:
            if not self.tokens.renewable:
                raise
        token = await self.tokens.renewed(endpoint, token)
        return await _send(endpoint, attempt, token, timeout_s)


async def _send(endpoint: Endpoint, attempt: Attempt[T], token: str, timeout_s: float) -> T:
    try:
        return await attempt(endpoint.stubs(), {"timeout": timeout_s, "metadata": metadata(token)})
    except CALL_ERRORS as error:
        raise translate(error, endpoint.url) from error
    except asyncio.CancelledError as error:
        if _is_cancelled():
            raise
        # gRPC's way of saying that the channel was closed; our caller must not mistake it for its own cancellation.
        raise RegistryUnavailable(f"{endpoint.url}: closed") from error


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def keep_alive(stubs: Stubs, how: How, request: Any) -> Any:
    """Send one ``LeaseKeepAliveRequest`` on a stream of its own and return the answer.

    The stream is made for many; one renewal in minutes does not pay for keeping it open.
    """
    call = stubs.lease.LeaseKeepAlive(**how)
    try:
        await call.write(request)
        answer = await call.read()
    finally:
        call.cancel()
    if not hasattr(answer, "TTL"):  # gRPC's end-of-stream mark
        raise RegistryUnavailable("etcd closed the keep-alive stream without an answer")
    return answer
