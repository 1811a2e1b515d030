"""The metrics: the report and the tally in Prometheus' words, made anew at each scrape; nothing is counted here.

Every label comes from a small fixed set. There is no metric for each peer: that is what ``/peers`` is for. All that is
known to exist is there from the start, with 0, so that a rate or an alert has something to begin with.

Import it late: prometheus_client costs start-up time, and many hosts are never scraped.
"""

import asyncio
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from pyflanneld.core.routes.change_reasons import REPAIRS, ChangeReason
from pyflanneld.core.status.hints import CONDITIONS, QUARANTINED
from pyflanneld.core.status.report import EtcdPart, LeasePart, PeersPart, Report, RoutesPart
from pyflanneld.state.counters import DROP, KINDS, LISTS, PUT, Counters, Durations

Labels = TypeVar("Labels", bound=tuple[str, ...])

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "pyflanneld_"
_STATM, _FDS = Path("/proc/self/statm"), Path("/proc/self/fd")
LOOPS = ("config", "acquire", "lease", "peers")
"""Who asks etcd."""


class Counted(Protocol):
    """Where the numbers come from; ``daemon.status_source.Observer`` is one."""

    @property
    def counters(self) -> Counters:
        """What has happened since the start."""
        ...

    @property
    def begun(self) -> Mapping[str, int]:
        """How often each kind of problem has begun, by event."""
        ...

    def status(self, log_level: str = "info") -> Report:
        """Return the report of this moment."""
        ...


@dataclass(frozen=True, slots=True)
class _NodeCollector(Collector):
    """Makes the metrics of one daemon."""

    counted: Counted
    wall_s: Callable[[], float] = time.time

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        report, counters, now_s = self.counted.status(), self.counted.counters, self.wall_s()
        yield _gauge("build_info", "The program; always 1.", {(report.version, platform.python_version()): 1},
                     "version", "python")  # fmt: skip
        yield from _health(report, self.counted.begun)
        yield from _lease(report.lease, counters, now_s)
        yield from _peers(report.peers)
        yield from _routes(report.routes, counters)
        yield from _etcd(report.etcd, counters, now_s)
        yield from _rest(report, counters)


@dataclass(frozen=True, slots=True)
class _ProcessCollector(Collector):
    """Makes the metrics of the process; prometheus_client's own have nothing to say under systemd's ProcSubset=pid."""

    started_at_s: float

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        virtual, resident = (int(pages) * resource.getpagesize() for pages in _STATM.read_text().split()[:2])
        yield _gauge("process_start_time_seconds", "When the daemon was started.", {(): self.started_at_s})
        yield _counter("process_cpu_seconds", "Processor time that was used.", {(): time.process_time()})
        yield _gauge("process_resident_memory_bytes", "Memory in use.", {(): resident})
        yield _gauge("process_virtual_memory_bytes", "Address space.", {(): virtual})
        yield _gauge("process_open_fds", "Open files and sockets.", {(): sum(1 for _ in _FDS.iterdir())})
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield _gauge("process_max_fds", "How many files and sockets may be open.", {(): limit})
        yield _gauge("process_tasks", "Tasks of the event loop, with those that make this answer.",
                     {(): len(asyncio.all_tasks())})  # fmt: skip


def registry_of(counted: Counted) -> CollectorRegistry:
    """Return a registry of our own, with the process beside the node.

    The process has our prefix too: in node_exporter's answer ``process_*`` are its own.
    """
    registry = CollectorRegistry()
    registry.register(_NodeCollector(counted))
    registry.register(_ProcessCollector(round(time.time() - counted.status().uptime_s, 3)))
    return registry


def text_of(registry: CollectorRegistry) -> bytes:
    """Return all metrics in the text format, version 0.0.4."""
    return generate_latest(registry)


def _health(report: Report, begun: Mapping[str, int]) -> Iterator[Metric]:
    yield _gauge("live", "1 while every loop of the daemon turns.", {(): report.live})
    yield _gauge("ready", "1 while the node can be trusted with traffic, as /readyz says.", {(): report.ready})
    events = sorted({*CONDITIONS, *begun})
    there = [finding.event for finding in report.findings]
    counts = {(event,): there.count(event) for event in events}
    yield _gauge("problems", "Problems that are open now.", counts, "event")
    counts = {(event,): begun.get(event, 0) for event in events}
    yield _counter("problems_begun", "Problems that have begun.", counts, "event")


def _lease(lease: LeasePart | None, counters: Counters, now_s: float) -> Iterator[Metric]:
    if lease is not None:
        yield _gauge("lease_confirmed", "1 while the lease is proved to be ours.", {(): lease.confirmed})
        yield _gauge("lease_confirmed_timestamp_seconds", "When etcd last proved that the lease is ours.",
                     {(): now_s - lease.confirmed_s_ago})  # fmt: skip
        yield _gauge("lease_reserved", "1 when the lease is a reservation, which never ends.", {(): lease.reserved})
        if lease.left_s is not None:
            yield _gauge("lease_remaining_seconds", "How long the lease lives if it is never renewed again.",
                         {(): lease.left_s})  # fmt: skip
    results = {("proved",): counters.renewals[True], ("failed",): counters.renewals[False]}
    yield _counter("lease_renewals", "Looks at the own lease.", results, "result")
    yield _counter("lease_retaken", "How often the own key had vanished and was taken again.", {(): counters.retaken})


