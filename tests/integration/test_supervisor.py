"""The walkthrough's set-up under a real supervisord: shipped files, real etcd with TLS, a network namespace.

Nothing in the shipped files is changed but the two directories that they live in.
"""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from pyflanneld.system import lock
from tests.support.etcd.server import Member, make_member
from tests.support.network.namespaces import Namespace, namespace
from tests.support.programs.systemd import until

ROOT = Path(__file__).parents[2]
HOST = "192.168.14.21"
PROGRAM = "flannel-21"
PINNED = "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
SUPERVISORD = """\
[supervisord]
logfile={0}/supervisord.log
pidfile={0}/supervisord.pid
nodaemon=true
user=root
[unix_http_server]
file={0}/supervisor.sock
[supervisorctl]
serverurl=unix://{0}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[include]
files={0}/flanneld.ini
"""

OUR_SCRIPT = (ROOT / "supervisor" / "flanneld.sh").read_text()
OUR_SECTION = (ROOT / "supervisor" / "flanneld.ini").read_text()
# The walkthrough's own start script, to the letter but for the program's name: there is no exec in it.
WALKTHROUGH_SCRIPT = """\
#!/bin/bash
./pyflanneld \\
  --public-ip=192.168.14.21 \\
  --etcd-endpoints=https://192.168.14.12:2379,https://192.168.14.21:2379,https://192.168.14.22:2379 \\
  --etcd-cafile=./certs/ca.pem \\
  --etcd-certfile=./certs/client.pem \\
  --etcd-keyfile=./certs/client-key.pem \\
  --iface=eth1 \\
  --subnet-file=./subnet.env \\
  --healthz-port=2401
"""
IN_GOOD_ORDER = {"daemon.started": 3, "daemon.stopping signal=SIGQUIT": 3, "daemon.stopped": 3}
# Its program section has no word of groups.
WALKTHROUGH_SECTION = OUR_SECTION.replace("stopasgroup=true\n", "").replace("killasgroup=true\n", "")

pytestmark = [pytest.mark.etcd, pytest.mark.netns]


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host with eth1 in the walkthrough's network; its neighbours do not answer."""
    with namespace() as made:
        made.veth("eth1", f"{HOST}/24", peer="wire")
        yield made


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """``ca.pem``, ``client.pem``, ``client-key.pem`` where the walkthrough has them, and the server's own."""
    path = tmp_path / "opt" / "flannel" / "certs"
    path.mkdir(parents=True)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(path / "ca.pem")
    client, server = ca.issue_cert("client"), ca.issue_cert(HOST)
    client.cert_chain_pems[0].write_to_path(path / "client.pem")
    client.private_key_pem.write_to_path(path / "client-key.pem")
    server.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    server.private_key_pem.write_to_path(tmp_path / "server-key.pem")
    return path


@pytest.fixture
def etcd(host: Namespace, certs: Path, tmp_path: Path) -> Iterator[Member]:
    """One member at 192.168.14.21:2379 that demands a client certificate; it holds the walkthrough's configuration."""
    url = f"https://{HOST}:2379"
    member = make_member(
        tmp_path,
        "m0",
        url=url,
        peers={"m0": f"http://{HOST}:2380"},
        health_url="http://127.0.0.1:2381",
        args=[
            f"--cert-file={tmp_path}/server.pem",
            f"--key-file={tmp_path}/server-key.pem",
            f"--trusted-ca-file={certs}/ca.pem",
            "--client-cert-auth",
        ],
    )
    login = [f"--cacert={certs}/ca.pem", f"--cert={certs}/client.pem", f"--key={certs}/client-key.pem"]
    config = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
    with host.inside():
        member.start()
        try:
            member.wait_ready()
            host.run("etcdctl", f"--endpoints={url}", *login, "put", "/coreos.com/network/config", config)
            yield member
        finally:
            member.kill()


