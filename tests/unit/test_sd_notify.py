"""sd_notify, and the clock."""

import asyncio
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pyflanneld.system.clock import SystemClock
from pyflanneld.system.sd_notify import SdNotifier, watchdog_interval_s


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_arrives_as_one_datagram(abstract: bool, tmp_path: Path) -> None:
    """On a path and on an abstract name alike."""
    target = f"@pyflanneld-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + target[1:] if abstract else target)
        manager.settimeout(5)
        notifier = SdNotifier({"NOTIFY_SOCKET": target})
        assert notifier.enabled
        notifier.send("READY=1\nSTATUS=two peers é")
        assert manager.recv(4096).decode() == "READY=1\nSTATUS=two peers é"


@pytest.mark.parametrize(
    "target", ["", "/none/such", "@", "relative", "vsock:2:1234", "/" + "x" * 300, "/a\0b", "@" + "x" * 200]
)
def test_nobody_there_is_no_error(target: str) -> None:
    """No variable, a dead socket, a name of another kind, one that is too long: nothing happens."""
    SdNotifier({"NOTIFY_SOCKET": target}).send("READY=1")
    SdNotifier({}).send("STATUS=\udc80")


def test_a_manager_that_does_not_read_does_not_hold_us_up(tmp_path: Path) -> None:
    """With a full queue a message is lost after a moment; the daemon goes on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        notifier = SdNotifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    filler.sendto(b"x", str(tmp_path / "notify"))
        begun = time.monotonic()
        notifier.send("WATCHDOG=1")
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 30}, None),
        ({"WATCHDOG_USEC": "٣"}, None),
        ({"WATCHDOG_PID": "42"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(environ: dict[str, str], interval: float | None) -> None:
    """Half of WATCHDOG_USEC, in seconds, if it is meant for this process; nonsense is no watchdog."""
    assert watchdog_interval_s(environ, 42) == interval


def test_the_clock_is_boottime() -> None:
    """now_s does not go back, follows CLOCK_BOOTTIME, and the machine has slept no negative time."""
    clock = SystemClock()
    first = clock.now_s()
    assert first <= time.clock_gettime(time.CLOCK_BOOTTIME) <= clock.now_s()
    assert clock.suspended_s() > -0.1
    asyncio.run(clock.sleep(0))
