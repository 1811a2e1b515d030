"""Hundreds of nodes' watches and renewals against a real etcd of three members, beside what the model says of them.

The nodes are the daemon's own tasks for the lease and the peers (``tests.support.etcd.participant``), each with
connections of its own; only their leases are short, so that minutes of renewals take seconds. What etcd did is read
from its ``/metrics``.
"""

import asyncio
import logging
import resource
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from itertools import islice
from math import ceil
from pathlib import Path
from random import Random
from unittest import mock

import structlog

from pyflanneld.core.backoff import list_round_s
from pyflanneld.core.lease.codec import TTL_S, encode_name
from pyflanneld.core.lease.ownership import renewal_interval_s
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.v3.listing import PAGE
from pyflanneld.etcd.v3.registry import EtcdV3Registry
from pyflanneld.system.clock import SystemClock
from pyflanneld.tasks.lease import acquire, renew
from tests.bench.scaling import model
from tests.bench.scaling.simulate import first_start
from tests.support.etcd.participant import EtcdSide
from tests.support.etcd.server import Etcd, Member, read_metrics, running_etcd
from tests.support.fakes.node import value
from tests.support.polling import eventually

LEASE_S = 30
PREFIX = "/coreos.com/network"
SENT = "etcd_network_client_grpc_sent_bytes_total"
CPU = "process_cpu_seconds_total"
WATCHERS = "etcd_debugging_mvcc_watcher_total"
EVENTS = "etcd_debugging_mvcc_events_total"
RANGES = 'grpc_server_handled_total{grpc_code="OK",grpc_method="Range"'
KEEP_ALIVES = 'grpc_server_msg_received_total{grpc_method="LeaseKeepAlive"'
TRANSACTIONS = 'grpc_server_handled_total{grpc_code="OK",grpc_method="Txn"'


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that the model says and etcd, or the clock, has shown."""

    what: str
    said: float
    measured: float

    @property
    def ratio(self) -> float:
        """Measured over said."""
        return self.measured / self.said if self.said else float(self.measured == self.said)


@dataclass(frozen=True, slots=True)
class Report:
    """What a run has shown.

    Attributes:
        rows: the comparisons.
        lists_after_break: for each node, how many lists it made in the time after the leader was killed.
        broken: how many watches broke.
        blind_s: the longest time until a broken watch was open again.
        vanished: leases that were lost on the way.
    """

    rows: tuple[Row, ...]
    lists_after_break: tuple[int, ...] = ()
    broken: int = 0
    blind_s: float = 0.0
    vanished: int = 0

    def ratio(self, what: str) -> float:
        """Return measured over said of one row."""
        return next(row.ratio for row in self.rows if row.what == what)


def value_of(metrics: dict[str, float], start: str) -> float:
    """Return the sum of all series whose name begins so."""
    return sum(number for name, number in metrics.items() if name.startswith(start))


class Spent:
    """What etcd has done since this was made.

    Args:
        etcd: is asked for it.
        idle_cores: what it takes when nobody asks for anything.
    """

    def __init__(self, etcd: Etcd, idle_cores: float = 0.0) -> None:
        self._etcd, self._idle_cores = etcd, idle_cores
        self._before, self._began = read_metrics(etcd), time.monotonic()
        self._after, self.took_s = self._before, 0.0

    async def until_now(self) -> "Spent":
        self._after = await asyncio.to_thread(read_metrics, self._etcd)
        self.took_s = time.monotonic() - self._began
        return self

    @property
    def cpu_s(self) -> float:
        """Processor time above that of an idle etcd."""
        return self[CPU] - self._idle_cores * self.took_s

    def __getitem__(self, start: str) -> float:
        return value_of(self._after, start) - value_of(self._before, start)


class Crew:
    """The nodes."""

    def __init__(self, etcd: Etcd, nodes: int) -> None:
        self.etcd = etcd
        self.idle_cores = 0.0
        access = EtcdAccess(etcd.endpoints, PREFIX)
        quiet = structlog.wrap_logger(None, processors=[_drop], wrapper_class=structlog.stdlib.BoundLogger)
        self.registries = [EtcdV3Registry(access, rng=Random(host), log=quiet) for host in range(nodes + 1)]
        self.stranger = self.registries.pop()
        self.sides = [
            EtcdSide(registry, SystemClock(), host=host + 2, rng=Random(-host))
            for host, registry in enumerate(self.registries)
        ]

    async def look_at_idle(self, for_s: float = 3.0) -> None:
        """Learn what etcd takes when nobody asks for anything."""
        spent = Spent(self.etcd)
        await asyncio.sleep(for_s)
        await spent.until_now()
        self.idle_cores = spent[CPU] / spent.took_s

    def spent(self) -> Spent:
        """Begin to count."""
        return Spent(self.etcd, self.idle_cores)

    async def join(self) -> None:
        """Create a lease for each, all at the same time."""
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            for side in self.sides:
                tasks.create_task(side.join())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all loops inside the block, once their watches are open."""
        tasks = [asyncio.create_task(side.run(), name=f"node-{number}") for number, side in enumerate(self.sides)]
        try:
            await eventually(self._all_watch, within_s=60)
            await eventually(self._nothing_is_told, within_s=60)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _all_watch(self) -> bool:
        metrics = await asyncio.to_thread(read_metrics, self.etcd)
        return value_of(metrics, WATCHERS) >= len(self.sides)

    async def _nothing_is_told(self) -> bool:
        """Return whether all have heard of each other: no event for half a second."""
        spent = self.spent()
        await asyncio.sleep(0.5)
        return not (await spent.until_now())[EVENTS]

    @property
    def renewals(self) -> int:
        return sum(side.counted.renewals for side in self.sides)

    def lists_since(self, moment: float) -> tuple[int, ...]:
        return tuple(sum(at >= moment for at in side.counted.listed_at) for side in self.sides)

    async def close(self) -> None:
        for registry in (*self.registries, self.stranger):
            await registry.close()


