"""The daemon with --probe on fakes: what it sends, what it tells, and that nothing else depends on it."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

from pyflanneld.core.probe.reachability import ProbeState
from pyflanneld.core.probe.table import MAX_RATE
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, value
from tests.support.fakes.prober import FakeProber, Way
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

PEER = IPv4Network("172.7.22.0/24")
HOST, BRIDGE = IPv4Address("192.168.14.22"), IPv4Address("172.7.22.1")


def probing(*, answering: bool = True) -> tuple[FakeEtcd, FakeNode, FakeProber]:
    """Return a cluster with one peer, a node that probes every 10 s, and its prober."""
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    etcd.put(b"172.7.22.0-24", value("192.168.14.22"), lease_id=etcd.grant(86400))
    node, prober = FakeNode(etcd), FakeProber()
    node.prober = prober
    node.configure(probe_interval_s=10.0)
    if answering:
        prober.ways = {HOST: Way(), BRIDGE: Way()}
    return etcd, node, prober


def problem(node: FakeNode) -> str:
    """Return what the open problem of the probes says; empty when there is none."""
    assert node.daemon is not None
    found = node.daemon._context.conditions.open().get("probe")
    return found.text if found else ""


def reach_state(node: FakeNode) -> ProbeState | None:
    assert node.daemon is not None
    assert node.daemon._node is not None
    reach = node.daemon._node.probes.get(PEER)
    return reach.state if reach else None


def fields(node: FakeNode, event: str) -> Mapping[str, object]:
    return next(said for _, name, said in node.log.events if name == event)


def test_a_peer_that_answers() -> None:
    """Both targets are probed, the results can be read by the other loops, and nothing is said but the start."""

    async def scenario() -> None:
        _, node, prober = probing()
        async with node.running():
            await until(lambda: reach_state(node) is ProbeState.REACHABLE, 40)
            assert {address for _, address, _ in prober.sent} == {HOST, BRIDGE}
            assert fields(node, "probe.started") == {"form": "icmp", "interval_s": 10.0}
            assert problem(node) == ""
        assert prober.form == "", "closed at the end"

    run(scenario())


def test_answers_are_read_soon() -> None:
    """However long the interval is, an answer, or that there is none, is known within two seconds."""

    async def scenario() -> None:
        _, node, prober = probing()
        node.configure(probe_interval_s=3600.0)
        async with node.running():
            assert node.daemon is not None
            assert node.daemon._node is not None
            probes = node.daemon._node
            for count in (1, 2, 3):
                await until(lambda count=count: len(prober.sent) == count, 4000, 0.1)
                await until(
                    lambda count=count: sum(s.count for r in probes.probes.values() for s in (r.address, r.subnet))
                    + sum(r.mtu is not None for r in probes.probes.values()) == count, 2.2,
                )  # fmt: skip

    run(scenario())


def test_without_the_flag_nothing_is_sent() -> None:
    """No prober, no task, no results."""

    async def scenario() -> None:
        _, node, prober = probing()
        node.prober = None
        async with node.running():
            await until(lambda: node.kernel.calls["links"] > 5, 100)
            assert prober.sent == []
            assert reach_state(node) is None

    run(scenario())


def test_silence_is_told_and_changes_nothing() -> None:
    """A silent peer is one problem that does not stand against readiness; its route stays; the end is told as well."""

    async def scenario() -> None:
        _, node, prober = probing()
        async with node.running():
            await until(lambda: reach_state(node) is ProbeState.REACHABLE, 40)
            ways, prober.ways = prober.ways, {}
            await until(lambda: problem(node), 60)
            assert problem(node) == "192.168.14.22, the host of 172.7.22.0/24, does not answer probes"
            assert node.ready
            assert node.kernel.gateways(PROTOCOL) == {"172.7.22.0/24": "192.168.14.22"}
            prober.ways = ways
            await until(lambda: not problem(node), 60)
            assert fields(node, "condition.resolved")["was"] == "probe.unanswered"

    run(scenario())


def test_a_peer_that_leaves_is_forgotten() -> None:
    """With its lease its trouble goes."""

    async def scenario() -> None:
        etcd, node, _ = probing(answering=False)
        async with node.running():
            await until(lambda: problem(node), 60)
            etcd.delete(b"172.7.22.0-24")
            await until(lambda: reach_state(node) is None, 60)
            await until(lambda: not problem(node), 60)

    run(scenario())


def test_no_socket() -> None:
    """Where the kernel allows none, that is said, tried again, and stands against nothing."""

    async def scenario() -> None:
        _, node, prober = probing()
        prober.barred = True
        async with node.running():
            await until(lambda: problem(node), 5)
            assert problem(node).startswith("peers cannot be probed: the kernel allows neither")
            assert node.ready
            prober.barred = False
            await until(lambda: reach_state(node) is ProbeState.REACHABLE, 200)
            assert problem(node) == ""

    run(scenario())


def test_no_route_is_a_lost_probe() -> None:
    """What does not even leave this host counts as lost, at once."""

    async def scenario() -> None:
        _, node, prober = probing()
        prober.ways = {HOST: Way(routed=False), BRIDGE: Way(routed=False)}
        async with node.running():
            await until(lambda: reach_state(node) is ProbeState.SILENT, 60)
            assert prober.sent == []

    run(scenario())


def test_four_thousand_peers_and_one_socket() -> None:
    """However many there are, no second sees more than the permitted rate, and all are reached."""

    async def scenario() -> None:
        etcd, node, prober = probing()
        etcd.put_config(CONFIG.replace(b"172.7.0.0/16", b"10.64.0.0/10"))
        hosts = [IPv4Address(int(IPv4Address("192.168.14.23")) + number % 200) for number in range(4000)]
        lease_id = etcd.grant(86400)
        for number, host in enumerate(hosts):
            subnet = IPv4Address(int(IPv4Address("10.64.0.0")) + ((number + 20) << 8))
            etcd.put(f"{subnet}-24".encode(), value(str(host)), lease_id=lease_id)
            prober.ways[host] = prober.ways[subnet + 1] = Way()
        async with node.running():
            assert node.daemon is not None
            assert node.daemon._node is not None
            probes = node.daemon._node
            await until(lambda: sum(r.state is ProbeState.REACHABLE for r in probes.probes.values()) >= 4000, 200, 1.0)
        times = [at_s for at_s, _, _ in prober.sent]
        assert all(later - earlier >= 0.99 for earlier, later in zip(times, times[MAX_RATE:], strict=False))
        assert min(later - earlier for earlier, later in pairwise(times)) > 0

    run(scenario())
