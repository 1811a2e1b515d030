"""The service manager: systemd's notifications, and supervisor's start script with real processes, no supervisord."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pyflanneld.daemon.process import _until_signalled
from pyflanneld.system import service_manager
from pyflanneld.system.service_manager import SdNotifier, watchdog_interval_s


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_arrives_as_one_datagram(abstract: bool, tmp_path: Path) -> None:
    """On a path and on an abstract name alike; what it quotes adds no second one."""
    target = f"@pyflanneld-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + target[1:] if abstract else target)
        manager.settimeout(5)
        notifier = SdNotifier({"NOTIFY_SOCKET": target})
        assert notifier.enabled
        for state in ("READY=1", "STATUS=two peers é"):
            notifier.send(state)
            assert manager.recv(4096).decode() == state
        notifier.send("STATUS=not ready: x\nMAINPID=1")
        assert manager.recv(4096).decode() == "STATUS=not ready: x\\nMAINPID=1"


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


ASK = """
import os, sys
from pyflanneld.system import service_manager
if "orphaned" in sys.argv:
    while os.getpgid(os.getppid()) == os.getpgrp():
        pass
print(service_manager.has_start_script(os.environ), service_manager.follow_start_script())
"""


def answer(*argv: str, **environ: str) -> str:
    """Run *argv* as the leader of a group of its own, as supervisord does; return what is printed below it."""
    environ = {**os.environ, **environ}
    done = subprocess.run(
        argv, env=environ, capture_output=True, text=True, check=True, timeout=20, start_new_session=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


SUPERVISED = {"SUPERVISOR_ENABLED": "1"}
INNER = """sh -c '"$0" -c "$1"; :' "$0" "$1"; :"""


@pytest.mark.parametrize(
    ("script", "environ", "expected"),
    [
        pytest.param('"$0" -c "$1"; :', SUPERVISED, "True True", id="script"),
        pytest.param(INNER, SUPERVISED, "True True", id="script-in-script"),
        pytest.param('"$0" -c "$1" orphaned &', SUPERVISED, "True False", id="script-that-ended"),
        pytest.param('exec "$0" -c "$1"', SUPERVISED, "False False", id="exec"),
        pytest.param('"$0" -c "$1"; :', {}, "False True", id="no-supervisor"),
    ],
)
def test_a_start_script_is_told_from_supervisord(script: str, environ: dict[str, str], expected: str) -> None:
    """A script between us and supervisord is seen, also when it has ended; exec and other parents are none."""
    assert answer("sh", "-c", script, sys.executable, ASK, **environ) == expected


def test_the_end_of_the_script_is_signalled() -> None:
    """When the script is killed, the process below it gets ``SCRIPT_ENDED``, and dies of it unless it handles it."""
    waits = (
        "import time; from pyflanneld.system.service_manager import follow_start_script; "
        "print(follow_start_script(), flush=True); time.sleep(20)"
    )
    script = subprocess.Popen(
        ["sh", "-c", '"$0" -c "$1"; :', sys.executable, waits], stdout=subprocess.PIPE, start_new_session=True
    )
    assert script.stdout is not None
    with script, script.stdout:
        assert script.stdout.readline() == b"True\n"
        script.kill()
        assert script.stdout.read() == b""  # at once: the process below the script has closed it, too


async def test_the_end_of_the_script_is_no_second_request_to_stop() -> None:
    """After a stop signal, or together with one, the news changes nothing: the daemon finishes its stop."""
    finished = []

    async def daemon() -> None:
        try:
            await asyncio.sleep(20)
        finally:
            signal.raise_signal(service_manager.SCRIPT_ENDED)
            await asyncio.sleep(0.05)
            finished.append(True)

    asyncio.get_running_loop().call_later(0.01, both)
    await _until_signalled(daemon())
    assert finished == [True]


def both() -> None:
    signal.raise_signal(service_manager.SCRIPT_ENDED)
    signal.raise_signal(signal.SIGQUIT)
