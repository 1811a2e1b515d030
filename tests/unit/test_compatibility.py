"""docs/compatibility.md and the table of events have a row for each thing that the code has, and for nothing else."""

import ast
import json
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from pyflanneld import backends, cli, errors
from pyflanneld.config import deprecated, settings
from pyflanneld.core.lease import subnet_env
from pyflanneld.core.neighbours import EntryKind
from pyflanneld.core.network import config as netconf
from pyflanneld.core.routes import RouteKind
from pyflanneld.core.strict_json import parse_object
from pyflanneld.core.vxlan.forwardings import ForwardingKind
from pyflanneld.daemon import process
from pyflanneld.http.monitor import monitor_app
from pyflanneld.http.source import LogAccess
from pyflanneld.system import service_manager

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
VERDICTS = {"same", "better", "other", "new", "not yet", "no"}
MISSING = {"not yet", "no"}


def table(heading: str) -> dict[str, str]:
    """Return the first table below *heading*: what stands in code marks in the first column, to its verdict.

    Everything is to be there once. A row whose first column is empty goes on with the one before it.
    """
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert section is not None, f"no section {heading}"
    rows = re.search(r"^\|.*?(?=\n[^|]|\n\n|\Z)", section[1], re.DOTALL | re.MULTILINE)
    assert rows is not None, f"no table below {heading}"
    found: dict[str, str] = {}
    for row in rows[0].splitlines()[2:]:
        first, verdict = (cell.strip() for cell in row.split("|")[1:3])
        names = re.findall(r"`([^`]+)`", first)
        assert bool(names) == bool(first), f"the first column is not in code marks: {row}"
        assert verdict in VERDICTS or not first, f"not a verdict: {row}"
        for name in names:
            assert name not in found, f"{name} has two rows"
            found[name] = verdict
    return found


def written(name: str) -> str:
    """Return a flag as the page writes it."""
    return f"-{name}" if len(name) == 1 else f"--{name}"


def test_every_flag_has_its_row() -> None:
    """Those that work, those that are accepted, those that are refused; and no others."""
    ours = {written(flag.name) for flag in settings.FLAGS}
    retired = {written(flag.name) for flag in deprecated.RETIRED}
    kubernetes = {written(flag.name) for flag in deprecated.KUBERNETES}
    rows = table("Flags")
    assert rows.keys() == ours | retired | kubernetes
    assert {name for name in ours if rows[name] in MISSING} == set()
    assert {name for name in kubernetes if rows[name] != "no"} == set()
    assert {name for name in retired if rows[name] == "no"} == retired - {"--etcd-endpoint"}


def test_every_variable_that_is_looked_up_has_its_row() -> None:
    """The flags' variables have one for all; of the others, each that the sources name where they read one."""
    sources = "\n".join(
        path.read_text("utf-8") for path in (ROOT / "pyflanneld").rglob("*.py") if "lab" not in path.parts
    )
    looked_up = r'environ\.(?:get|setdefault)\("(\w+)"|environ\["(\w+)"\](?! = )|"(\w+)" in environ'
    read = {name for groups in re.findall(looked_up, sources) for name in groups if name}
    rows = table("Variables")
    assert {"NOTIFY_SOCKET", "PATH", "SUPERVISOR_ENABLED"} <= read, "the pattern above is out of date"
    assert {name for name, verdict in rows.items() if verdict not in MISSING | {"other"}} == read | {"FLANNELD_*"}


def test_every_sub_command_has_its_row() -> None:
    """Those that are there."""
    rows = table("Sub-commands")
    assert {name for name, verdict in rows.items() if verdict not in MISSING} == set(cli.sub_commands())


