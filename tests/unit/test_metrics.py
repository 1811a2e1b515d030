"""The metrics of a daemon: real tasks on fakes, virtual time, the text as Prometheus reads it."""

import asyncio
import re
import subprocess
import sys
from ipaddress import IPv4Network

from prometheus_client.parser import text_string_to_metric_families

from pyflanneld.core.routes import KernelRoute
from pyflanneld.core.status.hints import CONDITIONS
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.http.metrics import metrics_of
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

PINNED = "FLANNEL_SUBNET=172.7.21.1/24\n"
INFO = (
    'network_info{backend="host-gw",ipv6_network="",network="172.7.0.0/16",prefix="/coreos.com/network",'
    'subnet_file="/run/flannel/subnet.env"}'
)


def cluster(*peers: int) -> FakeEtcd:
    """Return a cluster in which the host 192.168.14.N leases 172.7.N.0/24, for each N of *peers*."""
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    for third in peers:
        etcd.put(b"172.7.%d.0-24" % third, value(f"192.168.14.{third}"), lease_id=etcd.grant(86400))
    return etcd


def samples(node: FakeNode) -> dict[str, float]:
    """Return what a scrape gets now: ``name{label="value"}`` to number."""
    assert node.daemon is not None
    text = metrics_of(node.daemon.status_source)()[0].decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{label}"' for name, label in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix('pyflanneld_')}{{{labels}}}".removesuffix("{}")] = sample.value
    return found


def test_a_healthy_node() -> None:
    """Lease, peers and routes as they are; every count that can be is there, with 0."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            await asyncio.sleep(60)
            found = samples(node)
        assert found[INFO] == 1
        assert (found["live"], found["ready"], found["lease_confirmed"], found["lease_reserved"]) == (1, 1, 1, 0)
        assert 86400 - 61 <= found["lease_remaining_seconds"] <= 86400 - 59
        assert found['peers{state="routed"}'] == found['routes{state="in_place"}'] == found["routes_wanted"] == 2
        assert found['route_changes_total{change="put",reason="start"}'] == 2
        assert found['peer_lists_total{reason="first"}'] == 1
        assert found['etcd_errors_total{kind="unavailable",task="lease"}'] == 0
        assert found['conditions{event="etcd.unavailable"}'] == 0
        assert found['conditions_opened_total{event="guard.holding"}'] == 0
        rounds = found["reconcile_duration_seconds_count"]
        assert rounds == found['reconcile_duration_seconds_bucket{le="+Inf"}'] > 0

    run(scenario())


def test_tasks_are_counted() -> None:
    """Each task of the event loop that has not ended, and no other."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running():
            before = samples(node)["process_tasks"]
            assert before > 4
            task = asyncio.create_task(asyncio.sleep(1))
            assert samples(node)["process_tasks"] == before + 1
            await task
            assert samples(node)["process_tasks"] == before

    run(scenario())


def test_before_there_is_a_node() -> None:
    """A daemon that waits for etcd answers too: live, not ready, no lease and no routes to report."""

    async def scenario() -> None:
        node = FakeNode(FakeEtcd(), env=PINNED)
        async with node.running(ready=False):
            await asyncio.sleep(5)
            found = samples(node)
        assert (found["live"], found["ready"], found['conditions{event="config.missing"}']) == (1, 0, 1)
        assert not [name for name in found if name.startswith(("lease_confirmed", "peers{", "routes{"))]

    run(scenario())


