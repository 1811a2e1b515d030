"""A daemon with ``--state-dir``: what it saves, and how it boots while etcd is down, on fakes and in virtual time."""

import asyncio
import errno
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from pyflanneld.core.etcd_types import Snapshot
from pyflanneld.core.invalid import Invalid
from pyflanneld.core.lease.saved_state import SavedState, encode_state
from pyflanneld.core.objects.plan import Create
from pyflanneld.core.routes import Route
from pyflanneld.errors import LeaseLost, RegistryUnavailable
from pyflanneld.state.wakeup import WakeUp
from tests.support.fakes.kernel import FakeKernel
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, MemoryState, lan, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until
from tests.unit.test_daemon_dual_stack import BOTH, DUAL, ENV, PEER, cluster, dual_node, dual_value
from tests.unit.test_daemon_dual_stack import OWN as DUAL_OWN

AWAY = RegistryUnavailable("fake: no answer")
OWN, PEERS = b"172.7.21.0-24", {b"172.7.22.0-24": "192.168.14.22", b"172.7.23.0-24": "192.168.14.23"}
ROUTES = {"172.7.22.0/24": "192.168.14.22", "172.7.23.0/24": "192.168.14.23"}


def site(*, peers: dict[bytes, str] = PEERS) -> tuple[FakeEtcd, FakeNode]:
    """Return a cluster whose host 21 has a lease, and that host."""
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    etcd.put(OWN, value("192.168.14.21"), lease_id=etcd.grant(86400))
    for name, address in peers.items():
        etcd.put(name, value(address), lease_id=etcd.grant(86400))
    node = FakeNode(etcd)
    node.state = MemoryState()
    return etcd, node


def stored(node: FakeNode) -> MemoryState:
    assert node.state is not None
    return node.state


async def run_once(node: FakeNode) -> str:
    """Let the daemon run until it has saved what it knows; return the text of subnet.env."""
    async with node.running():
        await until(lambda: stored(node).writes, 10)
    assert node.file.text is not None
    return node.file.text


def reboot(node: FakeNode) -> None:
    """Lose what a reboot takes: the routes and /run."""
    node.kernel = FakeKernel(lan(node.host), protocol=PROTOCOL)
    node.file.text, node.file.writes = None, 0
    node.hangup = WakeUp()
    node.log.events.clear()
    node.manager.told.clear()


def routes(node: FakeNode) -> dict[str, str]:
    return node.kernel.gateways(PROTOCOL)


def test_a_boot_without_etcd_restores_file_and_routes() -> None:
    """The same bytes and the same routes, unready and unconfirmed; with etcd back ready, and nothing has moved."""

    async def scenario() -> None:
        _, node = site()
        text = await run_once(node)
        reboot(node)
        node.registry.down = AWAY
        async with node.running(ready=False):
            took_s = await until(lambda: node.log.count("saved_state.restored"), 5)
            assert took_s < 3
            assert (node.file.text, routes(node)) == (text, ROUTES)
            assert node.daemon is not None
            assert node.daemon.health().live
            assert "unconfirmed" in node.why_not
            assert "READY=1" in node.manager.told
            report = node.daemon.status_source.status()
            assert report.unconfirmed_s is not None
            assert report.lease is not None
            assert not report.lease.confirmed
            await until(lambda: "unconfirmed" in node.manager.told[-1], 5)
            await asyncio.sleep(3600)
            assert node.daemon.health().live
            done = len(node.kernel.applied)
            node.registry.down = None
            await until(lambda: node.ready, 30)
            assert node.log.count("saved_state.confirmed") == 1
            assert node.kernel.applied[done:] == []
            assert (node.file.text, node.file.writes, routes(node)) == (text, 1, ROUTES)
            assert node.daemon.status_source.status().unconfirmed_s is None

    run(scenario())


def test_an_etcd_that_answers_needs_no_stand_in() -> None:
    """Within the first moments an etcd that fails once, or has no configuration yet, is waited for."""

    async def scenario() -> None:
        etcd, node = site()
        await run_once(node)
        reboot(node)
        etcd.delete_key(b"config")
        async with node.running(ready=False):
            await asyncio.sleep(60)
            assert (node.file.text, routes(node), node.log.count("saved_state.in_use")) == (None, {}, 0)
        node.registry.fail_next(1)
        etcd.put_config(CONFIG)
        async with node.running():
            assert node.log.count("saved_state.in_use") == node.log.count("saved_state.confirmed") == 0

    run(scenario())


