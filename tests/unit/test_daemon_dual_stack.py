"""A dual-stack node, and its IPv4-only neighbours: real loops on fakes, virtual time."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

import pytest

from pyflanneld.core.etcd_types import Record
from pyflanneld.core.lease.allocation import CHOICES
from pyflanneld.core.routes import BLACKHOLE_METRIC, KernelRoute
from pyflanneld.errors import LeaseLost, LinkUnusable, PublicIpNotOnLink
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, lan, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

DUAL = (
    b'{"Network":"172.7.0.0/16","EnableIPv6":true,"IPv6Network":"2001:cafe:42::/56","Backend":{"Type":"host-gw"}}'
)
ENV = (
    "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\n"
    "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42:7::1/64\n"
    "FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
)
PINNED = "FLANNEL_SUBNET=172.7.21.1/24\n"
OWN = b"172.7.21.0-24&2001:cafe:42:7::-64"
PEER, PEER_SUBNET = b"172.7.22.0-24&2001:cafe:42:8::-64", IPv6Network("2001:cafe:42:8::/64")
BOTH = {"172.7.22.0/24": "192.168.14.22", "2001:cafe:42:8::/64": "2001:db8::22"}


def dual_value(host: int) -> bytes:
    text = f'{{"PublicIP":"192.168.14.{host}","PublicIPv6":"2001:db8::{host}","BackendType":"host-gw"}}'
    return text.encode()


def cluster(config: bytes = DUAL) -> FakeEtcd:
    etcd = FakeEtcd()
    etcd.put_config(config)
    return etcd


def dual_node(etcd: FakeEtcd, *, env: str | None = ENV) -> FakeNode:
    node = FakeNode(etcd, env=env)
    node.kernel.set_link(replace(lan(node.host), addresses6=(IPv6Interface("2001:db8::21/64"),)))
    return node


def held(etcd: FakeEtcd) -> dict[bytes, bytes]:
    return {record.name: record.value for record in etcd.records()}


def test_both_subnets_are_leased_in_one_key() -> None:
    """The halves that the file names are leased with flannel's bytes, and the file is left alone."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        async with node.running():
            assert held(etcd) == {OWN: dual_value(21)}
            assert (node.file.text, node.file.writes) == (ENV, 0)
        revision = etcd.state.revision
        async with node.running():
            assert etcd.state.revision == revision, "a restart writes nothing"

    run(scenario())


def test_remembered_subnets_survive_what_others_create_meanwhile() -> None:
    """A guard over all names refuses for anything new: the same subnets are tried again, by a new list."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        refusals, refuses = iter([True] * 5), node.registry._conflict
        node.registry._conflict = lambda *key: next(refusals, False) or refuses(*key)  # type: ignore[method-assign]
        async with node.running():
            assert held(etcd) == {OWN: dual_value(21)}
            assert node.log.count("lease.previous_refused") == 0

    run(scenario())


def test_a_vanished_key_is_taken_again_beside_what_others_take() -> None:
    """Where all hosts have lost their keys, each knows the names of the first pairs, and is not disturbed by these."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        async with node.running():
            asked, create = [], node.registry.create_subnet

            async def noted(name: bytes, value: bytes, **more: Any) -> Record | None:
                asked.append(more["beside"])
                return await create(name, value, **more)

            node.registry.create_subnet = noted  # type: ignore[method-assign]
            etcd.delete(OWN)
            await until(lambda: held(etcd) == {OWN: dual_value(21)}, 2)
            [beside] = asked
            assert len(beside) == CHOICES
            assert beside[0] == b"172.7.1.0-24&2001:cafe:42:1::-64"

    run(scenario())


def test_two_hosts_with_one_ipv4_address_and_two_of_ipv6() -> None:
    """Who comes second writes once, sees the answer, and stands back: it is not ready, and names both. They never write
    against each other; when the one that stands back is gone, all is well, and when the other is gone, it goes on."""

    async def scenario() -> None:
        etcd = cluster()
        first, second = dual_node(etcd), dual_node(etcd)
        second.seed = 99
        second.kernel.set_link(replace(lan(second.host), addresses6=(IPv6Interface("2001:db8::99/64"),)))
        async with first.running():
            async with second.running(ready=False):
                await until(lambda: second.log.count("lease.shared") + first.log.count("lease.shared") > 1, 10)
                await asyncio.sleep(5)
                assert (first.ready, second.ready) == (True, False)
                assert "it publishes 2001:db8::21, this host 2001:db8::99" in second.why_not
                revision = etcd.state.revision
                await asyncio.sleep(7200)
                assert etcd.state.revision == revision
                assert (first.ready, second.ready) == (True, False)
            await until(lambda: not first.conditions.open(), 1500, 5)
            assert list(held(etcd).values()) == [dual_value(21)]

    run(scenario())


