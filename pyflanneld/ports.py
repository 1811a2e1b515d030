"""The protocols between the loops and the outside world, with the contract that each implementation keeps.

The contract tests in ``tests/contract`` run on every implementation, the fakes included.
"""

import enum
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, Protocol

from pyflanneld.core.etcd_types import (
    ConfigRecord,
    Gone,
    Position,
    Put,
    Record,
    Renewal,
    Snapshot,
    TimeLeft,
    TimeToLive,
)
from pyflanneld.core.families import Address, Network
from pyflanneld.core.firewall.rules import Family, Removal, Section, WantedRules
from pyflanneld.core.host import ServedNetwork
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.objects.plan import KernelChange
from pyflanneld.core.routes import KernelRoute, Way

if TYPE_CHECKING:
    from pyflanneld.core.lease.saved_state import SavedState
    from pyflanneld.core.probe.table import ProbeResult


class Registry(Protocol):
    """The keys of the cluster in etcd below one prefix: ``<prefix>/config`` and ``<prefix>/subnets/*``.

    Every call has a deadline and raises ``RegistryUnavailable`` or ``RegistryDenied``; the caller retries. After
    ``RegistryUnavailable`` the outcome of a write is unknown. Reads are linearizable.
    """

    @property
    def api(self) -> int:
        """The etcd API behind it, 2 or 3: it decides how values are written (``core.lease.codec.encode_value``)."""
        ...

    @property
    def endpoint(self) -> str:
        """The endpoint in use, as the operator wrote it, for logs and status."""
        ...

    @property
    def set_aside(self) -> Collection[str]:
        """The endpoints that belong to another cluster than the one in use, and are not used."""
        ...

    @property
    def addresses(self) -> Collection[str]:
        """The addresses that the names among the endpoints had when they were last looked up."""
        ...

    async def read_config(self) -> ConfigRecord:
        """Return the network configuration as it is now (``value`` is ``None`` where there is none)."""
        ...

    def watch_config(self, after_revision: int) -> AbstractAsyncContextManager[AsyncIterator[object]]:
        """Deliver something after each change of the configuration since *after_revision*, and at other times too.

        Errors as for ``watch_subnets``. What is delivered says only "read again".
        """
        ...

    async def list_subnets(self, *, elsewhere: bool = False) -> Snapshot:
        """Return all records at one revision, complete or not at all.

        Args:
            elsewhere: ask another endpoint than the one in use, where there is one.
        """
        ...

    def watch_subnets(self, after: Position) -> AbstractAsyncContextManager[AsyncIterator[tuple[Put | Gone, ...]]]:
        """Deliver, in order, every change after *after*; an empty tuple is a sign of life.

        Raises, from the iterator: ``RevisionCompacted``; ``HistoryChanged`` when answered by another cluster or an
        older history; ``RegistryUnavailable`` when cancelled, cut off, or silent for too long. After any of them the
        caller lists again, at once after the first two; until then it may watch from the position that it knows.
        """
        ...

    async def create_subnet(
        self, name: bytes, value: bytes, *, ttl_s: int, listed: Snapshot, beside: Collection[bytes] = ()
    ) -> Record | None:
        """Create the key with a TTL, provided that nothing that may overlap it was created since *listed*.

        What overlaps is refused, and so may be what only looks like it, but for names in *beside*, which others may
        create meanwhile. A creation of this client whose outcome was unknown either shows in a list before another one
        succeeds, or never happens.

        Returns:
            The new record; ``None`` when something was created in the meantime: choose another one, by this list or a
            newer one.
        """
        ...

    async def rewrite_subnet(self, held: Record, value: bytes) -> Record | None:
        """Change the value of *held* and nothing else, provided that nobody changed it; ``None`` if somebody did."""
        ...

    async def put_on_own_lease(self, held: Record, *, ttl_s: int) -> Record | None:
        """Give *held* a TTL that is nobody else's, *ttl_s* long, provided that nobody changed it; else ``None``."""
        ...

    async def delete_subnet(self, held: Record) -> bool:
        """Delete *held*, provided that nobody changed it; return whether it was deleted."""
        ...

    async def renew(self, held: Record) -> Renewal:
        """Renew the lease of *held* without waking any watcher, and read its key back."""
        ...

    async def time_left(self, held: Record) -> TimeLeft | None:
        """Return how long the lease of *held* still has; ``None`` where the API does not report that (v2)."""
        ...

    def reconnect(self) -> None:
        """Use new connections from now on: an address of this host has changed, or the machine was suspended.

        Calls under way end by themselves, at the latest with their deadline.
        """
        ...

    async def close(self) -> None:
        """Close all connections. Leases stay."""
        ...


class Administration(Protocol):
    """What ``pyflanneld leases`` needs in addition to ``Registry``, with the same errors."""

    async def times_to_live(self, records: Iterable[Record]) -> Mapping[bytes, TimeToLive]:
        """Return, by name, how long the *records* with a TTL still have; 0 for one that is just expiring."""
        ...

    async def reserve_subnet(self, name: bytes, value: bytes, *, listed: Snapshot) -> Record | None:
        """Create the key without a TTL, provided that nothing overlapping was created since *listed*; else ``None``."""
        ...

    async def make_reservation(self, held: Record) -> Record | None:
        """Remove the TTL of *held* and change nothing else, provided that nobody changed it; else ``None``."""
        ...