def test_a_peer_that_left_meanwhile_is_dropped_when_etcd_is_back() -> None:
    """The complete list decides, and a peer that came meanwhile gets its route."""

    async def scenario() -> None:
        etcd, node = site()
        await run_once(node)
        reboot(node)
        node.registry.down = AWAY
        etcd.delete(b"172.7.22.0-24")
        etcd.put(b"172.7.24.0-24", value("192.168.14.24"), lease_id=etcd.grant(86400))
        async with node.running(ready=False):
            await until(lambda: routes(node) == ROUTES, 5)
            node.registry.down = None
            await until(lambda: node.ready, 30)
            assert routes(node) == {"172.7.23.0/24": "192.168.14.23", "172.7.24.0/24": "192.168.14.24"}

    run(scenario())


def test_an_etcd_that_came_back_empty_is_met_with_the_guard() -> None:
    """Most routes gone at once are held, as in a daemon that runs; an older history is doubted even for one."""

    async def scenario() -> None:
        peers = {f"172.7.{host}.0-24".encode(): f"192.168.14.{host}" for host in range(30, 40)}
        etcd, node = site(peers=peers)
        before = etcd.backup()
        etcd.put(b"172.7.50.0-24", value("192.168.14.50"), lease_id=etcd.grant(86400))
        await run_once(node)
        reboot(node)
        node.registry.down = AWAY
        etcd.restore(before)
        async with node.running(ready=False):
            await until(lambda: len(routes(node)) == 11, 5)
            node.registry.down = None
            await until(lambda: node.log.count("guard.holding"), 30)
            assert "172.7.50.0/24" in routes(node)

    run(scenario())


def test_a_subnet_that_is_another_nodes_by_now() -> None:
    """The node takes a new one, as any start would, and says loudly what happened; the file names the new one."""

    async def scenario() -> None:
        etcd, node = site()
        text = await run_once(node)
        reboot(node)
        node.registry.down = AWAY
        etcd.put(OWN, value("192.168.14.99"), lease_id=etcd.grant(86400))
        async with node.running(ready=False):
            await until(lambda: node.file.text == text, 5)
            node.registry.down = None
            await until(lambda: node.ready, 30)
            assert node.log.count("saved_state.superseded") == 1
            assert node.file.text is not None
            assert "172.7.21.1/24" not in node.file.text
            assert routes(node) == ROUTES | {"172.7.21.0/24": "192.168.14.99"}
            await until(lambda: stored(node).state.own.name != OWN, 30)

    run(scenario())


def refused(state: SavedState, node: FakeNode) -> str:
    """Start without etcd on *state*; return the problem, once nothing has been restored from it."""
    stored(node).data = encode_state(state)
    return refused_as_is(node)


def refused_as_is(node: FakeNode) -> str:
    async def scenario() -> str:
        reboot(node)
        node.registry.down = AWAY
        async with node.running(ready=False):
            await asyncio.sleep(300)
            assert (node.file.text, routes(node)) == (None, {})
            assert node.daemon is not None
            assert node.daemon.health().live
            found = node.conditions.open()["restore"]
            assert found.event == "saved_state.unusable"
            assert node.log.count("saved_state.unusable") == 1
            node.registry.down = None
            await until(lambda: node.ready, 30)
            assert node.conditions.open() == {}
            assert routes(node) == ROUTES
        return found.text

    return run(scenario())


def saved() -> tuple[FakeNode, SavedState]:
    """Return a host that has been down for a minute, and what it saved."""
    _, node = site()
    run(run_once(node))
    return node, stored(node).state


