"""docs/procedures.md on a real cluster: what it tells to type is typed, and what it promises happens."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, ENDPOINT, PREFIX
from pyflanneld.lab.node import DAEMON
from pyflanneld.lab.run import until
from tests.support.doc_blocks import ROOT, blocks
from tests.support.lab.testbed import Journal, gateways, launch, lease_key, lease_value, store_of

pytestmark = [pytest.mark.etcd, pytest.mark.netns]

PAGE = ROOT / "docs" / "procedures.md"


def scripts(heading: str) -> list[str]:
    """Return the blocks below a heading of the page, in order."""
    text = PAGE.read_text("utf-8")
    first = text.count("\n", 0, text.index(f"\n## {heading}\n")) + 2
    after = text.find("\n## ", text.index(f"\n## {heading}\n") + 1)
    last = text.count("\n", 0, after) + 1 if after >= 0 else text.count("\n") + 1
    return [block.text for block in blocks(PAGE) if first <= block.line <= last]


class Operator:
    """Types blocks of the page on the first host: ``supervisorctl`` is the laboratory's, all else is real.

    Args:
        lab: a laboratory of which the first host is 192.168.14.21.
        folder: what stands for ``/var/backups``, ``/var/lib/etcd`` and the files of supervisor.
    """

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.node, self.folder = lab, lab.nodes[0], folder
        self.public_ip = str(self.node.address.ip)
        programs = folder / "bin"
        programs.mkdir()
        (programs / "pyflanneld").write_text(f'#!/bin/sh\nexec {" ".join(DAEMON)} "$@"\n')
        (programs / "pyflanneld").chmod(0o755)
        for name in ("backups", "etcd", "supervisord.d"):
            (folder / name).mkdir()

    def type(self, script: str) -> str:
        """Type a block, line by line; return what was printed. Raises when a line ends with another code than 0."""
        printed = ""
        for line in script.replace("\\\n", " ").splitlines():
            words = line.split()
            if words[0] == "supervisorctl":
                self._supervisorctl(words[1])
            else:
                printed += self._shell(line)
        return printed

    def _supervisorctl(self, word: str) -> None:
        if word in ("stop", "restart"):
            assert self.node.stop(signal.SIGQUIT) == 0
        if word in ("start", "restart"):
            launch(self.node, public_ip=self.public_ip)

    def _shell(self, line: str) -> str:
        for there, here in {
            "/opt/flannel/subnet.env": self.node.subnet_file, "/var/backups": self.folder / "backups",
            "/var/lib/etcd": self.folder / "etcd", "/etc/supervisord.d": self.folder / "supervisord.d",
        }.items():  # fmt: skip
            line = line.replace(there, str(here))
        env = {
            **os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": ENDPOINT, "FLANNELD_ETCD_ENDPOINTS": ENDPOINT,
        }  # fmt: skip
        command = ["ip", "netns", "exec", self.node.namespace, "bash", "-euo", "pipefail", "-c", line]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=80)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout


@pytest.fixture
def operator(make_lab: Callable[..., Lab], tmp_path: Path) -> Operator:
    """An operator before a cluster of three hosts that is in order."""
    lab = make_lab(3)
    lab.up()
    return Operator(lab, tmp_path)


def dropped(journal: Journal, dst: str) -> bool:
    return bool(journal.events("route.dropped", dst=dst))


def test_upgrade(operator: Operator) -> None:
    """The restart of an upgrade finds everything and writes nothing; no peer notices."""
    lab, node = operator.lab, operator.node
    journals = [Journal(one) for one in lab.nodes]
    before = store_of(lab).revision()
    operator.type(scripts("Rolling upgrade")[1])
    journals[0].wait("lease.reused")
    for event in ("route.put", "route.dropped", "routes.changed", "subnet_file.written"):
        assert not any(journal.events(event) for journal in journals), event
    assert store_of(lab).revision() == before
    assert gateways(node) == lab.gateways_for(node)


def test_another_address(operator: Operator) -> None:
    """The host keeps its subnet under its new address, and the peers follow."""
    lab, node = operator.lab, operator.node
    stop, start = scripts("Change a host's address")
    operator.type(stop)
    lab.nodes[1].wait_routes(lab.gateways_for(lab.nodes[1], lab.nodes[1:]))
    node.exec("ip", "address", "del", "192.168.14.21/24", "dev", "eth1")
    node.exec("ip", "address", "add", "192.168.14.31/24", "dev", "eth1")
    operator.public_ip = "192.168.14.31"
    journal = Journal(node)
    assert "192.168.14.31" in operator.type(start)
    journal.wait("lease.acquired", subnet="172.7.21.0/24")
    assert not journal.events("subnet_file.written"), "the file is what it was, so Docker need not know"
    for other in lab.nodes[1:]:
        other.wait_routes({**lab.gateways_for(other), "172.7.21.0/24": "192.168.14.31"})


def test_another_address_with_a_reservation(operator: Operator) -> None:
    """The other way: the subnet is reserved for the new address in between."""
    lab, node = operator.lab, operator.node
    operator.type("pyflanneld leases reserve 172.7.21.0/24 192.168.14.21")
    stop, start = scripts("Change a host's address")
    operator.type(stop.replace(" --force", ""))
    (reserve,) = re.findall(r"`(pyflanneld leases reserve [^`]*)`", PAGE.read_text("utf-8"))
    operator.type(reserve)
    node.exec("ip", "address", "del", "192.168.14.21/24", "dev", "eth1")
    node.exec("ip", "address", "add", "192.168.14.31/24", "dev", "eth1")
    operator.public_ip = "192.168.14.31"
    journal = Journal(node)
    operator.type(start)
    journal.wait("lease.reused", reserved=True)
    lab.nodes[1].wait_routes({**lab.gateways_for(lab.nodes[1]), "172.7.21.0/24": "192.168.14.31"})


def test_a_host_leaves(operator: Operator) -> None:
    """Its lease and the routes to it go everywhere, and nothing of ours is left on it."""
    lab, node = operator.lab, operator.node
    (operator.folder / "supervisord.d" / "flanneld.ini").touch()
    journal = Journal(lab.nodes[1])
    stop, release, clean = scripts("Remove a host")
    operator.type(stop)
    operator.type(release)
    for other in lab.nodes[1:]:
        other.wait_routes({peer.subnet: str(peer.address.ip) for peer in lab.nodes[1:] if peer is not other})
    assert dropped(journal, "172.7.21.0/24")
    assert lease_key("172.7.21.0/24") not in store_of(lab).kvs()
    operator.type(clean)
    assert node.routes() == ()
    assert not node.subnet_file.exists()
    assert "FLANNEL" not in node.exec("iptables-save")
    assert list((operator.folder / "supervisord.d").iterdir()) == []


def restore(operator: Operator) -> None:
    """Do steps 1 to 3 of the page: stop etcd, restore, start it on the restored data."""
    lab = operator.lab
    lab.etcd.stop()
    operator.type(scripts("Restore of etcd")[0])
    lab.etcd.flags = ("--data-dir", str(operator.folder / "etcd" / "restored"))  # the last one counts
    lab.etcd.start()


def test_backup_and_restore(operator: Operator) -> None:
    """Who has come since takes its subnet again, no live route goes, and the lease of who has left is released."""
    lab, store = operator.lab, store_of(operator.lab)
    newcomer, watcher = lab.nodes[2], lab.nodes[1]
    newcomer.stop()
    store.delete(lease_key(newcomer.subnet))
    store.put(lease_key("172.7.99.0/24"), lease_value("192.168.14.99"), lease=store.grant(3600))
    snapshot, text = scripts("Backup of etcd")
    operator.type(snapshot)
    operator.type(text)
    assert (operator.folder / "backups" / "network.json").read_text().strip() == CONFIG
    assert "192.168.14.99" in (operator.folder / "backups" / "leases.json").read_text()
    store.delete(lease_key("172.7.99.0/24"))
    newcomer.start()
    for node in lab.nodes:
        node.wait_ready()
        node.wait_routes(lab.gateways_for(node))

    journals = [Journal(node) for node in lab.nodes]
    restore(operator)
    journals[2].wait("lease.retaken", 40)
    ghost = {"172.7.99.0/24": "192.168.14.99"}
    for node, journal in zip(lab.nodes, journals, strict=True):
        journal.wait("etcd.history_changed", 40)
        node.wait_routes(lab.gateways_for(node) | ghost, 40)
    operator.type(scripts("Restore of etcd")[1])
    for node in lab.nodes:
        node.wait_routes(lab.gateways_for(node), 60)
    assert not any(dropped(journal, node.subnet) for journal in journals for node in lab.nodes)
    assert watcher.process.exit_code() is None


def test_a_subnet_that_went_to_another_host(operator: Operator) -> None:
    """The warning in the table: whoever holds a subnet that the backup gives to another host ends with 75."""
    lab, store = operator.lab, store_of(operator.lab)
    second = lab.nodes[1]
    second.stop()
    key = lease_key("172.7.22.0/24")
    store.delete(key)
    store.put(key, lease_value("192.168.14.98"), lease=store.grant(3600))
    operator.type(scripts("Backup of etcd")[0])
    store.delete(key)
    second.start()
    second.wait_ready()
    assert second.subnet == "172.7.22.0/24"
    restore(operator)
    until(lambda: second.process.exit_code() == 75, "the second host ends with 75", 60)


def test_an_empty_etcd(operator: Operator) -> None:
    """With the configuration alone each host puts its own lease back; no route goes for good, none is wrong."""
    lab = operator.lab
    subnets = [node.subnet for node in lab.nodes]
    lab.etcd.stop()
    lab.etcd.flags = ("--data-dir", str(operator.folder / "etcd" / "new"))
    lab.etcd.start()
    assert "192.168.14.21" in operator.type(scripts("etcd is lost without a backup")[0])
    kept = {lease_key(subnet) for subnet in subnets}
    until(lambda: kept <= store_of(lab).kvs(PREFIX).keys(), "all leases are there again", 40)
    for node in lab.nodes:
        node.wait_ready()
        node.wait_routes(lab.gateways_for(node), 40)
    assert [node.subnet for node in lab.nodes] == subnets
