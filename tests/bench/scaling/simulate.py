"""What formulas cannot tell: crowds of nodes before a few etcd members, second by second. Pure Python, virtual time.

A *process* is a generator that yields the moments at which it goes on. Nodes wait as the daemon does, by its own
functions and periods (``core.backoff``, ``tasks.peers``, ``tasks.lease.acquire``, ``etcd.access``); the order of their
requests is that of ``loops`` and ``etcd.v3.calls``. A member is one queue: first come, first served, and a request
that would begin after its deadline costs nothing, for its client is gone. Two runs with one seed are alike.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from math import ceil
from random import Random

from pyflanneld.core.backoff import backoff, list_round_s, race_pause_s
from pyflanneld.core.etcd_types import Record
from pyflanneld.core.lease.allocation import Claim, SubnetRequest, choose
from pyflanneld.core.lease.codec import TTL_S, encode_name, parse_key_name
from pyflanneld.core.network.config import parse_config
from pyflanneld.etcd.access import Timing
from pyflanneld.etcd.v3.leases import FRESH
from pyflanneld.etcd.v3.listing import PAGE
from pyflanneld.tasks import peers
from pyflanneld.tasks.lease import acquire
from tests.bench.scaling import model

Process = Generator[float, None, None]
Reply = Generator[float, None, bool]

TIMING = Timing()
ROUND_TRIP_S = 0.0005
REALLY_CHOSEN = 250
"""Up to so many nodes the subnets of a simultaneous first start are chosen by the daemon's own ``choose``."""


@dataclass(slots=True)
class Member:
    """One etcd member: busy until then; refuses connections before *up_at*."""

    up_at: float = 0.0
    busy_until: float = 0.0


@dataclass(slots=True)
class World:
    """Members, time, and what was counted.

    Attributes:
        members: of etcd.
        cores: of each.
        now: virtual seconds.
        arrived: requests by the second in which they came to a member that was up.
        tried: creations by node.
        listed: complete lists by node; *keys* in their pages, also of lists that failed.
        timeouts: requests that had no answer in time.
        blind_s: how long each node went without a watch.
        done_at: when each node had all it wanted.
    """

    members: list[Member]
    cores: int
    now: float = 0.0
    arrived: Counter[int] = field(default_factory=Counter)
    tried: Counter[int] = field(default_factory=Counter)
    listed: Counter[int] = field(default_factory=Counter)
    keys: int = 0
    timeouts: int = 0
    blind_s: dict[int, float] = field(default_factory=dict)
    done_at: dict[int, float] = field(default_factory=dict)
    _due: list[tuple[float, int, Process]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)

    def start(self, process: Process) -> None:
        """Let *process* begin now."""
        heapq.heappush(self._due, (self.now, next(self._order), process))

    def run(self, until_s: float) -> None:
        """Let time pass."""
        while self._due and self._due[0][0] <= until_s:
            self.now, _, process = heapq.heappop(self._due)
            try:
                heapq.heappush(self._due, (next(process), next(self._order), process))
            except StopIteration:
                continue

    def ask(self, member: Member, cost_s: float, deadline: float) -> Reply:
        """Send one request; return whether it was answered in time."""
        if self.now < member.up_at:
            yield self.now + ROUND_TRIP_S
            return False
        self.arrived[int(self.now)] += 1
        begin = max(self.now, member.busy_until)
        if begin < deadline:
            member.busy_until = begin + cost_s / self.cores
        if begin >= deadline or member.busy_until > deadline:
            self.timeouts += 1
            yield deadline
            return False
        yield member.busy_until + ROUND_TRIP_S
        return True


@dataclass(slots=True)
class Client:
    """A node's registry: which member it uses, and how it moves on (``etcd.v3.calls``)."""

    world: World
    at: int

    def write(self, cost_s: float) -> Reply:
        """Ask the member in use, once."""
        world = self.world
        answered = yield from world.ask(world.members[self.at], cost_s, world.now + TIMING.rpc_s)
        if not answered:
            self.at = (self.at + 1) % len(world.members)
        return answered

    def read(self, cost_s: float) -> Reply:
        """Ask each member at most once, within ``Timing.read_s``."""
        world, give_up_at = self.world, self.world.now + TIMING.read_s
        for _ in world.members:
            left_s = min(TIMING.rpc_s, give_up_at - world.now)
            if left_s <= 0:
                break
            if (yield from world.ask(world.members[self.at], cost_s, world.now + left_s)):
                return True
            self.at = (self.at + 1) % len(world.members)
        return False

    def list(self, keys: int) -> Reply:
        """Read *keys* in pages."""
        for page in range(max(1, ceil(keys / PAGE))):
            size = min(PAGE, keys - page * PAGE)
            self.world.keys += size
            if not (yield from self.read(model.REQUEST_CPU_S + size * model.KEY_CPU_S)):
                return False
        return True


