"""The command: ``pyflanneld --iface eth1 …`` is the daemon, a word first is a sub-command.

The only place that builds the real ports and gives them to the daemon.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address
from random import Random
from types import FrameType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog

from pyflanneld import __version__, lock, logs
from pyflanneld.clock import SystemClock
from pyflanneld.errors import PyflanneldError, UsageError
from pyflanneld.files import SubnetEnvFile
from pyflanneld.notify import SdNotifier, watchdog_interval_s
from pyflanneld.settings import Settings, load

CLOSE_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run what *argv* (by default the process's own, without its name) asks for; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and not words[0].startswith("-"):
            return _sub_command(words[0])(words[1:])
        return _daemon(load(words, os.environ))
    except UsageError as error:
        sys.stderr.write(f"pyflanneld: {error}\n")
        return error.exit_code


def _sub_command(word: str) -> Callable[[list[str]], int]:
    if word not in _SUB_COMMANDS:
        near = get_close_matches(word, _SUB_COMMANDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there is: {', '.join(_SUB_COMMANDS)}"
        raise UsageError(f"{word!r} is not a sub-command, and flags begin with '-'{hint}")
    return _SUB_COMMANDS[word]


def _lab(words: list[str]) -> int:
    from pyflanneld.lab.command import main as lab  # the daemon never needs it

    return lab(words)


def _leases(words: list[str]) -> int:
    from pyflanneld.leases import main as leases

    return leases(words, os.environ, connect=_registry)


def _registry(settings: Settings) -> Any:
    """Return a registry for a command that is done in a moment."""
    from pyflanneld.registry.etcd_v3 import EtcdV3Registry

    return EtcdV3Registry(_access(settings), rng=Random(), log=structlog.get_logger("pyflanneld"))


_SUB_COMMANDS: dict[str, Callable[[list[str]], int]] = {"lab": _lab, "leases": _leases}


def _daemon(settings: Settings) -> int:
    """Run the daemon until it is told to stop; say in one line why it ends when it ends by itself."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _stop_early)  # until the loop has handlers of its own
    logs.configure(settings.log_format, settings.verbosity)
    log = structlog.get_logger("pyflanneld")
    log.info(
        "daemon.started", version=__version__, pid=os.getpid(), etcd=settings.etcd_endpoints,
        prefix=settings.etcd_prefix, subnet_file=str(settings.subnet_file),
    )
    for warning in settings.warnings:
        log.warning("settings.warned", warning=warning)
    try:
        with lock.hold(lock.network_key(settings.etcd_prefix, settings.etcd_endpoints), settings.subnet_file):
            asyncio.run(_until_signalled(_serve(settings, log)))
    except UsageError:
        raise
    except Exception as raised:
        error = _gravest(raised)
        if error is None:
            log.exception("daemon.crashed", exit_code=1)
            return 1
        log.error("daemon.failed", error=str(error), exit_code=error.exit_code)  # noqa: TRY400 - the text says it all
        return error.exit_code
    log.info("daemon.stopped")
    return 0


def _stop_early(_number: int, _frame: FrameType | None) -> None:
    """Stop, as asked, while nothing has been touched yet."""
    raise SystemExit(0)


def _gravest(raised: Exception) -> PyflanneldError | None:
    """Return the error that decides the exit code, a lost lease before anything else; ``None`` for a defect."""
    if isinstance(raised, ExceptionGroup):
        parts = [_gravest(part) for part in raised.exceptions]
        known = [part for part in parts if part is not None]
        return max(known, key=lambda error: error.exit_code) if len(known) == len(parts) else None
    return raised if isinstance(raised, PyflanneldError) else None


async def _until_signalled(main_: Coroutine[Any, Any, None]) -> None:
    """Run *main_* until it ends or a signal asks to stop; a second signal ends the process at once."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(main_, name="daemon")

    def stop(number: signal.Signals) -> None:
        structlog.get_logger("pyflanneld").info("daemon.stopping", signal=number.name)
        for one in _STOP_SIGNALS:
            loop.remove_signal_handler(one)
        task.cancel()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


async def _serve(settings: Settings, log: Any) -> None:
    """Build the real ports and run the daemon on them; the health port is bound before anything else is touched."""
    from pyflanneld.daemon import Daemon  # late: --help and usage errors need none of this
    from pyflanneld.http.health import HealthServer
    from pyflanneld.kernel.rtnl import NetlinkKernel
    from pyflanneld.loops.node import Context, Heart
    from pyflanneld.loops.problems import Problems
    from pyflanneld.registry.etcd_v3 import EtcdV3Registry

    clock, rng, notifier = SystemClock(), Random(), SdNotifier(os.environ)
    registry = EtcdV3Registry(_access(settings), rng=rng, log=log)
    kernel = NetlinkKernel(protocol=settings.route_protocol, log=log)
    context = Context(
        registry=registry, kernel=kernel, subnet_file=SubnetEnvFile(settings.subnet_file), clock=clock,
        notifier=notifier, rng=rng, log=log, options=_options(settings),
        problems=Problems(clock, log), heart=Heart(clock),
    )
    daemon = Daemon(context, watchdog_s=watchdog_interval_s(os.environ, os.getpid()))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_close, kernel.close)
        stack.push_async_callback(_close, registry.close)
        if settings.healthz_port:
            health = HealthServer(settings.healthz_ip, settings.healthz_port, daemon.health)
            await health.start()
            stack.push_async_callback(_close, health.stop)
        stack.callback(notifier.send, "STOPPING=1")
        await daemon.run()


async def _close(closing: Callable[[], Awaitable[None]]) -> None:
    """Close one port, but never wait long for it: the process is about to end anyway."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await closing()


def _access(settings: Settings) -> Any:
    from pyflanneld.registry.access import EtcdAccess

    return EtcdAccess(
        endpoints=settings.etcd_endpoints, prefix=settings.etcd_prefix,
        ca_file=settings.etcd_cafile, cert_file=settings.etcd_certfile, key_file=settings.etcd_keyfile,
        username=settings.etcd_username, password=settings.etcd_password,
    )


def _options(settings: Settings) -> Any:
    from pyflanneld.loops.node import Options

    return Options(
        prefix=settings.etcd_prefix, subnet_file=str(settings.subnet_file),
        wanted_links=settings.iface, public_ip=settings.public_ip,
        route_protocol=settings.route_protocol, renew_margin_s=settings.subnet_lease_renew_margin_s,
        withdraw_guard=settings.withdraw_guard, protected=_etcd_addresses(settings, IPv4Address),
        blackhole=settings.ip_blackhole_route,
        public_ipv6=settings.public_ipv6, protected6=_etcd_addresses(settings, IPv6Address),
    )


_A = TypeVar("_A", IPv4Address, IPv6Address)


def _etcd_addresses(settings: Settings, kind: type[_A]) -> frozenset[_A]:
    """Return the etcd members that are named by address: no peer's route may capture them."""
    found = set()
    for endpoint in settings.etcd_endpoints:
        with suppress(ValueError):
            found.add(kind(urlsplit(endpoint).hostname or ""))
    return frozenset(found)
