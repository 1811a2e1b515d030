"""The backend that the configuration chooses, and the blackhole: real loops on fakes, virtual time."""

import asyncio
import errno
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from pyflanneld.core.link.selection import Link
from pyflanneld.core.objects.plan import Create
from pyflanneld.core.routes import BLACKHOLE_METRIC, KernelRoute, Route
from pyflanneld.errors import PublicIpNotOnLink
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

ALLOC = b'{"Network":"172.7.0.0/16","Backend":{"Type":"alloc"}}'
PINNED = "FLANNEL_SUBNET=172.7.21.1/24\n"
OWN, OWN_NET = b"172.7.21.0-24", IPv4Network("172.7.21.0/24")
BLACKHOLE = KernelRoute(OWN_NET, None, 0, PROTOCOL, BLACKHOLE_METRIC, plain=True, blackhole=True)


def cluster(config: bytes = CONFIG) -> FakeEtcd:
    etcd = FakeEtcd()
    etcd.put_config(config)
    return etcd


def with_blackhole(node: FakeNode, wanted: bool = True) -> FakeNode:
    node.configure(ip_blackhole_route=wanted)
    return node


def ours(node: FakeNode) -> list[KernelRoute]:
    return [route for route in node.kernel.table() if route.protocol == PROTOCOL]


def test_alloc_leases_and_writes_the_file_and_no_more() -> None:
    """With alloc there is a lease with flannel's bytes and a file; no peer gets a route, and none is quarantined."""

    async def scenario() -> None:
        etcd = cluster(ALLOC)
        etcd.put(b"172.7.22.0-24", b'{"PublicIP":"203.0.113.9","PublicIPv6":null}')
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            own = next(record for record in etcd.records() if record.name == OWN)
            assert own.value == b'{"PublicIP":"192.168.14.21","PublicIPv6":null}'
            assert "FLANNEL_SUBNET=172.7.21.1/24\n" in (node.file.text or "")
            assert ours(node) == []
            assert node.log.count("peer.quarantined") == 0

    run(scenario())


def test_alloc_publishes_an_address_of_no_link() -> None:
    """With alloc the published address may be a router's in front of the node; readiness does not ask for it either."""

    async def scenario() -> None:
        etcd = cluster(ALLOC)
        node = FakeNode(etcd, env=PINNED)
        node.configure(public_ip=IPv4Address("203.0.113.7"))
        async with node.running():
            await asyncio.sleep(30)
            assert node.ready
            assert etcd.records()[0].value == b'{"PublicIP":"203.0.113.7","PublicIPv6":null}'

    run(scenario())


def test_host_gw_refuses_an_address_of_no_link() -> None:
    """With host-gw an address that is not on the link ends the start, before anything is leased."""
    etcd = cluster()

    async def scenario() -> None:
        node = FakeNode(etcd, env=PINNED)
        node.configure(public_ip=IPv4Address("203.0.113.7"))
        async with node.running():
            pass

    with pytest.raises(ExceptionGroup) as caught:
        run(scenario())
    assert caught.group_contains(PublicIpNotOnLink, match=r"203\.0\.113\.7")
    assert etcd.records() == ()


def test_a_change_to_alloc_takes_our_routes_away() -> None:
    """A node that comes back with alloc withdraws the routes that it had put for host-gw."""

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(b"172.7.22.0-24", value("192.168.14.22"))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            assert node.kernel.gateways() == {"172.7.22.0/24": "192.168.14.22"}
        etcd.put_config(ALLOC)
        async with node.running():
            await until(lambda: ours(node) == [], 5)

    run(scenario())


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        ((), "their leases make no route here with the backend alloc"),
        ((22, 23), "2 of their leases are gone from etcd and the others make no route here with the backend alloc"),
        ((22, 23, 24, 25), "their leases are gone from etcd"),
    ],
)
def test_many_routes_that_a_former_backend_has_left(gone: tuple[int, ...], why: str) -> None:
    """The guard holds them and says truly why nothing wants them; log, READY and probes agree; none is a peer's end."""

    async def scenario() -> None:
        etcd = cluster()
        for host in (22, 23, 24, 25):
            etcd.put(f"172.7.{host}.0-24".encode(), value(f"192.168.14.{host}"))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            assert len(ours(node)) == 4
        etcd.put_config(ALLOC)
        for host in gone:
            etcd.delete(f"172.7.{host}.0-24".encode())
        node.log.events.clear()
        node.manager.told.clear()
        async with node.running(ready=False):
            await asyncio.sleep(10)
            assert node.why_not == f"4 routes are kept although {why}, until two more lists agree"
            assert (node.ready, node.manager.told.count("READY=1"), node.log.count("daemon.ready")) == (False, 0, 0)
            assert len(ours(node)) == 4
            await until(lambda: node.ready, 60)
            await until(lambda: node.manager.told.count("READY=1") == node.log.count("daemon.ready") == 1, 1)
            assert ours(node) == []
            dropped = [fields["reason"] for _, event, fields in node.log.events if event == "route.dropped"]
            assert dropped == ["start"] * 4

    run(scenario())


