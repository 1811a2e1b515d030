"""The health listener over real HTTP."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv6Address

import aiohttp
import pytest

from pyflanneld.config.settings import Settings
from pyflanneld.core.status.report import Health
from pyflanneld.daemon import wiring
from pyflanneld.errors import PortTaken, UsageError
from pyflanneld.http.health import health_listener
from pyflanneld.http.sockets import bind_health_port, bind_port
from pyflanneld.system.host_names import address_of
from tests.support.network.listening import LOCAL, served

READY = Health(live=True, not_ready=())
WAITING = Health(live=True, not_ready=("etcd does not answer", "two\nlines"))
STOPPED = "the routes task has stalled"
DEAD = Health(live=False, not_ready=(STOPPED,), not_live=(STOPPED,))


@asynccontextmanager
async def serving(health: Health) -> AsyncIterator[str]:
    async with served(health_listener(lambda: health)) as port:
        yield f"http://127.0.0.1:{port}"


async def get(url: str, method: str = "GET") -> tuple[int, str, aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as session, session.request(method, url) as response:
        return response.status, await response.text(), response


async def raw(url: str, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def test_healthz_is_flannels() -> None:
    """200 with flannel's body, type and no newline while the tasks run, ready or not."""
    for health in (READY, WAITING):
        async with serving(health) as url:
            status, body, response = await get(url + "/healthz")
            assert (status, body) == (200, "flanneld is running")
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert response.headers["Connection"] == "close"
            assert "Server" not in response.headers


async def test_healthz_reports_a_stopped_task() -> None:
    """503 when a core task no longer runs; ?verbose says which."""
    words = "flanneld is not running: a core task has stalled"
    async with serving(DEAD) as url:
        assert (await get(url + "/healthz"))[:2] == (503, words)
        assert (await get(url + "/healthz?verbose"))[:2] == (503, f"{words}\n{STOPPED}")
    async with serving(WAITING) as url:
        assert (await get(url + "/healthz?verbose"))[:2] == (200, "flanneld is running")


async def test_readyz_gives_the_reasons_when_asked() -> None:
    """200, or 503 with flannel's words; ?verbose adds one reason to a line."""
    async with serving(READY) as url:
        assert (await get(url + "/readyz"))[:2] == (200, "flanneld is ready")
        assert (await get(url + "/readyz?verbose"))[:2] == (200, "flanneld is ready")
    async with serving(WAITING) as url:
        assert (await get(url + "/readyz"))[:2] == (503, "flanneld is not ready yet")
        reasons = "flanneld is not ready yet\netcd does not answer\ntwo lines"
        assert (await get(url + "/readyz?verbose"))[:2] == (503, reasons)
    async with serving(DEAD) as url:
        assert (await get(url + "/readyz?verbose"))[:2] == (503, f"flanneld is not ready yet\n{STOPPED}")


async def test_a_probe_before_the_first_answer_is_kept() -> None:
    """The port is bound before the daemon answers; a client of that time is answered afterwards."""
    listening = bind_port(LOCAL, 0)
    early = asyncio.create_task(raw(f"http://127.0.0.1:{listening.getsockname()[1]}", b"GET /healthz HTTP/1.0\r\n\r\n"))
    await asyncio.sleep(0.05)
    assert not early.done()
    async with served(health_listener(lambda: READY), listening):
        assert (await early).endswith(b"flanneld is running")


async def test_the_health_is_checked_at_each_request() -> None:
    """Nothing is remembered between two probes."""
    found = iter([WAITING, READY, WAITING])
    async with served(health_listener(lambda: next(found))) as port:
        assert [(await get(f"http://127.0.0.1:{port}/readyz"))[0] for _ in range(3)] == [503, 200, 503]


async def test_every_method_is_answered_on_two_paths() -> None:
    """As by flanneld: HEAD has no body, any other method is answered as GET is; other paths get 404."""
    async with serving(READY) as url:
        assert (await get(url + "/healthz", "HEAD"))[:2] == (200, "")
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert (await get(url + "/healthz", method))[:2] == (200, "flanneld is running")
            assert (await get(url + "/readyz", method))[:2] == (200, "flanneld is ready")
        for path in ("/", "/healthz/", "/healthz/x", "/HEALTHZ", "/metrics", "/readyz%00", "/../healthz/../x"):
            assert (await get(url + path))[0] == 404


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_garbage_is_refused_and_the_next_probe_answered(request_bytes: bytes) -> None:
    """A TLS hello, an endless header and nonsense get 400 and a closed connection."""
    async with serving(READY) as url:
        assert b" 400 " in (await raw(url, request_bytes)).split(b"\r\n")[0]
        assert (await get(url + "/healthz"))[0] == 200


