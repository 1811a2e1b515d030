"""The checks of the observers bite: each gets a history with one thing wrong, and says which invariant that breaks."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sim.spec import address, network
from tests.support.failpoints import PLAN
from tests.support.lab.testbed import POISON
from tests.support.observers import actions
from tests.support.observers.actions import FILE, RUN, SIGNAL, Action
from tests.support.observers.record import (
    DAEMON,
    OTHER,
    Answer,
    Change,
    Host,
    OtherEvent,
    Packet,
    Record,
    RouteEvent,
    Run,
    Version,
)
from tests.support.observers.verdict import counted, violations

PREFIX = "/coreos.com/network"
CONFIG = b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
ENV = b"FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
FILE_PATH = "/tmp/lab/n1/subnet.env"  # noqa: S108
LAN = 2


def key(subnet: str) -> str:
    return f"{PREFIX}/subnets/{subnet.replace('/', '-')}"


def value(gateway: str) -> bytes:
    return json.dumps({"PublicIP": gateway, "PublicIPv6": None, "BackendType": "host-gw"}).encode()


def put(subnet: str, gateway: str, *, version: int = 1, lease: int = 7, revision: int = 10) -> Change:
    return Change(5.0, key(subnet), value(gateway), revision, version, lease)


def deleted(subnet: str) -> Change:
    return Change(5.0, key(subnet), None, 11)


def route(dst: str, gateway: str = "192.168.14.22", *, by: str = DAEMON, **changes: object) -> RouteEvent:
    facts = {"deleted": False, "replaced": False, "table": 254, "protocol": 103, "link": LAN, "metric": 0} | changes
    return RouteEvent(5.0, by, dst=network(dst), gateway=address(gateway), **facts)  # type: ignore[arg-type]


def good() -> Record:
    """A host that has its lease and its file, and two peers of which one has come just now."""
    host = Host("n1", FILE_PATH)
    host.addresses = {(address("192.168.14.21"), 24, LAN), (address("172.7.21.1"), 24, 3), (address("127.0.0.1"), 8, 1)}
    host.routes = [route("172.7.22.0/24", by=OTHER), route("10.0.0.0/8", by=OTHER, protocol=4)]
    host.route_events = [route("172.7.23.0/24", "192.168.14.23"), route("10.1.0.0/16", by=OTHER, protocol=4)]
    host.versions = [Version(1.0, "there", ENV), Version(4.0, "renamed", ENV.replace(b"1500", b"1400"))]
    host.answers = [Answer(5.0, "/readyz", 503, 0.001), Answer(5.2, "/healthz", 200, 0.001)]
    host.runs = [Run(99, 0.0, 40 << 20, 20, 10, ended_s=9.0, code=0)]
    host.log = '{"event":"daemon.started"}\n'
    record = Record([host])
    before = [Change(0.0, f"{PREFIX}/config", CONFIG, 1, 1), put("172.7.21.0/24", "192.168.14.21", revision=2)]
    before.append(put("172.7.22.0/24", "192.168.14.22", lease=8, revision=3))
    record.history.before = {change.key: change for change in before}
    record.history.changes = [put("172.7.23.0/24", "192.168.14.23")]
    record.actions = (Action(8.5, SIGNAL, ("99", "15")),)
    return record


def test_a_good_record_has_no_finding() -> None:
    """Nothing is said where nothing is wrong, and what there was to check is counted."""
    assert violations(good()) == []
    assert counted(good())["route messages"] == 2
    assert counted(good())["changes in etcd"] == 1


Spoil = Callable[[Record], object]


def changes(*more: Change) -> Spoil:
    return lambda record: record.history.changes.extend(more)


TUNNEL = 9


def tunnel(event: RouteEvent) -> Spoil:
    """A host has a tunnel, and a route through it."""

    def spoil(record: Record) -> None:
        record.hosts[0].tunnels.add(TUNNEL)
        record.hosts[0].route_events.append(event)

    return spoil


def routes(*more: RouteEvent) -> Spoil:
    return lambda record: record.hosts[0].route_events.extend(more)


def version(content: bytes, how: str = "renamed") -> Spoil:
    return lambda record: record.hosts[0].versions.append(Version(6.0, how, content))


def run(**facts: object) -> Spoil:
    def spoil(record: Record) -> None:
        for name, fact in facts.items():
            setattr(record.hosts[0].runs[0], name, fact)

    return spoil


def unasked(**facts: object) -> Spoil:
    def spoil(record: Record) -> None:
        record.actions = ()
        run(**facts)(record)

    return spoil


def log(line: str) -> Spoil:
    return lambda record: setattr(record.hosts[0], "log", line + "\n")


def lost_packet(record: Record) -> None:
    record.hosts[0].route_events = record.hosts[0].route_events[:1]
    record.history.changes = []
    record.packets = [Packet(5.0, "n1", "n2", arrived=True), Packet(5.1, "n1", "n2", arrived=False)]


BAD: dict[str, tuple[str, Spoil]] = {
    "a subnet outside of the network": ("I2", changes(put("172.8.1.0/24", "192.168.14.21"))),
    "the first subnet, below SubnetMin": ("I2", changes(put("172.7.0.0/24", "192.168.14.21"))),
    "a subnet of another length": ("I2", changes(put("172.7.64.0/25", "192.168.14.21"))),
    "a subnet that overlaps another length": (
        "I2", changes(put("172.7.96.0/22", "192.168.14.99", lease=0), put("172.7.97.0/24", "192.168.14.21"))
    ),
    "a key of another host written over": ("I3", changes(put("172.7.22.0/24", "192.168.14.21", version=2))),
    "a key deleted by nobody": ("I3", changes(deleted("172.7.22.0/24"))),
    "a foreign route deleted": ("I6", routes(route("10.0.0.0/8", protocol=4, deleted=True))),
    "a foreign route replaced": (
        "I6", routes(route("172.7.30.0/24", by=OTHER, protocol=4), route("172.7.30.0/24", replaced=True))
    ),
    "a boot route with another gateway replaced": (
        "I6",
        routes(route("172.7.30.0/24", "192.168.14.9", by=OTHER, protocol=3), route("172.7.30.0/24", replaced=True)),
    ),
    "a route without our protocol": ("I6", routes(route("172.7.30.0/24", protocol=3))),
    "a route in another table": ("I6", routes(route("172.7.30.0/24", table=100))),
    "an address touched": ("I6", lambda r: r.hosts[0].other_events.append(OtherEvent(5.0, DAEMON, "address"))),
    "the default route": ("I7", routes(route("0.0.0.0/0"))),
    "a route outside of the network": ("I7", routes(route("172.8.1.0/24"))),
    "a route to the whole network": ("I7", routes(route("172.7.0.0/16"))),
    "half of the own subnet": ("I7", routes(route("172.7.21.128/25"))),
    "a gateway that is not on the link": ("I7", routes(route("172.7.30.0/24", "192.168.15.1"))),
    "a gateway on another link": ("I7", routes(route("172.7.30.0/24", link=3))),
    "ourselves as the gateway": ("I7", routes(route("172.7.30.0/24", "192.168.14.21"))),
    "a multicast gateway": ("I7", routes(route("172.7.30.0/24", "224.0.0.1"))),
    "a gateway inside of the subnet": ("I7", routes(route("172.7.30.0/24", "172.7.30.1"))),
    "a tunnel to another address": ("I7", tunnel(route("172.7.30.0/24", "172.7.30.1", link=TUNNEL))),
    "a packet lost for no reason": ("I13", lost_packet),
    "half a file": ("I16", version(ENV[:60])),
    "a file without an end": ("I16", version(ENV[:-1])),
    "a file written in place": ("I16", version(ENV, "written")),
    "a word that a shell would run": ("I16", version(ENV.replace(b"1500", b"$(reboot)"))),
    "a subnet outside of the file's network": ("I16", version(ENV.replace(b"172.7.21", b"172.8.21"))),
    "a slow end": ("I18", run(ended_s=20.0)),
    "another status": ("I19", lambda r: r.hosts[0].answers.append(Answer(5.0, "/healthz", 500, 0.1))),
    "exit code 0 of its own will": ("I20", unasked(code=0)),
    "a crash": ("I20", run(code=-11)),
    "an exit code that nobody knows": ("I20", unasked(code=3)),
    "too much memory": ("I21", run(anon_bytes=70 << 20)),
    "too many descriptors": ("I21", run(descriptors=100)),
    "too many threads": ("I21", run(threads=40)),
    "an endless line": ("I21", log("x" * 5000)),
    "a password in the log": ("I22", log(f'{{"event":"x","y":"{POISON}"}}')),
    "a password in an answer": ("I22", lambda r: r.hosts[0].answers.append(Answer(5.0, "/readyz", 503, 0.1, POISON))),
    "an exception": ("I23", log("Traceback (most recent call last):")),
    "an exception in an event": ("I23", log('{"event":"x","exception":"ValueError"}')),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_found(what: str) -> None:
    """One thing wrong gives findings, of that invariant alone."""
    invariant, spoil = BAD[what]
    record = good()
    spoil(record)
    assert {finding.invariant for finding in violations(record)} == {invariant}


def excuse(*words: Action) -> Spoil:
    return lambda record: setattr(record, "actions", record.actions + words)


def run_of(*words: str, at_s: float = 4.9) -> Action:
    return Action(at_s, RUN, words)


EXCUSED: dict[str, tuple[str, Action]] = {
    "the test deletes the key": ("a key deleted by nobody", run_of("etcdctl", "del", "--", key("172.7.22.0/24"))),
    "the test deletes all below": ("a key deleted by nobody", run_of("etcdctl", "del", "--prefix", PREFIX)),
    "the test revokes the lease": ("a key deleted by nobody", run_of("etcdctl", "lease", "revoke", "8")),
    "an operator's command": ("a key deleted by nobody", run_of("-m", "pyflanneld", "leases", "delete")),
    "the test writes over the key": (
        "a key of another host written over",
        run_of("etcdctl", "put", "--", key("172.7.22.0/24"), value("192.168.14.21").decode()),
    ),
    "the test writes the file": ("a file written in place", Action(5.9, FILE, (FILE_PATH,))),
    "a shell writes the file": ("half a file", run_of("sh", "-c", f"echo >{FILE_PATH}", at_s=5.9)),
    "the process was frozen": ("a slow end", Action(8.6, SIGNAL, ("99", "19"))),
    "a failpoint ends it": ("exit code 0 of its own will", run_of(f"{PLAN}=ready=signal:TERM", f"-f={FILE_PATH}")),
    "the test killed it": ("a crash", Action(8.6, SIGNAL, ("99", "11"))),
    "the test loses packets": ("a packet lost for no reason", run_of("nft", "table inet cut")),
}


@pytest.mark.parametrize("what", EXCUSED)
def test_what_the_test_does_itself_is_not_held_against_the_daemon(what: str) -> None:
    """The same history is no finding when the test has done it."""
    bad, action = EXCUSED[what]
    record = good()
    BAD[bad][1](record)
    assert violations(record) != []
    excuse(action)(record)
    assert violations(record) == []


@pytest.mark.parametrize(
    "action",
    [
        run_of("etcdctl", "del", "--", key("172.7.99.0/24")), run_of("etcdctl", "get", key("172.7.22.0/24")),
        run_of("etcdctl", "lease", "revoke", "7"), run_of("-m", "pyflanneld", "--iface", "eth1"),
        run_of("etcdctl", "del", "--", key("172.7.22.0/24"), at_s=20.0),
    ],
    ids=["another key", "a look", "another lease", "the daemon", "later"],
)  # fmt: skip
def test_what_the_test_does_otherwise_is_no_excuse(action: Action) -> None:
    """A deletion is explained only by what can have deleted that key."""
    record = good()
    record.history.changes.append(deleted("172.7.22.0/24"))
    excuse(action)(record)
    assert [finding.invariant for finding in violations(record)] == ["I3"]


@pytest.mark.parametrize("lease", [8, 9])
def test_what_a_backup_tells_of_the_past_is_no_news(lease: int) -> None:
    """Another history that knows a lease of this one is its past; one that does not is all new."""
    record = good()
    record.history.began_at = 12
    record.history.before[key("172.7.30.0/24")] = put("172.7.30.0/24", "192.168.14.30", lease=8, revision=9)
    record.history.retold = [len(record.history.changes)]
    record.history.changes += [put("172.7.30.0/24", "192.168.14.30", lease=lease, revision=9), deleted("172.7.30.0/24")]
    found = [finding.what for finding in violations(record)]
    assert found == ([] if lease == 8 else [f"{key('172.7.30.0/24')} was deleted, and not by the test"])


@pytest.mark.parametrize("network", ["172.7.0.0/16", "10.7.0.0/16"])
def test_a_host_may_give_back_what_the_network_has_no_place_for(network: str) -> None:
    """Its own key, and not while it fits."""
    record = good()
    moved = json.dumps({"Network": network, "Backend": {"Type": "host-gw"}}).encode()
    record.history.before[key("172.7.29.0/24")] = put("172.7.29.0/24", "192.168.14.21")
    record.history.changes += [Change(5.0, f"{PREFIX}/config", moved, 11, 2), deleted("172.7.29.0/24")]
    found = [finding.what for finding in violations(record)]
    reproach = f"{key('172.7.29.0/24')} was deleted, and not by the test"
    assert (reproach in found) == (network == "172.7.0.0/16")


def test_a_host_may_write_its_own_key_again() -> None:
    """Another address of the same host, and a spoiled value on the host's etcd lease, are its own to mend."""
    record = good()
    record.hosts[0].addresses.add((address("192.168.14.31"), 24, LAN))
    record.history.changes += [
        put("172.7.21.0/24", "192.168.14.31", version=2), Change(5, key("172.7.21.0/24"), b"spoiled", 12, 3, 7),
        put("172.7.21.0/24", "192.168.14.31", version=4),
    ]  # fmt: skip
    assert violations(record) == []


