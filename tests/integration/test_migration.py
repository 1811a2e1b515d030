"""A host changes from the Go daemon to pyflanneld and back under traffic; and both in one cluster.

There is no Go binary here: what it leaves behind when it stops is set up byte by byte, as v0.11.0 (etcd's v2 API) and
as v0.28.9 (v3) do it.
"""

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import run, until
from tests.support.lab.stream import Stream
from tests.support.lab.testbed import Journal, Store, store_of

pytestmark = [
    pytest.mark.netns,
    pytest.mark.etcd,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

DAY_S = 86400
NETWORK = "172.7.0.0/16"
GO_KEY = {
    2: re.compile(r"(\d+\.\d+.\d+.\d+)-(\d+)"),
    3: re.compile(r"(\d+\.\d+.\d+.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?$"),
}
VALUE = {
    2: '{"PublicIP":"%s","BackendType":"host-gw"}',
    3: '{"PublicIP":"%s","PublicIPv6":null,"BackendType":"host-gw"}',
}
BOOT = ""  # so ip shows it


# etcd, as a Go daemon uses it


class GoEtcd:
    """The keys of one API: written as the Go daemon of that API writes them."""

    def __init__(self, lab: Lab, api: int) -> None:
        self.api = api
        self._namespace = lab.etcd.namespace
        self._store: Store = store_of(lab)

    def _v2(self, *words: str) -> str:
        return run("ip", "netns", "exec", self._namespace, "env", "ETCDCTL_API=2", "etcdctl", *words)

    def configure(self) -> None:
        """Have the configuration in this API alone."""
        if self.api == 2:
            self._store.delete(f"{PREFIX}/config")
            self._v2("set", f"{PREFIX}/config", CONFIG)

    def write(self, subnet: str, public_ip: str) -> None:
        """Create or renew a lease: v2 sets it with a TTL, v3 puts it with an etcd lease granted for the purpose."""
        key, value = f"{PREFIX}/subnets/{subnet}", VALUE[self.api] % public_ip
        if self.api == 2:
            self._v2("set", "--ttl", str(DAY_S), key, value)
        else:
            self._store.put(key, value, lease=self._store.grant(DAY_S))

    def leases(self) -> dict[str, str]:
        """Return the values of all leases, by the last part of the key."""
        if self.api == 3:
            found = self._store.kvs(f"{PREFIX}/subnets")
            return {key.rpartition("/")[2]: kv.value.decode() for key, kv in found.items()}
        nodes = json.loads(self._v2("-o", "json", "ls", f"{PREFIX}/subnets"))["node"]["nodes"]
        return {node["key"].rpartition("/")[2]: node["value"] for node in nodes}

    def ttl(self, subnet: str) -> int:
        """Return the seconds that a lease has left."""
        key = f"{PREFIX}/subnets/{subnet}"
        if self.api == 2:
            return int(json.loads(self._v2("-o", "json", "get", key))["node"]["ttl"])
        kv = self._store.kv(key)
        assert kv is not None
        return self._store.ttl(kv.lease)[0]

    def created(self, subnet: str) -> int:
        """Return the revision at which a key was made: another one after it was deleted."""
        key = f"{PREFIX}/subnets/{subnet}"
        if self.api == 2:
            return int(json.loads(self._v2("-o", "json", "get", key))["node"]["createdIndex"])
        kv = self._store.kv(key)
        assert kv is not None
        return kv.create_revision


def key_of(node: LabHost) -> str:
    return str(node.bridge_address.network).replace("/", "-")


# The host, as a Go daemon leaves it


def env_bytes(node: LabHost, masq: bool) -> bytes:
    last = f"FLANNEL_IPMASQ={str(masq).lower()}\n"
    return f"FLANNEL_NETWORK={NETWORK}\nFLANNEL_SUBNET={node.bridge_address}\nFLANNEL_MTU=1500\n{last}".encode()


def go_rules(api: int, node: LabHost, masq: bool) -> dict[str, list[str]]:
    """Return the rules by table: plain ones of v0.11.0, or the chains of v0.28.9."""
    own = node.bridge_address.network
    if api == 2:
        nat = [
            f"-A POSTROUTING -s {NETWORK} -d {NETWORK} -j RETURN",
            f"-A POSTROUTING -s {NETWORK} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
            f"-A POSTROUTING ! -s {NETWORK} -d {own} -j RETURN",
            f"-A POSTROUTING ! -s {NETWORK} -d {NETWORK} -j MASQUERADE --random-fully",
        ]
        forward = [f"-A FORWARD -s {NETWORK} -j ACCEPT", f"-A FORWARD -d {NETWORK} -j ACCEPT"]
        return {"filter": forward, "nat": nat if masq else []}
    comment = '-m comment --comment "flanneld masq"'
    nat = [
        f"-A POSTROUTING {comment} -j FLANNEL-POSTRTG",
        f"-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {comment} -j RETURN",
        f"-A FLANNEL-POSTRTG -s {own} -d {NETWORK} {comment} -j RETURN",
        f"-A FLANNEL-POSTRTG -s {NETWORK} -d {own} {comment} -j RETURN",
        f"-A FLANNEL-POSTRTG ! -s {NETWORK} -d {own} {comment} -j RETURN",
        f"-A FLANNEL-POSTRTG -s {NETWORK} ! -d 224.0.0.0/4 {comment} -j MASQUERADE --random-fully",
        f"-A FLANNEL-POSTRTG ! -s {NETWORK} -d {NETWORK} {comment} -j MASQUERADE --random-fully",
    ]
    comment = '-m comment --comment "flanneld forward"'
    forward = [
        f"-A FORWARD {comment} -j FLANNEL-FWD",
        f"-A FLANNEL-FWD -s {NETWORK} {comment} -j ACCEPT",
        f"-A FLANNEL-FWD -d {NETWORK} {comment} -j ACCEPT",
    ]
    return {"filter": forward, "nat": nat if masq else []}


def append(node: LabHost, rules: dict[str, list[str]]) -> None:
    """Append rules; those that are there as well stay."""
    lines: list[str] = []
    for table, added in rules.items():
        chains = sorted({line.split()[1] for line in added} - {"FORWARD", "POSTROUTING"})
        lines += [f"*{table}", *(f":{chain} - [0:0]" for chain in chains), *added, "COMMIT"]
    command = ["ip", "netns", "exec", node.namespace, "iptables-restore", "--noflush"]
    subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True, capture_output=True, timeout=10)


