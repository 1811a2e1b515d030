"""One daemon for one network and one file, per network namespace."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyflanneld.errors import AlreadyRunning
from pyflanneld.system.lock import hold, network_key

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
    """Same network with another file, or same file with another network: an error that names which."""
    with hold("net-a", tmp_path / "a"):
        with pytest.raises(AlreadyRunning, match="etcd prefix"), hold("net-a", tmp_path / "b"):
            pass
        with pytest.raises(AlreadyRunning, match=str(tmp_path / "a")), hold("net-b", tmp_path / "a"):
            pass
        with hold("net-b", tmp_path / "b"):
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