CHANGES = {
    "prefix": ({"prefix": "/other"}, "the prefix '/other'"),
    "api": ({"api": 2}, "API 2"),
    "expired": ({"lease_end_s": 1_700_000_500.0}, "run out at 2023-11-14T22:21:40Z"),
    "clock set back": ({"saved_at_s": 1_700_009_999.0}, "was set back"),
    "old": ({"saved_at_s": 1_699_900_000.0, "lease_end_s": None}, "leases live"),
    "network": ({"config": CONFIG.replace(b"172.7", b"172.8")}, "does not fit the network 172.8.0.0/16"),
    "config": ({"config": b"{}"}, "Network"),
    "backend": ({"config": CONFIG.replace(b"host-gw", b"ipip")}, "'ipip'"),
    "dual stack": (
        {"config": CONFIG.replace(b"{", b'{"EnableIPv6":true,"IPv6Network":"2001:db8:42::/56",', 1)}, "IPv6"
    ),
}


@pytest.mark.parametrize(("changes", "why"), CHANGES.values(), ids=CHANGES)
def test_what_does_not_fit_is_not_used(changes: dict[str, object], why: str) -> None:
    """Another prefix, API, network or family, an old state, a wrong clock: said once, and the start waits for etcd."""
    node, state = saved()
    node.configure(etcd_api="3")
    assert why in refused(replace(state, **changes), node)  # type: ignore[arg-type]


def test_another_address_is_not_used() -> None:
    """A state that was saved for another address (a cloned disk, a host that was renumbered) is not used."""
    node, state = saved()
    own = replace(state.own, value=value("192.168.14.20"))
    assert "192.168.14.21 with the backend host-gw" in refused(replace(state, own=own), node)


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"[]", b'{"format":2}', b"\xff", b"{" * 300_000])
def test_what_is_no_state_is_not_used(data: bytes) -> None:
    """A torn or foreign file is refused with its reason."""
    node, _ = saved()
    stored(node).data = data
    assert "is not used: " in refused_as_is(node)


def test_a_clock_that_is_set_later_is_noticed() -> None:
    """A host whose clock starts in the past waits; once the clock is right the state is used."""

    async def scenario() -> None:
        _, node = site()
        await run_once(node)
        reboot(node)
        node.registry.down = AWAY
        node.clock.boot_at_s -= 86400
        async with node.running(ready=False):
            await until(lambda: node.log.count("saved_state.unusable"), 5)
            node.clock.boot_at_s += 86400
            await until(lambda: node.log.count("saved_state.restored"), 120)
            assert routes(node) == ROUTES

    run(scenario())


def test_routes_of_ours_that_are_there_are_left_alone() -> None:
    """After a restart without a reboot the kernel knows more than the file: nothing is replaced or dropped."""

    async def scenario() -> None:
        _, node = site()
        await run_once(node)
        reboot(node)
        newer = {"172.7.22.0/24": "192.168.14.98", "172.7.77.0/24": "192.168.14.77"}
        for dst, gateway in newer.items():
            await node.kernel.apply([Create(Route(IPv4Network(dst), IPv4Address(gateway), 2))])
        node.registry.down = AWAY
        async with node.running(ready=False):
            await until(lambda: node.log.count("saved_state.restored"), 5)
            await asyncio.sleep(60)
            assert routes(node) == newer | {"172.7.23.0/24": "192.168.14.23"}
            node.kernel.delete_route(IPv4Network("172.7.23.0/24"))
            await until(lambda: "172.7.23.0/24" in routes(node), 1)
            node.registry.down = None
            await until(lambda: node.ready, 30)
            assert routes(node) == ROUTES

    run(scenario())


def test_what_is_saved_and_when() -> None:
    """At the start, soon after a change, once an hour for its age; nothing while nothing changes."""

    async def scenario() -> None:
        etcd, node = site()
        state = stored(node)
        async with node.running():
            await until(lambda: state.writes, 10)
            assert [peer.name for peer in state.state.peers] == list(PEERS)
            await asyncio.sleep(3500)
            assert state.writes == 1
            await until(lambda: state.writes == 2, 900)
            assert state.state.lease_end_s is not None
            assert state.state.lease_end_s - node.clock.wall_s() > 23 * 3600 - 600
            for host in range(30, 60):
                etcd.put(f"172.7.{host}.0-24".encode(), value(f"192.168.14.{host}"), lease_id=etcd.grant(86400))
            etcd.put(b"172.7.99.0-24", b"nonsense")
            etcd.put(b"172.7.98.0-24", value("192.168.14.98").replace(b"{", b'{"x":"' + b"y" * 60_000 + b'",', 1))
            await asyncio.sleep(20)
            assert state.writes <= 4
            assert len(state.state.peers) == 32

    run(scenario())