def test_a_left_over_route_that_is_wanted_again_is_a_peers() -> None:
    """Its peer comes while the guard holds it; when that leaves later, the route goes because the peer has left."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        for host in (22, 23, 24, 25):
            left = Route(IPv4Network(f"172.7.{host}.0/24"), IPv4Address(f"192.168.14.{host}"), 2)
            await node.kernel.apply([Create(left)])
        async with node.running(ready=False):
            await until(lambda: node.log.count("guard.holding") == 1, 5)
            etcd.put(b"172.7.22.0-24", value("192.168.14.22"))
            await until(lambda: node.ready, 60)
            assert node.kernel.gateways() == {"172.7.22.0/24": "192.168.14.22"}
            etcd.delete(b"172.7.22.0-24")
            await until(lambda: ours(node) == [], 5)
        reasons = {fields["dst"]: fields["reason"] for _, event, fields in node.log.events if event == "route.dropped"}
        assert reasons == {
            "172.7.22.0/24": "peer_left", "172.7.23.0/24": "start", "172.7.24.0/24": "start", "172.7.25.0/24": "start",
        }  # fmt: skip

    run(scenario())


@pytest.mark.parametrize("config", [CONFIG, ALLOC])
def test_blackhole_is_kept(config: bytes) -> None:
    """The own subnet's blackhole is put, and put back when somebody deletes it, at the latest by the next scan."""

    async def scenario() -> None:
        node = with_blackhole(FakeNode(cluster(config), env=PINNED))
        async with node.running():
            assert ours(node) == [BLACKHOLE]
            node.kernel.delete_route(OWN_NET, metric=BLACKHOLE_METRIC)
            await until(lambda: ours(node) == [BLACKHOLE], 1)
            applied = len(node.kernel.applied)
            await asyncio.sleep(3600)
            assert len(node.kernel.applied) == applied

    run(scenario())


def test_blackhole_and_the_bridge() -> None:
    """The bridge's own route on the same subnet comes and goes beside the blackhole without a word of trouble."""

    async def scenario() -> None:
        node = with_blackhole(FakeNode(cluster(), env=PINNED))
        bridge = Link(7, "docker0", 1500, True, (IPv4Interface("172.7.21.1/24"),))
        async with node.running():
            node.kernel.set_link(bridge)
            await asyncio.sleep(30)
            assert node.ready
            assert [route.metric for route in node.kernel.table() if route.dst == OWN_NET] == [0, BLACKHOLE_METRIC]
            node.kernel.remove_link("docker0")
            await asyncio.sleep(30)
            assert ours(node) == [BLACKHOLE]

    run(scenario())


def test_blackhole_goes_with_the_flag() -> None:
    """Without the flag a blackhole of ours goes, also one of an earlier subnet; a foreign one stays."""

    async def scenario() -> None:
        node = with_blackhole(FakeNode(cluster(), env=PINNED))
        async with node.running():
            assert ours(node) == [BLACKHOLE]
        earlier = replace(BLACKHOLE, dst=IPv4Network("172.7.99.0/24"))
        foreign = replace(earlier, protocol=3, metric=0)
        node.kernel.add_foreign(earlier)
        node.kernel.add_foreign(foreign)
        async with with_blackhole(node, False).running():
            assert ours(node) == []
            assert foreign in node.kernel.table()

    run(scenario())


def test_blackhole_that_is_refused_is_said_and_tried_again() -> None:
    """A refusal by the kernel does not take the node out of service; it is said, and tried again with every look."""

    async def scenario() -> None:
        node = with_blackhole(FakeNode(cluster(), env=PINNED))
        node.kernel.refuse(OWN_NET, errno.EPERM)
        async with node.running():
            await until(lambda: ours(node) == [BLACKHOLE], 11)
            assert node.log.count("blackhole.failed") == 1

    run(scenario())


def test_a_route_of_ours_on_the_own_subnet_is_no_blackhole() -> None:
    """An idle unicast route of ours is withdrawn as ever, beside the blackhole."""

    async def scenario() -> None:
        node = with_blackhole(FakeNode(cluster(), env=PINNED))
        await node.kernel.apply([Create(Route(OWN_NET, IPv4Address("192.168.14.22"), 2))])
        async with node.running():
            assert ours(node) == [BLACKHOLE]

    run(scenario())