def rules_of(node: LabHost) -> dict[str, list[str]]:
    """Return all rules of a host, as ``iptables-save`` shows them."""
    saved = {table: node.exec("iptables-save", "-t", table).splitlines() for table in ("filter", "nat")}
    return {table: [line for line in lines if line.startswith("-A")] for table, lines in saved.items()}


def same_rules(found: dict[str, list[str]], wanted: dict[str, list[str]]) -> bool:
    """Return whether these are the rules, chain by chain in their order."""

    def by_chain(lines: list[str]) -> list[str]:
        return sorted(lines, key=lambda line: line.split()[1])

    return {t: by_chain(lines) for t, lines in found.items()} == {t: by_chain(lines) for t, lines in wanted.items()}


def has_our_rules(node: LabHost, masq: bool) -> bool:
    """Return whether a host has the rules of current flannel, which are ours too, and no others."""
    return same_rules(rules_of(node), go_rules(3, node, masq))


def leave_as_go(lab: Lab, etcd: GoEtcd, masqs: dict[str, bool]) -> None:
    """Bring every host into the state in which the Go daemon has just stopped, with its pod in full use."""
    etcd.configure()
    an_hour_ago = time.time() - 3600
    for node in lab.nodes:
        etcd.write(key_of(node), str(node.address.ip))
        node.subnet_file.write_bytes(env_bytes(node, masqs[node.name]))
        os.utime(node.subnet_file, (an_hour_ago, an_hour_ago))
        for other in lab.nodes:
            if other is not node:
                gateway = str(other.address.ip)
                node.exec("ip", "route", "add", other.subnet, "via", gateway, "dev", "eth1", "proto", "boot")
        node.exec("iptables", "-P", "FORWARD", "DROP")  # as Docker does it: without our rules, nothing passes
        append(node, go_rules(etcd.api, node, masqs[node.name]))
        node.attach_pod()


