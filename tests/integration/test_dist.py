"""The archive for ``/opt``: built as by ``make dist``, unpacked as in the walkthrough, run with nothing else at hand.

It is built once for a test run, and for the Python of that run alone: a few seconds instead of half a minute.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.etcd.server import Member, make_member
from tests.support.network.namespaces import Namespace, namespace
from tests.support.programs.systemd import until

ROOT = Path(__file__).parents[2]
BASE_PYTHON: str = sys._base_executable  # type: ignore[attr-defined]
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
CONFIG = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
# Hides the virtual environment, then the sources (ip netns exec gives us mounts of our own); then starts a program.
ALONE = """
set -e
for place in "$1" "$2"; do mount -t tmpfs hidden "$place"; done
shift 2
exec env -i "$@"
"""


def build_wheel(into: Path) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(into), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def archive(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [sys.executable, str(ROOT / ".ci" / "bundle.py"), str(wheel), "--out", str(out), "--python", python]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture
def home(archive: Path, tmp_path: Path) -> Path:
    """The walkthrough's first section with the name changed; gives its link."""
    version = archive.name.split("-")[1]
    opt = tmp_path / "opt"
    (opt / f"pyflannel-{version}").mkdir(parents=True)
    subprocess.run(["tar", "-zxf", archive, "-C", f"{opt}/pyflannel-{version}/"], check=True)
    subprocess.run(["ln", "-s", f"{opt}/pyflannel-{version}/", f"{opt}/flannel"], check=True)
    return opt / "flannel"


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace() as made:
        made.veth("eth1", "192.168.14.21/24", peer="wire")
        yield made


@pytest.fixture
def etcd(host: Namespace, tmp_path: Path) -> Iterator[Member]:
    """A member on the host's loopback with the walkthrough's configuration."""
    url, peers = "http://127.0.0.1:2379", {"m0": "http://127.0.0.1:2380"}
    member = make_member(tmp_path, "m0", url=url, peers=peers, health_url="http://127.0.0.1:2381")
    with host.inside():
        member.start()
        try:
            member.wait_ready()
            host.run("etcdctl", f"--endpoints={url}", "put", "/coreos.com/network/config", CONFIG)
            yield member
        finally:
            member.kill()


def files(home: Path) -> set[str]:
    return {str(path.relative_to(home.resolve())) for path in home.resolve().rglob("*") if not path.is_dir()}


def start(home: Path, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the start script with nothing but *environ* in its environment."""
    command = [home / "pyflanneld", *args]
    return subprocess.run(command, env=environ, cwd="/", capture_output=True, text=True, check=False)


def answers(where: str) -> bool:
    """Return whether ``port/path`` is answered with 200; this thread has to be inside the host's namespace."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{where}", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.etcd
@pytest.mark.netns
def test_the_daemon_runs_from_the_archive_alone(host: Namespace, etcd: Member, home: Path, tmp_path: Path) -> None:
    """Sources, virtual environment and environment out of sight: ready, then exit 0, nothing written but its file."""
    before = files(home)
    flags = ["--etcd-endpoints", etcd.url, "--iface=eth1", "--subnet-file=./subnet.env"]
    alone = ["sh", "-c", ALONE, "sh", sys.prefix, str(ROOT), f"PYFLANNELD_PYTHON={BASE_PYTHON}", "./pyflanneld"]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        daemon = subprocess.Popen(host.command(*alone, *flags), cwd=home, stderr=stderr)
    try:
        with host.inside():
            until(lambda: answers("2401/readyz") or daemon.poll() is not None, f"ready; log: {log}", 30)
            until(lambda: answers("2402/"), "the page", 10)
            until(lambda: answers("2402/metrics"), "the metrics", 10)
        assert daemon.poll() is None, log.read_text()
        assert not (Path(f"/proc/{daemon.pid}/root{ROOT}") / "pyproject.toml").exists()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=10) == 0
    finally:
        daemon.kill()
        daemon.wait()
    assert "FLANNEL_NETWORK=172.7.0.0/16" in (home / "subnet.env").read_text()
    assert files(home) - before == {"subnet.env"}


