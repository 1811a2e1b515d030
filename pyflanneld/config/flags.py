"""The daemon's flags, declared once: parsing, ``--help`` and the documentation's table are all made from here. Pure."""

from pyflanneld.config.go_flags import Flag, FlagKind

ETCD, NETWORK, FIREWALL, PROCESS = "etcd", "node and routes", "firewall", "process"

FLAGS: tuple[Flag, ...] = (
    Flag(
        "etcd-endpoints",
        FlagKind.STRING,
        "http://127.0.0.1:4001,http://127.0.0.1:2379",
        "Members of the etcd cluster, separated by commas: http://host[:port] or https://host[:port], all of one "
        "kind; port 2379 when left out.",
        "URL,...",
        ETCD,
    ),
    Flag(
        "etcd-prefix",
        FlagKind.STRING,
        "/coreos.com/network",
        "Root of all keys: <prefix>/config and <prefix>/subnets/.",
        "KEY",
        ETCD,
    ),
    Flag(
        "etcd-api",
        FlagKind.STRING,
        "auto",
        "API of etcd to use: 3, 2 (where flanneld up to v0.17 keeps everything), or auto for the one that holds the "
        "configuration, 3 first.",
        "API",
        ETCD,
        choices=("auto", "3", "2"),
    ),
    Flag(
        "etcd-cafile",
        FlagKind.STRING,
        "",
        "CA certificates (PEM) that etcd's certificate is checked against; without it, the system's.",
        "FILE",
        ETCD,
    ),
    Flag("etcd-certfile", FlagKind.STRING, "", "Client certificate (PEM); needs --etcd-keyfile.", "FILE", ETCD),
    Flag("etcd-keyfile", FlagKind.STRING, "", "Client key (PEM, not encrypted); needs --etcd-certfile.", "FILE", ETCD),
    Flag("etcd-username", FlagKind.STRING, "", "User for etcd's own authentication; needs a password.", "NAME", ETCD),
    Flag(
        "etcd-password",
        FlagKind.STRING,
        "",
        "Password of that user. Everyone on the host can read a command line: prefer --etcd-password-file.",
        "TEXT",
        ETCD,
        secret=True,
    ),
    Flag("etcd-password-file", FlagKind.STRING, "", "File whose only line is the password.", "FILE", ETCD),
    Flag(
        "allow-plaintext-auth",
        FlagKind.BOOL,
        False,
        "Send user and password over http to an endpoint that is not on this host.",
        "",
        ETCD,
    ),
    Flag(
        "refuse-exposed-keys",
        FlagKind.BOOL,
        False,
        "Refuse a client key or a password file that others than its owner can read; without it, a warning.",
        "",
        ETCD,
    ),
    Flag(
        "iface",
        FlagKind.STRINGS,
        (),
        "Interface towards the other nodes, by name or IPv4 address; the first usable one counts. Without this and "
        "the next two, the one with --public-ip or that of the default route.",
        "NAME|IP",
        NETWORK,
    ),
    Flag(
        "iface-regex",
        FlagKind.STRINGS,
        (),
        "Regular expression for that interface, tried after all --iface; searched for in the addresses of every "
        "interface first, then in the names. ^ and $ anchor it.",
        "REGEX",
        NETWORK,
    ),
    Flag(
        "iface-can-reach",
        FlagKind.STRING,
        "",
        "Take the interface and the address through which the kernel reaches this address; tried after --iface-regex.",
        "IP",
        NETWORK,
    ),
    Flag(
        "public-ip",
        FlagKind.STRING,
        "",
        "IPv4 address that the peers use as gateway to this node; must be on the interface. Without it, the "
        "interface's address.",
        "IP",
        NETWORK,
    ),
    Flag(
        "public-ipv6",
        FlagKind.STRING,
        "",
        "IPv6 address that the peers use as gateway to this node, in a dual-stack network; must be on the interface. "
        "Without it, the interface's global address.",
        "IP",
        NETWORK,
    ),
    Flag(
        "subnet-file",
        FlagKind.STRING,
        "/run/flannel/subnet.env",
        "Where the subnet is written for Docker; read at start, as a wish for the same subnet.",
        "FILE",
        NETWORK,
    ),
    Flag(
        "state-dir",
        FlagKind.STRING,
        "",
        "Directory where the last good state is kept, from which subnet file, routes and rules are restored when the "
        "host boots while etcd cannot be used. Without it, none is kept.",
        "DIR",
        NETWORK,
    ),
    Flag(
        "docker-bridge",
        FlagKind.STRING,
        "docker0",
        "Docker's bridge; a warning tells when it is there and not on the leased subnet. --docker-bridge= switches "
        "that off.",
        "NAME",
        NETWORK,
    ),
    Flag(
        "subnet-lease-renew-margin",
        FlagKind.INT,
        60,
        "Minutes before its end (1 to 1439) by which the lease has to be renewed; it is renewed far earlier.",
        "MINUTES",
        NETWORK,
    ),
    Flag(
        "route-protocol",
        FlagKind.INT,
        103,
        "Protocol number (5 to 255, not another routing daemon's) that marks the routes this daemon owns.",
        "NUMBER",
        NETWORK,
    ),
    Flag(
        "withdraw-guard",
        FlagKind.BOOL,
        True,
        "Before most routes are removed at once, wait for two more complete lists from etcd that agree.",
        "",
        NETWORK,
    ),
    Flag(
        "ip-masq",
        FlagKind.BOOL,
        False,
        "Masquerade what goes from the network to the outside, and nothing that stays inside; FLANNEL_IPMASQ says so.",
        "",
        FIREWALL,
    ),
    Flag(
        "ip-masq-fully-random-disable",
        FlagKind.BOOL,
        False,
        "Do not have the source ports of masqueraded connections chosen at random.",
        "",
        FIREWALL,
    ),
    Flag(
        "iptables-forward-rules",
        FlagKind.BOOL,
        True,
        "Let packets from and to the network be forwarded, whatever the policy of iptables' FORWARD.",
        "",
        FIREWALL,
    ),
    Flag(
        "iptables-resync",
        FlagKind.INT,
        5,
        "How often the firewall rules are looked at, and put right (1 to 86400).",
        "SECONDS",
        FIREWALL,
    ),
    Flag(
        "ip-blackhole-route",
        FlagKind.BOOL,
        False,
        "Keep a blackhole route behind the own subnet, so that packets to containers that are gone are dropped here "
        "and not sent out by the default route.",
        "",
        NETWORK,
    ),
    Flag(
        "probe",
        FlagKind.BOOL,
        False,
        "Probe the peers' addresses and the first address of each of their subnets, and tell who does not answer.",
        "",
        PROCESS,
    ),
    Flag(
        "probe-interval",
        FlagKind.INT,
        30,
        "How often each peer is probed (5 to 3600), with --probe; large networks take longer.",
        "SECONDS",
        PROCESS,
    ),
    Flag("healthz-ip", FlagKind.STRING, "0.0.0.0", "Address of the health listener.", "IP", PROCESS),  # noqa: S104 - flannel's
    Flag(
        "healthz-port", FlagKind.INT, 2401, "Port of /healthz and /readyz; 0 or less switches it off.", "PORT", PROCESS
    ),
    Flag(
        "metrics-bind",
        FlagKind.STRING,
        "127.0.0.1:2402",
        "Where the page for browsers and /metrics are served, without a password; --metrics-bind=off switches both "
        "off.",
        "ADDRESS:PORT",
        PROCESS,
    ),
    Flag(
        "metrics-textfile",
        FlagKind.STRING,
        "",
        "File that the metrics are written to every 15 s, for node_exporter's textfile collector; ends in .prom.",
        "FILE",
        PROCESS,
    ),
    Flag(
        "user",
        FlagKind.STRING,
        "",
        "Started as root, become this user, by name or number, with CAP_NET_ADMIN alone; its directory has to hold the "
        "subnet file.",
        "USER[:GROUP]",
        PROCESS,
    ),
    Flag(
        "log-format",
        FlagKind.STRING,
        "console",
        "console or json, on stderr.",
        "FORMAT",
        PROCESS,
        choices=("console", "json"),
    ),
    Flag("v", FlagKind.INT, 0, "Verbosity of the log; 1 and more adds debug lines.", "LEVEL", PROCESS),
    Flag("version", FlagKind.BOOL, False, "Print the version and exit.", "", PROCESS, from_env=False),
    Flag("help", FlagKind.BOOL, False, "Print this text and exit.", "", PROCESS, from_env=False),
)

_LATER = "flanneld has this flag, pyflanneld does not have it yet; leave it out"

FLANNELD_ONLY: dict[str, str] = {
    **dict.fromkeys(
        (),
        _LATER,
    ),
}
"""Flags of the Go daemon that are refused with a sentence of their own instead of a guess at a misspelling; those that
are understood and do nothing are in ``oldflags``."""
