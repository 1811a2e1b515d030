"""The withdrawal guard: a sudden loss of most peers is believed only when it is told three times.

A wiped prefix, a restored backup or a wrong endpoint looks exactly like thousands of peers leaving at once. Traffic
to peers that have really left is lost anyway, so waiting costs nothing; believing too early costs the cluster.
"""

from collections import deque

from pyflanneld.core.families import Network

FEW = 3
WINDOW_S = 5.0
LIST_SPACING_S = 10.0
LISTS_NEEDED = 2


class WithdrawGuard:
    """Holds mass withdrawals until later complete lists agree.

    A withdrawal is *mass* when, together with those of the last ``WINDOW_S`` seconds, it is more than ``FEW`` routes
    and more than half of all; after a step back in etcd's history any withdrawal is.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._recent: deque[tuple[float, frozenset[Network]]] = deque()
        self._held: frozenset[Network] = frozenset()
        self._proved: frozenset[Network] = frozenset()
        self._agreed = 0
        self._last_told_s = 0.0
        self._suspicious = False

    @property
    def held(self) -> frozenset[Network]:
        """The destinations whose routes are kept although nothing wants them."""
        return self._held

    def distrust(self) -> None:
        """Hold whatever the next list withdraws: it comes from another cluster or an older history.

        What lists have said before proves nothing in this history.
        """
        self._suspicious = True
        self._proved = frozenset()
        self._agreed = 0

    def allow(self, idle: frozenset[Network], present: int, now_s: float) -> frozenset[Network]:
        """Return those of *idle* (routes that nothing wants) that may go now.

        Args:
            idle: all destinations of ours that nothing wants; what is no longer among them is let go of.
            present: how many routes of ours the kernel has.
            now_s: the time, in seconds.
        """
        if not self._enabled:
            return idle
        if not idle:  # the usual round: it takes nothing away
            self._held = self._proved = frozenset()
            self._suspicious = False
            return idle
        self._held &= idle
        self._proved &= idle
        while self._recent and self._recent[0][0] < now_s - WINDOW_S:
            self._recent.popleft()
        fresh = idle - self._held - self._proved
        suspicious, self._suspicious = self._suspicious, False
        if fresh and (self._held or suspicious or self._are_many(fresh, idle, present)):
            self._hold(fresh, now_s)
            return self._proved
        if fresh:
            self._recent.append((now_s, fresh))
        return fresh | self._proved

    def _are_many(self, fresh: frozenset[Network], idle: frozenset[Network], present: int) -> bool:
        """Say whether *fresh* is a mass withdrawal, with what has gone lately."""
        at_most = len(fresh) + sum(len(dsts) for _, dsts in self._recent)
        if not _is_mass(at_most, present):  # the usual answer; which ones they were need not be known for it
            return False
        gone = frozenset().union(*(dsts for _, dsts in self._recent)) - idle  # not what could not be dropped yet
        return _is_mass(len(fresh) + len(gone), present + len(gone))

    def _hold(self, fresh: frozenset[Network], now_s: float) -> None:
        self._held |= fresh
        self._agreed = 0
        self._last_told_s = now_s

    def told(self, now_s: float) -> None:
        """Take note that a complete list has been applied; ``allow`` after it lets go of what is wanted again."""
        if self._suspicious:  # it is the list that is not trusted itself, or nothing was looked at since
            self._last_told_s = now_s
        if not self._held or now_s - self._last_told_s < LIST_SPACING_S:
            return
        self._agreed += 1
        self._last_told_s = now_s
        if self._agreed >= LISTS_NEEDED:
            self._proved |= self._held
            self._held = frozenset()


def _is_mass(leaving: int, all_routes: int) -> bool:
    return leaving > FEW and leaving * 2 > all_routes
