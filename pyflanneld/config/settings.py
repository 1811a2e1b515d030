"""The daemon's flags and settings, each declared once, as a field of ``Settings``. Pure.

The Go parser's table, the variables, ``--help``, the man page, the completion and the table of docs/configuration.md
are all derived from the fields. A new flag is one field here, and the task that uses it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from pyflanneld.config.go_flags import Flag, FlagKind, Value
from pyflanneld.config.types import (
    AccountName,
    BridgeName,
    Directory,
    Endpoints,
    FilePath,
    Interface,
    Ipv4,
    ListenIp,
    MetricsBind,
    NotNegative,
    OrNone,
    Pattern,
    Port,
    Prefix,
    PublicIp,
    PublicIpv6,
    RouteProtocol,
    UserName,
)

ETCD, NODE, FIREWALL, PROCESS = "etcd", "node and routes", "firewall", "process"


class Unit(NamedTuple):
    """The unit that an operator writes a duration in; its setting is in seconds."""

    name: str
    seconds: int


_KINDS = {str: FlagKind.STRING, int: FlagKind.INT, bool: FlagKind.BOOL, tuple: FlagKind.STRINGS}
SECONDS, MINUTES = Unit("seconds", 1), Unit("minutes", 60)


def flag(
    default: Value,
    text: str,
    metavar: str,
    group: str,
    *,
    name: str = "",
    needed: str = "",
    old_names: tuple[str, ...] = (),
) -> Any:
    """Declare a flag as the field of ``Settings`` that it is assigned to; the annotation checks and converts the value.

    Args:
        default: as an operator would write it; its type says how the flag is read (a tuple: repeatable).
        text: what the flag does, in sentences.
        metavar: what its value is called in the help, ``"URL,..."``; empty for true or false.
        group: the heading that it is listed under.
        name: without dashes; by default the field's name.
        needed: what would be right, for values that the annotation refuses in words of its own.
        old_names: former names that are still accepted, with a warning.
    """
    kind = _KINDS[type(default)]
    declared = Flag(name, kind, default, text, metavar, group, needed=needed, old_names=old_names)
    return Field(default=default, json_schema_extra=_extra(declared))


def duration(default: int, unit: Unit, text: str, group: str, *, ge: int, le: int) -> Any:
    """Declare a flag that takes a whole number of *unit*, for a field in seconds whose name ends in ``_s``."""
    needed, factor = f"{unit.name} from {ge} to {le} are needed", unit.seconds
    text, metavar = f"{text} From {ge} to {le}.", unit.name.upper()
    declared = Flag("", FlagKind.INT, default, text, metavar, group, needed=needed, factor=factor)
    return Field(default=default * factor, ge=ge * factor, le=le * factor, json_schema_extra=_extra(declared))


def _extra(declared: Flag) -> dict[str, Any]:
    """Return the declaration in the place that pydantic keeps for others' facts about a field."""
    return {"flag": declared}


