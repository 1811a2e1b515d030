"""Reachability: who is probed next, what the answers amount to, and the state of each peer. Pure.

Each peer has two targets: the address that its lease carries, and the first address of its subnet, where its Docker
bridge answers. A round is one small probe to each of both, in an order that is new each time, spread over the interval.
While the path's MTU is not known, a larger one that may not be fragmented goes to the peer's address as well.
"""

import enum
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from math import inf
from random import Random

from pyflanneld.core.families import Address, Network
from pyflanneld.core.probe.path_mtu import MtuSearch
from pyflanneld.core.probe.reachability import WINDOW, Reach, Sample, State

SILENT_AFTER = 3
LOSSY_FROM = 0.2
LOSSY_AFTER = 5
TIMEOUT_S = 2.0
MAX_RATE = 200
"""Probes that leave this host in one second, at most; more peers than that make a round longer, not denser."""
NUMBERS = 1 << 16
SMALL_BYTES = 60


class ProbeKind(enum.Enum):
    """What a probe is to find out."""

    ADDRESS = "address"
    SUBNET = "subnet"
    MTU = "mtu"


@dataclass(frozen=True, slots=True)
class Shot:
    """One probe: *size_bytes* of IP to *address*, not to be fragmented."""

    number: int
    address: IPv4Address
    size_bytes: int
    subnet: IPv4Network
    kind: ProbeKind


@dataclass(frozen=True, slots=True)
class Echo:
    """Probe *number* was answered by *address*, *rtt_s* after it was sent."""

    number: int
    address: IPv4Address
    rtt_s: float


@dataclass(frozen=True, slots=True)
class ProbeRefusal:
    """Probe *number* will not be answered; because it is too large, where *mtu* says what would fit."""

    number: int
    mtu: int | None = None


Answer = Echo | ProbeRefusal


@dataclass(slots=True)
class _Series:
    """The last outcomes of one target, the newest last."""

    outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=WINDOW))
    last_s: float | None = None
    rtt_s: float | None = None
    smoothed_rtt_s: float | None = None

    def note(self, rtt_s: float | None, now_s: float) -> None:
        """Add an answer, or with ``None`` that there was none. The end of a silence is a new beginning."""
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

    def sample(self) -> Sample:
        return Sample(len(self.outcomes), self.loss, self.last_s, self.rtt_s, self.smoothed_rtt_s)


@dataclass(slots=True)
class _Peer:
    gateway: IPv4Address
    search: MtuSearch = field(default_factory=lambda: MtuSearch(0))
    address: _Series = field(default_factory=_Series)
    subnet: _Series = field(default_factory=_Series)

    def reach(self) -> Reach:
        mtu = self.search.mtu
        return Reach(
            self.gateway, self.address.sample(), self.subnet.sample(), self._state(), mtu, self.search.link_mtu
        )

    def _state(self) -> State:
        if self.address.is_silent:
            return State.SILENT
        if self.subnet.is_silent:
            return State.SUBNET_SILENT
        if self.address.is_lossy or self.subnet.is_lossy:
            return State.LOSSY
        if self.search.mtu is not None and self.search.mtu < self.search.link_mtu:
            return State.MTU_SMALLER
        return State.REACHABLE if self.address.outcomes and self.subnet.outcomes else State.UNKNOWN


