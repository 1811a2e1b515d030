"""The whole daemon on real parts, for tests: a laboratory with levers that an operator does not need.

    def test_x(cluster: Lab) -> None:                  # three hosts, all ready, routes complete, pods docked
        store, journal = store_of(cluster), Journal(cluster.nodes[0])
        store.put(lease_key("172.7.99.0/24"), lease_value("192.168.14.99"))
        journal.wait("route.put", dst="172.7.99.0/24")

    def test_y(site: Lab) -> None:                     # three hosts and etcd with its configuration, no daemon yet
        launch(site.nodes[0], public_ip=None)

Both are made once per module and put in order before and after each test, so that no test sees what another has left.
"""

import base64
import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, ENDPOINT, PREFIX
from pyflanneld.lab.network import HEALTH_PORT
from pyflanneld.lab.node import DAEMON, LabHost
from pyflanneld.lab.run import LabError, until
from tests.support.etcd.server import RELEASES
from tests.support.failpoints import PLAN, TTL

TREE = Path(__file__).parents[3]
REPAIR_S = 2.0  # what a kernel event may take to be repaired
POISON = "NoOneMayEverReadThisWord"  # a password; searched for in every log
_numbers = itertools.count(1001)  # laboratories of tests/conftest.py count from 1


# etcd


