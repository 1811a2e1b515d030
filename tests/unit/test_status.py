"""The report of a daemon in each of its states, and what the commands make of it. Real loops, virtual time."""

import asyncio
import errno
import io
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from pyflanneld.commands import peers, routes, status
from pyflanneld.commands.output import Paint
from pyflanneld.core.link.selection import Neighbour
from pyflanneld.core.routes import KernelRoute
from pyflanneld.daemon.status_source import DaemonStatus
from pyflanneld.errors import FirewallError, KernelError, RegistryUnavailable
from tests.support.fakes.node import FakeNode, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until
from tests.unit.test_daemon_routes import PINNED, cluster, name

PLAIN = Paint(io.StringIO())


def observer(node: FakeNode) -> DaemonStatus:
    assert node.daemon is not None
    return node.daemon.status_source


def report(node: FakeNode) -> dict[str, Any]:
    """Return the report as a client gets it."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(observer(node).status()), allow_nan=False))
    return found


def text(node: FakeNode) -> str:
    return status.as_text(report(node), PLAIN)


def findings(node: FakeNode) -> dict[str, Mapping[str, Any]]:
    return {finding["event"]: finding for finding in report(node)["findings"]}


def test_a_healthy_node() -> None:
    """Ready, nothing wrong, and every part filled with facts."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            await asyncio.sleep(120)
            told = report(node)
            assert (told["ready"], told["live"], told["not_ready"], told["findings"]) == (True, True, [], [])
            assert told["lease"] | {"confirmed_s_ago": 0, "left_s": 0} == {
                "subnet": "172.7.21.0/24", "ipv6_subnet": None, "public_ip": "192.168.14.21", "public_ipv6": None,
                "reserved": False, "confirmed": True, "confirmed_s_ago": 0, "left_s": 0, "renew_interval_s": 300.0,
                "absent": False,
            }  # fmt: skip
            assert told["lease"]["left_s"] + told["lease"]["confirmed_s_ago"] == pytest.approx(86400)
            assert told["network"] == {
                "network": "172.7.0.0/16", "ipv6_network": None, "backend": "host-gw",
                "subnet_len": 24, "subnet_min": "172.7.1.0", "subnet_max": "172.7.255.0",
            }  # fmt: skip
            assert told["link"]["why"] == "matches --iface=eth1"
            assert (told["etcd"]["api"], told["etcd"]["revision"]) == (3, node.registry.etcd.state.revision)
            assert told["peers"] == {
                "accepted": 2, "routed": 2, "quarantined": {}, "other_backend": 0, "frozen": 0,
            }  # fmt: skip
            assert (told["routes"]["wanted"], told["routes"]["present"], told["routes"]["missing"]) == (2, 2, 0)
            assert told["firewall"] == [
                {"rules": "forwarding", "program": "iptables", "placed": True, "needed": False}
            ]  # fmt: skip
            assert told["file"] == {"path": "/run/flannel/subnet.env", "written": True}
            assert told["guard"] == {"enabled": True, "held": 0}
            assert told["uptime_s"] > 119
            shown = text(node)
            assert shown.splitlines()[0] == "ready"
            for fact in ("172.7.21.0/24, 23h5", "2, 2 routed", "2 wanted, 2 present", "eth1 192.168.14.21, MTU 1500"):
                assert fact in shown
            assert "what is wrong" not in shown

    run(scenario())


def test_before_there_is_a_configuration() -> None:
    """No lease, no routes; what is missing, since when, and what to do."""

    async def scenario() -> None:
        node = FakeNode(FakeEtcd(), env=PINNED)
        async with node.running(ready=False):
            await asyncio.sleep(50)
            told = report(node)
            assert (told["ready"], told["lease"], told["peers"], told["routes"], told["guard"]) == (
                False, None, None, None, None,
            )  # fmt: skip
            finding = findings(node)["config.missing"]
            assert finding["blocks"]
            assert finding["for_s"] == pytest.approx(50, abs=1)
            assert "--etcd-prefix" in finding["hint"]
            shown = text(node)
            assert shown.startswith("not ready: there is no network configuration in etcd at /coreos.com/network")
            assert "config.missing, for 50s" in shown
            assert await observer(node).peers() == ()
            assert await observer(node).routes() == ()

    run(scenario())


