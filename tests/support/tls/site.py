"""Two hosts and an etcd that speaks TLS and demands client certificates, for tests whose certificates change.

etcd reads its own certificate at every handshake, and the authorities that it believes at its start; a restart of it
makes every connection new.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import LabHost
from tests.support.etcd.server import Files
from tests.support.lab.etcd_members import ADDRESSES, Members
from tests.support.lab.testbed import Journal, Kv, Store, launch, lease_key, lease_value, pid_of
from tests.support.tls.certificates import believe, files_in, write

ETCD = ADDRESSES[0]
STRANGER = "192.168.14.99"
SUBNET, KEY = "172.7.99.0/24", lease_key("172.7.99.0/24")


class TlsSite:
    """The laboratory with its certificates.

    Attributes:
        ca: the authority whom all believe at the beginning.
        other: one whom nobody believes then.
        hosts: the files of each host.
    """

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.ca, self.other = trustme.CA(), trustme.CA()
        self.server, self.admin = files_in(folder / "server"), files_in(folder / "admin")
        self.hosts = {node.name: files_in(folder / node.name) for node in lab.nodes}
        write(self.admin, self.ca.issue_cert("administrator"), self.ca)
        self.good_server()
        self.members: Members  # as soon as they run

    # etcd

    def good_server(self, ca: trustme.CA | None = None) -> None:
        """Give etcd a certificate that is in order, for its next handshake."""
        write(self.server, (ca or self.ca).issue_cert(ETCD), self.ca, self.other)

    def restart_etcd(self, *believed: trustme.CA) -> None:
        """Have every connection made anew, by an etcd that believes these authorities: its administrator's always."""
        believe(self.server, self.ca, *believed)
        self.members.all[0].kill()
        self.members.restore()

    @property
    def store(self) -> Store:
        return self.members.store

    def kvs(self) -> dict[str, Kv]:
        """Return the hosts' own leases."""
        found = self.store.kvs(f"{PREFIX}/subnets/")
        return {key: kv for key, kv in found.items() if key != KEY}

    def only_new(self) -> None:
        """Have etcd believe the other authority alone, and every connection made anew."""
        write(self.admin, self.other.issue_cert("administrator"), self.ca)
        believe(self.server, self.other)
        self.members.all[0].kill()
        self.members.restore()

    # The hosts

    def files(self, node: LabHost) -> Files:
        return self.hosts[node.name]

    def good_host(self, node: LabHost) -> None:
        """Give a host a new certificate that is in order."""
        write(self.files(node), self.ca.issue_cert(node.name), self.ca)

    def launch(
        self, node: LabHost, *more: str, env: dict[str, str] | None = None, prepare: str = "",
        failpoints: str | None = None,
    ) -> None:
        files = self.files(node)
        launch(
            node, *more, env=env, prepare=prepare, failpoints=failpoints, etcd_endpoints=f"https://{ETCD}:2379",
            etcd_cafile=str(files.ca), etcd_certfile=str(files.cert), etcd_keyfile=str(files.key),
        )  # fmt: skip

    def stop(self) -> None:
        for node in self.lab.nodes:
            if node.process.pid() is not None:
                node.kill()

    def start(self) -> None:
        """Put all in order: good certificates everywhere, daemons that are new, ready, with their routes."""
        self.stop()
        write(self.admin, self.ca.issue_cert("administrator"), self.ca)
        self.good_server()
        self.restart_etcd()
        self.store.ctl("del", "--prefix", f"{PREFIX}/subnets/")
        for node in self.lab.nodes:
            self.good_host(node)
            self.launch(node)
        for node in self.lab.nodes:
            node.wait_ready()
        self.wait(15)

    def follows(self, timeout_s: float, *there: str) -> float:
        """Have a stranger come, and wait until each host has the route to it; return how long the last one took."""
        self.store.put(KEY, lease_value(STRANGER))
        return self.wait(timeout_s, SUBNET, *there)

    def wait(self, timeout_s: float, *there: str) -> float:
        """Wait until each host has its routes, and to the stranger those that are *there*; return how long it took."""
        began = time.monotonic()
        for node in self.lab.nodes:
            node.wait_routes(self.lab.gateways_for(node) | dict.fromkeys(there, STRANGER), timeout_s)
        return time.monotonic() - began

    def hang_up(self, node: LabHost, **expected: str) -> None:
        """Send HUP, and wait until the daemon has done what it asks for."""
        journal = Journal(node)
        node.process.send(signal.SIGHUP)
        journal.wait("daemon.reloaded", 10, **expected)


@contextmanager
def undisturbed(site: TlsSite, *coming: str) -> Iterator[None]:
    """What happens in the block ends no daemon, moves no route between the hosts, and touches no lease.

    Routes to the stranger may come and go; to the subnets that are *coming*, each is put once.
    """
    nodes = site.lab.nodes
    pids, kvs = [pid_of(node) for node in nodes], site.kvs()
    with RouteMonitor(nodes[0]) as first, RouteMonitor(nodes[1]) as second:
        yield
        for monitor in (first, second):
            moved = [message.text.removeprefix("Deleted ").split()[0] for message in monitor.messages()]
            assert sorted(dst for dst in moved if dst != SUBNET) == sorted(coming)
    assert [pid_of(node) for node in nodes] == pids
    assert {key: kv for key, kv in site.kvs().items() if key in kvs} == kvs