@pytest.fixture
def supervise(host: Namespace, etcd: Member, tmp_path: Path) -> Iterator[Callable[[str, str], Callable[[str], str]]]:
    """Start a supervisord with the texts of a start script and a program section; that gives its control program."""
    assert etcd.healthy()
    home, config = tmp_path / "opt" / "flannel", ("-c", str(tmp_path / "supervisord.conf"))
    (home / "pyflanneld").symlink_to(Path(sys.executable).with_name("pyflanneld"))
    (home / "subnet.env").write_text(PINNED.replace("MTU=1500", "MTU=1400"))
    (tmp_path / "data" / "logs" / "flanneld").mkdir(parents=True)
    (tmp_path / "supervisord.conf").write_text(SUPERVISORD.format(tmp_path))
    with ExitStack() as stack:
        stack.callback(kill_all, home)  # at the very end: there is nothing left, unless a test has failed

        def start(script: str, section: str) -> Callable[[str], str]:
            (home / "flanneld.sh").write_text(script)
            (home / "flanneld.sh").chmod(0o755)
            section = section.replace("=/opt/", f"={tmp_path}/opt/").replace("=/data/", f"={tmp_path}/data/")
            (tmp_path / "flanneld.ini").write_text(section)
            process = subprocess.Popen(host.command("supervisord", *config), stdout=subprocess.DEVNULL)
            stack.callback(process.wait, timeout=30)
            stack.callback(process.terminate)
            return lambda words: host.run("supervisorctl", *config, *words.split(), check=False).strip()

        yield start


def daemons(home: Path) -> set[int]:
    """Return the processes that run in *home*, without its start script and the programs that a daemon starts."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == home and (process / "comm").read_text() != "flanneld.sh\n":
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return {pid for pid, parent in parents.items() if parent not in parents}


def kill_all(home: Path) -> None:
    for pid in daemons(home):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def probe(path: str) -> str:
    """Ask the health listener; this thread has to be inside the host's namespace."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:2401{path}", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError as error:
        return str(error)


def test_supervisord_starts_sees_running_and_stops_it(
    host: Namespace, supervise: Callable[[str, str], Callable[[str], str]], tmp_path: Path
) -> None:
    """Started by the shipped files: ready with the pinned subnet, RUNNING after startsecs, QUIT ends it with exit 0."""
    file = tmp_path / "opt" / "flannel" / "subnet.env"
    log = tmp_path / "data" / "logs" / "flanneld" / "flanneld.stdout.log"
    supervisorctl = supervise(OUR_SCRIPT, OUR_SECTION)
    with host.inside():
        until(lambda: probe("/readyz") == "flanneld is ready", f"ready; log: {log}", 20)
        assert probe("/healthz") == "flanneld is running"
    assert file.read_text() == PINNED
    until(lambda: "RUNNING" in supervisorctl(f"status {PROGRAM}"), "RUNNING", 45)
    (pid,) = {int(word) for word in supervisorctl(f"pid {PROGRAM}").split()}
    assert b"pyflanneld" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1]  # the daemon, not the shell

    begun = time.monotonic()
    assert supervisorctl(f"stop {PROGRAM}") == f"{PROGRAM}: stopped"
    assert time.monotonic() - begun < 7  # 5 s are promised, the rest is supervisorctl
    assert f"stopped: {PROGRAM} (exit status 0)" in (tmp_path / "supervisord.log").read_text()
    assert not Path(f"/proc/{pid}").exists()
    assert file.read_text() == PINNED
    assert "daemon.stopped" in log.read_text()


def quickly(section: str) -> str:
    """Return the section for tests that do not have the time for its waits."""
    assert "startsecs=30\n" in section
    assert "stopwaitsecs=10\n" in section
    return section.replace("startsecs=30\n", "startsecs=1\n").replace("stopwaitsecs=10\n", "stopwaitsecs=2\n")


def serving(home: Path, log: Path) -> int:
    """Wait until there is one daemon and it is ready; this thread has to be inside the host's namespace."""
    until(lambda: len(daemons(home)) == 1 and probe("/readyz") == "flanneld is ready", f"ready; log: {log}", 20)
    (pid,) = daemons(home)
    return pid