@dataclass(frozen=True, slots=True)
class FileState:
    """A file, so that every write to it shows."""

    data: bytes
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        status = path.stat()
        return cls(path.read_bytes(), status.st_mtime_ns, status.st_ino)


# Traffic


@contextlib.contextmanager
def no_route_is_touched(*nodes: LabHost) -> Iterator[list[RouteMonitor]]:
    """Watch the routes of hosts: none is deleted while the block lasts."""
    with contextlib.ExitStack() as stack:
        monitors = [stack.enter_context(RouteMonitor(node)) for node in nodes]
        yield monitors
        for monitor in monitors:
            assert [message.text for message in monitor.messages() if message.deleted] == []


def routes(node: LabHost) -> set[tuple[str, str | None, str, str]]:
    """Return the routes of a host that have a gateway."""
    found = [(r.dst, r.gateway, r.dev, r.protocol) for r in node.routes(None) if r.gateway]
    assert len(found) == len(set(found))
    return set(found)


@pytest.fixture
def make_go_lab(make_lab: Callable[..., Lab]) -> Callable[[int, int], tuple[Lab, GoEtcd]]:
    def make(nodes: int, api: int) -> tuple[Lab, GoEtcd]:
        lab = make_lab(nodes)
        lab.etcd.flags = ("--enable-v2=true",) if api == 2 else ()
        lab.build()
        return lab, GoEtcd(lab, api)

    return make


def go_takes_up(etcd: GoEtcd, node: LabHost, others: list[LabHost], masq: bool) -> None:
    """Do and check what the Go daemon does at its start on a host where pyflanneld has stopped.

    It must find its own lease by its public IP, read the file and find each route as it would set it: otherwise it
    would delete a route first.
    """
    mine = [key for key, value in etcd.leases().items() if json.loads(value)["PublicIP"] == str(node.address.ip)]
    assert mine == [key_of(node)]
    assert 0 < etcd.ttl(mine[0]) <= DAY_S
    found = GO_KEY[etcd.api].search(f"{PREFIX}/subnets/{mine[0]}")
    assert found is not None
    assert f"{found[1]}/{found[2]}" == str(IPv4Interface(node.env()["FLANNEL_SUBNET"]).network)
    assert etcd.leases()[mine[0]] == VALUE[etcd.api] % node.address.ip
    etcd.write(mine[0], str(node.address.ip))
    for other in others:
        first = node.routes(None)
        same = [route for route in first if route.dst == other.subnet]
        assert [(route.gateway, route.dev) for route in same] == [(str(other.address.ip), "eth1")]
    if etcd.api == 3:
        assert has_our_rules(node, masq)  # v0.28.9 leaves alone what it finds complete
    else:
        append(node, go_rules(2, node, masq))  # v0.11.0 finds none of its own and appends them