@dataclass(frozen=True, slots=True)
class Kv:
    """A key as etcd holds it."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class Store:
    """``etcdctl`` in a namespace, its answers as values."""

    def __init__(self, namespace: str, *options: str) -> None:
        self._command = ("ip", "netns", "exec", namespace, "env", "ETCDCTL_API=3", "etcdctl", *options)

    def ctl(self, *words: str | bytes, stdin: bytes | None = None) -> bytes:
        """Run ``etcdctl`` and return its output."""
        command = [*self._command, *words]
        done = subprocess.run(command, input=stdin or b"", capture_output=True, check=False, timeout=15)
        if done.returncode:
            raise RuntimeError(f"etcdctl {words!r}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def json(self, *words: str | bytes) -> Any:
        return json.loads(self.ctl(*words, "-w", "json"))

    def put(self, key: str | bytes, value: str | bytes, *, lease: int = 0) -> int:
        """Put a key and return the revision."""
        data = value.encode() if isinstance(value, str) else value
        attach = [f"--lease={lease:x}"] if lease else []
        if len(data) < 100_000 and b"\0" not in data:
            answer = self.ctl("put", *attach, "-w", "json", "--", key, data)
        else:
            answer = self.ctl("put", *attach, "-w", "json", "--", key, stdin=data)
        return int(json.loads(answer)["header"]["revision"])

    def delete(self, key: str | bytes) -> None:
        self.ctl("del", "--", key)

    def txn(self, *operations: str) -> None:
        """Do many puts and deletes in few steps: ``put "key" "value"`` or ``del "key"`` each, text without quotes."""
        for start in range(0, len(operations), 100):
            chunk = operations[start : start + 100]
            self.ctl("txn", stdin=("\n" + "\n".join(chunk) + "\n\n\n").encode())

    def kvs(self, prefix: str = "") -> dict[str, Kv]:
        """Return every key below *prefix*; bytes that are no text are shown escaped."""
        found = self.json("get", "--prefix", prefix).get("kvs", ())
        return {base64.b64decode(kv["key"]).decode(errors="backslashreplace"): _kv(kv) for kv in found}

    def kv(self, key: str) -> Kv | None:
        return self.kvs(key).get(key)

    def revision(self) -> int:
        return int(self.json("get", "nothing")["header"]["revision"])

    def leases(self) -> dict[int, tuple[str, ...]]:
        """Return every etcd lease with the keys that hang on it."""
        ids = [int(lease["id"]) for lease in self.json("lease", "list").get("leases") or ()]
        return {number: self._keys_of(number) for number in ids}

    def _keys_of(self, lease: int) -> tuple[str, ...]:
        answer = self.json("lease", "timetolive", "--keys", f"{lease:x}")
        keys = (base64.b64decode(key).decode(errors="backslashreplace") for key in answer.get("keys") or ())
        return tuple(sorted(keys))  # etcd's own order is another one each time

    def ttl(self, lease: int) -> tuple[int, int]:
        """Return the seconds that a lease has left, and those it was granted."""
        answer = self.json("lease", "timetolive", f"{lease:x}")
        return int(answer["ttl"]), int(answer["granted-ttl"])

    def grant(self, ttl_s: int) -> int:
        return int(self.json("lease", "grant", str(ttl_s))["ID"])

    @contextlib.contextmanager
    def kept_alive(self, lease: int) -> Iterator[None]:
        """Keep a short lease alive while the block lasts: a daemon that starts slowly finds it all the same."""
        command = [*self._command, "lease", "keep-alive", f"{lease:x}"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as keeper:
            try:
                yield
            finally:
                keeper.kill()

    def history(self, prefix: str = PREFIX) -> list[tuple[str, str, bytes]]:
        """Return all that ever happened below *prefix*: (PUT or DELETE, key, value)."""
        wanted = max((kv.mod_revision for kv in self.kvs(prefix).values()), default=0)
        watch = subprocess.Popen(
            [*self._command, "watch", "--prefix", prefix, "--rev=1", "-w", "json"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )
        found: list[tuple[str, str, bytes]] = []
        try:
            assert watch.stdout is not None
            for line in watch.stdout:
                for event in json.loads(line).get("Events", ()):
                    kv = event["kv"]
                    kind = "DELETE" if event.get("type") else "PUT"
                    found.append((kind, base64.b64decode(kv["key"]).decode(), base64.b64decode(kv.get("value", ""))))
                    wanted -= 0 if int(kv["mod_revision"]) < wanted else wanted
                if not wanted:
                    return found
        finally:
            watch.kill()
            watch.communicate()
        raise AssertionError("the watch ended before the present")


def _kv(kv: Mapping[str, Any]) -> Kv:
    value = base64.b64decode(kv.get("value", ""))
    return Kv(value, kv["create_revision"], kv["mod_revision"], kv["version"], int(kv.get("lease", 0)))


def store_of(lab: Lab) -> Store:
    return Store(lab.etcd.namespace)


def lease_key(subnet: str | IPv4Network) -> str:
    """Return the key of ``a.b.c.d/len``."""
    return f"{PREFIX}/subnets/{str(subnet).replace('/', '-')}"


def lease_value(public_ip: object, backend: str = "host-gw") -> str:
    """Return the value as flannel writes it."""
    return f'{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"{backend}"}}'


# The daemon


def launch(
    node: LabHost,
    *more: str,
    env: Mapping[str, str] | None = None,
    prepare: str = "",
    failpoints: str | None = None,
    program: str = "pyflanneld",
    lease_s: int | None = None,
    **changes: str | int | None,
) -> None:
    """Start a node's daemon, with the usual flags changed as given; does not wait.

    Args:
        node: where.
        more: further arguments.
        env: more environment.
        prepare: shell commands to run before, in the process's own mount namespace.
        failpoints: what is to happen at which point, see ``tests.support.failpoints.plan``.
        program: a module of the tests that changes something in the daemon and runs it; by default it is as shipped.
        lease_s: how long its leases live, in the place of a day.
        changes: flags with ``_`` for ``-``; ``None`` leaves one out.
    """
    usual: dict[str, str | int | None] = {
        "iface": "eth1",
        "public_ip": str(node.address.ip),
        "etcd_endpoints": ENDPOINT,
        "subnet_file": str(node.subnet_file),
        "healthz_port": HEALTH_PORT,
        "log_format": "json",
    }
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (usual | changes).items() if value is not None]
    if lease_s is not None:
        env = {TTL: str(lease_s)} | dict(env or {})
        failpoints = failpoints if program != "pyflanneld" else failpoints or ""
    if failpoints is not None:
        program, env = "tests.support.failpoints", {PLAN: failpoints} | dict(env or {})
    ours = {} if program == "pyflanneld" else {"PYTHONPATH": str(TREE)}
    variables = [f"{name}={value}" for name, value in (ours | dict(env or {})).items()]
    setup = ["sh", "-c", f'{prepare}; exec "$@"', "sh"] if prepare else []
    node.process.start("env", *variables, *setup, sys.executable, "-m", program, *flags, *more)


def pid_of(node: LabHost) -> int:
    """Return the process id of a node's daemon, which must run."""
    pid = node.process.pid()
    assert pid is not None, f"{node.name}: no daemon"
    return pid


