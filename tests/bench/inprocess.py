"""The case between etcd's list and the kernel: what the daemon does with a list, without its start and its waiting."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Interface

from pyflanneld.backends import BACKENDS, Host, Peers
from pyflanneld.backends.backend import Backend
from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.core.objects.kind import Identity, Wanted
from pyflanneld.core.objects.plan import plan
from pyflanneld.core.peers.table import PeerTable
from pyflanneld.core.peers.validation import FamilyContext, ValidationContext
from pyflanneld.netlink.kernel import NetlinkKernel
from tests.bench.bench import Bench
from tests.bench.leases import LAN, NETWORK, measured_host, peer
from tests.bench.results import FLOOR, OURS, VXLAN, with_backend
from tests.bench.site import PROTOCOL, SPARE_HOST, add_device
from tests.support.network.namespaces import Namespace

ME = measured_host(SPARE_HOST)


async def list_received(bench: Bench, peers: int) -> None:
    """Fold, judge, plan and apply one list on a fresh host, in turn with iproute2 on another."""
    snapshots = {backend: _snapshot(peers, backend) for backend in bench.backends}
    for run in range(1, bench.plan.lists + 1):
        bench.progress.doing(f"list, {peers} peers, {run} of {bench.plan.lists}")
        for backend, snapshot in snapshots.items():
            with _host(bench, backend) as space:
                began, ended = bench.site.put_all(space, backend, peers)
            bench.record("list.routes", with_backend(FLOOR, backend), peers, "s", [ended - began])
            with _host(bench, backend) as space:
                took_s = await _apply(space, snapshot, BACKENDS[backend])
            bench.record("list.routes", with_backend(OURS, backend), peers, "s", [took_s])


@contextmanager
def _host(bench: Bench, backend: str) -> Iterator[Namespace]:
    with bench.site.host(ME) as space:
        if backend == VXLAN:
            add_device(space, ME)
        yield space


def _snapshot(peers: int, backend: str) -> Snapshot:
    names = [(peer(number).name, peer(number).value(3, backend)) for number in range(peers)]
    records = [Record(name, value, 2 + at, 2 + at, 1) for at, (name, value) in enumerate(names)]
    return Snapshot(tuple(records), revision=peers + 2, cluster_id=1)


async def _apply(space: Namespace, snapshot: Snapshot, backend: Backend) -> float:
    """Return how long it took, in seconds."""
    kernel = NetlinkKernel(protocol=PROTOCOL)
    with space.inside():
        links = await kernel.links()  # opens the socket, there
    link = next(link for link in links if link.name == "eth1")
    host = Host(link, links, (NETWORK,), PROTOCOL, macs=backend.macs(links, None, ""))
    context = ValidationContext(backend.lease_type, FamilyContext(
        network=NETWORK, own_subnet=ME.subnet,
        link_addresses=(IPv4Interface((ME.gateway, LAN.prefixlen)),), own_addresses=frozenset({ME.gateway}),
        connected=(LAN,),
    ), data_rules=backend.data_rules(host))  # fmt: skip
    gc.collect()
    gc.freeze()  # what the benchmark itself holds is not the daemon's to look through
    try:
        began = time.monotonic()
        table = PeerTable(ME.name)
        table.apply(snapshot)
        view, kinds = table.view(context), backend.kinds(host)
        wanted: list[dict[Identity, Wanted]] = [{} for _ in kinds]
        places = {kind.wanted_type: objects for kind, objects in zip(kinds, wanted, strict=True)}
        for one in backend.wanted(Peers(view.peers, view.data), host):
            places[type(one)][one.identity] = one
        puts = [put for kind, objects in zip(kinds, wanted, strict=True) for put in plan(kind, objects, []).puts]
        refused = await kernel.apply(puts)
        took_s = time.monotonic() - began
    finally:
        gc.unfreeze()
        await kernel.close()
    due = len(snapshot.records) * len(kinds)
    if refused or len(puts) != due:
        raise RuntimeError(f"{len(refused)} of {len(puts)} objects refused, {due} wanted")
    return took_s