def _peers(peers: PeersPart | None) -> Iterator[Metric]:
    if peers is None:
        return
    quarantined = {(reason,): peers.quarantined.get(reason, 0) for reason in sorted({*QUARANTINED, *peers.quarantined})}
    states = {
        ("routed",): peers.routed, ("unrouted",): peers.accepted - peers.routed,
        ("quarantined",): sum(peers.quarantined.values()), ("other_backend",): peers.other_backend,
    }  # fmt: skip
    yield _gauge("peers", "The other nodes' leases.", states, "state")
    yield _gauge("quarantined_keys", "Keys below subnets/ that are quarantined.", quarantined, "reason")


def _routes(routes: RoutesPart | None, counters: Counters) -> Iterator[Metric]:
    if routes is not None:
        lacking = routes.missing + routes.conflict + routes.refused
        states = {
            ("in_place",): routes.wanted - lacking, ("missing",): routes.missing, ("conflict",): routes.conflict,
            ("refused",): routes.refused, ("held",): routes.held,
        }  # fmt: skip
        yield _gauge("routes_wanted", "Routes that the peers need.", {(): routes.wanted})
        yield _gauge("routes", "Wanted routes by how they are, and those that the guard keeps.", states, "state")
    changes = {(kind, cause.value): counters.routes[kind, cause] for kind in (PUT, DROP) for cause in ChangeReason}
    yield _counter("route_changes", "Changes of routes that were made.", changes, "change", "cause")
    repairs = {(cause.value,): counters.repairs[cause] for cause in sorted(REPAIRS)}
    yield _counter("route_repairs", "Routes of ours that were gone or changed, and were put again.", repairs, "cause")
    yield _histogram("reconcile_duration_seconds", "How long it took to make the routes right.", counters.rounds)


def _etcd(etcd: EtcdPart, counters: Counters, now_s: float) -> Iterator[Metric]:
    ages = (
        ("etcd_answer_timestamp_seconds", "When etcd last answered anything.", etcd.heard_s_ago),
        ("peers_timestamp_seconds", "When the view of the peers was last known to be up to date.", etcd.lag_s),
        ("watch_event_timestamp_seconds", "When the watch last told of a changed key.", etcd.event_s_ago),
    )
    for name, text, ago_s in ages:
        if ago_s is not None:
            yield _gauge(name, text, {(): now_s - ago_s})
    ends = {(flag,): round(now_s + left_s) for flag, left_s in etcd.certificates_left_s.items()}
    yield _gauge("etcd_certificate_end_timestamp_seconds", "Until when a file of certificates in use is good.", ends,
                 "file")  # fmt: skip
    yield _gauge("etcd_revision", "The newest revision of etcd that was seen.", {(): etcd.revision})
    yield _counter("watch_events", "Changes of keys that the watch has told of.", {(): counters.watch_events})
    lists = {(why,): counters.lists[why] for why in LISTS}
    yield _counter("peer_lists", "Complete lists of the peers, by why they were read.", lists, "cause")
    known = {(loop, kind) for loop in LOOPS for kind in KINDS}
    errors = {key: counters.etcd_errors[key] for key in sorted(known | counters.etcd_errors.keys())}
    yield _counter("etcd_errors", "Requests to etcd that have failed.", errors, "loop", "kind")


def _rest(report: Report, counters: Counters) -> Iterator[Metric]:
    if report.guard is not None:
        yield _gauge("withdraw_guard_enabled", "1 unless it is switched off.", {(): report.guard.enabled})
        yield _gauge("withdraw_guard_holding", "1 while it keeps routes whose leases are gone.",
                     {(): report.guard.held > 0})  # fmt: skip
    if report.link is not None:
        yield _gauge("link_up", "1 while the interface that carries the routes is up.", {(): report.link.up})
    placed = {(one.rules,): one.placed for one in report.firewall or ()}
    yield _gauge("firewall_rules_in_place", "1 while the rules are as they should be.", placed, "rules")
    yield _counter(
        "firewall_repairs", "How often rules were not as they had been left.", {(): counters.firewall_repairs}
    )
    yield _gauge("unconfirmed", "1 while the node goes by what it has saved, as etcd cannot be used.",
                 {(): report.unconfirmed_s is not None})  # fmt: skip
    yield _gauge("saved_state_age_seconds", "How old that is; else 0.", {(): report.unconfirmed_s or 0.0})
    yield _gauge("subnet_file_written", "1 when the subnet file is on disk.", {(): report.file.written})


def _gauge(name: str, text: str, values: Mapping[Labels, float], *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(PREFIX + name, text, labels=labels), values)


def _counter(name: str, text: str, values: Mapping[Labels, float], *labels: str) -> Metric:
    return _filled(CounterMetricFamily(PREFIX + name, text, labels=labels), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[Labels, float]) -> Metric:
    for labels, value in values.items():
        family.add_metric(labels, float(value))
    return family


def _histogram(name: str, text: str, durations: Durations) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, text)
    family.add_metric((), list(_buckets(durations)), durations.sum_s)
    return family


def _buckets(durations: Durations) -> Iterable[tuple[str, float]]:
    """Yield the upper bound of each bucket and how many were not longer."""
    total = 0
    for bound, count in zip((*map(str, durations.bounds_s), "+Inf"), durations.counts, strict=True):
        total += count
        yield bound, total
