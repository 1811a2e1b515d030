"""From the peers' leases to routes, through outages, wipes and other hands: real loops on fakes, virtual time."""

import asyncio
import errno
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest

from pyflanneld.core.etcd_types import Record, Renewal
from pyflanneld.core.objects.plan import Create, Drop, Replace
from pyflanneld.core.peers.table import PeerTable
from pyflanneld.core.routes import BOOT, KernelRoute
from pyflanneld.errors import RegistryUnavailable
from pyflanneld.ports import Change
from tests.support.fakes.kernel import PROTO_STATIC, FakeKernel
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, lan, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

PINNED = "FLANNEL_SUBNET=172.7.21.1/24\n"


def net(third: int) -> IPv4Network:
    return IPv4Network(f"172.7.{third}.0/24")


def name(third: int) -> bytes:
    return b"172.7.%d.0-24" % third


def cluster(*peers: int) -> FakeEtcd:
    """Return a cluster in which the host 192.168.14.N leases 172.7.N.0/24, for each N of *peers*."""
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    for third in peers:
        etcd.put(name(third), value(f"192.168.14.{third}"), lease_id=etcd.grant(86400))
    return etcd


def routes(kernel: FakeKernel) -> dict[str, str]:
    return kernel.gateways(PROTOCOL)


def expected(*peers: int) -> dict[str, str]:
    return {f"172.7.{third}.0/24": f"192.168.14.{third}" for third in peers}


def test_routes_follow_the_leases() -> None:
    """A lease that comes, changes or goes is a route that comes, is replaced in one step, or goes."""

    async def scenario() -> None:
        etcd = cluster(22, 23)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            assert routes(node.kernel) == expected(22, 23)
            etcd.put(name(24), value("192.168.14.24"))
            await until(lambda: routes(node.kernel) == expected(22, 23, 24), 1)
            before = len(node.kernel.applied)
            etcd.put(name(24), value("192.168.14.124"))
            await until(lambda: routes(node.kernel)["172.7.24.0/24"] == "192.168.14.124", 1)
            assert [type(change) for change in node.kernel.applied[before:]] == [Replace]
            etcd.delete(name(24))
            await until(lambda: routes(node.kernel) == expected(22, 23), 1)

    run(scenario())


def test_an_etcd_member_given_by_name_is_not_captured() -> None:
    """No route leads over the address that a member's name has, nor over the one that it gets later."""

    async def scenario() -> None:
        etcd = cluster(22, 23)
        node = FakeNode(etcd, env=PINNED)
        node.configure(etcd_endpoints=("http://etcd1.example:2379",))
        node.registry.found_addresses = ("172.7.22.9", "fd00::1")
        async with node.running():
            assert routes(node.kernel) == expected(23)
            node.registry.found_addresses = ("172.7.23.9",)
            await until(lambda: routes(node.kernel) == expected(22), 15)

    run(scenario())


def test_backend_change_withdraws_the_route() -> None:
    """A peer that moves to another backend loses its host-gw route, and gets it back when it returns."""

    async def scenario() -> None:
        etcd = cluster(22, 23)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.put(name(22), value("192.168.14.22", "wireguard"))
            await until(lambda: routes(node.kernel) == expected(23), 1)
            etcd.put(name(22), value("192.168.14.22"))
            await until(lambda: routes(node.kernel) == expected(22, 23), 1)

    run(scenario())


@pytest.mark.parametrize("junk", [b"", b"null", b"[]", b"{", b"\xff\x00", value("127.0.0.1"), b"x" * 70000])
def test_bad_value_of_a_known_peer_keeps_its_route(junk: bytes) -> None:
    """A broken value changes no route, through a re-list and a restart; only its end is logged again."""

    async def scenario() -> None:
        etcd = cluster(22, 23)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.put(name(22), junk)
            await asyncio.sleep(700)
            assert routes(node.kernel) == expected(22, 23)
            assert node.log.count("peer.quarantined") == 1
            assert node.ready
        applied = len(node.kernel.applied)
        async with node.running():
            await asyncio.sleep(700)
            assert routes(node.kernel) == expected(22, 23)
            assert len(node.kernel.applied) == applied
            etcd.put(name(22), value("192.168.14.22"))
            await until(lambda: node.log.count("peer.quarantine_ended") == 1, 1)

    run(scenario())


