"""What etcd holds: raw records and the changes among them. Nothing here has been validated yet."""

import enum
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.codec import ParsedLease, parse_lease

KEPT_BYTES = 128
"""How long a value may be that is kept although it says nothing. flannel's own are shorter."""
MAX_REVISION = 2**62
"""No etcd comes to it, and a request for what is behind it is still a number that etcd takes."""
NAME_BYTES = 512
"""How long a name may be that is kept."""


@dataclass(frozen=True)
class Record:
    """One key below ``<prefix>/subnets/`` as etcd holds it.

    Attributes:
        name: the key's bytes after ``<prefix>/subnets/``, for example ``b"172.7.21.0-24"``; may be anything.
        value: the raw value.
        create_revision: the revision at which this incarnation of the key was made.
        mod_revision: the revision of its last change.
        lease_id: the etcd lease that the key hangs on; 0 when it has no TTL (a reservation).
        shortened: name or value are not etcd's but a digest, for they are long, and nothing that could be used: what
            others write must not fill our memory. Two that differ have different digests.
    """

    name: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease_id: int
    shortened: bool = False

    @property
    def incarnation(self) -> "Incarnation":
        """What no other key, and no later one of this name, shares."""
        return self.name, self.create_revision

    @cached_property
    def lease(self) -> ParsedLease:
        """What name and value say; parsed once, whoever asks."""
        return parse_lease(self.name, self.value)


def bounded_name(name: bytes) -> bytes:
    """Return a key's name as it is kept; a long one, which is no subnet's, is shortened."""
    return name if len(name) <= NAME_BYTES else name[:NAME_BYTES] + b"..." + _digest(name)


def bounded_record(record: Record) -> Record:
    """Return a record as it is kept: what is long and cannot be read is a digest, and still says why."""
    name, value = bounded_name(record.name), record.value
    if len(value) > KEPT_BYTES and record.lease.attrs is None:
        value = b"%d bytes, digest %b" % (len(value), _digest(value))
    if (name, value) == (record.name, record.value):
        return record
    return _with_lease(replace(record, name=name, value=value, shortened=True), record.lease)


def unread_record(record: Record, max_bytes: int) -> Record:
    """Return the record of a key whose value is longer than *max_bytes* and was not read."""
    why = Invalid("too_large", "lease", f"more than {max_bytes} bytes", "it is not read")
    lease = ParsedLease(record.lease.key, None, why.reason, str(why))
    value = b"not read, of revision %d" % record.mod_revision
    return _with_lease(replace(record, name=bounded_name(record.name), value=value, shortened=True), lease)


def _with_lease(record: Record, lease: ParsedLease) -> Record:
    vars(record)["lease"] = lease  # what ``cached_property`` would do
    return record


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=12).hexdigest().encode()


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

    @property
    def name(self) -> bytes:
        """The key's name, as ``Record`` has it."""
        return self.record.name

    @property
    def revision(self) -> int:
        """When it was."""
        return self.record.mod_revision


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
        cluster_id: of its cluster; ``None`` when it did not tell.
    """

    url: str
    fault: MemberFault | None = None
    detail: str = ""
    version: str = ""
    skew_s: float | None = None
    certificate_until_s: float | None = None
    alarms: tuple[str, ...] | None = None
    cluster_id: int | None = None