def test_the_other_host_with_our_ipv4_address_is_gone() -> None:
    """Who has stood back publishes its own addresses when nobody else has renewed the lease for a while."""

    async def scenario() -> None:
        etcd = cluster()
        first, second = dual_node(etcd), dual_node(etcd)
        second.seed = 99
        second.kernel.set_link(replace(lan(second.host), addresses6=(IPv6Interface("2001:db8::99/64"),)))
        first_run = asyncio.create_task(first.build().run())
        await until(lambda: first.ready, 30)
        async with second.running(ready=False):
            await until(lambda: second.log.count("lease.shared"), 10)
            first_run.cancel()
            await until(lambda: second.ready, 3000, 5)
            assert list(held(etcd).values()) == [dual_value(21).replace(b"::21", b"::99")]
            await until(lambda: not second.conditions.open(), 1500, 5)

    run(scenario())


def test_ipv6_address_changed_while_the_daemon_was_down() -> None:
    """The value of the earlier run is written over at the start; nobody is suspected."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        async with node.running():
            pass
        node.kernel.set_link(replace(lan(node.host), addresses6=(IPv6Interface("2001:db8::99/64"),)))
        async with node.running():
            assert list(held(etcd).values()) == [dual_value(21).replace(b"::21", b"::99")]
            await asyncio.sleep(3600)
            assert node.log.count("lease.shared") == 0

    run(scenario())


def test_routes_of_both_families_follow_the_leases() -> None:
    """Both routes come, change and go with the lease, and each is repaired when somebody deletes it."""

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(PEER, dual_value(22), lease_id=etcd.grant(86400))
        node = dual_node(etcd)
        async with node.running():
            assert node.kernel.gateways() == BOTH
            node.kernel.delete_route(PEER_SUBNET, metric=1024)
            await until(lambda: node.kernel.gateways() == BOTH, 1)
            etcd.put(PEER, dual_value(22).replace(b"::22", b"::99"))
            await until(lambda: node.kernel.gateways()["2001:cafe:42:8::/64"] == "2001:db8::99", 1)
            applied = len(node.kernel.applied)
            await asyncio.sleep(7200)
            assert len(node.kernel.applied) == applied
            etcd.delete(PEER)
            await until(lambda: node.kernel.gateways() == {}, 1)

    run(scenario())


def test_an_ipv4_only_peer_has_the_ipv4_route() -> None:
    """During a rolling change a node that has not moved yet is reached by IPv4."""

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(b"172.7.22.0-24", value("192.168.14.22"))
        node = dual_node(etcd)
        async with node.running():
            assert node.kernel.gateways() == {"172.7.22.0/24": "192.168.14.22"}
            assert node.log.count("peer.quarantined") == 0

    run(scenario())


def test_an_ipv4_only_node_reaches_dual_stack_peers() -> None:
    """A dual-stack key gives an IPv4-only node its IPv4 route, and IPv6 is not touched there."""

    async def scenario() -> None:
        etcd = cluster(CONFIG)
        etcd.put(PEER, dual_value(22))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            assert node.kernel.gateways() == {"172.7.22.0/24": "192.168.14.22"}
            assert held(etcd).keys() == {b"172.7.21.0-24", PEER}

    run(scenario())


@pytest.mark.parametrize("env", [PINNED, None])
def test_a_change_to_dual_stack_and_back_keeps_the_ipv4_subnet(env: str | None) -> None:
    """The key takes the other form, with the IPv4 subnet that the containers have, the file known or not."""

    async def scenario() -> None:
        etcd = cluster(CONFIG)
        etcd.put(b"172.7.40.0-24", value("192.168.14.21"), lease_id=etcd.grant(86400))
        etcd.put_config(DUAL)
        node = dual_node(etcd, env=env)
        async with node.running():
            (key,) = held(etcd)
            assert key.startswith(b"172.7.40.0-24&2001:cafe:42:")
            assert "FLANNEL_SUBNET=172.7.40.1/24\nFLANNEL_IPV6_NETWORK=" in (node.file.text or "")
        etcd.put_config(CONFIG)
        async with node.running():
            assert held(etcd) == {b"172.7.40.0-24": value("192.168.14.21")}
            assert "IPV6" not in (node.file.text or "")

    run(scenario())


def test_vanished_dual_stack_key_is_taken_again() -> None:
    """The same key with both halves is back within a second."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        async with node.running():
            etcd.delete(OWN)
            assert await until(lambda: held(etcd) == {OWN: dual_value(21)}, 1) < 1
            await until(lambda: node.ready, 1)
            assert node.file.writes == 0

    run(scenario())