class Document(Mapping[str, object]):
    """A network configuration that remembers what it was asked for."""

    def __init__(self, content: Mapping[str, object]) -> None:
        self._content = content
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> object:
        self.asked.add(key)
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def test_every_configuration_key_has_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parser asks a document of both families for, and the one member of ``Backend`` that it takes."""
    read: list[Document] = []

    def reading(data: bytes) -> Document:
        read.append(Document(parse_object(data, "network configuration")))
        return read[0]

    monkeypatch.setattr(netconf, "_document", reading)
    content = {"Network": "10.5.0.0/16", "EnableIPv6": True, "IPv6Network": "2001:db8::/56", "Backend": {"Type": "a"}}
    config = netconf.parse_config(json.dumps(content).encode())
    assert config.backend_type == "a"
    rows = table("Configuration keys")
    assert {key.lower() for key in rows} == read[0].asked | {"backend.type"}


def test_every_backend_has_its_row() -> None:
    """Those that are there."""
    rows = table("Backends")
    assert {name for name, verdict in rows.items() if verdict not in MISSING} == set(backends.BACKENDS)


def test_every_key_of_the_subnet_file_has_its_row() -> None:
    """What is written."""
    ipv6 = (IPv6Network("2001:db8:42::/56"), IPv6Network("2001:db8:42:7::/64"))
    text = subnet_env.render(IPv4Network("10.5.0.0/16"), IPv4Network("10.5.34.0/24"), 1500, ipv6=ipv6)
    rows = table("Keys of the subnet file")
    keys = [line.partition("=")[0] for line in text.splitlines()]
    assert [name for name, verdict in rows.items() if verdict not in MISSING] == keys


def test_every_exit_code_has_its_row() -> None:
    """Those of the error tree, and 0."""
    codes = {"0"}
    todo: list[type[errors.PyflanneldError]] = [errors.PyflanneldError]
    while todo:
        kind = todo.pop()
        codes.add(str(kind.exit_code))
        todo += kind.__subclasses__()
    assert table("Exit codes").keys() == codes


def test_every_signal_has_its_row() -> None:
    """Those that are handled; and the one that nobody can handle."""
    numbers = (*process.STOP_SIGNALS, process.RELOAD_SIGNAL, service_manager.SCRIPT_ENDED, process.STATE_SIGNAL)
    handled = {signal.Signals(number).name.removeprefix("SIG") for number in numbers}
    assert table("Signals").keys() == handled | {"KILL"}


def test_every_endpoint_has_its_row() -> None:
    """The paths that the health listener and the metrics listener serve."""
    source = (ROOT / "pyflanneld" / "http" / "health.py").read_text("utf-8")
    served = set(re.findall(r'web\.route\("\*", "(/[^"]*)"', source))
    assert served
    app = monitor_app(None, LogAccess(str, print, list), None)  # type: ignore[arg-type] - nobody asks
    monitored = {route.resource.canonical for route in app.router.routes() if route.resource}
    assert table("Endpoints").keys() == served | monitored


def logged(source: str) -> Iterator[str]:
    """Yield the names of events that *source* logs, or reports as a problem."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in {"debug", "info", "warning", "error", "exception", "report", "_report", "note"}:
                for word in node.args[:2]:
                    if isinstance(word, ast.Constant) and re.fullmatch(r"[a-z_]+\.[a-z_]+", str(word.value)):
                        yield str(word.value)


def test_every_log_event_has_its_row() -> None:
    """docs/operations.md lists each event that the daemon logs, and none that the sources do not name."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", page, re.MULTILINE))
    daemon = [path for path in (ROOT / "pyflanneld").rglob("*.py") if "lab" not in path.parts]
    sources = [path.read_text("utf-8") for path in daemon]
    events = {event for source in sources for event in logged(source)}
    for kind in (RouteKind, EntryKind, ForwardingKind):
        events |= set(astuple(kind.events)) - {""}
    assert {"daemon.ready", "guard.holding", "firewall.failed"} <= events, "the search above is out of date"
    assert events - listed == set(), "put these into the table of events"
    assert {event for event in listed if not any(f'"{event}"' in source for source in sources)} == set()