def test_etcd_down_from_the_start_and_later() -> None:
    """At the start it stands against readiness; later it is a warning, with the age of what is known."""

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        node.registry.down = RegistryUnavailable("no member answers")
        async with node.running(ready=False):
            await asyncio.sleep(30)
            assert report(node)["etcd"]["heard_s_ago"] is None
            assert findings(node)["etcd.unavailable"]["blocks"]
            assert "no answer yet" in text(node)
            node.registry.down = None
            await until(lambda: node.ready, 30)
            node.registry.down = RegistryUnavailable("no member answers")
            await asyncio.sleep(3600)
            told = report(node)
            assert told["ready"]
            assert told["etcd"]["lag_s"] == pytest.approx(3600, abs=60)
            finding = findings(node)["etcd.unavailable"]
            assert (finding["blocks"], finding["for_s"] > 3500) == (False, True)
            assert "Check etcd" in text(node)
            assert text(node).startswith("ready\n")

    run(scenario())


def test_a_lease_that_was_not_confirmed_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lifetime without etcd: not ready, since when, and the routes stay; etcd back: ready."""
    monkeypatch.setattr("pyflanneld.tasks.lease.acquire.TTL_S", 3600)  # a day takes long, in virtual time too

    async def scenario() -> None:
        node = FakeNode(cluster(22), env=PINNED)
        async with node.running():
            node.registry.down = RegistryUnavailable("no member answers")
            await asyncio.sleep(3600 + 600)
            finding = findings(node)["lease.unconfirmed"]
            assert finding["blocks"]
            assert 0 < finding["for_s"] < 1000
            told = report(node)
            assert (told["ready"], told["lease"]["confirmed"], told["lease"]["left_s"]) == (False, False, 0.0)
            assert told["routes"]["present"] == 1
            assert "too long ago" in text(node)
            node.registry.down = None
            await until(lambda: node.ready, 60)

    run(scenario())


def test_a_junk_key_and_a_peer_off_the_link() -> None:
    """Both are named with their reason and since when; they do not stand against readiness."""

    async def scenario() -> None:
        etcd = cluster(22)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            etcd.put(name(99), b"junk")
            etcd.put(name(98), value("8.8.8.8"))
            for third in range(40, 45):
                etcd.put(b"x%d" % third, b"junk")
            await asyncio.sleep(90)
            told = report(node)
            assert told["ready"]
            assert told["peers"]["quarantined"] == {"not_json": 1, "gateway_off_link": 1, "bad_key": 5}
            shown = text(node)
            assert "the key 172.7.98.0-24 is rejected (gateway_off_link): PublicIP 8.8.8.8" in shown
            assert "5 keys are rejected (bad_key): x40, x41, x42 and 2 more" in shown
            assert "peer.quarantined, for 1m30s" in shown
            assert "host-gw needs both on one LAN" in shown
            rows = [asdict(row) for row in await observer(node).peers()]
            table = peers.as_text(rows, PLAIN)
            assert "gateway_off_link: PublicIP 8.8.8.8" in table

    run(scenario())


def test_a_foreign_route_and_one_that_the_kernel_refuses() -> None:
    """The one is a warning, the other stands against readiness; the rows tell which is which."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23, 24), env=PINNED)
        node.kernel.add_foreign(
            KernelRoute(IPv4Network("172.7.22.0/24"), IPv4Address("192.168.14.5"), 2, 4, 0, plain=True)
        )
        node.kernel.refuse(IPv4Network("172.7.23.0/24"), errno.ENETUNREACH, times=10_000)
        async with node.running(ready=False):
            await until(lambda: node.log.count("route.failed"), 10)
            told = report(node)
            assert not told["ready"]
            counts = {what: told["routes"][what] for what in ("wanted", "present", "missing", "conflict", "refused")}
            assert counts == {"wanted": 3, "present": 1, "missing": 0, "conflict": 1, "refused": 1}
            assert {event: one["blocks"] for event, one in findings(node).items()} == {
                "route.failed": True, "route.conflict": False,
            }  # fmt: skip
            assert report(node)["findings"][0]["event"] == "route.failed", "what blocks comes first"
            rows = [asdict(row) for row in await observer(node).routes()]
            assert {row["dst"]: (row["state"], row["detail"]) for row in rows} == {
                "172.7.22.0/24": ("conflict", ""), "172.7.23.0/24": ("refused", "ENETUNREACH"),
                "172.7.24.0/24": ("ok", ""),
            }  # fmt: skip
            table = routes.as_text(rows, PLAIN)
            assert "the kernel refuses it: ENETUNREACH" in table
            assert re.search(r"via 192.168.14.22 dev eth1 +via 192.168.14.5 dev eth1 +4 ", table)

    run(scenario())