def test_a_rival_on_the_ipv6_half_is_respected() -> None:
    """When the key has vanished and another lease overlaps only the IPv6 half, the lease is lost, not doubled."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        async with node.running() as task:
            saved = etcd.backup()
            del saved.keys[b"subnets/" + OWN]
            etcd.restore(saved)
            etcd.put(b"172.7.99.0-24&2001:cafe:42:7::-64", dual_value(99))
            await until(task.done, 60)

    with pytest.raises(ExceptionGroup) as caught:
        run(scenario())
    assert caught.group_contains(LeaseLost, match="overlaps")


def test_renumbered_ipv6_is_published() -> None:
    """A new IPv6 address of the link is written into the own lease; losing it changes nothing there and is said."""

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(PEER, dual_value(22), lease_id=etcd.grant(86400))
        node = dual_node(etcd)
        async with node.running():
            node.kernel.set_link(replace(lan(21), addresses6=(IPv6Interface("2001:db8::77/64"),)))
            await until(lambda: b"2001:db8::77" in held(etcd)[OWN], 3)
            written = held(etcd)[OWN]
            node.kernel.set_link(lan(21))
            await until(lambda: not node.ready, 3)
            assert "IPv6" in node.why_not
            await asyncio.sleep(600)
            assert held(etcd)[OWN] == written
            assert node.kernel.gateways() == {"172.7.22.0/24": "192.168.14.22"}, "IPv4 goes on"
            node.kernel.set_link(replace(lan(21), addresses6=(IPv6Interface("2001:db8::77/64"),)))
            await until(lambda: node.ready and node.kernel.gateways() == BOTH, 3)

    run(scenario())


def test_a_link_without_ipv6_ends_the_start() -> None:
    """A dual-stack network needs an IPv6 address on the link; nothing is leased without."""
    etcd = cluster()

    async def scenario() -> None:
        async with FakeNode(etcd, env=PINNED).running():
            pass

    with pytest.raises(ExceptionGroup) as caught:
        run(scenario())
    assert caught.group_contains(LinkUnusable, match="--public-ipv6")
    assert held(etcd) == {}


@pytest.mark.parametrize("there", [True, False])
def test_public_ipv6_is_published(there: bool) -> None:
    """``--public-ipv6`` is what the lease says, provided that it is on the link, where the peers look for it."""
    etcd = cluster()

    async def scenario() -> None:
        node = dual_node(etcd)
        node.configure(public_ipv6=IPv6Address("2001:db8::5"))
        own = (IPv6Interface("2001:db8::21/64"), IPv6Interface("2001:db8::5/64"))
        node.kernel.set_link(replace(lan(21), addresses6=own if there else own[:1]))
        async with node.running():
            assert held(etcd)[OWN] == dual_value(21).replace(b"2001:db8::21", b"2001:db8::5")

    if there:
        run(scenario())
        return
    with pytest.raises(ExceptionGroup) as caught:
        run(scenario())
    assert caught.group_contains(PublicIpNotOnLink, match="--public-ipv6=2001:db8::5")


OWN6, VIP6 = "2001:db8::21/64", "2001:db8::100/64"


def give(node: FakeNode, *addresses: str, deprecated: str = "") -> None:
    """Let eth1 have these IPv6 addresses, the best first."""
    old = frozenset(map(IPv6Address, deprecated.split()))
    node.kernel.set_link(replace(lan(21), addresses6=tuple(map(IPv6Interface, addresses)), deprecated=old))


def test_the_ipv6_address_stays_beside_a_vip() -> None:
    """A VIP changes nothing, and the own address is waited for; after a minute the VIP stands in until it is back."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        async with node.running():
            revision = etcd.state.revision
            for there in ((OWN6, VIP6), (VIP6, OWN6)):
                give(node, *there)
                await asyncio.sleep(100)
            give(node, VIP6, OWN6, deprecated="2001:db8::21")
            await asyncio.sleep(100)
            assert node.ready
            give(node, VIP6)
            await until(lambda: not node.ready, 1)
            assert node.why_not == (
                "the address 2001:db8::21 that this host publishes is gone from eth1; "
                "waiting 60 s for it, before 2001:db8::100 is published"
            )
            await asyncio.sleep(40)
            assert (etcd.state.revision, node.registry.reconnects) == (revision, 0)
            await until(lambda: b"2001:db8::100" in held(etcd)[OWN], 25)
            give(node, VIP6, OWN6)
            await until(lambda: b"2001:db8::21" in held(etcd)[OWN] and node.ready, 5)
        changes = [fields for _, event, fields in node.log.events if event == "link.changed"]
        assert [(one["was6"], one["address6"]) for one in changes] == [
            ("2001:db8::21", "2001:db8::100"), ("2001:db8::100", "2001:db8::21"),
        ]
        assert {one["address"] for one in changes} == {"192.168.14.21"}

    run(scenario())


