"""The own lease, from the daemon's first look to its loss: real loops, a cluster in memory, virtual time."""

import asyncio
from ipaddress import IPv4Interface

import pytest

from pyflanneld.core.link.selection import Link
from pyflanneld.errors import LeaseLost, RegistryDenied, RegistryError, RegistryUnavailable, UnsupportedConfig
from tests.support.fakes.node import CONFIG, FakeNode, value
from tests.support.fakes.registry import SUBNETS, Event, FakeEtcd
from tests.support.fakes.virtual_time import run, until

PINNED = "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
OWN = b"172.7.21.0-24"


def cluster() -> FakeEtcd:
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    return etcd


def held(etcd: FakeEtcd) -> dict[bytes, bytes]:
    return {record.name: record.value for record in etcd.records()}


def test_pinned_subnet_is_leased_and_the_file_left_alone() -> None:
    """The subnet that a hand-written file names is leased, and the file is not touched."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            assert held(etcd) == {OWN: value("192.168.14.21")}
            assert node.file.text == PINNED
            assert node.file.writes == 0
            assert "READY=1" in node.manager.told

    run(scenario())


def test_lease_of_our_address_is_held_again_without_a_write() -> None:
    """A restart finds its lease by the public address and writes nothing into etcd."""

    async def scenario() -> None:
        etcd = cluster()
        record = etcd.put(b"172.7.40.0-24", value("192.168.14.21"), lease_id=etcd.grant(86400))
        revision = etcd.state.revision
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            assert etcd.records() == (record,)
            assert etcd.state.revision == revision
            assert "FLANNEL_SUBNET=172.7.40.1/24\n" in (node.file.text or "")

    run(scenario())


def test_vanished_key_is_taken_again_at_once() -> None:
    """A deleted or revoked own key is back within a second, the same subnet, the file untouched."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.delete(OWN)
            assert await until(lambda: OWN in held(etcd), 1) < 1
            etcd.revoke(etcd.records()[0].lease_id)
            assert await until(lambda: OWN in held(etcd), 1) < 1
            await until(lambda: node.ready, 1)
            assert node.file.writes == 0
            assert node.log.count("lease.retaken") == 2

    run(scenario())


@pytest.mark.parametrize("error", [RegistryUnavailable("database space exceeded"), RegistryDenied("permission denied")])
def test_vanished_key_that_cannot_be_put_back(error: RegistryError) -> None:
    """Not ready from etcd's word that the key is gone until it is back; every report says so and what to do."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            node.registry.refusal = error
            etcd.delete(OWN)
            await until(lambda: not node.ready, 1)
            await asyncio.sleep(600)
            assert not node.ready
            assert "no peer has a route here" in node.why_not
            assert node.daemon is not None
            report = node.daemon.status_source.status()
            assert report.lease is not None
            assert (report.lease.absent, report.lease.confirmed, report.lease.left_s) == (True, False, 0.0)
            [finding] = [one for one in report.findings if one.event == "lease.vanished"]
            assert finding.blocks
            assert "etcd refuses the write" in finding.hint
            assert node.log.count("lease.vanished") <= 3
            node.registry.refusal = None
            await until(lambda: node.ready, 45)
            assert held(etcd) == {OWN: value("192.168.14.21")}

    run(scenario())


def test_what_waits_for_the_proof_goes_on_with_it() -> None:
    """Routes whose leases went with ours are decided on when the lease is proved again, not at the next scan."""

    async def scenario() -> None:
        etcd = cluster()
        for host in range(22, 28):
            etcd.put(b"172.7.%d.0-24" % host, value(f"192.168.14.{host}"))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            node.registry.refusal = RegistryUnavailable("database space exceeded")
            for record in etcd.records():
                etcd.delete(record.name)
            await until(lambda: not node.ready, 1)
            await asyncio.sleep(1)
            assert node.log.count("guard.holding") == 0
            node.registry.refusal = None
            await until(lambda: node.log.count("lease.retaken") == 1, 45)
            assert await until(lambda: node.log.count("guard.holding") == 1, 15) < 0.1

    run(scenario())


def test_gone_by_the_watch_alone() -> None:
    """What the watch says counts, whatever becomes of the calls: lists and reads miss their deadline."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            node.registry.fail_next(10_000)
            etcd.delete(OWN)
            await until(lambda: not node.ready, 1)
            await asyncio.sleep(300)
            assert "is gone from etcd" in node.why_not

    run(scenario())


