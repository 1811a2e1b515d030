"""One daemon for one network and one file, per network namespace."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyflanneld.errors import AlreadyRunning
from pyflanneld.system.lock import answer, hold, lock_names, network_key
from pyflanneld.system.unix_peers import listener

_HOLDER = """
import sys, signal
from pathlib import Path
from pyflanneld.system.lock import hold
with hold(sys.argv[1], Path(sys.argv[2])):
    print("held", flush=True)
    signal.pause()
"""


def start_holder(network: str, file: Path, *wrapper: str) -> subprocess.Popen[str]:
    command = [*wrapper, sys.executable, "-c", _HOLDER, network, str(file)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def end(holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.communicate()


def test_either_name_keeps_a_second_one_out(tmp_path: Path) -> None:
    """Same network with another file, or a file or state directory of another network: an error that names which."""
    with hold("net-a", tmp_path / "a"):
        with pytest.raises(AlreadyRunning, match="etcd prefix"), hold("net-a", tmp_path / "b"):
            pass
        with pytest.raises(AlreadyRunning, match=str(tmp_path / "a")), hold("net-b", tmp_path / "a"):
            pass
        with hold("net-b", tmp_path / "b"):
            pass
    with hold("net-a", tmp_path / "a", tmp_path / "state"):
        with pytest.raises(AlreadyRunning, match="state directory"), hold("net-b", tmp_path / "b", tmp_path / "state"):
            pass
        with hold("net-b", tmp_path / "b", tmp_path / "other"), hold("net-c", tmp_path / "c"):
            pass


def test_it_is_free_again_after_the_block(tmp_path: Path) -> None:
    """Leaving the block, also by an exception or an error at the second name, releases both names; no file is left."""
    with pytest.raises(ZeroDivisionError), hold("net-c", tmp_path / "c"):
        raise ZeroDivisionError
    with (
        hold("net-d", tmp_path / "c"),
        pytest.raises(AlreadyRunning),
        hold("net-c", tmp_path / "c"),
    ):
        pass
    with hold("net-c", tmp_path / "c"), hold("net-d", tmp_path / "d"):
        assert list(tmp_path.iterdir()) == []


def test_the_file_is_known_by_its_real_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path and a linked directory name the same file."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    with (
        hold("net-e", tmp_path / "real" / "subnet.env"),
        pytest.raises(AlreadyRunning),
        hold("net-f", Path("link/subnet.env")),
    ):
        pass


def test_the_holder_is_named_and_its_death_frees_the_lock(tmp_path: Path) -> None:
    """Another process: the message has its pid; kill -9 leaves nothing behind."""
    holder = start_holder("net-g", tmp_path / "g")
    try:
        for _ in range(3):  # a question takes nothing away
            with pytest.raises(AlreadyRunning, match=rf"pid {holder.pid}, uid {os.getuid()}"), hold("net-g", tmp_path):
                pass
    finally:
        end(holder)
    with hold("net-g", tmp_path / "g"):
        pass


# Another user binds our names. Each kind of impostor has no more than any user can have.

_IMPOSTOR = """
import ctypes, os, socket, sys, time, warnings
kind, *names = sys.argv[1:]
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
if kind == "root of its own namespace":
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: its own files in /proc
    assert ctypes.CDLL(None).unshare(0x10000000) == 0  # CLONE_NEWUSER
    os.write(os.open("/proc/self/uid_map", os.O_WRONLY), b"0 65534 1")
held = []
for name in names:
    for at in [name, *(f"{name}/{number:016x}" for number in range(200))] if kind == "many names" else [name]:
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].bind(chr(0) + at)
        if kind != "does not listen":
            held[-1].listen(0 if kind == "full queue" else 8)
        if kind == "full queue":
            for _ in range(2):
                held.append(socket.socket(socket.AF_UNIX)); held[-1].setblocking(False)
                try: held[-1].connect(chr(0) + at)
                except BlockingIOError: pass
for one in held: one.set_inheritable(True)
print("bound", flush=True)
if kind == "set-user-ID program":
    os.execvp("su", ["su", "root"])