def test_watch_that_breaks_takes_nothing_away() -> None:
    """A cut watch removes no route; what changed meanwhile is applied after the next list, and nothing else."""

    async def scenario() -> None:
        etcd = cluster(22, 23, 24)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            before = len(node.kernel.applied)
            node.registry.down = RegistryUnavailable("cut")
            node.registry.cut_watches()
            etcd.delete(name(24))
            etcd.put(name(25), value("192.168.14.25"))
            etcd.compact()
            await asyncio.sleep(120)
            assert len(node.kernel.applied) == before
            node.registry.down = None
            await until(lambda: routes(node.kernel) == expected(22, 23, 25), 31)
            assert len(node.kernel.applied) == before + 2

    run(scenario())


def test_new_routes_come_before_old_ones_go() -> None:
    """A subnet that was split while the watch was down is reached all the time: its halves are put, then it goes."""

    async def scenario() -> None:
        etcd = cluster(22, 24)
        node = FakeNode(etcd, env=PINNED, guard=False)
        async with node.running():
            before = len(node.kernel.applied)
            node.registry.down = RegistryUnavailable("cut")
            etcd.delete(name(24))
            for half in (b"172.7.24.0-25", b"172.7.24.128-25"):
                etcd.put(half, value("192.168.14.24"))
            node.registry.down = None
            await until(lambda: len(node.kernel.applied) == before + 3, 31)
            assert [type(change) for change in node.kernel.applied[before:]] == [Create, Create, Drop]

    run(scenario())


def test_nothing_is_withdrawn_while_the_own_lease_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last proof of our lease too old, a peer that goes keeps its route; it goes with the next proof."""
    ttl_s = 3600  # a day takes long, in virtual time too: the kernel is read every 10 s
    monkeypatch.setattr("pyflanneld.tasks.lease.acquire.TTL_S", ttl_s)

    async def scenario() -> None:
        etcd = cluster(22, 23)
        node = FakeNode(etcd, env=PINNED, guard=False)
        async with node.running():
            renew = node.registry.renew

            async def refused(_held: Record) -> Renewal:
                raise RegistryUnavailable("no keep-alive")

            node.registry.renew = refused  # type: ignore[method-assign]
            await asyncio.sleep(ttl_s + 600)
            assert "not been confirmed" in node.why_not
            etcd.delete(name(23))
            etcd.put(name(24), value("192.168.14.24"))
            await until(lambda: "172.7.24.0/24" in routes(node.kernel), 2)
            await asyncio.sleep(60)
            assert routes(node.kernel) == expected(22, 23, 24)
            node.registry.renew = renew  # type: ignore[method-assign]
            await until(lambda: routes(node.kernel) == expected(22, 24), 60)

    run(scenario())


def test_nothing_is_swept_before_a_complete_list_is_known() -> None:
    """As long as no whole list has been folded in, an empty table of peers takes no route away."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED, guard=False)
        async with node.running():
            state = node.daemon._node if node.daemon else None
            assert state is not None
            state.listed, state.peers = None, PeerTable(name(21))
            state.wake.routes.set(Change.ROUTES | Change.LINKS | Change.PEERS)
            await asyncio.sleep(30)
            assert routes(node.kernel) == expected(22, 23)

    run(scenario())


def test_lost_watch_event_is_found_by_the_next_list() -> None:
    """A change that the watch never told of is in the kernel after the periodic list, within six minutes."""

    async def scenario() -> None:
        etcd = cluster(22)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.state.keys[b"subnets/" + name(23)] = etcd.put(b"elsewhere", value("192.168.14.23"))  # no such event
            record = etcd.state.keys.pop(b"subnets/" + name(23))
            etcd.state.keys[b"subnets/" + name(23)] = type(record)(
                name(23), record.value, record.create_revision, record.mod_revision, 0
            )
            await until(lambda: "172.7.23.0/24" in routes(node.kernel), 361)

    run(scenario())


def test_wiped_cluster_keeps_its_routes() -> None:
    """When all leases vanish at once the routes are held, the node says so, and returning leases end it."""

    async def scenario() -> None:
        peers = range(22, 32)
        etcd = cluster(*peers)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            for third in peers:
                etcd.delete(name(third))
            await asyncio.sleep(5)
            kept = routes(node.kernel)
            assert len(kept) >= 7
            assert "until two more lists agree" in node.why_not
            for third in peers:
                etcd.put(name(third), value(f"192.168.14.{third}"))
            await until(lambda: routes(node.kernel) == expected(*peers), 2)
            await until(lambda: node.ready, 2)

    run(scenario())


