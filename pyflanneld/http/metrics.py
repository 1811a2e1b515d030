"""The metrics: the status and the counters as Prometheus metrics, made at each scrape; nothing is counted here.

Every label comes from a small fixed set. There is no metric for each peer: that is what ``/peers`` is for. Each series
that is known exists from the start, with 0, so that a rate or an alert has a first value.

Import this module at the first scrape: prometheus_client takes time and memory, and many hosts are never scraped.
"""

import asyncio
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from pyflanneld.core.objects.change_reasons import REPAIRS, ChangeReason
from pyflanneld.core.printable import printable
from pyflanneld.core.status.hints import CONDITIONS, QUARANTINED
from pyflanneld.core.status.report import EtcdPart, LeasePart, PeersPart, Report, RoutesPart
from pyflanneld.http.source import StatusSource
from pyflanneld.state.counters import DROP, KINDS, LISTS, PUT, Counters, Durations

Labels = TypeVar("Labels", bound=tuple[str, ...])

PREFIX = "pyflanneld_"
_STATM, _FDS = Path("/proc/self/statm"), Path("/proc/self/fd")
TASKS = ("config", "acquire", "lease", "peers")
"""The tasks that send requests to etcd."""
NETWORK_LABELS = ("prefix", "network", "ipv6_network", "backend", "subnet_file")


@dataclass(frozen=True, slots=True)
class _NodeCollector(Collector):
    """Makes the metrics of one daemon."""

    source: StatusSource
    wall_s: Callable[[], float] = time.time

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        report, counters, now_s = self.source.status(), self.source.counters, self.wall_s()
        yield _gauge("build_info", "The program; always 1.", {(report.version, platform.python_version()): 1},
                     "version", "python")  # fmt: skip
        yield _gauge("network_info", "The network that this daemon serves; always 1, absent before it is known.",
                     _network_info(report), *NETWORK_LABELS)  # fmt: skip
        yield from _health(report, self.source.begun)
        yield from _lease(report.lease, counters, now_s)
        yield from _peers(report.peers)
        yield from _routes(report.routes, counters)
        yield from _tunnels(report, counters)
        yield from _etcd(report.etcd, counters, now_s)
        yield from _rest(report, counters)


@dataclass(frozen=True, slots=True)
class _ProcessCollector(Collector):
    """Makes the metrics of the process; prometheus_client's own are empty under systemd's ProcSubset=pid."""

    started_at_s: float

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        virtual, resident = (int(pages) * resource.getpagesize() for pages in _STATM.read_text().split()[:2])
        yield _gauge("process_start_time_seconds", "When the daemon started.", {(): self.started_at_s})
        yield _counter("process_cpu_seconds", "CPU time used.", {(): time.process_time()})
        yield _gauge("process_resident_memory_bytes", "Resident memory.", {(): resident})
        yield _gauge("process_virtual_memory_bytes", "Virtual memory.", {(): virtual})
        yield _gauge("process_open_fds", "Open file descriptors.", {(): sum(1 for _ in _FDS.iterdir())})
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        yield _gauge("process_max_fds", "Limit of open file descriptors.", {(): limit})
        yield _gauge("process_tasks", "Tasks of the event loop, including those of this scrape.",
                     {(): len(asyncio.all_tasks())})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Labelled(Collector):
    """Adds a label to what another collector makes."""

    collector: Collector
    label: tuple[str, str]

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        for metric in self.collector.collect():
            metric.samples = [one._replace(labels=one.labels | dict([self.label])) for one in metric.samples]
            yield metric


def metrics_of(source: StatusSource, *, for_file: bool = False) -> Callable[[], tuple[bytes, str]]:
    """Return what returns all metrics of the daemon and of its process, as text, and the content type of that.

    The process metrics have our prefix too, because ``process_*`` in node_exporter's output are its own.

    Args:
        source: the daemon's status.
        for_file: give each metric the daemon's prefix as a label: node_exporter refuses a series that two files have.
    """
    registry, status = CollectorRegistry(), source.status()
    for one in (_NodeCollector(source), _ProcessCollector(round(time.time() - status.uptime_s, 3))):
        registry.register(_Labelled(one, ("prefix", printable(status.etcd.prefix))) if for_file else one)
    return lambda: (generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)


