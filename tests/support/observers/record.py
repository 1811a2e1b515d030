"""What the observers have seen during one test; what the checks read."""

import signal
from dataclasses import dataclass, field
from itertools import pairwise

from tests.support.observers.actions import Action

DAEMON, KERNEL, OTHER = "daemon", "kernel", "other"
LINK_DOWN, ENTRY_GONE = "link down", "entry gone"


@dataclass(frozen=True, slots=True)
class Change:
    """A key was put or deleted. A deleted one has no value and no lease."""

    at_s: float
    key: str
    value: bytes | None
    mod_revision: int
    version: int = 0
    lease: int = 0


@dataclass
class History:
    """All that happened in one etcd.

    Attributes:
        before: the keys that were there at the start.
        changes: in their order.
        blind: why something may be missing; empty when the history is complete.
        began_at: the revision at the start.
        retold: where in the changes another history begins, which is told from its first revision on.
    """

    before: dict[str, Change] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    blind: str = ""
    began_at: int = 0
    retold: list[int] = field(default_factory=list)

    def news(self) -> list[Change]:
        """Return the changes without what another history tells of the time before the start.

        It does so when it comes from a backup: then it knows a key that was there, on the same etcd lease.
        """
        found = self.changes[: self.retold[0]] if self.retold else list(self.changes)
        for first, last in pairwise((*self.retold, None)):
            told = self.changes[first:last]
            known = any(each.lease and self._was_there(each) for each in told)
            found += [each for each in told if not known or each.mod_revision > self.began_at]
        return found

    def _was_there(self, change: Change) -> bool:
        before = self.before.get(change.key)
        return before is not None and (before.mod_revision, before.lease) == (change.mod_revision, change.lease)


@dataclass(frozen=True, slots=True)
class RouteEvent:
    """The kernel told that a route was put or removed.

    Attributes:
        at_s: when it was read.
        by: who asked for that: the daemon, the kernel itself, or somebody else.
        deleted: it was removed.
        replaced: it was put in the place of another with the same key.
        table: its number.
        protocol: its number.
        dst: network and length, as numbers.
        gateway: a number, 0 without one.
        link: the interface's number.
        metric: its priority.
    """

    at_s: float
    by: str
    deleted: bool
    replaced: bool
    table: int
    protocol: int
    dst: tuple[int, int]
    gateway: int = 0
    link: int = 0
    metric: int = 0

    @property
    def key(self) -> tuple[int, tuple[int, int], int]:
        """What the kernel tells routes apart by."""
        return self.table, self.dst, self.metric


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """The kernel told of a change to something that is no IPv4 route: an address, a link, a rule, a neighbour."""

    at_s: float
    by: str
    what: str


@dataclass(frozen=True, slots=True)
class Version:
    """A content of ``subnet.env``; ``None`` when the file went away.

    Attributes:
        how: "there" at the start, "renamed" into place, "written" in place, or "gone".
    """

    at_s: float
    how: str
    content: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the health port said: a status, 0 for none in time."""

    at_s: float
    path: str
    status: int
    took_s: float
    body: str = ""


@dataclass
class Run:
    """One life of a daemon: its largest figures, and its end."""

    pid: int
    since_s: float
    anon_bytes: int = 0
    descriptors: int = 0
    threads: int = 0
    ended_s: float | None = None
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet from one pod to another."""

    sent_s: float
    source: str
    target: str
    arrived: bool


@dataclass
class Host:
    """What was seen of one host.

    Attributes:
        addresses: every IPv4 address that it had: (number, prefix length, link).
        routes: those of the main table at the start.
        tunnels: the links that are the daemon's own, with flannel's names.
        unread: foreign route messages that were only counted.
        lost: notifications got lost: what the kernel reported is not complete.
    """

    name: str
    subnet_file: str = ""
    addresses: set[tuple[int, int, int]] = field(default_factory=set)
    routes: list[RouteEvent] = field(default_factory=list)
    tunnels: set[int] = field(default_factory=set)
    route_events: list[RouteEvent] = field(default_factory=list)
    other_events: list[OtherEvent] = field(default_factory=list)
    unread: int = 0
    lost: bool = False
    versions: list[Version] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    log: str = ""


@dataclass
class Record:
    """What was seen of a laboratory."""

    hosts: list[Host] = field(default_factory=list)
    history: History = field(default_factory=History)
    packets: list[Packet] = field(default_factory=list)
    actions: tuple[Action, ...] = ()

    def signals(self, pid: int) -> list[tuple[float, signal.Signals]]:
        """Return the signals that the test has sent to a process."""
        mine = [action for action in self.actions if action.kind == "signal" and action.words[0] == str(pid)]
        return [(action.at_s, signal.Signals(int(action.words[1]))) for action in mine if action.words[1] != "0"]


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that did not hold."""

    invariant: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.invariant} at {self.where}: {self.what}"