class Configuration(Protocol):
    """What ``pyflanneld config`` needs in addition to ``Registry``, with the same errors."""

    async def write_config(self, value: bytes, *, seen: ConfigRecord) -> bool:
        """Write the network configuration, provided that it is still as *seen*; return whether it was."""
        ...


class FullRegistry(Registry, Administration, Configuration, Protocol):
    """A registry with all three protocols."""


class Discovery(Protocol):
    """Finds the registry to use, by the API that holds the network configuration, and keeps to it."""

    @property
    def registry(self) -> Registry:
        """The registry in use. Until the search has ended: the one on v3."""
        ...

    @property
    def settled(self) -> bool:
        """Whether the search has ended: ``registry`` stays the same from then on."""
        ...

    async def read_config(self) -> ConfigRecord:
        """Return the configuration as ``Registry.read_config`` does, from the API that holds one; settle for that."""
        ...

    def reconnect(self) -> None:
        """Use new connections from now on, with each API that may be in use; see ``Registry.reconnect``."""
        ...

    async def close(self) -> None:
        """Close all connections. Leases stay."""
        ...


class HostNetworks(Protocol):
    """The networks that the daemons of this network namespace serve: each tells the others its own.

    Of two that claim overlapping networks at the same time, at least one is refused.
    """

    def claim(self, networks: Sequence[Network]) -> str:
        """Tell the others that we serve *networks* from now on, and no others, unless they overlap what others serve.

        Returns:
            A sentence that names both networks and the other daemon, and what to do; then nothing has changed. Empty
            when *networks* are ours.
        """
        ...

    def others(self) -> Sequence[ServedNetwork]:
        """Return the networks that other daemons serve."""
        ...


class Change(enum.Flag):
    """What has changed. The kernel reports the first two; the last: etcd has said that this host's key is gone."""

    ROUTES = enum.auto()
    LINKS = enum.auto()
    PEERS = enum.auto()
    LEASE_GONE = enum.auto()