def _network_info(report: Report) -> Mapping[tuple[str, ...], float]:
    """Return the values of ``NETWORK_LABELS`` once they are known: with several daemons on a host, they tell which."""
    network = report.network
    if network is None:
        return {}
    labels = (report.etcd.prefix, network.network, network.ipv6_network or "", network.backend, report.file.path)
    return {tuple(map(printable, labels)): 1}


def _health(report: Report, begun: Mapping[str, int]) -> Iterator[Metric]:
    yield _gauge("live", "1 while every core task runs, as /healthz.", {(): report.live})
    yield _gauge("ready", "1 while the node can be trusted with traffic, as /readyz.", {(): report.ready})
    events = sorted({*CONDITIONS, *begun})
    open_now = [finding.event for finding in report.findings]
    counts = {(event,): open_now.count(event) for event in events}
    yield _gauge("conditions", "Conditions that are open now.", counts, "event")
    counts = {(event,): begun.get(event, 0) for event in events}
    yield _counter("conditions_opened", "Conditions that were opened.", counts, "event")


def _lease(lease: LeasePart | None, counters: Counters, now_s: float) -> Iterator[Metric]:
    if lease is not None:
        yield _gauge("lease_confirmed", "1 while the lease is confirmed as this host's.", {(): lease.confirmed})
        yield _gauge("lease_confirmed_timestamp_seconds", "When etcd last confirmed that the lease is this host's.",
                     {(): now_s - lease.confirmed_s_ago})  # fmt: skip
        yield _gauge("lease_reserved", "1 when the lease is a reservation, which never expires.", {(): lease.reserved})
        if lease.left_s is not None:
            yield _gauge("lease_remaining_seconds", "Time until the lease expires unless it is renewed.",
                         {(): lease.left_s})  # fmt: skip
    results = {("confirmed",): counters.renewals[True], ("failed",): counters.renewals[False]}
    yield _counter("lease_renewals", "Renewals and checks of this host's lease.", results, "result")
    yield _counter("lease_retaken", "How often the lease had vanished and was acquired again.", {(): counters.retaken})


def _peers(peers: PeersPart | None) -> Iterator[Metric]:
    if peers is None:
        return
    quarantined = {(reason,): peers.quarantined.get(reason, 0) for reason in sorted({*QUARANTINED, *peers.quarantined})}
    states = {
        ("routed",): peers.routed, ("unrouted",): peers.accepted - peers.routed,
        ("quarantined",): sum(peers.quarantined.values()), ("other_backend",): peers.other_backend,
    }  # fmt: skip
    yield _gauge("peers", "Leases of the other nodes.", states, "state")
    yield _gauge("quarantined_keys", "Keys below subnets/ that are quarantined.", quarantined, "reason")


def _routes(routes: RoutesPart | None, counters: Counters) -> Iterator[Metric]:
    if routes is not None:
        absent = routes.missing + routes.conflict + routes.refused
        states = {
            ("in_place",): routes.wanted - absent, ("missing",): routes.missing, ("conflict",): routes.conflict,
            ("refused",): routes.refused, ("held",): routes.held,
        }  # fmt: skip
        yield _gauge("routes_wanted", "Routes that the peers need.", {(): routes.wanted})
        yield _gauge("routes", "Wanted routes by state, and those that the withdraw guard keeps.", states, "state")
    changes = {(kind, why.value): counters.routes[kind, why] for kind in (PUT, DROP) for why in ChangeReason}
    yield _counter("route_changes", "Routes put and dropped.", changes, "change", "reason")
    repairs = {(why.value,): counters.repairs[why] for why in sorted(REPAIRS)}
    yield _counter("route_repairs", "Routes of ours that were deleted or changed, and put again.", repairs, "reason")
    yield _histogram("reconcile_duration_seconds", "Duration of a round that reconciles the routes.", counters.rounds)


