"""What the checks are told: collected beforehand, all of it values."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.families import Network
from pyflanneld.core.host import ListeningSocket, PolicyRule, Process
from pyflanneld.core.lease.codec import SubnetKey
from pyflanneld.core.link.selection import Choice, Link
from pyflanneld.core.network.config import NetworkConfig
from pyflanneld.core.peers.table import View
from pyflanneld.core.routes.plan import KernelRoute, Plan


class MemberFault(enum.Enum):
    """What keeps an etcd member from serving us."""

    NO_NAME = "its name cannot be resolved"
    REFUSED = "connection refused"
    TIMEOUT = "no answer in time"
    UNREACHABLE = "there is no way to it"
    EXPIRED = "its certificate has expired"
    NOT_YET = "its certificate is not valid yet"
    NAME = "its certificate is for another name"
    AUTHORITY = "its certificate is of an authority that we do not know"
    CLIENT = "it refuses our client certificate, or our having none"
    TLS = "TLS has failed"
    NO_ETCD = "what answers there is no etcd as we ask for"
    LOGIN = "user or password are refused"
    CONFIG_DENIED = "we may not read the network configuration"
    SUBNETS_DENIED = "we may not read the leases"
    BROKEN = "it answers, and cannot serve"


@dataclass(frozen=True, slots=True)
class MemberReport:
    """One etcd member.

    Attributes:
        url: as the operator wrote it.
        fault: what is wrong with it, the first thing that is.
        detail: in the words of whoever noticed.
        version: such as ``"3.4.23"``.
        skew_s: how far its clock is ahead of ours.
        certificate_until_s: when the certificate that it shows ends, on the scale of ``Facts.now_s``.
        alarms: of its cluster; ``None`` when it did not tell.
    """

    url: str
    fault: MemberFault | None = None
    detail: str = ""
    version: str = ""
    skew_s: float | None = None
    certificate_until_s: float | None = None
    alarms: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A file of certificates: each one's first and last second; *role* is its flag."""

    role: str
    path: str
    spans: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the operator asks of the daemon, by the flags' names; *credentials* are etcdctl's words for the same."""

    endpoints: tuple[str, ...]
    prefix: str
    subnet_file: str
    route_protocol: int
    docker_bridge: str
    ip_masq: bool
    forward_rules: bool
    healthz_port: int
    public_ip: IPv4Address | None = None
    credentials: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Networkd:
    """systemd-networkd: whether it runs, and what it is told about routes of others, where."""

    runs: bool = False
    keeps_foreign_routes: bool = False
    where: str = ""


@dataclass(frozen=True, slots=True)
class Docker:
    """Docker: its version, empty when nobody tells, and whether it lets packets of other hosts in."""

    version: str = ""
    lets_in: bool = False


@dataclass(frozen=True, slots=True)
class FirewallFacts:
    """The firewall.

    Attributes:
        iptables: what ``iptables-save`` prints; ``None`` when it could not be asked, *trouble* says why.
        missing: programs that are not there, of those that count.
        dropping: chains of nft whose policy drops what is forwarded, iptables' own left out.
    """

    iptables: str | None = None
    trouble: str = ""
    missing: tuple[str, ...] = ()
    dropping: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """The health port: who listens, and what ``/readyz?verbose`` says; ``None`` when nobody answers."""

    listener: ListeningSocket | None = None
    ready: bool | None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What this node is in the network, as far as it could be found out; see ``commands.preview``.

    Attributes:
        own: its lease; ``None`` when it has none.
        own_left_s: how long that lives without renewal, ``None`` for a reservation.
        also: other leases with the same public address.
        desired: the destinations that want a route.
    """

    networks: tuple[Network, ...]
    view: View
    todo: Plan
    desired: frozenset[Network]
    own: SubnetKey | None = None
    own_left_s: float | None = None
    also: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it; what could not be found out is ``None`` or empty, and the ``…_trouble`` beside it says why."""

    now_s: float
    asked: Asked
    api: int = 3
    members: tuple[MemberReport, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    config: NetworkConfig | None = None
    config_on_v2_too: bool = False
    config_trouble: str = ""
    standing: Standing | None = None
    links: Sequence[Link] = ()
    choice: Choice | None = None
    choice_trouble: str = ""
    routes: tuple[KernelRoute, ...] = ()
    policy_rules: tuple[PolicyRule, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    daemon: Process | None = None
    daemon_runs: bool = False
    networkd: Networkd = Networkd()
    docker: Docker = Docker()
    subnet_text: str | None = None
    subnet_trouble: str = ""
    files: tuple[str, ...] = ()
    rules: FirewallFacts = FirewallFacts()
    health: HealthFacts = HealthFacts()
