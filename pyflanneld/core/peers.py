"""The peers' leases: raw records folded into one validated view.

Theory of operation. ``PeerTable.apply`` takes snapshots and single changes alike and keeps, for each key, its newest
reading and the last good one. ``PeerTable.view`` judges them against the ground: our network, subnet and link. What
cannot be trusted is quarantined with its reason and changes nothing else:

* a bad value for a known peer keeps the last good one; absence (``Gone``, or a complete snapshot without the key) and
  a valid lease of another backend are the only things that take a peer away;
* a bad value for a key that we never understood neither adds a route nor removes one that an earlier run of ours
  has put there: its subnet is *frozen*;
* of two leases that overlap, the older one (lowest create revision, then name) counts, on every node the same.
"""

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import assert_never

from pyflanneld.core.invalid import Invalid, shown
from pyflanneld.core.lease import parse_name, parse_value
from pyflanneld.core.records import Gone, PeerEvent, Put, Record, Snapshot

LONGEST_SUBNET = 30
_VALUE_REASONS = frozenset({"too_large", "not_json", "not_an_object", "bad_value", "bad_gateway", "gateway_off_link"})


@dataclass(frozen=True, slots=True)
class Ground:
    """What peers are judged against.

    Attributes:
        network: the cluster's network.
        backend_type: ours, for example ``"host-gw"``.
        own_subnet: the subnet that we lease.
        link_addresses: addresses, with prefix lengths, of the link that carries the routes.
        own_addresses: every IPv4 address of this host.
        connected: networks that are directly connected here, besides the own subnet's bridge.
        protected: addresses that no peer's route may capture: etcd's, the default gateway.
        gateways_on_link: whether the backend has use only for peers on the common link.
    """

    network: IPv4Network
    backend_type: str
    own_subnet: IPv4Network
    link_addresses: tuple[IPv4Interface, ...]
    own_addresses: frozenset[IPv4Address] = frozenset()
    connected: tuple[IPv4Network, ...] = ()
    protected: frozenset[IPv4Address] = frozenset()
    gateways_on_link: bool = True


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a key is not believed.

    Attributes:
        reason: a short constant, fit for a metric label.
        detail: one printable line for an operator.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class View:
    """What the records amount to.

    Attributes:
        peers: subnet to gateway, for every peer that is believed.
        quarantined: by key name.
        frozen: subnets whose routes must stay as they are until their key can be read again.
        foreign_backends: keys that are well formed and belong to another backend.
    """

    peers: Mapping[IPv4Network, IPv4Address]
    quarantined: Mapping[bytes, Quarantine]
    frozen: frozenset[IPv4Network]
    foreign_backends: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class _Lease:
    """A key and value that could be read."""

    subnet: IPv4Network
    gateway: IPv4Address
    backend_type: str
    age: int


@dataclass(slots=True)
class _Entry:
    record: Record
    latest: _Lease | Quarantine
    good: _Lease | None = None


@dataclass(slots=True)
class _Draft:
    """A view in the making; ``starts`` are the peers' first addresses in order, ``at`` the peers by them."""

    peers: dict[IPv4Network, IPv4Address] = field(default_factory=dict)
    quarantined: dict[bytes, Quarantine] = field(default_factory=dict)
    frozen: set[IPv4Network] = field(default_factory=set)
    foreign: set[bytes] = field(default_factory=set)
    starts: list[int] = field(default_factory=list)
    at: dict[int, IPv4Network] = field(default_factory=dict)


class PeerTable:
    """Every key below ``subnets/`` but our own, as far as it can be read."""

    def __init__(self, own_name: bytes) -> None:
        self._own_name = own_name
        self._entries: dict[bytes, _Entry] = {}
        self._listed = 0
        self._gone: dict[bytes, int] = {}  # deletions since the last list, by revision

    def apply(self, event: PeerEvent) -> bool:
        """Fold one event in; say whether anything changed.

        A snapshot is the whole truth. A single change that is older than what is known of its key (a list without it
        and its deletion are knowledge too) is dropped: etcd 3.4 can repeat events and travel back in time.
        """
        match event:
            case Snapshot(records=records, revision=revision):
                self._listed = revision
                self._gone.clear()
                return self._replace(records)
            case Put(record=record):
                return record.mod_revision > self._known_at(record.name) and self._put(record)
            case Gone(name=name, revision=revision):
                if revision <= self._known_at(name):
                    return False
                self._gone[name] = revision
                return self._entries.pop(name, None) is not None
            case _:
                assert_never(event)

    def _known_at(self, name: bytes) -> int:
        """Return the revision up to which all is known of a key."""
        known = self._entries.get(name)
        changed = known.record.mod_revision if known is not None else self._gone.get(name, 0)
        return max(self._listed, changed)

    def _replace(self, records: Iterable[Record]) -> bool:
        current = {record.name: record for record in records}
        lost = [name for name in self._entries if name not in current]
        for name in lost:
            del self._entries[name]
        changed = [self._put(record) for record in current.values()]
        return bool(lost) or any(changed)

    def _put(self, record: Record) -> bool:
        known = self._entries.get(record.name)
        if record.name == self._own_name or (known is not None and known.record == record):
            return False
        if known is None:
            self._entries[record.name] = _Entry(record, _read(record))
        else:
            known.record, known.latest = record, _read(record)
        return True

    def view(self, ground: Ground) -> View:
        """Judge every entry on *ground*. Remembers, for each key, the last lease that was good."""
        draft = _Draft()
        for name, entry in sorted(self._entries.items(), key=lambda item: (item[1].record.create_revision, item[0])):
            trouble = _judge(entry.latest, ground)
            if trouble is None:
                assert isinstance(entry.latest, _Lease)  # noqa: S101 - what _judge lets through is a lease
                entry.good = entry.latest
            elif trouble.reason == "foreign_backend":
                entry.good = None
                draft.foreign.add(name)
                continue
            else:
                draft.quarantined[name] = trouble
            _admit(draft, name, entry, trouble, ground)
        return View(draft.peers, draft.quarantined, frozenset(draft.frozen), frozenset(draft.foreign))


