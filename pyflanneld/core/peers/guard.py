"""The withdrawal guard: routes of a sudden loss of most peers are dropped only when two later lists confirm it.

A wiped prefix, a restored backup or a wrong endpoint looks exactly like thousands of peers leaving at once. Traffic
to peers that have really left is lost anyway, so waiting costs nothing; dropping too early costs the cluster.
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
    and more than half of all; after a step back in etcd's history every withdrawal is.

    Attributes:
        version: another number whenever ``allow`` may answer differently for what it has held.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._recent: deque[tuple[float, frozenset[Network]]] = deque()
        self._held: frozenset[Network] = frozenset()
        self._confirmed: frozenset[Network] = frozenset()
        self._confirmations = 0
        self._last_list_s = 0.0
        self._suspicious = False
        self.version = 0

    @property
    def held(self) -> frozenset[Network]:
        """The destinations whose routes are kept although nothing wants them."""
        return self._held

    def distrust(self) -> None:
        """Hold whatever the next list withdraws: it comes from another cluster or an older history.

        What earlier lists have confirmed does not count in this history.
        """
        self._suspicious = True
        self.version += 1
        self._confirmed = frozenset()
        self._confirmations = 0

    def allow(self, idle: frozenset[Network], present: int, now_s: float) -> frozenset[Network]:
        """Return those of *idle* (routes that nothing wants) that may be dropped now.

        Args:
            idle: all destinations of ours that nothing wants; what is no longer among them is not held any more.
            present: how many routes of ours the kernel has.
            now_s: the time, in seconds.
        """
        if not self._enabled:
            return idle
        if not idle:  # the usual round: it drops nothing
            self._held = self._confirmed = frozenset()
            self._suspicious = False
            return idle
        self._held &= idle
        self._confirmed &= idle
        while self._recent and self._recent[0][0] < now_s - WINDOW_S:
            self._recent.popleft()
        fresh = idle - self._held - self._confirmed
        suspicious, self._suspicious = self._suspicious, False
        if fresh and (self._held or suspicious or self._are_many(fresh, idle, present)):
            self._hold(fresh, now_s)
            return self._confirmed
        if fresh:
            self._recent.append((now_s, fresh))
        return fresh | self._confirmed

    def _are_many(self, fresh: frozenset[Network], idle: frozenset[Network], present: int) -> bool:
        """Return whether *fresh* is a mass withdrawal, together with what was dropped lately."""
        at_most = len(fresh) + sum(len(dsts) for _, dsts in self._recent)
        if not _is_mass(at_most, present):  # the usual answer, which needs no set of destinations
            return False
        gone = frozenset().union(*(dsts for _, dsts in self._recent)) - idle  # not what is still there
        return _is_mass(len(fresh) + len(gone), present + len(gone))

    def _hold(self, fresh: frozenset[Network], now_s: float) -> None:
        self._held |= fresh
        self._confirmations = 0
        self._last_list_s = now_s

    def list_applied(self, now_s: float) -> None:
        """Note that a complete list has been applied; the next ``allow`` releases what is wanted again."""
        if self._suspicious:  # this is the list that is not trusted, or nothing was planned since
            self._last_list_s = now_s
        if not self._held or now_s - self._last_list_s < LIST_SPACING_S:
            return
        self._confirmations += 1
        self._last_list_s = now_s
        if self._confirmations >= LISTS_NEEDED:
            self._confirmed |= self._held
            self._held = frozenset()
            self.version += 1


def _is_mass(leaving: int, all_routes: int) -> bool:
    return leaving > FEW and leaving * 2 > all_routes
