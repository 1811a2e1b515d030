"""What the test itself does: the programs it runs, the signals it sends, the files it writes.

A check of a daemon by what changed around it has to know what others did. Python reports these things as audit
events, so no test has to.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN, SIGNAL, FILE = "run", "signal", "file"
KEPT = 20_000
WRITING = os.O_WRONLY | os.O_RDWR
PATHS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}


@dataclass(frozen=True, slots=True)
class Action:
    """Something that the test did.

    Attributes:
        at_s: when, on the monotonic clock.
        kind: what.
        words: the arguments of a program; the process id and number of a signal; the paths of files.
    """

    at_s: float
    kind: str
    words: tuple[str, ...]

    def names(self, text: str) -> bool:
        """Return whether a word is *text*, or has it in a part, as ``sh -c`` has."""
        return any(text in word for word in self.words)


_actions: deque[Action] = deque(maxlen=KEPT)
_installed = False


def listen() -> None:
    """Begin to remember; an audit hook stays for the life of the process."""
    global _installed  # noqa: PLW0603
    if not _installed:
        sys.addaudithook(_hear)
        _installed = True


def since(at_s: float) -> tuple[Action, ...]:
    """Return what was done from a moment on, oldest first."""
    return tuple(action for action in tuple(_actions) if action.at_s >= at_s)


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if event == "open":
        path, _, flags = args
        if isinstance(flags, int) and flags & WRITING and isinstance(path, str):
            _remember(FILE, path)
    elif event == "subprocess.Popen":
        _remember(RUN, *_texts(args[1]))
    elif event == "os.kill":
        _remember(SIGNAL, str(args[0]), str(int(args[1])))
    elif event == "tests.action":  # what a test says of itself: neither a program nor a signal
        _remember(RUN, *_texts(args))
    elif event in PATHS:
        _remember(FILE, *_texts([arg for arg in args if isinstance(arg, str | bytes | Path)]))


def _texts(words: Any) -> Iterator[str]:
    for word in [words] if isinstance(words, str | bytes) else words:
        yield os.fsencode(word).decode(errors="backslashreplace")  # as keys of etcd are shown


def _remember(kind: str, *words: str) -> None:
    _actions.append(Action(time.monotonic(), kind, words))
