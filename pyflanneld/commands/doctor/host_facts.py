"""What the checks work on: plain values, collected beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from pyflanneld.backends import BACKENDS, Backend
from pyflanneld.core.etcd_types import MemberReport, Record, TimeToLive
from pyflanneld.core.families import Network
from pyflanneld.core.host import ListeningSocket, PolicyRule, Process, ServedNetwork
from pyflanneld.core.lease.codec import SubnetKey
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.peers.table import View
from pyflanneld.core.routes import KernelRoute, RoutePlan
from pyflanneld.core.vxlan.device import Device


@dataclass(frozen=True, slots=True)
class Certificate:
    """A file of certificates: each one's first and last second; *role* is its flag."""

    role: str
    path: str
    spans: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class DaemonFlags:
    """The daemon's settings, by the flags' names; *credentials* are the same as etcdctl's flags, by API.

    ``…_asked``: whether the operator has given that flag.
    """

    endpoints: tuple[str, ...]
    prefix: str
    subnet_file: str
    route_protocol: int
    docker_bridge: str
    ip_masq: bool
    forward_rules: bool
    healthz_port: int
    healthz_asked: bool = True
    metrics_bind: str = ""
    docker_bridge_asked: bool = True
    public_ip: IPv4Address | None = None
    credentials: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Networkd:
    """systemd-networkd.

    Attributes:
        keeps_foreign_routes: whether it keeps routes that it did not add; *where* is the file that says so.
        managed: the indexes of the links that it configures.
    """

    runs: bool = False
    keeps_foreign_routes: bool = False
    where: str = ""
    managed: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Docker:
    """Docker: its version, empty when unknown, and whether ``allow-direct-routing`` is set."""

    version: str = ""
    direct_routing: bool = False


@dataclass(frozen=True, slots=True)
class FirewallFacts:
    """The firewall.

    Attributes:
        iptables: what ``iptables-save`` prints; ``None`` when that failed, *error* says why.
        missing: needed programs that are not installed.
        dropping: chains of nft, other than iptables' own, whose policy drops forwarded packets.
        ip6tables: as *iptables*, for a network whose tunnels use IPv6 too.
        nft: what ``nft -j list ruleset`` prints, for a network with tunnels.
    """

    iptables: str | None = None
    error: str = ""
    missing: tuple[str, ...] = ()
    dropping: tuple[str, ...] = ()
    ip6tables: str | None = None
    nft: str = ""


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """The health port: who listens, and the answer of ``/readyz?verbose``; *ready* is ``None`` without an answer."""

    listener: ListeningSocket | None = None
    ready: bool | None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """This node and its peers in the network, as ``commands/dry_run.py`` derives them.

    Attributes:
        own: its lease; ``None`` when it has none.
        own_record: the key of that.
        own_left: how long that lives without renewal, and what was granted; ``None`` for a reservation.
        same_etcd_lease: other keys that hang on the etcd lease of that.
        same_address: other leases with its public address.
        desired: the destinations that want a route.
        devices: those that this host needs, with its lease.
        entries: how many neighbours and forwarding entries are wanted and how many of them are there, by kind.
    """

    networks: tuple[Network, ...]
    view: View
    todo: RoutePlan
    desired: frozenset[Network]
    own: SubnetKey | None = None
    own_record: Record | None = None
    own_left: TimeToLive | None = None
    same_etcd_lease: tuple[Record, ...] = ()
    same_address: tuple[Record, ...] = ()
    devices: tuple[Device, ...] = ()
    entries: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts; what is unknown is ``None`` or empty, and the ``…_error`` next to it says why.

    Attributes:
        metrics: who listens where the metrics are served.
        served: the networks that other daemons of this host serve.
        udp_holder: the program that has the UDP port of the network's devices.
    """

    now_s: float
    flags: DaemonFlags
    api: int = 3
    members: tuple[MemberReport, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    config: NetworkConfig | None = None
    config_on_v2_too: bool = False
    config_error: str = ""
    node: NodeFacts | None = None
    links: Sequence[Link] = ()
    choice: Choice | None = None
    choice_error: str = ""
    routes: tuple[KernelRoute, ...] = ()
    policy_rules: tuple[PolicyRule, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    daemon: Process | None = None
    daemon_runs: bool = False
    networkd: Networkd = Networkd()
    docker: Docker = Docker()
    subnet_text: str | None = None
    subnet_error: str = ""
    files: tuple[str, ...] = ()
    rules: FirewallFacts = FirewallFacts()
    health: HealthFacts = HealthFacts()
    metrics: ListeningSocket | None = None
    served: tuple[ServedNetwork, ...] = ()
    udp_holder: Process | None = None

    @property
    def backend(self) -> Backend | None:
        """The backend that the network asks for, where that is known."""
        return BACKENDS[self.config.backend_type].configured(self.config) if self.config is not None else None

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that this host needs, as far as that is known."""
        return self.node.devices if self.node is not None else ()

    @property
    def backend_before(self) -> str:
        """The backend of this host's lease, if the network asks for another one since; else empty."""
        record = self.node.own_record if self.node is not None else None
        attrs = record.lease.attrs if record is not None else None
        if attrs is None or self.backend is None or attrs.backend_type == self.backend.lease_type:
            return ""
        return attrs.backend_type or "alloc"

    @property
    def mtu(self) -> int | None:
        """The largest packet of a container that gets to the other hosts whole, in bytes."""
        if self.choice is None or self.backend is None:
            return None
        return self.backend.mtu(self.choice.link.mtu)
