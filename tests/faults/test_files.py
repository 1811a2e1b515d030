"""``subnet.env`` cannot be written, or something else stands in its place: row F77 of the fault matrix."""

import errno
import os
import shutil
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
from tests.support.lab.testbed import Journal, gateways, launch, lease_key, lease_value, pid_of, store_of, why_not_ready

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
