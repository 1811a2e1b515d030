"""What runs on a host, as values."""

from dataclasses import dataclass
from ipaddress import IPv4Network


@dataclass(frozen=True, slots=True)
class Process:
    """A process.

    Attributes:
        name: what the kernel calls it, at most 15 characters.
        words: its command line.
        supervised: supervisord has started it, or what started it.
        leads: it leads a process group of its own.
    """

    pid: int
    parent: int
    name: str
    words: tuple[str, ...] = ()
    supervised: bool = False
    leads: bool = True

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A TCP socket that listens; *holder* where that can be found out."""

    address: str
    holder: Process | None


MAIN_TABLE, LOCAL_TABLE = 254, 255
"""Numbers of the kernel's routing tables."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule that leads packets to a routing table (``ip rule``).

    Attributes:
        narrowed: it asks for more than addresses: a mark, an interface, a user, a port.
    """

    priority: int
    table: int
    source: IPv4Network
    destination: IPv4Network
    narrowed: bool

    def __str__(self) -> str:
        return f"rule {self.priority} (from {self.source} to {self.destination} lookup {self.table})"