def test_an_ipv6_address_that_is_named_counts_although_it_is_deprecated() -> None:
    """``--public-ipv6`` is the operator's word; nothing beside it matters, and its end is told."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        node.configure(public_ipv6=IPv6Address("2001:db8::21"))
        give(node, OWN6, deprecated="2001:db8::21")
        async with node.running():
            assert held(etcd) == {OWN: dual_value(21)}
            give(node, VIP6, OWN6, deprecated="2001:db8::21")
            await asyncio.sleep(100)
            assert node.ready
            give(node, VIP6)
            await until(lambda: not node.ready, 1)
            assert node.why_not == "--public-ipv6=2001:db8::21 is no longer an address of eth1"
            await asyncio.sleep(1000)
            assert held(etcd) == {OWN: dual_value(21)}
            give(node, OWN6)
            await until(lambda: node.ready, 1)
            assert node.log.count("link.changed") == node.registry.reconnects == 0

    run(scenario())


def test_deprecated_ipv6_addresses_are_told() -> None:
    """A link with no other one is said to have them, at the start and later."""

    async def start() -> None:
        node = dual_node(cluster())
        give(node, OWN6, deprecated="2001:db8::21")
        async with node.running():
            pass

    with pytest.raises(ExceptionGroup) as caught:
        run(start())
    text = "eth1 has no global IPv6 address that lasts, but 2001:db8::21/64 deprecated; give it one"
    assert caught.group_contains(LinkUnusable, match=text)

    async def lose() -> None:
        node = dual_node(cluster())
        async with node.running():
            give(node, VIP6, deprecated="2001:db8::100")
            await until(lambda: not node.ready, 1)
            assert node.why_not == (
                "eth1 has no global IPv6 address any more that lasts, but 2001:db8::100/64 deprecated"
            )

    run(lose())


def test_leftovers_of_both_families_are_swept() -> None:
    """Routes of ours that nothing wants go; foreign ones on a wanted IPv6 destination are named and stay."""

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(PEER, dual_value(22))
        node = dual_node(etcd)
        gateway = IPv6Address("2001:db8::66")
        idle = KernelRoute(IPv6Network("2001:cafe:42:9::/64"), gateway, 2, PROTOCOL, 1024, plain=True)
        foreign = KernelRoute(PEER_SUBNET, gateway, 2, 4, 1024, plain=True)
        node.kernel.add_foreign(idle)
        node.kernel.add_foreign(foreign)
        async with node.running():
            assert node.kernel.gateways() == {"172.7.22.0/24": "192.168.14.22"}
            assert foreign in node.kernel.table()
            assert node.log.count("route.conflict") == 1

    run(scenario())


def test_blackholes_of_both_families() -> None:
    """``--ip-blackhole-route`` keeps one for each half."""

    async def scenario() -> None:
        node = dual_node(cluster())
        node.configure(ip_blackhole_route=True)
        async with node.running():
            ours = [(route.dst, route.metric) for route in node.kernel.table() if route.blackhole]
            assert ours == [
                (IPv4Network("172.7.21.0/24"), BLACKHOLE_METRIC),
                (IPv6Network("2001:cafe:42:7::/64"), BLACKHOLE_METRIC),
            ]

    run(scenario())


def test_a_network_without_ipv4_is_refused_with_the_reason() -> None:
    """IPv6 alone has no form of key in etcd: it is said, and another configuration waited for."""

    async def scenario() -> None:
        etcd = cluster(b'{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"host-gw"}}')
        node = dual_node(etcd)
        async with node.running(ready=False):
            await asyncio.sleep(60)
            assert "no form of key" in node.why_not
            etcd.put_config(DUAL)
            await until(lambda: node.ready, 2)

    run(scenario())