def _follows_again(world: World, node: int, nodes: int, rng: Random, *, in_turn: bool) -> Process:
    """Be a node whose watch breaks now (``tasks.peers.Follower``); without *in_turn*, as it would be without turns."""
    client, broke = Client(world, rng.randrange(len(world.members))), world.now
    round_s = list_round_s(nodes) if in_turn else 0.0
    turn_at = world.now + rng.uniform(0, round_s)
    waits = backoff(peers.RETRY_FIRST_S, peers.RETRY_CAP_S, rng)
    while True:
        yield world.now + next(waits)
        if world.now < turn_at:
            if not (yield from client.write(model.WATCH_CPU_S)):
                continue
            world.blind_s.setdefault(node, world.now - broke)
            waits = backoff(peers.RETRY_FIRST_S, peers.RETRY_CAP_S, rng)
            yield max(world.now, turn_at)
        if not (yield from client.list(nodes)):
            turn_at = world.now + rng.uniform(0, round_s)
            continue
        world.listed[node] += 1
        if (yield from client.write(model.WATCH_CPU_S)):
            world.blind_s.setdefault(node, world.now - broke)
            world.done_at[node] = world.now
            return
        turn_at = max(turn_at, world.now + rng.uniform(0, round_s))


_CONFIG = parse_config(b'{"Network":"10.0.0.0/8","Backend":{"Type":"host-gw"}}')
_SUBNETS = model.subnets(8, 24)


@dataclass(slots=True)
class Leases:
    """The keys of a first start: names in the order of their creation, and when the last was made."""

    names: dict[bytes, int] = field(default_factory=dict)
    apply_until: float = 0.0


def _starts(world: World, node: int, nodes: int, rng: Random, leases: Leases, begin_s: float) -> Process:
    """Be a node that starts for the first time (``tasks.network``, ``tasks.lease.acquire``)."""
    yield begin_s
    client = Client(world, rng.randrange(len(world.members)))
    waits = backoff(0.5, acquire.RETRY_CAP_S, rng)
    while not (yield from client.read(model.REQUEST_CPU_S)):
        yield world.now + next(waits)
    fresh_until = 0.0
    for race in count():
        known = len(leases.names)
        if not (yield from client.list(known)):
            yield world.now + next(waits)
            continue
        world.listed[node] += 1
        lost: list[bytes] = []
        while len(lost) < acquire.TRIES:
            width = acquire.spread(race + len(lost))
            name = _chosen(leases, known, lost, node, rng, width, real=nodes <= REALLY_CHOSEN)
            if world.now > fresh_until:  # the etcd lease: a grant, or a keep-alive
                if not (yield from client.write(2 * model.REQUEST_CPU_S)):
                    yield world.now + next(waits)
                    break
                fresh_until = world.now + TTL_S * FRESH
            if not (yield from client.write(model.REQUEST_CPU_S)):
                yield world.now + next(waits)  # in truth its outcome is unknown; here it has not happened
                break
            # Writes are applied one after the other, whatever member they came through.
            leases.apply_until = max(world.now, leases.apply_until) + model.CREATION_CPU_S
            world.tried[node] += 1
            won = name not in leases.names
            leases.names.setdefault(name, len(leases.names) + 1)
            yield leases.apply_until + model.COMMIT_S
            if won:
                world.done_at[node] = world.now
                return
            lost.append(name)
        yield world.now + race_pause_s(race, rng)


def _chosen(
    leases: Leases, known: int, lost: list[bytes], node: int, rng: Random, width: int, *, real: bool
) -> bytes:
    """Return a subnet that is free by the list of the first *known* keys; *real*: by the daemon's own choice."""
    if not real:
        within = min(width + known + len(lost), _SUBNETS)
        while True:
            name = b"%d" % rng.randrange(within)
            if name not in lost and leases.names.get(name, known + 1) > known:
                return name
    assert _CONFIG.ipv4 is not None
    address = IPv4Address("192.168.0.0") + node
    request = SubnetRequest(_CONFIG.ipv4, underlay=(IPv4Network("192.168.0.0/16"),))
    records = [Record(name, b"", at, at, 1) for name, at in leases.names.items() if at <= known]
    taken = [parse_key_name(name) for name in lost]
    claim = choose(records, address, request, None, rng, lost=taken, width=width)
    assert isinstance(claim, Claim)
    return encode_name(claim.subnet)