def _read(record: Record) -> _Lease | Quarantine:
    try:
        key = parse_name(record.name)
        if key.ipv6 is not None:
            raise Invalid("dual_stack_key", "key", record.name, "an IPv4 lease, as EnableIPv6 is off")
        attrs = parse_value(record.value)
    except Invalid as error:
        return Quarantine(error.reason, str(error))
    return _Lease(key.ipv4, attrs.public_ip, attrs.backend_type, record.create_revision)


def _judge(lease: _Lease | Quarantine, ground: Ground) -> Quarantine | None:
    """Say what is wrong with *lease* on this ground, if anything."""
    if isinstance(lease, Quarantine):
        return lease
    return _judge_subnet(lease.subnet, ground) or _judge_backend(lease, ground) or _judge_gateway(lease, ground)


def _judge_subnet(subnet: IPv4Network, ground: Ground) -> Quarantine | None:
    network = ground.network
    if not subnet.subnet_of(network) or subnet.prefixlen <= network.prefixlen:
        return Quarantine("outside_network", f"{subnet} is not a part of {network}")
    if subnet.prefixlen > LONGEST_SUBNET:
        return Quarantine("bad_length", f"{subnet} is longer than /{LONGEST_SUBNET}")
    if subnet.overlaps(ground.own_subnet):
        return Quarantine("overlaps_own", f"{subnet} overlaps our own {ground.own_subnet}")
    captured = _first(ground.own_addresses | ground.protected, subnet)
    if captured is not None:
        return Quarantine("captures_address", f"{subnet} contains {captured}, which this host needs")
    covered = next((net for net in ground.connected if net.overlaps(subnet)), None)
    if covered is not None:
        return Quarantine("captures_network", f"{subnet} overlaps {covered}, which is connected to this host")
    return None


def _first(addresses: Iterable[IPv4Address], subnet: IPv4Network) -> IPv4Address | None:
    return min((address for address in addresses if address in subnet), default=None)


def _judge_backend(lease: _Lease, ground: Ground) -> Quarantine | None:
    if lease.backend_type == ground.backend_type:
        return None
    return Quarantine("foreign_backend", f"backend {shown(lease.backend_type)} is not {ground.backend_type!r}")


def _judge_gateway(lease: _Lease, ground: Ground) -> Quarantine | None:
    gateway = lease.gateway
    if gateway.is_unspecified or gateway.is_loopback or gateway.is_multicast or gateway.is_reserved:
        return Quarantine("bad_gateway", f"PublicIP {gateway} is no address of a host")
    if gateway in ground.own_addresses or any(own.ip == gateway for own in ground.link_addresses):
        return Quarantine("bad_gateway", f"PublicIP {gateway} is our own address")
    if gateway in ground.network:
        return Quarantine("bad_gateway", f"PublicIP {gateway} is inside {ground.network} itself")
    if ground.gateways_on_link and not any(_reaches(own, gateway) for own in ground.link_addresses):
        return Quarantine("gateway_off_link", f"PublicIP {gateway} is not on the link; host-gw needs a common LAN")
    return None


def _reaches(own: IPv4Interface, gateway: IPv4Address) -> bool:
    """Say whether *gateway* can be a neighbour on the network of *own*."""
    network = own.network
    edges = () if network.prefixlen >= 31 else (network.network_address, network.broadcast_address)
    return gateway in network and gateway not in edges


def _admit(draft: _Draft, name: bytes, entry: _Entry, trouble: Quarantine | None, ground: Ground) -> None:
    """Add what this entry contributes: its lease, its last good one, or a frozen subnet."""
    lease = entry.good
    if trouble is not None and (lease is None or _judge(lease, ground) is not None):
        lease = None
        _freeze(draft, name, trouble, ground)
    if lease is None:
        return
    rival = _overlapping(draft, lease.subnet)
    if rival is not None:
        draft.quarantined[name] = Quarantine("overlaps_older", f"{lease.subnet} overlaps {rival}, which is older")
        return
    draft.peers[lease.subnet] = lease.gateway
    start = int(lease.subnet.network_address)
    insort(draft.starts, start)
    draft.at[start] = lease.subnet


def _freeze(draft: _Draft, name: bytes, trouble: Quarantine, ground: Ground) -> None:
    """Freeze the subnet of a key whose value is unusable while its name is sound."""
    if trouble.reason not in _VALUE_REASONS:
        return
    subnet = parse_name(name).ipv4
    if _judge_subnet(subnet, ground) is None:
        draft.frozen.add(subnet)


def _overlapping(draft: _Draft, subnet: IPv4Network) -> IPv4Network | None:
    """Return an accepted peer that overlaps *subnet*; as they are disjoint, the last that begins before its end."""
    position = bisect_right(draft.starts, int(subnet.broadcast_address))
    nearest = draft.at[draft.starts[position - 1]] if position else None
    return nearest if nearest is not None and nearest.overlaps(subnet) else None