def _drop(_logger: object, _name: str, _event: object) -> object:
    raise structlog.DropEvent


async def check(etcd: Etcd, nodes: int, *, quiet_s: float, changes: int, break_s: float) -> Report:
    """Run *nodes* through a day: first start, a quiet time, new leases, lists, a lost leader.

    Args:
        etcd: with one member, nothing is broken.
        nodes: how many.
        quiet_s: how long only renewals happen.
        changes: leases that come.
        break_s: how long to look on after the leader was killed.
    """
    bare = _in_use(etcd)
    crew, rows = Crew(etcd, nodes), []
    try:
        await crew.look_at_idle()
        rows += await _first_start(crew)
        async with crew.running():
            rows += await _quiet(crew, quiet_s)
            used = (_in_use(etcd) - bare) / nodes
            rows.append(Row("etcd: kB in use for a node", _node_memory(crew) / 1e3, used / 1e3))
            rows += await _changes(crew, changes)
            rows += await _lists(crew, nodes + changes)
            if len(etcd.members) == 1:
                return Report(tuple(rows))
            return await _lost_leader(crew, rows, break_s)
    finally:
        await crew.close()


def _in_use(etcd: Etcd) -> float:
    """Return the memory in use; what the system counts includes garbage that may go any time."""
    metrics = read_metrics(etcd)
    return metrics["go_memstats_heap_inuse_bytes"] + metrics["go_memstats_stack_inuse_bytes"]


def _node_memory(crew: Crew) -> float:
    members = len(crew.etcd.members)
    return model.WATCHER_BYTES + model.KEY_BYTES * members


async def _first_start(crew: Crew) -> list[Row]:
    nodes = len(crew.sides)
    said = first_start(model.Site(nodes, len(crew.etcd.members)), within_s=0.0)
    spent = crew.spent()
    await crew.join()
    await spent.until_now()
    return [
        Row("first start: transactions for a lease", said.mean_tries, spent[TRANSACTIONS] / nodes),
        Row("first start: seconds until all have one", said.seconds, spent.took_s),
    ]


async def _quiet(crew: Crew, quiet_s: float) -> list[Row]:
    """Compare a time of nothing but renewals."""
    site = model.Site(
        len(crew.sides), len(crew.etcd.members), changes_per_node_day=0.0, relist_s=1e9,
        renew_s=renewal_interval_s(LEASE_S, 0.0),
    )
    said, before, spent = model.load(site), crew.renewals, crew.spent()
    await asyncio.sleep(quiet_s)
    await spent.until_now()
    done = crew.renewals - before
    return [
        Row("renewals a second", said.keep_alives, done / spent.took_s),
        # a keep-alive that a follower passes on to the leader goes there by HTTP, not by gRPC
        Row("keep-alives for a renewal", 1.0, spent[KEEP_ALIVES] / done),
        Row("reads for a renewal", 1.0, spent[RANGES] / done),
        Row("events in that time", 0.0, spent[EVENTS]),
        Row("bytes sent for a renewal", said.other_bytes / said.keep_alives, spent[SENT] / done),
        Row("etcd: ms of a core for a renewal", 2e3 * model.REQUEST_CPU_S, 1e3 * spent.cpu_s / done),
    ]