def _restarts(world: World, node: int, nodes: int, rng: Random, begin_s: float) -> Process:
    """Be a node that starts and finds its lease again: configuration, list, renewal."""
    yield begin_s
    client = Client(world, rng.randrange(len(world.members)))
    waits = backoff(0.5, acquire.RETRY_CAP_S, rng)
    while True:
        if (yield from client.read(model.REQUEST_CPU_S)) and (yield from client.list(nodes)):
            world.listed[node] += 1
            if (yield from client.read(2 * model.REQUEST_CPU_S)):
                world.done_at[node] = world.now
                return
        yield world.now + next(waits)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a crowd.

    Attributes:
        nodes: that took part.
        done: how many had all they wanted within the time simulated.
        seconds: until the last of them had it.
        blind_s: the longest time without a watch, of those that had one before.
        peak_requests: in the busiest second.
        lists: the most that one node completed; *mean_lists*: on the average.
        keys: read by all of them, half lists included.
        timeouts: requests without an answer in time.
        names: the subnets chosen, where they were chosen for real.
        mean_tries: creations that a node tried on the average.
    """

    nodes: int
    done: int
    seconds: float
    blind_s: float
    peak_requests: int
    lists: int
    mean_lists: float
    keys: int
    timeouts: int
    names: tuple[bytes, ...] = ()
    mean_tries: float = 0.0


Scene = Callable[..., Outcome]


def _outcome(world: World, nodes: int, names: tuple[bytes, ...] = ()) -> Outcome:
    return Outcome(
        nodes=nodes,
        done=len(world.done_at),
        seconds=max(world.done_at.values(), default=0.0),
        blind_s=max(world.blind_s.values(), default=0.0) if len(world.blind_s) == nodes else world.now,
        peak_requests=max(world.arrived.values(), default=0),
        lists=max(world.listed.values(), default=0),
        mean_lists=world.listed.total() / nodes,
        keys=world.keys,
        timeouts=world.timeouts,
        names=names,
        mean_tries=world.tried.total() / nodes,
    )


def lost_member(site: model.Site, seed: int = 1, *, in_turn: bool = True, election_s: float = 1.5) -> Outcome:
    """Kill the leader: the watches of its nodes break, and nothing is answered before another one is elected."""
    left = [Member(busy_until=election_s) for _ in range(max(1, site.members - 1))]
    broken = ceil(site.nodes / site.members)
    return _crowd_follows_again(site, left, broken, seed, in_turn=in_turn)


def lost_etcd(site: model.Site, seed: int = 1, *, in_turn: bool = True, away_s: float = 60.0) -> Outcome:
    """Take all members away for a while: every watch breaks."""
    members = [Member(up_at=away_s, busy_until=away_s) for _ in range(site.members)]
    return _crowd_follows_again(site, members, site.nodes, seed, in_turn=in_turn)


def _crowd_follows_again(
    site: model.Site, members: list[Member], broken: int, seed: int, *, in_turn: bool
) -> Outcome:
    world = World(members, site.cores)
    for node in range(broken):
        world.start(_follows_again(world, node, site.nodes, Random(f"{seed}/{node}"), in_turn=in_turn))
    world.run(120.0 + (2 * list_round_s(site.nodes) if in_turn else 480.0))
    return _outcome(world, broken)


def first_start(site: model.Site, seed: int = 1, *, within_s: float = 5.0, until_s: float = 600.0) -> Outcome:
    """Start all nodes for the first time, within so many seconds: each wants a lease of its own."""
    world, leases = World([Member() for _ in range(site.members)], site.cores), Leases()
    for node in range(site.nodes):
        rng = Random(f"{seed}/{node}")
        world.start(_starts(world, node, site.nodes, rng, leases, rng.uniform(0, within_s)))
    world.run(until_s)
    return _outcome(world, site.nodes, tuple(leases.names) if site.nodes <= REALLY_CHOSEN else ())


def power_back(site: model.Site, seed: int = 1, *, within_s: float = 30.0, until_s: float = 600.0) -> Outcome:
    """Start all nodes within so many seconds, with the leases that they had."""
    world = World([Member() for _ in range(site.members)], site.cores)
    for node in range(site.nodes):
        rng = Random(f"{seed}/{node}")
        world.start(_restarts(world, node, site.nodes, rng, rng.uniform(0, within_s)))
    world.run(until_s)
    return _outcome(world, site.nodes)
