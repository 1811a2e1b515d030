"""Objects that somebody else removes, or puts back, again and again: how to stop fighting for them. Pure.

Two daemons whose networks overlap, or a script, would otherwise change the same route several times a second, for ever.
"""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from pyflanneld.core.objects.kind import Identity

TIMES, WITHIN_S = 16, 20.0
"""An object is contested when others have changed it so often within this time."""
PAUSE_S, PAUSE_CAP_S = 10.0, 60.0


@dataclass(slots=True)
class _Pause:
    """For how long a contested object is left alone, in seconds, until when, and when others last changed it."""

    pause_s: float
    until_s: float
    changed_s: float


class Contest:
    """Which objects are contested.

    One that was left alone is tried once: if others change it again the pause doubles; if not, it is forgotten.
    """

    def __init__(self) -> None:
        self._changes_s: dict[Identity, deque[float]] = {}
        self._pauses: dict[Identity, _Pause] = {}
        self._pruned_s = 0.0

    def changed(self, identities: Iterable[Identity], now_s: float) -> None:
        """Note that others have changed these objects."""
        self._prune(now_s)
        for identity in identities:
            changes_s = self._changes_s.setdefault(identity, deque(maxlen=TIMES))
            changes_s.append(now_s)
            known = self._pauses.get(identity)
            if known is not None or (len(changes_s) == TIMES and now_s - changes_s[0] <= WITHIN_S):
                pause_s = PAUSE_S if known is None else min(2 * known.pause_s, PAUSE_CAP_S)
                self._pauses[identity] = _Pause(pause_s, now_s + pause_s, now_s)

    def left_alone(self, now_s: float) -> Collection[Identity]:
        """Return the objects that are not to be changed now; a contest that has been quiet for long is over."""
        if not self._pauses:
            return ()
        over = [key for key, one in self._pauses.items() if now_s > one.changed_s + 2 * one.pause_s]
        for identity in over:
            del self._pauses[identity]
        return {identity for identity, one in self._pauses.items() if now_s < one.until_s}

    @property
    def contested(self) -> Collection[Identity]:
        """The objects that are contested, left alone at this moment or not."""
        return self._pauses.keys()

    def _prune(self, now_s: float) -> None:
        if now_s - self._pruned_s > WITHIN_S:
            self._pruned_s = now_s
            self._changes_s = {key: some for key, some in self._changes_s.items() if now_s - some[-1] <= WITHIN_S}
