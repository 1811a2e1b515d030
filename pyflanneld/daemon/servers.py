"""What the daemon serves next to its tasks: probes, the operators' socket, metrics and the page, the metrics file.

The health port is bound by then, and the kernel keeps the probes that came too early. A daemon never stops for any of
the others: one that cannot be had is a condition that does not block readiness, and is tried again. All of it begins
behind the first routes, or after half a second, and what the reports are made of is loaded only then.
"""

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from socket import socket as Socket
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from pyflanneld.daemon import deferred
from pyflanneld.daemon.run import Daemon
from pyflanneld.http.sockets import bind_operator, bind_port
from pyflanneld.http.source import LogAccess, MetricsText, StatusSource
from pyflanneld.logs.processors import RecentEvents
from pyflanneld.logs.setup import log_level, set_log_level
from pyflanneld.state.conditions import Conditions
from pyflanneld.state.wakeup import set_within
from pyflanneld.system.atomic_files import put_file
from pyflanneld.system.disk import DiskLane, in_child

if TYPE_CHECKING:
    from pyflanneld.http.listener import Listener

BEGIN_S = 0.5
RETRY_S = 10.0
TEXTFILE_S = 15.0
REMOVE_S = 1.0


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What is served where.

    Attributes:
        socket: the abstract name of the operators' socket.
        metrics_bind: where the metrics and the page are served; ``None``: nowhere.
        metrics_textfile: the file for the metrics; ``None``: none.
        probes: the health port, which listens already; ``None``: there is none.
        certificates: whether reports say when certificates expire.
    """

    socket: str
    metrics_bind: tuple[IPv4Address | IPv6Address, int] | None
    metrics_textfile: Path | None
    probes: Socket | None = None
    certificates: bool = False


def metrics_on_demand(source: StatusSource) -> MetricsText:
    """Return what returns the metrics; prometheus_client is loaded when somebody asks for the first time."""
    text: Callable[[], tuple[bytes, str]] | None = None

    async def metrics_text() -> tuple[bytes, str]:
        nonlocal text
        if text is None:
            metrics_of = await deferred.load(deferred.metrics, on_thread=True)
            text = metrics_of(source)
        return text()

    return metrics_text


Outcome = Callable[[OSError | None], None]
"""Takes note that something could not be served, or (``None``) that it is."""


async def serve_status(daemon: Daemon, *, config: ServerConfig, recent: RecentEvents, conditions: Conditions) -> None:
    """Serve until cancelled."""
    await set_within(daemon.ready, BEGIN_S)
    gc.freeze()  # what the start has brought stays: it need not be searched again and again
    gc.enable()
    health_listener, operator_listener, monitor_listener = await deferred.load(deferred.http, on_thread=True)
    async with asyncio.TaskGroup() as tasks:
        if config.probes is not None:
            tasks.create_task(health_listener(daemon.health).serve(config.probes), name="probes")
        if config.certificates:
            await deferred.load(deferred.certificates, on_thread=True)
        source, log = daemon.status_source, LogAccess(log_level, set_log_level, recent.events)
        metrics_text = metrics_on_demand(source)
        outcome = partial(_note, conditions, "operator", "the operators' commands get no answer")
        operator = _listen(operator_listener(source, log), partial(bind_operator, config.socket), outcome)
        tasks.create_task(operator, name="operator")
        if config.metrics_bind is not None:
            listener, bind = monitor_listener(source, log, metrics_text), partial(bind_port, *config.metrics_bind)
            outcome = partial(_note, conditions, "metrics", f"no metrics and no page on {_shown(*config.metrics_bind)}")
            tasks.create_task(_listen(listener, bind, outcome), name="metrics")
        if config.metrics_textfile is not None:
            file = config.metrics_textfile
            outcome = partial(_note, conditions, "metrics_file", f"the metrics cannot be written to {file}")
            tasks.create_task(_write(file, metrics_text, outcome), name="metrics_file")


def _note(conditions: Conditions, server: str, text: str, error: OSError | None) -> None:
    """Report the condition of *server* for its *error*; ``None``: resolve it."""
    if error is None:
        conditions.resolve(server)
        return
    event = {
        "operator": "operator.not_listening",
        "metrics": "metrics.not_listening",
        "metrics_file": "metrics.file_failed",
    }[server]
    conditions.report(server, event, f"{text}: {error.strerror or error}", blocks=False)


def _shown(ip: IPv4Address | IPv6Address, port: int) -> str:
    return f"{ip}:{port}" if ip.version == 4 else f"[{ip}]:{port}"


def log_state(daemon: Daemon, log: FilteringBoundLogger) -> None:
    """Log all that ``pyflanneld status`` would show: for whoever has only the log and the process id."""
    log.info("daemon.state", **asdict(daemon.status_source.status(log_level())))


async def _listen(listener: "Listener", bind: Callable[[], Socket], outcome: Outcome) -> None:
    """Bind as soon as that is possible, and serve until cancelled."""
    while True:
        try:
            listening = bind()
        except OSError as error:
            outcome(error)
            await asyncio.sleep(RETRY_S)
        else:
            break
    outcome(None)
    with listening:
        await listener.serve(listening)


async def _write(file: Path, metrics_text: MetricsText, outcome: Outcome) -> None:
    """Write the metrics again and again; in the end remove them, for old numbers look like new ones."""
    lane = DiskLane()
    try:
        while True:
            text, _ = await metrics_text()
            try:
                await lane.run(partial(in_child, partial(put_file, file, text.decode())))
                outcome(None)
            except OSError as error:
                outcome(error)
            await asyncio.sleep(TEXTFILE_S)
    finally:
        with suppress(OSError):  # TimeoutError is one
            async with asyncio.timeout(REMOVE_S):
                await lane.run(partial(in_child, file.unlink))
