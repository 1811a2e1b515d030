"""The daemon with a netlink that can be made sick while it runs, by the words in the file ``$SICK``.

    python -m tests.faults.sick FLAGS...

    fail ENOMEM 2                    the next two requests (dumps or batches) fail so; without a number, all
    deaf 2                           they get lost on the way to the kernel
    refuse EBUSY 172.7.99.0/24 3     the kernel refuses the next three changes of that route (more words: for readers)

``$SICK_EVENTS`` is the receive buffer for the kernel's notifications, in bytes. Everything else is as shipped.
"""

import errno
import os
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pyflanneld import cli
from pyflanneld.core.objects.plan import KernelChange
from pyflanneld.netlink import kernel, monitor
from pyflanneld.netlink import socket as netlink
from pyflanneld.netlink.frames import KernelRefusal


class Ailment:
    """What the file asks for; each new text is counted from the beginning."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._text = ""
        self._left = 0

    def take(self, kind: str, *about: str) -> str | None:
        """Return the word behind *kind* (empty: none) when it strikes now, once less from then on."""
        text = self._file.read_text() if self._file.exists() else ""
        words = text.split()
        if text != self._text:
            self._text = text
            self._left = int(words[-1]) if words and words[-1].isdigit() else 1 << 30
        if not words or words[0] != kind or not self._left or not set(about) <= set(words):
            return None
        self._left -= 1
        return words[1] if len(words) > 1 else ""


class SickSocket(socket.socket):
    """A netlink socket for requests whose sending fails, or leads nowhere."""

    ailment: Ailment

    def send(self, data: Any, flags: int = 0) -> int:
        if (name := self.ailment.take("fail")) is not None:
            number = int(getattr(errno, name))
            raise OSError(number, os.strerror(number))
        return len(data) if self.ailment.take("deaf") is not None else super().send(data, flags)


def open_sick(ailment: Ailment) -> socket.socket:
    """Open a socket as the daemon does, for it to be sick."""
    sock = SickSocket(fileno=netlink.open_socket().detach())
    sock.setblocking(False)
    sock.ailment = ailment
    return sock


class SickRequests(netlink.RequestSocket):
    """The daemon's requests, some of whose changes never reach the kernel but come back refused."""

    def __init__(self, ailment: Ailment) -> None:
        super().__init__(partial(open_sick, ailment))
        self.ailment = ailment

    async def transact(self, changes: Sequence[Any], encode: Callable[..., bytes]) -> dict[int, KernelRefusal]:
        struck = {at: number for at, change in enumerate(changes) if (number := self._strikes(change))}
        sound = [at for at in range(len(changes)) if at not in struck]
        refused = await super().transact([changes[at] for at in sound], encode)
        told = {sound[at]: refusal for at, refusal in refused.items()}
        return told | {at: KernelRefusal(number, "") for at, number in struck.items()}

    def _strikes(self, change: KernelChange) -> int:
        name = self.ailment.take("refuse", str(change.object.dst))
        return 0 if name is None else int(getattr(errno, name))


def main() -> int:
    """Put the sick parts in, and run the daemon."""
    kernel.RequestSocket = partial(SickRequests, Ailment(Path(os.environ["SICK"])))  # type: ignore[assignment, attr-defined]
    if buffer := os.environ.get("SICK_EVENTS"):
        monitor.RECEIVE_BUFFER = int(buffer)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
