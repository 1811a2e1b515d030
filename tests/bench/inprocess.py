"""The case between etcd's list and the kernel: what the daemon does with a list, without its start and its waiting."""

import gc
import time
from ipaddress import IPv4Interface

from pyflanneld.backends import BACKENDS, Host, Peers
from pyflanneld.core.etcd_types import Record, Snapshot
from pyflanneld.core.objects.plan import plan
from pyflanneld.core.peers.table import PeerTable
from pyflanneld.core.peers.validation import FamilyContext, ValidationContext
from pyflanneld.netlink.kernel import NetlinkKernel
from tests.bench.bench import Bench
from tests.bench.leases import LAN, NETWORK, measured_host, peer
from tests.bench.results import FLOOR, OURS
from tests.bench.site import PROTOCOL, SPARE_HOST, ip_batch
from tests.support.network.namespaces import Namespace

ME = measured_host(SPARE_HOST)
HOST_GW = BACKENDS["host-gw"]


async def list_received(bench: Bench, peers: int) -> None:
    """Fold, judge, plan and apply one list on a fresh host, in turn with ``ip -batch`` on another."""
    snapshot = _snapshot(peers)
    for run in range(1, bench.plan.lists + 1):
        bench.progress.doing(f"list, {peers} peers, {run} of {bench.plan.lists}")
        with bench.site.host(ME) as space:
            began, ended = ip_batch(space, bench.site.batch_file(peers))
        bench.record("list.routes", FLOOR, peers, "s", [ended - began])
        with bench.site.host(ME) as space:
            bench.record("list.routes", OURS, peers, "s", [await _apply(space, snapshot)])


def _snapshot(peers: int) -> Snapshot:
    names = [(peer(number).name, peer(number).value(3)) for number in range(peers)]
    records = [Record(name, value, 2 + at, 2 + at, 1) for at, (name, value) in enumerate(names)]
    return Snapshot(tuple(records), revision=peers + 2, cluster_id=1)


async def _apply(space: Namespace, snapshot: Snapshot) -> float:
    """Return how long it took, in seconds."""
    kernel = NetlinkKernel(protocol=PROTOCOL)
    with space.inside():
        link = next(link for link in await kernel.links() if link.name == "eth1")  # opens the socket, there
    context = ValidationContext("host-gw", FamilyContext(
        network=NETWORK, own_subnet=ME.subnet,
        link_addresses=(IPv4Interface((ME.gateway, LAN.prefixlen)),), own_addresses=frozenset({ME.gateway}),
        connected=(LAN,),
    ))  # fmt: skip
    gc.collect()
    gc.freeze()  # what the benchmark itself holds is not the daemon's to look through
    try:
        began = time.monotonic()
        table = PeerTable(ME.name)
        table.apply(snapshot)
        view, host = table.view(context), Host(link, (link,), (NETWORK,), PROTOCOL)
        wanted = {route.dst: route for route in HOST_GW.wanted(Peers(view.peers, view.data), host)}
        todo = plan(host.route_kind, wanted, [])
        refused = await kernel.apply(todo.puts)
        took_s = time.monotonic() - began
    finally:
        gc.unfreeze()
        await kernel.close()
    if refused or len(todo.puts) != len(snapshot.records):
        raise RuntimeError(f"{len(refused)} of {len(todo.puts)} routes refused, {len(snapshot.records)} wanted")
    return took_s
