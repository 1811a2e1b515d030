"""One frozen report of a daemon, for ``pyflanneld status``, the page and scripts. JSON-able values only.

Times are seconds before or after the moment of the report, so that no reader needs our clock. ``None`` stands for what
is not known (yet). Fields are only ever added: scripts read this.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pyflanneld.core.families import Network
from pyflanneld.core.invalid import shown
from pyflanneld.core.lease.ownership import OwnLease
from pyflanneld.core.peers.table import View
from pyflanneld.core.routes.plan import KernelRoute, Route, same
from pyflanneld.core.status.hints import hint

_NAMED = 3


@dataclass(frozen=True, slots=True)
class StatusFinding:
    """Something that is wrong.

    Attributes:
        topic: what is in trouble, for example ``"link"``.
        event: the name under which the log tells of it.
        text: one sentence.
        for_s: for how long; ``None``: since the start.
        blocks: whether the node is not ready because of it.
        hint: what to do about it; may be empty.
    """

    topic: str
    event: str
    text: str
    for_s: float | None
    blocks: bool
    hint: str


@dataclass(frozen=True, slots=True)
class LeasePart:
    """The own lease; a reservation has no time left to tell of."""

    subnet: str
    ipv6_subnet: str | None
    public_ip: str
    public_ipv6: str | None
    reserved: bool
    left_s: float | None
    confirmed: bool
    confirmed_s_ago: float
    renew_interval_s: float


@dataclass(frozen=True, slots=True)
class NetworkPart:
    """The cluster's network and its backend; subnets of *subnet_len* are leased from *subnet_min* to *subnet_max*."""

    network: str
    ipv6_network: str | None
    backend: str
    subnet_len: int
    subnet_min: str
    subnet_max: str


@dataclass(frozen=True, slots=True)
class LinkPart:
    """The interface that carries the routes, and what made it the one."""

    name: str
    index: int
    address: str
    mtu: int
    up: bool
    why: str


@dataclass(frozen=True, slots=True)
class EtcdPart:
    """The registry.

    Attributes:
        heard_s_ago: since when it has not answered anything.
        lag_s: how old what we know of the peers may be.
        revision: the newest that was seen; 0 before the first list.
        event_s_ago: when a peer last changed.
        certificates_left_s: for how long each file of certificates in use is still good, by its flag.
    """

    api: int
    endpoint: str
    prefix: str
    heard_s_ago: float | None
    lag_s: float | None
    revision: int
    event_s_ago: float | None
    certificates_left_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeersPart:
    """The peers' keys: how many are believed, of how many each route is there, and which are set aside why."""

    believed: int
    routed: int
    quarantined: Mapping[str, int]
    other_backend: int
    frozen: int


@dataclass(frozen=True, slots=True)
class RoutesPart:
    """Our routes, as the daemon knows them; repairs by cause since the start."""

    wanted: int
    present: int
    missing: int
    conflict: int
    refused: int
    held: int
    protocol: int
    repaired: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RulesPart:
    """One kind of firewall rules that is asked for."""

    rules: str
    program: str
    placed: bool
    needed: bool


@dataclass(frozen=True, slots=True)
class FilePart:
    """The subnet file."""

    path: str
    written: bool


@dataclass(frozen=True, slots=True)
class GuardPart:
    """The withdraw guard."""

    enabled: bool
    held: int


@dataclass(frozen=True, slots=True)
class Report:
    """All of it; the parts are ``None`` until the daemon has come that far.

    Attributes:
        unconfirmed_s: how old is what the node goes by while etcd cannot be used; ``None``: etcd has told it all.
    """

    version: str
    pid: int
    uptime_s: float
    log_level: str
    live: bool
    ready: bool
    not_ready: tuple[str, ...]
    findings: tuple[StatusFinding, ...]
    etcd: EtcdPart
    link: LinkPart | None
    network: NetworkPart | None
    lease: LeasePart | None
    peers: PeersPart | None
    routes: RoutesPart | None
    firewall: tuple[RulesPart, ...] | None
    file: FilePart
    guard: GuardPart | None
    unconfirmed_s: float | None = None


def lease_part(lease: OwnLease, now_s: float, renew_interval_s: float) -> LeasePart:
    """Tell of the own lease at *now_s*."""
    return LeasePart(
        subnet=str(lease.subnet),
        ipv6_subnet=str(lease.ipv6) if lease.ipv6 else None,
        public_ip=str(lease.public_ip),
        public_ipv6=str(lease.public_ipv6) if lease.public_ipv6 else None,
        reserved=lease.reserved,
        left_s=None if lease.reserved else round(max(0.0, lease.confirmed_at_s + lease.ttl_s - now_s), 3),
        confirmed=now_s <= lease.confirmed_until_s,
        confirmed_s_ago=round(now_s - lease.confirmed_at_s, 3),
        renew_interval_s=renew_interval_s,
    )


def peers_part(view: View, routed: int) -> PeersPart:
    """Count the peers by state; *routed* have their route."""
    reasons: dict[str, int] = {}
    for doubt in view.quarantined.values():
        reasons[doubt.reason] = reasons.get(doubt.reason, 0) + 1
    return PeersPart(
        believed=len(view.peers),
        routed=routed,
        quarantined=reasons,
        other_backend=len(view.foreign_backends),
        frozen=len(view.frozen),
    )


def missing(wanted: Mapping[Network, Route], present: Mapping[Network, KernelRoute]) -> list[Network]:
    """Return the destinations of *wanted* whose route is not *present* as it should be."""
    return [dst for dst, route in wanted.items() if (there := present.get(dst)) is None or not same(route, there)]


def quarantine_findings(view: View, doubted_s: Mapping[bytes, float]) -> list[StatusFinding]:
    """Return one finding for each reason for which keys are not believed.

    Args:
        view: the peers.
        doubted_s: for how long each key has been quarantined.
    """
    by_reason: dict[str, list[bytes]] = {}
    for name, doubt in sorted(view.quarantined.items()):
        by_reason.setdefault(doubt.reason, []).append(name)
    return [
        StatusFinding(
            topic="peers", event="peer.quarantined", text=_doubt_text(view, names), blocks=False,
            for_s=max((doubted_s.get(name, 0.0) for name in names), default=0.0),
            hint=hint("peer.quarantined", reason),
        )
        for reason, names in sorted(by_reason.items())
    ]  # fmt: skip


def _doubt_text(view: View, names: Collection[bytes]) -> str:
    keys = [shown(name)[2:-1] for name in names]
    first = view.quarantined[next(iter(names))]
    if len(keys) == 1:
        return f"the key {keys[0]} is not believed ({first.reason}): {first.detail}"
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{len(keys)} keys are not believed ({first.reason}): {', '.join(keys[:_NAMED])}{more}"


def in_gravity(findings: Iterable[StatusFinding]) -> tuple[StatusFinding, ...]:
    """Return *findings*, what stands against readiness first and the oldest before the younger.

    What several parts of the daemon meet (topics ``"etcd:peers"``, ``"etcd:lease"``) is one finding, the oldest.
    """
    merged: dict[tuple[str, str, str], StatusFinding] = {}
    for one in findings:
        topic, part, _ = one.topic.partition(":")
        kind = (topic, one.event, "" if part else one.text)
        known = merged.get(kind)
        if known is None:
            merged[kind] = one
        else:
            older = one if (one.for_s or 0.0) > (known.for_s or 0.0) else known
            merged[kind] = replace(older, blocks=one.blocks or known.blocks)
    return tuple(sorted(merged.values(), key=lambda one: (not one.blocks, -(one.for_s or 0.0))))
