"""docker-opts as a process: its file in a shell, the Docker it finds, the routing table; and the daemon's check."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.run import until
from tests.support.network.namespaces import Namespace, namespace

TOOL = (sys.executable, "-m", "pyflanneld", "docker-opts")
ENV = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
BASICS = ["--bip=10.1.74.1/24", "--ip-masq=true", "--mtu=1472"]
DIRECT = "--allow-direct-routing=true"


def docker_opts(
    folder: Path, *argv: str, inside: Namespace | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the tool from folder/subnet.env to folder/out.env; of Docker's programs it finds those in folder/bin."""
    (folder / "subnet.env").write_text(ENV)
    command = (*TOOL, "-f", f"{folder}/subnet.env", "-d", f"{folder}/out.env", *argv)
    variables = {"PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": ":".join(sys.path), **environ}
    whole = inside.command(*command) if inside else command
    return subprocess.run(whole, env=variables, capture_output=True, text=True, timeout=60, check=False)


def put_program(folder: Path, name: str, script: str) -> None:
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def sourced(shell: str, file: Path, expression: str) -> list[str]:
    """Return the words that *expression* becomes in a shell that has sourced *file*."""
    script = f'. "{file}"; for word in {expression}; do printf "%s\\n" "$word"; done'
    return subprocess.run([shell, "-euc", script], check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_shell_gets_dockerds_words(tmp_path: Path, shell: str) -> None:
    """Sourced, the combined variable and the single ones are the options as words; nothing in them is run."""
    done = docker_opts(tmp_path, DOCKER_OPTS="-H fd://", DOCKER_OPT_LOG='--log-opt=tag=$(touch x)`id`"')
    assert done.returncode == 0, done.stderr
    hostile = "--log-opt=tag=$(touch x)`id`\""
    file = tmp_path / "out.env"
    assert sourced(shell, file, "$DOCKER_OPT_BIP $DOCKER_OPT_IPMASQ $DOCKER_OPT_MTU") == BASICS
    assert sourced(shell, file, '"$DOCKER_OPT_LOG"') == [hostile]
    assert sourced(shell, file, "$DOCKER_OPTS") == ["-H", "fd://", *BASICS[:2], *hostile.split(), BASICS[2]]


@pytest.mark.parametrize(
    ("programs", "words", "told"),
    [
        ({}, BASICS, "Docker's version is not known"),
        ({"dockerd": "echo Docker version 27.5.1, build 1"}, BASICS, ""),
        ({"dockerd": "echo Docker version 28.2.2, build e6534b4"}, [DIRECT, *BASICS], "Docker 28.2.2 lets other nodes"),
        ({"docker": 'echo "29.0.1${DOCKER_HOST}"'}, [DIRECT, *BASICS], "Docker 29.0.1 lets other nodes"),
        ({"dockerd": "exit 1", "docker": "echo 28.0.4"}, BASICS, "Docker 28.0.4 drops packets"),
        ({"dockerd": "echo what", "docker": "echo no daemon >&2; exit 1"}, BASICS, "Docker's version is not known"),
    ],
    ids=["none", "27", "28.2", "asks the daemon", "28.0", "no answer"],
)
def test_the_installed_docker_decides(tmp_path: Path, programs: dict[str, str], words: list[str], told: str) -> None:
    """dockerd itself is asked first, then the daemon of this host, whatever DOCKER_HOST says; neither is required."""
    for name, script in programs.items():
        put_program(tmp_path, name, script)
    done = docker_opts(tmp_path, "-c", DOCKER_HOST="tcp://10.0.0.9:2375", PATH=f"{tmp_path}/bin:/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    assert sourced("sh", tmp_path / "out.env", "$DOCKER_OPTS") == words
    assert (told in done.stderr, done.stderr.count("\n")) == (True, bool(told))


def test_daemon_json_as_a_process(tmp_path: Path) -> None:
    """stdout holds the object alone, and --into puts it into the file."""
    printed = docker_opts(tmp_path, "--format=json", "--docker-version=28.2")
    assert docker_opts(tmp_path, f"--into={tmp_path}/daemon.json", "--docker-version=28.2").returncode == 0
    wanted = {"bip": "10.1.74.1/24", "mtu": 1472, "ip-masq": True, "allow-direct-routing": True}
    assert json.loads(printed.stdout) == json.loads((tmp_path / "daemon.json").read_text()) == wanted
    assert not (tmp_path / "out.env").exists()


@pytest.mark.netns
@pytest.mark.parametrize(
    ("route", "code"),
    [
        ("10.1.74.0/24 dev eth0", 0),
        ("10.1.0.0/16 via 192.168.77.2", 0),
        ("10.1.75.0/24 via 192.168.77.2", 0),
        ("10.1.74.0/24 via 192.168.77.2 table 99", 0),
        ("10.1.74.0/24 via 192.168.77.2", 1),
        ("10.1.74.0/24 via 192.168.77.2 metric 50 proto 103", 1),
    ],
)
def test_a_route_to_the_hosts_subnet(tmp_path: Path, route: str, code: int) -> None:
    """A route to this host's subnet through another node: exit code 1, as flannel since v0.18; the file is written."""
    with namespace() as host:
        host.veth("eth0", "192.168.77.1/24", peer="peer0")
        host.ip(f"route add {route}")
        done = docker_opts(tmp_path, "--docker-version=27", inside=host)
    told = "the routing table has this host's subnet 10.1.74.0/24 via 192.168.77.2: remove that route\n"
    assert (done.returncode, done.stderr) == (code, f"pyflanneld docker-opts: {told}" if code else "")
    assert sourced("sh", tmp_path / "out.env", "$DOCKER_OPTS") == BASICS


@pytest.mark.netns
@pytest.mark.etcd
def test_the_daemon_sees_dockers_bridge(make_lab: Callable[..., Lab]) -> None:
    """A real bridge on another subnet is a warning within seconds, no obstacle, and forgotten once it is right."""
    lab = make_lab(1)
    lab.up()
    (node,) = lab.nodes

    def logged(event: str) -> list[str]:
        return [line for line in node.process.log.read_text().splitlines() if f'"{event}"' in line]

    assert logged("docker.bridge_differs") == []
    topology.run("ip", "-n", node.namespace, "address", "add", "172.17.0.1/16", "dev", "docker0")
    topology.run("ip", "-n", node.namespace, "address", "delete", "172.7.21.1/24", "dev", "docker0")
    until(lambda: bool(logged("docker.bridge_differs")), "a warning about docker0")
    assert "docker0 has 172.17.0.1/16, but the leased subnet is 172.7.21.0/24" in logged("docker.bridge_differs")[0]
    assert node.ready()
    topology.run("ip", "-n", node.namespace, "address", "add", "172.7.21.1/24", "dev", "docker0")
    until(lambda: any('"topic": "docker"' in line for line in logged("condition.resolved")), "the end of the warning")
