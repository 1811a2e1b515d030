"""The other hosts of the cluster, as far as etcd knows them: what is written, and which routes that has to make. Pure.

Each change is returned for somebody to write it; the model believes that it will be written, once or more, in order.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from itertools import islice
from random import Random

from pyflanneld.lab.etcd import PREFIX
from tests.support.etcd.bulk_writer import Change
from tests.support.lab.testbed import lease_key, lease_value

CONFIG = '{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"host-gw"}}'
POOL = IPv4Network("10.64.0.0/10")  # no daemon takes its own subnet from there: it takes one of the first hundred
GATEWAYS = [f"192.168.14.{last}" for last in range(30, 230)]
JUNK_KEYS = ("junk", "10.64.0.0", "10.999.0.0-24", "172.16.9.0-24", "10.64.0.1-24", "10.64.0.0-24/x", "-")
"""None of them overlaps a daemon's subnet: it would believe that somebody else has taken it."""

JUNK = ("", "[]", "{", "7", '{"PublicIP":"nonsense"}', "\x01\x02", "[" * 2000)
MOST_GARBLED = 20


class Peers:
    """Some thousand leases that come, go and move.

    Args:
        count: how many there are about to be at any time.
        leases: etcd leases; the peers hang on them, in equal parts.
        rng: chooses.

    Attributes:
        routes: the gateway of each subnet, by what was last written that makes sense.
    """

    def __init__(self, count: int, leases: Sequence[int], rng: Random) -> None:
        self.count, self.leases = count, list(leases)
        self._rng = rng
        pool = [str(subnet) for subnet in islice(POOL.subnets(new_prefix=24), 2 * count)]
        rng.shuffle(pool)
        self._absent = pool
        self._lease_of: dict[str, int] = {}
        self._garbled: set[str] = set()
        self._settled: set[str] = set()
        self._junk: set[str] = set()
        self.routes: dict[str, str] = {}

    def begin(self) -> list[Change]:
        """Let all of them come."""
        return [self._come() for _ in range(self.count)]

    def churn(self) -> list[Change]:
        """Let something happen to one of them, or to a key that is none of theirs."""
        kinds = [self._move, self._move, self._flit, self._garble, self._spoil]
        grow_or_shrink = self._come if len(self.routes) < self.count else self._go
        return [self._rng.choice([*kinds, grow_or_shrink, grow_or_shrink])()]

    def settled(self) -> None:
        """Take note that every daemon knows all that was written up to now."""
        self._settled = set(self.routes)

    def expire(self, at: int, fresh: int) -> int:
        """All peers of the etcd lease number *at* are gone with it; return that lease. *fresh* takes its place."""
        gone, self.leases[at] = self.leases[at], fresh
        for subnet in [subnet for subnet, lease in self._lease_of.items() if lease == gone]:
            self._forget(subnet)
        return gone

    def refill(self) -> list[Change]:
        """Let as many come as there ought to be."""
        return [self._come() for _ in range(self.count - len(self.routes))]

    def rewrite(self) -> list[Change]:
        """Write every peer as it should be, after somebody deleted all keys; the junk is gone."""
        self._junk.clear()
        self._settled.clear()
        return [self._put(subnet) for subnet in self.routes]

    def keys(self) -> set[str]:
        """Return all keys that there have to be below ``subnets/``, but for the daemons' own."""
        return {*map(lease_key, self.routes), *self._junk}

    def _come(self) -> Change:
        subnet = self._absent.pop(self._rng.randrange(len(self._absent)))
        self._lease_of[subnet] = self._rng.choice(self.leases)
        self.routes[subnet] = self._rng.choice(GATEWAYS)
        return self._put(subnet)

    def _go(self) -> Change:
        subnet = self._any(self.routes)
        self._forget(subnet)
        return Change(lease_key(subnet), None)

    def _move(self) -> Change:
        subnet = self._any(self.routes)
        self.routes[subnet] = self._rng.choice(GATEWAYS)
        self._settled.discard(subnet)
        return self._put(subnet)

    def _flit(self) -> Change:
        """A peer is written again as it was, as flanneld does to renew."""
        return self._put(self._any(self.routes))

    def _garble(self) -> Change:
        """Make a value senseless whose last good one every daemon has seen: its route stays. Or mend one."""
        possible = self._settled - self._garbled
        if len(self._garbled) >= MOST_GARBLED or not possible:
            return self._mend() if self._garbled else self._move()
        subnet = self._any(possible)
        self._garbled.add(subnet)
        return Change(lease_key(subnet), self._rng.choice(JUNK), self._lease_of[subnet])

    def _mend(self) -> Change:
        return self._put(self._any(self._garbled))

    def _spoil(self) -> Change:
        """Put a key that is no lease, or take it away again."""
        key = f"{PREFIX}/subnets/{self._rng.choice(JUNK_KEYS)}"
        if key in self._junk:
            self._junk.discard(key)
            return Change(key, None)
        self._junk.add(key)
        return Change(key, self._rng.choice((*JUNK, lease_value(self._rng.choice(GATEWAYS)))))

    def _put(self, subnet: str) -> Change:
        self._garbled.discard(subnet)
        return Change(lease_key(subnet), lease_value(self.routes[subnet]), self._lease_of[subnet])

    def _forget(self, subnet: str) -> None:
        del self.routes[subnet], self._lease_of[subnet]
        self._settled.discard(subnet)
        self._garbled.discard(subnet)
        self._absent.append(subnet)

    def _any(self, subnets: Iterable[str]) -> str:
        return self._rng.choice(sorted(subnets))
