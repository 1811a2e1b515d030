"""The daemon's process: its signals, its lock, its start script, and the exit code with which it ends."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import structlog

from pyflanneld import __version__
from pyflanneld.config.settings import Settings
from pyflanneld.daemon.wiring import STATE_SIGNAL, prepared, serve
from pyflanneld.errors import AlreadyRunning, PyflanneldError, UsageError
from pyflanneld.logs.processors import RateLimit, RecentEvents
from pyflanneld.logs.setup import configure_logging
from pyflanneld.logs.volume import VolumeLimit
from pyflanneld.logs.writer import LogWriter
from pyflanneld.state.wakeup import WakeUp
from pyflanneld.system import lock, privileges, service_manager
from pyflanneld.system.threads import DaemonLoop

LAST_WORDS_S = 0.05  # for the log to say that we stop: a second signal ends the process
PREDECESSOR_S = 10.0  # twice what a stop may take
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
RELOAD_SIGNAL = signal.SIGHUP


def run_daemon(settings: Settings) -> int:
    """Run the daemon until it is asked to stop; log in one line why it ends when it ends by itself."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whoever started us may have blocked some,
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # and ignored this one: ends of programs would go unnoticed
    for number in STOP_SIGNALS:
        signal.signal(number, _stop_early)  # until the loop has handlers of its own
    hangup = WakeUp()
    signal.signal(RELOAD_SIGNAL, partial(_hang_up, hangup))
    signal.signal(STATE_SIGNAL, signal.SIG_IGN)  # until there is a state to log
    privileges.forbid_core_dumps()
    with _logging(settings) as (writer, recent):
        return _run(settings, writer, recent, hangup)


@contextmanager
def _logging(settings: Settings) -> Iterator[tuple[LogWriter, RecentEvents]]:
    """Log for the length of the block; in the end what is still queued is written, within bounds."""
    descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    writer, recent, volume = LogWriter(descriptor, _lines_lost), RecentEvents(), VolumeLimit(time.monotonic)
    processors = (RateLimit(time.monotonic), volume, recent)
    configure_logging(settings.log_format, settings.verbosity, *processors, write=writer.write)
    try:
        yield writer, recent
    finally:
        volume.tell()
        writer.close()


def _lines_lost(count: int) -> None:
    structlog.get_logger("pyflanneld").warning("log.lines_lost", count=count)


def _run(settings: Settings, writer: LogWriter, recent: RecentEvents, hangup: WakeUp) -> int:
    log = structlog.get_logger("pyflanneld")
    log.info(
        "daemon.started", version=__version__, pid=os.getpid(), etcd=settings.etcd_endpoints,
        prefix=settings.etcd_prefix, subnet_file=str(settings.subnet_file),
    )
    for warning in settings.warnings:
        log.warning("settings.warned", warning=warning)
    scripted = service_manager.has_start_script(os.environ)
    if scripted and not _follow_start_script(log):
        return 0
    try:
        with _alone(settings, log, patient=scripted) as held, prepared(settings, log, writer) as ready:
            early = _note_signals()
            with asyncio.Runner(loop_factory=DaemonLoop) as runner:
                daemon = serve(settings, log, recent, hangup, ready)
                runner.run(_until_signalled(daemon, held.sockets, partial(writer.flush, LAST_WORDS_S), early))
    except _StoppedEarly:
        pass
    except UsageError:
        raise
    except Exception as raised:
        error = _most_severe(raised)
        if error is None:
            log.exception("daemon.crashed", exit_code=1)
            return 1
        log.error("daemon.failed", error=str(error), exit_code=error.exit_code)  # noqa: TRY400 - the text says it all
        return error.exit_code
    log.info("daemon.stopped")
    return 0


class _StoppedEarly(SystemExit):
    """A signal has asked to stop while nothing has been touched yet."""


def _stop_early(_number: int, _frame: FrameType | None) -> None:
    raise _StoppedEarly(0)


def _note_signals() -> list[int]:
    """Return a list that takes what signals ask to stop: from now on no exception may come in between.

    A loop that is half made complains of it, and nothing waits any more until there are handlers that look here.
    """
    early: list[int] = []
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, _frame: early.append(number))
    return early


def _hang_up(hangup: WakeUp, _number: int, _frame: FrameType | None) -> None:
    """Have everything read anew. No handler of the loop's own, which would be gone before the process is."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        hangup.set()
    else:
        loop.call_soon_threadsafe(hangup.set)  # we may be anywhere in the loop's own code


def _follow_start_script(log: Any) -> bool:
    """Arrange for the daemon to end with its start script; return whether there is anything left to follow."""
    try:
        alive = service_manager.follow_start_script()
    except OSError as error:
        log.warning("start_script.not_followed", error=str(error))
        return True
    if not alive:
        log.info("daemon.stopped", reason=_SCRIPT_ENDED)
    return alive


_SCRIPT_ENDED = "start script ended"


@contextmanager
def _alone(settings: Settings, log: Any, *, patient: bool) -> Iterator[lock.Held]:
    """Hold this network and its files for the length of the block.

    Args:
        settings: name them.
        log: where a wait is reported.
        patient: wait for another daemon to finish its stop. Behind a start script supervisord does not know when that
            is: it takes the end of the script for the daemon's, and may start the next one at once.
    """
    network = lock.network_key(settings.etcd_prefix, settings.etcd_endpoints)
    hold = partial(lock.hold, network, settings.subnet_file, settings.state_dir)
    with ExitStack() as stack:
        try:
            held = stack.enter_context(hold())
        except AlreadyRunning as error:
            if not patient:
                raise
            log.info("lock.awaited", held=str(error), timeout_s=PREDECESSOR_S)
            held = stack.enter_context(hold(wait_s=PREDECESSOR_S))
        for stranger in held.strangers:
            log.warning("lock.name_bound", pid=stranger.pid, uid=stranger.uid)
        yield held


def _most_severe(raised: Exception) -> PyflanneldError | None:
    """Return the error that decides the exit code, a lost lease before anything else; ``None`` for a defect."""
    if isinstance(raised, ExceptionGroup):
        parts = [_most_severe(part) for part in raised.exceptions]
        known = [part for part in parts if part is not None]
        return max(known, key=lambda error: error.exit_code) if len(known) == len(parts) else None
    return raised if isinstance(raised, PyflanneldError) else None


async def _until_signalled(
    main_: Coroutine[Any, Any, None], locks: Sequence[socket.socket] = (), flush_log: Callable[[], object] = bool,
    early: Sequence[int] = (),
) -> None:
    """Run *main_* until it ends or a signal asks to stop; a second signal ends the process at once.

    *early* has the signals that came before: *main_* does not begin then.
    """
    for sock in locks:
        lock.answer(sock)
    loop, task = asyncio.get_running_loop(), asyncio.create_task(main_, name="daemon")

    def stop(**why: str) -> None:
        if task.cancelling():  # the end of the start script, after a signal to the whole group
            return
        task.cancel()
        structlog.get_logger("pyflanneld").info("daemon.stopping", **why)
        flush_log()
        for one in STOP_SIGNALS:
            loop.remove_signal_handler(one)
            signal.signal(one, signal.SIG_DFL)  # of INT the loop would make an exception, with a traceback in the log

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, partial(stop, signal=number.name))
    loop.add_signal_handler(service_manager.SCRIPT_ENDED, partial(stop, reason=_SCRIPT_ENDED))
    if early:
        stop(signal=signal.Signals(early[0]).name)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