def wait_exit(node: LabHost, timeout_s: float = 10.0) -> int:
    """Wait until the daemon has ended by itself; return its exit code."""
    until(lambda: node.process.pid() is None, f"{node.name}: the daemon ends by itself", timeout_s)
    code = node.process.exit_code()
    assert code is not None
    return code


def wait_answer(node: LabHost, timeout_s: float = 15.0) -> None:
    """Wait until the health listener answers: the process is up, ready or not."""

    def answers() -> bool:
        try:
            return node.get("/healthz")[0] == 200
        except OSError:
            return False

    until(answers, f"{node.name} answers on /healthz", timeout_s, poll_s=0.02)


def http_answer(namespace: str, port: int, request: bytes) -> bytes:
    """Return all that a server on a host's loopback answers, to the end of the connection."""
    with topology.connect_namespaces(namespace, "127.0.0.1", port, 2.0) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def why_not_ready(node: LabHost) -> str:
    """Return what ``/readyz?verbose`` says; empty when ready."""
    status, body = node.get("/readyz?verbose")
    assert status in (200, 503)
    return "" if status == 200 else body


class Journal:
    """The events that a node's daemons have logged since this object was made."""

    def __init__(self, node: LabHost) -> None:
        self.node = node
        self._start = node.process.log.stat().st_size if node.process.log.exists() else 0

    @classmethod
    def whole(cls, node: LabHost) -> "Journal":
        """Return a journal that begins with the log."""
        journal = cls(node)
        journal._start = 0
        return journal

    def text(self) -> str:
        if not self.node.process.log.exists():
            return ""
        with self.node.process.log.open("rb") as log:
            log.seek(self._start)
            return log.read().decode()

    def events(self, name: str = "", **fields: object) -> list[dict[str, Any]]:
        """Return the events of that name (all, without one) that have these fields, oldest first."""
        lines = self.text().rpartition("\n")[0].splitlines()
        found = [json.loads(line) for line in lines]
        wanted = {"event": name, **fields} if name else fields
        return [event for event in found if wanted.items() <= event.items()]

    def wait(self, name: str, timeout_s: float = 5.0, **fields: object) -> dict[str, Any]:
        """Wait for an event and return the first such."""
        what = f"{self.node.name} logs {name} {fields or ''}"
        until(lambda: bool(self.events(name, **fields)), what, timeout_s, 0.02)
        return self.events(name, **fields)[0]

    def check(self) -> None:
        """Every line is one JSON event; nothing crashed, and no secret got out."""
        text = self.text()
        assert POISON not in text
        for event in self.events():
            assert {"timestamp", "level", "event"} <= event.keys(), event
            assert "exception" not in event, event
            assert event["event"] != "daemon.crashed", event


# The kernel


def gateways(node: LabHost) -> dict[str, str]:
    """Return the daemon's routes, destination: gateway."""
    return {route.dst: str(route.gateway) for route in node.routes()}


