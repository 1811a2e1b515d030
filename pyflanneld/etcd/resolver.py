"""Host names of etcd members, looked up by the C library: off the loop, and without making anything else wait.

A silent name server holds ``getaddrinfo`` for 10 s with glibc's defaults, and for a minute with several servers;
nothing can end it earlier. So each lookup has a thread of its own, which other names do not wait for. The thread is a
daemon, which the end of the process does not wait for. A caller joins a lookup of the same name that is under way, so
that they do not pile up; after 10 s a new one is begun, because ``/etc/hosts`` or the name servers may be others by
then. No connection is opened by an earlier answer.

The first lookup is for all families, because only that one is content with an IPv4 address in ``/etc/hosts``: a lookup
of IPv6 alone goes on to the name servers. But it also waits for both answers of a name server, 15 s for one that drops
questions for IPv6 addresses. So after half a second an IPv4 lookup is begun beside it, and the first answer is used.
"""

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from aiohappyeyeballs import AddrInfoType

Answer = list[AddrInfoType] | OSError
Key = tuple[str, int, int]

_BESIDE_S: Final = 0.5


class Resolver:
    """The lookups that are under way, of one event loop.

    Args:
        getaddrinfo: ``socket.getaddrinfo``; it may block.
        joined_s: how long a lookup may have hung already, to be joined.

    Attributes:
        found: the addresses of each name, as they were found last.
    """

    def __init__(self, getaddrinfo: Callable[..., Any] = socket.getaddrinfo, *, joined_s: float = 10.0) -> None:
        self._getaddrinfo = getaddrinfo
        self._joined_s = joined_s
        self._under_way: dict[Key, asyncio.Future[Answer]] = {}
        self.found: dict[str, frozenset[str]] = {}

    async def addresses(self, host: str, port: int) -> list[AddrInfoType]:
        """Return the addresses of *host*, as ``socket.getaddrinfo`` does; the deadline is the caller's.

        Raises:
            OSError: there is no such name (``socket.gaierror``), or it cannot be one.
        """
        answer = self._answer((host, port, socket.AF_UNSPEC), socket.AI_NUMERICHOST)
        if isinstance(answer, list):
            return answer
        lookups = [self._lookup(host, port, socket.AF_UNSPEC)]
        await asyncio.wait(lookups, timeout=_BESIDE_S)
        if not lookups[0].done():
            lookups.append(self._lookup(host, port, socket.AF_INET))
        for done in asyncio.as_completed(lookups):
            answer = await done
            if isinstance(answer, list):
                self.found[host] = frozenset(str(one[4][0]) for one in answer)
                return answer
        raise answer

    def _lookup(self, host: str, port: int, family: int) -> asyncio.Future[Answer]:
        key = (host, port, family)
        if key in self._under_way:
            return self._under_way[key]
        loop = asyncio.get_running_loop()
        self._under_way[key] = future = loop.create_future()

        def leave(_: object = None) -> None:
            if self._under_way.get(key) is future:
                del self._under_way[key]

        future.add_done_callback(leave)
        loop.call_later(self._joined_s, leave)
        self._begin(key, future)
        return future

    def _begin(self, key: Key, future: asyncio.Future[Answer]) -> None:
        loop = future.get_loop()

        def look_up() -> None:
            answer = self._answer(key)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(future.set_result, answer)

        try:
            threading.Thread(target=look_up, name=f"lookup {key[0]}", daemon=True).start()
        except RuntimeError as error:  # the limit of threads
            future.set_result(OSError(errno.EAGAIN, str(error)))

    def _answer(self, key: Key, flags: int = 0) -> Answer:
        try:
            return list(self._getaddrinfo(*key, socket.SOCK_STREAM, flags=flags))
        except OSError as error:
            return error
        except UnicodeError as error:  # a label that is empty or too long
            return socket.gaierror(socket.EAI_NONAME, str(error))
