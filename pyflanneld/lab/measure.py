"""Tool: measurements that are independent of the daemon: ``ip monitor`` and ``ping``."""

import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until

RTMGRP_IPV4_ROUTE = 0x40
PING_INTERVAL_S = 0.02


class _Recorder:
    """A program in a namespace whose output is kept and can be read at any time."""

    def __init__(self, namespace: str, *command: str) -> None:
        self._command = ("ip", "netns", "exec", namespace, *command)

    def __enter__(self) -> Self:
        self._output = TemporaryFile("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output, start_new_session=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(signal.SIGKILL)
        self._output.close()

    def _end(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(timeout=5.0)

    def _text(self) -> str:
        """Return what was printed so far. Opened anew, as the program shares the file's position."""
        return Path(f"/proc/self/fd/{self._output.fileno()}").read_text(errors="replace")


@dataclass(frozen=True, slots=True)
class RouteEvent:
    """One line of ``ip monitor route``: when (seconds since 1970), and what."""

    at_s: float
    text: str

    @property
    def deleted(self) -> bool:
        """Return whether the route was deleted."""
        return self.text.startswith("Deleted ")


class RouteMonitor(_Recorder):
    """Every IPv4 route message that the kernel sends on one host while the block lasts.

    With *more*, such as ``"neigh"``, messages about these as well, of all families.
    """

    def __init__(self, node: LabHost, *more: str) -> None:
        super().__init__(node.namespace, "ip", *([] if more else ["-4"]), "-ts", "monitor", "route", *more)
        self.node = node

    def __enter__(self) -> Self:
        super().__enter__()
        until(self._listening, f"ip monitor on {self.node.name} listens")
        return self

    def _listening(self) -> bool:
        return any(int(row[3], 16) & RTMGRP_IPV4_ROUTE for row in self._sockets())

    def _sockets(self) -> list[list[str]]:
        """Return the rows of its route sockets in ``/proc/net/netlink``; none once it has ended."""
        try:
            sockets = Path(f"/proc/{self._process.pid}/net/netlink").read_text().splitlines()[1:]
        except OSError:
            return []
        rows = [line.split() for line in sockets]
        return [row for row in rows if row[1] == "0" and row[2] == str(self._process.pid)]

    def _caught_up(self) -> bool:
        """Return whether it has written all that the kernel has sent: nothing is queued, and it waits for more."""
        if any(row[4] != "0" for row in self._sockets()):
            return False
        try:
            state = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state in "SZX"

    def messages(self) -> tuple[RouteEvent, ...]:
        """Return the messages that the kernel has sent so far."""
        until(self._caught_up, f"ip monitor on {self.node.name} has written all messages", poll_s=0.005)
        lines = re.findall(r"^\[(\S+)\] (.*\S) *\n", self._text(), re.MULTILINE)
        return tuple(RouteEvent(datetime.fromisoformat(at).astimezone().timestamp(), text) for at, text in lines)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a ``ping`` measured between two pods."""

    source: str
    target: str
    sent: int
    lost: int
    rtt_ms: float

    def __str__(self) -> str:
        return f"{self.source} to {self.target}: {self.sent} sent, {self.lost} lost, {self.rtt_ms:.2f} ms"


class Ping(_Recorder):
    """Packets from one pod to another, 50 a second, while the block lasts."""

    def __init__(self, source: LabHost, target: LabHost) -> None:
        command = ("ping", "-n", "-i", str(PING_INTERVAL_S), str(target.pod_address))
        super().__init__(source.pod_namespace, *command)
        self._names = source.pod_name, target.pod_name

    def received(self) -> frozenset[int]:
        """Return the numbers of the packets that were answered so far."""
        return frozenset(int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=", self._text()))

    def result(self) -> Traffic:
        """End the traffic and return its result. The last packet may still be under way and does not count."""
        self._end(signal.SIGINT)
        found = re.search(r"(\d+) packets transmitted", self._text())
        sent = int(found[1]) - 1 if found else 0
        times = re.search(r"= [\d.]+/([\d.]+)/", self._text())
        lost = len(set(range(1, sent + 1)) - self.received())
        return Traffic(*self._names, sent, lost, float(times[1]) if times else float("nan"))


def delay_ms(messages: Sequence[RouteEvent], dst: str) -> float | None:
    """Return the milliseconds from the first loss of a route to its return, ``None`` if it did not come back."""
    lost = next((m.at_s for m in messages if m.deleted and m.text.split()[1] == dst), None)
    if lost is None:
        return None
    back = next((m.at_s for m in messages if not m.deleted and m.text.split()[0] == dst and m.at_s >= lost), None)
    return None if back is None else (back - lost) * 1000
