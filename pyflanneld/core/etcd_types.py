"""What etcd holds: raw records and the changes among them. Nothing here has been validated yet."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A complete list of the subnets at one revision."""

    records: tuple[Record, ...]
    revision: int
    cluster_id: int


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