def test_a_route_of_the_go_daemon_may_be_taken_over() -> None:
    """The same route without a mark may be replaced by one with ours."""
    record = good()
    routes(route("172.7.30.0/24", by=OTHER, protocol=3), route("172.7.30.0/24", replaced=True))(record)
    assert violations(record) == []


def test_a_subnet_that_another_has_got_may_be_routed() -> None:
    """Between a loss and the new file, the peer that got our subnet is routed: its key says that it is not ours."""
    record = good()
    record.history.changes.append(put("172.7.21.0/24", "192.168.14.99", version=2))
    routes(route("172.7.21.0/24", "192.168.14.99"))(record)
    record.hosts[0].addresses.discard((address("172.7.21.1"), 24, 3))
    assert violations(record) == []


def test_a_wish_is_no_subnet() -> None:
    """What the file names before the host has a lease may be somebody else's, and be routed."""
    record = good()
    del record.history.before[key("172.7.21.0/24")]
    record.hosts[0].addresses.discard((address("172.7.21.1"), 24, 3))
    routes(route("172.7.0.0/17", "192.168.14.99"))(record)
    assert violations(record) == []


def test_monsters_are_read() -> None:
    """No value of a key stops the checks."""
    record = good()
    for content in (b"[" * 100_000, b"\xff", b"", b"null", b'{"PublicIP":5}', b'{"Network":[]}'):
        record.history.changes.append(Change(5.0, f"{PREFIX}/config", content, 12, 2))
        record.history.changes.append(Change(5.0, key("172.7.99.0/24"), content, 12, 1))
    assert violations(record) == []


# What the observers see


def test_actions_are_recorded() -> None:
    """A program, a signal and a file are recorded without the test's help; what is only read is not."""
    actions.listen()
    began = time.monotonic()
    process = subprocess.Popen(["sleep", "60"])
    os.kill(process.pid, signal.SIGTERM)
    process.wait()
    with Path(os.devnull).open("w"), Path("/proc/self/stat").open():
        pass
    heard = actions.since(began)
    assert (RUN, ("sleep", "60")) in [(action.kind, action.words) for action in heard]
    assert (SIGNAL, (str(process.pid), "15")) in [(action.kind, action.words) for action in heard]
    assert [action.words for action in heard if action.kind == FILE] == [(os.devnull,)]
    assert Record([], actions=heard).signals(process.pid)[0][1] == signal.SIGTERM
