"""What etcd holds: raw records and the changes among them. Nothing here has been validated yet."""

import enum
from dataclasses import dataclass
from functools import cached_property

from pyflanneld.core.lease.codec import ParsedLease, parse_lease


@dataclass(frozen=True)
class Record:
    """One key below ``<prefix>/subnets/`` as etcd holds it.

    Attributes:
        name: the key's bytes after ``<prefix>/subnets/``, for example ``b"172.7.21.0-24"``; may be anything.
        value: the raw value.
        create_revision: the revision at which this incarnation of the key was made.
        mod_revision: the revision of its last change.
        lease_id: the etcd lease that the key hangs on; 0 when it has no TTL (a reservation).
    """

    name: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease_id: int

    @property
    def incarnation(self) -> "Incarnation":
        """What no other key, and no later one of this name, shares."""
        return self.name, self.create_revision

    @cached_property
    def lease(self) -> ParsedLease:
        """What name and value say; parsed once, whoever asks."""
        return parse_lease(self.name, self.value)


Incarnation = tuple[bytes, int]
"""A key's name and create revision."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the history of one etcd cluster, from which a watch can go on."""

    revision: int
    cluster_id: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete list of the subnets at one revision."""

    records: tuple[Record, ...]
    revision: int
    cluster_id: int

    @property
    def position(self) -> Position:
        """Where a watch goes on from."""
        return Position(self.revision, self.cluster_id)


@dataclass(frozen=True, slots=True)
class Put:
    """A key was created or changed."""

    record: Record


@dataclass(frozen=True, slots=True)
class Gone:
    """A key was deleted or expired, at *revision*."""

    name: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class TimeToLive:
    """How long a key lives without renewal, and what was granted at its last renewal, in seconds."""

    left_s: float
    granted_s: float


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """How long a lease still has, in seconds, and the etcd member that said so as leader."""

    left_s: float
    leader: int


PeerEvent = Snapshot | Put | Gone


@dataclass(frozen=True, slots=True)
class ConfigRecord:
    """The raw network configuration and the revision at which it was read."""

    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """The result of one renewal.

    Attributes:
        record: this host's key as it is now (a linearizable read), ``None`` when it is absent.
        ttl_s: the time to live that the server granted, in seconds; ``None`` for a key without TTL,
            0 when the lease we tried to renew no longer exists.
    """

    record: Record | None
    ttl_s: float | None


class MemberFault(enum.Enum):
    """Why an etcd member does not serve us."""

    NO_NAME = "its name cannot be resolved"
    REFUSED = "connection refused"
    TIMEOUT = "no answer in time"
    UNREACHABLE = "there is no route to it"
    EXPIRED = "its certificate has expired"
    NOT_YET = "its certificate is not valid yet"
    NAME = "its certificate is for another name"
    AUTHORITY = "its certificate is signed by an unknown authority"
    CLIENT = "it refuses our client certificate, or the lack of one"
    TLS = "TLS failed"
    NO_ETCD = "it does not answer as etcd does"
    LOGIN = "user or password is refused"
    CONFIG_DENIED = "we may not read the network configuration"
    SUBNETS_DENIED = "we may not read the leases"
    BROKEN = "it answers, but cannot serve"


@dataclass(frozen=True, slots=True)
class MemberReport:
    """What a probe of one etcd member found.

    Attributes:
        url: as the operator wrote it.
        fault: the first thing that is wrong with it; ``None`` when it serves.
        detail: the error's own words.
        version: such as ``"3.4.23"``.
        skew_s: how far its clock is ahead of ours.
        certificate_until_s: when its server certificate ends, in seconds since 1970.
        alarms: of its cluster; ``None`` when it did not report them.
    """

    url: str
    fault: MemberFault | None = None
    detail: str = ""
    version: str = ""
    skew_s: float | None = None
    certificate_until_s: float | None = None
    alarms: tuple[str, ...] | None = None
