"""Text from outside on every way out of a daemon: it forges no line and controls neither a terminal nor systemd.

A daemon on fakes, with hostile text in all that it reads and in its own settings; the ways out are the real ones.
"""

import asyncio
import io
import json
import logging
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
import structlog
from aiohttp import web

from pyflanneld.commands import peers, plan, routes, status
from pyflanneld.commands.daemon_client import DaemonClient
from pyflanneld.commands.doctor.finding import bad
from pyflanneld.commands.doctor.main import as_text as findings_text
from pyflanneld.commands.output import Paint
from pyflanneld.core.printable import SENTENCE_CHARS
from pyflanneld.core.status.dry_run import Action, DryRunStep, StartProblem
from pyflanneld.daemon.servers import log_state, metrics_on_demand
from pyflanneld.errors import RegistryDenied, RegistryUnavailable, RequestRefused
from pyflanneld.http.health import health_listener
from pyflanneld.http.listener import Listener
from pyflanneld.http.monitor import monitor_listener
from pyflanneld.http.operator import operator_listener
from pyflanneld.http.source import LogAccess
from pyflanneld.logs.processors import RecentEvents
from pyflanneld.logs.setup import configure_logging
from pyflanneld.system.listening import bind_abstract
from pyflanneld.system.service_manager import SdNotifier
from tests.support.fakes.node import CONFIG, FakeNode, lan, value
from tests.support.fakes.registry import FakeEtcd, FakeRegistry
from tests.support.network.listening import served

FORGED = "READY=1\nMAINPID=1\n\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2028\r\x00\udc80"
HOSTILE = f"x\n{FORGED}" + "long " * 2000
LONGEST = 10 * SENTENCE_CHARS + 1  # an escape takes up to ten characters
PLAIN = Paint(io.StringIO())


@pytest.fixture(autouse=True)
def _logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon among hostile texts, its operators' socket, and the ports of probes and monitoring."""

    node: FakeNode
    client: DaemonClient
    probes: str
    monitor: str
    log: io.StringIO


def hostile_node(notify: Path) -> FakeNode:
    """Return a node that reads hostile text wherever it reads text, and reports to the socket *notify*."""
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    etcd.put(b"172.7.22.0-24", value("192.168.14.22"), lease_id=etcd.grant(86400))
    etcd.put(b"172.7.23.0-24", value("192.168.14.23", FORGED.replace("\udc80", "")))
    etcd.put(HOSTILE.encode(errors="surrogateescape"), HOSTILE.encode(errors="surrogateescape"))
    etcd.put(b"172.7.24.0-24", json.dumps({"PublicIP": HOSTILE, "BackendType": HOSTILE}).encode())
    node = FakeNode(etcd, env="FLANNEL_SUBNET=172.7.21.1/24\n")
    node.registry = FakeRegistry(etcd, endpoint=f"http://etcd:2379/{HOSTILE}")
    node.kernel.set_link(replace(lan(21), name="e\x1b[2J\u202e1"))
    node.manager = SdNotifier({"NOTIFY_SOCKET": str(notify)})  # type: ignore[assignment]
    node.configure(
        iface=(), public_ip=IPv4Address("192.168.14.21"), etcd_prefix=f"/{HOSTILE}", subnet_file=Path(f"/run/{FORGED}"),
    )  # fmt: skip
    node.log = structlog.get_logger("pyflanneld")
    return node


@asynccontextmanager
async def site(notify: Path, log_format: Literal["console", "json"] = "json") -> AsyncIterator[Site]:
    """Run such a node, and serve all that a daemon serves."""
    recent, log = RecentEvents(), io.StringIO()
    sys.stderr = log
    configure_logging(log_format, 1, recent)
    node = hostile_node(notify)
    name = f"pyflanneld/test/{secrets.token_hex(16)}"
    async with node.running():
        assert node.daemon is not None
        source, access = node.daemon.status_source, LogAccess(lambda: "info", lambda _: None, recent.events)
        async with (
            served(operator_listener(source, access), bind_abstract("\0" + name)),
            served(health_listener(node.daemon.health)) as probes,
            served(monitor_listener(source, access, metrics_on_demand(source))) as monitor,
        ):
            yield Site(node, DaemonClient(name), f"http://127.0.0.1:{probes}", f"http://127.0.0.1:{monitor}", log)