def kernel_state(node: LabHost) -> str:
    """Return all that a daemon could have changed on a host but its routes: as text, to be compared."""
    parts = [
        node.exec("ip", "-4", "-d", "address"),
        node.exec("ip", "-N", "-4", "route", "show", "table", "all"),
        node.exec("ip", "rule"),
        node.exec("ip", "neigh", "show", "nud", "permanent"),
        node.exec("nft", "-s", "list", "ruleset"),
        node.exec("sh", "-c", "grep -rs . /proc/sys/net/ipv4/conf /proc/sys/net/ipv4/ip_forward"),
    ]
    return "\n".join(line for line in "\n".join(parts).splitlines() if "proto 103" not in line)


@contextlib.contextmanager
def cut_off(node: LabHost, *addresses: str, refused: bool = False) -> Iterator[None]:
    """Lose every TCP packet between a host and these addresses while the block lasts.

    Args:
        node: whose packets.
        addresses: the other ends.
        refused: answer what the host sends with a reset, so that it knows at once; otherwise it hears nothing at all.
    """
    far = ", ".join(addresses)
    out = f"chain out {{ type filter hook output priority 0; ip daddr {{ {far} }} meta l4proto tcp "
    into = f"chain in {{ type filter hook input priority 0; ip saddr {{ {far} }} meta l4proto tcp drop; }}"
    node.exec("nft", f"table inet cut {{ {out}{'reject with tcp reset; }' if refused else f'drop; }}; {into}'}; }}")
    try:
        yield
    finally:
        with contextlib.suppress(LabError):
            node.exec("nft", "delete table inet cut")


class Packets:
    """Counts what a host sends to an address."""

    def __init__(self, node: LabHost, address: str) -> None:
        self._node = node
        rule = f"ip daddr {address} counter"
        node.exec("nft", f"table inet count {{ chain out {{ type filter hook output priority -10; {rule}; }}; }}")

    def sent(self) -> int:
        listed = json.loads(self._node.exec("nft", "-j", "list", "table", "inet", "count"))["nftables"]
        counters = [e["counter"] for item in listed for e in item.get("rule", {}).get("expr", ()) if "counter" in e]
        return int(counters[0]["packets"])

    def remove(self) -> None:
        self._node.exec("nft", "delete table inet count")


# Fixtures; the rooms' conftest.py import them


