"""What has happened since the start, as numbers: the source of the metrics and of ``pyflanneld status``.

The tasks add, everybody may read. Every label comes from a small fixed set (``ChangeReason``, ``LISTS``, ``KINDS``, the
names of the tasks), never from what etcd or the kernel says.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from pyflanneld.core.objects.change_reasons import REPAIRS, ChangeReason
from pyflanneld.errors import RegistryDenied, RegistryError, RevisionCompacted

LISTS = ("first", "due", "watch_ended", "compacted", "history_changed", "guard")
"""Why a complete list of the peers was read."""
KINDS = ("unavailable", "denied", "compacted")
"""What etcd errors there are."""
PUT, DROP = "put", "drop"
ROUND_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class Durations:
    """How long something took, as Prometheus wants to have it.

    Attributes:
        bounds_s: the upper bounds of the buckets.
        counts: how many fell into each bucket, and last how many were longer than all; not cumulative.
    """

    bounds_s: tuple[float, ...] = ROUND_BOUNDS_S
    counts: list[int] = field(default_factory=lambda: [0] * (len(ROUND_BOUNDS_S) + 1))
    sum_s: float = 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def add(self, duration_s: float) -> None:
        """Count one more."""
        self.counts[bisect_left(self.bounds_s, duration_s)] += 1
        self.sum_s += duration_s


@dataclass(slots=True)
class Counters:
    """The counts. Times are on the scale of ``ports.Clock``; ``None``: it has not happened yet.

    Attributes:
        changes: changes of kernel objects that were made, by the name of their kind and (``PUT`` or ``DROP``, reason).
        lists: complete lists of the peers, by why they were read.
        etcd_errors: by (task, kind).
        watch_events: changes of keys that the watch has delivered.
        event_at_s: when it delivered the last one.
        revision: the newest revision of etcd that was seen.
        heard_at_s: when etcd last answered, whatever was asked.
        peers_at_s: when the view of the peers was last known to be up to date: a list, or a sign of life of the watch.
        watching: whether a watch of the peers is open.
        others_at_s: since when etcd has answered other tasks than the one that follows the peers, and not that one.
        rounds: how long reconciling took.
        renewals: renewals of this host's lease that proved it (True) or did not (False).
        retaken: how often this host's lease had vanished and was taken again.
        firewall_repairs: how often rules were not as they had been left.
        quarantined_since_s: since when each quarantined key is, by name: as many as there are such keys.
    """

    changes: defaultdict[str, Counter[tuple[str, ChangeReason]]] = field(default_factory=lambda: defaultdict(Counter))
    lists: Counter[str] = field(default_factory=Counter)
    etcd_errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    watch_events: int = 0
    event_at_s: float | None = None
    revision: int = 0
    heard_at_s: float | None = None
    peers_at_s: float | None = None
    watching: bool = False
    others_at_s: float | None = None
    rounds: Durations = field(default_factory=Durations)
    renewals: Counter[bool] = field(default_factory=Counter)
    retaken: int = 0
    firewall_repairs: int = 0
    quarantined_since_s: dict[bytes, float] = field(default_factory=dict)

    @property
    def routes(self) -> Counter[tuple[str, ChangeReason]]:
        """The changes of routes."""
        return self.changes["route"]

    @property
    def repairs(self) -> Counter[ChangeReason]:
        """Routes that were put again because somebody, or the link, had taken them away, by reason."""
        repairs = {cause: count for (kind, cause), count in self.routes.items() if kind == PUT and cause in REPAIRS}
        return Counter(repairs)

    def etcd_failed(self, task: str, error: RegistryError) -> None:
        """Count an error of etcd that *task* met."""
        match error:
            case RegistryDenied():
                kind = "denied"
            case RevisionCompacted():
                kind = "compacted"
            case _:
                kind = "unavailable"
        self.etcd_errors[task, kind] += 1

    def listed(self, why: str, revision: int, now_s: float) -> None:
        """Count a complete list of the peers."""
        self.lists[why] += 1
        self._heard(revision, now_s)

    def watched(self, events: int, revision: int, now_s: float) -> None:
        """Count what the watch has delivered; no events are a sign of life."""
        self.watch_events += events
        self.watching = True
        self._heard(revision, now_s)
        if events:
            self.event_at_s = now_s

    def _heard(self, revision: int, now_s: float) -> None:
        self.revision, self.heard_at_s, self.peers_at_s, self.others_at_s = revision, now_s, now_s, None

    def quarantine(self, names: Collection[bytes], now_s: float) -> None:
        """Record which keys are quarantined now."""
        self.quarantined_since_s = {name: self.quarantined_since_s.get(name, now_s) for name in names}

    async def timed(self, now_s: Callable[[], float], round_: Awaitable[None]) -> None:
        """Wait for *round_* and record how long it took."""
        began_s = now_s()
        await round_
        self.rounds.add(now_s() - began_s)
