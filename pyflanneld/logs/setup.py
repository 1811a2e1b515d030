"""The log's set-up: structlog events with fields, on stderr, for people (console) or machines (JSON).

One event is one line. In JSON an exception is part of its line; on the console its traceback follows, marked so that
no line of it looks like an event. ``sanitise`` decides what may stand in a line. A log that cannot be written is lost;
it never stops the daemon, which has its lines written by ``writer``.
"""

import json
import logging
import sys
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

import structlog

from pyflanneld.core.printable import FIELD_CHARS, printable
from pyflanneld.logs import sanitise

EventDict = MutableMapping[str, Any]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
"""The levels that an operator can set; events below the level are not logged."""

_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_BOLD, _RESET = "\x1b[1m", "\x1b[0m"


class Write(Protocol):
    """Writes one event; an *urgent* one is a warning or more."""

    def __call__(self, line: str, *, urgent: bool) -> None:
        """Write *line*; never raises."""
        ...


def _to_stderr(line: str, *, urgent: bool) -> None:  # noqa: ARG001
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # gone, closed, or never there
        return


def configure_logging(
    log_format: Literal["console", "json"],
    verbosity: int,
    *more: structlog.typing.Processor,
    write: Write = _to_stderr,
) -> None:
    """Set up structlog, and the standard library's logging for our dependencies, to write to stderr.

    Args:
        log_format: ``"console"`` for people, coloured on a terminal only; ``"json"``: one object per line.
        verbosity: 0 for info and above, 1 and more for debug too. Dependencies: warnings and above, always.
        more: further processors, between the sanitising and the renderer.
        write: writes what is rendered; by default to stderr, which may wait for whoever reads it.
    """
    prepare: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_time,
        _make_safe,
        structlog.processors.ExceptionRenderer(_trace_lines),
        *more,
    ]
    render = structlog.processors.JSONRenderer() if log_format == "json" else Console(coloured=_stderr_is_terminal())
    structlog.configure(
        processors=[*prepare, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbosity > 0 else logging.INFO),
        logger_factory=lambda *_names: _Logger(write),
        cache_logger_on_first_use=False,  # a test can then capture what a module logs through its own logger
    )
    handler = _StdlibHandler(write)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *prepare, render],
            use_get_message=True,
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # On import it warns of a missing /proc/net/psched, which the systemd unit hides. Nothing here does traffic control.
    logging.getLogger("pyroute2.netlink.rtnl.tcmsg").setLevel(logging.ERROR)


def log_level() -> str:
    """Return the name of the level in force."""
    log = structlog.get_logger()
    return next(name for name, number in LEVELS.items() if log.is_enabled_for(number))


def set_log_level(name: str) -> None:
    """Change the level, for every logger at once. Raises ``ValueError`` for what is not in ``LEVELS``."""
    if name not in LEVELS:
        raise ValueError(f"{name!a} is no level; there is: {', '.join(LEVELS)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LEVELS[name]))


class Console:
    """Renders ``2026-01-02T03:04:05.678Z info    lease.acquired subnet=172.7.21.0/24``.

    structlog's ``ConsoleRenderer`` needs as much code to leave out its brackets and padding, and to mark tracebacks.
    """

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, _logger: object, _method: str, event: EventDict) -> str:
        """Return the line, and below it the traceback if there is one."""
        time, level, name = (str(event.pop(key, "")) for key in ("timestamp", "level", "event"))
        trace = event.pop("exception", ())
        fields = "".join(f" {key}={_field_text(value)}" for key, value in event.items())
        if self._coloured:
            level, name = f"{_COLOURS.get(level, '')}{level:<7}{_RESET}", f"{_BOLD}{name}{_RESET}"
        return f"{time} {level:<7} {name}{fields}" + "".join(f"\n    | {line}" for line in trace)


def _field_text(value: object) -> str:
    """Return the text of a field's value, in quotes where it could pass for more than one field."""
    if isinstance(value, str):
        plain = value and not any(char in ' ="' for char in value)
        return value if plain else '"' + value.replace('"', '\\"') + '"'
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return _field_text(",".join(str(item) for item in value))
    return json.dumps(value, ensure_ascii=False)


def _add_time(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Add the time in milliseconds; structlog's ``TimeStamper`` has no such form."""
    event["timestamp"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return event


def _make_safe(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Return the event with safe names and values, the fixed fields first; ``exc_info`` is rendered later."""
    exc_info = event.pop("exc_info", None)
    fixed = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    clean: EventDict = {
        printable(str(name), FIELD_CHARS): sanitise.safe(str(name), value)
        for name, value in (fixed | dict(event)).items()
    }
    return {**clean, "exc_info": exc_info} if exc_info else clean


def _trace_lines(exc_info: structlog.typing.ExcInfo) -> list[str]:
    return sanitise.trace_lines("".join(traceback.format_exception(*exc_info)))


class _Logger:
    """Writes structlog's lines: one write per event. structlog's own loggers raise when stderr is broken."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def msg(self, message: str) -> None:
        """Write one event."""
        self._write(message, urgent=False)

    def urgent(self, message: str) -> None:
        """Write one event that is a warning or more."""
        self._write(message, urgent=True)

    log = debug = info = msg
    warning = warn = error = critical = exception = fatal = urgent


class _StdlibHandler(logging.Handler):
    """Writes the standard library's records in the same way."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self._write = write

    def createLock(self) -> None:
        """Have none: nobody has to wait for another thread's line."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; one that cannot be formatted is lost."""
        with suppress(Exception, structlog.DropEvent):  # logging must not fail, and nothing can report that it did
            self._write(self.format(record), urgent=True)


def _stderr_is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (OSError, ValueError, AttributeError):
        return False