async def _changes(crew: Crew, changes: int) -> list[Row]:
    """Compare new leases, each told to every node."""
    spent, nodes = crew.spent(), len(crew.sides)
    before = crew.renewals
    listed = await crew.stranger.list_subnets()
    for subnet in islice(IPv4Network("10.0.0.0/8").subnets(new_prefix=24), changes):
        name = encode_name(subnet)
        record = await crew.stranger.create_subnet(name, value("192.168.100.100"), ttl_s=TTL_S, listed=listed)
        assert record is not None
        listed = type(listed)((), record.create_revision, listed.cluster_id)

    async def all_told() -> bool:
        return (await spent.until_now())[EVENTS] >= changes * nodes

    await eventually(all_told, within_s=60)
    renewals = crew.renewals - before
    size = model.key_value_bytes(nodes) + model.ANSWER_BYTES
    other = renewals * (2 * model.ANSWER_BYTES + model.key_value_bytes(nodes))
    cpu_s = spent.cpu_s - 2 * renewals * model.REQUEST_CPU_S
    return [
        Row("events for a new lease and node", 1.0, spent[EVENTS] / changes / nodes),
        Row("bytes sent for an event", size, (spent[SENT] - other) / changes / nodes),
        Row("etcd: µs of a core for an event", 1e6 * model.EVENT_CPU_S, 1e6 * cpu_s / changes / nodes),
    ]


async def _lists(crew: Crew, keys: int) -> list[Row]:
    """Compare a list by each node, four times, a few nodes at a time."""
    before, spent, gate = crew.renewals, crew.spent(), asyncio.Semaphore(8)

    async def list_once(registry: EtcdV3Registry) -> None:
        async with gate:
            assert len((await registry.list_subnets()).records) == keys

    lists = 4 * len(crew.registries)
    async with asyncio.TaskGroup() as tasks:
        for registry in 4 * crew.registries:
            tasks.create_task(list_once(registry))
    await spent.until_now()
    renewals = crew.renewals - before
    cpu_s = spent.cpu_s - 2 * renewals * model.REQUEST_CPU_S
    said_s = ceil(keys / PAGE) * model.REQUEST_CPU_S + keys * model.KEY_CPU_S
    sent = spent[SENT] - renewals * (2 * model.ANSWER_BYTES + model.key_value_bytes(keys))
    return [
        Row("pages for a list", ceil(keys / PAGE), (spent[RANGES] - renewals) / lists),
        Row("bytes sent for a listed key", model.key_value_bytes(keys), sent / lists / keys),
        Row("etcd: ms of a core for a list", 1e3 * said_s, 1e3 * cpu_s / lists),
    ]


def leader(etcd: Etcd) -> Member:
    """Return the member that leads."""
    for member in etcd.members:
        url = member.health_url.replace("/health", "/metrics")
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            if b"\netcd_server_is_leader 1" in answer.read():
                return member
    raise RuntimeError("no member leads")


async def _lost_leader(crew: Crew, rows: list[Row], break_s: float) -> Report:
    """Kill the leader and look on."""
    loop = asyncio.get_running_loop()
    killed = leader(crew.etcd)
    on_it = [side for side in crew.sides if side.context.registry.endpoint == killed.url]
    known = max(len(side.first.records) for side in crew.sides)
    moment = loop.time()
    killed.kill()
    await asyncio.sleep(break_s)
    again = [min((at - moment for at in side.counted.watches_at if at >= moment), default=break_s) for side in on_it]
    broken = sum(any(at >= moment for at in side.counted.watches_at) for side in crew.sides)
    lists = crew.lists_since(moment)
    rows.append(Row("leader lost: watches that broke", len(on_it), broken))
    rows.append(Row("leader lost: lists in all", broken, sum(lists)))
    last_s = max((at - moment for side in crew.sides for at in side.counted.listed_at if at >= moment), default=0.0)
    rows.append(Row("leader lost: seconds until the last list", 1.0 + list_round_s(known), last_s))
    vanished = sum(side.log.count("lease.vanished") for side in crew.sides)
    return Report(tuple(rows), lists, broken, max(again, default=0.0), vanished)


def run_check(
    where: Path, *, nodes: int, members: int, quiet_s: float = 10.0, changes: int = 500, break_s: float = 30.0
) -> Report:
    """Start an etcd of so many *members* with its data below *where*, and check the model on it."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    _allow_files(8192)
    with (
        running_etcd(where, size=members) as etcd,
        mock.patch.object(acquire, "TTL_S", LEASE_S),
        mock.patch.object(renew, "TTL_S", LEASE_S),
    ):
        return asyncio.run(check(etcd, nodes, quiet_s=quiet_s, changes=changes, break_s=break_s))


def _allow_files(wanted: int) -> None:
    """Raise the limit of open files: each node has a connection or more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