def test_every_file_has_its_sum_and_a_changed_one_is_found(home: Path) -> None:
    """SHA256SUMS lists all other files; sha256sum accepts them as unpacked, and names one that is altered."""
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    listed = {line.split("  ", 1)[1] for line in (home / "SHA256SUMS").read_text().splitlines()}
    assert listed == files(home) - {"SHA256SUMS"}
    assert subprocess.run(check, cwd=home, check=False).returncode == 0
    with (home / "lib" / "shared" / "pyflanneld" / "cli.py").open("a") as file:
        file.write("\n")
    done = subprocess.run(check, cwd=home, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "lib/shared/pyflanneld/cli.py: FAILED\n")


def test_every_package_comes_with_its_licence(home: Path) -> None:
    """Each package in the archive has a directory in licenses/ with a text in it; our own is at the top as well."""
    packages = {path.name.removesuffix(".dist-info") for path in home.glob("lib/*/*.dist-info")}
    assert {name for name in packages if not any((home / "licenses" / name).glob("**/*"))} == set()
    assert (home / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_without_a_usable_python_it_says_so_and_exits_with_2(home: Path, tmp_path: Path) -> None:
    """Not a word from Python: one line with what is needed, what was found and how to name another, and exit code 2."""
    wrong = tmp_path / "python3"
    wrong.write_text("#!/bin/sh\necho cpython-39-x86_64-linux-gnu\n")
    wrong.chmod(0o755)
    done = start(home, "--version", PYFLANNELD_PYTHON=str(wrong))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert str(SUFFIX)[1:-3] in done.stderr
    assert f"{wrong} is cpython-39-x86_64-linux-gnu; set PYFLANNELD_PYTHON=" in done.stderr
    missing = start(home, PYFLANNELD_PYTHON="/nowhere/python3")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "none was found" in missing.stderr


def test_it_takes_the_first_python_that_fits(home: Path, tmp_path: Path) -> None:
    """Found by PATH: one that fails and one that is too old are passed over; through a link to the script, too."""
    programs = {
        "python3.13": "#!/bin/sh\nexit 127\n",
        "python3.12": "#!/bin/sh\necho cpython-39-x86_64-linux-gnu\n",
        "python3.11": f'#!/bin/sh\nexec {BASE_PYTHON} "$@"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for name in ("dirname", "readlink"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "pyflanneld").symlink_to(home / "pyflanneld")
    for place in (home, tmp_path):
        done = start(place, "--version", PATH=str(tmp_path), PYTHONPATH=str(tmp_path), PYTHONHOME="/nowhere")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("pyflanneld ")


@pytest.mark.parametrize("name", ["pyflanneld.service", "pyflanneld@.service"])
def test_systemd_accepts_the_unit_of_the_archive(home: Path, name: str) -> None:
    """The unit inside starts what is inside; ``systemd-analyze verify`` finds nothing once it is where it should be."""
    unit = home / "systemd" / name
    assert "ExecStart=/opt/flannel/pyflanneld\n" in unit.read_text()
    unit.write_text(unit.read_text().replace("=/opt/flannel/", f"={home}/"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def bundle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bundle", ROOT / ".ci" / "bundle.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_sources_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built twice, under another umask and at another time, wheel and archive are equal to the byte."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = []
    for name, umask in (("a", 0o022), ("b", 0o077)):
        before = os.umask(umask)
        try:
            wheel = build_wheel(tmp_path / name)
            bundle().lay_out(tmp_path / name / "tree", [wheel])
            bundle().pack(tmp_path / name / "tree", tmp_path / name / "archive.tar.gz")
        finally:
            os.umask(before)
        made.append((wheel.read_bytes(), (tmp_path / name / "archive.tar.gz").read_bytes()))
    assert made[0] == made[1]
