"""The soak for real, and short: faults are done, all is right after each, a report is made, nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pyflanneld.lab import topology
from pyflanneld.lab.run import until
from tests.support.background import BACKGROUND

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
ROOT = Path(__file__).parents[2]
SOAK = (*BACKGROUND, sys.executable, "-m", "tests.soak", "--peers=30", "--pace=0.2", "--seed=3")
FAULTS = (
    "kill_leader", "compact", "expire_peers", "delete_own_key", "refuse_connections", "set_link_down", "change_routes",
    "stop_process", "crowd_health_port",
)  # fmt: skip


def start(name: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    command = (*SOAK, f"--name={name}", f"--root={folder / 'lab'}", f"--out={folder / 'out'}", *more)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def left_of(name: str, folder: Path) -> list[str]:
    """Return what a soak has left: namespaces, files, processes whose command lines name its folder."""
    mine = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            mine += [path.parent.name] if str(folder / "lab").encode() in path.read_bytes() else []
        except OSError:
            continue
    return [*topology.existing(name), *map(str, (folder / "lab").glob("*")), *mine]


def etcd_runs(folder: Path) -> bool:
    """Return whether a member of a soak's etcd runs, rather than being killed or stopped."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            state = path.with_name("stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if words[0].endswith(b"etcd") and any(str(folder / "lab").encode() in word for word in words) and state != "T":
            return True
    return False


def test_half_a_minute(lab_name: str, tmp_path: Path) -> None:
    """Nine kinds of faults in random order on a small cluster: all right after each; samples, logs and plots stay."""
    page = (ROOT / "docs" / "dev" / "soak.md").read_bytes()
    with start(lab_name, tmp_path, "--minutes=0.5", *(f"--fault={name}" for name in FAULTS)) as soak:
        told, complaints = soak.communicate(timeout=110)
    assert soak.returncode == 0, told + complaints
    assert "after each fault both hosts had exactly the routes of etcd" in told
    out = tmp_path / "out"
    story = json.loads((out / "soak.json").read_text())
    assert {injection["host"] for injection in story["injections"]} <= {"n1", "n2"}
    assert len(story["injections"]) > 0
    for samples in story["samples"].values():
        assert len(samples) > 1
        assert any(sample["tasks"] for sample in samples)
        assert samples[-1]["log_lines"] > samples[0]["log_lines"]
    assert {path.name for path in out.glob("*.log")} == {"n1.log", "n2.log"}
    assert len(list(out.glob("*.svg"))) > 0
    assert (ROOT / "docs" / "dev" / "soak.md").read_bytes() == page
    assert left_of(lab_name, tmp_path) == []


@pytest.mark.parametrize(("number", "fault"), [(signal.SIGINT, "kill_all"), (signal.SIGTERM, "freeze_all")])
def test_stopped_in_the_middle(lab_name: str, tmp_path: Path, number: signal.Signals, fault: str) -> None:
    """INT, also where the shell ignores it, and TERM amid a fault that keeps etcd away: all is removed again."""
    with start(lab_name, tmp_path, "--minutes=5", f"--fault={fault}") as soak:
        assert soak.stdout is not None
        assert any("all routes are there" in line for line in soak.stdout)
        until(lambda: not etcd_runs(tmp_path), f"etcd is away: {fault}", 60)
        soak.send_signal(number)
        _, complaints = soak.communicate(timeout=60)
    assert soak.returncode == 130
    assert "everything is removed again" in complaints
    assert left_of(lab_name, tmp_path) == []


def test_what_does_not_get_right_again_is_told(lab_name: str, tmp_path: Path) -> None:
    """A daemon that ends is the end of the soak: the fault, the second and the host are named, and nothing stays."""
    with start(lab_name, tmp_path, "--minutes=5", "--fault=stop_process") as soak:
        assert soak.stdout is not None
        assert any("right again" in line for line in soak.stdout)
        pid = int((tmp_path / "lab" / lab_name / "n2" / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        _, complaints = soak.communicate(timeout=60)
    assert soak.returncode == 1
    assert "s, n" in complaints
    assert "stopped (SIGSTOP)" in complaints
    assert left_of(lab_name, tmp_path) == []