def test_peers_that_really_left_are_withdrawn_after_two_lists() -> None:
    """A mass withdrawal that two more lists, ten seconds apart, confirm is carried out."""

    async def scenario() -> None:
        peers = range(22, 32)
        etcd = cluster(*peers)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            saved = etcd.backup()
            for third in peers:
                del saved.keys[b"subnets/" + name(third)]
            saved.revision = etcd.state.revision + 1
            etcd.restore(saved)
            node.registry.cut_watches()
            await until(lambda: not node.ready, 5)
            assert routes(node.kernel) == expected(*peers)
            took_s = await until(lambda: routes(node.kernel) == {}, 60)
            assert took_s > 19.9
            await until(lambda: node.ready, 2)

    run(scenario())


def test_what_was_confirmed_once_is_not_confirmed_for_good() -> None:
    """Peers that were withdrawn, and came back, are held like any others when all vanish again."""

    async def scenario() -> None:
        peers = range(22, 32)
        etcd = cluster(*peers)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            for _ in range(2):
                for third in peers:
                    etcd.delete(name(third))
                await asyncio.sleep(5)
                assert len(routes(node.kernel)) >= 7
                await until(lambda: routes(node.kernel) == {}, 60)
                for third in peers:
                    etcd.put(name(third), value(f"192.168.14.{third}"))
                await until(lambda: routes(node.kernel) == expected(*peers), 2)
                await asyncio.sleep(1)

    run(scenario())


def test_restored_backup_withdraws_nothing_at_once() -> None:
    """A step back in etcd's history holds even a single withdrawal."""

    async def scenario() -> None:
        etcd = cluster(22)
        saved = etcd.backup()
        etcd.put(name(23), value("192.168.14.23"))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.restore(saved)
            node.registry.cut_watches()
            await until(lambda: node.log.count("etcd.history_changed") == 1, 5)
            await asyncio.sleep(1)
            assert routes(node.kernel) == expected(22, 23)
            assert any(record.name == name(21) for record in etcd.records()), "our own lease is back"

    run(scenario())


@pytest.mark.parametrize("seed", range(8))
def test_routes_are_right_after_whatever_happened(seed: int) -> None:
    """Leases come, change, spoil and go while others bend, delete and block routes: in the end all is as it should."""

    async def scenario() -> None:
        rng, wanted = Random(seed), dict[int, str]()
        node = FakeNode(cluster(), env=PINNED, guard=False)
        async with node.running():
            for _ in range(120):
                third, happens = rng.randrange(22, 31), rng.choice((a_lease_changes, a_lease_changes, others_interfere))
                happens(node, third, rng, wanted)
                await asyncio.sleep(rng.choice((0, 0, 0, 0.001, 0.7)))
            await asyncio.sleep(90)
            if BLOCKED in node.kernel.table():
                wanted.pop(30, None)
            assert routes(node.kernel) == {f"172.7.{third}.0/24": gateway for third, gateway in wanted.items()}
            assert node.ready

    run(scenario())


BLOCKED = KernelRoute(net(30), IPv4Address("192.168.14.5"), 2, 4, 0, True)


def a_lease_changes(node: FakeNode, third: int, rng: Random, wanted: dict[int, str]) -> None:
    etcd = node.registry.etcd
    if rng.random() < 0.6:
        wanted[third] = f"192.168.14.{rng.randrange(40, 250)}"
        etcd.put(name(third), value(wanted[third]))
    elif wanted.pop(third, None):
        etcd.delete(name(third))
    else:
        etcd.put(name(99), b"junk")


def others_interfere(node: FakeNode, third: int, rng: Random, _wanted: dict[int, str]) -> None:
    kernel = node.kernel
    match rng.choice(("bend", "delete", "refuse", "cut", "block", "flap")):
        case "bend":
            kernel.add_foreign(KernelRoute(net(third), IPv4Address("192.168.14.9"), 2, PROTOCOL, 0, True))
        case "delete" if f"172.7.{third}.0/24" in routes(kernel):
            kernel.delete_route(net(third))
        case "refuse":
            kernel.refuse(net(third), errno.ENOBUFS)
        case "cut":
            node.registry.cut_watches()
        case "block":
            kernel.add_foreign(BLOCKED)
        case "flap":
            kernel.link_down("eth1")
            kernel.link_up("eth1")