def _tunnels(report: Report, counters: Counters) -> Iterator[Metric]:
    """Yield what only a backend with devices has."""
    if not report.devices:
        return
    up = {(one.name,): one.state == "up" for one in report.devices}
    yield _gauge("device_up", "1 while the device is there and up.", up, "device")
    labels = {one.kind: one.kind.replace(" ", "_") for one in report.entries}
    states = {
        (labels[one.kind], state): number for one in report.entries
        for state, number in (
            ("in_place", one.wanted - one.missing), ("missing", one.missing - one.refused), ("refused", one.refused)
        )
    }  # fmt: skip
    yield _gauge("entries", "Neighbours and forwarding entries that the peers need, by state.", states, "kind", "state")
    changes = {
        (label, change, why.value): counters.changes[kind][change, why]
        for kind, label in labels.items() for change in (PUT, DROP) for why in ChangeReason
    }  # fmt: skip
    yield _counter("entry_changes", "Neighbours and forwarding entries put and dropped.", changes,
                   "kind", "change", "reason")  # fmt: skip


def _etcd(etcd: EtcdPart, counters: Counters, now_s: float) -> Iterator[Metric]:
    ages = (
        ("etcd_answer_timestamp_seconds", "When etcd last answered a request.", etcd.heard_s_ago),
        ("peers_timestamp_seconds", "When the view of the peers was last up to date.", etcd.lag_s),
        ("watch_event_timestamp_seconds", "When the watch last reported a changed key.", etcd.event_s_ago),
    )
    for name, text, ago_s in ages:
        if ago_s is not None:
            yield _gauge(name, text, {(): now_s - ago_s})
    ends = {(flag,): round(now_s + left_s) for flag, left_s in etcd.certificates_left_s.items()}
    yield _gauge("etcd_certificate_end_timestamp_seconds", "When the first certificate of a file in use expires.", ends,
                 "file")  # fmt: skip
    yield _gauge("etcd_revision", "Newest revision of etcd that was seen.", {(): etcd.revision})
    yield _counter("watch_events", "Changes of keys that the watch has reported.", {(): counters.watch_events})
    lists = {(why,): counters.lists[why] for why in LISTS}
    yield _counter("peer_lists", "Complete lists of the peers, by reason.", lists, "reason")
    known = {(task, kind) for task in TASKS for kind in KINDS}
    errors = {key: counters.etcd_errors[key] for key in sorted(known | counters.etcd_errors.keys())}
    yield _counter("etcd_errors", "Failed requests to etcd.", errors, "task", "kind")


def _rest(report: Report, counters: Counters) -> Iterator[Metric]:
    if report.guard is not None:
        yield _gauge("withdraw_guard_enabled", "1 unless the guard is switched off.", {(): report.guard.enabled})
        yield _gauge("withdraw_guard_holding", "1 while the guard keeps routes that no lease asks for.",
                     {(): report.guard.held > 0})  # fmt: skip
    if report.link is not None:
        yield _gauge("link_up", "1 while the interface that carries the routes is up.", {(): report.link.up})
    placed = {(one.rules,): one.placed for one in report.firewall or ()}
    yield _gauge("firewall_rules_in_place", "1 while the rules are in place.", placed, "rules")
    yield _counter(
        "firewall_repairs", "How often rules had been deleted or changed by others.", {(): counters.firewall_repairs}
    )
    yield _gauge("saved_state_in_use", "1 while the node uses its saved state, because etcd is unavailable.",
                 {(): report.unconfirmed_s is not None})  # fmt: skip
    yield _gauge("saved_state_age_seconds", "Age of the saved state in use; else 0.", {(): report.unconfirmed_s or 0.0})
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
    """Yield the upper bound of each bucket, and how many durations were at most that long."""
    total = 0
    for bound, count in zip((*map(str, durations.bounds_s), "+Inf"), durations.counts, strict=True):
        total += count
        yield bound, total
