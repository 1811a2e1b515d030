"""Running programs: their environment, failures, deadlines and old versions, and the wait for iptables' lock."""

import asyncio
import contextlib
import errno
import fcntl
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyflanneld.core.firewall.iptables import Chains, read
from pyflanneld.core.firewall.rules import FORWARD, Family
from pyflanneld.errors import FirewallError, ProgramMissing
from pyflanneld.firewall import iptables
from pyflanneld.firewall.command_runner import Programs, program_directories
from pyflanneld.firewall.iptables import Iptables
from tests.bench.proc import descriptors
from tests.support.network.firewall_host import form_directory
from tests.support.network.namespaces import namespace
from tests.support.polling import eventually

Install = Callable[[str, str], Path]
LOCK = Path("/run/xtables.lock")


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Install a shell script under a name; return its path."""

    def make(name: str, script: str) -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def programs(tmp_path: Path, **arguments: float) -> Programs:
    return Programs([os.fspath(tmp_path)], **arguments)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def numbers(file: Path) -> list[int]:
    return [int(word) for word in file.read_text().split()]


async def test_output_and_code_are_returned(tmp_path: Path, install: Install) -> None:
    """Input, output, error output and exit code are passed on; the message is one line of printable ASCII."""
    install("prog", r"""cat; printf 'one\n\033[31mtwo\377\n' >&2; exit 3""")
    output = await programs(tmp_path).run("prog", stdin="text\n")
    assert (output.code, output.stdout) == (3, "text\n")
    assert "\n" not in output.message
    assert output.message.isascii()
    assert output.message.isprintable()
    assert output.message.startswith("one \\x1b[31mtwo")


async def test_a_clean_environment(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program gets none of the daemon's variables, and the C locale, whatever the daemon's is."""
    install("prog", "/usr/bin/env; pwd")
    for name, value in (("FLANNELD_ETCD_PASSWORD", "hush"), ("LANG", "de_DE.UTF-8"), ("NOTIFY_SOCKET", "/x")):
        monkeypatch.setenv(name, value)
    output = await programs(tmp_path).run("prog")
    variables = dict(line.split("=", 1) for line in output.stdout.splitlines() if "=" in line)
    assert {name for name in variables if name not in {"PWD", "_", "SHLVL", "OLDPWD"}} == {"LC_ALL", "PATH"}
    assert variables["LC_ALL"] == "C"
    assert output.stdout.splitlines()[-1] == "/"


async def test_input_that_nobody_reads_is_no_error(tmp_path: Path, install: Install) -> None:
    """A program that ends without reading its input counts by its exit code alone."""
    install("prog", "exit 0")
    assert (await programs(tmp_path).run("prog", stdin="x" * 1_000_000)).code == 0


async def test_much_output_is_read_whole(tmp_path: Path, install: Install) -> None:
    """Output far larger than a pipe, on both channels, is read whole."""
    code = "import sys; sys.stdout.write(3000000 * str(1)); sys.stderr.write(300000 * str(2))"
    install("prog", f"{sys.executable} -c '{code}'")
    assert len((await programs(tmp_path).run("prog")).stdout) == 3_000_000


@pytest.mark.parametrize("how", ["sys.stdout.write(1000 * x)", "[os.write(1, x.encode()) for _ in range(1000)]"])
async def test_output_without_end_is_an_error(tmp_path: Path, install: Install, how: str) -> None:
    """300 MB of output, in one write or in many, cost no more memory than the bound, and the error says which."""
    install("prog", f"exec {sys.executable} -c 'import os, sys; x = 300_000 * str(1); {how}' 2>/dev/null")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FirewallError, match="prog printed more than 32 MiB"):
        await programs(tmp_path).run("prog")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000, "KiB"