@pytest.mark.parametrize("api", [2, 3], ids=["v0.11.0", "v0.28.9"])
def test_from_the_go_daemon_and_back(make_go_lab: Callable[[int, int], tuple[Lab, GoEtcd]], api: int) -> None:
    """Hosts with and without --ip-masq change over and back: lease, file and routes are kept, no packet is lost."""
    masqs = {"n1": True, "n2": False}
    lab, etcd = make_go_lab(2, api)
    leave_as_go(lab, etcd, masqs)
    leases = etcd.leases()
    created = {node.name: etcd.created(key_of(node)) for node in lab.nodes}
    files = {node.name: FileState.of(node.subnet_file) for node in lab.nodes}

    with Stream(*lab.nodes) as stream, no_route_is_touched(*lab.nodes) as monitors:
        for node, monitor in zip(lab.nodes, monitors, strict=True):
            (other,) = (peer for peer in lab.nodes if peer is not node)
            gateway = str(other.address.ip)
            assert routes(node) == {(other.subnet, gateway, "eth1", BOOT)}
            node.start(f"--ip-masq={str(masqs[node.name]).lower()}", "--iptables-resync=1")
            node.wait_ready()
            node.wait_routes({other.subnet: gateway})
            assert routes(node) == {(other.subnet, gateway, "eth1", "103")}  # the same route, not one beside it
            until(lambda monitor=monitor: len(monitor.messages()) == 1, "one route message", 5.0)
            assert Journal.whole(node).events("registry.chosen")[0]["api"] == api
        for node in lab.nodes:
            ours = partial(has_our_rules, node, masqs[node.name])
            until(ours, f"{node.name} has the rules of v0.28.9 and no others", 5.0, 0.1)
        assert etcd.leases() == leases
        assert {node.name: etcd.created(key_of(node)) for node in lab.nodes} == created
        assert all(DAY_S - 60 < etcd.ttl(key) <= DAY_S for key in leases)
        time.sleep(1.2)  # the rules are looked at again

        # and back
        for node in lab.nodes:
            before = routes(node), rules_of(node)
            assert node.stop() == 0
            assert (routes(node), rules_of(node)) == before
        time.sleep(0.3)  # nothing runs
        for node in lab.nodes:
            go_takes_up(etcd, node, [peer for peer in lab.nodes if peer is not node], masqs[node.name])
        assert {node.name: FileState.of(node.subnet_file) for node in lab.nodes} == files
        time.sleep(0.3)
        assert all(len(monitor.messages()) == 1 for monitor in monitors)
    stream.check(at_least_s=2.0)
    for node in lab.nodes:
        Journal.whole(node).check()


@pytest.mark.parametrize("api", [2, 3], ids=["v0.11.0", "v0.28.9"])
def test_a_mixed_cluster(make_go_lab: Callable[[int, int], tuple[Lab, GoEtcd]], api: int) -> None:
    """A Go peer is followed; its renewals change no route; what we write is byte for byte what it would write."""
    lab, etcd = make_go_lab(1, api)
    (node,) = lab.nodes
    etcd.configure()
    etcd.write("172.7.98.0-24", "192.168.14.98")
    node.start()
    node.wait_ready()
    node.wait_routes({"172.7.98.0/24": "192.168.14.98"})
    etcd.write("172.7.99.0-24", "192.168.14.99")
    both = {"172.7.98.0/24": "192.168.14.98", "172.7.99.0/24": "192.168.14.99"}
    node.wait_routes(both)
    with no_route_is_touched(node) as (monitor,):
        for _ in range(3):
            etcd.write("172.7.98.0-24", "192.168.14.98")
            etcd.write("172.7.99.0-24", "192.168.14.99")
        etcd.write("172.7.97.0-24", "192.168.14.97")  # when this one is there, the renewals have been seen
        node.wait_routes(both | {"172.7.97.0/24": "192.168.14.97"})
        until(lambda: bool(monitor.messages()), "the monitor has told", 5.0)
        assert [message.text.split()[0] for message in monitor.messages()] == ["172.7.97.0/24"]
    assert etcd.leases() == {f"172.7.{host}.0-24": VALUE[api] % f"192.168.14.{host}" for host in (21, 97, 98, 99)}
    assert DAY_S - 60 < etcd.ttl("172.7.21.0-24") <= DAY_S
    assert node.subnet_file.read_bytes() == env_bytes(node, masq=False)
    assert node.stop() == 0
    assert etcd.leases()["172.7.21.0-24"] == VALUE[api] % "192.168.14.21"
    Journal.whole(node).check()
