"""Which member of the cluster is in use, whatever API it is spoken to with.

The first is drawn by lot, so that thousands of nodes do not all sit on the first of the list.
"""

import random
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger


class Member(Protocol):
    """One etcd member, by the URL that the operator wrote."""

    @property
    def url(self) -> str:
        """``http://host:port`` or ``https://host:port``."""
        ...


M = TypeVar("M", bound=Member)


class Members(Generic[M]):
    """All members and the one in use."""

    def __init__(self, members: Sequence[M], *, rng: random.Random, log: FilteringBoundLogger) -> None:
        self._all = tuple(members)
        self._at = rng.randrange(len(self._all))
        self._answering: M | None = None
        self._log = log

    @property
    def current(self) -> M:
        """The member in use."""
        return self._all[self._at]

    def in_turn(self) -> tuple[M, ...]:
        """Return all members, beginning with the one in use."""
        return self._all[self._at :] + self._all[: self._at]

    def answered(self, member: M) -> None:
        """Take note that *member* works."""
        self._answering = member

    def leave(self, member: M, error: Exception) -> None:
        """Move on to the next member, unless somebody has already left *member*.

        News is only that a member which worked does so no longer: the search for one that does goes round and round.
        """
        if member is not self.current or len(self._all) == 1:
            return
        self._at = (self._at + 1) % len(self._all)
        note = self._log.warning if member is self._answering else self._log.debug
        note("endpoint.switched", **{"from": member.url, "to": self.current.url}, error=str(error))
        self._answering = None
