"""How to reach a cluster, with either API: endpoints, credentials, deadlines, the member in use."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True)
class EtcdAccess:
    """Where one etcd cluster is, and our credentials.

    Attributes:
        endpoints: ``http://host:port`` or ``https://host:port``, all of one scheme; host may be a name, an IPv4
            address or a bracketed IPv6 address.
        prefix: the key prefix, for example ``/coreos.com/network``.
        ca_file: PEM file with the authorities to trust for https; ``None`` means those of the system.
        cert_file: PEM file with the client certificate, together with *key_file*.
        key_file: PEM file with its private key, not encrypted.
        username: the etcd user; ``None`` or empty when etcd asks for none.
        password: the user's password; never shown.
        private_files: refuse a key that others than its owner can read.
    """

    endpoints: tuple[str, ...]
    prefix: str
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    username: str | None = None
    password: SecretStr | str | None = field(default=None, repr=False)
    private_files: bool = False

    @property
    def secure(self) -> bool:
        """Whether the endpoints are https."""
        return any(urlsplit(endpoint).scheme == "https" for endpoint in self.endpoints)

    def password_text(self) -> str:
        """Return the password in the clear, for the one request that needs it."""
        if isinstance(self.password, SecretStr):
            return self.password.get_secret_value()
        return self.password or ""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long to wait for etcd, in seconds; tests shorten it.

    Attributes:
        rpc_s: for the response to one request.
        read_s: for a read with all its attempts.
        progress_s: after this silence a v3 watch requests a progress notification, or makes a read.
        silence_s: after this silence a v3 watch counts as dead, and a v2 watch sends its request again.
        ping_s: after this silence of a v3 connection, while a call is open, a ping is sent.
        ping_answer_s: for the response to a ping.
        steady_s: a watch that was open for so long is opened again when its connection is cut.
    """

    rpc_s: float = 5.0
    read_s: float = 10.0
    progress_s: float = 30.0
    silence_s: float = 45.0
    ping_s: float = 9.0
    ping_answer_s: float = 5.0
    steady_s: float = 2.0


class Member(Protocol):
    """One etcd member, by the URL that the operator wrote."""

    @property
    def url(self) -> str:
        """``http://host:port`` or ``https://host:port``."""
        ...


M = TypeVar("M", bound=Member)


class Members(Generic[M]):
    """All members and the one in use. The first is picked at random, to spread thousands of nodes over the members.

    Args:
        members: all of them.
        rng: picks the first.
        log: where events go.
        set_aside: the URLs of those that must not be used (``clusters``).
    """

    def __init__(
        self,
        members: Sequence[M],
        *,
        rng: random.Random,
        log: FilteringBoundLogger,
        set_aside: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._all = tuple(members)
        self._set_aside = set_aside
        self._at = rng.randrange(len(self._all))
        self._answering: M | None = None
        self._log = log

    @property
    def current(self) -> M:
        """The member in use."""
        return self.in_turn()[0]

    def in_turn(self) -> tuple[M, ...]:
        """Return all members but those that are set aside, beginning with the one in use."""
        members, aside = self._all[self._at :] + self._all[: self._at], self._set_aside()
        return tuple(member for member in members if member.url not in aside) or members

    def answered(self, member: M) -> None:
        """Record that *member* works."""
        self._answering = member

    def leave(self, member: M, error: Exception) -> None:
        """Switch to the next member, unless another call has already left *member*.

        Only the first switch, away from a member that worked, is a warning: the search for one that works goes round.
        """
        if member not in (self.current, self._all[self._at]) or len(self._all) == 1:
            return
        self._at = (self._all.index(member) + 1) % len(self._all)
        note = self._log.warning if member is self._answering else self._log.debug
        if self.current is member:  # the others are set aside
            return
        note("endpoint.switched", **{"from": member.url, "to": self.current.url}, error=str(error))
        self._answering = None


def host_port(endpoint: str) -> tuple[str, int]:
    """Return the host, which is a name or an address without brackets, and the port of *endpoint*."""
    parts = urlsplit(endpoint)
    return parts.hostname or "", parts.port or DEFAULT_PORT