async def test_each_answer_closes_its_connection() -> None:
    """The second of two pipelined requests gets no answer."""
    async with serving(READY) as url:
        answer = await raw(url, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        assert answer.count(b"HTTP/1.1 200") == 1


async def test_a_silent_client_does_not_delay_the_stop() -> None:
    """Connections that send nothing, or half a request, are closed when the listener stops."""
    clients = []
    async with asyncio.timeout(3):
        async with served(health_listener(lambda: READY)) as port:
            for start in (b"", b"GET /healthz HT"):
                clients.append(await asyncio.open_connection("127.0.0.1", port))
                clients[-1][1].write(start)
            await asyncio.sleep(0.05)
        for reader, writer in clients:
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()


def test_a_taken_port_is_named() -> None:
    """PortTaken says which address, and which flag to turn."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port} is in use.*--healthz-port"):
            bind_health_port(LOCAL, port)


def test_a_port_taken_on_one_address_is_taken_for_all() -> None:
    """Listening everywhere is refused when somebody has the port on one address, and the other way round."""
    everywhere = IPv4Address(0)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(PortTaken):
        bind_health_port(everywhere, other.getsockname()[1])
    with socket.create_server((str(everywhere), 0)) as other, pytest.raises(PortTaken):
        bind_health_port(LOCAL, other.getsockname()[1])


def test_an_address_of_another_host_is_named() -> None:
    """An address that is not here is PortTaken too: at boot it may come, so the service manager should try again."""
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1:2401 is not an address of this host.*--healthz-ip"):
        bind_health_port(IPv4Address("192.0.2.1"), 2401)


async def test_a_name_is_listened_on() -> None:
    """``--healthz-ip=localhost`` is 127.0.0.1, as in Go, which takes the IPv4 address of a name."""
    listening = bind_health_port(address_of("localhost"), 0)
    assert listening.getsockname()[0] == "127.0.0.1"
    async with served(health_listener(lambda: READY), listening) as port:
        assert (await get(f"http://127.0.0.1:{port}/healthz"))[:2] == (200, "flanneld is running")


def test_a_name_without_an_address_is_named() -> None:
    """It may come, as an address may: PortTaken."""
    settings = Settings(healthz_ip="nobody.invalid")
    with pytest.raises(PortTaken, match=r"nobody\.invalid has no address.*--healthz-ip"):
        wiring.health_address(settings)


def test_what_no_waiting_cures_is_a_usage_error() -> None:
    """Anything else, such as an address that cannot be listened on, is a wrong setting."""
    with pytest.raises(UsageError, match="--healthz-port"):
        bind_health_port(IPv6Address("fe80::1"), 0)


def test_where_the_kernel_knows_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address is every IPv4 one there, as in Go; an IPv6 address is refused as it is."""
    real = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr("pyflanneld.http.sockets.socket.socket", without_ipv6)
    with bind_port(IPv6Address("::"), 0) as listening:
        assert IPv4Address(listening.getsockname()[0]).is_unspecified
    with pytest.raises(OSError, match="not supported"):
        bind_port(IPv6Address("::1"), 0)


async def test_it_can_be_restarted_at_once_on_the_same_port() -> None:
    """Old connections in TIME_WAIT do not keep a new daemon from its port."""
    port = 0
    for _ in range(3):
        async with served(health_listener(lambda: READY), bind_port(LOCAL, port)) as port:
            assert (await get(f"http://127.0.0.1:{port}/healthz"))[0] == 200


async def test_ipv6_serves_both_families_on_the_unspecified_address() -> None:
    """``--healthz-ip=::`` is reached over IPv4 and IPv6, as with flanneld."""
    async with served(health_listener(lambda: READY), bind_port(IPv6Address("::"), 0)) as port:
        for host in ("127.0.0.1", "[::1]"):
            assert (await get(f"http://{host}:{port}/healthz"))[0] == 200
