"""The health port: in use by another program, or among clients that mean harm. Rows F79 and F80 of the matrix."""

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.lab import topology
from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ADDRESS
from pyflanneld.lab.network import HEALTH_PORT
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.bench.proc import descriptors
from tests.faults.conftest import Measured
from tests.support.lab.testbed import (
    Journal,
    Packets,
    gateways,
    http_answer,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
    wait_exit,
)
from tests.support.lab.untouched import untouched
from tests.support.network.hostile_clients import BEGINNINGS, HELLO, Crowd
from tests.support.network.namespaces import Namespace

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
CLIENTS = 500
CONNECTIONS = 2 * 16  # that the daemon holds at once, and those that it is just letting go
PROBES = 30


# F79: the port is taken


@pytest.mark.parametrize("holder", ["0.0.0.0", "127.0.0.1"])  # noqa: S104 - inside a namespace
def test_f79_health_port_in_use(site: Lab, holder: str, measured: Measured) -> None:
    """Another program listens there, on all addresses or on one: exit 73 with the remedy, before a packet goes to etcd
    or anything is changed on the host."""
    node = site.nodes[0]
    journal, packets = Journal(node), Packets(node, str(ADDRESS.ip))
    with Namespace(node.namespace).inside():
        listener = socket.create_server((holder, HEALTH_PORT))
    with listener, untouched(site, node):
        began = time.monotonic()
        launch(node)
        assert wait_exit(node) == 73
        measured(f"exit 73 after {time.monotonic() - began:.1f} s; no packet to etcd")
    assert packets.sent() == 0
    packets.remove()
    [failed] = journal.events("daemon.failed")
    assert f":{HEALTH_PORT} is in use by another program" in failed["error"]
    assert "--healthz-port" in failed["error"]


# F80: clients that mean harm


def probe(node: LabHost, path: str = "/healthz") -> float:
    """Return the seconds that a good answer takes, connection included; a probe that is turned away asks again."""
    began = time.monotonic()
    while True:
        try:
            status, _ = node.get(path, timeout_s=10)
        except ConnectionError:
            assert time.monotonic() - began < 10, "nobody is let in"
            continue
        assert status == http.client.OK
        return time.monotonic() - began


def steady(node: LabHost) -> None:
    """Wait until the daemon has opened all that it keeps open; the listeners come behind the first routes."""
    counts, pid = [], pid_of(node)
    until(lambda: counts.append(descriptors(pid)) or counts[-10:] == [counts[-1]] * 10, "steady", 15, poll_s=0.1)


@pytest.fixture
def node(site: Lab) -> Iterator[LabHost]:
    """A host whose daemon is ready and has a peer."""
    node = site.nodes[0]
    store_of(site).put(lease_key("172.7.98.0/24"), lease_value("192.168.14.98"))
    launch(node)
    node.wait_ready()
    node.wait_routes({"172.7.98.0/24": "192.168.14.98"})
    steady(node)
    yield node
    assert node.stop() == 0  # whatever has happened, it stops as asked


def test_f80_slow_clients_in_a_crowd(site: Lab, node: LabHost, measured: Measured) -> None:
    """500 clients that never end their request: probes are answered meanwhile, few connections are held, etcd is
    followed as before, and nothing is left of them afterwards."""
    before, store = descriptors(pid_of(node)), store_of(site)
    most, times = 0, []
    with Crowd(HEALTH_PORT, CLIENTS, Namespace(node.namespace).inside()) as crowd:
        for number in range(PROBES):
            times.append(probe(node, "/readyz" if number % 2 else "/healthz"))
            most = max(most, descriptors(pid_of(node)))
        store.put(lease_key("172.7.99.0/24"), lease_value("192.168.14.99"))
        node.wait_routes({"172.7.98.0/24": "192.168.14.98", "172.7.99.0/24": "192.168.14.99"}, 10)
        assert crowd.opened >= CLIENTS
    median_ms = sorted(times)[PROBES // 2] * 1000
    measured(f"{CLIENTS} slow clients: a probe takes {median_ms:.0f} ms, at most {max(times) * 1000:.0f} ms")
    assert most - before <= CONNECTIONS
    assert median_ms < 1000
    assert max(times) < 5
    until(lambda: descriptors(pid_of(node)) <= before, "the daemon has let go of all connections", 15)


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_f80_whoever_does_not_end_is_thrown_out(node: LabHost, beginning: bytes) -> None:
    """A request that does not come to its end is cut after two seconds, whatever it began with."""
    began = time.monotonic()
    with topology.connect_namespaces(node.namespace, "127.0.0.1", HEALTH_PORT, 15.0) as client:
        client.sendall(beginning)
        with contextlib.suppress(ConnectionError):
            while client.recv(65536):
                pass
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("request_", "codes"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", {b"400", b"431", b""}),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {b"400", b"414", b""}),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", {b"400", b"431", b""}),
        (HELLO, {b"400", b""}),
        (b"\0\xff\x80\n\r\n" * 10, {b"400", b""}),
        (b"GET /healthz\r\n\r\n", {b"400", b"200", b""}),  # HTTP/0.9
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {b"400", b"405", b"505", b""}),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 200, {b"200"}),  # the first alone is answered
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", {b"404", b"400"}),
        (b"DELETE /healthz HTTP/1.1\r\nHost: a\r\n\r\n", {b"200"}),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nExpect: \xee\r\n\r\n", {b"417", b"500"}),
    ],
    ids=(
        "long header", "long line", "many headers", "TLS", "garbage", "HTTP/0.9", "HTTP/2", "pipelining", "path",
        "method", "expectation",
    ),
)  # fmt: skip
def test_f80_a_bad_request(node: LabHost, request_: bytes, codes: set[bytes]) -> None:
    """What is no probe gets one short answer, or none, and its connection ends; the next probe is answered."""
    try:
        answer = http_answer(node.namespace, HEALTH_PORT, request_)
    except ConnectionError:  # cut while it was still talking
        answer = b""
    head, _, _ = answer.partition(b"\r\n")
    assert (head.split()[1] if head else b"") in codes, answer[:200]
    assert answer.count(b"HTTP/1.") <= 1
    assert len(answer) < 1000
    assert b"root:" not in answer
    assert probe(node) < 5
    assert gateways(node)
    assert Path(f"/proc/{pid_of(node)}").exists()
