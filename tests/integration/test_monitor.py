"""The metrics listener over real HTTP: a daemon on fakes, browsers and scrapers as they come, friendly or not."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from inspect import isawaitable
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pyflanneld.core.status.table_view import PeerRow
from pyflanneld.daemon.servers import ServerConfig, metrics_on_demand, serve_status
from pyflanneld.errors import KernelError
from pyflanneld.http import listener, page
from pyflanneld.http.monitor import CONNECTIONS, is_this_host, monitor_listener
from pyflanneld.http.source import LogAccess
from pyflanneld.logs.processors import RecentEvents
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.source import FakeSource
from tests.support.network.listening import LOCAL, served

PATHS = ("/", "/page.json", "/metrics", "/status", "/peers", "/routes", "/events")


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon on fakes, and the port that serves its status."""

    node: FakeNode
    recent: RecentEvents
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def event(self, name: str, **fields: object) -> None:
        self.recent(None, "info", {"level": "info", "event": name, "timestamp": "2026-01-01T00:00:00Z", **fields})


def a_node() -> FakeNode:
    """Return 192.168.14.21, to be run among two peers; one key in etcd is junk."""
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    for third in (22, 23):
        etcd.put(b"172.7.%d.0-24" % third, value(f"192.168.14.{third}"), lease_id=etcd.grant(86400))
    etcd.put(b"172.7.40.0-24", value("192.168.14.40"))
    etcd.put(b"<script>\x1b[31m", b"{")
    return FakeNode(etcd, env="FLANNEL_SUBNET=172.7.21.1/24\n")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """Serve such a node on a free port."""
    node, recent = a_node(), RecentEvents()
    async with node.running():
        assert node.daemon is not None
        source, log = node.daemon.status_source, LogAccess(lambda: "info", lambda _: None, recent.events)
        async with served(monitor_listener(source, log, metrics_on_demand(source))) as port:
            yield Site(node, recent, port)


