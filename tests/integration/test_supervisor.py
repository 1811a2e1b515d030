"""The walkthrough's set-up under a real supervisord: shipped files, real etcd with TLS, a network namespace.

Nothing in the shipped files is changed but the two directories that they live in.
"""

import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.etcd import Member, make_member
from tests.netns import Namespace, namespace
from tests.systemd import until

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
def supervisorctl(host: Namespace, etcd: Member, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A supervisord with the shipped files; gives its control program."""
    assert etcd.healthy()
    home = tmp_path / "opt" / "flannel"
    shutil.copy(ROOT / "supervisor" / "flanneld.sh", home)
    (home / "pyflanneld").symlink_to(Path(sys.executable).with_name("pyflanneld"))
    (home / "subnet.env").write_text(PINNED.replace("MTU=1500", "MTU=1400"))
    (tmp_path / "data" / "logs" / "flanneld").mkdir(parents=True)
    section = (ROOT / "supervisor" / "flanneld.ini").read_text()
    section = section.replace("=/opt/", f"={tmp_path}/opt/").replace("=/data/", f"={tmp_path}/data/")
    (tmp_path / "flanneld.ini").write_text(section)
    (tmp_path / "supervisord.conf").write_text(SUPERVISORD.format(tmp_path))
    config = ("-c", str(tmp_path / "supervisord.conf"))
    process = subprocess.Popen(host.command("supervisord", *config), stdout=subprocess.DEVNULL)
    try:
        yield lambda words: host.run("supervisorctl", *config, *words.split(), check=False).strip()
    finally:
        process.terminate()
        process.wait(timeout=30)


def probe(path: str) -> str:
    """Ask the health listener; this thread has to be inside the host's namespace."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:2401{path}", timeout=2) as answer:
            return str(answer.read().decode())
    except OSError as error:
        return str(error)


def test_supervisord_starts_sees_running_and_stops_it(
    host: Namespace, supervisorctl: Callable[[str], str], tmp_path: Path
) -> None:
    """Started by the shipped files: ready with the pinned subnet, RUNNING after startsecs, QUIT ends it with exit 0."""
    file = tmp_path / "opt" / "flannel" / "subnet.env"
    log = tmp_path / "data" / "logs" / "flanneld" / "flanneld.stdout.log"
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
