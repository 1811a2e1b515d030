"""Reachability: which peer is probed next, what the answers mean, and the state of each peer. Pure.

Each peer has two targets: the address that its lease carries, and the first address of its subnet, where its Docker
bridge answers. A round sends one small probe to each target, in random order, spread over the interval. While the
path's MTU is not known, a larger probe that may not be fragmented goes to the peer's address as well.
"""

import enum
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from math import inf
from random import Random

from pyflanneld.core.families import Address, Network
from pyflanneld.core.probe.reachability import WINDOW, ProbeState, ProbeStats, Reachability

SILENT_AFTER = 3
LOSSY_FROM = 0.2
LOSSY_AFTER = 5
TIMEOUT_S = 2.0
MAX_RATE = 200
"""The most probes that leave this host in one second; with more peers than that a round takes longer."""
NUMBERS = 1 << 16
SMALL_BYTES = 60
MTU_FLOOR_BYTES = 576
"""What every IPv4 host must be able to take (RFC 791)."""
_MTU_TRIES = 2


class ProbeKind(enum.Enum):
    """What a probe tests."""

    ADDRESS = "address"
    SUBNET = "subnet"
    MTU = "mtu"


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe: *size_bytes* of IP to *address*, not to be fragmented."""

    number: int
    address: IPv4Address
    size_bytes: int
    subnet: IPv4Network
    kind: ProbeKind


@dataclass(frozen=True, slots=True)
class ProbeReply:
    """Probe *number* was answered by *address*, *rtt_s* after it was sent."""

    number: int
    address: IPv4Address
    rtt_s: float


@dataclass(frozen=True, slots=True)
class ProbeFailure:
    """Probe *number* will not be answered; because it is too large, where *mtu* says what would fit."""

    number: int
    mtu: int | None = None


ProbeResult = ProbeReply | ProbeFailure


@dataclass(slots=True)
class _ProbeHistory:
    """The outcomes of the last probes of one target, the newest last."""

    outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    last_s: float | None = None
    rtt_s: float | None = None
    smoothed_rtt_s: float | None = None

    def note(self, rtt_s: float | None, now_s: float) -> None:
        """Add a reply, or with ``None`` a loss. The first reply after a silence clears what was before."""
        if rtt_s is not None and self.is_silent:
            self.outcomes.clear()
        self.outcomes.append(rtt_s is not None)
        self.last_s = now_s
        if rtt_s is not None:
            known = self.smoothed_rtt_s
            self.rtt_s = rtt_s
            self.smoothed_rtt_s = rtt_s if known is None else known + (rtt_s - known) / 8

    @property
    def is_silent(self) -> bool:
        latest = list(self.outcomes)[-SILENT_AFTER:]
        return len(latest) == SILENT_AFTER and not any(latest)

    @property
    def loss(self) -> float | None:
        return self.outcomes.count(False) / len(self.outcomes) if self.outcomes else None

    @property
    def is_lossy(self) -> bool:
        return len(self.outcomes) >= LOSSY_AFTER and (self.loss or 0.0) >= LOSSY_FROM

    def stats(self) -> ProbeStats:
        return ProbeStats(len(self.outcomes), self.loss, self.last_s, self.rtt_s, self.smoothed_rtt_s)


@dataclass(slots=True)
class MtuSearch:
    """Finds the largest packet that gets through: the link's MTU first, then what a router names, or by bisection.

    Attributes:
        link_mtu: the first size that is tried, in bytes.
        low: the largest size that is known, or guaranteed, to fit.
        high: the smallest size that does not fit.
        hint: the size that a router on the path says would fit.
        misses: how often the current size was not answered.
    """

    link_mtu: int
    low: int = 0
    high: int = 0
    hint: int | None = None
    misses: int = 0

    def __post_init__(self) -> None:
        self.low, self.high = min(MTU_FLOOR_BYTES, self.link_mtu), self.link_mtu + 1

    @property
    def size_bytes(self) -> int | None:
        """What to send next; ``None`` when the MTU is known."""
        if self.high - self.low <= 1:
            return None
        if self.high > self.link_mtu:
            return self.link_mtu
        return self.hint or (self.low + self.high) // 2

    @property
    def mtu(self) -> int | None:
        """The path's MTU, once it is known."""
        return self.low if self.size_bytes is None else None

    def passed(self, size_bytes: int) -> None:
        """Note that *size_bytes* got through."""
        self.low, self.misses = max(self.low, min(size_bytes, self.high - 1)), 0
        self.hint = None if self.hint == size_bytes else self.hint

    def missed(self, size_bytes: int, mtu: int | None) -> None:
        """Note that *size_bytes* did not get through; *mtu* is what a router says would."""
        if size_bytes >= self.high:
            return
        self.misses += 1
        if mtu is not None and self.low < mtu < size_bytes:
            self.high, self.hint, self.misses = min(self.high, mtu + 1), mtu, 0
        elif self.misses >= _MTU_TRIES:
            self.high, self.hint, self.misses = min(self.high, max(size_bytes, self.low + 1)), None, 0


@dataclass(slots=True)
class _Peer:
    gateway: IPv4Address
    search: MtuSearch = field(default_factory=lambda: MtuSearch(0))
    address: _ProbeHistory = field(default_factory=_ProbeHistory)
    subnet: _ProbeHistory = field(default_factory=_ProbeHistory)

    def reachability(self) -> Reachability:
        mtu = self.search.mtu
        return Reachability(
            self.gateway, self.address.stats(), self.subnet.stats(), self._state(), mtu, self.search.link_mtu
        )

    def _state(self) -> ProbeState:
        if self.address.is_silent:
            return ProbeState.SILENT
        if self.subnet.is_silent:
            return ProbeState.SUBNET_SILENT
        if self.address.is_lossy or self.subnet.is_lossy:
            return ProbeState.LOSSY
        if self.search.mtu is not None and self.search.mtu < self.search.link_mtu:
            return ProbeState.MTU_SMALLER
        return ProbeState.REACHABLE if self.address.outcomes and self.subnet.outcomes else ProbeState.UNKNOWN


