"""The only place that builds the real ports, for the daemon and for the commands that need one or another.

Imports are late: ``--help``, usage errors and most commands need none of these parts.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog

from pyflanneld.config.settings import Settings
from pyflanneld.logs.buffer import Recent
from pyflanneld.system import lock, privileges
from pyflanneld.system.atomic_files import SubnetEnvFile
from pyflanneld.system.clock import SystemClock
from pyflanneld.system.sd_notify import SdNotifier, watchdog_interval_s

CLOSE_S = 1.0
STATE_SIGNAL = signal.SIGUSR1


async def serve(settings: Settings, log: Any, recent: Recent, hangup: asyncio.Event) -> None:
    """Build the real ports and run the daemon on them; the health port is bound before anything else is touched.

    *hangup* is set when certificates are to be read again, and everything to be looked at.
    """
    from pyflanneld.daemon.run import Daemon  # late: --help and usage errors need none of this
    from pyflanneld.daemon.servers import ServerConfig, log_state, serve_status
    from pyflanneld.http.sockets import bind_health_port

    async with AsyncExitStack() as stack:
        probes = None
        if settings.healthz_port:
            probes = stack.enter_context(bind_health_port(settings.healthz_ip, settings.healthz_port))
        privileges.restrict(settings, log)  # before anything that starts a thread
        ports = context(settings, log)
        stack.push_async_callback(_close, ports.kernel.close)
        stack.push_async_callback(_close, ports.registry.close)
        config = ServerConfig(
            probes=probes, socket=lock.abstract_name("operator", lock.file_key(settings.subnet_file)),
            metrics_bind=settings.metrics_bind, metrics_textfile=settings.metrics_textfile,
        )
        stack.callback(ports.notifier.send, "STOPPING=1")
        beside = partial(serve_status, config=config, recent=recent, conditions=ports.conditions)
        watchdog_s = watchdog_interval_s(os.environ, os.getpid())
        daemon = Daemon(ports, watchdog_s=watchdog_s, beside=beside, hangup=hangup)
        # No handler of the loop's own: it would be gone before the process is, and the signal would end that.
        soon = partial(asyncio.get_running_loop().call_soon_threadsafe, log_state, daemon, log)
        signal.signal(STATE_SIGNAL, lambda *_: soon())
        stack.callback(signal.signal, STATE_SIGNAL, signal.SIG_IGN)
        await daemon.run()


def context(settings: Settings, log: Any) -> Any:
    """Return the real ports and the settings, as the loops take them; the caller closes kernel and registry."""
    from pyflanneld.etcd.choice import build
    from pyflanneld.etcd.tls import Tls
    from pyflanneld.firewall.command_runner import Programs, program_directories
    from pyflanneld.firewall.host import HostFirewall
    from pyflanneld.netlink.kernel import NetlinkKernel
    from pyflanneld.state.conditions import Conditions
    from pyflanneld.state.node import Context, Liveness

    clock, rng, where = SystemClock(), Random(), access(settings)
    tls = Tls(where)
    return Context(
        registry=build(settings.etcd_api, where, rng=rng, log=log, tls=tls),
        kernel=NetlinkKernel(protocol=settings.route_protocol, log=log),
        firewall=HostFirewall(Programs(program_directories(os.environ))),
        subnet_file=SubnetEnvFile(settings.subnet_file), clock=clock,
        notifier=SdNotifier(os.environ), rng=rng, log=log, options=options(settings),
        conditions=Conditions(clock, log), liveness=Liveness(clock), prober=_prober() if settings.probe else None,
        certificates=tls if where.secure else None,
        saved_state=_last_good(settings),
    )


def _last_good(settings: Settings) -> Any:
    if settings.state_dir is None:
        return None
    from pyflanneld.system.state_file import StateFile

    return StateFile(settings.state_dir)


def _prober() -> Any:
    from pyflanneld.system.prober import HostProber

    return HostProber()


async def _close(closing: Callable[[], Awaitable[None]]) -> None:
    """Close one port, but never wait long for it: the process is about to end anyway."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await closing()


def registry(settings: Settings) -> Any:
    """Return a registry for a command that is done in a moment."""
    from pyflanneld.etcd.choice import build

    return build(settings.etcd_api, access(settings), rng=Random(), log=structlog.get_logger("pyflanneld"))


def access(settings: Settings) -> Any:
    """Return where etcd is and who we are to it."""
    from pyflanneld.etcd.access import EtcdAccess

    return EtcdAccess(
        endpoints=settings.etcd_endpoints, prefix=settings.etcd_prefix,
        ca_file=settings.etcd_cafile, cert_file=settings.etcd_certfile, key_file=settings.etcd_keyfile,
        username=settings.etcd_username, password=settings.etcd_password, private_files=settings.refuse_exposed_keys,
    )


def options(settings: Settings) -> Any:
    """Return what the loops need of *settings*."""
    from pyflanneld.state.node import Options

    return Options(
        prefix=settings.etcd_prefix, subnet_file=str(settings.subnet_file),
        wanted_links=settings.iface, public_ip=settings.public_ip,
        route_protocol=settings.route_protocol, renew_margin_s=settings.subnet_lease_renew_margin_s,
        withdraw_guard=settings.withdraw_guard, protected=_etcd_addresses(settings, IPv4Address),
        link_patterns=settings.iface_regex, can_reach=settings.iface_can_reach, docker_bridge=settings.docker_bridge,
        ip_masq=settings.ip_masq, random_fully_disabled=settings.ip_masq_fully_random_disable,
        forward_rules=settings.iptables_forward_rules, firewall_resync_s=settings.iptables_resync_s,
        blackhole=settings.ip_blackhole_route,
        public_ipv6=settings.public_ipv6, protected6=_etcd_addresses(settings, IPv6Address),
        probe_interval_s=settings.probe_interval_s, etcd_api=settings.etcd_api,
    )


_A = TypeVar("_A", IPv4Address, IPv6Address)


def _etcd_addresses(settings: Settings, kind: type[_A]) -> frozenset[_A]:
    """Return the etcd members that are named by address: no peer's route may capture them."""
    found = set()
    for endpoint in settings.etcd_endpoints:
        with suppress(ValueError):
            found.add(kind(urlsplit(endpoint).hostname or ""))
    return frozenset(found)
