"""Junk in etcd, rows F50 to F60 of the fault matrix: set aside with a reason, and nothing else changes."""

import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.measure import RouteMonitor
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.lab.testbed import (
    Journal,
    gateways,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
    wait_answer,
    why_not_ready,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
STRANGER, PEER, KEY = "192.168.14.99", "172.7.99.0/24", lease_key("172.7.99.0/24")
_numbers = count(1)


class Victims:
    """Two hosts of a cluster under attack, with the journal of each."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.store = store_of(lab)
        self.nodes = lab.nodes[:2]
        self.journals = [Journal(node) for node in self.nodes]

    def reasons(self, key: str) -> list[str]:
        """Return why a key below ``subnets/`` is in quarantine, as each host tells it."""
        return [journal.wait("peer.quarantined", key=key)["reason"] for journal in self.journals]

    def catch_up(self) -> None:
        """Wait until every change so far has been seen: by a key of no use that comes after it."""
        name = f"catch-up-{next(_numbers)}"
        self.store.put(f"{PREFIX}/subnets/{name}", "")
        assert self.reasons(name) == ["bad_key", "bad_key"]
        self.store.delete(f"{PREFIX}/subnets/{name}")


@contextmanager
def unmoved(lab: Lab, extra: Mapping[str, str] | None = None) -> Iterator[Victims]:
    """Prove that the routes of two hosts do not move, and that both stay ready; then clear the junk away."""
    victims = Victims(lab)
    own = {lease_key(node.subnet) for node in lab.nodes} | {f"{PREFIX}/config"}
    kept = victims.store.kvs()
    expected = [lab.gateways_for(node) | (extra or {}) for node in victims.nodes]
    try:
        with RouteMonitor(victims.nodes[0]) as first, RouteMonitor(victims.nodes[1]) as second:
            yield victims
            victims.catch_up()
            assert first.messages() == second.messages() == ()
        assert [gateways(node) for node in victims.nodes] == expected
        assert all(node.get("/readyz")[0] == 200 for node in lab.nodes)
        assert {key: kv for key, kv in victims.store.kvs().items() if key in own} == {
            key: kv for key, kv in kept.items() if key in own
        }
    finally:
        for key in victims.store.kvs():
            if key not in own:
                victims.store.delete(key.encode().decode("unicode_escape").encode("latin-1") if "\\" in key else key)
    victims.catch_up()
    for node, journal in zip(victims.nodes, victims.journals, strict=True):
        node.wait_routes(lab.gateways_for(node), 5)
        ended = {event["key"] for event in journal.events("peer.quarantine_ended")}
        assert ended >= {event["key"] for event in journal.events("peer.quarantined")} - {journal_last(journal)}


def journal_last(journal: Journal) -> str:
    """Return the key of the newest quarantine, whose end may not have been seen yet."""
    return str(journal.events("peer.quarantined")[-1]["key"])


def each_refused(victims: Victims, junk: Sequence[tuple[str, str | bytes, str]]) -> None:
    """Put (name below ``subnets/``, value, expected reason) and see each of them refused for that reason."""
    for name, value, _ in junk:
        victims.store.put(f"{PREFIX}/subnets/{name}", value)
    for name, _, reason in junk:
        assert victims.reasons(name) == [reason, reason], name


def test_f50_keys_that_are_none(unguarded: Lab, measured: Measured) -> None:
    """Keys that are no subnet, are nested, or lie beside ``subnets/``."""
    good = lease_value(STRANGER)
    with unmoved(unguarded) as victims:
        victims.store.put(f"{PREFIX}/subnets2/172.7.99.0-24", good)
        victims.store.put(f"{PREFIX}/subnets", good)
        each_refused(victims, [
            ("foo", "bar", "bad_key"),
            ("", good, "bad_key"),
            ("172.7.99.0-24/x", good, "bad_key"),
            ("x172.7.99.0-24", good, "bad_key"),
            ("172.7.99.0-24x", good, "bad_key"),
            ("172.7.099.0-24", good, "bad_key"),
            ("172x7x99x0-24", good, "bad_key"),
            ("172.7.99.0-024", good, "bad_key"),
        ])
        victims.store.put(f"{PREFIX}/subnets/{'9' * 1000}", good)
        assert victims.reasons("9" * 256 + "…") == ["bad_key", "bad_key"]
    measured("no route moved; each set aside as bad_key")


BAD_VALUES: list[tuple[bytes, str]] = [
    (b"", "not_json"),
    (b"null", "not_an_object"),
    (b"[]", "not_an_object"),
    (b'"x"', "not_an_object"),
    (b"{}", "bad_value"),
    (b'{"PublicIP":"192.168.14.98"', "not_json"),
    (b'{"PublicIP":NaN,"BackendType":"host-gw"}', "not_json"),
    (b'{"PublicIP":1e999,"BackendType":"host-gw"}', "not_json"),
    (b'{"PublicIP":3232239202,"BackendType":"host-gw"}', "bad_value"),
    (b'{"PublicIP":true,"BackendType":"host-gw"}', "bad_value"),
    (b'{"PublicIP":["192.168.14.98"],"BackendType":"host-gw"}', "bad_value"),
    (b'{"PublicIP":"192.168.14.98","BackendType":7}', "bad_value"),
    (b'{"PublicIP":"192.168.14.98 ","BackendType":"host-gw"}', "bad_value"),
    (b'{"PublicIP":"\\ud800","BackendType":"host-gw"}', "bad_value"),
    ('{"PublicIP":"192.168.14.98","BackendType":"host-gw"}'.encode("utf-16"), "not_json"),
    (b'{"PublicIP":"192.168.14.98\0","BackendType":"host-gw"}', "not_json"),
    (b"\xff\xfe\xfd", "not_json"),
]


def test_f51_bad_values(unguarded: Lab, measured: Measured) -> None:
    """On a known peer each bad value keeps the last good route; a good one then counts again."""
    store = store_of(unguarded)
    store.put(KEY, lease_value(STRANGER))
    for node in unguarded.nodes:
        node.wait_routes(unguarded.gateways_for(node) | {PEER: STRANGER})
    with unmoved(unguarded, {PEER: STRANGER}) as victims:
        for value, _ in BAD_VALUES:
            victims.store.put(KEY, value)
        assert set(victims.reasons("172.7.99.0-24")) <= {reason for _, reason in BAD_VALUES}
        victims.catch_up()
        victims.store.put(KEY, lease_value(STRANGER))
        for journal in victims.journals:
            journal.wait("peer.quarantine_ended", key="172.7.99.0-24")
    measured(f"{len(BAD_VALUES)} bad values: the last good route stayed, and a good value counts again")


def test_f51_names_that_come_twice(unguarded: Lab, measured: Measured) -> None:
    """Of a name that comes twice the last one counts, in whatever letters, as it does for flannel."""
    store, other = store_of(unguarded), "192.168.14.98"
    store.put(KEY, f'{{"PublicIP":"0.0.0.0","BackendType":"ipip","PublicIP":"{STRANGER}","backendtype":"host-gw"}}')
    for node in unguarded.nodes:
        node.wait_routes(unguarded.gateways_for(node) | {PEER: STRANGER})
    store.put(KEY, f'{{"PublicIP":"{STRANGER}","BackendType":"host-gw","publicip":"{other}"}}')
    for node in unguarded.nodes:
        node.wait_routes(unguarded.gateways_for(node) | {PEER: other})
    store.delete(KEY)
    for node in unguarded.nodes:
        node.wait_routes(unguarded.gateways_for(node))
    measured("the last one counts")


def test_f51_reason_of_each_bad_value(unguarded: Lab, measured: Measured) -> None:
    """On keys of their own none of the bad values makes a route, and the log gives the reason of each."""
    with unmoved(unguarded) as victims:
        junk = [(f"172.7.{100 + n}.0-24", value, reason) for n, (value, reason) in enumerate(BAD_VALUES)]
        each_refused(victims, junk)
    measured(f"{len(BAD_VALUES)} values on new keys: no route, each reason in the log")


def test_f51_bad_value_over_a_restart(unguarded: Lab, measured: Measured) -> None:
    """A daemon that starts while a peer's value is broken leaves the route that its last run put."""
    store, node = store_of(unguarded), unguarded.nodes[0]
    store.put(KEY, lease_value(STRANGER))
    node.wait_routes(unguarded.gateways_for(node) | {PEER: STRANGER})
    store.put(KEY, "broken")
    journal = Journal(node)
    with RouteMonitor(node) as monitor:
        node.kill()
        node.start()
        node.wait_ready()
        assert journal.wait("peer.quarantined", key="172.7.99.0-24")["reason"] == "not_json"
        assert monitor.messages() == ()
    store.delete(KEY)
    for each in unguarded.nodes:
        each.wait_routes(unguarded.gateways_for(each))
    measured("restart over a broken value: the route of the last run stayed")


def test_f52_monsters(unguarded: Lab, measured: Measured) -> None:
    """Deep nesting, endless numbers and megabytes are refused in little memory and with short log lines."""
    before = [resident_kib(node) for node in unguarded.nodes[:2]]
    with unmoved(unguarded) as victims:
        each_refused(victims, [
            ("172.7.91.0-24", b"[" * 60_000, "too_large"),
            ("172.7.92.0-24", b'{"PublicIP":' * 100_000, "too_large"),
            ("172.7.93.0-24", b'{"PublicIP":' + b"7" * 5000 + b"}", "not_json"),
            ("172.7.94.0-24", b'{"PublicIP":"' + b"x" * 1_400_000 + b'"}', "too_large"),
            ("172.7.95.0-24", lease_value(STRANGER)[:-1] + ',"BackendData":"' + "x" * 1_400_000 + '"}', "too_large"),
        ])
        longest = max(len(line) for journal in victims.journals for line in journal.text().splitlines())
    grown = max(resident_kib(node) - kib for node, kib in zip(unguarded.nodes, before, strict=False))
    assert longest < 1024
    assert grown < 32 * 1024
    measured(f"memory grew by {grown / 1024:.1f} MiB; longest log line {longest} characters")


def resident_kib(node: LabHost) -> int:
    """Return the memory that a node's daemon occupies."""
    status = Path(f"/proc/{pid_of(node)}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


def test_f53_other_address_family(unguarded: Lab, measured: Measured) -> None:
    """Dual-stack keys, IPv6 addresses and missing ones."""
    with unmoved(unguarded) as victims:
        each_refused(victims, [
            ("172.7.99.0-24&fd00:7:99::-64", lease_value("fd00::99"), "bad_value"),
            ("172.7.98.0-24", lease_value("fd00::98"), "bad_value"),
            ("172.7.97.0-24", '{"BackendType":"host-gw"}', "bad_value"),
            ("172.7.96.0-24", '{"PublicIP":null,"PublicIPv6":"fd00::96","BackendType":"host-gw"}', "bad_value"),
            ("fd00:7:99::-64", lease_value(STRANGER), "bad_key"),
        ])
    measured("set aside; no route moved")


def test_f54_f55_subnets_that_would_capture_traffic(unguarded: Lab, measured: Measured) -> None:
    """The default route, the network itself and its surroundings, the LAN, parts of our own subnet, odd lengths."""
    good = lease_value(STRANGER)
    own, peer = unguarded.nodes[0].subnet, unguarded.nodes[1].subnet
    with unmoved(unguarded) as victims:
        each_refused(victims, [
            ("0.0.0.0-0", good, "outside_network"),
            ("0.0.0.0-1", good, "outside_network"),
            ("128.0.0.0-1", good, "outside_network"),
            ("172.7.0.0-16", good, "outside_network"),
            ("172.0.0.0-8", good, "outside_network"),
            ("172.8.9.0-24", good, "outside_network"),
            ("192.168.14.0-24", good, "outside_network"),
            ("192.168.14.12-32", good, "outside_network"),
            ("172.7.99.1-24", good, "bad_key"),
            ("172.7.99.0-31", good, "bad_length"),
            ("172.7.99.0-32", good, "bad_length"),
            ("172.7.99.0-33", good, "bad_key"),
        ])
        # Half of one's own subnet, and half of a peer's: each host names what it is to itself.
        victims.store.put(f"{PREFIX}/subnets/172.7.21.0-25", good)
        victims.store.put(f"{PREFIX}/subnets/172.7.20.0-22", good)
        assert (own, peer) == ("172.7.21.0/24", "172.7.22.0/24")
        assert victims.reasons("172.7.21.0-25") == ["overlaps_own", "overlaps_older"]
        assert victims.reasons("172.7.20.0-22") == ["overlaps_own", "overlaps_own"]
    measured("all refused; no route moved")


def test_f56_gateways_that_are_none(unguarded: Lab, measured: Measured) -> None:
    """Gateways that are own, unspecified, loopback, multicast, broadcast, off the link, or inside the network."""
    gateways_ = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"]  # noqa: S104 - junk
    with unmoved(unguarded) as victims:
        each_refused(victims, [
            *((f"172.7.{90 + n}.0-24", lease_value(gateway), "bad_gateway") for n, gateway in enumerate(gateways_)),
            ("172.7.80.0-24", lease_value("192.168.14.255"), "gateway_off_link"),
            ("172.7.81.0-24", lease_value("192.168.14.0"), "gateway_off_link"),
            ("172.7.82.0-24", lease_value("192.168.15.9"), "gateway_off_link"),
            ("172.7.83.0-24", lease_value("8.8.8.8"), "gateway_off_link"),
            ("172.7.84.0-24", lease_value("172.7.84.1"), "gateway_off_link"),  # inside the subnet itself
            ("172.7.86.0-24", lease_value("172.7.99.1"), "gateway_off_link"),
        ])
        victims.store.put(f"{PREFIX}/subnets/172.7.85.0-24", lease_value("172.7.22.2"))  # in the second host's subnet
        assert victims.reasons("172.7.85.0-24") == ["gateway_off_link", "bad_gateway"]
    measured("all refused; no route moved")


def test_f56_gateway_that_is_ourselves(unguarded: Lab, measured: Measured) -> None:
    """A lease with a host's own address: no route on that host, a route on the others."""
    first, second, third = unguarded.nodes
    store, journal = store_of(unguarded), Journal(first)
    with RouteMonitor(first) as monitor:
        store.put(KEY, lease_value(first.address.ip))
        assert journal.wait("peer.quarantined", key="172.7.99.0-24")["reason"] == "own_elsewhere"
        for node in (second, third):
            node.wait_routes(unguarded.gateways_for(node) | {PEER: str(first.address.ip)})
        store.delete(KEY)
        journal.wait("peer.quarantine_ended", key="172.7.99.0-24")
        assert monitor.messages() == ()
    measured("refused on that host, a route on the others")


def test_f57_overlapping_peers(unguarded: Lab, measured: Measured) -> None:
    """Of two leases that overlap the older one counts, on every host the same, on one that starts later too, and
    whoever was written last; the younger one when the older is gone."""
    store, old, young = store_of(unguarded), "172.7.96.0/23", "172.7.97.0/24"
    journals = [Journal(node) for node in unguarded.nodes]
    store.put(lease_key(old), lease_value(STRANGER))
    store.put(lease_key(young), lease_value("192.168.14.98"))
    store.put(lease_key(old), lease_value(STRANGER))
    late = unguarded.nodes[2]
    late.kill()
    late.start()
    late.wait_ready()
    for node, journal in zip(unguarded.nodes, journals, strict=True):
        node.wait_routes(unguarded.gateways_for(node) | {old: STRANGER})
        assert journal.wait("peer.quarantined", key="172.7.97.0-24")["reason"] == "overlaps_older"
    store.delete(lease_key(old))
    for node in unguarded.nodes:
        node.wait_routes(unguarded.gateways_for(node) | {young: "192.168.14.98"})
    store.delete(lease_key(young))
    for node in unguarded.nodes:
        node.wait_routes(unguarded.gateways_for(node))
    measured("the older one on all three hosts; the younger when it had gone")


def test_f58_several_leases_of_one_host(unguarded: Lab, measured: Measured) -> None:
    """Ten subnets with one address are legal: all are routes."""
    store = store_of(unguarded)
    subnets = {f"172.7.{n}.0/24": STRANGER for n in range(101, 111)}
    for subnet in subnets:
        store.put(lease_key(subnet), lease_value(STRANGER))
    for node in unguarded.nodes:
        node.wait_routes(unguarded.gateways_for(node) | subnets)
    store.txn(*(f'del "{lease_key(subnet)}"' for subnet in subnets))
    for node in unguarded.nodes:
        node.wait_routes(unguarded.gateways_for(node))
    measured("ten routes through one gateway")


def test_f59_keys_that_forge_log_lines(unguarded: Lab, measured: Measured) -> None:
    """Newlines, terminal commands, format signs and broken UTF-8 in a key stay inside one escaped line."""
    names: list[bytes] = [
        b"\x1b[31mred\x1b[0m", b'x\n{"timestamp":"0","level":"info","event":"daemon.ready"}', b"%s%n%d",
        b"\xff\xfe\x80", "\u202e172.7.99.0-24".encode(), b"{pid}",
    ]
    with unmoved(unguarded) as victims:
        for name in names:
            victims.store.put(f"{PREFIX}/subnets/".encode() + name, lease_value(STRANGER))
        victims.catch_up()
        for journal in victims.journals:
            assert len(journal.events("peer.quarantined", reason="bad_key")) >= len(names)
            assert journal.events("daemon.ready") == []
            assert all(line.isprintable() and line.isascii() for line in journal.text().splitlines())
    measured("one escaped line each; no event forged")


# F60: the network configuration


# What consumers source as root: these names, and values of these characters alone.
CHARSET = re.compile(r"(FLANNEL_(NETWORK|SUBNET|MTU|IPMASQ)=([0-9a-fA-F.:/]+|true|false)\n)+")

BAD_CONFIGS = [
    ("{", "JSON"),
    ("[]", "object"),
    ("$(reboot)", "JSON"),
    ('{"Network":167772160,"Backend":{"Type":"host-gw"}}', "Network"),
    ('{"Network":true,"Backend":{"Type":"host-gw"}}', "Network"),
    ('{"Network":"172.7.0.0/33","Backend":{"Type":"host-gw"}}', "172.7.0.0/33"),
    ('{"Network":"fd00::/64","Backend":{"Type":"host-gw"}}', "fd00::/64"),
    ('{"Network":"172.7.0.0/16","SubnetLen":-1,"Backend":{"Type":"host-gw"}}', "SubnetLen"),
    ('{"Network":"172.7.0.0/16","SubnetLen":1e3,"Backend":{"Type":"host-gw"}}', "SubnetLen"),
    ('{"Network":"172.7.0.0/16","SubnetLen":"24","Backend":{"Type":"host-gw"}}', "SubnetLen"),
    ('{"Network":"10.7.0.0/16","SubnetMin":"10.7.9.0","SubnetMax":"10.7.8.0","Backend":{"Type":"alloc"}}', "SubnetMin"),
    ('{"Network":"172.7.0.0/16","SubnetMin":"172.7.9.1","Backend":{"Type":"host-gw"}}', "SubnetMin"),
    ('{"Network":"172.7.0.0/16","EnableIPv6":true,"IPv6Network":"fe80::/48","Backend":{"Type":"alloc"}}', "fe80"),
]


def test_f60_configuration_missing_then_bad_then_right(site: Lab, measured: Measured) -> None:
    """No or a bad configuration is waited out: the reason on ``/readyz``, and once in the log; a cure works at once."""
    node, store = site.nodes[0], store_of(site)
    journal = Journal(node)
    store.delete(f"{PREFIX}/config")
    launch(node)
    wait_answer(node)
    until(lambda: f"{PREFIX}/config" in why_not_ready(node), "the missing key is named")
    for text, named in BAD_CONFIGS:
        store.put(f"{PREFIX}/config", text)
        until(lambda named=named: "not usable" in (why := why_not_ready(node)) and named in why, f"{text} is refused")
    assert node.get("/healthz")[0] == 200
    assert store.leases() == {}
    assert len(journal.events("config.missing")) == 1
    said = [event["condition"] for event in journal.events("config.invalid")]
    assert len(said) == len(set(said))
    store.put(f"{PREFIX}/config", '{"network":"172.7.0.0/16","BACKEND":{"type":"HOST-GW","Junk":[1]},"Other":{}}')
    took_s = node.wait_ready(5)
    assert node.subnet == "172.7.21.0/24"
    assert len(journal.events("condition.resolved", topic="config")) == 1
    assert CHARSET.fullmatch(node.subnet_file.read_text())
    measured(f"{len(BAD_CONFIGS)} refused, each with its reason; ready {took_s:.1f} s after a good one")


def test_f60_configuration_poisoned_at_run_time(unguarded: Lab, measured: Measured) -> None:
    """The same documents under a running daemon: nothing moves, and the file that shells read stays as it is."""
    store, files = store_of(unguarded), [node.subnet_file.read_bytes() for node in unguarded.nodes]
    victims = Victims(unguarded)
    with RouteMonitor(victims.nodes[0]) as first, RouteMonitor(victims.nodes[1]) as second:
        for text, _ in BAD_CONFIGS:
            store.put(f"{PREFIX}/config", text)
        store.put(f"{PREFIX}/config", CONFIG)
        victims.catch_up()
        assert first.messages() == second.messages() == ()
    assert all(node.get("/readyz")[0] == 200 for node in unguarded.nodes)
    assert [node.subnet_file.read_bytes() for node in unguarded.nodes] == files
    assert all(CHARSET.fullmatch(text.decode()) for text in files)
    measured(f"{len(BAD_CONFIGS)} documents: no route moved, subnet.env as it was")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("values", [100, pytest.param(340, marks=pytest.mark.thorough)])
def test_f115_megabytes_of_foreign_values_and_names(site: Lab, values: int, measured: Measured) -> None:
    """Peers are found among megabytes of junk, under names of subnets and others, with long names that come and go: the
    most memory that the daemon has had is what it has without, and a little; so it is after a start among all that."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.99.0/24"), lease_value("192.168.14.99"))
    launch(node)
    node.wait_ready()
    node.wait_routes({"172.7.99.0/24": "192.168.14.99"})
    empty_kib = _peak_kib(node)
    for number in range(values):
        name = f"172.7.{100 + number}.0-24" if number < 100 else f"172.7.{number - 90}.128-25"
        store.put(f"{PREFIX}/subnets/{name if number % 4 else f'junk-{number}'}", b"x" * 1_400_000)
        if number % 4 == 0:
            key = f"{PREFIX}/subnets/{number}{'n' * 1_000_000}"
            store.txn(f'put "{key}" ""')
            store.txn(f'del "{key}"')
    store.put(lease_key("172.7.98.0/24"), lease_value("192.168.14.98"))
    wanted = {"172.7.98.0/24": "192.168.14.98", "172.7.99.0/24": "192.168.14.99"}
    node.wait_routes(wanted, 60)
    journal = Journal(node)
    os.kill(pid_of(node), signal.SIGHUP)  # everything is listed
    journal.wait("daemon.reloaded")
    store.put(lease_key("172.7.98.0/24"), lease_value("192.168.14.97"))
    wanted["172.7.98.0/24"] = "192.168.14.97"
    node.wait_routes(wanted, 60)
    watched_kib = _peak_kib(node) - empty_kib
    node.kill()
    launch(node)
    node.wait_ready(60)
    node.wait_routes(wanted, 60)
    started_kib = _peak_kib(node) - empty_kib
    measured(f"{values} values of 1.4 MB: {watched_kib >> 10} MB more while they come, {started_kib >> 10} at a start")
    assert max(watched_kib, started_kib) <= 60 * 1024
    assert not journal.events("daemon.crashed")


def _peak_kib(node: LabHost) -> int:
    status = Path(f"/proc/{pid_of(node)}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
