"""The targets: each takes bytes from outside, feeds one parser, and checks what comes of it.

A target returns when all is well. It lets pass the one exception that its parser promises, and nothing else; what was
read is checked by an oracle that works on numbers and texts and shares nothing with the parser.
"""

import json
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from itertools import pairwise

from pyflanneld.config.load import load
from pyflanneld.core.docker import DockerVersion, Leased, docker_options
from pyflanneld.core.etcd_types import Gone, Put, Record, Snapshot
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease import saved_state
from pyflanneld.core.lease.codec import encode_name, encode_value, parse_key_name, parse_value
from pyflanneld.core.lease.subnet_env import assignments, previous_network, previous_subnet, previous_subnet6, render
from pyflanneld.core.network.config import parse_config
from pyflanneld.core.peers.table import PeerTable
from pyflanneld.core.peers.validation import FamilyContext, ValidationContext
from pyflanneld.core.printable import FIELD_CHARS, printable
from pyflanneld.errors import RegistryUnavailable, RevisionCompacted, UsageError
from pyflanneld.etcd.v2.keyspace import V2KeySpace, parse_event
from pyflanneld.logs.sanitise import safe, trace_lines
from pyflanneld.netlink import links, routes, routes6
from pyflanneld.netlink.frames import frames
from pyflanneld.netlink.messages import kernel_verdict
from tests.fuzz import etcd_answers
from tests.fuzz.http import PROBE, PROBE_S, SILENT_S, check_answer, doors

Target = Callable[[bytes], None]

_DOTTED = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})")
_ENV_LINE = re.compile(r"FLANNEL_[A-Z0-9_]+=(?:[0-9a-fA-F.:/]+|true|false)")
_NAMES = re.compile(rb"\0")


def key(data: bytes) -> None:
    """A key's name: what is read is spelt so and in no other way, and has no host bits."""
    try:
        read = parse_key_name(data)
    except Invalid:
        return
    text = data.decode("ascii")
    first, _, rest = text.partition("-")
    length = int(rest.partition("&")[0])
    number = _number(first)
    assert str(read.ipv4.network_address) == first
    assert read.ipv4.prefixlen == length <= 32
    assert not number & ((1 << 32 - length) - 1), "host bits"
    assert encode_name(read.ipv4, read.ipv6) == data


def value(data: bytes) -> None:
    """A lease's value: what is read reads the same when it is written, and JSON says so too."""
    try:
        read = parse_value(data)
    except Invalid:
        return
    assert len(data) <= 64 * 1024
    assert parse_value(encode_value(read)) == read
    named = {name.lower(): said for name, said in json.loads(data).items()}
    assert named["publicip"] == str(read.public_ip)
    assert named.get("backendtype", "") == read.backend_type


def config(data: bytes) -> None:
    """A network configuration: the bounds are subnets of the network, in order."""
    try:
        read = parse_config(data)
    except Invalid:
        return
    assert len(data) <= 64 * 1024
    assert read.backend_type == read.backend_type.lower()
    if read.ipv4 is None:
        return
    low, high = int(read.ipv4.subnet_min), int(read.ipv4.subnet_max)
    first, size = int(read.ipv4.network.network_address), 1 << 32 - read.ipv4.network.prefixlen
    step = 1 << 32 - read.ipv4.subnet_len
    assert 8 <= read.ipv4.network.prefixlen <= 28
    assert read.ipv4.network.prefixlen < read.ipv4.subnet_len <= 30
    assert first <= low <= high <= first + size - step
    assert low % step == high % step == 0


CONTEXT = ValidationContext("host-gw", FamilyContext(
    network=IPv4Network("10.5.0.0/16"), own_subnet=IPv4Network("10.5.34.0/24"),
    link_addresses=(IPv4Interface("192.168.1.10/24"),),
    own_addresses=frozenset({IPv4Address("192.168.1.10"), IPv4Address("10.5.34.1")}),
    protected=frozenset({IPv4Address("10.5.9.9")}),
))  # fmt: skip


def peers(data: bytes) -> None:
    """Any history of keys: no route leads out of the network, over our own addresses, or to a gateway off the link."""
    table = PeerTable(b"10.5.34.0-24")
    revision, listed = 1, dict[bytes, Record]()
    for entry in data.split(b"\xff"):
        revision += 1
        name, _, said = entry[1:].partition(b"=")
        record = Record(name, said, revision, revision, 7)
        match entry[:1]:
            case b"-":
                listed.pop(name, None)
                table.apply(Gone(name, revision))
            case b"*":
                listed[name] = record
                table.apply(Snapshot(tuple(listed.values()), revision, 1))
            case _:
                listed[name] = record
                table.apply(Put(record))
        _check_routes({str(dst): str(gateway) for dst, gateway in table.view(CONTEXT).peers.items()})
    fresh = PeerTable(b"10.5.34.0-24")
    fresh.apply(Snapshot(tuple(listed.values()), revision, 1))
    for name, quarantine in fresh.view(CONTEXT).quarantined.items():
        assert quarantine.detail.isprintable(), name


def _check_routes(found: dict[str, str]) -> None:
    """I7, in whole numbers."""
    spans = []
    for dst, gateway in found.items():
        first, length = _number(dst.partition("/")[0]), int(dst.partition("/")[2])
        last, via = first + (1 << 32 - length) - 1, _number(gateway)
        assert _number("10.5.0.0") <= first <= last <= _number("10.5.255.255")
        assert 16 < length <= 30
        assert last < _number("10.5.34.0") or first > _number("10.5.34.255"), "our own subnet"
        assert not first <= _number("10.5.9.9") <= last, "a protected address"
        assert _number("192.168.1.0") < via < _number("192.168.1.255")
        assert via != _number("192.168.1.10")
        spans.append((first, last))
    spans.sort()
    assert all(one[1] < other[0] for one, other in pairwise(spans)), "two routes overlap"


