"""What runs on a host, as values."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from pyflanneld.core.families import Network, overlap

_OPTIONS = 8  # python -I -X faulthandler -m pyflanneld


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

    @property
    def program(self) -> str:
        """What runs: ``"pyflanneld"`` where the kernel knows only its interpreter."""
        files = [word.rpartition("/")[2] for word in self.words[1:_OPTIONS]] if self.name.startswith("python") else []
        return "pyflanneld" if "pyflanneld" in files else self.name

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """A listening TCP socket; *holder* is its process, where that is known."""

    address: str
    holder: Process | None


@dataclass(frozen=True, slots=True)
class ServedNetwork:
    """A network that a daemon of this host serves; *pid* is 0 where its process cannot be seen."""

    network: Network
    pid: int

    def __str__(self) -> str:
        return f"{self.network}, which another pyflanneld{f' (pid {self.pid})' if self.pid else ''} serves on this host"


def overlapping(networks: Sequence[Network], served: Iterable[ServedNetwork]) -> ServedNetwork | None:
    """Return the first of *served* that shares addresses with one of *networks*."""
    return next((one for one in served if any(overlap(one.network, network) for network in networks)), None)


def overlap_text(networks: Sequence[Network], served: Iterable[ServedNetwork]) -> str:
    """Return which of *networks* shares addresses with what other daemons serve, and what to do; empty if none."""
    other = overlapping(networks, served)
    if other is None:
        return ""
    own = next(network for network in networks if overlap(other.network, network))
    return f"the network {own} overlaps {other}: give each a Network of its own, or stop one of the two"


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