def test_an_old_word_of_the_watch_is_none() -> None:
    """A deletion from before the key was taken again, told late, says nothing."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.delete(OWN)
            await until(lambda: OWN in held(etcd), 1)
            await asyncio.sleep(1)
            told = node.log.count("lease.vanished")
            etcd._tell(Event(etcd.records()[0].create_revision - 1, SUBNETS + OWN, None))
            await asyncio.sleep(1)
            assert node.ready
            assert node.log.count("lease.vanished") == told

    run(scenario())


def test_key_taken_by_another_is_never_overwritten() -> None:
    """When another node's address stands at our key the daemon ends with ``LeaseLost`` and leaves the key alone."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running() as task:
            theirs = etcd.put(OWN, value("192.168.14.99"), lease_id=etcd.grant(86400))
            await until(task.done, 5)
            with pytest.raises(ExceptionGroup) as caught:
                task.result()
            assert caught.group_contains(LeaseLost, match=r"192\.168\.14\.99")
            assert etcd.records() == (theirs,)
            with pytest.raises(ExceptionGroup):
                await task

    with pytest.raises(ExceptionGroup):
        run(scenario())


def test_vanished_key_whose_place_is_taken_is_lost() -> None:
    """An overlapping lease that came after ours had vanished is respected."""

    async def scenario() -> list[bytes]:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running() as task:
            node.registry.down = RegistryUnavailable("cut")
            etcd.delete(OWN)
            etcd.put(b"172.7.21.0-25", value("192.168.14.98"))
            node.registry.down = None
            await until(task.done, 60)
        return [record.name for record in etcd.records()]

    with pytest.raises(ExceptionGroup) as caught:
        run(scenario())
    assert caught.group_contains(LeaseLost, match="overlaps")


@pytest.mark.parametrize("name", [b"172.7.21.0-25", b"172.7.21.64-26", b"172.7.16.0-20"])
def test_junk_that_was_there_before_costs_no_subnet(name: bytes) -> None:
    """A key that overlaps ours and cannot be read came while ours was there: no host's; the vanished key comes back."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running() as task:
            etcd.put(name, b"junk")
            await asyncio.sleep(5)
            etcd.delete(OWN)
            await until(lambda: OWN in held(etcd), 5)
            await until(lambda: node.ready, 5)
            assert not task.done()

    run(scenario())


def test_junk_that_came_since_is_told_and_waited_out() -> None:
    """A key that cannot be read and has come since ours vanished may be a live host's: nobody is pushed aside, and the
    daemon neither ends nor moves."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running() as task:
            node.registry.down = RegistryUnavailable("cut")
            etcd.delete(OWN)
            etcd.put(b"172.7.21.0-25", b"junk")
            node.registry.down = None
            await until(lambda: "overlaps it; delete it" in node.why_not, 60)
            await asyncio.sleep(300)
            assert not task.done()
            assert OWN not in held(etcd)
            etcd.delete(b"172.7.21.0-25")
            await until(lambda: node.ready, 60)
            assert held(etcd) == {OWN: value("192.168.14.21")}

    run(scenario())


