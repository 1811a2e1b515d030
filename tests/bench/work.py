"""What etcd has to do, by its own counters. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """What etcd has done up to now, for all clients and in both APIs.

    Attributes:
        requests: calls, and streams opened.
        events: told to watchers.
        watchers: that are there now.
        sent_bytes: of the answers in the v3 API.
    """

    requests: int
    events: int
    watchers: int
    sent_bytes: int

    def since(self, before: "Work") -> "Work":
        """Return what was done between *before* and this."""
        return Work(
            self.requests - before.requests, self.events - before.events,
            self.watchers - before.watchers, self.sent_bytes - before.sent_bytes,
        )  # fmt: skip


def work(counters: Mapping[str, float]) -> Work:
    """Read etcd's counters. An event ends a watch of the v2 API, which the client then begins anew."""

    def total(*names: str) -> int:
        return int(sum(value for name, value in counters.items() if name.partition("{")[0] in names))

    return Work(
        requests=total("grpc_server_started_total", "etcd_http_received_total"),
        events=total("etcd_debugging_mvcc_events_total", "etcd_debugging_store_watch_requests_total"),
        watchers=total("etcd_debugging_mvcc_watcher_total", "etcd_debugging_store_watchers"),
        sent_bytes=total("etcd_network_client_grpc_sent_bytes_total"),
    )


def parse_counters(text: str) -> dict[str, float]:
    """Read the text format of Prometheus; the keys are names with their labels."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
