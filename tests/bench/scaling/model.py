"""What a cluster of so many nodes asks of etcd and of each node, as formulas. Pure.

The periods come from the daemon's own code, the sizes from flannel's own bytes. The *costs* below were measured once
on one machine (etcd 3.4, a core of a small virtual server); ``tests.bench.scaling.real`` measures them again and shows
how far off they are elsewhere. Everything is per cluster unless its name says otherwise.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from math import ceil, expm1

from pyflanneld.core.backoff import list_round_s
from pyflanneld.core.lease.codec import TTL_S, LeaseAttrs, encode_name, encode_value
from pyflanneld.core.lease.ownership import renewal_interval_s
from pyflanneld.core.network.config import parse_config
from pyflanneld.etcd.access import Timing
from pyflanneld.etcd.v3.listing import PAGE
from pyflanneld.tasks.peers import RELIST_S

SIZES = (250, 1_000, 4_000, 10_000, 50_000)
DAY_S = 86_400.0
RENEW_MARGIN_S = 3600.0

# etcd's processor time
KEY_CPU_S = 8e-6          # one key of a list
REQUEST_CPU_S = 1e-3      # a request and its answer; most of it is the stream of a keep-alive, passed on to the leader
EVENT_CPU_S = 140e-6      # one event for one watcher, each in a message of its own
WATCH_CPU_S = 1.5e-3      # a connection and a watch opened, without TLS
CREATION_CPU_S = 200e-6   # a creation applied, one after the other on each member, with its guard of some 25 ranges
COMMIT_S = 5e-3           # a write on a majority's disks

# memory
ETCD_BASE_BYTES = 35e6    # an etcd without keys and clients
WATCHER_BYTES = 150e3     # a connection with its watch, in the member that has it
KEY_BYTES = 3e3           # a key with its lease: index, page cache, garbage of lists
KEY_DISK_BYTES = 300      # the same in the database file, for each revision until it is compacted
NODE_BASE_BYTES = 68e6    # a daemon without peers: its imports
PEER_BYTES = 3e3          # one peer in a daemon
ROUTE_BYTES = 400         # one route in the kernel

# a node's time
PEER_ROUND_S = 60e-6      # one peer in a round after a change
ROUTE_S = 25e-6           # one route put, and the next two for each other next hop that is there already
NEXT_HOP_S = 1.2e-8

REVOKED_PER_S = 1000
"""How many expired leases etcd's leader revokes in a second (``leaseRevokeRate``, etcd 3.4 ``lease/lessor.go``)."""


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster, and what happens in it.

    Attributes:
        nodes: hosts, each with one lease.
        members: of etcd.
        cores: that each member may use.
        changes_per_node_day: leases that come or go, for each node and day.
        relist_s: how long a complete list is good for; ``None``: as the daemon has it.
        renew_s: between two renewals; ``None``: as the daemon has it.
    """

    nodes: int
    members: int = 3
    cores: int = 2
    changes_per_node_day: float = 0.2
    relist_s: float | None = None
    renew_s: float | None = None

    @property
    def changes_per_s(self) -> float:
        """Leases that come or go."""
        return self.nodes * self.changes_per_node_day / DAY_S

    @property
    def list_period_s(self) -> float:
        """What the daemon's follower keeps to, without its jitter."""
        return self.relist_s or max(RELIST_S, list_round_s(self.nodes))

    @property
    def renewal_period_s(self) -> float:
        """What the daemon's lease loop keeps to, without its jitter."""
        return self.renew_s or renewal_interval_s(TTL_S, RENEW_MARGIN_S)

    @property
    def all_cores(self) -> int:
        """Of all members."""
        return self.members * self.cores


@dataclass(frozen=True, slots=True)
class Load:
    """What etcd does in a quiet second. A list takes as many requests as it has pages."""

    keep_alives: float
    own_reads: float
    list_pages: float
    listed_keys: float
    signs_of_life: float
    events: float
    list_bytes: float
    event_bytes: float
    other_bytes: float

    @property
    def requests(self) -> float:
        """Everything that a client sends."""
        return self.keep_alives + self.own_reads + self.list_pages + self.signs_of_life

    @property
    def sent_bytes(self) -> float:
        """Everything that etcd sends to clients."""
        return self.list_bytes + self.event_bytes + self.other_bytes

    @property
    def cores(self) -> float:
        """Cores that are busy with it."""
        return self.requests * REQUEST_CPU_S + self.listed_keys * KEY_CPU_S + self.events * EVENT_CPU_S


def varint_bytes(value: int) -> int:
    """Return the length of protobuf's encoding of a number."""
    return max(1, ceil(value.bit_length() / 7))


def key_value_bytes(nodes: int, prefix: str = "/coreos.com/network") -> int:
    """Return the size of one lease in a list: ``mvccpb.KeyValue`` with its frame."""
    key = len(f"{prefix}/subnets/") + len(encode_name(IPv4Network("10.100.100.0/24")))
    value = len(encode_value(LeaseAttrs(IPv4Address("192.168.100.100"), "host-gw")))
    revisions = 2 * (1 + varint_bytes(3 * nodes))
    body = 2 + key + revisions + 2 + 2 + value + 1 + varint_bytes(1 << 61)  # version; lease ids have 62 bits
    return 1 + varint_bytes(body) + body


