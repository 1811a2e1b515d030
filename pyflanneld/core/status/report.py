"""The health of a daemon, and one frozen report of it for ``pyflanneld status``, the page and scripts.

A report holds JSON values only. Times are seconds before or after the moment of the report, so that no reader needs our
clock. ``None`` stands for what is not known (yet). Fields are only ever added: scripts read this.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pyflanneld.core.families import Network
from pyflanneld.core.invalid import shown
from pyflanneld.core.lease.ownership import OwnLease
from pyflanneld.core.peers.table import View
from pyflanneld.core.routes import KernelRoute, Route, is_as_wanted
from pyflanneld.core.status.hints import hint

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Health:
    """The answer to liveness and readiness probes.

    Attributes:
        live: every core task still runs. Never depends on etcd: a restart does not fix etcd.
        not_ready: why the node is not ready for traffic, one short sentence each; empty when ready.
        not_live: why it is not alive; these are among *not_ready* too.
    """

    live: bool
    not_ready: tuple[str, ...]
    not_live: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether the node is ready for traffic."""
        return self.live and not self.not_ready


@dataclass(frozen=True, slots=True)
class UnreadyReason:
    """Something besides the open conditions for which the node is not ready.

    Attributes:
        event: a name like those of the log's events, the key of its hint.
        text: one short sentence.
        since_s: when it began, on the clock's scale; ``None``: at the start, or not known.
    """

    event: str
    text: str
    since_s: float | None = None


@dataclass(frozen=True, slots=True)
class StatusFinding:
    """One thing that is wrong.

    Attributes:
        topic: what is affected, for example ``"link"``.
        event: the name of its log event.
        text: one sentence.
        for_s: for how long; ``None``: since the start.
        blocks: whether the node is not ready because of it.
        hint: how to fix it; may be empty.
    """

    topic: str
    event: str
    text: str
    for_s: float | None
    blocks: bool
    hint: str


@dataclass(frozen=True, slots=True)
class LeasePart:
    """This host's lease; *left_s* is ``None`` for a reservation; *absent*: its key is gone from etcd."""

    subnet: str
    ipv6_subnet: str | None
    public_ip: str
    public_ipv6: str | None
    reserved: bool
    left_s: float | None
    confirmed: bool
    confirmed_s_ago: float
    renew_interval_s: float
    absent: bool = False


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
    """The interface that carries the routes, and why it was chosen."""

    name: str
    index: int
    address: str
    mtu: int
    up: bool
    why: str


@dataclass(frozen=True, slots=True)
class DevicePart:
    """A device of the backend, such as ``flannel.1``; *state* is ``"up"``, ``"down"`` or ``"missing"``."""

    name: str
    state: str
    vni: int
    port: int
    mac: str
    mtu: int
    address: str


@dataclass(frozen=True, slots=True)
class EntriesPart:
    """What the peers need beside routes, of one *kind*, ``"neighbour"``; what the kernel has *refused* is *missing*."""

    kind: str
    wanted: int
    missing: int
    refused: int


@dataclass(frozen=True, slots=True)
class EtcdPart:
    """The registry.

    Attributes:
        heard_s_ago: when it last answered.
        lag_s: how old what we know of the peers may be.
        revision: the newest known; 0 before the first list.
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
    """The peers: how many are valid, how many have their route, and how many keys are quarantined, by reason."""

    accepted: int
    routed: int
    quarantined: Mapping[str, int]
    other_backend: int
    frozen: int


@dataclass(frozen=True, slots=True)
class RoutesPart:
    """Our routes, as the daemon knows them; repairs since the start by reason."""

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
    """The whole report; parts are ``None`` until the daemon has come that far.

    Attributes:
        unconfirmed_s: the age of the saved state that the node uses while etcd cannot be used; ``None``: it uses none.
        devices: those of the backend; none for one that needs none.
        entries: what leads through them.
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
    devices: tuple[DevicePart, ...] = ()
    entries: tuple[EntriesPart, ...] = ()


def lease_part(lease: OwnLease, now_s: float, renew_interval_s: float) -> LeasePart:
    """Return the state of this host's lease at *now_s*."""
    end_s = now_s if lease.absent else lease.confirmed_at_s + lease.ttl_s
    return LeasePart(
        subnet=str(lease.subnet),
        ipv6_subnet=str(lease.ipv6) if lease.ipv6 else None,
        public_ip=str(lease.public_ip),
        public_ipv6=str(lease.public_ipv6) if lease.public_ipv6 else None,
        reserved=lease.reserved,
        left_s=None if lease.reserved else round(max(0.0, end_s - now_s), 3),
        confirmed=now_s <= lease.confirmed_until_s,
        confirmed_s_ago=round(now_s - lease.confirmed_at_s, 3),
        renew_interval_s=renew_interval_s,
        absent=lease.absent,
    )


def peers_part(view: View, routed: int) -> PeersPart:
    """Return the peers by state; *routed* have their route."""
    reasons: dict[str, int] = {}
    for quarantine in view.quarantined.values():
        reasons[quarantine.reason] = reasons.get(quarantine.reason, 0) + 1
    return PeersPart(
        accepted=len(view.peers),
        routed=routed,
        quarantined=reasons,
        other_backend=len(view.foreign_backends),
        frozen=len(view.frozen),
    )


def missing_routes(wanted: Mapping[Network, Route], present: Mapping[Network, KernelRoute]) -> list[Network]:
    """Return the destinations of *wanted* whose route is not *present* as it should be."""
    return [dst for dst, route in wanted.items() if not (dst in present and is_as_wanted(route, present[dst]))]


def quarantine_findings(view: View, quarantined_s: Mapping[bytes, float]) -> list[StatusFinding]:
    """Return one finding for each reason for which keys are rejected.

    Args:
        view: the peers.
        quarantined_s: for how long each key has been quarantined.
    """
    by_reason: dict[str, list[bytes]] = {}
    for name, quarantine in sorted(view.quarantined.items()):
        by_reason.setdefault(quarantine.reason, []).append(name)
    return [
        StatusFinding(
            topic="peers", event="peer.quarantined", text=_quarantine_text(view, names), blocks=False,
            for_s=max((quarantined_s.get(name, 0.0) for name in names), default=0.0),
            hint=hint("peer.quarantined", reason),
        )
        for reason, names in sorted(by_reason.items())
    ]  # fmt: skip


def _quarantine_text(view: View, names: Collection[bytes]) -> str:
    keys = [shown(name)[2:-1] for name in names]
    first = view.quarantined[next(iter(names))]
    if len(keys) == 1:
        return f"the key {keys[0]} is rejected ({first.reason}): {first.detail}"
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return f"{len(keys)} keys are rejected ({first.reason}): {', '.join(keys[:_NAMED])}{more}"


def by_severity(findings: Iterable[StatusFinding]) -> tuple[StatusFinding, ...]:
    """Return *findings*, those that block readiness first, and older ones before younger ones.

    What several tasks report (topics ``"etcd:peers"``, ``"etcd:lease"``) is one finding, the oldest.
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