def test_restart_with_nothing_changed_writes_no_route() -> None:
    """A stopped and started daemon sends not one route change and keeps key and file."""

    async def scenario() -> None:
        etcd = cluster(22, 23)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            pass
        applied, revision, writes = len(node.kernel.applied), etcd.state.revision, node.file.writes
        async with node.running():
            await asyncio.sleep(30)
        assert (len(node.kernel.applied), etcd.state.revision, node.file.writes) == (applied, revision, writes)

    run(scenario())


def test_peers_that_left_while_we_were_down_are_swept() -> None:
    """Routes of ours without a lease go after the first list; foreign ones and those outside Network stay."""

    async def scenario() -> None:
        etcd = cluster(22, 23, 24)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            pass
        etcd.delete(name(24))
        other = KernelRoute(IPv4Network("10.9.9.0/24"), IPv4Address("192.168.14.5"), 2, PROTOCOL, 0, True)
        static = KernelRoute(net(77), IPv4Address("192.168.14.5"), 2, 4, 0, True)
        node.kernel.add_foreign(other)
        node.kernel.add_foreign(static)
        before = len(node.kernel.applied)
        async with node.running():
            assert [type(change) for change in node.kernel.applied[before:]] == [Drop]
            assert routes(node.kernel) == {**expected(22, 23), "10.9.9.0/24": "192.168.14.5"}
            assert static in node.kernel.table()

    run(scenario())


def test_deleted_route_is_repaired_at_once() -> None:
    """A route that somebody deletes or bends is right again in the same moment."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            node.kernel.delete_route(net(22))
            assert await until(lambda: routes(node.kernel) == expected(22, 23), 2) < 0.1
            node.kernel.delete_route(net(22))
            node.kernel.add_foreign(KernelRoute(net(22), IPv4Address("192.168.14.9"), 2, PROTOCOL, 0, True))
            assert await until(lambda: routes(node.kernel) == expected(22, 23), 2) < 0.1

    run(scenario())


def test_route_that_goes_after_the_kernel_has_told_of_it_is_repaired_soon() -> None:
    """Linux tells of a deletion before it is done: a look in between finds nothing yet, and the next one comes soon."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            await asyncio.sleep(20)
            looks = node.kernel.calls["routes"]
            node.kernel.wake(Change.ROUTES)
            await until(lambda: node.kernel.calls["routes"] > looks, 1)
            node.kernel.lose_route(net(22))
            assert await until(lambda: routes(node.kernel) == expected(22, 23), 2) < 0.2

    run(scenario())


def test_silent_flush_is_repaired_by_the_scan() -> None:
    """Routes that vanish without an event are back within ten seconds."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            node.kernel.flush(PROTOCOL)
            await until(lambda: routes(node.kernel) == expected(22, 23), 10.1)

    run(scenario())


def test_link_that_goes_and_comes_gets_its_routes_back() -> None:
    """Down and up, or deleted or made anew with another index: the routes are back at once, and readiness too."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            node.kernel.link_down("eth1")
            await until(lambda: "eth1 is down" in node.why_not, 1)
            node.kernel.link_up("eth1")
            await until(lambda: routes(node.kernel) == expected(22, 23), 2)
            node.kernel.remove_link("eth1")
            await until(lambda: "there is no interface eth1" in node.why_not, 3)
            node.kernel.set_link(lan(21, index=9))
            await until(lambda: routes(node.kernel) == expected(22, 23), 3)
            assert {route.link_index for route in node.kernel.table() if route.protocol == PROTOCOL} == {9}
            await until(lambda: node.ready, 1)

    run(scenario())