class Kernel(Protocol):
    """Links and routes (main table) of this network namespace.

    Raises ``KernelError`` when the socket fails or a request as a whole is refused or times out; the implementation
    then starts afresh with a new socket on the next call.

    Attributes:
        loopback: the addresses on the loopback, besides 127.0.0.0/8 and ::1, as ``links`` has last seen them.
    """

    loopback: frozenset[Address]

    async def links(self) -> tuple[Link, ...]:
        """Return all links but the loopback, with their addresses, in index order.

        The identical tuple as from the last call when nothing has changed since.
        """
        ...

    async def routes(self, *, protocol: int | None = None, version: int = 4) -> tuple[KernelRoute, ...]:
        """Return one family's routes of the main table, all or those of one protocol; never a torn dump.

        Of our own protocol: the identical tuple as from the last such call when nothing has changed since.
        """
        ...

    async def route_to(self, address: Address) -> Way | None:
        """Return how a packet to *address* would leave.

        ``None`` when none would: there is no route, it is a forbidding one, or *address* is one of this host's own.
        """
        ...

    async def neighbours(self, link_index: int) -> tuple[Neighbour, ...]:
        """Return what the kernel knows of the link's neighbours, both families; changes nothing and sends nothing."""
        ...

    async def objects(self, listing: object, *, patient: bool = False) -> tuple[Any, ...]:
        """Return the objects of a ``RouteListing`` (as ``routes``, or of some networks only), an ``EntryListing`` or a
        ``ForwardingListing``.

        With *patient* no other call waits for this one, however long the list is.
        """
        ...

    async def apply(self, changes: Sequence[KernelChange]) -> Mapping[KernelChange, int]:
        """Make all changes, in order, in as few system calls as possible; one failing does not stop the others.

        Returns:
            The failed ones with their ``errno``. Dropping what is already gone is no failure.
        """
        ...

    def changes(
        self, network: IPv4Network, ipv6: IPv6Network | None = None, *, entries: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Tell that links, addresses, or routes inside *network* or *ipv6* were changed by somebody else.

        Without *ipv6* nothing of that family is reported. With *entries* those of vxlan devices are too: the kernel
        then tells of every neighbour on the host.

        Coalesced: says "read again", never what has changed. Raises ``KernelError`` when events may have been lost
        or the socket died; open it again and look at everything.
        """
        ...

    async def close(self) -> None:
        """Close the sockets. Routes stay."""
        ...


class FirewallProgram(Protocol):
    """One program that holds firewall rules; ``firewall/programs.py`` lists them.

    Every call has a deadline and raises ``FirewallError``, or ``ProgramMissing`` when the program is not installed (by
    the next call it may be). The caller retries. The chains are shared: the daemons of other networks, Go flannelds
    among them, and administrators write there too. A transaction changes the rules of the caller's networks only, and
    what serves all networks (a chain, the way into it); that goes when nobody's rule is left.

    Attributes:
        name: ``"iptables"``; for messages and to choose it.
        one_transaction: whether all sections of a family are written in one.
    """

    name: str
    one_transaction: bool

    def for_reading(self) -> "FirewallProgram":
        """Return this program with reads that create nothing on the host."""
        ...

    def require(self, family: Family) -> None:
        """Raise ``ProgramMissing`` unless it is installed for *family*."""
        ...

    async def needed(
        self, family: Family, wanted: WantedRules, networks: Sequence[Network], *, take_over: bool
    ) -> str:
        """Compare the rules of *networks* with *wanted*; return the transaction that is needed, ``""`` for none.

        Args:
            family: of the rules.
            wanted: the rules of each section; one section only, unless ``one_transaction``. Random source ports are
                left out where the program cannot do them.
            networks: those that we speak for; what of theirs is not wanted goes.
            take_over: whether their rules of v0.11.0 go in the same transaction.
        """
        ...

    def only_adds(self, text: str) -> bool:
        """Return whether a transaction of ``needed`` finds nothing wrong but that rules are missing."""
        ...

    async def removals(
        self,
        family: Family,
        networks: Sequence[Network],
        sections: Collection[Section],
        taken_over: Collection[Section] = (),
    ) -> list[Removal]:
        """Return how to remove the rules of *sections* about *networks*; none if the program is not installed.

        Args:
            family: of the networks.
            networks: those that we may speak for.
            sections: whose rules are to go.
            taken_over: those of them where the rules of v0.11.0 are to go as well.
        """
        ...

    async def drops_forward(self, family: Family) -> str:
        """Return why forwarded packets are dropped whatever another program accepts; ``""`` if they are not."""
        ...

    async def apply(self, family: Family, text: str) -> None:
        """Make one transaction of ``needed`` or ``removals``: after an error nothing has changed."""
        ...


class Prober(Protocol):
    """Probes to IPv4 addresses, through one socket; nothing here waits."""

    def open(self) -> str:
        """Make ready to send, afresh; return in which form: ``"icmp"`` or ``"udp"``.

        Raises ``ProbeError`` where this host allows neither.
        """
        ...

    def send(self, number: int, address: IPv4Address, size_bytes: int) -> bool:
        """Send a probe of *size_bytes* of IP (at least 60) that may not be fragmented; return whether it left.

        Numbers are below 2**16.
        """
        ...

    def answers(self) -> Sequence["ProbeResult"]:
        """Return what has come for the probes since the last call, with the times at which it came."""
        ...

    def close(self) -> None:
        """Close the socket, if it is open."""
        ...


class Certificates(Protocol):
    """The certificate files with which we speak to etcd, as they are in use."""

    async def reload(self) -> bool:
        """Take the files into use, for new connections, if they hold anything new; return whether they do.

        Raises ``UsageError`` when they cannot be used; what was in use stays in use.
        """
        ...

    def ends_s(self) -> Mapping[str, float]:
        """Return until when each is good, in seconds since 1970, by the name of the flag that named it."""
        ...


class SubnetFile(Protocol):
    """``subnet.env`` on disk, which may be slow: every call ends in time, if need be with ``OSError``."""

    async def read(self) -> str | None:
        """Return the text, ``None`` when there is no file. Raises ``OSError``, ``UnicodeDecodeError``."""
        ...

    async def write(self, text: str) -> bool:
        """Put *text* there atomically and durably; return whether anything had to be written. Raises ``OSError``."""
        ...

    async def exposure(self) -> str:
        """Return why other users may replace the file, with what mends it; empty when none may. Raises ``OSError``."""
        ...


class SavedStateFile(Protocol):
    """The last good state on disk."""

    @property
    def path(self) -> str:
        """Where it is, for messages."""
        ...

    async def read(self) -> "SavedState | None":
        """Return it, ``None`` when there is none. Raises ``OSError``, and ``Invalid`` for what is no such state."""
        ...

    async def write(self, state: "SavedState") -> None:
        """Put *state* there, atomically and durably. Raises ``OSError``, and ``Invalid`` when it is too large."""
        ...

    async def forget(self) -> None:
        """Remove it, and write no more: the lease is another node's. Raises ``OSError``."""
        ...


class Clock(Protocol):
    """Time that goes on while the machine sleeps (CLOCK_BOOTTIME), and the time of day."""

    def now_s(self) -> float:
        """Return seconds since boot, suspended time included."""
        ...

    def suspended_s(self) -> float:
        """Return how long the machine was suspended since boot, as far as the clocks show."""
        ...

    def wall_s(self) -> float:
        """Return the time of day in seconds since 1970; somebody may set it at any moment."""
        ...


class Notifier(Protocol):
    """The service manager, or nobody."""

    def send(self, state: str) -> None:
        """Pass on ``READY=1``, ``STATUS=…``, ``STOPPING=1``, ``WATCHDOG=1``; never raises."""
        ...
