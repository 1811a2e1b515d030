"""Log lines: structlog events with fields, on stderr, for people (console) or machines (json). Shell side.

One event is one line, exceptions included in JSON; on the console a traceback follows, marked so that it cannot be
taken for an event. What may stand in a line is decided in ``logsafe``. A log that cannot be written is lost; it never
stops the daemon.
"""

import json
import logging
import sys
import traceback
from collections.abc import MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from pyflanneld.logs import sanitise

EventDict = MutableMapping[str, Any]

_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_BOLD, _RESET = "\x1b[1m", "\x1b[0m"

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
"""What is logged, by the least level."""


def configure(log_format: Literal["console", "json"], verbosity: int, *more: structlog.typing.Processor) -> None:
    """Set up structlog, and the standard library's logging for our dependencies, to write to stderr.

    Args:
        log_format: ``"console"`` for people, coloured on a terminal only; ``"json"``: one object per line.
        verbosity: 0 for info and above, 1 and more for debug too. Dependencies: warnings and above, always.
        more: what else sees, or changes, each event before it is written; it is safe by then.
    """
    prepare: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_time,
        _take_exception,
        _make_safe,
        *more,
    ]
    render = render_json if log_format == "json" else Console(coloured=_stderr_is_terminal())
    structlog.configure(
        processors=[*prepare, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbosity > 0 else logging.INFO),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,  # a test can then capture what a module logs through its own logger
    )
    handler = _StdlibHandler()
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


def level() -> str:
    """Return the name of the level in force."""
    log = structlog.get_logger()
    return next(name for name, number in LEVELS.items() if log.is_enabled_for(number))


def set_level(name: str) -> None:
    """Change the level, for every logger at once. Raises ``ValueError`` for what is not in ``LEVELS``."""
    if name not in LEVELS:
        raise ValueError(f"{name!a} is no level; there is: {', '.join(LEVELS)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LEVELS[name]))


def render_json(_logger: object, _method: str, event: EventDict) -> str:
    """Return the event as one JSON object, the fixed fields first."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return json.dumps(first | dict(event))


class Console:
    """Renders ``2026-01-02T03:04:05.678Z info    lease.acquired subnet=172.7.21.0/24``."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def __call__(self, _logger: object, _method: str, event: EventDict) -> str:
        """Return the line, and below it the traceback if there is one."""
        time, level, name = (str(event.pop(key, "")) for key in ("timestamp", "level", "event"))
        trace = event.pop("exception", ())
        fields = "".join(f" {key}={_shown(value)}" for key, value in event.items())
        if self._coloured:
            level, name = f"{_COLOURS.get(level, '')}{level:<7}{_RESET}", f"{_BOLD}{name}{_RESET}"
        return f"{time} {level:<7} {name}{fields}" + "".join(f"\n    | {line}" for line in trace)


def _shown(value: object) -> str:
    """Return a field's value; quoted when it could be taken for more than one field."""
    if isinstance(value, str):
        plain = value and not any(char in ' ="' for char in value)
        return value if plain else '"' + value.replace('"', '\\"') + '"'
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return _shown(",".join(str(item) for item in value))
    return json.dumps(value, ensure_ascii=False)


def _add_time(_logger: object, _method: str, event: EventDict) -> EventDict:
    now = datetime.now(UTC)
    event["timestamp"] = f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03d}Z"
    return event


def _take_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Turn ``exc_info`` into the list of the traceback's lines under ``exception``."""
    given = event.pop("exc_info", None)
    if not given:
        return event
    error = given if isinstance(given, BaseException) else (given if isinstance(given, tuple) else sys.exc_info())[1]
    if isinstance(error, BaseException):
        event["exception"] = sanitise.trace_lines("".join(traceback.format_exception(error)))
    return event


def _make_safe(_logger: object, _method: str, event: EventDict) -> EventDict:
    trace = event.pop("exception", None)
    clean: EventDict = {sanitise.escaped(str(name)): sanitise.safe(str(name), value) for name, value in event.items()}
    if trace:
        clean["exception"] = trace
    return clean


class _StderrLogger:
    """Where structlog's lines end: one write per event, errors ignored."""

    def __init__(self, *_names: object) -> None:
        """Take, and ignore, what ``structlog.get_logger`` was called with."""

    def msg(self, message: str) -> None:
        """Write one event."""
        _write(message)

    log = debug = info = warning = warn = error = critical = exception = fatal = msg


class _StdlibHandler(logging.Handler):
    """Where the standard library's records end: the same lines, the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; one that cannot even be formatted is lost."""
        with suppress(Exception, structlog.DropEvent):  # logging must not fail, and there is nowhere to say that it did
            _write(self.format(record))


def _write(line: str) -> None:
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # gone, closed, or never there
        return


def _stderr_is_terminal() -> bool:
    try:
        return sys.stderr.isatty()
    except (OSError, ValueError, AttributeError):
        return False
