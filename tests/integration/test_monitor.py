"""The metrics listener over real HTTP: a daemon on fakes, browsers and scrapers as they come, friendly or not."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from inspect import isawaitable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pyflanneld.daemon.servers import Numbers, ServerConfig, serve_status
from pyflanneld.http import listener, stream
from pyflanneld.http.monitor import CONNECTIONS, is_this_host, monitor_listener
from pyflanneld.http.operator import StatusSource
from pyflanneld.logs.processors import RecentEvents
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, value
from tests.support.fakes.registry import FakeEtcd

LOCAL = IPv4Address("127.0.0.1")


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon on fakes and where it is told of."""

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
    node, recent, port = a_node(), RecentEvents(), free_port()
    async with node.running():
        assert node.daemon is not None
        told = StatusSource(node.daemon.observer, level=lambda: "info", set_level=lambda _: None, events=recent.events)
        server = monitor_listener(told, Numbers(node.daemon.observer).text, LOCAL, port)
        await server.start()
        try:
            yield Site(node, recent, port)
        finally:
            await server.stop()


async def get(url: str, method: str = "GET", **headers: str) -> tuple[int, str, aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        return answer.status, await answer.text(), answer


async def messages(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Yield the messages of an event stream."""
    kind = ""
    async for line in answer.content:
        name, _, rest = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = rest
        elif name == "data":
            yield kind, json.loads(rest)


@asynccontextmanager
async def listening(here: Site) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """Have the page's stream open for the length of the block."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(here.url + "/events", headers={"Accept": stream.STREAM}) as answer,
    ):
        yield messages(answer)


async def soon(happens: Callable[[], Any]) -> None:
    """Wait until it happens."""
    async with asyncio.timeout(10):
        while not (await found if isawaitable(found := happens()) else found):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def first(wanted: str, told: AsyncIterator[tuple[str, Any]]) -> Any:
    """Return the next message of that kind."""
    async with asyncio.timeout(10):
        async for kind, data in told:
            if kind == wanted:
                return data
    raise AssertionError(f"the stream ended without {wanted}")


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
        for path in ("/", "/metrics", "/status", "/peers", "/routes", "/events"):
            assert (await get(here.url + path, "HEAD", Accept=f"{stream.STREAM}, */*"))[:2] == (200, ""), path
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
        for path in ("/", "/metrics", "/status", "/events", "/nothing"):
            status, body, _ = await get(here.url + path, Host="evil.example")
            assert status == 421
            assert "not the name of this host" in body


async def test_other_origins_get_no_permission() -> None:
    """No CORS header, and the page may not be framed, guessed at or remembered."""
    async with site() as here:
        for path in ("/", "/metrics", "/status", "/events", "/nothing"):
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
    """Whoever connects and says nothing is cut off; beyond the limit nobody is let in; then all is well again."""
    monkeypatch.setattr(listener, "HEAD_S", 0.5)
    monkeypatch.setattr(listener, "_SWEEP_S", 0.1)
    async with site() as here:
        silent = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(CONNECTIONS + 5)]
        for reader, _ in silent:
            assert await asyncio.wait_for(reader.read(), 5) == b""
        for _, writer in silent:
            writer.close()
        assert (await get(here.url + "/metrics"))[0] == 200


# The stream


async def test_the_stream_begins_with_all_and_goes_on_with_changes() -> None:
    """State, peers and events of the first moment; then only what has changed."""
    async with site() as here:
        here.event("daemon.ready")
        async with listening(here) as told:
            assert (await first("state", told))["lease"]["subnet"] == "172.7.21.0/24"
            peers = await first("peers", told)
            assert (peers["all"], len(peers["rows"]), peers["gone"]) == (True, 4, [])
            assert [event["event"] for event in await first("log", told)] == ["daemon.ready"]

            etcd = here.node.registry.etcd
            etcd.put(b"172.7.24.0-24", value("192.168.14.24"), lease_id=etcd.grant(86400))
            etcd.delete(b"172.7.23.0-24")
            await soon(lambda: set(here.node.kernel.gateways(PROTOCOL)) == {f"172.7.{n}.0/24" for n in (22, 24, 40)})
            here.event("route.put", dst="172.7.24.0/24")
            peers = await first("peers", told)
            assert (peers["all"], list(peers["rows"])) == (False, ["172.7.24.0-24 172.7.24.0/24"])
            assert peers["gone"] == ["172.7.23.0-24 172.7.23.0/24"]
            assert [event["fields"]["dst"] for event in await first("log", told)] == ["172.7.24.0/24"]


async def test_a_storm_becomes_a_few_messages() -> None:
    """A thousand events in a second are told in two or three steps, the last 200 of them at most in each."""
    async with site() as here, listening(here) as told:
        await first("peers", told)
        for number in range(1000):
            here.event("route.put", number=number)
            await asyncio.sleep(0.001)
        steps = 0
        while (await first("log", told))[-1]["fields"]["number"] != 999:
            steps += 1
        assert steps < 10