@pytest.fixture
def seldom_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is read every ten minutes: days pass quickly then."""
    monkeypatch.setattr("pyflanneld.tasks.objects.reconcile.SCAN_S", 600.0)


@pytest.mark.usefixtures("seldom_scanned")
def test_reservation_stays_one() -> None:
    """A key without TTL that carries our address is held, longer than leases live, without a single write."""

    async def scenario() -> None:
        etcd = cluster()
        record = etcd.put(b"172.7.50.0-24", value("192.168.14.21"))
        node = FakeNode(etcd)
        async with node.running():
            await asyncio.sleep(86400 + 3600)
            assert etcd.records() == (record,)
            assert node.ready

    run(scenario())


def test_day_without_events_writes_nothing() -> None:
    """In a quiet day nothing is written to etcd or to the kernel, and renewals wake no peer."""

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(b"172.7.22.0-24", value("192.168.14.22"), lease_id=etcd.grant(86400))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            revision, applied, told = etcd.state.revision, len(node.kernel.applied), len(node.log.events)
            await asyncio.sleep(86400)
            assert etcd.state.revision == revision
            assert len(node.kernel.applied) == applied
            assert [event for level, event, _ in node.log.events[told:] if level != "debug"] == []
            assert node.ready

    run(scenario())


@pytest.mark.usefixtures("seldom_scanned")
def test_outage_keeps_everything_and_readiness_until_the_proof_ends() -> None:
    """With etcd gone nothing changes; readiness goes when the lease can have expired, and returns with etcd."""

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(b"172.7.22.0-24", value("192.168.14.22"))
        node = FakeNode(etcd, env=PINNED)
        async with node.running() as task:
            table = node.kernel.table()
            node.registry.down = RegistryUnavailable("everything is down")
            node.registry.cut_watches()
            await asyncio.sleep(23.5 * 3600)
            assert node.ready
            await asyncio.sleep(3600)
            assert not node.ready
            assert "not been confirmed" in node.why_not
            assert node.kernel.table() == table
            assert not task.done()
            assert node.log.count("etcd.unavailable") < 24.5 * 3600 / 300 * 2 + 4
            node.registry.down = None
            await until(lambda: node.ready, 61)

    run(scenario())


def test_lost_reply_of_the_creation_costs_no_second_subnet() -> None:
    """When the reply to the creation is lost, the lease is found again by its address."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd)
        node.registry.lose_next_reply()
        async with node.running():
            assert list(held(etcd).values()) == [value("192.168.14.21")]

    run(scenario())


def test_changed_value_is_put_right() -> None:
    """Somebody's change of the value on our own lease is undone, guarded."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            lease_id = etcd.records()[0].lease_id
            etcd.put(OWN, b"junk", lease_id=lease_id)
            await until(lambda: held(etcd)[OWN] == value("192.168.14.21"), 2)
            assert etcd.records()[0].lease_id == lease_id

    run(scenario())


def test_junk_that_nobody_proves_ours_is_reported_and_kept() -> None:
    """A broken value on a foreign lease is not overwritten; the node says so and recovers when it goes."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running() as task:
            junk = etcd.put(OWN, b"junk")
            await until(lambda: not node.ready, 2)
            await asyncio.sleep(600)
            assert etcd.records() == (junk,)
            assert not task.done()
            etcd.delete(OWN)
            await until(lambda: node.ready, 40)
            assert held(etcd) == {OWN: value("192.168.14.21")}

    run(scenario())