def test_mtu_change_rewrites_the_file() -> None:
    """A new MTU of the link is in the subnet file at once."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running():
            node.kernel.set_link(lan(21, mtu=1400))
            await until(lambda: "FLANNEL_MTU=1400\n" in (node.file.text or ""), 1)

    run(scenario())


def beside(third: int, protocol: int, *, last: int = 9, tos: int = 0) -> KernelRoute:
    return KernelRoute(net(third), IPv4Address(f"192.168.14.{last}"), 2, protocol, 0, plain=tos == 0, tos=tos)


@pytest.mark.parametrize("before", [True, False])
def test_a_foreign_route_beside_ours_is_never_hit(before: bool) -> None:
    """The peer moves: the foreign route stays where it is, ours has the new gateway, and the old one is gone."""

    async def scenario() -> None:
        etcd = cluster(22, 23)
        node = FakeNode(etcd, env=PINNED)
        static = beside(22, PROTO_STATIC)
        async with node.running():
            (node.kernel.prepend if before else node.kernel.append)(static)
            await asyncio.sleep(2)
            assert node.log.count("route.shadowed") == before
            etcd.put(b"172.7.22.0-24", value("192.168.14.122"))
            await asyncio.sleep(1)
            here = [route for route in node.kernel.table() if route.dst == net(22)]
            ours = beside(22, PROTOCOL, last=122)
            assert here == ([static, ours] if before else [ours, static])
            node.kernel.delete(static)
            await asyncio.sleep(2)
            assert node.kernel.gateways()["172.7.22.0/24"] == "192.168.14.122"
            assert node.log.count("condition.resolved") == before
            assert node.ready

    run(scenario())


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("tos", [0, 16])
def test_one_route_of_ours_is_enough(before: bool, tos: int) -> None:
    """Another one with our number for the same destination goes, wherever it stands, and nothing is done after that."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            expected = node.kernel.table()
            (node.kernel.prepend if before else node.kernel.append)(beside(22, PROTOCOL, tos=tos))
            await until(lambda: node.kernel.table() == expected, 2)
            applied = len(node.kernel.applied)
            await asyncio.sleep(3600)
            assert len(node.kernel.applied) == applied
            dropped = [fields for _, event, fields in node.log.events if event == "route.dropped"]
            assert [fields["reason"] for fields in dropped] == ["duplicate"]

    run(scenario())


def test_a_route_to_a_part_of_a_peers_subnet_is_reported() -> None:
    """It takes packets that ours should take: told once, and resolved when it goes."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        part = replace(beside(22, PROTO_STATIC), dst=IPv4Network("172.7.22.128/25"))
        async with node.running():
            node.kernel.add_foreign(part)
            await until(lambda: node.log.count("route.shadowed") == 1, 2)
            (fields,) = [fields for _, event, fields in node.log.events if event == "route.shadowed"]
            assert (fields["by_dst"], fields["destinations"]) == ("172.7.22.128/25", ["172.7.22.0/24"])
            node.kernel.delete(part)
            await until(lambda: node.log.count("condition.resolved") == 1, 2)

    run(scenario())


def test_foreign_route_is_left_alone_and_followed_by_ours() -> None:
    """Where a foreign route stands ours waits, and is placed as soon as it goes; the others are not held up."""

    async def scenario() -> None:
        etcd = cluster(22, 23)
        node = FakeNode(etcd, env=PINNED)
        static = KernelRoute(net(22), IPv4Address("192.168.14.5"), 2, 4, 0, True)
        node.kernel.add_foreign(static)
        async with node.running():
            assert routes(node.kernel) == expected(23)
            assert node.log.count("route.conflict") == 1
            await asyncio.sleep(200)
            assert static in node.kernel.table()
            node.kernel.delete_route(net(22))
            await until(lambda: routes(node.kernel) == expected(22, 23), 2)
            assert node.log.count("route.conflict") == 1

    run(scenario())


def test_leftover_of_the_go_daemon_is_adopted_in_place() -> None:
    """An exact route of protocol boot becomes ours by one replacement; an inexact one is foreign."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        node.kernel.add_foreign(KernelRoute(net(22), IPv4Address("192.168.14.22"), 2, BOOT, 0, True))
        node.kernel.add_foreign(KernelRoute(net(23), IPv4Address("192.168.14.99"), 2, BOOT, 0, True))
        async with node.running():
            assert routes(node.kernel) == expected(22)
            assert [type(change) for change in node.kernel.applied] == [Replace]

    run(scenario())


def test_one_refused_route_does_not_hold_up_the_others() -> None:
    """A route that the kernel refuses is reported and tried again; the rest is placed."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23, 24), env=PINNED)
        node.kernel.refuse(net(23), errno.ENOBUFS, times=3)
        async with node.running(ready=False):
            await until(lambda: routes(node.kernel) == expected(22, 24), 5)
            assert "172.7.23.0/24: ENOBUFS" in node.why_not
            await until(lambda: node.ready, 10)
            assert routes(node.kernel) == expected(22, 23, 24)

    run(scenario())


def test_lost_kernel_events_are_made_good() -> None:
    """After an overrun of the event socket everything is looked at again."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running():
            node.kernel.lose_events()
            node.kernel.delete_route(net(22))
            await until(lambda: routes(node.kernel) == expected(22), 10.1)
            node.kernel.delete_route(net(22))
            await until(lambda: routes(node.kernel) == expected(22), 2)

    run(scenario())