@pytest.mark.parametrize(
    ("script", "section", "logged"),
    [
        # The script outlives the wait for it; when supervisord kills it, it also closes the log.
        pytest.param(WALKTHROUGH_SCRIPT, WALKTHROUGH_SECTION, {"daemon.started": 3}, id="both-the-walkthroughs"),
        pytest.param(WALKTHROUGH_SCRIPT, OUR_SECTION, IN_GOOD_ORDER, id="script-without-exec"),
        pytest.param(OUR_SCRIPT, OUR_SECTION, IN_GOOD_ORDER, id="as-shipped"),
    ],
)
def test_stop_start_and_restart_do_what_they_say(
    host: Namespace,
    supervise: Callable[[str, str], Callable[[str], str]],
    tmp_path: Path,
    script: str,
    section: str,
    logged: dict[str, int],
) -> None:
    """Whatever the script and the section: after a stop the daemon is gone, after a start one is ready."""
    home, log = tmp_path / "opt" / "flannel", tmp_path / "data" / "logs" / "flanneld" / "flanneld.stdout.log"
    supervisorctl = supervise(script, quickly(section))
    with host.inside():
        first = serving(home, log)
        assert supervisorctl(f"stop {PROGRAM}") == f"{PROGRAM}: stopped"
        until(lambda: not daemons(home), "the first daemon has ended", 5)
        assert supervisorctl(f"start {PROGRAM}") == f"{PROGRAM}: started"
        second = serving(home, log)
        assert supervisorctl(f"restart {PROGRAM}") == f"{PROGRAM}: stopped\n{PROGRAM}: started"
        until(lambda: second not in daemons(home), "the second daemon has ended", 5)
        third = serving(home, log)
        assert supervisorctl(f"stop {PROGRAM}") == f"{PROGRAM}: stopped"
        until(lambda: not daemons(home), "the third daemon has ended", 5)
    assert len({first, second, third}) == 3
    lines = log.read_text()
    assert {event: lines.count(event) for event in logged} == logged, lines
    assert "daemon.failed" not in lines
    assert "    | " not in lines  # a traceback


def test_a_killed_start_script_is_followed_and_replaced(
    host: Namespace, supervise: Callable[[str, str], Callable[[str], str]], tmp_path: Path
) -> None:
    """The walkthrough's script killed outright: its daemon ends in good order, then the next one serves."""
    home, log = tmp_path / "opt" / "flannel", tmp_path / "log"
    program = (home / "pyflanneld").readlink()
    (home / "pyflanneld").unlink()
    # Not through supervisord, which stops listening to a daemon when the script ends.
    (home / "pyflanneld").write_text(f'#!/bin/sh\nexec {program} "$@" 2>>{log}\n')
    (home / "pyflanneld").chmod(0o755)
    supervisorctl = supervise(WALKTHROUGH_SCRIPT, quickly(WALKTHROUGH_SECTION))
    with host.inside():
        first = serving(home, log)
        until(lambda: "RUNNING" in supervisorctl(f"status {PROGRAM}"), "RUNNING", 5)
        os.kill(int(supervisorctl(f"pid {PROGRAM}")), signal.SIGKILL)
        until(lambda: first not in daemons(home), "the first daemon has ended", 5)
        assert serving(home, log) != first
        until(lambda: "RUNNING" in supervisorctl(f"status {PROGRAM}"), "RUNNING again", 5)  # startsecs may not be over
    lines = log.read_text()
    assert "daemon.failed" not in lines
    _, stop = lines.split('daemon.stopping reason="start script ended"\n')
    assert stop.index("daemon.stopped") < stop.index("lease.reused")


def test_behind_a_start_script_a_daemon_waits_for_the_one_before_it(
    host: Namespace, supervise: Callable[[str, str], Callable[[str], str]], tmp_path: Path
) -> None:
    """One that still stops holds the network; the next, which supervisord starts too early, does not fail on it."""
    home, log = tmp_path / "opt" / "flannel", tmp_path / "data" / "logs" / "flanneld" / "flanneld.stdout.log"
    (endpoints,) = re.findall(r"--etcd-endpoints=(\S+)", WALKTHROUGH_SCRIPT)
    network = lock.network_key("/coreos.com/network", endpoints.split(","))
    with host.inside():
        with lock.hold(network, tmp_path / "another"):
            supervise(WALKTHROUGH_SCRIPT, quickly(WALKTHROUGH_SECTION))
            until(lambda: log.exists() and "lock.awaited" in log.read_text(), "the daemon waits")
        serving(home, log)
    assert log.read_text().count("daemon.started") == 1
    assert "daemon.failed" not in log.read_text()
