"""The benchmark for real, and very short: it measures, tells, writes, leaves nothing behind. No figure is judged."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyflanneld.lab.run import until
from tests.bench.site import FOLDER
from tests.support.background import BACKGROUND
from tests.support.network.namespaces import PREFIX, RUN

pytestmark = [
    pytest.mark.etcd,
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
PEERS = 20
BENCH = (*BACKGROUND, sys.executable, "-m", "tests.bench", "--quick", f"--peers={PEERS}")
ROOT = Path(__file__).parents[2]


def left_of(pid: int) -> list[str]:
    """Return what a run with that process id has left: namespaces, files, processes."""
    spaces = [path.name for path in RUN.glob(f"{PREFIX}-{pid}-*")]
    folders = [str(path) for parent in ("/dev/shm", "/tmp") for path in Path(parent).glob(f"{FOLDER}{pid}-*")]  # noqa: S108
    mine = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if f"{FOLDER}{pid}-" in words(path)]
    return [*spaces, *folders, *mine]


def words(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A flanneld-compatible program that speaks etcd's v2 API and does not say READY=1."""
    path = tmp_path / "stand-in"
    path.write_text(f'#!/bin/sh\nunset NOTIFY_SOCKET\nexec {sys.executable} -m pyflanneld --etcd-api=2 "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_it_measures_side_by_side(tmp_path: Path, stand_in: Path) -> None:
    """pyflanneld, the floor and another program: every figure is there, in JSON, tables and plots."""
    out = tmp_path / "out"
    command = [*BENCH, "--only=start,lease", f"--against={stand_in}:2", f"--out={out}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        told, progress = bench.communicate(timeout=110)
    assert bench.returncode == 0, progress
    assert left_of(bench.pid) == []
    rows = {(row["case"], row["contender"]): row for row in json.loads((out / "results.json").read_text())["results"]}
    names = {"pyflanneld", "stand-in", "ip -batch"}
    assert {name for case, name in rows if case == "start.routes"} == names | {f"{name}, vxlan" for name in names}
    for case in ("start.routes", "start.spread", "start.ready", "lease.new", "lease.gone"):
        for name in ("pyflanneld", "stand-in", "pyflanneld, vxlan", "stand-in, vxlan"):
            assert_plausible(rows[case, name])
    assert len(rows["lease.new", "pyflanneld"]["samples"]) == 40
    assert "| start to all routes | 20 |" in told
    assert "stand-in / pyflanneld" in told
    assert (out / "start.svg").read_text().startswith("<svg")
    assert (out / "report.md").read_text() in told + "\n"


def assert_plausible(row: dict[str, Any]) -> None:
    assert row["peers"] == PEERS
    assert row["unit"] == "s"
    assert row["note"] == ""
    assert all(0 < sample < 30 for sample in row["samples"]), row


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped_at_any_time(number: signal.Signals, tmp_path: Path) -> None:
    """Stopped while a daemon runs, by INT also where the shell ignores it, it takes everything away and says so."""
    log = tmp_path / "log"
    with log.open("wb") as out, subprocess.Popen([*BENCH, "--only=lease"], cwd=ROOT, stdout=out, stderr=out) as bench:
        try:
            until(lambda: runs_a_daemon(bench.pid), "a daemon runs")
            bench.send_signal(number)
            code = bench.wait(timeout=30)
        finally:
            bench.kill()
    assert code == 130, log.read_text()
    assert "everything is removed again" in log.read_text()
    assert left_of(bench.pid) == []


def runs_a_daemon(pid: int) -> bool:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any("--iface=eth1" in words(Path(f"/proc/{child}/cmdline")) for child in children)
