"""What is to happen at which point.

    plan   = point=action ; point=action ...
    action = kill                 SIGKILL to the daemon, whichever of its processes is there
           | signal:NAME          this signal to itself (STOP: the test goes on with SIGCONT)
           | sleep:SECONDS        the event loop stands still; at a step of a file, the disk
           | errno:NAME           the step fails so, each time; errno:NAME*3: three times
           | drop                 the step is done, and its reply lost (steps of etcd alone)
    an action ends with @n where the n-th pass is the first that it is for; all but errno happen once
"""

import errno
import mmap
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ETCD = ("config_read", "list_page", "grant", "txn.sent", "txn.reply", "keepalive", "watch.event")
FILE = ("env.open", "env.mid_write", "env.fsync", "env.before_rename", "env.after_rename", "env.dirsync")
KERNEL = ("nl.dump", "nl.add", "nl.replace", "nl.del")
PROCESS = ("lock", "healthz_bind", "reconcile.mid", "prune.before", "prune.mid", "ready", "shutdown.close")
POINTS = (*ETCD, *FILE, *KERNEL, *PROCESS)
REPLIES = frozenset(ETCD) - {"txn.sent", "watch.event"}  # where a reply can be lost
FALLIBLE = frozenset((*ETCD, *FILE, *KERNEL, "healthz_bind"))  # where a step can fail
EVERY_TIME = 1 << 30

_ACTION = re.compile(
    r"(?P<kind>kill|drop|signal|sleep|errno)(?::(?P<word>[A-Za-z0-9.]+))?(?:\*(?P<count>\d+))?(?:@(?P<first>\d+))?"
)


@dataclass(frozen=True, slots=True)
class Action:
    """Something that happens at *count* passes of a point, from the *first* on."""

    kind: str
    word: str
    count: int
    first: int

    def due(self, number: int) -> bool:
        """Return whether it happens at this pass."""
        return self.first <= number < self.first + self.count


def parse(text: str) -> dict[str, Action]:
    """Read a plan. Raises ``ValueError`` for a point, or an action at a point, that there is not."""
    actions = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        point, _, words = part.partition("=")
        if point not in POINTS:
            raise ValueError(f"no failpoint {point!r}; there is: {', '.join(POINTS)}")
        actions[point] = _action(point, words)
    return actions


def _action(point: str, words: str) -> Action:
    found = _ACTION.fullmatch(words)
    if found is None:
        raise ValueError(f"{point}: cannot read {words!r}")
    kind, word = found["kind"], found["word"] or ""
    possible = {"drop": point in REPLIES, "errno": point in FALLIBLE}.get(kind, True)
    needs = {"signal": f"SIG{word}" in signal.Signals.__members__, "errno": hasattr(errno, word or "-")}
    if kind == "sleep":
        float(word)
    elif not needs.get(kind, not word) or not possible:
        raise ValueError(f"{point}: there is no {words!r} here")
    usual = EVERY_TIME if kind == "errno" else 1
    return Action(kind, word, int(found["count"] or usual), int(found["first"] or 1))


class Plan:
    """The actions by point, and how often each point was passed.

    Args:
        actions: as ``parse`` gives them.
        passed: where to note the points that are passed.
    """

    def __init__(self, actions: Mapping[str, Action], passed: Path | None = None) -> None:
        self._actions = actions
        self._passed = passed
        self._passes = memoryview(mmap.mmap(-1, 4 * len(POINTS))).cast("I")  # shared with the daemon's child processes
        self._daemon = os.getpid()

    def reach(self, point: str) -> bool:
        """Do what is due at this pass of *point*; return whether the reply is to be lost. Raises ``OSError``."""
        at = POINTS.index(point)
        number = self._passes[at] = self._passes[at] + 1
        if number == 1 and self._passed is not None:
            with self._passed.open("a") as file:
                file.write(f"{point} {time.monotonic()}\n")
        action = self._actions.get(point)
        if action is None or not action.due(number):
            return False
        return self._do(action)

    def _do(self, action: Action) -> bool:
        match action.kind:
            case "kill":
                os.kill(self._daemon, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)  # a child of the daemon's, which the kernel would kill in a moment
            case "signal":
                os.kill(self._daemon, signal.Signals[f"SIG{action.word}"])
            case "sleep":
                time.sleep(float(action.word))
            case "errno":
                number = int(getattr(errno, action.word))
                raise OSError(number, os.strerror(number))
        return action.kind == "drop"
