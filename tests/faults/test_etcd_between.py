"""What stands between the hosts and etcd: rows F120 to F123 of the fault matrix."""

import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS, CONFIG, ENDPOINT, PREFIX
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.process import Background
from pyflanneld.lab.run import attempt, until
from tests.faults.conftest import Measured
from tests.support.etcd.counters import daemon_counters
from tests.support.etcd.server import EACH_RELEASE, RELEASES
from tests.support.lab.lossy_path import lossy_path
from tests.support.lab.testbed import Journal, Keeper, keeper, launch, lease_key, lease_value, store_of
from tests.support.network.name_server import NameServer
from tests.support.network.namespaces import Namespace
from tests.support.network.tcp_proxy import Idle

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER = "192.168.14.99"
SUBNET, KEY = "172.7.99.0/24", lease_key("172.7.99.0/24")
PROXY_PORT = 23790
SECOND = "192.168.14.15"
NAME = "etcd1.example"
URL = f"http://{NAME}:2379"


def pass_quietly(node: LabHost, seconds: float) -> Journal:
    """Let time pass without a change; the daemon has logged no warning then, and has read no list."""
    journal, lists, until_s = Journal(node), daemon_counters(node).lists, time.monotonic() + seconds
    until(lambda: time.monotonic() > until_s, "a quiet time has passed", seconds + 10, 0.1)
    assert [event for event in journal.events() if event["level"] not in ("debug", "info")] == []
    assert daemon_counters(node).lists == lists
    return journal


def follow(lab: Lab, node: LabHost, timeout_s: float) -> float:
    """Put a peer's lease and wait for its route; return how long that took, in seconds."""
    store_of(lab).put(KEY, lease_value(STRANGER))
    return node.wait_routes({SUBNET: STRANGER}, timeout_s)


# F120


@contextmanager
def proxy_of(lab: Lab, release: str) -> Iterator[Background]:
    """Have a gRPC proxy beside the laboratory's etcd until the block ends."""
    process = Background(lab.etcd.namespace, lab.folder / "grpc-proxy")
    process.folder.mkdir(exist_ok=True)
    process.start(
        RELEASES[release], "grpc-proxy", "start", "--endpoints=127.0.0.1:2379",
        f"--listen-addr={ADDRESS.ip}:{PROXY_PORT}", f"--data-dir={process.folder}",
    )  # fmt: skip
    try:
        yield process
    finally:
        process.send(signal.SIGCONT)
        process.stop()


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.parametrize("release", EACH_RELEASE)
def test_f120_behind_a_grpc_proxy(site: Lab, release: str, measured: Measured) -> None:
    """For 100 s without a change nothing is listed and nothing told; then a change is followed; then the proxy, and
    etcd behind it, freeze in turn, and that is told in bounded time."""
    node = site.nodes[0]
    with proxy_of(site, release) as proxy:
        launch(node, "-v=1", etcd_endpoints=f"http://{ADDRESS.ip}:{PROXY_PORT}")
        node.wait_ready(20)
        pass_quietly(node, 100)
        seen_s = follow(site, node, 5)
        frozen_s = []
        for process, limit_s in ((proxy, 17.0), (site.etcd.process, 45.0)):
            journal, began = Journal(node), time.monotonic()
            process.send(signal.SIGSTOP)
            journal.wait("etcd.unavailable", timeout_s=limit_s, task="peers")
            frozen_s.append(time.monotonic() - began)
            process.send(signal.SIGCONT)
            journal.wait("condition.resolved", timeout_s=20, topic="etcd:peers")
        store_of(site).delete(KEY)
        node.wait_routes({}, 20)
        assert node.stop() == 0
    measured(f"100 s without a list or a warning; a change is seen after {seen_s:.1f} s; the proxy frozen: told after "
             f"{frozen_s[0]:.0f} s, etcd behind it: {frozen_s[1]:.0f} s")  # fmt: skip


# F121


@pytest.mark.timeout(120)
@pytest.mark.parametrize("api", [3, 2])
@pytest.mark.parametrize("how", ["reset", "close", "half-close"])
def test_f121_an_idle_connection_is_cut(bilingual: Lab, api: int, how: str, measured: Measured) -> None:
    """What is idle for 3 s, less than the time between our pings, is cut: nothing is listed, nothing told, and a change
    is followed."""
    node = bilingual.nodes[0]
    with lossy_path(node, ENDPOINT) as path:
        path.cut_idle(Idle(3, how))
        launch(node, "-v=1", etcd_endpoints=path.url, etcd_api=str(api))
        node.wait_ready(20)
        journal = pass_quietly(node, 15)
        cuts = path.idle_cuts
        assert cuts >= 3
        assert journal.events("watch.cut")
        if api == 3:
            seen_s = follow(bilingual, node, 5)
            measured(f"{cuts} cuts in some 15 s, no list, no warning; a change is seen after {seen_s:.1f} s")
        assert node.stop() == 0


