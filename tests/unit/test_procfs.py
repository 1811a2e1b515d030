"""Facts from ``/proc``, on this host: its own sockets and processes."""

import os
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from pyflanneld.system import lock, procfs

EVERY = "0.0.0.0"  # noqa: S104 - for a moment, and nothing is accepted


@pytest.mark.parametrize(
    ("bound", "asked", "meets"),
    [
        ("127.0.0.1", "127.0.0.1", True), ("127.0.0.1", EVERY, True), ("127.0.0.1", "127.0.0.2", False),
        (EVERY, "127.0.0.1", True), ("::", "127.0.0.1", True), ("::1", "::1", True), ("::1", "127.0.0.1", False),
        ("127.0.0.1", "::", True),
    ],
)  # fmt: skip
def test_who_listens(bound: str, asked: str, meets: bool) -> None:
    """A listener is found where it conflicts: the addresses are equal, or one of them is the wildcard."""
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family) as server:
        port = server.getsockname()[1]
        found = procfs.tcp_listener(ip_address(asked), port)
        assert (found is not None) == meets
        if found is not None:
            assert found.address == (f"[{bound}]:{port}" if ":" in bound else f"{bound}:{port}")
    assert procfs.tcp_listener(ip_address(asked), port) is None


def test_who_holds_a_lock(tmp_path: Path) -> None:
    """The holder of a daemon's lock is found by the name, and its process by its number."""
    script = (
        "import sys, time; from pathlib import Path; from pyflanneld.system import lock\n"
        "with lock.hold('net', Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    names = list(lock.lock_names("net", tmp_path / "subnet.env"))
    assert [lock.holders(name) for name in names] == [[], []]
    with subprocess.Popen([sys.executable, "-c", script, tmp_path / "subnet.env"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for name in names:
                assert name in procfs.abstract_names()
                [holder] = lock.holders(name)
                owner = procfs.process(holder.pid)
                assert owner is not None
                assert (owner.pid, owner.parent, owner.leads) == (process.pid, os.getpid(), False)
                assert owner.words[1] == "-c"
        finally:
            process.kill()


def test_this_process_is_left_out() -> None:
    """Other processes of this network namespace are listed, such as the parent; the calling one is not."""
    pids = {process.pid for process in procfs.processes()}
    assert os.getpid() not in pids
    assert os.getppid() in pids


def test_kernel_settings() -> None:
    """An existing setting is read; one that does not exist is None."""
    assert procfs.sysctl("net/ipv4/ip_forward") in ("0", "1")
    assert procfs.sysctl("net/ipv4/no_such_thing") is None
