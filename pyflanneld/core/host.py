"""What runs on a host, as values."""

from dataclasses import dataclass
from ipaddress import IPv4Network


@dataclass(frozen=True, slots=True)
class Process:
    """A process.

    Attributes:
        name: what the kernel calls it, at most 15 characters.
        words: its command line.
        supervised: it is a descendant of supervisord.
        leads: it leads its own process group.
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
    """A listening TCP socket; *holder* is its process, where that is known."""

    address: str
    holder: Process | None


MAIN_TABLE, LOCAL_TABLE = 254, 255
"""Numbers of the kernel's routing tables."""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule that selects a routing table (``ip rule``).

    Attributes:
        narrowed: it matches more than addresses: a mark, an interface, a user or a port.
    """

    priority: int
    table: int
    source: IPv4Network
    destination: IPv4Network
    narrowed: bool

    def __str__(self) -> str:
        return f"rule {self.priority} (from {self.source} to {self.destination} lookup {self.table})"
