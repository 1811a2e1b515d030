"""Where it is soaked: a laboratory with three members of etcd, two real daemons, and some thousand peers in etcd."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pyflanneld.core.lease.codec import TTL_S
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.run import LabError, until
from tests.soak.churn import Churn
from tests.soak.peers import CONFIG, Peers
from tests.soak.samples import scrape
from tests.support.lab.etcd_members import ADDRESSES, Members, add_member_hosts, three_members
from tests.support.lab.testbed import gateways, launch, lease_key, pid_of

HOSTS = 2
ETCD_LEASES = 10
LOOK_S = 0.2
SHOWN = 3
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Site:
    """The laboratory, while it runs.

    Attributes:
        pids: of the daemons, by host; no fault may cost them their lives.
        pace: the times that faults take are multiplied by this.
    """

    lab: Lab
    members: Members
    churn: Churn
    pids: Mapping[str, int]
    pace: float = 1.0

    def wait_s(self, seconds: float) -> None:
        """Let the time pass that a fault takes."""
        time.sleep(seconds * self.pace)

    def settle(self, bound_s: float) -> float:
        """Wait until etcd holds what was written, both daemons have seen it and the hosts have exactly those routes.

        That the routes are right is not enough: they may be so because a daemon knows nothing of what has happened.
        Returns the seconds that it took.

        Raises:
            LabError: not within *bound_s*; with what is missing and what is too much. Or a daemon has ended.
            TimeoutError: what was to be written could not be.
        """
        with self.churn.paused() as peers:
            try:
                took_s = until(lambda: not (self.wrong(peers) or self._soon(peers)), "all is right", bound_s, LOOK_S)
            except LabError as error:
                raise LabError(f"{error}: {self.wrong(peers) or 'it is now'}") from error
            peers.settled()
        return took_s

    def _soon(self, peers: Peers) -> str:
        """Say what is wrong a moment later: what is right by chance, because the fault has not yet struck, is not."""
        time.sleep(LOOK_S)
        return self.wrong(peers)

    def wrong(self, peers: Peers) -> str:
        """Say what is not as it should be, the first of it; nothing when all is.

        Raises:
            LabError: a daemon has ended.
        """
        unready = [node.name for node in self.lab.nodes if not node.ready()]
        if {node.name: node.process.pid() for node in self.lab.nodes} != self.pids:
            raise LabError("a daemon is not the one that was started")
        keys = peers.keys() | {lease_key(node.subnet) for node in self.lab.nodes}
        try:
            found = self.members.store.kvs(f"{PREFIX}/subnets/")
        except RuntimeError as error:
            return f"etcd: {error}"
        if said := difference("etcd", keys, set(found)):
            return said
        newest = max(kv.mod_revision for kv in found.values())
        for node in self.lab.nodes:
            told = scrape(node)
            if told is None or told.total("pyflanneld_etcd_revision") < newest:
                return f"{node.name}: has not seen revision {newest}"
            wanted = {f"{dst} via {via}" for dst, via in (self.lab.gateways_for(node) | peers.routes).items()}
            if said := difference(node.name, wanted, {f"{dst} via {via}" for dst, via in gateways(node).items()}):
                return said
        return f"not ready: {', '.join(unready)}" if unready else ""


def difference(what: str, wanted: set[str], found: set[str]) -> str:
    """Say what is missing and what is too much, by number and with examples; nothing when both are equal."""
    parts = []
    for kind, some in (("missing", wanted - found), ("too much", found - wanted)):
        if some:
            more = " …" if len(some) > SHOWN else ""
            parts.append(f"{len(some)} {kind} ({', '.join(sorted(some)[:SHOWN])}{more})")
    return f"{what}: {'; '.join(parts)}" if parts else ""


@contextlib.contextmanager
def built(name: str, root: Path, *, peers: int, period_s: float, pace: float, rng: Random) -> Iterator[Site]:
    """Put it all up, with all routes in place; when the block ends, take it all away.

    Args:
        name: of the laboratory.
        root: where its files are.
        peers: how many.
        period_s: between two changes of peers.
        pace: see ``Site``.
        rng: decides what the peers do.

    Raises:
        LabError: something here does not work; or what was left running by others is in the way.
    """
    with Lab(name, HOSTS, root) as lab:
        lab.build()
        with three_members(lab, add_member_hosts(lab), ADDRESSES) as members:
            members.store.put(f"{PREFIX}/config", CONFIG)
            crowd = Peers(peers, [members.store.grant(TTL_S) for _ in range(ETCD_LEASES)], rng)
            churn = Churn(crowd, lab.etcd.namespace, period_s)
            churn.write(crowd.begin())
            for node in lab.nodes:
                launch(node, etcd_endpoints=members.endpoints)
            for node in lab.nodes:
                node.wait_ready()
            site = Site(lab, members, churn, {node.name: pid_of(node) for node in lab.nodes}, pace)
            site.settle(START_S)
            with churn:
                yield site
