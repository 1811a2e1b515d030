"""More of everything than usual, rows F66, F70 and F74 of the fault matrix: flapping links, leases, foreign routes."""

import re
import time
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import PREFIX
from pyflanneld.lab.measure import RouteMonitor, delay_ms
from pyflanneld.lab.node import LabHost
from pyflanneld.lab.run import until
from tests.faults.conftest import Measured
from tests.support.lab.testbed import (
    REPAIR_S,
    Journal,
    Store,
    gateways,
    http_answer,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
)
from tests.support.network.namespaces import Namespace

pytestmark = [pytest.mark.etcd, pytest.mark.netns, pytest.mark.thorough]
STRANGER = "192.168.14.99"
BGP = 186  # RTPROT_BGP


def metrics(namespace: str, port: int) -> dict[str, float]:
    """Return what a program on a host tells Prometheus, by name with labels."""
    answer = http_answer(namespace, port, b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").decode()
    return {name: float(number) for name, number in re.findall(r"^([^#\s]\S*) (\d\S*)\r?$", answer, re.MULTILINE)}


def of_daemon(node: LabHost, start: str) -> float:
    """Return the sum of the daemon's series that begin so."""
    return sum(number for name, number in metrics(node.namespace, 2402).items() if name.startswith(start))


def cpu_s(node: LabHost) -> float:
    """Return the processor time that a node's daemon has used, in seconds."""
    fields = Path(f"/proc/{pid_of(node)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def peak_mib(node: LabHost) -> float:
    """Return the most memory that a node's daemon has occupied."""
    status = Path(f"/proc/{pid_of(node)}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) / 1024


# F66


@pytest.mark.timeout(240)
def test_f66_interface_flaps_for_a_minute(unguarded: Lab, measured: Measured) -> None:
    """An interface that goes up and down ten times a second for a minute: two looks a second at most, few words, and
    the end counts."""
    node, journal = unguarded.nodes[0], Journal(unguarded.nodes[0])
    cpu, rounds, pid = cpu_s(node), of_daemon(node, "pyflanneld_reconcile_duration_seconds_count"), pid_of(node)
    began = time.monotonic()
    for _ in range(6):  # a program has a quarter of a minute
        node.exec("sh", "-c", "for n in $(seq 100); do ip link set eth1 down; sleep 0.05; "
                              "ip link set eth1 up; sleep 0.05; done")
    took_s = time.monotonic() - began
    back_s = node.wait_routes(unguarded.gateways_for(node), REPAIR_S + 2)
    rounds = of_daemon(node, "pyflanneld_reconcile_duration_seconds_count") - rounds
    cpu = cpu_s(node) - cpu
    until(lambda: node.get("/readyz")[0] == 200, "ready again", REPAIR_S + 2)
    assert pid_of(node) == pid
    assert rounds <= 2 * took_s + 20
    lines = len(journal.text().splitlines())
    assert lines < 2 * 2 * took_s + 60
    measured(
        f"600 flaps in {took_s:.0f} s: {rounds / took_s:.1f} rounds a second, {cpu:.1f} s of processor time, "
        f"{lines} log lines; routes back after {back_s:.2f} s"
    )


# F70


LEASES = 10_000


def put_leases(store: Store, subnets: list[IPv4Network]) -> None:
    texts = (lease_value(f"192.168.14.{30 + number % 200}").replace('"', '\\"') for number in range(len(subnets)))
    store.txn(*(f'put "{lease_key(subnet)}" "{text}"' for subnet, text in zip(subnets, texts, strict=True)))


def asked_for_ttl(lab: Lab) -> float:
    """Return how often anybody has asked etcd for a lease's time to live."""
    wanted = 'grpc_server_started_total{grpc_method="LeaseTimeToLive"'
    [asked] = [n for name, n in metrics(lab.etcd.namespace, 2379).items() if name.startswith(wanted)]
    return asked


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guard", ["false", "true"], ids=["without guard", "with guard"])
def test_f70_ten_thousand_leases_come_and_go(site: Lab, measured: Measured, guard: str) -> None:
    """Ten thousand leases come in one burst, and all but ten go: the routes follow within 30 s each (with the guard,
    after two more lists); the watch never breaks, nobody's time to live is asked for, memory stays in bounds."""
    node, store = site.nodes[0], store_of(site)
    store.put(f"{PREFIX}/config", '{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"host-gw"}}')
    launch(node, withdraw_guard=guard)
    node.wait_ready()
    journal, pid, asked = Journal(node), pid_of(node), asked_for_ttl(site)
    own = IPv4Network(node.subnet)
    subnets = [net for net in IPv4Network("10.64.0.0/10").subnets(new_prefix=24) if not net.overlaps(own)][:LEASES]
    began = time.monotonic()
    put_leases(store, subnets)
    written_s = time.monotonic() - began
    until(lambda: len(gateways(node)) == LEASES, "all have routes", 60, 0.2)
    there_s = time.monotonic() - began
    assert set(gateways(node)) == set(map(str, subnets))
    began = time.monotonic()
    store.txn(*(f'del "{lease_key(subnet)}"' for subnet in subnets[10:]))
    deleted_s = time.monotonic() - began
    until(lambda: len(gateways(node)) == 10, "ten are left", 120, 0.2)
    gone_s = time.monotonic() - began
    assert set(gateways(node)) == set(map(str, subnets[:10]))
    asked = asked_for_ttl(site) - asked
    broken = of_daemon(node, 'pyflanneld_peer_lists_total{reason="watch_ended"') + of_daemon(
        node, 'pyflanneld_peer_lists_total{reason="compacted"'
    )
    assert broken == 0
    assert asked == 0
    assert there_s - written_s < 30
    if guard == "false":
        assert gone_s - deleted_s < 30
    assert peak_mib(node) < 150
    assert pid_of(node) == pid
    journal.check()
    measured(
        f"all routes {there_s - written_s:.1f} s after the last of {LEASES} leases, all but ten gone "
        f"{gone_s - deleted_s:.1f} s after the last deletion; {peak_mib(node):.0f} MiB at most, watch whole"
    )


# F74


ROUTES = 200_000


def own_routes(node: LabHost) -> set[str]:
    """Return the destinations of the daemon's routes; the kernel looks for them, not we."""
    return {line.split()[0] for line in node.exec("ip", "-N", "route", "show", "proto", "103").splitlines()}


@pytest.mark.timeout(300)
def test_f74_full_internet_table(site: Lab, measured: Measured) -> None:
    """Beside 200,000 foreign routes the daemon uses no more than 2 s of processor time in a minute, repairs its own
    routes as fast as ever, finds them again over a restart, and leaves the others alone."""
    node, store = site.nodes[0], store_of(site)
    peers = {f"172.7.{number}.0/24" for number in range(60, 80)}
    for peer in peers:
        store.put(lease_key(peer), lease_value(STRANGER))
    launch(node)
    node.wait_ready()
    node.wait_routes(dict.fromkeys(peers, STRANGER))
    pid, space = pid_of(node), Namespace(node.namespace)
    table = (f"route add {20 + n // 65536}.{n // 256 % 256}.{n % 256}.0/24 via 192.168.14.97 proto {BGP}"
             for n in range(ROUTES))
    before_s, began = cpu_s(node), time.monotonic()
    space.ip_batch(table)
    filled_s, filling_cpu_s = time.monotonic() - began, cpu_s(node) - before_s
    try:
        before_s, began = cpu_s(node), time.monotonic()
        delays_ms = []
        while time.monotonic() - began < 60:
            with RouteMonitor(node) as monitor:
                node.exec("ip", "route", "del", "172.7.60.0/24")
                until(lambda: delay_ms(monitor.messages(), "172.7.60.0/24") is not None, "repaired", 2 * REPAIR_S)
                delays_ms.append(delay_ms(monitor.messages(), "172.7.60.0/24") or 0.0)
            time.sleep(15)
        minute_s = time.monotonic() - began
        spent_s = (cpu_s(node) - before_s) * 60 / minute_s
        assert own_routes(node) == peers
        assert max(delays_ms) < 1000 * REPAIR_S
        assert spent_s < 2
        assert pid_of(node) == pid
        assert node.stop() == 0
        store.delete(lease_key("172.7.61.0/24"))
        with RouteMonitor(node) as monitor:
            launch(node)
            started_s = node.wait_ready()
            until(lambda: own_routes(node) == peers - {"172.7.61.0/24"}, "what went meanwhile is swept", 15)
            assert {message.text.split()[1] for message in monitor.messages()} == {"172.7.61.0/24"}
        counted = node.exec("sh", "-c", f"ip -N route show proto {BGP} | wc -l")
        assert int(counted) == ROUTES
    finally:
        node.kill()
        space.run("ip", "route", "flush", "proto", str(BGP))
    measured(
        f"filled in {filled_s:.1f} s (daemon: {filling_cpu_s:.1f} s of processor time), then {spent_s:.2f} s a minute; "
        f"repairs within {max(delays_ms):.0f} ms; start in {started_s:.1f} s"
    )
