"""What the daemon serves next to its tasks: probes, the operators' socket, metrics and the page, the metrics file.

The health port is bound by then, and the kernel keeps the probes that came too early; unless another program has it and
nobody asked for it: then it is one of the others. A daemon never stops for any of these: one that cannot be had is a
condition that does not block readiness, and is tried again. All of it begins behind the first routes, or after half a
second, and what the reports are made of is loaded only then.
"""

import asyncio
import errno
import gc
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from socket import socket as Socket
from typing import TYPE_CHECKING

from structlog.typing import FilteringBoundLogger

from pyflanneld.core.families import host_port
from pyflanneld.core.host import Process
from pyflanneld.daemon import deferred
from pyflanneld.daemon.run import Daemon
from pyflanneld.http.sockets import bind_operator, bind_port
from pyflanneld.http.source import LogAccess, MetricsText, StatusSource
from pyflanneld.logs.processors import RecentEvents
from pyflanneld.logs.setup import log_level, set_log_level
from pyflanneld.state.conditions import Conditions
from pyflanneld.state.wakeup import set_within
from pyflanneld.system import procfs
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
        probes: the health port, which listens already.
        health_bind: where probes are answered as soon as that is possible, without *probes*; ``None``: nowhere.
        certificates: whether reports say when certificates expire.
    """

    socket: str
    metrics_bind: tuple[IPv4Address | IPv6Address, int] | None
    metrics_textfile: Path | None
    probes: Socket | None = None
    health_bind: tuple[IPv4Address | IPv6Address, int] | None = None
    certificates: bool = False


def metrics_on_demand(source: StatusSource, *, for_file: bool = False) -> MetricsText:
    """Return what returns the metrics; prometheus_client is loaded when somebody asks for the first time."""
    text: Callable[[], tuple[bytes, str]] | None = None

    async def metrics_text() -> tuple[bytes, str]:
        nonlocal text
        if text is None:
            metrics_of = await deferred.load(deferred.metrics, on_thread=True)
            text = metrics_of(source, for_file=for_file)
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
        elif config.health_bind is not None:
            what = f"no probes are answered on {host_port(*config.health_bind)}"
            outcome = partial(_note, conditions, "health", what)
            listening = _listen_on_port(health_listener(daemon.health), config.health_bind, outcome)
            tasks.create_task(listening, name="probes")
        if config.certificates:
            await deferred.load(deferred.certificates, on_thread=True)
        source, log = daemon.status_source, LogAccess(log_level, set_log_level, recent.events)
        metrics_text = metrics_on_demand(source)
        outcome = partial(_note, conditions, "operator", "the operators' commands get no answer")
        operator = _listen(operator_listener(source, log), partial(bind_operator, config.socket), outcome)
        tasks.create_task(operator, name="operator")
        if config.metrics_bind is not None:
            what = f"no metrics and no page on {host_port(*config.metrics_bind)}"
            outcome = partial(_note, conditions, "metrics", what)
            listening = _listen_on_port(monitor_listener(source, log, metrics_text), config.metrics_bind, outcome)
            tasks.create_task(listening, name="metrics")
        if config.metrics_textfile is not None:
            file = config.metrics_textfile
            outcome = partial(_note, conditions, "metrics_file", f"the metrics cannot be written to {file}")
            tasks.create_task(_write(file, metrics_on_demand(source, for_file=True), outcome), name="metrics_file")


def _note(conditions: Conditions, server: str, text: str, error: OSError | None) -> None:
    """Report the condition of *server* for its *error*; ``None``: resolve it."""
    if error is None:
        conditions.resolve(server)
        return
    event = {
        "health": "health.not_listening",
        "operator": "operator.not_listening",
        "metrics": "metrics.not_listening",
        "metrics_file": "metrics.file_failed",
    }[server]
    why = error.strerror or str(error)
    conditions.report(server, event, f"{text}: {why}", blocks=False, cause=why)


def log_state(daemon: Daemon, log: FilteringBoundLogger) -> None:
    """Log all that ``pyflanneld status`` would show: for whoever has only the log and the process id."""
    log.info("daemon.state", **asdict(daemon.status_source.status(log_level())))


async def _listen_on_port(
    listener: "Listener", address: tuple[IPv4Address | IPv6Address, int], outcome: Outcome
) -> None:
    """Bind as soon as that is possible, and serve until cancelled; meanwhile tell who has the port."""
    holder: Process | None = None
    looked = False

    async def explained(error: OSError) -> OSError:
        nonlocal holder, looked
        if error.errno != errno.EADDRINUSE:
            return error
        if not looked or (holder is not None and procfs.has_ended(holder.pid)):
            looked, found = True, await asyncio.to_thread(procfs.tcp_listener, *address)  # it reads all of /proc
            holder = found.holder if found is not None else None
        return OSError(error.errno, os.strerror(error.errno) + (f", by {holder}" if holder is not None else ""))

    await _listen(listener, partial(bind_port, *address), outcome, explained)


async def _as_it_is(error: OSError) -> OSError:
    return error


async def _listen(
    listener: "Listener", bind: Callable[[], Socket], outcome: Outcome,
    explained: Callable[[OSError], Awaitable[OSError]] = _as_it_is,
) -> None:
    """Bind as soon as that is possible, and serve until cancelled."""
    while True:
        try:
            listening = bind()
        except OSError as error:
            outcome(await explained(error))
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