ANSWER_BYTES = 30
"""An answer's header with its frame: cluster, member, revision, term."""


def load(site: Site) -> Load:
    """Return what the cluster asks of etcd when nothing is wrong."""
    nodes, size = site.nodes, key_value_bytes(site.nodes)
    renewals = nodes / site.renewal_period_s
    lists = nodes / site.list_period_s
    events = site.changes_per_s * nodes
    signs = nodes * _signs_of_life_per_s(site.changes_per_s)
    pages = lists * ceil(nodes / PAGE)
    return Load(
        keep_alives=renewals,
        own_reads=renewals,
        list_pages=pages,
        listed_keys=lists * nodes,
        signs_of_life=signs,
        events=events,
        list_bytes=lists * nodes * size + pages * ANSWER_BYTES,
        event_bytes=events * (size + ANSWER_BYTES),
        other_bytes=renewals * (2 * ANSWER_BYTES + size) + signs * ANSWER_BYTES,
    )


def _signs_of_life_per_s(changes_per_s: float) -> float:
    """Return how often one watch asks for a sign of life: after 30 s in which no change came, at random times."""
    quiet_s = Timing().progress_s
    return changes_per_s / expm1(changes_per_s * quiet_s) if changes_per_s > 0 else 1 / quiet_s


def etcd_memory_bytes(site: Site) -> float:
    """Return the memory of one member."""
    return ETCD_BASE_BYTES + site.nodes / site.members * WATCHER_BYTES + site.nodes * KEY_BYTES


def database_bytes(site: Site, revisions: int = 2) -> float:
    """Return the size of the database with so many *revisions* of each key until they are compacted."""
    return site.nodes * revisions * KEY_DISK_BYTES


def node_memory_bytes(nodes: int) -> float:
    """Return the memory of one daemon."""
    return NODE_BASE_BYTES + nodes * PEER_BYTES


def routes(nodes: int) -> int:
    """Return the routes of one node."""
    return max(0, nodes - 1)


def route_memory_bytes(nodes: int) -> float:
    """Return what they take in the kernel."""
    return routes(nodes) * ROUTE_BYTES


def all_routes_s(nodes: int) -> float:
    """Return how long the kernel takes to put all routes of a new node, each with a next hop of its own.

    It compares each new next hop with all that are there on the same interface.
    """
    return routes(nodes) * ROUTE_S + routes(nodes) ** 2 * NEXT_HOP_S


def convergence_s(site: Site) -> float:
    """Return how long one new lease takes to the last node's kernel: commit, an event to each, a round in each."""
    return COMMIT_S + site.nodes * EVENT_CPU_S / site.all_cores + site.nodes * PEER_ROUND_S + ROUTE_S


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many nodes that list at the same time.

    Attributes:
        lists: how many.
        keys: in all of them.
        bytes: of their answers.
        at_once_s: how long etcd is busy when all come at once.
        in_turn_s: the round over which they spread in truth.
    """

    lists: int
    keys: int
    bytes: int
    at_once_s: float
    in_turn_s: float

    @property
    def busy_share(self) -> float:
        """How much of etcd is busy with it in that round."""
        return self.at_once_s / max(self.in_turn_s, self.at_once_s)


def crowd(site: Site, lists: int, in_turn_s: float) -> Crowd:
    """Return what so many lists cost."""
    keys = lists * site.nodes
    return Crowd(lists, keys, keys * key_value_bytes(site.nodes), keys * KEY_CPU_S / site.all_cores, in_turn_s)


def lost_member(site: Site) -> Crowd:
    """Return the crowd after one member has gone: its watches' nodes."""
    return crowd(site, ceil(site.nodes / site.members), list_round_s(site.nodes))


def lost_etcd(site: Site) -> Crowd:
    """Return the crowd after all of etcd was away: every node."""
    return crowd(site, site.nodes, list_round_s(site.nodes))


def power_back(site: Site) -> Crowd:
    """Return the crowd of all nodes' starts with their leases still there; a start waits for its list."""
    return crowd(site, site.nodes, 0.0)


def mass_death_s(site: Site, share: float = 0.5) -> float:
    """Return how long etcd takes to revoke the leases of so large a *share* of the nodes that died together."""
    return site.nodes * share / REVOKED_PER_S


def subnets(network_len: int, subnet_len: int) -> int:
    """Return how many leases the default configuration of 10.0.0.0/*network_len* has, as the daemon reads it."""
    text = f'{{"Network":"10.0.0.0/{network_len}","SubnetLen":{subnet_len},"Backend":{{"Type":"host-gw"}}}}'
    subnet_range = parse_config(text.encode()).ipv4
    assert subnet_range is not None
    return (int(subnet_range.subnet_max) - int(subnet_range.subnet_min) >> (32 - subnet_len)) + 1