def test_dead_netlink_ends_the_run_for_a_fresh_process() -> None:
    """Netlink that fails three times in a row ends the daemon; twice is survived."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running() as task:
            node.kernel.fail_calls(2)
            await asyncio.sleep(60)
            assert not task.done()
            assert node.ready
            node.kernel.fail_calls(1000)
            await until(task.done, 60)

    with pytest.raises(ExceptionGroup, match="TaskGroup"):
        run(scenario())


def test_netlink_that_works_again_makes_ready_at_once() -> None:
    """The node is ready again with the first round that goes well, not with the next look ten seconds later."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running():
            node.kernel.fail_calls(2)
            node.kernel.delete_route(net(22))
            await until(lambda: not node.ready, 2)
            assert await until(lambda: node.ready, 10.1) < 5
            assert routes(node.kernel) == expected(22)
            assert node.log.count("kernel.failed") == 1

    run(scenario())


def test_flapping_carrier_costs_two_looks_a_second() -> None:
    """Ten link changes a second for a minute lead to about two looks a second, and the end state is right."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running():
            looks = node.kernel.calls["links"]
            for _ in range(300):
                node.kernel.link_down("eth1")
                await asyncio.sleep(0.1)
                node.kernel.link_up("eth1")
                await asyncio.sleep(0.1)
            assert node.kernel.calls["links"] - looks <= 2 * 60 + 6
            await until(lambda: routes(node.kernel) == expected(22), 3)

    run(scenario())


def test_subnet_file_that_cannot_be_written_is_tried_again() -> None:
    """A full or read-only disk keeps the node from being ready, keeps the lease, and is tried until it works."""

    async def scenario() -> None:
        etcd = cluster(22)
        node = FakeNode(etcd)
        node.file.broken = OSError(errno.ENOSPC, "No space left on device")
        async with node.running(ready=False):
            await until(lambda: routes(node.kernel) == expected(22), 5)
            await asyncio.sleep(100)
            assert "No space left on device" in node.why_not
            assert "READY=1" not in node.manager.told
            assert len(etcd.records()) == 2
            node.file.broken = None
            await until(lambda: node.ready, 31)
            assert "READY=1" in node.manager.told

    run(scenario())


def test_subnet_file_that_others_can_replace_is_reported() -> None:
    """Root sources it: the report names the directory and what mends it; the node is ready all the same."""

    async def scenario() -> None:
        node = FakeNode(cluster(22))
        node.file.exposed = "/opt/flannel belongs to uid 1000: chown root /opt/flannel"
        async with node.running():
            assert node.daemon is not None
            [found] = [one for one in node.daemon.status_source.status().findings if one.topic == "file_exposure"]
            assert (found.event, found.blocks) == ("subnet_file.exposed", False)
            assert "chown root /opt/flannel" in found.text
            node.file.exposed = ""
            await asyncio.sleep(61)
            assert "file_exposure" not in [one.topic for one in node.daemon.status_source.status().findings]

    run(scenario())


def test_watchdog_is_fed_only_while_every_loop_turns() -> None:
    """The service manager hears from us regularly, until a loop has stopped turning."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running() as _:
            await asyncio.sleep(60)
            assert node.manager.told.count("WATCHDOG=1") >= 6
            stuck = next(task for task in asyncio.all_tasks() if task.get_name() == "routes")
            stuck.cancel()
            await asyncio.sleep(0)
            assert node.daemon is not None
            await until(lambda: not node.daemon.health().live, 120)
            told = node.manager.told.count("WATCHDOG=1")
            await asyncio.sleep(60)
            assert node.manager.told.count("WATCHDOG=1") == told
            assert "the routes task has stalled" in node.why_not

    run(scenario())


def test_a_first_look_that_never_ends_is_no_life() -> None:
    """A kernel that does not answer from the very start is seen, as one is that falls silent later."""

    async def scenario() -> None:
        etcd = cluster(22)
        etcd.put(name(21), value("192.168.14.21"))
        node = FakeNode(etcd, env=PINNED)
        node.kernel.routes = lambda **_: asyncio.sleep(1e9, ())  # type: ignore[assignment, method-assign]
        async with node.running(ready=False):
            await until(lambda: node.daemon is not None and not node.daemon.health().live, 120)
            assert "the routes task has stalled" in node.why_not

    run(scenario())


