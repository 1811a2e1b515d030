"""Log lines: what they look like, what they never contain, and that they never stop the daemon."""

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretBytes, SecretStr

from pyflanneld.logs import sanitise
from pyflanneld.logs.setup import configure_logging

Set = Callable[..., io.StringIO]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Set]:
    """Configure logging onto a string; put everything back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def start(
        log_format: Literal["console", "json"], verbosity: int = 0, stream: io.StringIO | None = None
    ) -> io.StringIO:
        stream = stream or io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging(log_format, verbosity)
        return stream

    yield start
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_event_is_one_object_on_one_line(configured: Set) -> None:
    """Time in UTC, level, event and fields, the fixed ones first; numbers stay numbers, other values are text."""
    out = configured("json")
    structlog.get_logger().info("lease.acquired", subnet=IPv4Network("10.0.0.0/24"), revision=7, fresh=True, peer=None)
    (event,) = events(out)
    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("timestamp"))
    assert event == {
        "level": "info",
        "event": "lease.acquired",
        "subnet": "10.0.0.0/24",
        "revision": 7,
        "fresh": True,
        "peer": None,
    }


def test_a_console_event_is_one_readable_line(configured: Set) -> None:
    """Time, level, event, fields; values with spaces or quotes are quoted; no colours into a file."""
    out = configured("console")
    structlog.get_logger().warning("watch.lost", error='it said "no"', hosts=["a", "b"], detail={"x": 1}, note="")
    time, rest = out.getvalue().split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'warning watch.lost error="it said \\"no\\"" hosts=a,b detail={"x": 1} note=""\n'


def test_colours_are_for_terminals(configured: Set) -> None:
    """On a terminal the level is coloured; JSON never is."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for log_format, coloured in (("console", True), ("json", False)):
        out = configured(log_format, 0, Terminal())
        structlog.get_logger().info("x")
        assert ("\x1b[" in out.getvalue()) is coloured


def test_verbosity_adds_debug_lines(configured: Set) -> None:
    """Without -v info and above, with it debug as well."""
    for verbosity, count in ((0, 1), (1, 2), (4, 2)):
        out = configured("json", verbosity)
        structlog.get_logger().debug("detail")
        structlog.get_logger().info("state")
        assert len(events(out)) == count


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_nothing_from_outside_forges_a_line(configured: Set, log_format: Literal["console", "json"]) -> None:
    """New lines, escape sequences, direction marks and undecodable bytes are shown escaped, in names and values."""
    out = configured(log_format)
    evil = "a\n2026-01-01T00:00:00.000Z error forged\x1b[2J\r\u2028\u202e\x85\udc80"
    structlog.get_logger().warning("key\nbad", key=evil, raw=evil.encode(errors="replace"), **{"na\nme": 1})
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text[:-1].isprintable()
    assert len(text.splitlines()) == 1


