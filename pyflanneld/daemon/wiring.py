"""The only place that builds the real ports, for the daemon and for the commands that need one or another."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from socket import socket as Socket
from typing import Any

import structlog

from pyflanneld.config.settings import Settings
from pyflanneld.core.families import Address
from pyflanneld.daemon.run import Daemon
from pyflanneld.daemon.servers import ServerConfig, log_state, serve_status
from pyflanneld.errors import PortTaken, UsageError
from pyflanneld.etcd.access import EtcdAccess
from pyflanneld.etcd.discovery import discover
from pyflanneld.etcd.tls import Tls
from pyflanneld.firewall.command_runner import Programs, program_directories
from pyflanneld.firewall.programs import firewall_programs
from pyflanneld.http.sockets import bind_health_port
from pyflanneld.logs.processors import RecentEvents
from pyflanneld.logs.writer import LogWriter
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.ports import FullRegistry
from pyflanneld.state.conditions import Conditions
from pyflanneld.state.context import Context, Ports
from pyflanneld.state.liveness import Liveness
from pyflanneld.state.wakeup import WakeUp
from pyflanneld.system import lock, privileges
from pyflanneld.system.clock import SystemClock
from pyflanneld.system.host_names import address_of
from pyflanneld.system.host_networks import HostNetworks
from pyflanneld.system.prober import HostProber
from pyflanneld.system.service_manager import SdNotifier, watchdog_interval_s
from pyflanneld.system.state_file import StateFile
from pyflanneld.system.subnet_file import SubnetFileOnDisk

CLOSE_S = 1.0
STATE_SIGNAL = signal.SIGUSR1


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a daemon has before it has a loop.

    Attributes:
        probes: the health port, which listens already; ``None``: there is none, or it cannot be had yet.
        health_bind: where that is, or will be; ``None``: nowhere.
        tls: the certificates.
        operator_socket: the abstract name of the operators' socket.
    """

    probes: Socket | None
    health_bind: tuple[Address, int] | None
    tls: Tls
    operator_socket: str


@contextmanager
def prepared(settings: Settings, log: Any, writer: LogWriter) -> Iterator[Prepared]:
    """Bind the health port before anything else is touched, drop rights, and read and check what files there are.

    A file that does not answer holds up no loop here, and a signal ends the process.
    """
    with ExitStack() as stack:
        health_bind = health_address(settings)
        if (probes := _health_port(settings, health_bind)) is not None:
            stack.enter_context(probes)
        privileges.restrict(settings, log)  # before anything that starts a thread
        writer.use_threads()
        name = lock.abstract_name("operator", lock.file_key(settings.subnet_file))
        yield Prepared(probes, health_bind, Tls(access(settings)), name)


def health_address(settings: Settings) -> tuple[Address, int] | None:
    """Return where probes are to be answered. Raises ``PortTaken`` where a name has no address (yet)."""
    if not settings.healthz_port:
        return None
    try:
        return address_of(settings.healthz_ip), settings.healthz_port
    except OSError as error:
        why = f"{settings.healthz_ip} has no address ({error.strerror})"
        raise PortTaken(f"health listener: {why}: see --healthz-ip") from error


def _health_port(settings: Settings, where: tuple[Address, int] | None) -> Socket | None:
    """Return the health port, which listens; ``None``: there is none, or it cannot be had yet and nobody asked for it.

    Raises:
        PortTaken: it was asked for, and another program has it.
        UsageError: it was asked for, and the system refuses it.
    """
    try:
        return bind_health_port(*where) if where is not None else None
    except (PortTaken, UsageError):
        if settings.asked_for("healthz_port"):
            raise
        return None


async def serve(settings: Settings, log: Any, recent: RecentEvents, hangup: WakeUp, ready: Prepared) -> None:
    """Build the real ports and run the daemon on them.

    *hangup* is woken when certificates are to be read again, and everything else as well.
    """
    async with AsyncExitStack() as stack:
        context = build_context(settings, log, ready.tls)
        stack.push_async_callback(_close, context.kernel.close)
        stack.push_async_callback(_close, context.discovery.close)
        config = ServerConfig(
            probes=ready.probes, socket=ready.operator_socket,
            health_bind=ready.health_bind,
            metrics_bind=settings.metrics_bind, metrics_textfile=settings.metrics_textfile,
            certificates=context.ports.certificates is not None,
        )
        stack.callback(context.ports.notifier.send, "STOPPING=1")
        beside = partial(serve_status, config=config, recent=recent, conditions=context.conditions)
        watchdog_s = watchdog_interval_s(os.environ, os.getpid())
        daemon = Daemon(context, watchdog_s=watchdog_s, beside=beside, hangup=hangup)
        # No handler of the loop's own: it would be gone before the process is, and the signal would end that.
        soon = partial(asyncio.get_running_loop().call_soon_threadsafe, log_state, daemon, log)
        signal.signal(STATE_SIGNAL, lambda *_: soon())
        stack.callback(signal.signal, STATE_SIGNAL, signal.SIG_IGN)
        await daemon.run()


def build_context(settings: Settings, log: Any, tls: Tls | None = None) -> Context:
    """Return the real ports and the settings, as the tasks take them; the caller closes kernel and discovery."""
    clock, rng, where = SystemClock(), Random(), access(settings)
    tls = tls or Tls(where)
    ports = Ports(
        discovery=discover(settings.etcd_api, where, rng=rng, log=log, tls=tls),
        kernel=NetlinkKernel(protocol=settings.route_protocol, log=log),
        firewall=firewall_programs(Programs(program_directories(os.environ))),
        subnet_file=SubnetFileOnDisk(settings.subnet_file),
        clock=clock,
        notifier=SdNotifier(os.environ),
        host_networks=HostNetworks(),
        prober=HostProber() if settings.probe else None,
        certificates=tls if where.secure else None,
        saved_state=StateFile(settings.state_dir) if settings.state_dir is not None else None,
    )
    return Context(ports, settings, rng, log, Conditions(clock, log), Liveness(clock))


async def _close(closing: Callable[[], Awaitable[None]]) -> None:
    """Close one port, but never wait long for it: the process is about to end anyway."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await closing()


@asynccontextmanager
async def registry(settings: Settings) -> AsyncIterator[FullRegistry]:
    """Have the registry on the API that holds the configuration (v3 while none does), for a command.

    Raises:
        RegistryError: etcd cannot be asked which API that is.
    """
    log = structlog.get_logger("pyflanneld")
    discovery = discover(settings.etcd_api, access(settings), rng=Random(), log=log)
    try:
        if not discovery.settled:
            await discovery.read_config()
        yield discovery.registry
    finally:
        await discovery.close()


def access(settings: Settings) -> EtcdAccess:
    """Return where etcd is and who we are to it."""
    return EtcdAccess(
        endpoints=settings.etcd_endpoints, prefix=settings.etcd_prefix,
        ca_file=settings.etcd_cafile, cert_file=settings.etcd_certfile, key_file=settings.etcd_keyfile,
        username=settings.etcd_username, password=settings.etcd_password, private_files=settings.refuse_exposed_keys,
    )
