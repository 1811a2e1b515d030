"""The laboratory: what it puts up, that it takes everything down, and what it says when it cannot."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pyflanneld.errors import UsageError
from pyflanneld.lab import topology
from pyflanneld.lab.cluster import ROOT, Lab
from pyflanneld.lab.process import recorded_pid
from pyflanneld.lab.run import LabError, until
from tests.support.background import BACKGROUND

LAB = (sys.executable, "-m", "pyflanneld", "lab")
NOBODY = 65534

pytestmark = [pytest.mark.netns, pytest.mark.etcd]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


def lab_command(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LAB, *words], capture_output=True, text=True, timeout=110, check=False, **options)


@pytest.fixture
def named(lab_name: str, tmp_path: Path) -> Iterator[Sequence[str]]:
    """The options that name a laboratory of this test's own, which is gone afterwards."""
    options = ("--name", lab_name, "--root", str(tmp_path / "state"))
    yield options
    lab_command("down", *options)


def processes_naming(text: str) -> list[int]:
    """Return the processes that have *text* in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command_line = (folder / "cmdline").read_text(errors="replace")
        except OSError:
            continue
        if text in command_line:
            found.append(int(folder.name))
    return found


@needs_root
def test_up_status_exec_down(named: Sequence[str], lab_name: str) -> None:
    """``up`` leaves a working cluster behind, ``status`` and ``exec`` find it, ``down`` leaves nothing of it."""
    up = lab_command("up", "--nodes", "2", *named)
    assert up.returncode == 0, up.stderr
    assert "2 hosts, etcd up" in up.stdout

    status = lab_command("status", *named)
    assert status.returncode == 0, status.stderr
    assert "172.7.22.1/24" in status.stdout

    routes = lab_command("exec", *named, "n1", "--", "ip", "-j", "route", "show", "proto", "103")
    assert [route["dst"] for route in json.loads(routes.stdout)] == ["172.7.22.0/24"]
    assert lab_command("exec", *named, "pod1", "--", "ping", "-c1", "-W2", "172.7.22.2").returncode == 0
    assert lab_command("exec", *named, "etcd", "--", "sh", "-c", "exit 7").returncode == 7

    assert lab_command("down", *named).returncode == 0
    assert topology.existing(lab_name) == []
    assert not Path(named[3]).exists() or list(Path(named[3]).iterdir()) == []
    assert lab_command("status", *named).returncode == 1


@needs_root
def test_several_networks_on_each_host(named: Sequence[str], lab_name: str) -> None:
    """Each has a daemon, a route to the other host and a pod there, which answers; ``down`` leaves nothing."""
    up = lab_command("up", "--nodes=2", "--networks=3", *named)
    assert up.returncode == 0, up.stderr
    assert "2 hosts with 3 networks each, etcd up" in up.stdout
    status = lab_command("status", *named)
    assert status.returncode == 0, status.stderr
    assert [line.split()[0] for line in status.stdout.splitlines()[2:]] == ["n1", "n2", "n1-2", "n2-2", "n1-3", "n2-3"]
    routes = lab_command("exec", *named, "n1", "--", "ip", "-j", "route", "show", "proto", "103")
    assert [route["dst"] for route in json.loads(routes.stdout)] == [f"172.{n}.22.0/24" for n in (7, 8, 9)]
    for pod, other in (("pod1", "172.7.22.2"), ("pod1-2", "172.8.22.2"), ("pod1-3", "172.9.22.2")):
        assert lab_command("exec", *named, pod, "--", "ping", "-c1", "-W2", other).returncode == 0
    shown = lab_command("exec", *named, "n1", "--", sys.executable, "-m", "pyflanneld", "status", "--output=json")
    assert [report["network"]["network"] for report in json.loads(shown.stdout)] == [
        f"172.{n}.0.0/16" for n in (7, 8, 9)
    ]
    assert [report["findings"] for report in json.loads(shown.stdout)] == [[], [], []]
    assert lab_command("down", *named).returncode == 0
    assert topology.existing(lab_name) == []
    assert lab_command("up", "--networks=10", *named).returncode == 2


@needs_root
def test_up_twice(named: Sequence[str]) -> None:
    """``up`` does not disturb a laboratory of that name that is up: it says so and exits 1."""
    assert lab_command("up", "--nodes", "1", *named).returncode == 0
    again = lab_command("up", "--nodes", "1", *named)
    assert again.returncode == 1
    assert "is up already" in again.stderr
    assert lab_command("status", *named).returncode == 0


@needs_root
def test_status_of_a_broken_lab(named: Sequence[str], lab_name: str) -> None:
    """``status`` exits 1 when a daemon is gone, and shows which."""
    assert lab_command("up", "--nodes", "2", *named).returncode == 0
    Lab.load(lab_name, Path(named[3])).nodes[1].kill()
    status = lab_command("status", *named)
    assert status.returncode == 1
    assert [line.split()[1:4] for line in status.stdout.splitlines() if line.split()[0] == "n2"] == [
        ["down", "no", "192.168.14.22"]
    ]


@needs_root
def test_exec_of_what_is_not_there(named: Sequence[str]) -> None:
    """A wrong host or program in ``exec`` is answered by one line that names what there is."""
    assert lab_command("up", "--nodes", "1", *named).returncode == 0
    host = lab_command("exec", *named, "n9", "--", "true")
    assert (host.returncode, host.stderr.count("\n")) == (2, 1)
    assert "lan, etcd, n1, pod1" in host.stderr
    program = lab_command("exec", *named, "n1", "--", "no-such-program")
    assert (program.returncode, program.stderr.count("\n")) == (1, 1)


@needs_root
def test_killed_lab_is_removed_by_the_next(named: Sequence[str], lab_name: str) -> None:
    """What a lab that was killed with -9 left behind is removed by ``down``, and a new one can be put up at once."""
    killed = subprocess.Popen([*LAB, "demo", *named], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if "readyz" in line:  # etcd, the daemons and the pods are up
                break
        killed.kill()
    assert f"pyflanneld-{lab_name}.n3" in topology.existing(lab_name)
    assert processes_naming(named[3])

    assert lab_command("down", *named).returncode == 0
    assert topology.existing(lab_name) == []
    assert processes_naming(named[3]) == []


@needs_root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_lab_cleans_up(named: Sequence[str], lab_name: str, number: signal.Signals) -> None:
    """Ctrl-C, TERM or a closed terminal while the lab is being put up: everything is removed, no traceback. Also where
    the shell ignores INT."""
    command = [*BACKGROUND, *LAB, "up", *named]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: len(topology.existing(lab_name)) > 4, "the wires are being laid")
    up.send_signal(number)
    _, said = up.communicate(timeout=30)
    assert up.returncode == 128 + number
    assert "Traceback" not in said
    assert topology.existing(lab_name) == []
    assert processes_naming(named[3]) == []


@needs_root
def test_processes_of_a_namespace_removed_by_hand(make_lab: Callable[..., Lab]) -> None:
    """``down`` also ends a process whose namespace somebody else has removed, by its pid file."""
    lab = make_lab(1)
    lab.build()
    pid = recorded_pid(lab.folder / "etcd" / "pid")
    assert pid is not None
    subprocess.run(["ip", "netns", "del", lab.etcd.namespace], check=True)
    lab.down()
    until(lambda: pid not in processes_naming(str(lab.folder)), "etcd ended", timeout_s=5)


@needs_root
def test_pid_file_of_another_process(make_lab: Callable[..., Lab]) -> None:
    """A pid file whose number now belongs to a process of somebody else is not believed."""
    lab = make_lab(1)
    folder = lab.folder / "n1"
    folder.mkdir(parents=True)
    (folder / "pid").write_text(f"{os.getpid()}\n")
    lab.down()  # would end this very process
    assert not lab.folder.exists()


@needs_root
def test_two_labs_at_once(make_lab: Callable[..., Lab]) -> None:
    """Laboratories with different names do not see each other, although all addresses are equal."""
    first, second = make_lab(1), make_lab(1)
    first.up()
    second.up()
    second.etcd.put_lease("172.7.99.0-24", "192.168.14.99")
    second.nodes[0].wait_routes({"172.7.99.0/24": "192.168.14.99"})
    assert first.nodes[0].routes() == ()


@needs_root
def test_one_builder_at_a_time(make_lab: Callable[..., Lab]) -> None:
    """A laboratory that another process is working on is left alone."""
    lab = make_lab(1)
    done = lab_command("up", "--name", lab.name, "--root", str(lab.folder.parent))
    assert done.returncode == 1
    assert "used by another process" in done.stderr


@needs_root
def test_daemon_that_cannot_start(make_lab: Callable[..., Lab]) -> None:
    """A daemon that ends by itself is reported with its exit code and its last words, at once."""
    lab = make_lab(1)
    lab.build()
    lab.nodes[0].start("--no-such-flag")
    with pytest.raises(LabError, match=r"n1: the daemon ended with exit code 2: .*no-such-flag"):
        lab.nodes[0].wait_ready()


@needs_root
@pytest.mark.timeout(180)
def test_demo(named: Sequence[str], lab_name: str) -> None:
    """The story holds in all its claims, fits a terminal of 100 columns, and leaves nothing behind."""
    done = lab_command("demo", *named)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert done.stdout.count("✓") >= 25
    assert max(len(line) for line in done.stdout.splitlines()) <= 100
    assert "\033" not in done.stdout
    assert topology.existing(lab_name) == []


@needs_root
def test_demo_fails_when_a_claim_does_not_hold(make_lab: Callable[..., Lab]) -> None:
    """A daemon that forgets a route is found out: the demonstration stops with the claim that failed."""
    from pyflanneld.lab import demo
    from pyflanneld.lab.terminal import ClaimFailed, Terminal

    lab = make_lab(2)
    lab.up()
    lab.nodes[0].kill()
    lab.nodes[0].exec("ip", "route", "flush", "proto", "103")
    with pytest.raises(ClaimFailed, match="exactly the routes"):
        demo.show_routes(lab, Terminal())


@pytest.mark.parametrize("words", [("up",), ("down",), ("demo",), ("status",), ("exec", "n1", "--", "true")])
def test_without_root(words: Sequence[str]) -> None:
    """Whoever is not root is told so in one line, with exit code 1."""
    dropped = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    code = "import sys; from pyflanneld.lab.command import main; sys.exit(main(sys.argv[1:]))"
    if dropped:  # the interpreter may lie where others may not look, so change over once everything is loaded
        code = code.replace("; sys.exit", f"; import os; os.setgid({NOBODY}); os.setuid({NOBODY}); sys.exit")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pyflanneld lab: network namespaces need root: run this with sudo\n"


def test_without_programs(tmp_path: Path) -> None:
    """Missing programs are named in one line, with the packages that bring them."""
    done = lab_command("demo", env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == (
        "pyflanneld lab: missing: ip, etcd, etcdctl, ping; "
        "as root: apt-get install iproute2 etcd-server etcd-client iputils-ping\n"
    )


@pytest.mark.parametrize("line", ["", "upp", "up --nodes 0", "up --nodes many", "demo --nodes 1", "up --name A.b"])
def test_wrong_usage(line: str) -> None:
    """A wrong command or value: exit code 2 and no traceback."""
    done = lab_command(*line.split())
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_names_stay_inside_the_root() -> None:
    """A name cannot lead out of the state folder."""
    for name in ("..", "a/b", "", "-x", "n1.n2"):
        with pytest.raises(UsageError):
            Lab(name)
    assert Lab("a-1").folder == ROOT / "a-1"