def test_nothing_doubtful_is_saved() -> None:
    """While the guard holds routes the file stays as it was; when they go, it follows."""

    async def scenario() -> None:
        peers = {f"172.7.{host}.0-24".encode(): f"192.168.14.{host}" for host in range(30, 40)}
        etcd, node = site(peers=peers)
        state = stored(node)
        async with node.running():
            await until(lambda: state.writes, 10)
            await asyncio.sleep(10)
            written = state.writes
            for name in peers:
                etcd.delete(name)
            await until(lambda: node.log.count("guard.holding"), 10)
            await asyncio.sleep(15)
            assert (state.writes, len(state.state.peers)) == (written, 10)
            await until(lambda: not routes(node), 120)
            await until(lambda: not state.state.peers, 10)

    run(scenario())


def test_a_disk_that_fails_is_a_problem_and_no_more() -> None:
    """It is said, does not stand against readiness, is tried again ever more rarely, and is resolved."""

    async def scenario() -> None:
        _, node = site()
        state = stored(node)
        state.broken = OSError(errno.ENOSPC, "No space left on device")
        async with node.running():
            await until(lambda: "last_good" in node.conditions.open(), 10)
            assert "No space left on device" in node.conditions.open()["last_good"].text
            await asyncio.sleep(3600)
            assert node.ready
            assert state.tries < 30
            state.broken = None
            await until(lambda: "last_good" not in node.conditions.open(), 400)
            assert state.writes == 1

    run(scenario())


def test_a_lost_lease_is_forgotten() -> None:
    """When the subnet is another node's, no later boot may go by the file."""
    etcd, node = site()

    async def scenario() -> None:
        async with node.running() as task:
            await until(lambda: stored(node).writes, 10)
            etcd.put(OWN, value("192.168.14.99"), lease_id=etcd.grant(86400))
            await until(task.done, 30)

    with pytest.raises(ExceptionGroup) as raised:
        run(scenario())
    assert raised.group_contains(LeaseLost)
    assert (stored(node).data, stored(node).writes, stored(node).forgotten) == (None, 1, True)


def test_a_state_that_is_too_large_is_not_saved() -> None:
    """A cluster beyond the format's bounds is a problem with its reason, and never a torn file."""
    node, state = saved()
    many = tuple(replace(state.peers[0], value=b"x" * 100_000) for _ in range(100))
    with pytest.raises(Invalid, match="at most"):
        encode_state(replace(state, peers=many))
    assert stored(node).state == state


@pytest.mark.parametrize("call", ["read_config", "list_subnets", "renew"])
def test_an_etcd_that_hangs_or_dies_on_the_way(call: str) -> None:
    """Whatever of the start gets no answer, something stands in; the rest of the start goes on when it can."""

    async def scenario() -> None:
        _, node = site()
        await run_once(node)
        reboot(node)
        answer, back = getattr(node.registry, call), asyncio.Event()

        async def late(*given: object) -> object:
            if not back.is_set():
                if call == "read_config":
                    await back.wait()
                raise AWAY
            return await answer(*given)

        setattr(node.registry, call, late)
        async with node.running(ready=False):
            await until(lambda: node.log.count("saved_state.restored"), 10)
            assert routes(node) == ROUTES
            back.set()
            await until(lambda: node.ready, 30)
            assert node.conditions.open() == {}

    run(scenario())


@pytest.mark.parametrize("used", [True, False])
def test_the_host_hears_of_the_network_that_is_served_in_the_end(used: bool) -> None:
    """Another one than the saved one, which was claimed in between, whether it could be used or not."""

    async def no_list(*, elsewhere: bool = False) -> Snapshot:  # noqa: ARG001 - the port's
        raise AWAY

    async def scenario() -> None:
        etcd, node = site(peers={})
        await run_once(node)
        reboot(node)
        etcd.put_config(CONFIG.replace(b"172.7.", b"10.9."))
        if not used:
            stored(node).data = encode_state(replace(stored(node).state, prefix="/other"))
        list_subnets, node.registry.list_subnets = node.registry.list_subnets, no_list  # type: ignore[method-assign]
        async with node.running(ready=False):
            await until(lambda: node.log.count("saved_state.in_use") or node.log.count("saved_state.unusable"), 10)
            assert node.host_networks.claimed == (IPv4Network("172.7.0.0/16"),)
            node.registry.list_subnets = list_subnets  # type: ignore[method-assign]
            await until(lambda: node.ready, 60)
            assert node.host_networks.claimed == (IPv4Network("10.9.0.0/16"),)

    run(scenario())


