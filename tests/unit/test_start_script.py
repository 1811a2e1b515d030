"""Who started us, under supervisor: told from process groups, with real processes and without a supervisord."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from pyflanneld.daemon.process import _until_signalled
from pyflanneld.system import start_script

ASK = """
import os, sys
from pyflanneld.system import start_script
if "orphaned" in sys.argv:
    while os.getpgid(os.getppid()) == os.getpgrp():
        pass
print(start_script.is_start_script(os.environ), start_script.signal_its_end())
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
    """When the script is killed, the process that asked for it gets ``ENDED``, and dies of it unless it is handled."""
    waits = (
        "import time; from pyflanneld.system.start_script import signal_its_end; "
        "print(signal_its_end(), flush=True); time.sleep(20)"
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
            signal.raise_signal(start_script.ENDED)
            await asyncio.sleep(0.05)
            finished.append(True)

    asyncio.get_running_loop().call_later(0.01, both)
    await _until_signalled(daemon())
    assert finished == [True]


def both() -> None:
    signal.raise_signal(start_script.ENDED)
    signal.raise_signal(signal.SIGQUIT)