def test_renumbered_link_is_published() -> None:
    """A new address of the link is written into the own lease, on the same key and lease."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            before = etcd.records()[0]
            node.kernel.set_link(Link(2, "eth1", 1500, True, (IPv4Interface("192.168.14.77/24"),)))
            await until(lambda: held(etcd)[OWN] == value("192.168.14.77"), 3)
            assert node.registry.reconnects == 1, "the old connection's source address is gone"
            after = etcd.records()[0]
            assert (after.create_revision, after.lease_id) == (before.create_revision, before.lease_id)

    run(scenario())


def test_fifty_nodes_at_once_get_fifty_subnets() -> None:
    """Fifty simultaneous starts end with fifty distinct subnets within ten seconds."""

    async def scenario() -> None:
        etcd = cluster()
        nodes = [FakeNode(etcd, host) for host in range(100, 150)]
        tasks = [asyncio.create_task(node.build().run()) for node in nodes]
        await until(lambda: len(etcd.records()) == 50, 10)
        await until(lambda: all(node.ready for node in nodes), 5)
        assert len({record.value for record in etcd.records()}) == 50
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run(scenario())


def test_refused_creation_is_one_condition() -> None:
    """Lists work and the write is refused: one condition that lasts, resolved when the write has succeeded."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd)
        node.registry.refusal = RegistryUnavailable("database space exceeded")
        async with node.running(ready=False):
            await asyncio.sleep(3600)
            assert "database space exceeded" in node.why_not
            assert node.log.count("condition.resolved") == 0
            assert node.log.count("etcd.unavailable") <= 5
            node.registry.refusal = None
            await until(lambda: node.ready, 15)
            assert node.log.count("condition.resolved") == 1

    run(scenario())


def test_configuration_that_cannot_be_watched_is_one_condition() -> None:
    """Reads work, there is no configuration, and no watch opens: one condition that lasts."""

    async def scenario() -> None:
        etcd = FakeEtcd()
        node = FakeNode(etcd)
        node.registry.watches_down = RegistryUnavailable("no watch")
        async with node.running(ready=False):
            await asyncio.sleep(600)
            assert node.log.count("condition.resolved") == 0
            node.registry.watches_down = None
            etcd.put_config(CONFIG)
            await until(lambda: node.ready, 15)

    run(scenario())


def full_cluster() -> FakeEtcd:
    """Return a cluster whose network has three subnets of /26, all of them leased."""
    etcd = FakeEtcd()
    etcd.put_config(b'{"Network":"10.9.0.0/24","Backend":{"Type":"host-gw"}}')
    for host, name in enumerate((b"10.9.0.64-26", b"10.9.0.128-26", b"10.9.0.192-26"), 30):
        etcd.put(name, value(f"192.168.14.{host}"))
    return etcd


def test_exhausted_network_is_said_and_waited_for() -> None:
    """Without a free subnet the node says so, waits, and takes the first that is freed within five seconds."""

    async def scenario() -> None:
        etcd = full_cluster()
        node = FakeNode(etcd)
        async with node.running(ready=False):
            await until(lambda: "no free subnet" in node.why_not, 5)
            etcd.delete(b"10.9.0.128-26")
            assert await until(lambda: node.ready, 6) <= 6
            assert node.log.count("lease.exhausted") == 1

    run(scenario())


def test_two_hosts_with_one_address() -> None:
    """Both say so after two renewals by the other; only the one that has found the lease is not ready. When the other
    is gone, all is well again."""

    async def scenario() -> None:
        etcd = cluster()
        first, second = FakeNode(etcd, env=PINNED), FakeNode(etcd, env=PINNED)
        async with first.running():
            await asyncio.sleep(100)  # they draw the same numbers, and would renew at the same moments
            async with second.running():
                assert len(held(etcd)) == 1
                await until(lambda: first.log.count("lease.shared") and second.log.count("lease.shared"), 1500, 1)
                assert first.ready
                assert "192.168.14.21" in second.why_not
                await asyncio.sleep(3600)
                assert first.ready
                assert not second.ready
                assert first.log.count("daemon.failed") == 0
            await until(lambda: "rival" not in first.conditions.open(), 1500, 1)

    run(scenario())


def test_clone_is_noticed_within_two_minutes() -> None:
    """A second host with our address: both say so soon after it has started, and the second is not ready."""

    async def scenario() -> None:
        etcd = cluster()
        first, second = FakeNode(etcd, env=PINNED), FakeNode(etcd, env=PINNED)
        async with first.running():
            await asyncio.sleep(100)
            async with second.running():
                took_s = await until(lambda: first.log.count("lease.shared") and second.log.count("lease.shared"), 600)
                assert took_s <= 150
                assert first.ready
                assert "it has our public address, 192.168.14.21, too" in second.why_not

    run(scenario())


