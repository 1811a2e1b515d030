"""A real systemd as the first process of a machine of its own, made of namespaces; needs root.

The machine has a root file system in memory with this host's programs in it, this test run's Python environment as
``/opt/pyflanneld``, its own processes, control groups and mounts, and the network namespace of the thread that starts
it. When the process that started it ends, however it ends, the machine is gone.
"""

import contextlib
import errno
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SYSTEMD = Path("/lib/systemd/systemd")
PACKAGE = Path(__file__).parents[3] / "pyflanneld"
BOOT_S = 60.0
GROUP = "pyflanneld-test-"
# A Python built with a shared library looks for it where it was installed, which is not where the machine has it.
PYTHON_ENVIRONMENT = "Environment=LD_LIBRARY_PATH=/opt/python/lib"

# Nothing reaches beyond the namespaces: /proc/sys is read-only; clock, kernel modules and auditing are out of reach.
# $1 is the machine's root, an empty directory; $2 the prefix of the base Python; $3 where packages are; $4 our package.
_BOOT = r"""
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$1"
cd "$1"
mkdir -p dev etc/default etc/systemd/system opt/python opt/site opt/source proc root run sys tmp usr var work
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L /$name ]; then cp -P /$name .
    elif [ -d /$name ]; then mkdir $name; mount --rbind -o ro /$name $name; fi
done
mount --rbind -o ro /usr usr
mount --bind -o ro "$2" opt/python
mount --bind -o ro "$3" opt/site
mkdir opt/source/pyflanneld; mount --bind -o ro "$4" opt/source/pyflanneld
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.c* etc/
[ ! -d /etc/alternatives ] || cp -a /etc/alternatives etc/
echo 0123456789abcdef0123456789abcdef > etc/machine-id
cp -a "$1.files/." .
mount -t proc proc proc
mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
ln -s /proc/self/fd dev/fd
mkdir dev/shm
exec chroot . env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    setpriv --bounding-set=-sys_module,-sys_time,-audit_control,-audit_read \
    /lib/systemd/systemd --system --show-status=no --log-target=console --log-level=warning --unit=basic.target
"""
# Moves itself into a control group of its own first, which then is the root of all that the machine sees.
_START = r"""
set -e
mount --make-rprivate /
mkdir "$1.cgroup"
mount -t cgroup2 cgroup2 "$1.cgroup"
group="$1.cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/$5"
mkdir "$group"
echo $$ > "$group/cgroup.procs"
exec unshare --mount --pid --fork --cgroup --uts --ipc --kill-child sh -c "$6" boot "$1" "$2" "$3" "$4"
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """The running machine.

    Attributes:
        pid: its first process, as seen from here.
        root: its file system, as seen from here.
        mounted: where that is, as seen from its own mounts.
    """

    pid: int
    root: Path
    mounted: Path

    def run(self, *argv: str) -> str:
        """Run a program inside and return its stdout and stderr, stripped, whatever its exit code."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net"]
        done = subprocess.run(
            [*enter, "chroot", str(self.mounted), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """Return a unit's property."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit)


def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Look again until *condition* holds. Raises ``TimeoutError``."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {timeout_s} s: {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def booted(where: Path, files: dict[str, str]) -> Iterator[Machine]:
    """Boot a machine for the length of the block, in this thread's network namespace.

    Args:
        where: an existing directory.
        files: texts to put into the machine before it boots, by absolute path.
    """
    root = where / "machine"
    root.mkdir()
    for name, text in files.items():
        path = Path(f"{root}.files{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _lay_out_python(Path(f"{root}.files/opt/pyflanneld"))
    _remove_groups()
    group = f"{GROUP}{os.getpid()}"
    arguments = [str(root), sys.base_prefix, sysconfig.get_path("purelib"), str(PACKAGE), group, _BOOT]
    with Path(f"{root}.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", _START, "start", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield _wait(process, root)
    finally:
        process.kill()
        process.wait()
        _remove_groups()


def _lay_out_python(home: Path) -> None:
    """Make a virtual environment out of links: the packages of this test run, and the package under test."""
    interpreter = Path(sys._base_executable).resolve().relative_to(Path(sys.base_prefix).resolve())  # type: ignore[attr-defined]
    packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(Path("/opt/python") / interpreter)
    (home / "pyvenv.cfg").write_text(f"home = {(Path('/opt/python') / interpreter).parent}\n")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "pyflanneld" not in path.name:
            (packages / path.name).symlink_to(Path("/opt/site") / path.name)
    (packages / "pyflanneld").symlink_to("/opt/source/pyflanneld")


def _wait(process: subprocess.Popen[bytes], root: Path) -> Machine:
    """Return the machine when its systemd says that it has booted."""

    def first_process() -> int | None:
        if process.poll() is not None:
            raise RuntimeError(f"the machine did not boot:\n{Path(f'{root}.log').read_text()}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return next((int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "systemd\n"), None)

    until(lambda: first_process() is not None, "systemd is started", BOOT_S)
    pid = first_process()
    assert pid is not None
    machine = Machine(pid, Path(f"/proc/{pid}/root"), root)
    until(lambda: machine.run("systemctl", "is-active", "basic.target") == "active", "booted", BOOT_S)
    return machine


def _remove_groups() -> None:
    """Remove the control groups, which outlive their processes, of our machines and of those that nobody cleaned up."""
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in (fields[1] for fields in mounts if fields[2] == "cgroup2"):
        for group in Path(f"{mount}{own}").glob(f"{GROUP}*"):
            owner = group.name.removeprefix(GROUP)
            if owner == str(os.getpid()) or not Path("/proc", owner).exists():
                for directory, _, _ in sorted(os.walk(group), reverse=True):
                    until(functools.partial(_rmdir, Path(directory)), f"{directory} is empty")


def _rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def systemd_missing() -> str | None:
    """Say what is missing for a machine, if anything."""
    if os.geteuid() != 0:
        return "root"
    if not SYSTEMD.exists():
        return str(SYSTEMD)
    return next((name for name in ("unshare", "nsenter", "setpriv", "mount") if shutil.which(name) is None), None)