@pytest.mark.parametrize("start", ["", "setsid "])
async def test_a_child_that_stays_holds_nothing_of_ours(tmp_path: Path, install: Install, start: str) -> None:
    """What a program leaves running neither delays its result nor costs a descriptor, in its session or out of it."""
    install("prog", f"{start}sleep 1000 & echo $! >>{tmp_path}/children; echo done")
    ran, open_before = programs(tmp_path), descriptors(os.getpid())
    try:
        for _ in range(5):
            assert (await ran.run("prog")).stdout == "done\n"
        assert descriptors(os.getpid()) == open_before
        pids = numbers(tmp_path / "children")
        if not start:
            await eventually(lambda: not any(alive(pid) for pid in pids))
    finally:
        for pid in numbers(tmp_path / "children"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def test_no_thread_is_needed(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, as at a limit of processes, programs run all the same."""

    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    install("prog", "echo done")
    assert (await programs(tmp_path).run("prog")).stdout == "done\n"


async def test_without_a_pidfd_too(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old kernel or a filter of system calls has none: the end of a program is noticed, and its deadline kept."""

    def refuse(_pid: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    install("prog", "echo done")
    install("slow", "sleep 1000")
    assert (await programs(tmp_path).run("prog")).stdout == "done\n"
    with pytest.raises(FirewallError, match="did not end within"):
        await programs(tmp_path, deadline_s=0.2).run("slow")


async def test_one_that_cannot_be_killed_is_not_started_again(tmp_path: Path, install: Install) -> None:
    """Stuck in the kernel, as on a dead disk: no second one is added at each look; when it has ended, it runs again."""
    install("prog", f"if [ -e {tmp_path}/fine ]; then echo done; else kill -STOP $$; fi")
    ran = programs(tmp_path, deadline_s=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "killpg", lambda pid, _signal: stuck.append(pid))
        stuck: list[int] = []
        with pytest.raises(FirewallError, match="did not end"):
            await ran.run("prog")
        with pytest.raises(FirewallError, match=rf"prog \(pid {stuck[0]}\) was killed and has not ended yet"):
            await ran.run("prog")
    assert len(stuck) == 1
    (tmp_path / "fine").touch()
    os.kill(stuck[0], signal.SIGKILL)
    await eventually(lambda: not alive(stuck[0]))
    assert (await ran.run("prog")).stdout == "done\n"


async def test_one_that_hangs_is_killed_with_all_it_started(tmp_path: Path, install: Install) -> None:
    """At the deadline it is an error, and neither the program nor its child is left."""
    install("prog", f"sleep 1000 & echo $! >{tmp_path}/child; echo $$ >{tmp_path}/parent; wait")
    with pytest.raises(FirewallError, match=r"prog did not end within 0\.5 s"):
        await programs(tmp_path, deadline_s=0.5).run("prog")
    pids = [int((tmp_path / name).read_text()) for name in ("child", "parent")]
    await eventually(lambda: not any(alive(pid) for pid in pids))


async def test_stopping_kills_what_runs(tmp_path: Path, install: Install) -> None:
    """When the daemon is stopped in the middle, the program does not outlive it, and the stop is not delayed."""
    install("prog", f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 1000")
    task = asyncio.create_task(programs(tmp_path).run("prog"))
    await eventually((tmp_path / "pid").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_a_session_of_its_own(tmp_path: Path, install: Install) -> None:
    """A signal to the daemon's process group, as a terminal or supervisor sends, does not interrupt it."""
    install("prog", "cut -d' ' -f5 /proc/$$/stat")
    assert int((await programs(tmp_path).run("prog")).stdout) != os.getpgrp()


async def test_a_program_that_vanishes_is_searched_again(tmp_path: Path, install: Install) -> None:
    """Removed after it was found: an error, then missing; back again: it works."""
    path, found = install("prog", "echo 1"), programs(tmp_path)
    assert (await found.run("prog")).stdout == "1\n"
    path.unlink()
    with pytest.raises(FirewallError, match="cannot be started: No such file"):
        await found.run("prog")
    with pytest.raises(ProgramMissing, match="no program prog in"):
        await found.run("prog")
    install("prog", "echo 2")
    assert (await found.run("prog")).stdout == "2\n"


async def test_a_file_that_cannot_be_run_is_missing(tmp_path: Path, install: Install) -> None:
    """A file without the right to be executed is not a program; a script without an interpreter cannot be started."""
    install("prog", "exit 0").chmod(0o644)
    with pytest.raises(ProgramMissing):
        await programs(tmp_path).run("prog")
    install("prog", "").write_text("#!/nowhere/interpreter\n")
    (tmp_path / "prog").chmod(0o755)
    with pytest.raises(FirewallError, match="cannot be started"):
        await programs(tmp_path).run("prog")


def test_the_directories_of_programs() -> None:
    """Absolute directories of PATH first, then those of administrators, which a service's PATH may lack."""
    assert program_directories({"PATH": "/opt/x::.:bin:/usr/bin"})[:3] == ["/opt/x", "/usr/bin", "/usr/local/sbin"]
    assert "/usr/sbin" in program_directories({})


@pytest.mark.parametrize(
    ("said", "modern"),
    [
        ("iptables v1.8.9 (nf_tables)", True),
        ("iptables v1.8.9 (legacy)", True),
        ("iptables v1.6.2", True),
        ("iptables v1.10.0", True),
        ("iptables v1.6.1", False),
        ("iptables v1.4.21", False),
        ("something else", False),
    ],
)
async def test_an_old_iptables_gets_only_its_options(tmp_path: Path, install: Install, said: str, modern: bool) -> None:
    """--wait and --random-fully from 1.6.2 on; the version is read once."""
    install("iptables", f"echo asked >>{tmp_path}/asked; echo '{said}'")
    install("iptables-restore", f'echo "$@" >{tmp_path}/arguments')
    firewall = Iptables(programs(tmp_path))
    assert await firewall.can_randomize(Family.IPV4) is modern
    await firewall.restore(Family.IPV4, "*filter\nCOMMIT\n")
    assert (tmp_path / "arguments").read_text() == ("--noflush --wait 5\n" if modern else "--noflush\n")
    assert (tmp_path / "asked").read_text() == "asked\n"


@pytest.mark.netns
async def test_a_held_lock_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """iptables' lock, held for a moment, delays the change; held for long, it is an error, and later it works."""
    text = "*filter\n:FLANNEL-FWD - [0:0]\nCOMMIT\n"
    with namespace() as made, made.inside():
        firewall = Iptables(Programs([form_directory(tmp_path, "legacy")]))
        await firewall.restore(Family.IPV4, "*filter\nCOMMIT\n")  # makes the lock's file
        with LOCK.open("rb") as lock:  # noqa: ASYNC230 - an empty file in memory
            fcntl.flock(lock, fcntl.LOCK_EX)
            monkeypatch.setattr(iptables, "LOCK_WAIT_S", 1)
            with pytest.raises(FirewallError, match=r"exit code 4.*holding the xtables lock"):
                await firewall.restore(Family.IPV4, text)
            assert read(await firewall.save(Family.IPV4, "filter"), FORWARD) == Chains(policy="ACCEPT")
            monkeypatch.setattr(iptables, "LOCK_WAIT_S", 5)
            waiting = asyncio.create_task(firewall.restore(Family.IPV4, text))
            await eventually(waits_for_lock, within_s=5)
            fcntl.flock(lock, fcntl.LOCK_UN)
        await waiting
        assert read(await firewall.save(Family.IPV4, "filter"), FORWARD) == Chains(own=(), policy="ACCEPT")


def waits_for_lock() -> bool:
    """Return whether an iptables-restore of this process is running."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    with contextlib.suppress(FileNotFoundError):  # one has just ended
        return any(Path(f"/proc/{pid}/comm").read_text().startswith("iptables-restor") for pid in children)
    return False