@pytest.mark.usefixtures("seldom_scanned")
def test_own_renewals_are_nobody_elses() -> None:
    """A day with restarts, outages of etcd and new leaders, who begin every lease anew: no rival is seen."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        for hour in range(24):
            async with node.running():
                await asyncio.sleep(1800)
                if hour % 3 == 0:
                    node.registry.down = RegistryUnavailable("down")
                    await asyncio.sleep(1200)
                    node.registry.down = None
                if hour % 4 == 0:
                    etcd.leader += 1
                    etcd.renewed_at_s.clear()
                await asyncio.sleep(1800)
                assert node.ready
                assert node.log.count("lease.shared") == 0

    run(scenario())


def test_larger_network_helps_a_node_that_waits() -> None:
    """A node that has found no free subnet takes one of the network that the operator has made larger."""

    async def scenario() -> None:
        etcd = full_cluster()
        node = FakeNode(etcd, env="FLANNEL_SUBNET=nonsense\n")
        async with node.running(ready=False):
            await until(lambda: "no free subnet" in node.why_not, 5)
            await asyncio.sleep(600)
            etcd.put_config(b"{")
            await until(lambda: "not usable" in node.why_not, 6)
            etcd.put_config(b'{"Network":"10.8.0.0/15","Backend":{"Type":"host-gw"}}')
            await until(lambda: node.ready, 6)
            assert node.file.text is not None
            assert "FLANNEL_NETWORK=10.8.0.0/15" in node.file.text
            assert node.log.count("subnet_file.ignored") == 2, "once for each network"

    run(scenario())


def test_where_every_subnet_holds_what_this_host_needs_nothing_is_leased() -> None:
    """The reason names the network and the addresses."""

    async def scenario() -> None:
        etcd = FakeEtcd()
        etcd.put_config(
            b'{"Network":"192.168.14.0/24","SubnetLen":28,"SubnetMin":"192.168.14.16","SubnetMax":"192.168.14.16",'
            b'"Backend":{"Type":"host-gw"}}'
        )
        node = FakeNode(etcd)
        async with node.running(ready=False):
            await until(lambda: "every subnet of 192.168.14.0/24 overlaps 192.168.14.21/32" in node.why_not, 5)
            await asyncio.sleep(60)
            assert etcd.records() == ()
            etcd.put_config(b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}')
            await until(lambda: node.ready, 6)

    run(scenario())


def test_a_part_of_the_lan_is_leased_where_no_known_host_is() -> None:
    """A network inside the LAN works, as with flanneld, and is told."""

    async def scenario() -> None:
        etcd = FakeEtcd()
        etcd.put_config(b'{"Network":"192.168.14.0/24","Backend":{"Type":"host-gw"}}')
        etcd.put(b"192.168.14.64-26", value("192.168.14.130"))
        node = FakeNode(etcd)
        async with node.running():
            assert {record.name for record in etcd.records()} == {b"192.168.14.64-26", b"192.168.14.192-26"}
            assert node.kernel.gateways() == {"192.168.14.64/26": "192.168.14.130"}
            told = node.conditions.open()["shared"].text
            assert told.startswith("leases take addresses of a connected network: 192.168.14.192/26 is a part of")

    run(scenario())


@pytest.mark.parametrize("bad", [None, b"", b"[]", b'{"Network":"10.0.0.0/33"}', b'{"EnableIPv4":false}'])
def test_missing_or_bad_configuration_is_waited_for(bad: bytes | None) -> None:
    """A missing or bad configuration is said at once and after 5, 15 and 35 minutes; a good one is taken at once."""

    async def scenario() -> None:
        etcd = FakeEtcd()
        if bad is not None:
            etcd.put_config(bad)
        node = FakeNode(etcd)
        async with node.running(ready=False):
            await asyncio.sleep(3600)
            assert "network configuration" in node.why_not
            said = node.log.count("config.missing") + node.log.count("config.invalid")
            assert said == 4
            etcd.put_config(CONFIG)
            assert await until(lambda: node.ready, 2) < 2

    run(scenario())


def test_other_backend_ends_the_run_with_a_clear_error() -> None:
    """A configuration for wireguard ends the daemon with an error that names the supported backends."""

    async def scenario() -> None:
        etcd = FakeEtcd()
        etcd.put_config(b'{"Network":"10.0.0.0/8","Backend":{"Type":"wireguard"}}')
        async with FakeNode(etcd).running():
            pass

    with pytest.raises(ExceptionGroup) as caught:
        run(scenario())
    assert caught.group_contains(UnsupportedConfig, match="'wireguard'; supported: 'host-gw', 'vxlan', 'alloc'")


def test_suspend_is_noticed_and_the_lease_verified() -> None:
    """After the machine has slept past the lease's end, the lease is proved again within two seconds."""

    async def scenario() -> None:
        node = FakeNode(cluster(), env=PINNED)
        async with node.running():
            node.clock.sleep_machine(25 * 3600)
            assert not node.ready
            await until(lambda: node.ready, 2)
            assert node.log.count("machine.resumed") == 1
            assert node.log.count("lease.retaken") == 0

    run(scenario())


