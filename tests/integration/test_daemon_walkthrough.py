"""The installation guide, step by step on two hosts: three etcd members with TLS, the shipped start script, a pinned
subnet, relative paths."""

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.measure import Ping
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.etcd.server import Files
from tests.support.lab.etcd_members import Members, three_members
from tests.support.lab.testbed import (
    Keeper,
    gateways,
    keeper,
    lease_key,
    lease_value,
    wait_answer,
    wait_exit,
    why_not_ready,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
SCRIPT = Path(__file__).parents[2] / "supervisor" / "flanneld.sh"
ETCD_HOSTS = ("192.168.14.12", "192.168.14.21", "192.168.14.22")  # the guide runs two of them on the nodes themselves


def write_pair(folder: Path, name: str, ca: trustme.CA, cert: trustme.LeafCert) -> Files:
    """Write ``ca.pem``, ``<name>.pem`` and ``<name>-key.pem``, as the guide names them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = Files(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}-key.pem")
    ca.cert_pem.write_to_path(files.ca)
    cert.cert_chain_pems[0].write_to_path(files.cert)
    cert.private_key_pem.write_to_path(files.key)
    return files


def install(node: LabHost, lab: Lab, ca: trustme.CA, client: trustme.LeafCert) -> Path:
    """Do steps 1 and 2 of the guide for a host in a folder that stands for /opt/flannel; return it."""
    folder = lab.folder / f"opt-{node.name}"
    folder.mkdir()
    (folder / "pyflanneld").symlink_to(Path(sys.executable).with_name("pyflanneld"))
    shutil.copy(node.subnet_file, folder / "subnet.env")
    write_pair(folder / "certs", "client", ca, client)
    script = folder / "flanneld.sh"
    script.write_text(SCRIPT.read_text().replace("--public-ip=192.168.14.21", f"--public-ip={node.address.ip}"))
    script.chmod(0o755)
    node.subnet_file = folder / "subnet.env"
    return folder


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    yield from keeper(request, 2)


@pytest.fixture(scope="module")
def etcd(lab: Keeper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    """Three members that demand client certificates, with the guide's configuration; its files on both hosts."""
    ca = trustme.CA()
    folder = tmp_path_factory.mktemp("certs")
    server = write_pair(folder, "server", ca, ca.issue_cert(*ETCD_HOSTS))
    client = write_pair(folder, "client", ca, ca.issue_cert("flannel"))
    built = lab.empty()
    built.etcd.stop(signal.SIGKILL)
    hosts = [built.etcd.namespace, *(node.namespace for node in built.nodes)]
    with three_members(built, hosts, ETCD_HOSTS, server=server, client=client) as members:
        members.store.put(f"{PREFIX}/config", CONFIG)
        for node in built.nodes:
            install(node, built, ca, ca.issue_cert(f"client-{node.name}"))
        yield members


def start(node: LabHost) -> None:
    """Do what supervisor does: run the script in its directory."""
    folder = node.subnet_file.parent
    node.process.start("env", "-C", str(folder), str(folder / "flanneld.sh"))


def test_the_guide_works(lab: Keeper, etcd: Members) -> None:
    """Both hosts lease the subnet that their file pins, by way of TLS, and route to each other; pods talk."""
    files = [node.subnet_file.read_bytes() for node in lab.lab.nodes]
    for node in lab.lab.nodes:
        start(node)
    for node in lab.lab.nodes:
        node.wait_ready()
        node.attach_pod()
    first, second = lab.lab.nodes
    assert (first.subnet, second.subnet) == ("172.7.21.0/24", "172.7.22.0/24")
    assert [node.subnet_file.read_bytes() for node in lab.lab.nodes] == files
    kvs = etcd.store.kvs(f"{PREFIX}/subnets/")
    assert {key: kv.value for key, kv in kvs.items()} == {
        lease_key(node.subnet): lease_value(node.address.ip).encode() for node in lab.lab.nodes
    }
    for node in lab.lab.nodes:
        node.wait_routes(lab.lab.gateways_for(node))
        assert node.get("/healthz") == (200, "flanneld is running")
    with Ping(first, second) as ping:
        until(lambda: len(ping.received()) >= 10, "pods talk")


@pytest.mark.usefixtures("etcd")
def test_console_log(lab: Keeper) -> None:
    """Without ``--log-format`` the log is lines for people, without colours in a file: time, level, event, fields."""
    node = lab.lab.nodes[0]
    until(lambda: "daemon.ready" in node.process.log.read_text(), "the daemon of the guide has started")
    lines = node.process.log.read_text().splitlines()
    acquired = next(line for line in lines if "lease.acquired" in line)
    assert acquired.split()[1:4] == ["info", "lease.acquired", "subnet=172.7.21.0/24"]
    assert all(line.isprintable() and not line.startswith("{") for line in lines)


def test_a_member_dies(lab: Keeper, etcd: Members) -> None:
    """With one of the three members gone the network stays as it is, and new peers are still followed."""
    member = etcd.used_by(lab.lab.nodes[0])
    member.kill()
    etcd.put_elsewhere(member, lease_key("172.7.99.0/24"), lease_value("192.168.14.99"))
    for node in lab.lab.nodes:
        node.wait_routes(lab.lab.gateways_for(node) | {"172.7.99.0/24": "192.168.14.99"}, 10)
    etcd.restore()
    etcd.store.delete(lease_key("172.7.99.0/24"))
    for node in lab.lab.nodes:
        node.wait_routes(lab.lab.gateways_for(node), 10)


def test_supervisors_stop_signal(lab: Keeper, etcd: Members) -> None:
    """QUIT to the script's process, as supervisor sends it: exit 0; lease and routes stay, for the next run too."""
    first, second = lab.lab.nodes
    kvs = etcd.store.kvs(f"{PREFIX}/subnets/")
    first.process.send(signal.SIGQUIT)
    assert wait_exit(first) == 0
    assert etcd.store.kvs(f"{PREFIX}/subnets/") == kvs
    assert gateways(first) == {second.subnet: str(second.address.ip)}
    start(first)
    first.wait_ready()
    assert etcd.store.kvs(f"{PREFIX}/subnets/") == kvs
    assert first.subnet == "172.7.21.0/24"


@pytest.mark.usefixtures("etcd")
def test_certificate_of_another_authority(lab: Keeper, tmp_path: Path) -> None:
    """A CA that did not sign etcd's certificate: not believed and not fatal; nothing that is in place is touched."""
    node, other = lab.lab.nodes
    certs, right = node.subnet_file.parent / "certs", tmp_path / "ca.pem"
    assert node.stop() == 0
    shutil.copy(certs / "ca.pem", right)
    trustme.CA().cert_pem.write_to_path(certs / "ca.pem")
    start(node)
    wait_answer(node)
    until(lambda: "etcd cannot be used" in why_not_ready(node), "it is said")
    assert gateways(node) == {other.subnet: str(other.address.ip)}
    node.stop()
    shutil.copy(right, certs / "ca.pem")
    start(node)
    node.wait_ready()