@given(
    st.recursive(
        st.none() | st.floats() | st.integers() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_value_becomes_bounded_printable_json(value: object) -> None:
    """Any value becomes strict JSON without control characters; a text has at most 256 characters and their escapes."""
    text = json.dumps(sanitise.safe("field", value), allow_nan=False, ensure_ascii=False)
    assert text.isprintable()


def test_long_things_are_cut() -> None:
    """256 characters of a text, 20 items of a collection, five levels of nesting, 60 lines of a traceback."""
    assert sanitise.safe("x", "y" * 1000) == "y" * 256 + "…"
    assert sanitise.safe("x", b"y" * 10**7) == "y" * 256 + "…"
    assert sanitise.safe("x", list(range(100))) == [*range(20), "… 80 more"]
    assert sanitise.safe("x", {n: n for n in range(21)}) == {**{str(n): n for n in range(20)}, "…": 1}
    assert sanitise.safe("x", [[[[[1]]]]]) == [[[["…"]]]]
    assert len(sanitise.trace_lines("line\n" * 1000)) == 61


@pytest.mark.parametrize(
    "name", ["password", "etcd_password", "PASSWD", "auth_token", "secret", "private_key", "authorization"]
)
def test_values_of_secret_fields_are_hidden(name: str) -> None:
    """A field with the name of a secret shows ***, also inside a mapping."""
    assert sanitise.safe(name, "hush") == "***"
    assert sanitise.safe("settings", {name: ["hush"]}) == {name: "***"}


def test_secret_values_are_hidden_under_any_name() -> None:
    """SecretStr and SecretBytes show *** wherever they are; a path to a secret is not one."""
    assert sanitise.safe("x", [SecretStr("hush"), {"y": SecretBytes(b"hush")}]) == ["***", {"y": "***"}]
    assert sanitise.safe("etcd_password_file", "/etc/pw") == "/etc/pw"
    assert sanitise.safe("password", None) is None


def test_an_exception_is_part_of_its_event(configured: Set) -> None:
    """In JSON the traceback is a list of lines; its text cannot break out of it. No local variable is in it."""
    out = configured("json")
    password = "hush" + str(len("x"))
    try:
        try:
            raise ValueError("two\nlines\x1b[0m")
        except ValueError as error:
            raise ExceptionGroup("group", [error, OSError(2, "gone")]) from error
    except ExceptionGroup as group:
        structlog.get_logger().exception("loop.died", error=group)
    (event,) = events(out)
    assert event["error"].startswith("ExceptionGroup: group")
    assert any("ValueError: two" in line for line in event["exception"])
    assert all(line.isprintable() for line in event["exception"])
    assert password not in out.getvalue()


def test_a_console_traceback_is_marked(configured: Set) -> None:
    """Each line below the event is set off, so that none passes for an event."""
    out = configured("console")
    structlog.get_logger().error("x", exc_info=ValueError("one\n2026-01-01T00:00:00.000Z info forged"))
    first, *rest = out.getvalue().splitlines()
    assert first.endswith(" error   x")
    assert rest
    assert all(line.startswith("    | ") for line in rest)


def test_our_dependencies_log_the_same_way(configured: Set) -> None:
    """Warnings and above from the standard library's logging, with the logger's name; less is dropped."""
    out = configured("json", 4)
    logging.getLogger("asyncio").warning("slow %s\n", "callback")
    logging.getLogger("grpclib").info("chatter")
    (event,) = events(out)
    assert (event["level"], event["event"], event["logger"]) == ("warning", "slow callback\\n", "asyncio")


def test_python_warnings_become_events(configured: Set) -> None:
    """A warning that Python prints is an event, not a stray line between JSON objects."""
    out = configured("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("look out", stacklevel=1)
    assert "look out" in events(out)[0]["event"]


def test_a_value_that_cannot_be_shown_does_not_stop_the_caller(configured: Set) -> None:
    """A broken __str__ is named; a record with wrong arguments is lost."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    out = configured("json")
    structlog.get_logger().info("x", value=Broken())
    logging.getLogger("lib").error("%d", "x")
    assert events(out)[0]["value"] == "<Broken that cannot be shown>"


def test_context_of_a_task_is_in_its_events(configured: Set) -> None:
    """What a task binds is on each of its lines, and on those of no other task."""
    out = configured("json")

    async def work(name: str) -> None:
        structlog.contextvars.bind_contextvars(task=name)
        await asyncio.sleep(0)
        structlog.get_logger().info("turned")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work("peers"))
            group.create_task(work("lease"))

    asyncio.run(both())
    assert sorted(event["task"] for event in events(out)) == ["lease", "peers"]


_PROGRAM = """
import structlog, logging
from pyflanneld.logs.setup import configure_logging
configure_logging("console", 1)
for n in range(3):
    structlog.get_logger().error("x", n=n, exc_info=ValueError("y"))
    logging.getLogger("lib").error("x")
print("alive")
"""


@pytest.mark.parametrize("how", ["2>&-", "2>/dev/full", "2> >(exec true)"])
def test_a_broken_stderr_does_not_stop_the_daemon(how: str) -> None:
    """Closed, on a full disk, or a pipe that nobody reads any more: the lines are lost and the program goes on."""
    env = os.environ | {"PROGRAM": _PROGRAM}
    script = f'exec {sys.executable} -c "$PROGRAM" {how}'
    done = subprocess.run(["bash", "-c", script], env=env, stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout == "alive\n"
