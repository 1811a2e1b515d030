"""The shipped unit files, judged by the programs that will read them."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyflanneld.config.go_flags import parse_flags
from pyflanneld.config.load import ACCEPTED, to_settings
from pyflanneld.config.settings import Settings

ROOT = Path(__file__).parents[2]
UNIT, TEMPLATE = ROOT / "systemd" / "pyflanneld.service", ROOT / "systemd" / "pyflanneld@.service"

# The walkthrough's program section; ours may differ in nothing but that it signals the whole process group.
WALKTHROUGH = {
    "directory": "/opt/flannel",
    "command": "/opt/flannel/flanneld.sh",
    "numprocs": "1",
    "autostart": "true",
    "autorestart": "true",
    "startsecs": "30",
    "startretries": "3",
    "exitcodes": "0,2",
    "stopsignal": "QUIT",
    "stopwaitsecs": "10",
    "user": "root",
    "redirect_stderr": "true",
    "stdout_logfile": "/data/logs/flanneld/flanneld.stdout.log",
    "stdout_logfile_maxbytes": "64MB",
    "stdout_logfile_backups": "4",
    "stdout_capture_maxbytes": "1MB",
    "stdout_event_enabled": "false",
}


@pytest.fixture(params=[UNIT, TEMPLATE], ids=["unit", "template"])
def unit(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A unit with the interpreter of this test run in the place of the installed one."""
    shipped: Path = request.param
    text, count = re.subn(r"^ExecStart=\S+", f"ExecStart={sys.executable}", shipped.read_text(), flags=re.MULTILINE)
    assert count == 1
    path = tmp_path / shipped.name.replace("@", "@b")
    path.write_text(text)
    return path


def test_systemd_accepts_the_unit_without_a_word(unit: Path) -> None:
    """``systemd-analyze verify`` finds nothing: no unknown key, no missing program, no bad value."""
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_exposure_is_at_most_2(unit: Path) -> None:
    """``systemd-analyze security`` scores the unit 2.0 or better."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert score is not None, done.stdout + done.stderr
    assert float(score[1]) <= 2.0
    assert done.returncode == 0


def test_a_stop_keeps_the_file_and_a_usage_error_is_final() -> None:
    """What the daemon's promises lean on: the runtime directory stays, exit code 2 is not retried, few capabilities."""
    lines = UNIT.read_text().splitlines()
    for line in (
        "Type=notify",
        "RuntimeDirectory=flannel",
        "RuntimeDirectoryPreserve=yes",
        "Restart=always",
        "RestartPreventExitStatus=2",
        "User=pyflanneld",
        "AmbientCapabilities=CAP_NET_ADMIN",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
        "StateDirectory=pyflanneld",
        "StateDirectoryMode=0700",
        "NoNewPrivileges=yes",
    ):
        assert line in lines


def directives(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def test_the_template_differs_from_the_unit_in_what_is_each_ones_own() -> None:
    """Settings, runtime and state directory are the instance's; no Go daemon is stopped, which may serve another."""
    own, common = directives(TEMPLATE), directives(UNIT)
    assert [line for line in own if line not in common] == [
        "Description=pyflanneld, container network agent (network %i)",
        "Environment=FLANNELD_SUBNET_FILE=/run/flannel-%i/subnet.env",
        "EnvironmentFile=/etc/default/pyflanneld-%i",
        "RuntimeDirectory=flannel-%i",
        "StateDirectory=pyflanneld-%i",
    ]
    assert [line.partition("=")[0] for line in common if line not in own] == [
        "Description", "Conflicts", "After", "EnvironmentFile", "RuntimeDirectory", "StateDirectory",
    ]  # fmt: skip


def test_the_second_program_section_is_the_first_ones() -> None:
    """Name, script and log are its own; so no two daemons write into one file."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=None)
    parser.read(ROOT / "supervisor" / "flanneld-b.ini")
    assert parser.sections() == ["program:flannel-b-21"]
    own = {
        "command": "/opt/flannel/flanneld-b.sh", "stdout_logfile": "/data/logs/flanneld/flanneld-b.stdout.log",
        "stopasgroup": "true", "killasgroup": "true",
    }  # fmt: skip
    assert dict(parser["program:flannel-b-21"]) == WALKTHROUGH | own


def test_the_two_start_scripts_do_not_meet() -> None:
    """Both are taken by the daemon; prefix, file and ports differ, and everything else is the same."""
    scripts = [(ROOT / "supervisor" / name).read_text() for name in ("flanneld.sh", "flanneld-b.sh")]
    flags = [re.findall(r"^  (--\S+)", script, re.MULTILINE) for script in scripts]
    first, second = (to_settings(parse_flags(words, {}, ACCEPTED)) for words in flags)
    differing = {field for field in Settings.model_fields if getattr(first, field) != getattr(second, field)}
    assert differing == {"etcd_prefix", "subnet_file", "healthz_port", "metrics_bind"}
    assert second.asked_for("healthz_port")


def test_the_program_section_is_the_walkthroughs() -> None:
    """supervisor/flanneld.ini has the walkthrough's section, name and keys and values, and signals the whole group."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=None)
    parser.read(ROOT / "supervisor" / "flanneld.ini")
    assert parser.sections() == ["program:flannel-21"]
    assert dict(parser["program:flannel-21"]) == WALKTHROUGH | {"stopasgroup": "true", "killasgroup": "true"}


def test_the_start_script_is_taken_by_the_daemon() -> None:
    """The script replaces itself by the daemon, and each of its flags exists."""
    script = (ROOT / "supervisor" / "flanneld.sh").read_text()
    assert re.search(r"^exec \./pyflanneld \\$", script, re.MULTILINE)
    subprocess.run(["bash", "-n", str(ROOT / "supervisor" / "flanneld.sh")], check=True)
    flags = re.findall(r"^  (--\S+?)=", script, re.MULTILINE)
    assert len(flags) == 8
    helped = subprocess.run(
        [sys.executable, "-c", "import sys; from pyflanneld.config.load import load; load(['--help'], {})"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(f"{flag}=" in helped for flag in flags)