time.sleep(600)
"""
KINDS = ["plain", "root of its own namespace", "does not listen", "full queue", "many names", "set-user-ID program"]


@contextmanager
def impostor(kind: str, *names: str) -> Iterator[subprocess.Popen[str]]:
    """Have another user hold these names."""
    command = [sys.executable, "-c", _IMPOSTOR, kind, *names]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "bound\n"
            yield process
        finally:
            process.kill()


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@AS_ROOT
@pytest.mark.parametrize("kind", KINDS)
def test_f98_another_user_keeps_nobody_out(kind: str, tmp_path: Path) -> None:
    """Its hold on the names is told and counts for nothing; a second daemon is kept out as ever, and the other way."""
    names, where = lock_names("net-x", tmp_path / "x"), tmp_path / "x"
    with impostor(kind, *names) as other:
        with hold("net-x", where) as held:
            told = {(stranger.pid, stranger.uid) for stranger in held.strangers}
            assert told == (set() if kind in ("does not listen", "full queue") else {(other.pid, 65534)})
            for network, file in (("net-x", tmp_path / "y"), ("net-y", where)):
                with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}, uid 0"), hold(network, file):
                    pass
        with hold("net-x", where):
            pass


@AS_ROOT
def test_f98_nobody_else_can_take_the_lock_over_when_the_other_user_leaves(tmp_path: Path) -> None:
    """The plain name is free again: who takes it sees that a daemon holds the lock under another one."""
    with impostor("plain", *lock_names("net-x", tmp_path / "x")) as other, hold("net-x", tmp_path / "x"):
        other.kill()
        other.wait()
        with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}, uid 0"), hold("net-x", tmp_path / "x"):
            pass


@AS_ROOT
def test_f98_a_daemon_that_is_not_root_is_one_of_ours(tmp_path: Path) -> None:
    """Another user with CAP_NET_ADMIN, as systemd's unit has it, keeps root's second daemon out."""
    as_user = ("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups", "--inh-caps=+net_admin",
               "--ambient-caps=+net_admin")  # fmt: skip
    tmp_path.chmod(0o755)
    holder = start_holder("net-u", tmp_path / "u", *as_user)
    try:
        with pytest.raises(AlreadyRunning, match=rf"pid {holder.pid}, uid 65533"), hold("net-u", tmp_path / "u"):
            pass
    finally:
        end(holder)


@AS_ROOT
def test_f98_a_daemon_of_an_older_version_is_seen(tmp_path: Path) -> None:
    """It holds the plain names, listens, and answers nobody; and it sees us, who hold the plain names too."""
    names = lock_names("net-o", tmp_path / "o")
    with ExitStack() as stack:
        for name in names:
            old = stack.enter_context(socket.socket(socket.AF_UNIX))
            old.bind(f"\0{name}")
            old.listen(128)
        for _ in range(3):
            with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"), hold("net-o", tmp_path / "o"):
                pass
    with hold("net-o", tmp_path / "o"), socket.socket(socket.AF_UNIX) as old:
        for name in names:
            with pytest.raises(OSError, match="in use"):
                old.bind(f"\0{name}")


def test_f98_who_asks_often_leaves_room(tmp_path: Path) -> None:
    """The queue of those that ask is emptied while the daemon runs, so that the holder is always known."""
    name = next(iter(lock_names("net-q", tmp_path / "q")))

    async def scenario() -> None:
        with hold("net-q", tmp_path / "q") as held:
            for sock in held.sockets:
                answer(sock)
            for _ in range(5):
                for _ in range(100):
                    assert listener(name) is not None
                await asyncio.sleep(0.1)

    asyncio.run(scenario())


@pytest.mark.netns
def test_another_network_namespace_is_another_host(tmp_path: Path) -> None:
    """Daemons in different network namespaces do not see each other, as their routes do not."""
    holder = start_holder("net-h", tmp_path / "h", "unshare", "--net")
    try:
        with hold("net-h", tmp_path / "h"):
            pass
    finally:
        end(holder)


def test_a_child_does_not_inherit_it(tmp_path: Path) -> None:
    """A process that we started does not keep the lock when we are gone."""
    with hold("net-i", tmp_path / "i"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with hold("net-i", tmp_path / "i"):
            pass
    finally:
        child.kill()
        child.communicate()


def test_the_key_does_not_depend_on_the_endpoints_order() -> None:
    """Order and repetition of the endpoints do not matter; the prefix and the set do."""
    assert network_key("/n", ["http://b", "http://a"]) == network_key("/n", ["http://a", "http://b", "http://a"])
    assert network_key("/n", ["http://a"]) != network_key("/m", ["http://a"])
    assert network_key("/n", ["http://a"]) != network_key("/n", ["http://a", "http://b"])


def test_with_a_wait_it_takes_over_from_a_holder_that_ends(tmp_path: Path) -> None:
    """It holds the names as soon as the other process has ended; only after the wait is it an error."""
    holder = start_holder("net-p", tmp_path / "p")
    try:
        with pytest.raises(AlreadyRunning), hold("net-p", tmp_path / "p", wait_s=0.1):
            pass
        threading.Timer(0.2, holder.kill).start()
        with hold("net-p", tmp_path / "p", wait_s=20):
            assert holder.wait(timeout=10) == -signal.SIGKILL
    finally:
        end(holder)