async def test_eight_pages_at_once() -> None:
    """The ninth is told so; when one goes, there is room again."""
    async with site() as here, AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        ask = {"Accept": stream.STREAM}
        answers = [await session.get(here.url + "/events", headers=ask) for _ in range(stream.CLIENTS)]
        for answer in answers:
            await first("state", messages(answer))
        status, body, _ = await get(here.url + "/events", Accept=stream.STREAM)
        assert (status, body) == (503, "8 pages are open already, which is all there can be")
        answers.pop().close()
        await soon(lambda: _streams(session, here))
        for answer in answers:
            answer.close()


async def _streams(session: aiohttp.ClientSession, here: Site) -> bool:
    async with session.get(here.url + "/events", headers={"Accept": stream.STREAM}) as answer:
        return answer.status == 200


async def test_a_page_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read loses its place, and nobody else waits for it."""
    monkeypatch.setattr(stream, "SLOW_S", 0.2)
    monkeypatch.setattr(stream, "LOOK_S", 0.01)
    async with site() as here:
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", here.port))
            slow.sendall(f"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: {stream.STREAM}\r\n\r\n".encode())
            slow.setblocking(False)
            async with asyncio.timeout(20):
                # It is dropped when the server closes: what fills its buffers then is followed by an end or a reset.
                for number in range(5000):
                    here.event("route.put", number=number, text="x" * 4000)
                    await asyncio.sleep(0.002)
                    if not _connected(here.port):
                        break
            assert not _connected(here.port)
        assert (await get(here.url + "/status"))[0] == 200


def _connected(port: int) -> bool:
    """Say whether there is an established TCP connection of this host whose own end is *port*."""
    fields = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return any(int(one[1].split(":")[1], 16) == port and one[3] == "01" for one in fields)


async def test_the_streams_end_with_the_daemon() -> None:
    """Stopping does not wait for the pages that are open."""
    async with AsyncExitStack() as stack:
        async with site() as here:
            told = await stack.enter_async_context(listening(here))
            await first("state", told)
        async with asyncio.timeout(3):
            with suppress(aiohttp.ClientError):
                assert [kind async for kind, _ in told if kind == "never"] == []


async def test_nothing_runs_while_nobody_listens() -> None:
    """Without an open page the kernel is not read for one; the last one takes all of it along."""
    async with site() as here:
        async with listening(here) as told:
            await first("peers", told)
        await soon(lambda: not _connected(here.port))
        await asyncio.sleep(2 * stream.LOOK_S)
        before = here.node.kernel.calls["neighbours"]
        await asyncio.sleep(2 * stream.LOOK_S)
        assert here.node.kernel.calls["neighbours"] == before


# Where it cannot be had


@asynccontextmanager
async def telling(config: ServerConfig) -> AsyncIterator[FakeNode]:
    """Run a node and have it told of as the daemon does."""
    node = a_node()
    async with node.running():
        assert node.daemon is not None
        serving = serve_status(node.daemon, config=config, recent=RecentEvents(), conditions=node.conditions)
        telling = asyncio.create_task(serving)
        try:
            yield node
        finally:
            telling.cancel()
            await asyncio.wait([telling])
            assert telling.cancelled()


async def test_a_taken_port_is_a_warning_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node stays ready, says so with a remedy, and serves as soon as the port is free."""
    monkeypatch.setattr("pyflanneld.daemon.servers.RETRY_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        async with telling(ServerConfig("\0pyflanneld-test/taken", (LOCAL, port), None)) as node:
            await soon(lambda: _has(node, "metrics.not_listening"))
            assert node.ready
            assert node.daemon is not None
            (finding,) = [one for one in node.daemon.observer.status().findings if one.event == "metrics.not_listening"]
            assert (finding.blocks, finding.text) == (
                False, f"no metrics and no page on 127.0.0.1:{port}: Address already in use"
            )
            assert "--metrics-bind" in finding.hint
            taken.close()
            await soon(lambda: _serves(f"http://127.0.0.1:{port}/metrics"))
            assert not _has(node, "metrics.not_listening")


async def test_it_listens_on_ipv6_too() -> None:
    """An address in brackets, as the flag takes it."""
    port = free_port()
    async with telling(ServerConfig("\0pyflanneld-test/ipv6", (IPv6Address("::1"), port), None)):
        await soon(lambda: _serves(f"http://[::1]:{port}/metrics"))


async def test_the_textfile_is_whole_and_goes_with_the_daemon(tmp_path: Path) -> None:
    """Readable by node_exporter, nothing half beside it, and gone at the end, for old numbers look like new ones."""
    file = tmp_path / "made" / "pyflanneld.prom"
    async with telling(ServerConfig("\0pyflanneld-test/file", None, file)):
        await soon(file.exists)
        assert 'pyflanneld_peers{state="routed"} 3.0\n' in file.read_text()
        assert file.stat().st_mode & 0o777 == 0o644
        assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert not file.exists()


async def test_a_textfile_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    """The node stays ready and says so."""
    blocked = tmp_path / "file"
    blocked.write_text("no directory")
    async with telling(ServerConfig("\0pyflanneld-test/nofile", None, blocked / "x.prom")) as node:
        await soon(lambda: _has(node, "metrics.file_failed"))
        assert node.ready


def _has(node: FakeNode, event: str) -> bool:
    assert node.daemon is not None
    return event in [one.event for one in node.daemon.observer.status().findings]


async def _serves(url: str) -> bool:
    try:
        return (await get(url))[0] == 200
    except aiohttp.ClientError:
        return False