def test_peers_are_followed_in_the_middle_of_a_link_storm() -> None:
    """While links flap on and on, a new peer's route and the repair of another take no longer than half a second."""

    async def scenario() -> None:
        etcd = cluster(22)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            storm = asyncio.create_task(flap_another_link(node.kernel))
            await asyncio.sleep(5)
            etcd.put(name(23), value("192.168.14.23"))
            assert await until(lambda: routes(node.kernel) == expected(22, 23), 2) < 0.05
            node.kernel.delete_route(net(22))
            assert await until(lambda: routes(node.kernel) == expected(22, 23), 2) < 0.6
            storm.cancel()

    run(scenario())


async def flap_another_link(kernel: FakeKernel) -> None:
    while True:
        kernel.wake()
        await asyncio.sleep(0.02)


def test_held_routes_are_not_compared_with_every_event() -> None:
    """While the guard holds routes, a peer's event plans that peer alone; what is wanted again is let go at once."""

    async def scenario() -> None:
        etcd = cluster(*range(22, 62))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            for third in range(22, 62):
                etcd.delete(name(third))
            await until(lambda: node.log.count("guard.holding") == 1, 30)
            assert node.daemon is not None
            table = node.daemon._node.routes  # type: ignore[union-attr]
            await asyncio.sleep(1)
            assert len(table.parked()) == len(routes(node.kernel))
            etcd.put(name(70), value("192.168.14.70"))
            await until(lambda: "172.7.70.0/24" in routes(node.kernel), 1)
            assert table._due == set()
            etcd.put(name(61), value("192.168.14.61"))
            await until(lambda: table.has(net(61)) and len(table.parked()) == len(routes(node.kernel)) - 2, 1)
            await until(lambda: routes(node.kernel) == expected(61, 70), 60)
            assert node.ready

    run(scenario())


def test_ready_is_one_rule() -> None:
    """While the kernel refuses every route nobody hears READY: not the probes, not the service manager, not the log."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        for third in (22, 23):
            node.kernel.refuse(net(third), errno.EPERM, times=30)
        async with node.running(ready=False):
            await asyncio.sleep(10)
            assert (node.ready, node.manager.told.count("READY=1"), node.log.count("daemon.ready")) == (False, 0, 0)
            assert "CAP_NET_ADMIN" in node.why_not
            await until(lambda: node.ready, 60)
            await until(lambda: node.manager.told.count("READY=1") == node.log.count("daemon.ready") == 1, 1)

    run(scenario())


def test_what_the_kernel_has_on_the_link_is_on_it() -> None:
    """A gateway outside the link's networks counts while a link route leads to it; the words say what does else."""

    async def scenario() -> None:
        etcd, lan15 = cluster(22), IPv4Network("192.168.15.0/24")
        etcd.put(name(23), value("192.168.15.23"))
        node = FakeNode(etcd, env=PINNED)
        node.kernel.add_foreign(KernelRoute(IPv4Network("0.0.0.0/0"), IPv4Address("192.168.14.1"), 2, 4, 0, plain=True))
        async with node.running():
            told = next(fields for _, event, fields in node.log.events if event == "peer.quarantined")
            assert told["reason"] == "gateway_off_link"
            assert "the kernel sends packets to it by the router 192.168.14.1" in told["why"]
            node.kernel.add_foreign(KernelRoute(lan15, None, 2, 4, 0, plain=True))
            await until(lambda: node.kernel.gateways(PROTOCOL).get("172.7.23.0/24") == "192.168.15.23", 15)
            node.kernel.delete_route(lan15)
            await until(lambda: node.log.count("peer.quarantined") == 2, 15)
            assert "172.7.23.0/24" in node.kernel.gateways(PROTOCOL), "the kernel keeps a route that is there"

    run(scenario())


def test_a_host_that_accepts_nobody_is_not_ready_without_a_word() -> None:
    """All of several peers quarantined: a condition with the commonest reason, which blocks until one was accepted."""

    async def scenario() -> None:
        etcd = cluster()
        for third in (22, 23, 24):
            etcd.put(name(third), value(f"10.99.0.{third}"))
        etcd.put(name(25), b"{")
        node = FakeNode(etcd, env=PINNED)
        async with node.running(ready=False):
            await until(lambda: node.log.count("peer.none_accepted") == 1, 5)
            assert "none of 4 peers is accepted: 3 of them are quarantined for gateway_off_link" in node.why_not
            etcd.put(name(22), value("192.168.14.22"))
            await until(lambda: node.ready, 5)
            etcd.put(name(22), value("10.99.0.22"))
            etcd.delete(name(22))
            await until(lambda: node.log.count("peer.none_accepted") == 2, 5)
            assert node.ready

    run(scenario())


