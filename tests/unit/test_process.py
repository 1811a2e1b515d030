"""The process around the daemon: what signals find before its loop and behind it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# A run whose daemon ends at once; then the signals come for which the loop has had handlers.
SCRIPT = """
import os, signal, sys
from pyflanneld import cli
from pyflanneld.daemon import run

async def end(self):
    return

run.Daemon.run = end
code = cli.main(sys.argv[1:])
for number in (signal.SIGUSR1, signal.SIGHUP):
    os.kill(os.getpid(), number)
sys.exit(code)
"""


# What the daemon inherits from whoever starts it: signals that are blocked, and some that are ignored.
INHERITED = """
import os, signal, sys
from pyflanneld import cli
from pyflanneld.daemon import run

async def end(self):
    handled = [signal.getsignal(number) is not signal.SIG_IGN for number in (signal.SIGTERM, signal.SIGINT)]
    assert all(handled) and signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
    os.kill(os.getpid(), signal.SIGTERM)
    await __import__("asyncio").sleep(30)

run.Daemon.run = end
for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1})
sys.exit(cli.main(sys.argv[1:]))
"""


# A signal that comes while the loop is being made, and is as good as half made.
HALF_MADE = """
import os, signal, sys
from pyflanneld import cli
from pyflanneld.system.threads import DaemonLoop

whole = DaemonLoop._make_self_pipe

def interrupted(self):
    os.kill(os.getpid(), signal.SIGTERM)
    whole(self)

DaemonLoop._make_self_pipe = interrupted
sys.exit(cli.main(sys.argv[1:]))
"""


pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs CAP_NET_ADMIN"),
]


def ended(script: str, folder: Path, *more: str) -> str:
    """Return the log of a daemon that *script* has run; it has to end well."""
    flags = [f"--subnet-file={folder}/subnet.env", f"--etcd-prefix={folder}", "--healthz-port=0", *more]
    command = [sys.executable, "-c", script, *flags, "--etcd-endpoints=http://127.0.0.1:1", "--metrics-bind=off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_f75_signals_inherited_as_ignored_or_blocked(tmp_path: Path) -> None:
    """TERM stops it, and the end of a program is noticed, whatever was blocked or ignored before."""
    assert "daemon.stopping" in ended(INHERITED, tmp_path)


def test_f75_stopped_while_the_loop_is_made(tmp_path: Path) -> None:
    """The loop is not left half made, which Python would report outside the log: all that is written are its lines."""
    lines = ended(HALF_MADE, tmp_path, "--log-format=json").splitlines()
    assert [json.loads(line)["event"] for line in lines][-2:] == ["daemon.stopping", "daemon.stopped"]


def test_signals_that_ask_for_something_never_end_it(tmp_path: Path) -> None:
    """USR1 and HUP that come when the loop is closed already, and the process is not yet gone, do no harm."""
    ended(SCRIPT, tmp_path)