def hurt(node: FakeNode) -> None:
    """Have everything wrong that an error text of etcd, or a value, can describe."""
    for topic in ("etcd:peers", "kernel", "subnet", "firewall forwarding"):
        node.conditions.report(topic, "etcd.unavailable", HOSTILE, cause=HOSTILE, error=HOSTILE, **{"to": HOSTILE})
    node.registry.etcd.put_config(json.dumps({"Network": HOSTILE, "Backend": {"Type": HOSTILE}}).encode())
    node.registry.etcd.put(b"172.7.22.0-24", HOSTILE.encode(errors="surrogateescape"))
    structlog.get_logger("pyflanneld").warning(HOSTILE, **{HOSTILE: HOSTILE}, nested={HOSTILE: [HOSTILE]})
    logging.getLogger("grpc").error(HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        structlog.get_logger("pyflanneld").exception("daemon.crashed")


def assert_safe(text: str) -> None:
    """Nothing but printable lines, none of them endless, and none that systemd would obey."""
    for line in text.split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line.startswith(("READY=", "MAINPID="))


def strings(value: Any) -> Iterator[str]:
    """Yield every text in a JSON document, names too."""
    match value:
        case str():
            yield value
        case dict():
            for name, item in value.items():
                yield name
                yield from strings(item)
        case list():
            for item in value:
                yield from strings(item)


def assert_safe_json(document: Any) -> None:
    """Every text in it is one printable line of bounded length."""
    for text in strings(document):
        assert text.isprintable(), ascii(text)
        assert len(text) <= LONGEST


async def get(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def ask(here: Site, path: str) -> Any:
    return await asyncio.to_thread(here.client.get, path)


async def test_probes(tmp_path: Path) -> None:
    """Each reason is one short line."""
    async with site(tmp_path / "notify") as here:
        hurt(here.node)
        verbose = await get(f"{here.probes}/readyz?verbose")
        assert "READY=1" in verbose
        assert_safe(verbose)
        assert max(map(len, verbose.split("\n"))) <= LONGEST


async def test_reports_and_commands(tmp_path: Path) -> None:
    """The operators' socket, the monitoring port with page and metrics, and what the commands print of it."""
    async with site(tmp_path / "notify") as here:
        hurt(here.node)
        for path in ("status", "peers", "routes", "events", "page.json"):
            assert_safe_json(json.loads(await get(f"{here.monitor}/{path}")))
        assert_safe(await get(f"{here.monitor}/metrics"))
        assert_safe_json(await ask(here, "/health"))
        for path, as_text in (("/status", status.as_text), ("/peers", peers.as_text), ("/routes", routes.as_text)):
            document: Any = await ask(here, path)
            assert_safe_json(document)
            assert_safe(as_text(document, PLAIN))
        assert_safe_json(await ask(here, "/events"))


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_log(log_format: Literal["console", "json"], tmp_path: Path) -> None:
    """Events of ours, of libraries, tracebacks, and the whole state after a signal."""
    async with site(tmp_path / "notify", log_format) as here:
        hurt(here.node)
        assert here.node.daemon is not None
        log_state(here.node.daemon, structlog.get_logger("pyflanneld"))
        text = here.log.getvalue()
        assert "daemon.state" in text
        assert_safe(text)


async def test_service_manager(tmp_path: Path) -> None:
    """A datagram is one assignment, whatever a condition quotes from etcd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        told: list[str] = []
        async with site(tmp_path / "notify") as here:
            hurt(here.node)
            async with asyncio.timeout(10):
                while not any("not ready: x" in one for one in told):
                    told.append((await asyncio.get_running_loop().sock_recv(manager, 1 << 16)).decode())
    assert told.count("READY=1") == 1
    for one in told:
        assert one.isprintable()
        assert one.startswith(("STATUS=", "WATCHDOG=1", "READY=1"))
        assert len(one) <= LONGEST


async def test_commands_trust_no_daemon() -> None:
    """What answers on the operators' socket may be no daemon."""

    async def hostile(_request: web.Request) -> web.Response:
        return web.json_response({"text": [HOSTILE]})

    async def refusing(_request: web.Request) -> web.Response:
        return web.Response(status=400, body=HOSTILE.encode(errors="replace"))

    app = web.Application()
    app.add_routes([web.get("/status", hostile), web.get("/peers", refusing)])
    name = f"pyflanneld/test/{secrets.token_hex(16)}"
    async with served(Listener(app), bind_abstract("\0" + name)):
        assert_safe_json(await asyncio.to_thread(DaemonClient(name).get, "/status"))
        with pytest.raises(RequestRefused) as refused:
            await asyncio.to_thread(DaemonClient(name).get, "/peers")
        assert_safe(str(refused.value))


def test_commands_that_ask_others() -> None:
    """``plan``, ``doctor``, and the errors that every command prints."""
    for error in (RegistryUnavailable(HOSTILE), RegistryDenied(HOSTILE)):
        assert_safe(str(error))
        assert len(str(error)) <= LONGEST
    step = DryRunStep("route", Action.CHANGE, FORGED, FORGED, (FORGED,))
    steps = plan.as_text(Plan([step], [StartProblem(FORGED)]), PLAIN)  # type: ignore[arg-type]
    assert_safe(steps)
    assert_safe(findings_text([bad("etcd", FORGED, FORGED, FORGED)], PLAIN, whole=True))


@dataclass(frozen=True)
class Plan:
    """What ``plan`` shows, of hostile parts."""

    steps: list[DryRunStep]
    problems: list[StartProblem]
    starts: bool = True
    changes: int = 1