@pytest.mark.parametrize("restarted", [False, True])
def test_key_on_a_short_etcd_lease_is_taken_back(restarted: bool) -> None:
    """Somebody puts our key on an etcd lease of 10 s: it is put back on one of a day, once, and that is told."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        if restarted:
            etcd.put(OWN, value("192.168.14.21"), lease_id=etcd.grant(10))
        async with node.running():
            if not restarted:
                etcd.put(OWN, value("192.168.14.21"), lease_id=etcd.grant(10))
            await until(lambda: node.log.count("lease.taken_back") == 1, 10)
            await until(lambda: node.ready, 1)
            [record] = etcd.records()
            assert etcd.state.leases[record.lease_id].ttl_s == 86400
            assert record.value == value("192.168.14.21")
            revision = etcd.state.revision
            await asyncio.sleep(3600)
            assert etcd.state.revision == revision

    run(scenario())


def test_short_etcd_lease_while_etcd_takes_no_write() -> None:
    """What cannot be put back is renewed and told, and put back when etcd takes writes again."""

    async def scenario() -> None:
        etcd = cluster()
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            node.registry.refusal = RegistryUnavailable("no space")
            etcd.put(OWN, value("192.168.14.21"), lease_id=etcd.grant(10))
            await until(lambda: "lease.shortened" in {one.event for one in node.conditions.open().values()}, 10)
            await asyncio.sleep(120)
            assert node.ready
            node.registry.refusal = None
            await until(lambda: node.log.count("lease.taken_back") == 1, 10)
            assert "lease" not in node.conditions.open()

    run(scenario())


def test_short_lease_is_tried_as_often_as_it_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that lives for 40 s is looked at every 4 s in an outage too: when etcd is back it does not run out while
    the daemon still waits."""
    monkeypatch.setattr("pyflanneld.tasks.lease.renew.TTL_S", 40)

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(OWN, value("192.168.14.21"), lease_id=etcd.grant(40))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            for _ in range(5):
                node.registry.down = RegistryUnavailable("cut")
                await asyncio.sleep(120)
                assert not node.ready
                node.registry.down = None
                await until(lambda: node.ready, 5)

    run(scenario())


def test_key_that_claims_everything_costs_nobody_its_subnet() -> None:
    """A key such as 0.0.0.0-0 neither keeps a node from starting nor from taking its vanished key again."""

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(b"0.0.0.0-0", value("192.168.14.66"))
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.delete(OWN)
            await until(lambda: OWN in held(etcd), 1)

    run(scenario())