async def get(url: str, method: str = "GET", **headers: str) -> tuple[int, str, aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        return answer.status, await answer.text(), answer


async def poll(here: Site, peers: str = "", events: str = "") -> Any:
    """Return what the page gets that has these versions."""
    return json.loads((await get(f"{here.url}/page.json?peers={peers}&events={events}"))[1])


async def soon(happens: Callable[[], Any]) -> None:
    """Wait until it happens."""
    async with asyncio.timeout(10):
        while not (await found if isawaitable(found := happens()) else found):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


# What is served


async def test_the_metrics_are_text_for_prometheus() -> None:
    """Its content type, and a scrape is not remembered anywhere."""
    async with site() as here:
        status, body, answer = await get(here.url + "/metrics")
        assert (status, answer.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert 'pyflanneld_peers{state="routed"} 3.0\n' in body
        assert answer.headers["Cache-Control"] == "no-store"


async def test_the_reports_are_those_of_the_commands() -> None:
    """Status, peers, routes and events as JSON; what a key holds is escaped already."""
    async with site() as here:
        here.event("route.put", dst="172.7.22.0/24", reason="peer_joined")
        report, peers, routes, events = [
            json.loads((await get(f"{here.url}/{path}"))[1]) for path in ("status", "peers", "routes", "events")
        ]
        assert (report["ready"], report["lease"]["subnet"]) == (True, "172.7.21.0/24")
        assert report["network"]["subnet_len"] == 24
        by_key = {row["key"]: row for row in peers}
        assert by_key["172.7.22.0-24"]["state"] == "routed"
        assert {key for key, row in by_key.items() if row["reserved"]} == {"172.7.40.0-24", "<script>\\x1b[31m"}
        assert [row["state"] for row in routes] == ["ok"] * 3
        assert [event["event"] for event in events] == ["route.put"]


async def test_nothing_can_be_changed() -> None:
    """GET and HEAD; 405 for all else, on every path."""
    async with site() as here:
        for path in PATHS:
            assert (await get(here.url + path, "HEAD"))[:2] == (200, ""), path
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
                status, _, answer = await get(here.url + path, method)
                assert (status, answer.headers["Allow"]) == (405, "GET,HEAD"), (method, path)
        for path in ("/log-level", "/health", "/page.html", "/../http/monitor.py", "/favicon.ico"):
            assert (await get(here.url + path))[0] == 404, path


# Strangers


@pytest.mark.parametrize(
    ("header", "ours"),
    [
        ("localhost", True), ("localhost:2402", True), ("LOCALHOST.", True), (socket.gethostname(), True),
        ("127.0.0.1:2402", True), ("[::1]:1", True), ("192.168.14.21:2402", True),
        ("evil.example", False), ("evil.example:2402", False), ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False), ("127.0.0.1:2402@evil.example", False), ("[evil]", False),
        ("2130706433", False), ("0x7f.1", False), ("a b", False), ("", False),
    ],
)  # fmt: skip
def test_which_names_are_this_host(header: str, ours: bool) -> None:
    """Addresses, localhost and the host's own name, with or without a port."""
    assert is_this_host(header) is ours


async def test_a_rebound_name_is_refused_in_a_sentence() -> None:
    """421, whatever is asked for."""
    async with site() as here:
        for path in (*PATHS, "/nothing"):
            status, body, _ = await get(here.url + path, Host="evil.example")
            assert status == 421
            assert "not the name of this host" in body


async def test_other_origins_get_no_permission() -> None:
    """No CORS header, and the page may not be framed, guessed at or remembered."""
    async with site() as here:
        for path in (*PATHS, "/nothing"):
            answer = (await get(here.url + path, Origin="http://evil.example"))[2]
            assert not [name for name in answer.headers if name.lower().startswith("access-control")]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "Server" not in answer.headers


async def test_the_page_may_run_nothing_but_its_own_script() -> None:
    """No source but the hashes of its own style and script; nothing in the page names anything elsewhere."""
    async with site() as here:
        _, body, answer = await get(here.url + "/")
        policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"].startswith("'sha256-")
        assert " " not in policy["script-src"] + policy["style-src"]
        assert "'unsafe" not in str(policy)
        assert body.count("http") == body.count("http://www.w3.org/2000/svg")  # a name, not an address
        assert len(body) < 40_000


async def test_few_connections_and_each_has_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends nothing is closed, and so are those beyond the limit; then all is well again."""
    monkeypatch.setattr(listener, "REQUEST_S", 0.5)
    async with site() as here:
        silent = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(CONNECTIONS + 5)]
        for reader, _ in silent:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, writer in silent:
            writer.close()
        assert (await get(here.url + "/metrics"))[0] == 200


# What the page polls


async def test_a_poll_brings_all_at_first_and_then_what_has_changed() -> None:
    """Status, peers and events; later no peers and no events, unless they differ from what the page has."""
    async with site() as here:
        here.event("daemon.ready")
        first = await poll(here)
        assert first["status"]["lease"]["subnet"] == "172.7.21.0/24"
        assert [row["subnet"] for row in first["peers"]["rows"]][:3] == [f"172.7.{n}.0/24" for n in (22, 23, 40)]
        assert [event["event"] for event in first["events"]["rows"]] == ["daemon.ready"]
        has = {part: first[part]["version"] for part in ("peers", "events")}
        again = await poll(here, **has)
        assert (again["status"]["pid"], again["peers"], again["events"]) == (first["status"]["pid"], None, None)

        etcd = here.node.registry.etcd
        etcd.put(b"172.7.24.0-24", value("192.168.14.24"), lease_id=etcd.grant(86400))
        etcd.delete(b"172.7.23.0-24")
        await soon(lambda: set(here.node.kernel.gateways(PROTOCOL)) == {f"172.7.{n}.0/24" for n in (22, 24, 40)})
        here.event("route.put", dst="172.7.24.0/24")
        changed = await poll(here, **has)
        assert [row["subnet"] for row in changed["peers"]["rows"]][:3] == [f"172.7.{n}.0/24" for n in (22, 24, 40)]
        assert [event["event"] for event in changed["events"]["rows"]] == ["daemon.ready", "route.put"]


async def test_a_poll_in_a_storm_is_bounded() -> None:
    """After a thousand events it carries the last 200, and no more."""
    async with site() as here:
        for number in range(1000):
            here.event("route.put", number=number)
        events = (await poll(here))["events"]["rows"]
        assert [event["fields"]["number"] for event in events] == list(range(800, 1000))


async def test_a_quarantine_that_lasts_is_no_change() -> None:
    """Its age is in whole minutes here: the rows, thousands perhaps, do not come again for a second more."""
    async with site() as here:
        first = await poll(here)
        (row,) = [row for row in first["peers"]["rows"] if row["state"] == "quarantined"]
        assert row["quarantined_s"] == 0
        await asyncio.sleep(0.6)
        here.event("route.put")
        assert (await poll(here, peers=first["peers"]["version"]))["peers"] is None


async def test_many_pages_read_the_kernel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are made again for a new event, or after some seconds, whoever asks how often."""
    async with site() as here:
        here.event("daemon.ready")
        await asyncio.gather(*(poll(here) for _ in range(20)))
        before = here.node.kernel.calls["neighbours"]
        await asyncio.sleep(0.6)  # what the source keeps by itself
        await asyncio.gather(*(poll(here) for _ in range(20)))
        assert here.node.kernel.calls["neighbours"] == before
        here.event("route.put")
        await asyncio.gather(*(poll(here) for _ in range(20)))
        assert here.node.kernel.calls["neighbours"] == before + 1
        monkeypatch.setattr(page, "PEERS_S", 0.0)
        await asyncio.sleep(0.6)
        await poll(here)
        assert here.node.kernel.calls["neighbours"] == before + 2


async def test_a_poll_is_answered_while_the_kernel_cannot_be_read() -> None:
    """It carries the status, and no peers; the report of the peers is a 503 with the reason."""

    class Unreadable(FakeSource):
        async def peers(self) -> tuple[PeerRow, ...]:
            raise KernelError("no answer within 2 s")

    source = Unreadable()
    log = LogAccess(str, lambda _: None, list)
    async with served(monitor_listener(source, log, metrics_on_demand(source))) as port:
        status, body, _ = await get(f"http://127.0.0.1:{port}/page.json")
        assert (status, json.loads(body)["status"]["ready"], json.loads(body)["peers"]) == (200, False, None)
        found = (await get(f"http://127.0.0.1:{port}/peers"))[:2]
        assert found == (503, "the kernel cannot be read: no answer within 2 s")


async def test_nothing_runs_between_two_polls() -> None:
    """Without an open page the kernel is not read for one."""
    async with site() as here:
        await poll(here)
        before, tasks = here.node.kernel.calls["neighbours"], asyncio.all_tasks()
        await asyncio.sleep(1.0)
        assert here.node.kernel.calls["neighbours"] == before
        assert asyncio.all_tasks() <= tasks


async def test_a_page_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read its answer loses its place, and nobody else waits for it."""
    monkeypatch.setattr(listener, "RESPONSE_S", 0.5)
    async with site() as here:
        for number in range(200):
            here.event("route.put", number=number, text="x" * 40_000)
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", here.port))
            slow.sendall(b"GET /page.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await soon(lambda: _connected(here.port))
            assert (await get(here.url + "/status"))[0] == 200
            await soon(lambda: not _connected(here.port))
        assert (await get(here.url + "/status"))[0] == 200


def _connected(port: int) -> bool:
    """Return whether there is an established TCP connection of this host whose own end is *port*."""
    fields = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return any(int(one[1].split(":")[1], 16) == port and one[3] == "01" for one in fields)


async def test_the_stop_does_not_wait_for_a_slow_page() -> None:
    """Connections that are being answered end with the daemon."""
    async with asyncio.timeout(5):
        async with site() as here:
            here.event("route.put", text="x" * 20_000_000)
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port, limit=4096)
            writer.write(b"GET /page.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await reader.readexactly(100)
        writer.close()


# Where it cannot be had


@asynccontextmanager
async def serving(config: ServerConfig) -> AsyncIterator[FakeNode]:
    """Run a node and serve its status as the daemon does."""
    node = a_node()
    async with node.running():
        assert node.daemon is not None
        servers = serve_status(node.daemon, config=config, recent=RecentEvents(), conditions=node.conditions)
        task = asyncio.create_task(servers)
        try:
            yield node
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()


async def test_a_taken_port_is_a_warning_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node stays ready, reports it with a hint, and serves as soon as the port is free."""
    monkeypatch.setattr("pyflanneld.daemon.servers.RETRY_S", 0.1)
    with other_program() as (taken, port):
        async with serving(ServerConfig("\0pyflanneld-test/taken", (LOCAL, port), None)) as node:
            await soon(lambda: _has(node, "metrics.not_listening"))
            assert node.ready
            assert node.daemon is not None
            findings = node.daemon.status_source.status().findings
            (finding,) = [one for one in findings if one.event == "metrics.not_listening"]
            why = f"Address already in use, by pyflanneld (pid {taken.pid})"
            assert (finding.blocks, finding.text) == (False, f"no metrics and no page on 127.0.0.1:{port}: {why}")
            assert "--metrics-bind" in finding.hint
            taken.kill()
            await soon(lambda: _serves(f"http://127.0.0.1:{port}/metrics"))
            assert not _has(node, "metrics.not_listening")


async def test_a_taken_health_port_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node stays ready, names who has the port and the flag to give, and answers probes as soon as it is free."""
    monkeypatch.setattr("pyflanneld.daemon.servers.RETRY_S", 0.1)
    with other_program() as (taken, port):
        config = ServerConfig("\0pyflanneld-test/health", None, None, health_bind=(LOCAL, port))
        async with serving(config) as node:
            await soon(lambda: _has(node, "health.not_listening"))
            assert node.ready
            assert node.daemon is not None
            findings = node.daemon.status_source.status().findings
            (finding,) = [one for one in findings if one.event == "health.not_listening"]
            why = f"Address already in use, by pyflanneld (pid {taken.pid})"
            assert (finding.blocks, finding.text) == (False, f"no probes are answered on 127.0.0.1:{port}: {why}")
            assert "--healthz-port" in finding.hint
            taken.kill()
            await soon(lambda: _serves(f"http://127.0.0.1:{port}/readyz"))
            assert not _has(node, "health.not_listening")


@contextmanager
def other_program() -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Have another program, which calls itself as a daemon does, listen on a port; yield it and the port."""
    script = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    words = [sys.executable, "-c", f"{script}; time.sleep(60)", "pyflanneld"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield program, int(program.stdout.readline())
        finally:
            program.kill()


async def test_it_listens_on_ipv6_too() -> None:
    """An address in brackets, as the flag takes it."""
    port = free_port()
    async with serving(ServerConfig("\0pyflanneld-test/ipv6", (IPv6Address("::1"), port), None)):
        await soon(lambda: _serves(f"http://[::1]:{port}/metrics"))


async def test_the_textfile_is_whole_and_goes_with_the_daemon(tmp_path: Path) -> None:
    """Readable by node_exporter, no half of it next to it, and gone at the end, for old numbers look like new ones."""
    file = tmp_path / "made" / "pyflanneld.prom"
    async with serving(ServerConfig("\0pyflanneld-test/file", None, file)):
        await soon(file.exists)
        text = file.read_text()
        assert 'pyflanneld_peers{prefix="/coreos.com/network",state="routed"} 3.0\n' in text
        series = [line for line in text.splitlines() if not line.startswith("#")]
        assert [one for one in series if 'prefix="/coreos.com/network"' not in one] == [], "two files share no series"
        assert file.stat().st_mode & 0o777 == 0o644
        assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert not file.exists()


async def test_a_textfile_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    """The node stays ready and reports it."""
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    async with serving(ServerConfig("\0pyflanneld-test/nofile", None, blocked / "x.prom")) as node:
        await soon(lambda: _has(node, "metrics.file_failed"))
        assert node.ready


def _has(node: FakeNode, event: str) -> bool:
    assert node.daemon is not None
    return event in [one.event for one in node.daemon.status_source.status().findings]


async def _serves(url: str) -> bool:
    try:
        return (await get(url))[0] == 200
    except aiohttp.ClientError:
        return False