class Settings(BaseModel):
    """What the operator wants: a frozen value that is checked however it is made. Durations are in seconds.

    An optional value that is not wanted is ``None`` here and an empty text on the command line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    # etcd
    etcd_endpoints: Endpoints = flag(
        "http://127.0.0.1:4001,http://127.0.0.1:2379",
        "Members of the etcd cluster, separated by commas: http://host[:port] or https://host[:port], all of one "
        "kind; port 2379 when left out, http when the scheme is (https with a client certificate).",
        "URL,...",
        ETCD,
        old_names=("etcd-endpoint",),
    )
    etcd_prefix: Prefix = flag(
        "/coreos.com/network", "Root of all keys: <prefix>/config and <prefix>/subnets/.", "KEY", ETCD
    )
    etcd_api: Literal["auto", "3", "2"] = flag(
        "auto",
        "API of etcd to use: 3, 2 (where flanneld up to v0.17 keeps everything), or auto for the one that holds the "
        "configuration, 3 first.",
        "API",
        ETCD,
    )
    etcd_cafile: OrNone[FilePath] = flag(
        "", "CA certificates (PEM) that etcd's certificate is checked against; without it, the system's.", "FILE", ETCD
    )
    etcd_certfile: OrNone[FilePath] = flag("", "Client certificate (PEM); needs --etcd-keyfile.", "FILE", ETCD)
    etcd_keyfile: OrNone[FilePath] = flag("", "Client key (PEM, not encrypted); needs --etcd-certfile.", "FILE", ETCD)
    etcd_username: OrNone[UserName] = flag("", "User for etcd's own authentication; needs a password.", "NAME", ETCD)
    etcd_password: OrNone[SecretStr] = flag(
        "",
        "Password of that user. Everyone on the host can read a command line: prefer --etcd-password-file.",
        "TEXT",
        ETCD,
    )
    etcd_password_file: OrNone[FilePath] = flag("", "File whose only line is the password.", "FILE", ETCD)
    allow_plaintext_auth: bool = flag(
        False, "Send user and password over http to an endpoint that is not on this host.", "", ETCD
    )
    refuse_exposed_keys: bool = flag(
        False,
        "Refuse a client key or a password file that others than its owner can read; without it, a warning.",
        "",
        ETCD,
    )

    # node and routes
    iface: tuple[Interface, ...] = flag(
        (),
        "Interface towards the other nodes, by name or IPv4 address; the first usable one counts; an empty value is "
        "the default route's. Without this and the next two, the one with --public-ip or the default route's.",
        "NAME|IP",
        NODE,
    )
    iface_regex: tuple[Pattern, ...] = flag(
        (),
        "Regular expression of Go for that interface, tried after all --iface; searched for in the addresses of every "
        "interface first, then in the names. ^ and $ anchor it.",
        "REGEX",
        NODE,
    )
    iface_can_reach: OrNone[Ipv4] = flag(
        "",
        "Take the interface and the address through which the kernel reaches this address; tried after --iface-regex.",
        "IP",
        NODE,
    )
    public_ip: OrNone[PublicIp] = flag(
        "",
        "IPv4 address at which the peers reach this node; must be on the interface, but for vxlan. Without it, the "
        "interface's address.",
        "IP",
        NODE,
    )
    public_ipv6: OrNone[PublicIpv6] = flag(
        "",
        "IPv6 address that the peers use as gateway to this node, in a dual-stack network; must be on the interface. "
        "Without it, the interface's global address.",
        "IP",
        NODE,
    )
    subnet_file: FilePath = flag(
        "/run/flannel/subnet.env",
        "Where the subnet is written for Docker; read at start for the subnet to request.",
        "FILE",
        NODE,
    )
    state_dir: OrNone[Directory] = flag(
        "",
        "Directory where the last good state is kept, from which subnet file, routes and rules are restored when the "
        "host boots while etcd cannot be used. Without it, none is kept.",
        "DIR",
        NODE,
    )
    docker_bridge: BridgeName = flag(
        "docker0",
        "Docker's bridge; a warning is logged when it exists and is not on the leased subnet. --docker-bridge= turns "
        "that off.",
        "NAME",
        NODE,
        needed="the name of a bridge such as docker0 is needed, or nothing",
    )
    subnet_lease_renew_margin_s: float = duration(
        60,
        MINUTES,
        "Minutes before its end by which the lease has to be renewed; it is renewed far earlier.",
        NODE,
        ge=1,
        le=1439,
    )
    route_protocol: RouteProtocol = flag(
        103,
        "Protocol number (5 to 255, not another routing daemon's) that marks the routes this daemon owns.",
        "NUMBER",
        NODE,
    )
    withdraw_guard: bool = flag(
        True, "Before most routes are removed at once, wait for two more complete lists from etcd that agree.", "", NODE
    )
    ip_blackhole_route: bool = flag(
        False,
        "Keep a blackhole route for this host's subnet, so that packets to containers that are gone are dropped here "
        "and not sent out by the default route.",
        "",
        NODE,
    )

    # firewall
    ip_masq: bool = flag(
        False,
        "Masquerade what goes from the network to the outside, and nothing that stays inside; FLANNEL_IPMASQ says so.",
        "",
        FIREWALL,
    )
    ip_masq_fully_random_disable: bool = flag(
        False, "Do not have the source ports of masqueraded connections chosen at random.", "", FIREWALL
    )
    iptables_forward_rules: bool = flag(
        True,
        "Let packets from and to the network be forwarded, whatever the policy of iptables' FORWARD.",
        "",
        FIREWALL,
    )
    iptables_resync_s: float = duration(
        5, SECONDS, "How often the firewall rules are checked and repaired.", FIREWALL, ge=1, le=86400
    )

    # process
    probe: bool = flag(
        False,
        "Probe the peers' addresses and the first address of each of their subnets, and report which do not answer.",
        "",
        PROCESS,
    )
    probe_interval_s: float = duration(
        30,
        SECONDS,
        "How often each peer is probed, with --probe; large networks take longer.",
        PROCESS,
        ge=5,
        le=3600,
    )
    healthz_ip: ListenIp = flag(
        "0.0.0.0",  # noqa: S104 - flannel's default
        "Address of the health listener, or a name of it.",
        "IP|NAME",
        PROCESS,
    )
    healthz_port: Port = flag(
        2401,
        "Port of /healthz and /readyz; 0 or less switches it off.",
        "PORT",
        PROCESS,
        needed="a port from 1 to 65535 is needed, or 0 for none",
    )
    metrics_bind: MetricsBind = flag(
        "127.0.0.1:2402",
        "Where the page for browsers and /metrics are served, without a password; --metrics-bind=off switches both "
        "off.",
        "ADDRESS:PORT",
        PROCESS,
    )
    metrics_textfile: OrNone[FilePath] = flag(
        "",
        "File that the metrics are written to every 15 s, for node_exporter's textfile collector; ends in .prom.",
        "FILE",
        PROCESS,
    )
    user: OrNone[AccountName] = flag(
        "",
        "Started as root, become this user, by name or number, with CAP_NET_ADMIN alone; its directory has to hold the "
        "subnet file.",
        "USER[:GROUP]",
        PROCESS,
        needed="a user by name or number is needed, with :GROUP behind it for another than its own group",
    )
    log_format: Literal["console", "json"] = flag("console", "console or json, on stderr.", "FORMAT", PROCESS)
    verbosity: NotNegative = flag(0, "Verbosity of the log; 1 and more adds debug lines.", "LEVEL", PROCESS, name="v")

    # what loading them has found
    warnings: tuple[str, ...] = ()
    """What works but should be fixed, one sentence each; logged at start."""

    def asked_for(self, field: str) -> bool:
        """Return whether the operator has given *field*, on the command line or in the environment."""
        return field in self.model_fields_set


def _declared() -> Iterator[Flag]:
    for field, info in Settings.model_fields.items():
        if isinstance(info.json_schema_extra, dict):
            declared: Any = info.json_schema_extra["flag"]
            name = declared.name or field.removesuffix("_s").replace("_", "-")
            choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
            yield replace(declared, name=name, field=field, choices=choices)


FLAGS: tuple[Flag, ...] = (
    *_declared(),
    Flag("version", FlagKind.BOOL, False, "Print the version and exit.", "", PROCESS, from_env=False),
    Flag("help", FlagKind.BOOL, False, "Print this text and exit.", "", PROCESS, from_env=False),
)
"""All flags of the daemon, in the order of ``--help``."""
