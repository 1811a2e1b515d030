"""What the daemon tells of itself beside its loops: to probes, on the operators' socket, as metrics and a page.

The health port is bound by then, and the kernel keeps the probes that came too early. None of the rest is worth a
daemon: what cannot be had is a problem that does not stand against readiness, and is tried again. All of it begins soon
after the start, but behind the first routes, for it takes a while to load.
"""

import asyncio
import gc
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyflanneld.daemon.run import Daemon
from pyflanneld.logs.processors import RecentEvents
from pyflanneld.logs.setup import log_level, set_log_level
from pyflanneld.state.conditions import Conditions
from pyflanneld.state.lazy_import import load_module
from pyflanneld.system.atomic_files import write_file

if TYPE_CHECKING:
    from pyflanneld.daemon.status_source import DaemonStatus

BEGIN_S = 0.5
RETRY_S = 10.0
TEXTFILE_S = 15.0

Bound = socket.socket
"""A socket that listens already."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What is to be told where.

    Attributes:
        socket: the abstract name of the operators' socket.
        metrics_bind: where the metrics and the page are served; ``None``: nowhere.
        metrics_textfile: the file for the metrics; ``None``: none.
        probes: the health port, bound; ``None``: there is none.
    """

    socket: str
    metrics_bind: tuple[IPv4Address | IPv6Address, int] | None
    metrics_textfile: Path | None
    probes: Bound | None = None


class Numbers:
    """The metrics as text; what makes it is loaded when somebody asks for the first time."""

    def __init__(self, observer: "DaemonStatus") -> None:
        self._observer = observer
        self._metrics: Any = None
        self._registry: Any = None

    async def text(self) -> tuple[bytes, str]:
        """Return the metrics and their content type."""
        if self._registry is None:
            self._metrics = await load_module("pyflanneld.http.metrics", on_thread=True)
            self._registry = self._metrics.registry_of(self._observer)
        return self._metrics.text_of(self._registry), self._metrics.CONTENT_TYPE


async def serve_status(
    daemon: Daemon, *, config: ServerConfig, recent: RecentEvents, conditions: Conditions, secure: bool = False
) -> None:
    """Tell until cancelled; *secure*: of certificates too."""
    with suppress(TimeoutError):
        async with asyncio.timeout(BEGIN_S):
            await daemon.ready.wait()
    gc.freeze()  # what the start has brought stays: it need not be searched again and again
    gc.enable()
    async with asyncio.TaskGroup() as tasks:
        if config.probes is not None:
            tasks.create_task(_answer_probes(config.probes, daemon), name="probes")
        if secure:
            await load_module("pyflanneld.system.certificates", on_thread=True)
        await load_module("pyflanneld.http.monitor", on_thread=True)
        from pyflanneld.http.monitor import monitor_listener
        from pyflanneld.http.operator import StatusSource, operator_listener

        told = StatusSource(daemon.observer, level=log_level, set_level=set_log_level, events=recent.events)
        numbers = Numbers(daemon.observer)
        operator = operator_listener(told, config.socket)
        tasks.create_task(_listen(operator, partial(_no_socket, conditions)), name="operator")
        if config.metrics_bind is not None:
            monitor = monitor_listener(told, numbers.text, *config.metrics_bind)
            tasks.create_task(_listen(monitor, partial(_no_metrics, conditions, *config.metrics_bind)), name="metrics")
        if config.metrics_textfile is not None:
            outcome = partial(_no_file, conditions, config.metrics_textfile)
            tasks.create_task(_write(config.metrics_textfile, numbers, outcome), name="metrics_file")


def log_state(daemon: Daemon, log: Any) -> None:
    """Write all that ``pyflanneld status`` would show into the log: for whoever has only the log and the process id."""
    log.info("daemon.state", **asdict(daemon.observer.status(log_level())))


async def _answer_probes(probes: Bound, daemon: Daemon) -> None:
    http = await load_module("pyflanneld.http.health", on_thread=True)
    ip, port = probes.getsockname()[:2]
    server = http.HealthServer(ip_address(ip), port, daemon.health)
    await server.start(probes)
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()


Outcome = Callable[[OSError | None], None]
"""Takes note that something could not be done, or (``None``) that it could."""


def _no_socket(conditions: Conditions, error: OSError | None) -> None:
    if error is None:
        conditions.resolve("operator")
        return
    text = f"the operators' commands get no answer: {error.strerror or error}"
    conditions.report("operator", "operator.not_listening", text, blocks=False)


def _no_metrics(conditions: Conditions, ip: IPv4Address | IPv6Address, port: int, error: OSError | None) -> None:
    if error is None:
        conditions.resolve("metrics")
        return
    where = f"{ip}:{port}" if ip.version == 4 else f"[{ip}]:{port}"
    text = f"no metrics and no page on {where}: {error.strerror or error}"
    conditions.report("metrics", "metrics.not_listening", text, blocks=False)


def _no_file(conditions: Conditions, file: Path, error: OSError | None) -> None:
    if error is None:
        conditions.resolve("metrics_file")
        return
    text = f"the metrics cannot be written to {file}: {error.strerror or error}"
    conditions.report("metrics_file", "metrics.file_failed", text, blocks=False)


async def _listen(listener: Any, outcome: Outcome) -> None:
    """Listen until cancelled, as soon as that is possible."""
    while True:
        try:
            await listener.start()
        except OSError as error:
            outcome(error)
            await asyncio.sleep(RETRY_S)
        else:
            break
    outcome(None)
    try:
        await asyncio.Event().wait()
    finally:
        await listener.stop()


async def _write(file: Path, numbers: Numbers, outcome: Outcome) -> None:
    """Write the metrics again and again; in the end remove them, for old numbers look like new ones."""
    try:
        while True:
            text, _ = await numbers.text()
            try:
                await asyncio.to_thread(write_file, file, text.decode())
                outcome(None)
            except OSError as error:
                outcome(error)
            await asyncio.sleep(TEXTFILE_S)
    finally:
        _remove(file)


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
