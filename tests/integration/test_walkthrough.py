"""The user's guide, executed: two hosts, three etcd members with TLS, supervisord, ``supervisorctl update``, packets.

What is changed in the shipped files: the two directories, the second host's number and address, and ``startsecs``.
"""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from pyflanneld.lab import topology
from pyflanneld.lab.run import until
from tests.support.etcd.server import Member, make_member
from tests.support.lab.testbed import Store
from tests.support.network.namespaces import Namespace, namespace

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
ROOT = Path(__file__).parents[2]
MEMBERS = ("192.168.14.12", "192.168.14.21", "192.168.14.22")
ENDPOINTS = ",".join(f"https://{address}:2379" for address in MEMBERS)
PREFIX = "/coreos.com/network"
CONFIG = '{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
LEASE_S = 86400
SUBNET_ENV = """\
FLANNEL_NETWORK=172.7.0.0/16
FLANNEL_SUBNET=172.7.{}.1/24
FLANNEL_MTU=1500
FLANNEL_IPMASQ=false
"""
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
files={0}/etc/supervisord.d/*.ini
"""


@dataclass(frozen=True, slots=True)
class Site:
    """The machines of the guide: their namespaces by the last number of the address, and a pod on each host."""

    machines: Mapping[int, Namespace]
    pods: Mapping[int, Namespace]
    authority: trustme.CA


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The LAN with kb12, kb21 and kb22, Docker's bridge and a pod on the two hosts, and etcd with both of its APIs."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        lan = stack.enter_context(namespace())
        lan.ip("link add lan type bridge")
        lan.ip("link set lan up")
        machines = {int(address.rpartition(".")[2]): stack.enter_context(namespace()) for address in MEMBERS}
        for number, machine in machines.items():
            stack.callback(topology.kill_all, machine.name)
            machine.veth("eth1", f"192.168.14.{number}/24", peer=f"kb{number}", peer_in=lan)
            lan.ip(f"link set kb{number} master lan")
        pods = {number: stack.enter_context(namespace()) for number in (21, 22)}
        for number, pod in pods.items():
            put_pod(machines[number], pod, number)
        authority = trustme.CA()
        members = etcd(folder, machines, authority)
        for member in members:
            stack.callback(member.kill)
            member.start()
        for member, machine in zip(members, machines.values(), strict=True):
            with machine.inside():
                member.wait_ready()
        yield Site(machines, pods, authority)


def put_pod(host: Namespace, pod: Namespace, number: int) -> None:
    """Do what Docker does on a host: its bridge on the host's subnet, a container behind it, forwarding."""
    host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    host.ip("link add docker0 type bridge")
    host.ip(f"address add 172.7.{number}.1/24 dev docker0")
    host.ip("link set docker0 up")
    pod.veth("eth0", f"172.7.{number}.2/24", peer="pod", peer_in=host)
    host.ip("link set pod master docker0")
    pod.ip(f"route add default via 172.7.{number}.1")


def write_pair(folder: Path, name: str, authority: trustme.CA, *identities: str) -> None:
    """Write ``ca.pem``, ``<name>.pem`` and ``<name>-key.pem``."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate = authority.issue_cert(*identities)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    certificate.private_key_pem.write_to_path(folder / f"{name}-key.pem")


def etcd(folder: Path, machines: Mapping[int, Namespace], authority: trustme.CA) -> list[Member]:
    """Describe the three members, which demand a client certificate; ``client.pem`` is beside their own."""
    write_pair(folder, "server", authority, *MEMBERS)
    args = [f"--cert-file={folder}/server.pem", f"--key-file={folder}/server-key.pem"]
    args += [f"--trusted-ca-file={folder}/ca.pem", "--client-cert-auth", "--enable-v2=true"]
    peers = {f"kb{number}": f"http://192.168.14.{number}:2380" for number in machines}
    return [
        make_member(
            folder,
            f"kb{number}",
            url=f"https://192.168.14.{number}:2379",
            peers=peers,
            health_url="http://127.0.0.1:2381",
            args=args,
            netns=machine.name,
        )
        for number, machine in machines.items()
    ]


class Host:
    """kb21 or kb22, with directories of its own for /opt, /etc and /data."""

    def __init__(self, site: Site, number: int, root: Path) -> None:
        self.number, self.root = number, root
        self.machine, self.pod = site.machines[number], site.pods[number]
        self.home = root / "opt" / "flannel"
        self.log = root / "data" / "logs" / "flanneld" / "flanneld.stdout.log"
        self.program = f"flannel-{number}"

    def install(self, authority: trustme.CA) -> None:
        """Do sections 1 and 2 of the guide, in their order."""
        folder = self.root / "opt" / "pyflannel-v0.1.0"
        folder.mkdir(parents=True)
        (folder / "pyflanneld").symlink_to(Path(sys.executable).with_name("pyflanneld"))
        self.home.symlink_to(folder)
        (self.home / "subnet.env").write_text(SUBNET_ENV.format(self.number))
        write_pair(self.home / "certs", "client", authority, f"kb{self.number}.example")
        script = (ROOT / "supervisor" / "flanneld.sh").read_text()
        assert f"--etcd-endpoints={ENDPOINTS} " in script
        assert "--public-ip=192.168.14.21 " in script
        file = self.home / "flanneld.sh"
        file.write_text(script.replace("--public-ip=192.168.14.21 ", f"--public-ip=192.168.14.{self.number} "))
        file.chmod(0o755)
        self.log.parent.mkdir(parents=True)
        (self.root / "etc" / "supervisord.d").mkdir(parents=True)
        (self.root / "supervisord.conf").write_text(SUPERVISORD.format(self.root))

    def write_section(self) -> None:
        """Create ``/etc/supervisord.d/flanneld.ini``."""
        section = (ROOT / "supervisor" / "flanneld.ini").read_text()
        assert "startsecs=30\n" in section
        section = section.replace("startsecs=30\n", "startsecs=1\n").replace("flannel-21", self.program)
        section = section.replace("=/opt/", f"={self.root}/opt/").replace("=/data/", f"={self.root}/data/")
        (self.root / "etc" / "supervisord.d" / "flanneld.ini").write_text(section)

    @contextmanager
    def supervisord(self) -> Iterator[None]:
        """Run a supervisord for the length of the block; it ends its programs when it ends."""
        command = ("setpriv", "--pdeathsig", "TERM", "supervisord", "-c", f"{self.root}/supervisord.conf")
        process = subprocess.Popen(self.machine.command(*command), stdout=subprocess.DEVNULL)
        try:
            until((self.root / "supervisor.sock").exists, f"kb{self.number}: supervisord listens", 20)
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            finally:
                process.kill()
                process.wait(timeout=5)
                self._end_daemons()

    def _end_daemons(self) -> None:
        for pid in topology.processes_in(self.machine.name):
            if Path(f"/proc/{pid}/cwd").exists() and Path(f"/proc/{pid}/cwd").resolve() == self.home.resolve():
                topology.kill(pid, signal.SIGKILL)

    def supervisorctl(self, *words: str) -> str:
        return self.machine.run("supervisorctl", "-c", f"{self.root}/supervisord.conf", *words, check=False).strip()

    def probe(self, path: str) -> tuple[int, str]:
        """Ask the health listener on port 2401; status 0 when nobody answers."""
        try:
            with (
                self.machine.inside(),
                urllib.request.urlopen(f"http://127.0.0.1:2401{path}", timeout=2) as answer,
            ):
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait_running(self) -> None:
        """Wait until the daemon calls itself ready and supervisord calls it RUNNING."""
        until(lambda: self.probe("/readyz") == (200, "flanneld is ready"), f"ready, see {self.log}", 20)
        until(lambda: "RUNNING" in self.supervisorctl("status", self.program), f"RUNNING, see {self.log}", 10, 0.2)

    def wait_routes(self, wanted: list[str]) -> None:
        until(lambda: self.routes() == wanted, f"kb{self.number}: routes {wanted}", 10)

    def routes(self) -> list[str]:
        """Return the daemon's routes, in the words of ``ip route``."""
        return [" ".join(line.split()) for line in self.machine.ip("route show proto 103").splitlines()]

    def etcdctl(self, api: int, *words: str) -> str:
        """Run ``etcdctl`` in ``certs/``, with the options that each API's has for the same three files."""
        ca, cert, key = ("--ca-file", "--cert-file", "--key-file") if api == 2 else ("--cacert", "--cert", "--key")
        files = (f"{ca}=ca.pem", f"{cert}=client.pem", f"{key}=client-key.pem")
        command = ("env", "-C", f"{self.home}/certs", f"ETCDCTL_API={api}", "etcdctl")
        return self.machine.run(*command, f"--endpoints={ENDPOINTS}", *files, *words)

    def leases(self, api: int) -> dict[str, tuple[str, int]]:
        """Return name, value and remaining seconds of each key below ``subnets``."""
        if api == 2:
            names = self.etcdctl(2, "ls", f"{PREFIX}/subnets").split()
            nodes = [json.loads(self.etcdctl(2, "-o", "json", "get", name))["node"] for name in names]
            return {node["key"].rpartition("/")[2]: (node["value"], node["ttl"]) for node in nodes}
        certs = self.home / "certs"
        files = (f"--cacert={certs}/ca.pem", f"--cert={certs}/client.pem", f"--key={certs}/client-key.pem")
        store = Store(self.machine.name, f"--endpoints={ENDPOINTS}", *files)
        kvs = store.kvs(f"{PREFIX}/subnets/")
        return {key.rpartition("/")[2]: (kv.value.decode(), store.ttl(kv.lease)[0]) for key, kv in kvs.items()}


@pytest.fixture
def hosts(site: Site, tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """kb21 and kb22 as after sections 1 and 2 of the guide, with a supervisord each; nothing in etcd, before and after.

    Also the routes that a daemon leaves when it stops are gone afterwards.
    """
    first, second = (Host(site, number, tmp_path / f"kb{number}") for number in (21, 22))
    with ExitStack() as stack:
        for host in (first, second):
            host.install(site.authority)
            stack.callback(host.machine.ip, "route flush proto 103", check=False)
        stack.callback(first.etcdctl, 3, "del", "--prefix", PREFIX)
        stack.callback(forget_v2, first)
        for host in (first, second):
            stack.enter_context(host.supervisord())
        yield first, second


def forget_v2(host: Host) -> None:
    if PREFIX in host.etcdctl(2, "ls", "--recursive", "/").split():
        host.etcdctl(2, "rm", "--recursive", PREFIX)


VALUES = {
    2: '{{"PublicIP":"192.168.14.{}","BackendType":"host-gw"}}',
    3: '{{"PublicIP":"192.168.14.{}","PublicIPv6":null,"BackendType":"host-gw"}}',
}


@pytest.mark.parametrize(("api", "verb"), [pytest.param(2, "set", id="v2"), pytest.param(3, "put", id="v3")])
def test_the_guide_works_to_the_letter(hosts: tuple[Host, Host], api: int, verb: str) -> None:
    """Configuration by etcdctl, ``supervisorctl update``: RUNNING, healthy, pinned subnets, routes, packets, stop."""
    first, second = hosts
    first.etcdctl(api, verb, f"{PREFIX}/config", CONFIG)
    assert CONFIG in first.etcdctl(api, "get", f"{PREFIX}/config").splitlines()
    for host in hosts:
        host.write_section()
        assert host.supervisorctl("update") == f"{host.program}: added process group"
    for host in hosts:
        host.wait_running()
        assert host.probe("/healthz") == (200, "flanneld is running")
        assert (host.home / "subnet.env").read_text() == SUBNET_ENV.format(host.number)
        assert f"registry.chosen api={api}" in host.log.read_text()

    leases = first.leases(api)
    values = {name: value for name, (value, _) in leases.items()}
    assert values == {f"172.7.{host.number}.0-24": VALUES[api].format(host.number) for host in hosts}
    assert all(LEASE_S - 60 < left_s <= LEASE_S for _, left_s in leases.values())
    routes = {
        21: ["172.7.22.0/24 via 192.168.14.22 dev eth1"],
        22: ["172.7.21.0/24 via 192.168.14.21 dev eth1"],
    }
    for host, other in ((first, second), (second, first)):
        host.wait_routes(routes[host.number])
        assert "3 received" in host.pod.run("ping", "-c3", "-i0.1", "-W2", f"172.7.{other.number}.2")

    for host in hosts:
        pid = int(host.supervisorctl("pid", host.program))
        assert host.supervisorctl("stop", host.program) == f"{host.program}: stopped"
        assert not Path(f"/proc/{pid}").exists()
        assert f"stopped: {host.program} (exit status 0)" in (host.root / "supervisord.log").read_text()
        assert "daemon.stopping signal=SIGQUIT" in host.log.read_text()
        assert host.log.read_text().rstrip().splitlines()[-1].split()[2] == "daemon.stopped"
        assert host.probe("/healthz")[0] == 0
    # What the daemons leave on purpose: the network works on without them.
    assert first.leases(api).keys() == leases.keys()
    for host, other in ((first, second), (second, first)):
        assert host.routes() == routes[host.number]
        assert "3 received" in host.pod.run("ping", "-c3", "-i0.1", "-W2", f"172.7.{other.number}.2")
