"""The health port among hostile clients: row F80, and F81 as far as probes go. Each on real sockets."""

import contextlib
import http.client
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyflanneld.http.listener import CONNECTIONS
from tests.support.network.hostile_clients import BEGINNINGS, Crowd, trickled

ATTACKERS = 500
PROBES = 20
# A server with few descriptors; with "full" all of them are taken when it prints its port.
SERVER = """
import asyncio, contextlib, ipaddress, os, resource, sys
from pyflanneld.core.status.report import Health
from pyflanneld.http.health import health_listener
from pyflanneld.http.sockets import bind_port

async def main(full):
    listening = bind_port(ipaddress.ip_address("127.0.0.1"), 0)
    listener = health_listener(lambda: Health(live=True, not_ready=()))
    serving = asyncio.create_task(listener.serve(listening))
    await asyncio.sleep(0.1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    if full:
        with contextlib.suppress(OSError):
            while True:
                os.open("/dev/null", os.O_RDONLY)
    print(listening.getsockname()[1], flush=True)
    await serving

asyncio.run(main(sys.argv[1] == "full"))
"""


@contextlib.contextmanager
def serving(how: str) -> Iterator[tuple[int, int]]:
    """Run the server for the length of the block; give its port and its process id."""
    command = [sys.executable, "-c", SERVER, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


def probe(port: int) -> float:
    """Return the seconds that an answer takes."""
    began = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"flanneld is running")
    connection.close()
    return time.monotonic() - began


def sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def test_f80_probes_are_answered_among_500_slow_clients() -> None:
    """Slow loris, garbage and TLS hellos hold at most sixteen connections; a probe waits for none of them."""
    with serving("free") as (port, pid):
        own = sockets(pid)
        with Crowd(port, ATTACKERS):
            seconds, most = under_attack(port, pid)
    assert statistics.median(seconds) < 1.0
    assert CONNECTIONS - 4 < most - own <= CONNECTIONS + 2, "the attack has taken place; two may be on their way out"


def under_attack(port: int, pid: int) -> tuple[list[float], int]:
    seconds, most = [], 0
    for _ in range(PROBES):
        most = max(most, sockets(pid))
        seconds.append(probe(port))
        time.sleep(0.1)
    return seconds, most


def test_f81_probes_are_answered_without_descriptors() -> None:
    """All descriptors of the process are taken: each probe still gets its answer, with the reserved one."""
    with serving("full") as (port, _):
        for _ in range(PROBES):
            probe(port)


def test_f81_a_silent_client_does_not_keep_the_last_descriptor() -> None:
    """One that has got the reserve and sends nothing is closed for the next."""
    with serving("full") as (port, _), contextlib.ExitStack() as silent:
        for _ in range(5):
            silent.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        for _ in range(3):
            probe(port)


@pytest.mark.parametrize("beginning", BEGINNINGS.values(), ids=BEGINNINGS)
def test_f80_a_connection_has_two_seconds_in_all(beginning: bytes) -> None:
    """However it begins, and although it sends byte by byte: it is closed after two seconds."""
    with serving("free") as (port, _), socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(beginning)
        began = time.monotonic()
        while trickled(client):
            time.sleep(0.2)
            assert time.monotonic() - began < 20


def test_a_client_that_stops_sending_gets_its_answer() -> None:
    """Some kinds of ``nc`` close their half after the request; without a request nothing is waited for."""
    with serving("free") as (port, _):
        for sent, expected in ((b"GET /healthz HTTP/1.0\r\n\r\n", b"flanneld is running"), (b"GET /hea", b"")):
            with socket.create_connection(("127.0.0.1", port), 20) as client:
                client.sendall(sent)
                client.shutdown(socket.SHUT_WR)
                assert b"".join(iter(lambda client=client: client.recv(4096), b"")).endswith(expected)


def test_f80_a_head_has_4_kib() -> None:
    """Many headers, each of them short: no more than 4 KiB are read, and there is no answer to such a request."""
    with serving("free") as (port, _), socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(
            b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: %s\r\n" % (n, b"y" * 90) for n in range(60))
        )
        client.sendall(b"\r\n")
        assert b"200 OK" not in b"".join(iter(lambda: client.recv(4096), b""))
        probe(port)
