"""Bad input and what it gets: an exit code and a line that names it, or patience; never a half-done thing."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, ENDPOINT, PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.network import HEALTH_PORT
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.support.lab.testbed import (
    Journal,
    Packets,
    gateways,
    kernel_state,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
    wait_answer,
    wait_exit,
    why_not_ready,
)
from tests.support.network.namespaces import Namespace

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
ETCD = "192.168.14.12"


@contextlib.contextmanager
def untouched(lab: Lab, node: LabHost, *, etcd_is_read: bool = False) -> Iterator[None]:
    """Prove that not one packet goes to etcd (or nothing is written there), and that the kernel stays as it is."""
    before, revision, packets = kernel_state(node), store_of(lab).revision(), Packets(node, ETCD)
    with RouteMonitor(node) as monitor:
        yield
        assert etcd_is_read or packets.sent() == 0
        packets.remove()
        assert monitor.messages() == ()
    assert kernel_state(node) == before
    assert store_of(lab).revision() == revision
    assert store_of(lab).leases() == {}


# Usage


@pytest.fixture
def silent_listener() -> Iterator[str]:
    """The URL of something that listens and that nobody may call on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--subnetfile=/tmp/x"], ["subnetfile", "subnet-file"]),
        (["--healthz-port=many"], ["--healthz-port", "many"]),
        (["--healthz-port=70000"], ["--healthz-port", "70000"]),
        (["--public-ip=192.168.14.300"], ["--public-ip", "192.168.14.300"]),
        (["--subnet-lease-renew-margin=1440"], ["--subnet-lease-renew-margin", "1439"]),
        (["--route-protocol=2"], ["--route-protocol"]),
        (["--log-format=xml"], ["--log-format", "json"]),
        (["--etcd-cafile=/etc/hostname"], ["--etcd-cafile", "https"]),
        (["--etcd-endpoints=https://[::1]", "--etcd-certfile=/etc/hostname"], ["--etcd-certfile", "--etcd-keyfile"]),
        (["--etcd-username=u"], ["--etcd-username", "--etcd-password"]),
        (["eth1"], ["eth1"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else None,
)
def test_wrong_usage(silent_listener: str, flags: list[str], named: list[str]) -> None:
    """A wrong flag or value: one line on stderr that names it and what would be right, exit 2, nothing contacted."""
    endpoints = [] if any("endpoints" in flag for flag in flags) else [f"--etcd-endpoints={silent_listener}"]
    done = subprocess.run(
        [sys.executable, "-m", "pyflanneld", "--iface=lo", "--healthz-port=0", *endpoints, *flags],
        capture_output=True, text=True, timeout=30, check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    for word in named:
        assert word in done.stderr


# The host


@pytest.mark.parametrize("iface", ["eth9", "bare0"])
def test_interface_that_does_not_serve(site: Lab, iface: str) -> None:
    """An interface that is absent or has no address: the line says which exist, exit 1, nothing is touched."""
    node = site.nodes[0]
    node.exec("ip", "link", "add", "bare0", "type", "bridge")
    journal = Journal(node)
    with untouched(site, node):
        launch(node, iface=iface, public_ip=None)
        assert wait_exit(node) == 1
    [failed] = journal.events("daemon.failed")
    assert iface in failed["error"]
    assert "eth1 (192.168.14.21/24)" in failed["error"]
    node.exec("ip", "link", "del", "bare0")


def test_public_ip_elsewhere(site: Lab) -> None:
    """A public IP that is not on the interface: host-gw, once the configuration says so, needs it there; exit 2."""
    node = site.nodes[0]
    journal = Journal(node)
    with untouched(site, node, etcd_is_read=True):
        launch(node, public_ip="203.0.113.7")
        assert wait_exit(node) == 2
    [warned], [failed] = journal.events("link.public_ip_elsewhere"), journal.events("daemon.failed")
    for text in (warned["warning"], failed["error"]):
        assert "203.0.113.7" in text
        assert "host-gw" in text
        assert "192.168.14.21/24" in text


def test_public_ip_elsewhere_while_etcd_is_down(site: Lab) -> None:
    """The mistake is told at once, although only the configuration can say that it is one."""
    node = site.nodes[0]
    journal = Journal(node)
    launch(node, public_ip="203.0.113.7", etcd_endpoints="http://192.168.14.12:1")
    journal.wait("link.public_ip_elsewhere", timeout_s=15)
    assert node.stop() == 0


def test_health_port_taken(site: Lab) -> None:
    """The health port in use by another program: exit 73 before etcd or the kernel is touched."""
    node = site.nodes[0]
    journal = Journal(node)
    with Namespace(node.namespace).inside():
        listener = socket.create_server(("0.0.0.0", HEALTH_PORT))  # noqa: S104 - inside a namespace
    with listener, untouched(site, node):
        launch(node)
        assert wait_exit(node) == 73
    [failed] = journal.events("daemon.failed")
    assert f"0.0.0.0:{HEALTH_PORT}" in failed["error"]
    assert "--healthz-port" in failed["error"]


def test_health_port_switched_off(site: Lab) -> None:
    """``--healthz-port=0`` listens nowhere, even where the usual port is taken by somebody else."""
    node = site.nodes[0]
    journal = Journal(node)
    launch(node, healthz_port=0)
    journal.wait("daemon.ready", timeout_s=15)
    assert node.exec("ss", "-Hltn").strip() == ""


# etcd and the configuration


def test_etcd_down_at_start(site: Lab) -> None:
    """No etcd: says so once, is alive but not ready, keeps trying, and goes on by itself when etcd comes."""
    node = site.nodes[0]
    journal = Journal(node)
    site.etcd.stop()
    packets = Packets(node, ETCD)
    launch(node)
    wait_answer(node)
    journal.wait("etcd.unavailable")
    first = packets.sent()
    until(lambda: packets.sent() >= first + 3, "it tries again")
    assert node.get("/healthz") == (200, "flanneld is running")
    assert node.get("/readyz")[0] == 503
    assert "etcd cannot be used" in why_not_ready(node)
    assert len(journal.events("etcd.unavailable")) == 1
    pid = pid_of(node)
    site.etcd.start()
    node.wait_ready(15)
    assert pid_of(node) == pid
    assert len(journal.events("etcd.unavailable")) == 1
    packets.remove()


def test_dead_endpoints_in_the_list(site: Lab) -> None:
    """Endpoints where nobody listens, or nobody is, delay the start a little and no more."""
    node = site.nodes[0]
    launch(node, etcd_endpoints=f"http://127.0.0.1:4001,http://192.168.14.250:2379,{ENDPOINT}")
    node.wait_ready(20)
    store_of(site).put(lease_key("172.7.99.0/24"), lease_value("192.168.14.99"))
    node.wait_routes({"172.7.99.0/24": "192.168.14.99"}, 2)


@pytest.mark.parametrize("backend", ['{"Type":"wireguard"}', None])
def test_unsupported_backend(site: Lab, backend: str | None) -> None:
    """A backend other than host-gw, flannel's default too: an error that names the supported ones, exit 2, no lease."""
    node, store = site.nodes[0], store_of(site)
    store.put(f"{PREFIX}/config", '{"Network":"172.7.0.0/16"%s}' % (f',"Backend":{backend}' if backend else ""))
    journal = Journal(node)
    launch(node)
    assert wait_exit(node) == 2
    [failed] = journal.events("daemon.failed")
    assert "'host-gw'" in failed["error"]
    assert store.leases() == {}
    assert gateways(node) == {}


def test_unsupported_backend_comes_later(site: Lab) -> None:
    """The same answer when the configuration comes while the daemon waits for one."""
    node, store = site.nodes[0], store_of(site)
    store.delete(f"{PREFIX}/config")
    launch(node)
    wait_answer(node)
    until(lambda: "no network configuration" in why_not_ready(node), "it waits")
    store.put(f"{PREFIX}/config", CONFIG.replace("host-gw", "wireguard"))
    assert wait_exit(node) == 2


# subnet.env


def test_f77_full_and_read_only_disk(site: Lab) -> None:
    """A file that cannot be written: lease kept and routes served, but not ready; retried until it works."""
    full, frozen, _ = site.nodes
    both, store = (full, frozen), store_of(site)
    mounts = {node.name: site.folder / f"mnt-{node.name}" for node in both}
    for folder in mounts.values():
        folder.mkdir(exist_ok=True)
    journals = [Journal(node) for node in both]
    at = mounts[full.name]
    launch(
        full, subnet_file=f"{at}/subnet.env",
        prepare=f"mount -t tmpfs -o size=4k none {at} && head -c 4096 /dev/zero > {at}/filler",
    )
    at = mounts[frozen.name]
    launch(frozen, subnet_file=f"{at}/subnet.env", prepare=f"mount -t tmpfs -o ro none {at}")
    for node, journal, reason in zip(both, journals, ("No space left", "Read-only"), strict=True):
        failed = journal.wait("subnet_file.failed", timeout_s=15)
        assert reason in failed["condition"]
        assert node.get("/readyz")[0] == 503
        assert "subnet file" in why_not_ready(node)
        assert node.get("/healthz")[0] == 200
    keys = set(store.kvs(f"{PREFIX}/subnets/"))
    assert len(keys) == 2
    until(lambda: all(len(gateways(node)) == 1 for node in both), "the routes are served")

    repairs = (f"rm {mounts[full.name]}/filler", f"mount -o remount,rw {mounts[frozen.name]}")
    for node, repair in zip(both, repairs, strict=True):
        subprocess.run(["nsenter", f"--target={pid_of(node)}", "--mount", "sh", "-c", repair], check=True)
    for node, journal in zip(both, journals, strict=True):
        node.wait_ready(8)
        assert len(journal.events("subnet_file.failed")) == 1
        inside = Path(f"/proc/{pid_of(node)}/root{mounts[node.name]}/subnet.env")
        assert inside.read_text().startswith("FLANNEL_NETWORK=172.7.0.0/16\n")
    assert set(store.kvs(f"{PREFIX}/subnets/")) == keys


def test_f77_directory_in_the_files_place(site: Lab) -> None:
    """A directory where the file should be is left alone; ready as soon as it is gone."""
    node = site.nodes[0]
    node.subnet_file.unlink()
    node.subnet_file.mkdir()
    journal = Journal(node)
    launch(node)
    journal.wait("subnet_file.failed", timeout_s=15)
    assert node.get("/readyz")[0] == 503
    assert list(node.subnet_file.iterdir()) == []
    node.subnet_file.rmdir()
    node.wait_ready(8)
    assert node.subnet_file.is_file()