@pytest.mark.thorough
@pytest.mark.timeout(120)
def test_f121_an_idle_connection_is_cut_after_10_s(site: Lab) -> None:
    """The pings keep the connection from being idle for 10 s: it is never cut while the watch is open."""
    node = site.nodes[0]
    with lossy_path(node, ENDPOINT) as path:
        launch(node, "-v=1", etcd_endpoints=path.url)
        node.wait_ready(20)
        path.cut_idle(Idle(10, "reset"))
        journal = pass_quietly(node, 60)
        assert path.idle_cuts == 0
        assert journal.events("watch.cut") == []
        follow(site, node, 5)
        assert node.stop() == 0


@pytest.fixture(scope="module")
def bilingual_keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    for made in keeper(request, 1):
        made.lab.etcd.flags = ("--enable-v2=true",)
        yield made


@pytest.fixture
def bilingual(bilingual_keeper: Keeper) -> Iterator[Lab]:
    """One host without a daemon, and an etcd with the configuration in both APIs."""
    lab = bilingual_keeper.empty()
    v2 = ("env", "ETCDCTL_API=2", "etcdctl", "--endpoints", "http://127.0.0.1:2379", "set", f"{PREFIX}/config", CONFIG)
    assert attempt("ip", "netns", "exec", lab.etcd.namespace, *v2).returncode == 0
    yield lab
    bilingual_keeper.stop()


# F122, F123


class Names:
    """What a host can look up: its ``/etc/hosts``, in place since it is mounted, and its name server."""

    def __init__(self, files: Path, server: NameServer) -> None:
        self._files = files
        self.server = server

    def hosts(self, text: str) -> None:
        (self._files / "hosts").write_text(f"127.0.0.1 localhost\n{text}\n")


@contextmanager
def names_of(node: LabHost) -> Iterator[Names]:
    """Give a host names of its own until the block ends; its name server is silent."""
    files = Path("/etc/netns") / node.namespace
    with ExitStack() as stack:
        files.mkdir(parents=True)
        stack.callback(shutil.rmtree, files)
        (files / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        server = NameServer(Namespace(node.namespace))
        stack.callback(server.close)
        server.silent = True
        names = Names(files, server)
        names.hosts("")
        yield names


def test_f122_a_name_in_the_file(site: Lab) -> None:
    """The name works at the first try although no name server answers: nothing is told, nobody waits."""
    node = site.nodes[0]
    with names_of(node) as names:
        names.hosts(f"{ADDRESS.ip} {NAME}")
        journal = Journal(node)
        launch(node, etcd_endpoints=URL)
        node.wait_ready(5)
        assert journal.events("etcd.unavailable") == []
        assert node.stop() == 0


def test_f122_a_name_that_is_waited_for(site: Lab, measured: Measured) -> None:
    """The log names the name; as soon as it is in the file the daemon becomes ready."""
    node = site.nodes[0]
    with names_of(node) as names:
        journal = Journal(node)
        launch(node, etcd_endpoints=URL)
        told = journal.wait("etcd.unavailable", timeout_s=20)["condition"]
        assert f"{URL}: no name server has answered" in told
        assert told.partition(": ")[2].startswith(URL)
        names.hosts(f"{ADDRESS.ip} {NAME}")
        began = time.monotonic()
        node.wait_ready(20)
        measured(f"the name is told; ready {time.monotonic() - began:.1f} s after it is in the file")
        assert node.stop() == 0


@pytest.mark.parametrize("by", ["hosts", "name server"])
def test_f123_a_name_gets_another_address(site: Lab, by: str, measured: Measured) -> None:
    """The old address dies: the watch moves to the new one, and what was changed meanwhile is followed."""
    node = site.nodes[0]

    def point_to(names: Names, address: object) -> None:
        names.server.silent, names.server.names = False, {NAME: [str(address)]}
        if by == "hosts":
            names.server.silent = True
            names.hosts(f"{address} {NAME}")

    etcd = Namespace(site.etcd.namespace)
    [link] = [line.split()[1] for line in etcd.ip("-oneline -4 address").splitlines() if str(ADDRESS.ip) in line]
    etcd.ip(f"address add {SECOND}/24 dev {link}")
    try:
        with names_of(node) as names:
            point_to(names, ADDRESS.ip)
            launch(node, etcd_endpoints=URL)
            node.wait_ready(10)
            point_to(names, SECOND)
            Namespace(node.namespace).swallow(str(ADDRESS.ip))
            try:
                measured(f"a change is seen {follow(site, node, 15):.1f} s after the old address has died")
            finally:
                node.exec("nft", "delete table inet hole")
            assert node.stop() == 0
    finally:
        etcd.ip(f"address del {SECOND}/24 dev {link}")