class Keeper:
    """Has a laboratory for a module and gives it to each test in order."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._wires: tuple[str, ...] | None = None

    def whole(self) -> Lab:
        """Return the laboratory with all daemons ready, nothing missing and nothing left over."""
        if not self._is_whole():
            self.lab.up()
            for node in self.lab.nodes:
                node.wait_routes(self.lab.gateways_for(node))
            self._wires = tuple(map(wires, self.lab.nodes))
        return self.lab

    def _is_whole(self) -> bool:
        lab = self.lab
        if self._wires is None:
            return False
        try:
            if not all(node.process.pid() and node.ready() for node in lab.nodes):
                return False
            if any(node.subnet != str(node.bridge_address.network) for node in lab.nodes):
                return False
            if tuple(map(wires, lab.nodes)) != self._wires:
                return False
            keys = set(store_of(lab).kvs())
        except (LabError, RuntimeError, OSError):
            return False
        if keys != {f"{PREFIX}/config", *(lease_key(node.subnet) for node in lab.nodes)}:
            return False
        return all(gateways(node) == lab.gateways_for(node) for node in lab.nodes)

    def empty(self) -> Lab:
        """Return the laboratory with its wires and etcd, the configuration in it, and no daemon."""
        if not self._is_empty():
            self.lab.build()
            self._wires = tuple(map(wires, self.lab.nodes))
        return self.lab

    def stop(self) -> None:
        """End the daemons."""
        for node in self.lab.nodes:
            if node.process.pid():
                node.kill()

    def _is_empty(self) -> bool:
        """Take away what a test has left, and say whether that has worked."""
        lab = self.lab
        if self._wires is None:
            return False
        try:
            self.stop()
            for node in lab.nodes:
                node.exec("sh", "-c", "ip route flush proto 103; nft flush ruleset")
                node.request_subnet()
            if tuple(map(wires, lab.nodes)) != self._wires:
                return False
            store = store_of(lab)
            for lease in store.leases():
                store.ctl("lease", "revoke", f"{lease:x}")
            store.ctl("del", "--prefix", "")
            store.put(f"{PREFIX}/config", CONFIG)
        except (LabError, RuntimeError, OSError):
            return False
        return True


def wires(node: LabHost) -> str:
    """Return what a test may have left on a host: addresses, foreign routes, firewall; without interface numbers."""
    links, routes = node.exec("ip", "-4", "-brief", "address"), node.exec("ip", "-N", "-4", "route")
    lines = [re.sub(r"@if\d+", "", line) for line in (links + routes).splitlines() if "proto 103" not in line]
    return "\n".join([*sorted(lines), node.exec("nft", "-s", "list", "ruleset")])


def keeper(request: pytest.FixtureRequest, nodes: int = 3, etcd: str = "etcd", **env: str) -> Iterator[Keeper]:
    """Have a laboratory of *nodes* hosts, whose daemons get this environment, until the generator is closed.

    *etcd* is the program: see ``tests.support.etcd.server.RELEASES``.
    """
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    request.getfixturevalue("no_dead_labs")
    root = request.getfixturevalue("tmp_path_factory").mktemp("lab")
    daemon = ("env", *(f"{name}={value}" for name, value in env.items()), *DAEMON)
    with Lab(f"t{os.getpid()}-{next(_numbers)}", nodes, root, daemon) as lab:
        lab.etcd.program = etcd
        yield Keeper(lab)


@pytest.fixture(scope="module")
def etcd_release(request: pytest.FixtureRequest) -> str:
    """Which etcd the laboratories have: Debian's, unless a module asks for each one (``ON_EACH_RELEASE``)."""
    return str(getattr(request, "param", "3.4"))


@pytest.fixture(scope="module")
def cluster_keeper(request: pytest.FixtureRequest, etcd_release: str) -> Iterator[Keeper]:
    yield from keeper(request, etcd=RELEASES[etcd_release])


@pytest.fixture(scope="module")
def unguarded_keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    yield from keeper(request, FLANNELD_WITHDRAW_GUARD="false")


@pytest.fixture(scope="module")
def site_keeper(request: pytest.FixtureRequest, etcd_release: str) -> Iterator[Keeper]:
    yield from keeper(request, etcd=RELEASES[etcd_release])


@pytest.fixture
def cluster(cluster_keeper: Keeper) -> Iterator[Lab]:
    """Three hosts whose daemons are ready, with all routes and pods."""
    lab = cluster_keeper.whole()
    with checked(lab.nodes):
        yield lab


@pytest.fixture
def unguarded(unguarded_keeper: Keeper) -> Iterator[Lab]:
    """As ``cluster``, with the withdrawal guard off: it hides no route that is withdrawn for a wrong reason."""
    lab = unguarded_keeper.whole()
    with checked(lab.nodes):
        yield lab


@pytest.fixture
def site(site_keeper: Keeper) -> Iterator[Lab]:
    """Three hosts without a daemon, and etcd with the usual configuration."""
    lab = site_keeper.empty()
    with checked(lab.nodes):
        yield lab
    site_keeper.stop()


@contextlib.contextmanager
def checked(nodes: Sequence[LabHost]) -> Iterator[None]:
    """Look through what the daemons have logged meanwhile: no crash, no secret."""
    journals = [Journal(node) for node in nodes]
    yield
    for journal in journals:
        journal.check()


def leave_ready(lab: Lab) -> None:
    """Start what does not run, and wait until the cluster is complete again."""
    for node in lab.nodes:
        if node.process.pid() is None:
            node.start()
    for node in lab.nodes:
        node.wait_ready()
    for node in lab.nodes:
        node.wait_routes(lab.gateways_for(node))
