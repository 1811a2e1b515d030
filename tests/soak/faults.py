"""What is done to the daemons while they are soaked: each a function that does it, lasts a while, and undoes it.

Where chance has a say, it is the *rng*; so a seed tells what will be done, in which order, and to which host.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.network import HEALTH_PORT
from pyflanneld.lab.node import LabHost
from tests.faults.test_netlink import churn as route_churn
from tests.soak.peers import CONFIG, GATEWAYS
from tests.soak.site import TTL_S, Site
from tests.support.lab.etcd_members import ADDRESSES
from tests.support.lab.testbed import cut_off, gateways, lease_key
from tests.support.network.hostile_clients import Crowd
from tests.support.network.namespaces import Namespace

KERNEL_S, ETCD_S, GUARD_S = 12.0, 40.0, 60.0
"""How long all may take to be right again: by kernel events or a scan; by a new connection; by more complete lists."""

Act = Callable[[Site, LabHost, Random], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault.

    Attributes:
        name: what happens, for the report.
        act: does it to a host; returns when it is over.
        bound_s: then all must be right again within so many seconds.
    """

    name: str
    act: Act
    bound_s: float


# etcd


def kill_leader(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    leader = site.members.leader()
    leader.kill()
    site.wait_s(rng.uniform(2, 5))
    site.members.restore()


def move_leader(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    for _ in range(3):
        site.members.move_leader(rng.choice(site.members.all))
        site.wait_s(1)


def kill_all(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    for member in site.members.all:
        member.kill()
    site.wait_s(rng.uniform(4, 10))
    site.members.restore()


def freeze_all(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    for member in site.members.all:
        member.pause()
    try:
        site.wait_s(rng.uniform(4, 10))
    finally:
        for member in site.members.all:
            member.resume()
    site.members.restore()


def compact(site: Site, node: LabHost, rng: Random) -> None:
    """Forget the history while a host is cut off, so that it cannot go on where it was."""
    with cut_off(node, *ADDRESSES, refused=True):
        site.wait_s(rng.uniform(2, 4))
        _change_some(site)
        site.members.store.ctl("compact", str(site.members.store.revision()))
        site.wait_s(1)


def spoil_config(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    store = site.members.store
    store.put(f"{PREFIX}/config", rng.choice(("", "{", '{"Network":"nonsense"}')))
    site.wait_s(rng.uniform(2, 5))
    store.put(f"{PREFIX}/config", CONFIG)


def expire_peers(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    """A tenth of the peers are gone at one blow, and others come."""
    store = site.members.store
    with site.churn.paused() as peers:
        gone = peers.expire(rng.randrange(len(peers.leases)), store.grant(TTL_S))
        store.ctl("lease", "revoke", f"{gone:x}")
        site.wait_s(1)
        site.churn.write(peers.refill())


def delete_all_keys(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    with site.churn.paused() as peers:
        site.members.store.ctl("del", "--prefix", f"{PREFIX}/subnets/")
        site.wait_s(rng.uniform(1, 4))
        site.churn.write(peers.rewrite())


def delete_own_key(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    site.members.store.delete(lease_key(node.subnet))


def revoke_own_lease(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    kv = site.members.store.kv(lease_key(node.subnet))
    assert kv is not None, f"{node.name}: the own key is gone before it was touched"
    site.members.store.ctl("lease", "revoke", f"{kv.lease:x}")


# The way to etcd


def drop_packets(site: Site, node: LabHost, rng: Random) -> None:
    with cut_off(node, *ADDRESSES):
        site.wait_s(rng.uniform(4, 15))


def refuse_connections(site: Site, node: LabHost, rng: Random) -> None:
    with cut_off(node, *ADDRESSES, refused=True):
        site.wait_s(rng.uniform(4, 15))


# The kernel


def set_link_down(site: Site, node: LabHost, rng: Random) -> None:
    with _undone(node, ["link set eth1 down"], ["link set eth1 up"]):
        site.wait_s(rng.uniform(0.5, 4))


def flap_link(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    for _ in range(rng.randint(3, 10)):
        with _undone(node, ["link set eth1 down"], ["link set eth1 up"]):
            pass


def take_address(site: Site, node: LabHost, rng: Random) -> None:
    with _undone(node, [f"address del {node.address} dev eth1"], [f"address add {node.address} dev eth1"]):
        site.wait_s(rng.uniform(0.5, 4))


def flush_routes(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    node.exec("ip", "route", "flush", "proto", "103")


def change_routes(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    """A foreign hand deletes some routes, and gives others another gateway."""
    there = sorted(gateways(node))
    some = rng.sample(there, min(40, len(there)))
    commands = [f"route del {dst}" for dst in some[::2]]
    commands += [f"route replace {dst} via {rng.choice(GATEWAYS)} dev eth1 proto 103" for dst in some[1::2]]
    # One of them may be gone by now, since its peer is: the rest is done all the same.
    Namespace(node.namespace).run("ip", "-force", "-batch", "-", stdin="\n".join(commands) + "\n", check=False)


def overrun_events(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    """More route events than the socket holds, while the daemon sleeps."""
    node.process.send(signal.SIGSTOP)
    try:
        Namespace(node.namespace).ip_batch([*route_churn(20_000)])
    finally:
        node.process.send(signal.SIGCONT)


# The process


def stop_process(site: Site, node: LabHost, rng: Random) -> None:
    node.process.send(signal.SIGSTOP)
    try:
        site.wait_s(rng.uniform(2, 10))
    finally:
        node.process.send(signal.SIGCONT)


def hang_up(site: Site, node: LabHost, rng: Random) -> None:
    for _ in range(rng.randint(1, 5)):
        node.process.send(signal.SIGHUP)
        site.wait_s(0.2)


def ask_for_state(site: Site, node: LabHost, rng: Random) -> None:  # noqa: ARG001
    node.process.send(signal.SIGUSR1)


def crowd_health_port(site: Site, node: LabHost, rng: Random) -> None:
    """Clients that say nonsense, or nothing, and never end."""
    with Crowd(HEALTH_PORT, rng.randint(20, 100), Namespace(node.namespace).inside()):
        site.wait_s(rng.uniform(2, 5))


FAULTS: Sequence[Fault] = (
    Fault("etcd's leader is killed and comes back", kill_leader, ETCD_S),
    Fault("etcd's leadership is handed round", move_leader, ETCD_S),
    Fault("all of etcd is killed and comes back", kill_all, ETCD_S),
    Fault("all of etcd stands still for some seconds", freeze_all, ETCD_S),
    Fault("etcd forgets its history while the host is cut off", compact, ETCD_S),
    Fault("the configuration is nonsense for some seconds", spoil_config, ETCD_S),
    Fault("a tenth of the peers is gone at one blow", expire_peers, ETCD_S),
    Fault("all subnets are deleted, and written again", delete_all_keys, GUARD_S),
    Fault("the own key is deleted", delete_own_key, ETCD_S),
    Fault("the own lease is revoked", revoke_own_lease, ETCD_S),
    Fault("packets to and from etcd are lost", drop_packets, ETCD_S),
    Fault("connections to etcd are refused", refuse_connections, ETCD_S),
    Fault("the interface goes down and up", set_link_down, ETCD_S),
    Fault("the interface flaps", flap_link, ETCD_S),
    Fault("the interface's address is taken away and comes back", take_address, ETCD_S),
    Fault("all routes are flushed", flush_routes, KERNEL_S),
    Fault("routes are deleted and changed by a foreign hand", change_routes, KERNEL_S),
    Fault("more kernel events than anybody can hear", overrun_events, KERNEL_S),
    Fault("the process is stopped (SIGSTOP) for some seconds", stop_process, ETCD_S),
    Fault("HUP, some times", hang_up, KERNEL_S),
    Fault("USR1", ask_for_state, KERNEL_S),
    Fault("a crowd that talks nonsense at the health port", crowd_health_port, KERNEL_S),
)


def decks(faults: Sequence[Fault], rng: Random) -> Iterator[Fault]:
    """Yield faults for ever, shuffled like a deck of cards: each comes once before any comes again."""
    while True:
        yield from rng.sample(faults, len(faults))


@contextmanager
def _undone(node: LabHost, done: Sequence[str], undone: Sequence[str]) -> Iterator[None]:
    """Run ``ip`` commands on a host, and others when the block ends."""
    space = Namespace(node.namespace)
    space.ip_batch(list(done))
    try:
        yield
    finally:
        space.ip_batch(list(undone))


def _change_some(site: Site) -> None:
    with site.churn.paused() as peers:
        site.churn.write([change for _ in range(20) for change in peers.churn()])
