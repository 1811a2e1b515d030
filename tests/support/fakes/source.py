"""The status of a daemon that still waits for etcd: ``http.source.StatusSource`` without a daemon."""

import os
from collections.abc import Mapping

from pyflanneld.core.status.report import EtcdPart, FilePart, Health, Report
from pyflanneld.core.status.table_view import PeerRow, RouteRow
from pyflanneld.errors import KernelError
from pyflanneld.state.counters import Counters

ROUTE = RouteRow("172.7.22.0/24", "ok", "192.168.14.22", "eth1", "192.168.14.22", "eth1", 103, "")


class FakeSource:
    """A daemon that has just started, with as many routes as the test wants."""

    def __init__(self, rows: int = 1, error: KernelError | None = None) -> None:
        self._rows = rows
        self._error = error
        self.counters = Counters()
        self.begun: Mapping[str, int] = {}

    def health(self) -> Health:
        return Health(live=True, not_ready=("starting",))

    def status(self, log_level: str = "info") -> Report:
        return Report(
            version="1", pid=os.getpid(), uptime_s=1.0, log_level=log_level, live=True, ready=False,
            not_ready=("starting",), findings=(), etcd=EtcdPart(3, "http://e:2379", "/p", None, None, 0, None),
            link=None, network=None, lease=None, peers=None, routes=None, firewall=None,
            file=FilePart("/run/x.env", False), guard=None,
        )  # fmt: skip

    async def peers(self) -> tuple[PeerRow, ...]:
        return ()

    async def routes(self) -> tuple[RouteRow, ...]:
        if self._error:
            raise self._error
        return (ROUTE,) * self._rows
