"""Tool: run programs, wait with a deadline, and check that the machine has what the laboratory needs.

The laboratory configures the kernel with ``ip``, as an operator would, so that each step can be repeated by hand.
Foreseeable failures become a ``LabError`` whose one line says what to do.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from pyflanneld.errors import PyflanneldError

PACKAGES = {"ip": "iproute2", "etcd": "etcd-server", "etcdctl": "etcd-client", "ping": "iputils-ping"}
"""The programs that the laboratory starts, and the Debian packages that provide them."""

POLL_S = 0.005
STEP_TIMEOUT_S = 15.0


class LabError(PyflanneldError):
    """The laboratory cannot continue; the message says in one line why and, where possible, what to do."""


def require_machine() -> None:
    """Check that network namespaces can be created and that no program is missing.

    Raises:
        LabError: one of them does not hold; the message says what to do.
    """
    if missing := [program for program in PACKAGES if shutil.which(program) is None]:
        packages = " ".join(PACKAGES[program] for program in missing)
        raise LabError(f"missing: {', '.join(missing)}; as root: apt-get install {packages}")
    if os.geteuid() != 0:
        raise LabError("network namespaces need root: run this with sudo")


def run(*command: str, env: Mapping[str, str] | None = None, timeout_s: float = STEP_TIMEOUT_S) -> str:
    """Run a program to its end and return what it printed.

    Raises:
        LabError: it could not be started, took too long, or failed; the message ends with its last line of output.
    """
    done = attempt(*command, env=env, timeout_s=timeout_s)
    if done.returncode != 0:
        last_line = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()[-1]
        raise LabError(f"{' '.join(command)}: {last_line}")
    return done.stdout


def attempt(
    *command: str, env: Mapping[str, str] | None = None, timeout_s: float = STEP_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever its exit code; for commands that are allowed to fail.

    Raises:
        LabError: it could not be started or took too long.
    """
    try:
        return subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=None if env is None else {**os.environ, **env},
            timeout=timeout_s,
        )
    except OSError as error:
        raise LabError(f"{' '.join(command)}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command)}: no end after {timeout_s:.0f} s") from error


def until(condition: Callable[[], bool], what: str, timeout_s: float = STEP_TIMEOUT_S, poll_s: float = POLL_S) -> float:
    """Poll *condition* until it holds; return how many seconds that took.

    Raises:
        LabError: it does not hold within *timeout_s*; *what* names it in the message.
    """
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise LabError(f"{what}: not within {timeout_s:g} s")
        time.sleep(poll_s)
    return time.monotonic() - started


def clean_environment(environ: Mapping[str, str], keep_out: Sequence[str] = ("FLANNELD_", "ETCD_")) -> dict[str, str]:
    """Return *environ* without the variables that would configure a daemon or etcd."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith((*keep_out, "ETCDCTL_")) and name not in {"NOTIFY_SOCKET", "WATCHDOG_USEC"}
    }
