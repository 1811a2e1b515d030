"""Files that cannot be written, do not answer, or are another user's: rows F77, F97 and F99 of the fault matrix."""

import errno
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.lab.testbed import (
    REPAIR_S,
    Journal,
    gateways,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
    why_not_ready,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
PEER = {"172.7.99.0/24": "192.168.14.99"}
OLD = "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=false\n"
NEW = OLD.replace("1400", "1500")
ONCE_MORE_S = 10.0  # after two failures it is tried again within 3 s
STEPS = {
    "env.open": ("EACCES", "EROFS", "ENOSPC", "EDQUOT", "EIO"),
    "env.mid_write": ("ENOSPC", "EDQUOT", "EIO"),
    "env.fsync": ("EIO", "ENOSPC"),
    "env.before_rename": ("EIO", "EROFS", "EACCES"),
    "env.dirsync": ("EIO",),
}
QUICK = {("env.mid_write", "ENOSPC"), ("env.dirsync", "EIO")}
FAILURES = [
    pytest.param(step, name, marks=[] if (step, name) in QUICK else pytest.mark.thorough)
    for step, names in STEPS.items()
    for name in names
]


@pytest.fixture
def node(site: Lab) -> Iterator[LabHost]:
    """The first host of the site, without a daemon; there is a peer, and a file with another MTU."""
    node = site.nodes[0]
    store_of(site).put(lease_key("172.7.99.0/24"), lease_value(PEER["172.7.99.0/24"]))
    node.subnet_file.write_text(OLD)
    yield node
    node.exec("ip", "link", "set", "eth1", "mtu", "1500")


def trouble(node: LabHost, journal: Journal, words: str) -> None:
    """The daemon lives and says what is wrong; lease and routes are there, the node is not ready."""
    assert words in journal.wait("subnet_file.failed", timeout_s=15)["condition"]
    until(lambda: words in why_not_ready(node), f"{node.name} is not ready for it")
    assert node.get("/healthz")[0] == 200
    node.wait_routes(PEER)
    assert journal.events("lease.acquired")


@pytest.mark.parametrize(("step", "name"), FAILURES)
def test_f77_a_step_fails_twice(node: LabHost, site: Lab, step: str, name: str, measured: Measured) -> None:
    """Each step of the writing fails as a disk may: lease kept, routes served, not ready, the old file whole and alone
    in its directory; done by itself as soon as the disk works."""
    journal = Journal(node)
    launch(node, failpoints=f"{step}=errno:{name}*2")
    trouble(node, journal, os.strerror(getattr(errno, name)))
    began, keys = time.monotonic(), store_of(site).kvs()
    assert node.subnet_file.read_text() == (NEW if step == "env.dirsync" else OLD)  # it has its name by then
    assert [path.name for path in node.subnet_file.parent.glob(".subnet.env.*")] == []
    node.wait_ready(ONCE_MORE_S)
    measured(f"{name}: not ready, routes served; ready {time.monotonic() - began:.1f} s after the second failure")
    assert node.subnet_file.read_text() == NEW
    assert store_of(site).kvs() == keys
    assert gateways(node) == PEER
    assert len(journal.events("subnet_file.failed")) == 1
    assert journal.events("condition.resolved", topic="file")


def leased(lab: Lab, node: LabHost) -> str:
    """Return what the file must say of the lease that etcd has for the node."""
    held = store_of(lab).kvs(f"{PREFIX}/subnets/")
    [key] = [key for key, kv in held.items() if str(node.address.ip) in kv.value.decode()]
    network = key.rpartition("/")[2].replace("-", "/")
    return NEW.replace("172.7.21.1/24", f"{IPv4Network(network)[1]}/24")


def inside(node: LabHost, command: str) -> None:
    """Run a command where the daemon sees its files."""
    subprocess.run(["nsenter", f"--target={pid_of(node)}", "--mount", "sh", "-c", command], check=True)


def test_f77_a_read_only_disk(node: LabHost, measured: Measured) -> None:
    """A right file on a read-only disk is all that is needed. When it must change, the old one stays, whole; the node
    is not ready until the disk is writable again."""
    node.subnet_file.write_text(NEW)
    folder = node.subnet_file.parent
    journal = Journal(node)
    launch(node, prepare=f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}")
    node.wait_ready()
    assert not journal.events("subnet_file.failed")
    node.exec("ip", "link", "set", "eth1", "mtu", "1400")
    trouble(node, journal, "Read-only")
    assert node.subnet_file.read_text() == NEW
    began = time.monotonic()
    inside(node, f"mount -o remount,rw,bind {folder}")
    node.wait_ready(ONCE_MORE_S)
    assert node.subnet_file.read_text() == OLD
    measured(f"read-only disk: ready as long as the file is right; {time.monotonic() - began:.1f} s after it was cured")


@pytest.mark.thorough
def test_f77_the_directory_goes_away(node: LabHost, site: Lab, measured: Measured) -> None:
    """A missing directory is made, at the start and again when somebody has removed it."""
    folder = node.subnet_file.parent / "run" / "flannel"
    launch(node, subnet_file=f"{folder}/subnet.env")
    node.wait_ready()
    assert (folder / "subnet.env").read_text() == leased(site, node)
    shutil.rmtree(folder.parent)
    began = time.monotonic()
    until((folder / "subnet.env").exists, "the file is there again", 90)
    measured(f"directory removed: made again after {time.monotonic() - began:.0f} s")
    assert (folder / "subnet.env").read_text() == leased(site, node)
    assert node.ready()
    assert gateways(node) == PEER


@pytest.mark.parametrize("to", ["a file", "nothing", "a device"])
def test_f77_a_symbolic_link_in_its_place(node: LabHost, site: Lab, to: str, tmp_path: Path) -> None:
    """A link is replaced, never followed: what it leads to stays as it is."""
    precious = tmp_path / "precious"
    if to == "a file":
        precious.write_text("precious")
    target = Path("/dev/full") if to == "a device" else precious
    node.subnet_file.unlink()
    node.subnet_file.symlink_to(target)
    launch(node)
    node.wait_ready()
    assert not node.subnet_file.is_symlink()
    assert node.subnet_file.read_text() == leased(site, node)
    assert precious.exists() == (to == "a file")
    if to == "a file":
        assert precious.read_text() == "precious"


def test_f77_a_directory_in_its_place(node: LabHost, site: Lab, measured: Measured) -> None:
    """A directory with that name is left alone, with what is in it; ready as soon as somebody has moved it."""
    node.subnet_file.unlink()
    node.subnet_file.mkdir()
    (node.subnet_file / "kept").touch()
    journal = Journal(node)
    launch(node)
    trouble(node, journal, "directory")
    aside = node.subnet_file.with_suffix(".aside")
    node.subnet_file.rename(aside)
    began = time.monotonic()
    node.wait_ready(ONCE_MORE_S)
    measured(f"a directory in its place: ready {time.monotonic() - began:.1f} s after it was moved")
    assert [path.name for path in aside.iterdir()] == ["kept"]
    shutil.rmtree(aside)
    assert node.subnet_file.read_text() == leased(site, node)


# F97: files that do not answer

STOP_S = 5.0
SLOW_S = 25
ROUTE = ("172.7.99.0/24", "via", PEER["172.7.99.0/24"])


def serves(node: LabHost) -> float:
    """See that the daemon answers and repairs a route while a file holds it up; return how long the repair took."""
    assert node.get("/healthz", timeout_s=5.0)[0] == 200
    node.exec("ip", "route", "del", ROUTE[0])
    took_s = until(lambda: gateways(node) == PEER, "the route is back", 10)
    assert node.get("/healthz", timeout_s=5.0)[0] == 200
    return took_s


def stops(node: LabHost, journal: Journal) -> float:
    """Stop the daemon, as asked, in time; return how long that took."""
    began = time.monotonic()
    assert node.stop(timeout_s=STOP_S) == 0
    assert journal.events("daemon.stopped")
    return time.monotonic() - began


def test_f97_a_slow_disk(node: LabHost, site: Lab, measured: Measured) -> None:
    """An fsync that takes 25 s: it is reported, health answers, a route is repaired at once, and a stop does not wait;
    the old file is whole, and the next start writes the new one."""
    journal = Journal(node)
    launch(node, failpoints=f"env.fsync=sleep:{SLOW_S}")
    trouble(node, journal, "no answer within 5 s")
    repaired_s = serves(node)
    assert repaired_s < REPAIR_S
    stopped_s = stops(node, journal)
    assert node.subnet_file.read_text() == OLD
    measured(f"fsync of {SLOW_S} s: repaired after {repaired_s * 1000:.0f} ms, stopped after {stopped_s:.1f} s")
    launch(node)
    node.wait_ready()
    assert node.subnet_file.read_text() == leased(site, node)
    assert [path.name for path in node.subnet_file.parent.glob(".subnet.env.*")] == []


@pytest.mark.thorough
def test_f97_a_slow_disk_is_waited_for(node: LabHost, measured: Measured) -> None:
    """It is written in the end, once, and the node is ready."""
    journal = Journal(node)
    launch(node, failpoints=f"env.fsync=sleep:{SLOW_S - 15}")
    trouble(node, journal, "no answer within 5 s")
    began = time.monotonic()
    node.wait_ready(SLOW_S)
    measured(f"fsync of {SLOW_S - 15} s: ready {time.monotonic() - began:.0f} s after it was reported")
    assert node.subnet_file.read_text() == NEW


class Disk:
    """A file system of its own, which can be frozen: writes to it wait in the kernel, and no signal ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "disk"
        self._image = folder / "disk.img"

    def mount(self) -> bool:
        """Make it; return whether this machine can."""
        self.folder.mkdir()
        with self._image.open("wb") as image:
            image.truncate(32 << 20)
        made = subprocess.run(["mkfs.ext4", "-q", self._image], capture_output=True, check=False)
        if made.returncode:
            return False
        mounted = subprocess.run(["mount", "-o", "loop", self._image, self.folder], capture_output=True, check=False)
        return mounted.returncode == 0

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", self.folder], check=True)

    def thaw(self) -> None:
        subprocess.run(["fsfreeze", "--unfreeze", self.folder], check=False, capture_output=True)

    def umount(self) -> None:
        self.thaw()
        until(lambda: not subprocess.run(["umount", self.folder], check=False, capture_output=True).returncode,
              "it is not used any more", 10)  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    if disk.folder.is_mount():
        disk.umount()


def test_f97_a_frozen_file_system(node: LabHost, disk: Disk, measured: Measured) -> None:
    """The subnet file, the metrics and the saved state are on it: all is reported, nothing else is held up, and the
    process is gone in time, though its writes are not."""
    if not disk.mount():
        measured("no file system can be made on this machine: the slow disk alone was played")
        return
    file, journal = disk.folder / "flannel" / "subnet.env", Journal(node)
    launch(
        node, subnet_file=str(file), metrics_textfile=str(disk.folder / "x.prom"), state_dir=str(disk.folder / "state")
    )
    node.wait_ready()
    until((disk.folder / "state" / "last-good.json").exists, "the state is saved", 15)
    before = file.read_text()
    disk.freeze()
    node.exec("ip", "link", "set", "eth1", "mtu", "1400")
    trouble(node, journal, "no answer within 5 s")
    journal.wait("metrics.file_failed", timeout_s=30)
    repaired_s = serves(node)
    assert repaired_s < REPAIR_S
    stopped_s = stops(node, journal)
    measured(f"frozen: repaired after {repaired_s * 1000:.0f} ms, stopped after {stopped_s:.1f} s")
    assert file.read_text() == before
    disk.thaw()
    launch(node, subnet_file=str(file))
    node.wait_ready()
    assert file.read_text() == before.replace("1500", "1400")
    assert node.stop() == 0


def test_f97_a_fifo_for_the_metrics(node: LabHost, measured: Measured) -> None:
    """Nobody reads it: it is refused with the reason, and holds up nothing."""
    fifo = node.process.folder / "fifo.prom"
    os.mkfifo(fifo)
    journal = Journal(node)
    launch(node, metrics_textfile=str(fifo))
    node.wait_ready()
    assert "not a regular file" in journal.wait("metrics.file_failed", timeout_s=15)["condition"]
    measured(f"a FIFO: refused; stopped after {stops(node, journal):.1f} s")
    assert fifo.is_fifo() or not fifo.exists()


# F99: files that root sources

NOBODY = 65534


def test_f99_another_users_file(node: LabHost, site: Lab, measured: Measured) -> None:
    """In a sticky directory another user was first, with the right text, for everybody to write: it is ours when the
    node is ready, and so it is again after the next look."""
    launch(node)
    node.wait_ready()
    right = node.subnet_file.read_text()
    assert node.stop() == 0
    folder = Path("/tmp") / f"{site.name}-sticky"  # noqa: S108 - as root has made it
    folder.mkdir()
    try:
        folder.chmod(0o1777)
        file = folder / "subnet.env"
        file.write_text(right)
        file.chmod(0o666)
        os.chown(file, NOBODY, NOBODY)
        with file.open("r+") as theirs:
            launch(node, subnet_file=str(file))
            node.wait_ready()
            theirs.write("touch /root/x")
        status = file.stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode), file.read_text()) == (0, 0o644, right)
        assert not Journal.whole(node).events("subnet_file.exposed")
        assert node.stop() == 0
    finally:
        shutil.rmtree(folder)
    measured("another user's file, 0666, with the right text: replaced at the start by one of root's, 0644")


def test_f99_another_users_directory(node: LabHost, measured: Measured) -> None:
    """It is written to, and reported with what mends it; a link of its owner's for the metrics leads nowhere."""
    folder = node.process.folder / "theirs"
    folder.mkdir()
    precious = node.process.folder / "precious"
    precious.write_text("precious")
    (folder / "x.prom").symlink_to(precious)
    os.chown(folder, NOBODY, NOBODY)
    journal = Journal(node)
    launch(node, subnet_file=str(folder / "subnet.env"), metrics_textfile=str(folder / "x.prom"))
    node.wait_ready()
    assert f"{folder} belongs to uid {NOBODY}: chown root" in journal.wait("subnet_file.exposed")["condition"]
    until(lambda: not (folder / "x.prom").is_symlink(), "the metrics are there", 30)
    assert precious.read_text() == "precious"
    measured("another user's directory: reported; his link in the metrics' place replaced, its target untouched")
    assert node.stop() == 0