def subnet_env(data: bytes) -> None:
    """``subnet.env`` and what Docker's helper makes of it: what is written again has its fixed characters only."""
    text = data.decode("utf-8", "replace")
    values = assignments(text)
    network = previous_network(text)
    for read in (previous_subnet, previous_subnet6):
        try:
            read(text)
        except Invalid:
            continue
    subnet = _unless_invalid(previous_subnet, text)
    if isinstance(network, IPv4Network) and isinstance(subnet, IPv4Network) and subnet.prefixlen <= 30:
        assert all(map(_ENV_LINE.fullmatch, render(network, subnet, 1500).splitlines()))
    leased = _unless_invalid(Leased.read, values)
    if isinstance(leased, Leased):
        words = json.dumps([option.flag for option in docker_options(leased, None)])
        assert not re.search(r"[$`;&|\\]", words)
    _unless_invalid(DockerVersion.parse, text)


def _unless_invalid(read: Callable[..., object], *given: object) -> object:
    try:
        return read(*given)
    except Invalid:
        return None


def settings(data: bytes) -> None:
    """The command line and the environment: a usage error is one printable line."""
    words = [word.decode("utf-8", "replace") for word in _NAMES.split(data)]
    environ = dict(word[1:].split("=", 1) for word in words if word.startswith("@") and "=" in word)
    try:
        with redirect_stdout(StringIO()):
            load([word for word in words if not word.startswith("@")], environ)
    except UsageError as error:
        text = str(error)
        assert text
        assert text.isprintable(), ascii(text)
        assert len(text) < 2000, text
    except SystemExit as end:
        if end.code:
            raise AssertionError(f"ended with {end.code}") from end


def etcd_v2(data: bytes) -> None:
    """An answer or an event of etcd's v2 API: a name never leads out of the directory."""
    tree = V2KeySpace.below("/net")
    try:
        event = parse_event(data, "etcd")
        change = tree.change(event)
    except (RegistryUnavailable, RevisionCompacted):
        return
    name = change.name if isinstance(change, Gone) else change.record.name if change is not None else b""
    assert b"/" not in name
    assert tree.path(name).startswith(tree.subnets + "/")
    assert ".." not in tree.path(name).removeprefix(tree.subnets).split("/")[2:]
    for node in event.node.nodes:
        tree.record(node)


def netlink(data: bytes) -> None:
    """A datagram of the kernel's: every message in it can be read, or is refused as malformed."""
    try:
        found = list(frames(data))
    except ValueError:
        found = [(24, 0, 0, 0, data)]
    readers = (routes.decode_route, routes6.decode_route6, links.decode_link, links.decode_address, kernel_verdict)
    for *_, body in found:
        for read in readers:
            _unless_malformed(read, body)


def _unless_malformed(read: Callable[..., object], *given: object) -> None:
    try:
        read(*given)
    except ValueError:
        return


def http(data: bytes) -> None:
    """A request at one of the three doors: an answer or none, no defect of ours; and the next one is answered."""
    served = doors()
    served.defects.clear()
    check_answer(served.ask(data[:1], data[1:], SILENT_S))
    assert not served.defects, served.defects
    assert served.ask(data[:1], PROBE, PROBE_S).startswith(b"HTTP/1.1 ")


def log(data: bytes) -> None:
    """What goes into the log: one line, printable, of bounded length, and no secret."""
    text = data.decode("utf-8", "surrogateescape")
    for shown in (printable(text, FIELD_CHARS), safe("key", data), safe("why", text), safe("error", ValueError(text))):
        assert isinstance(shown, str)
        assert shown.isprintable()
        assert len(shown) <= 10 * FIELD_CHARS + 1  # an escape takes up to ten characters
    assert all(line.isprintable() for line in trace_lines(text))
    assert safe("etcd_password", text) in ("***", "")
    json.dumps(safe("nested", {text: [text, {text: {"token": text}}]}))


def _number(dotted: str) -> int:
    found = _DOTTED.fullmatch(dotted)
    assert found is not None, dotted
    total = 0
    for octet in found.groups():
        assert int(octet) < 256
        total = total * 256 + int(octet)
    return total


def state(data: bytes) -> None:
    """What is saved for a boot without etcd: what is read is written the same, and its peers are judged as any."""
    try:
        read = saved_state.decode_state(data)
    except Invalid:
        return
    assert saved_state.decode_state(saved_state.encode_state(read)) == read
    config(read.config)
    table = PeerTable(b"10.5.34.0-24")
    table.apply(Snapshot(read.peers, read.revision, read.cluster_id))
    _check_routes({str(dst): str(gateway) for dst, gateway in table.view(CONTEXT).peers.items()})


def etcd_v3_answer(data: bytes) -> None:
    """An answer of etcd's v3 API to each call of the daemon: it is used, or it is an error of the registry."""
    etcd_answers.v3(data, CONTEXT)


def etcd_v2_answer(data: bytes) -> None:
    """The same for the v2 API, with status and headers."""
    etcd_answers.v2(data, CONTEXT)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        *(key, value, config, peers, subnet_env, settings, etcd_v2, etcd_v2_answer, etcd_v3_answer),
        *(netlink, http, log, state),
    )
}