def test_the_guard_holds() -> None:
    """Not ready, how many routes are held, and the rows say so; leases that come back make it ready again."""

    async def scenario() -> None:
        thirds = range(22, 32)
        etcd = cluster(*thirds)
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            for third in thirds:
                etcd.delete(name(third))
            await asyncio.sleep(5)
            told = report(node)
            assert not told["ready"]
            assert told["guard"]["held"] == told["routes"]["held"] >= 7
            assert findings(node)["guard.holding"]["hint"].startswith("Check etcd")
            rows = await observer(node).routes()
            assert {row.state for row in rows} == {"held"}
            for third in thirds:
                etcd.put(name(third), value(f"192.168.14.{third}"))
            await until(lambda: node.ready, 2)
            assert report(node)["findings"] == []

    run(scenario())


def test_a_link_that_is_down_and_comes_back() -> None:
    """Not ready while it is down, with no routes; repaired by the link when it is up again."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        async with node.running():
            node.kernel.link_down("eth1")
            await until(lambda: not node.ready, 2)
            told = report(node)
            assert (told["link"]["up"], told["routes"]["present"], told["routes"]["missing"]) == (False, 0, 2)
            assert findings(node)["link.down"]["blocks"]
            node.kernel.link_up("eth1")
            await until(lambda: node.ready, 2)
            assert report(node)["routes"]["repaired"] == {"link": 2}
            assert "2 repaired (link 2)" in text(node)

    run(scenario())


def test_a_reservation_and_rules_that_are_not_in_place() -> None:
    """A lease without an end is told as reserved, in valid JSON; masquerading that fails stands against readiness."""

    async def scenario() -> None:
        etcd = cluster()
        etcd.put(name(21), value("192.168.14.21"))
        node = FakeNode(etcd, env=PINNED)
        node.configure(ip_masq=True)
        node.firewall.broken = FirewallError("iptables: locked")
        async with node.running(ready=False):
            await asyncio.sleep(60)
            told = report(node)
            assert (told["lease"]["reserved"], told["lease"]["left_s"]) == (True, None)
            assert "172.7.21.0/24, reserved, " in text(node)
            assert not told["ready"]
            assert "masquerading by iptables (not in place)" in text(node)

    run(scenario())


def test_the_neighbours_are_shown_and_the_kernel_is_asked_seldom() -> None:
    """What the kernel knows of a peer's address; a storm of questions costs it one reading each half second."""

    async def scenario() -> None:
        node = FakeNode(cluster(22, 23), env=PINNED)
        node.kernel.meet(2, Neighbour(IPv4Address("192.168.14.22"), "stale", "02:00:00:00:00:16"))
        async with node.running():
            before = node.kernel.calls["neighbours"]
            for _ in range(100):
                rows = await observer(node).peers()
            assert node.kernel.calls["neighbours"] == before + 1
            table = peers.as_text([asdict(row) for row in rows], PLAIN)
            assert "stale 02:00:00:00:00:16" in table
            await asyncio.sleep(1)
            node.kernel.fail_calls()
            with pytest.raises(KernelError):
                await observer(node).peers()
            await asyncio.sleep(1)
            assert len(await observer(node).peers()) == 2

    run(scenario())


def test_nothing_to_show_is_said() -> None:
    """A cluster of one."""
    assert peers.as_text([], PLAIN) == "no peers\n"
    assert routes.as_text([], PLAIN) == "no routes\n"
    assert routes.as_text([], PLAIN, diff=True) == "nothing differs\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_and_changes_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its colours, the coloured output is the plain one."""
    monkeypatch.delenv("NO_COLOR", raising=False)

    async def scenario() -> None:
        etcd = cluster(22)
        etcd.put(name(99), b"junk")
        node = FakeNode(etcd, env=PINNED)
        async with node.running():
            colour = Paint(Terminal())
            tables = [
                (status.as_text, report(node)),
                (peers.as_text, [asdict(row) for row in await observer(node).peers()]),
                (routes.as_text, [asdict(row) for row in await observer(node).routes()]),
            ]
            for show, facts in tables:
                coloured = show(facts, colour)
                assert "\033[" in coloured
                for code in ("0", "1", "2", "31", "32", "33"):
                    coloured = coloured.replace(f"\033[{code}m", "")
                assert coloured == show(facts, PLAIN)

    run(scenario())