class ProbeTable:
    """All peers and the results of their probes.

    Attributes:
        reachability: by the peer's subnet; values are replaced, never changed.
        trouble: those of them that an operator should see.
        rounds: how many have begun.
    """

    def __init__(self) -> None:
        self.reachability: dict[IPv4Network, Reachability] = {}
        self.trouble: dict[IPv4Network, Reachability] = {}
        self._peers: dict[IPv4Network, _Peer] = {}
        self._in_flight: dict[int, tuple[Probe, float]] = {}  # by number, the oldest first
        self._round: list[tuple[IPv4Network, ProbeKind]] = []
        self._round_size = 0
        self.rounds = 0
        self._number = 0

    def follow(self, peers: Mapping[Network, Address], link_mtu: int) -> None:
        """Probe these peers from now on (subnet to gateway; IPv4 only); an unchanged peer keeps its history."""
        known = self._peers
        self._peers = {}
        for subnet, gateway in peers.items():
            if not (isinstance(subnet, IPv4Network) and isinstance(gateway, IPv4Address)):
                continue
            peer = known.pop(subnet, None)
            self._peers[subnet] = peer = peer if peer and peer.gateway == gateway else _Peer(gateway)
            if peer.search.link_mtu != link_mtu:
                peer.search = MtuSearch(link_mtu)
                self._update(subnet)
        for subnet in known.keys() - self._peers.keys():
            self.reachability.pop(subnet, None)
            self.trouble.pop(subnet, None)

    def pause_s(self, interval_s: float, rng: Random) -> float:
        """Return how long to wait after a probe: a round takes *interval_s*, or longer where ``MAX_RATE`` demands it.

        It counts from the probe that was really sent, so a delay is never followed by a burst.
        """
        even_s = interval_s / max(1, self._round_size)
        return max(1.0 / MAX_RATE, rng.uniform(0.5, 1.5) * even_s)

    def next_probe(self, now_s: float, rng: Random) -> Probe | None:
        """Return the next probe, counted as sent now; ``None`` where there is no peer."""
        while self._round or self._peers:
            if not self._round:
                self._begin_round(rng)
            subnet, kind = self._round.pop()
            peer = self._peers.get(subnet)
            size_bytes = peer.search.size_bytes if peer and kind is ProbeKind.MTU else SMALL_BYTES
            if peer is None or size_bytes is None:
                continue
            self._number = (self._number + 1) % NUMBERS
            address = subnet.network_address + 1 if kind is ProbeKind.SUBNET else peer.gateway
            probe = Probe(self._number, address, size_bytes, subnet, kind)
            self._in_flight[probe.number] = (probe, now_s)
            return probe
        return None

    def _begin_round(self, rng: Random) -> None:
        turns = [(subnet, kind) for subnet in self._peers for kind in (ProbeKind.ADDRESS, ProbeKind.SUBNET)]
        turns += [(subnet, ProbeKind.MTU) for subnet, peer in self._peers.items() if self._wants_mtu(peer)]
        rng.shuffle(turns)
        self._round, self._round_size = turns, len(turns)
        self.rounds += 1

    def _wants_mtu(self, peer: _Peer) -> bool:
        """Return whether to search for the MTU: not while small probes are lost, too."""
        return peer.search.size_bytes is not None and bool(peer.address.outcomes) and peer.address.outcomes[-1]

    def record(self, answer: ProbeResult, now_s: float) -> None:
        """Record an answer; one from another address, or one that comes too late, is ignored."""
        probe, _ = self._in_flight.get(answer.number, (None, 0.0))
        if probe is None or (isinstance(answer, ProbeReply) and answer.address != probe.address):
            return
        del self._in_flight[answer.number]
        if isinstance(answer, ProbeReply):
            self._note(probe, now_s, rtt_s=answer.rtt_s)
        else:
            self._note(probe, now_s, mtu=answer.mtu)

    @property
    def due_s(self) -> float:
        """When the oldest probe in flight times out; infinite if there is none."""
        return next((sent_s + TIMEOUT_S for _, sent_s in self._in_flight.values()), inf)

    def expire(self, now_s: float) -> None:
        """Record probes that have timed out as lost."""
        while self.due_s <= now_s:
            probe, _ = self._in_flight.pop(next(iter(self._in_flight)))
            self._note(probe, now_s)

    def _note(self, probe: Probe, now_s: float, *, rtt_s: float | None = None, mtu: int | None = None) -> None:
        peer = self._peers.get(probe.subnet)
        if peer is None or (probe.kind is not ProbeKind.SUBNET and peer.gateway != probe.address):
            return
        if probe.kind is not ProbeKind.MTU:
            (peer.subnet if probe.kind is ProbeKind.SUBNET else peer.address).note(rtt_s, now_s)
        elif rtt_s is not None:
            peer.search.passed(probe.size_bytes)
        elif mtu is not None or self._wants_mtu(peer):
            peer.search.missed(probe.size_bytes, mtu)
        if probe.kind is ProbeKind.MTU and self._round and self._wants_mtu(peer):
            self._round.insert(0, (probe.subnet, ProbeKind.MTU))  # at the end of this round: a search takes many probes
        self._update(probe.subnet)

    def _update(self, subnet: IPv4Network) -> None:
        reach = self._peers[subnet].reachability()
        self.reachability[subnet] = reach
        if reach.is_good:
            self.trouble.pop(subnet, None)
        else:
            self.trouble[subnet] = reach