def test_addresses_of_the_loopback_are_ours() -> None:
    """A gateway that is one of them is refused; a peer's subnet that contains one is told."""

    async def scenario() -> None:
        etcd = cluster(22, 23)
        node = FakeNode(etcd, env=PINNED)
        node.kernel.loopback = frozenset({IPv4Address("192.168.14.23"), IPv4Address("172.7.22.9")})
        async with node.running():
            assert routes(node.kernel) == expected(22)
            assert node.log.count("peer.covers_own_address") == 1
            etcd.delete(name(22))
            await until(lambda: node.log.count("condition.resolved") == 1, 2)
            assert node.ready

    run(scenario())


@pytest.mark.parametrize("ours", [True, False])
def test_a_fight_for_a_route_ends(ours: bool) -> None:
    """Somebody who removes our route, or puts back one that we drop, at every turn: told, not ready, and left alone."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        there = beside(22, PROTOCOL, last=22) if ours else beside(99, PROTOCOL)

        async def fight() -> None:
            while True:
                await asyncio.sleep(0.2)
                if ours and there in node.kernel.table():
                    node.kernel.delete(there)
                elif not ours and there not in node.kernel.table():
                    node.kernel.append(there)

        async with node.running():
            fighter = asyncio.create_task(fight())
            await until(lambda: node.log.count("route.contested") == 1, 30)
            assert not node.ready
            before = len(node.kernel.applied)
            await asyncio.sleep(600)
            assert len(node.kernel.applied) - before < 40, "instead of several in a second"
            assert routes(node.kernel).items() >= expected(23).items()
            fighter.cancel()
            await until(lambda: node.ready and routes(node.kernel) == expected(22, 23), 200)

    run(scenario())


def test_a_flush_now_and_then_is_no_fight() -> None:
    """All routes flushed every ten seconds are repaired at once each time."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            for _ in range(30):
                node.kernel.flush(PROTOCOL)
                await until(lambda: routes(node.kernel) == expected(22, 23), 1)
                await asyncio.sleep(10)
            assert node.log.count("route.contested") == 0

    run(scenario())


@pytest.mark.parametrize("unusable", [b"{", value("8.8.8.8")], ids=["unreadable", "off link"])
def test_a_frozen_subnet_that_lost_its_route_is_told(unusable: bytes) -> None:
    """A route of an earlier run stays while its lease cannot be used; when the link takes it, that is told."""

    async def scenario() -> None:
        etcd = cluster(23)
        etcd.put(name(22), unusable)
        node = FakeNode(etcd, env=PINNED)
        node.kernel.append(beside(22, PROTOCOL, last=22))
        async with node.running():
            assert routes(node.kernel) == expected(22, 23)
            node.kernel.link_down("eth1")
            node.kernel.link_up("eth1")
            await until(lambda: routes(node.kernel) == expected(23), 5)
            await until(lambda: node.log.count("route.lost") == 1, 2)
            told = node.conditions.open()["lost"].text
            assert told == "the route of 172.7.22.0/24 is gone, and its lease cannot be used: none can be put"
            etcd.put(name(22), value("192.168.14.22"))
            await until(lambda: routes(node.kernel) == expected(22, 23), 2)
            await until(lambda: "lost" not in node.conditions.open(), 2)

    run(scenario())


def test_a_start_into_a_wiped_prefix_is_not_called_ready() -> None:
    """While the guard holds the routes of the last run, the log does not say that the daemon is ready; then it does."""

    async def scenario() -> None:
        etcd = cluster(*range(22, 32))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            await until(lambda: len(routes(node.kernel)) == 10, 10)
        for third in range(22, 32):
            etcd.delete(name(third))
        node.log.events.clear()
        async with node.running(ready=False):
            await until(lambda: node.log.count("guard.holding"), 10)
            await until(lambda: node.ready or node.log.count("daemon.ready"), 120)
            assert node.ready
            await until(lambda: node.log.count("daemon.ready"), 5)
            assert node.log.count("daemon.ready") == 1
            assert routes(node.kernel) == {}

    run(scenario())