def test_a_repair_and_its_reason() -> None:
    """A route that somebody deletes is one repair, and one change, of that reason."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            node.kernel.delete_route(IPv4Network("172.7.22.0/24"))
            await until(lambda: len(node.kernel.gateways(PROTOCOL)) == 2, 1)
            found = samples(node)
        assert found['route_repairs_total{reason="deleted_by_others"}'] == 1
        assert found['route_changes_total{change="put",reason="deleted_by_others"}'] == 1
        assert found['route_repairs_total{reason="link"}'] == 0

    run(scenario())


def test_routes_that_cannot_be_placed() -> None:
    """A foreign route there is a conflict; what the kernel refuses is refused; neither counts as missing too."""

    async def scenario() -> None:
        etcd = cluster(22, 23, 24)
        node = FakeNode(etcd, env=PINNED)
        node.kernel.refuse(IPv4Network("172.7.24.0/24"), 12, times=1000)
        async with node.running(ready=False):
            await until(lambda: len(node.kernel.gateways(PROTOCOL)) == 2, 5)
            node.kernel.add_foreign(KernelRoute(IPv4Network("172.7.25.0/24"), None, 2, 4, 0, plain=True))
            etcd.put(b"172.7.25.0-24", value("192.168.14.25"))
            await asyncio.sleep(1)
            found = samples(node)
        assert (found['routes{state="in_place"}'], found['routes{state="missing"}']) == (2, 0)
        assert (found['routes{state="conflict"}'], found['routes{state="refused"}']) == (1, 1)
        assert (found["routes_wanted"], found['peers{state="unrouted"}']) == (4, 2)
        assert (found['conditions{event="route.conflict"}'], found['conditions{event="route.failed"}']) == (1, 1)

    run(scenario())


def test_etcd_that_does_not_answer() -> None:
    """Errors are counted by task; the times of the last answer and the last confirmation do not move on."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running():
            await asyncio.sleep(1)
            before = samples(node)
            node.registry.down = RegistryUnavailable("gone")
            node.registry.cut_watches()
            await asyncio.sleep(1000)
            after = samples(node)
        assert after['etcd_errors_total{kind="unavailable",task="peers"}'] > 3
        assert after['etcd_errors_total{kind="unavailable",task="lease"}'] > 1
        assert after["lease_remaining_seconds"] < before["lease_remaining_seconds"] - 900
        assert after['conditions{event="etcd.unavailable"}'] >= 1
        assert after['lease_renewals_total{result="failed"}'] > 1
        # The fakes' clock has gone on a thousand seconds and the wall's has not: a time that stands still moves back.
        for name in ("etcd_answer_timestamp_seconds", "lease_confirmed_timestamp_seconds", "peers_timestamp_seconds"):
            assert after[name] < before[name] - 900, name

    run(scenario())


def test_the_guard_and_the_quarantine() -> None:
    """An emptied etcd is seen in the guard's metric; quarantined keys are counted by reason."""

    async def scenario() -> None:
        etcd = cluster(22, 23, 24, 25, 26)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.put(b"172.7.30.0-24", b"{")
            etcd.put(b"172.7.31.0-24", b"{")
            etcd.put(b"junk", value("192.168.14.99"))
            for third in range(22, 27):
                etcd.delete(b"172.7.%d.0-24" % third)
            await asyncio.sleep(1)
            found = samples(node)
        assert (found["withdraw_guard_enabled"], found["withdraw_guard_holding"], found["ready"]) == (1, 1, 0)
        assert found['routes{state="held"}'] == 5
        assert (found['quarantined_keys{reason="not_json"}'], found['quarantined_keys{reason="bad_key"}']) == (2, 1)
        assert found['peers{state="quarantined"}'] == 3

    run(scenario())


def test_as_many_series_for_many_peers_as_for_few() -> None:
    """No label grows with the cluster, with what stands in etcd, or with time; none of it names a peer."""

    async def scenario() -> None:
        counts, names = set(), set()
        for peers in ((22,), tuple(range(22, 200))):
            etcd = cluster(*peers)
            node = FakeNode(etcd, env=PINNED)
            async with node.running():
                etcd.put(b"<script>", b"{")
                etcd.put(b"172.7.201.0-24", value("10.1.2.3"))
                await asyncio.sleep(700)
                found = samples(node)
                counts.add(len(found))
                names |= found.keys()
        assert len(counts) == 1
        assert max(counts) < 250
        names.remove(INFO)  # one of its own, the same in any number of peers
        assert not [name for name in names if re.search(r"\d+\.\d+\.\d+\.\d+|script", name)]

    run(scenario())


def test_the_library_is_not_loaded_before_the_first_scrape() -> None:
    """Start-up and memory are not spent on hosts that nobody scrapes."""
    program = "import sys, pyflanneld.daemon.servers, pyflanneld.http.monitor\n"
    program += "print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_condition_has_its_series() -> None:
    """An alert on a condition that has never been open has a value to check."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running():
            found = samples(node)
        assert {f'conditions{{event="{event}"}}' for event in CONDITIONS} <= found.keys()

    run(scenario())
