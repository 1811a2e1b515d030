"""The process around the daemon: what signals find before its loop and behind it."""

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


@pytest.mark.netns
@pytest.mark.skipif(os.geteuid() != 0, reason="the daemon needs CAP_NET_ADMIN")
def test_signals_that_ask_for_something_never_end_it(tmp_path: Path) -> None:
    """USR1 and HUP that come when the loop is closed already, and the process is not yet gone, do no harm."""
    flags = [f"--subnet-file={tmp_path}/subnet.env", f"--etcd-prefix={tmp_path}", "--healthz-port=0"]
    command = [sys.executable, "-c", SCRIPT, *flags, "--etcd-endpoints=http://127.0.0.1:1", "--metrics-bind=off"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