def test_a_reservation_is_good_for_a_day() -> None:
    """It does not run out, but the peers' leases do: what is older than a day is not used."""

    async def scenario() -> None:
        etcd, node = site()
        etcd.put(OWN, value("192.168.14.21"))
        await run_once(node)
        assert stored(node).state.lease_end_s is None
        reboot(node)
        node.registry.down = AWAY
        node.clock.boot_at_s += 23 * 3600
        async with node.running(ready=False):
            await until(lambda: routes(node) == ROUTES, 5)
        reboot(node)
        node.clock.boot_at_s += 3600
        async with node.running(ready=False):
            await until(lambda: node.log.count("saved_state.unusable"), 5)
            assert routes(node) == {}

    run(scenario())


def test_an_outage_makes_what_is_saved_no_younger() -> None:
    """A daemon that runs on through an outage does not date forward what it last heard."""

    async def scenario() -> None:
        etcd, node = site()
        etcd.put(OWN, value("192.168.14.21"))
        state = stored(node)
        async with node.running():
            await until(lambda: state.writes, 10)
            node.registry.down = AWAY
            heard_s = node.clock.wall_s()
            writes = state.writes
            await asyncio.sleep(4 * 3600)
            assert (state.writes, state.state.saved_at_s <= heard_s) == (writes, True)

    run(scenario())


def test_a_clock_that_was_set_back_makes_it_save_again() -> None:
    """Else the next boot would take what was saved for the future's."""

    async def scenario() -> None:
        _, node = site()
        state = stored(node)
        async with node.running():
            await until(lambda: state.writes, 10)
            node.clock.boot_at_s -= 7200
            await until(lambda: state.writes == 2, 10)
            assert state.state.saved_at_s <= node.clock.wall_s()

    run(scenario())


def test_both_halves_of_a_dual_stack_node_are_restored() -> None:
    """The six lines of the file, and the routes of both families; without an IPv6 address nothing is."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        node.state = MemoryState()
        etcd.put(PEER, dual_value(22), lease_id=etcd.grant(86400))
        assert await run_once(node) == ENV
        link = (await node.kernel.links())[0]
        reboot(node)
        node.registry.down = AWAY
        async with node.running(ready=False):
            await until(lambda: node.log.count("saved_state.unusable"), 5)
            assert "IPv6 address" in node.conditions.open()["restore"].text
        reboot(node)
        node.kernel.set_link(link)
        async with node.running(ready=False):
            await until(lambda: node.log.count("saved_state.restored"), 5)
            assert (node.file.text, routes(node)) == (ENV, BOTH)
            node.registry.down = None
            await until(lambda: node.ready, 30)
            assert routes(node) == BOTH

    run(scenario())


async def leased_after_a_loss(etcd: FakeEtcd, node: FakeNode, *, env: str | None = None) -> bytes:
    """Lose the routes, /run and this host's key, start with etcd up, and return the name of the key that is leased."""
    reboot(node)
    node.file.text = env
    async with node.running():
        (own,) = (one.name for one in etcd.records() if one.value == value("192.168.14.21"))
        return own


def test_without_key_and_file_the_saved_subnet_is_asked_for() -> None:
    """Docker's containers keep their addresses: neither subnet.env nor etcd knows the subnet, the saved state does."""

    async def scenario() -> None:
        etcd, node = site()
        text = await run_once(node)
        etcd.delete(OWN)
        assert await leased_after_a_loss(etcd, node) == OWN
        assert node.file.text == text
        assert node.log.count("lease.previous_refused") == 0

    run(scenario())


def test_the_file_and_a_key_count_before_the_saved_subnet() -> None:
    """What subnet.env names is asked for, and what etcd holds for this address is held again."""

    async def scenario() -> None:
        etcd, node = site()
        await run_once(node)
        etcd.delete(OWN)
        assert await leased_after_a_loss(etcd, node, env="FLANNEL_SUBNET=172.7.77.1/24\n") == b"172.7.77.0-24"
        etcd.delete(b"172.7.77.0-24")
        etcd.put(b"172.7.30.0-24", value("192.168.14.21"), lease_id=etcd.grant(86400))
        assert await leased_after_a_loss(etcd, node) == b"172.7.30.0-24"

    run(scenario())