class ProbeTable:
    """All peers and what their probes have told.

    Attributes:
        reaches: by the peer's subnet; the values are replaced, one at a time, never changed.
        trouble: those of them that an operator should know of.
        rounds: how many have been begun.
    """

    def __init__(self) -> None:
        self.reaches: dict[IPv4Network, Reach] = {}
        self.trouble: dict[IPv4Network, Reach] = {}
        self._peers: dict[IPv4Network, _Peer] = {}
        self._flying: dict[int, tuple[Shot, float]] = {}  # by number, the oldest first
        self._round: list[tuple[IPv4Network, ProbeKind]] = []
        self._round_size = 0
        self.rounds = 0
        self._number = 0

    def follow(self, peers: Mapping[Network, Address], link_mtu: int) -> None:
        """Take these for the peers (subnet to gateway; IPv4 only) from now on; who stays the same keeps its past."""
        known = self._peers
        self._peers = {}
        for subnet, gateway in peers.items():
            if not (isinstance(subnet, IPv4Network) and isinstance(gateway, IPv4Address)):
                continue
            peer = known.pop(subnet, None)
            self._peers[subnet] = peer = peer if peer and peer.gateway == gateway else _Peer(gateway)
            if peer.search.link_mtu != link_mtu:
                peer.search = MtuSearch(link_mtu)
                self._judge(subnet)
        for subnet in known.keys() - self._peers.keys():
            self.reaches.pop(subnet, None)
            self.trouble.pop(subnet, None)

    def pause_s(self, interval_s: float, rng: Random) -> float:
        """Return how long to wait after a probe: a round takes *interval_s*, or longer where that would be too dense.

        Counted from the probe that was really sent, so time lost is never made up for by a burst.
        """
        even_s = interval_s / max(1, self._round_size)
        return max(1.0 / MAX_RATE, rng.uniform(0.5, 1.5) * even_s)

    def shoot(self, now_s: float, rng: Random) -> Shot | None:
        """Return the probe whose turn it is, taken for sent now; ``None`` where there is no peer."""
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
            shot = Shot(self._number, address, size_bytes, subnet, kind)
            self._flying[shot.number] = (shot, now_s)
            return shot
        return None

    def _begin_round(self, rng: Random) -> None:
        turns = [(subnet, kind) for subnet in self._peers for kind in (ProbeKind.ADDRESS, ProbeKind.SUBNET)]
        turns += [(subnet, ProbeKind.MTU) for subnet, peer in self._peers.items() if self._wants_mtu(peer)]
        rng.shuffle(turns)
        self._round, self._round_size = turns, len(turns)
        self.rounds += 1

    def _wants_mtu(self, peer: _Peer) -> bool:
        """Say whether a large probe would tell anything: not while small ones are lost, too."""
        return peer.search.size_bytes is not None and bool(peer.address.outcomes) and peer.address.outcomes[-1]

    def take(self, answer: Answer, now_s: float) -> None:
        """Note an answer; one from a stranger, or that comes too late, tells nothing."""
        shot, _ = self._flying.get(answer.number, (None, 0.0))
        if shot is None or (isinstance(answer, Echo) and answer.address != shot.address):
            return
        del self._flying[answer.number]
        if isinstance(answer, Echo):
            self._note(shot, now_s, rtt_s=answer.rtt_s)
        else:
            self._note(shot, now_s, mtu=answer.mtu)

    @property
    def due_s(self) -> float:
        """When the oldest probe that is under way has to be given up; infinite if there is none."""
        return next((sent_s + TIMEOUT_S for _, sent_s in self._flying.values()), inf)

    def expire(self, now_s: float) -> None:
        """Give up on what has been under way for too long."""
        while self.due_s <= now_s:
            shot, _ = self._flying.pop(next(iter(self._flying)))
            self._note(shot, now_s)

    def _note(self, shot: Shot, now_s: float, *, rtt_s: float | None = None, mtu: int | None = None) -> None:
        peer = self._peers.get(shot.subnet)
        if peer is None or (shot.kind is not ProbeKind.SUBNET and peer.gateway != shot.address):
            return
        if shot.kind is not ProbeKind.MTU:
            (peer.subnet if shot.kind is ProbeKind.SUBNET else peer.address).note(rtt_s, now_s)
        elif rtt_s is not None:
            peer.search.passed(shot.size_bytes)
        elif mtu is not None or self._wants_mtu(peer):
            peer.search.missed(shot.size_bytes, mtu)
        if shot.kind is ProbeKind.MTU and self._round and self._wants_mtu(peer):
            self._round.insert(0, (shot.subnet, ProbeKind.MTU))  # the last of this round: a search takes many probes
        self._judge(shot.subnet)

    def _judge(self, subnet: IPv4Network) -> None:
        reach = self._peers[subnet].reach()
        self.reaches[subnet] = reach
        if reach.is_good:
            self.trouble.pop(subnet, None)
        else:
            self.trouble[subnet] = reach