def test_a_saved_subnet_that_is_another_nodes_is_left_to_it() -> None:
    """It is reported, and a free one is leased."""

    async def scenario() -> None:
        etcd, node = site()
        await run_once(node)
        etcd.delete(OWN)
        etcd.put(OWN, value("192.168.14.99"), lease_id=etcd.grant(86400))
        assert await leased_after_a_loss(etcd, node) != OWN
        assert node.log.count("lease.previous_refused") == 1

    run(scenario())


ELSEWHERE = {
    "prefix": {"prefix": "/other"},
    "address": {"own": value("192.168.14.20")},
    "network": {"own_name": b"172.8.21.0-24"},
    "length": {"own_name": b"172.7.21.0-25"},
}


@pytest.mark.parametrize("changes", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_saved_subnet_of_elsewhere_is_not_asked_for(changes: dict[str, bytes | str]) -> None:
    """Of another prefix, of another host, outside the network, of another length: a free one is leased, quietly."""

    async def scenario() -> None:
        etcd, node = site()
        await run_once(node)
        etcd.delete(OWN)
        state = stored(node).state
        own = replace(state.own, value=changes.get("own", state.own.value), name=changes.get("own_name", OWN))
        stored(node).data = encode_state(replace(state, own=own, prefix=changes.get("prefix", state.prefix)))
        name = await leased_after_a_loss(etcd, node)
        assert name not in (OWN, own.name)
        assert name.endswith(b"-24")
        assert node.log.count("lease.previous_refused") == 0

    run(scenario())


def test_a_state_that_cannot_be_read_is_reported_where_its_subnet_was_wanted() -> None:
    """A torn file and a failing disk cost the subnet, not the start; with a subnet file nobody reads them."""

    async def scenario() -> None:
        etcd, node = site()
        await run_once(node)
        etcd.delete(OWN)
        stored(node).data = b"{"
        assert await leased_after_a_loss(etcd, node, env="FLANNEL_SUBNET=172.7.21.1/24\n") == OWN
        assert node.log.count("saved_state.ignored") == 0
        etcd.delete(OWN)
        stored(node).data = b"{"
        assert await leased_after_a_loss(etcd, node) != OWN
        assert node.log.count("saved_state.ignored") == 1

    run(scenario())


def test_both_saved_halves_are_asked_for() -> None:
    """In a dual-stack network; the IPv6 one alone where the IPv4 network is another by now."""

    async def scenario() -> None:
        etcd = cluster()
        node = dual_node(etcd)
        node.state = MemoryState()
        assert await run_once(node) == ENV
        link = (await node.kernel.links())[0]
        for config, expected in ((DUAL, DUAL_OWN), (DUAL.replace(b"172.7", b"172.9"), b"&2001:cafe:42:7::-64")):
            etcd.put_config(config)
            for record in etcd.records():
                etcd.delete(record.name)
            reboot(node)
            node.kernel.set_link(link)
            async with node.running():
                (record,) = etcd.records()
                assert record.name.endswith(expected)
                await until(lambda: stored(node).state.config == config, 30)  # noqa: B023

    run(scenario())


def test_other_rules_than_those_that_were_saved() -> None:
    """The network has moved to nft meanwhile: the old loops are not missed, and their problems are over."""

    async def scenario() -> None:
        etcd, node = site()
        node.configure(ip_masq=True)
        await run_once(node)
        reboot(node)
        node.registry.down = AWAY
        etcd.put_config(CONFIG.replace(b"{", b'{"EnableNFTables":true,', 1))
        async with node.running(ready=False):
            await until(lambda: node.log.count("saved_state.restored"), 5)
            node.conditions.report("firewall forwarding", "firewall.failed", "as if", blocks=False)
            node.registry.down = None
            await until(lambda: node.ready, 30)
            await asyncio.sleep(3600)
            assert node.ready, node.why_not
            assert node.conditions.open() == {}

    run(scenario())
