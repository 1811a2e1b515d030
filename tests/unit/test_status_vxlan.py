"""What the daemon reports of itself with vxlan: the device, the entries, and how each peer is reached."""

import asyncio
import json
import sys
from errno import EADDRINUSE, ENOBUFS
from ipaddress import IPv4Address
from typing import Any

import pytest

from pyflanneld.commands import peers, routes, status
from pyflanneld.commands.output import Paint
from pyflanneld.core.link.selection import Link
from pyflanneld.http.reports import to_json
from tests.support.fakes.node import FakeNode
from tests.support.fakes.virtual_time import run, until
from tests.unit.test_daemon_vxlan import DIRECT, MAC22, MAC23, WHOLE, cluster, device, lease, node_on, objects
from tests.unit.test_metrics import samples


def report(node: FakeNode) -> dict[str, Any]:
    assert node.daemon is not None
    document: dict[str, Any] = json.loads(to_json(node.daemon.status_source.status()))
    return document


async def rows(node: FakeNode, what: str) -> list[dict[str, Any]]:
    assert node.daemon is not None
    found: list[dict[str, Any]] = json.loads(to_json(await getattr(node.daemon.status_source, what)()))
    return found


def test_the_device_and_its_entries() -> None:
    """As JSON, as text, and as metrics."""

    async def scenario() -> None:
        node = node_on(cluster(s22=lease(MAC22)))
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            own = device(node).vxlan
            assert own is not None
            told = report(node)
            assert told["devices"] == [{
                "name": "flannel.1", "state": "up", "vni": 1, "port": 8472, "mac": own.mac, "mtu": 1450,
                "address": "172.7.21.0/32",
            }]  # fmt: skip
            assert told["entries"] == [
                {"kind": kind, "wanted": 1, "missing": 0, "refused": 0} for kind in ("neighbour", "forwarding entry")
            ]
            lines = [" ".join(line.split()) for line in status.as_text(told, Paint(sys.stderr)).splitlines()]
            assert f"device flannel.1 172.7.21.0/32, VNI 1, port 8472, MAC {own.mac}, MTU 1450, up" in lines
            assert "entries 1 of 1 neighbours, 1 of 1 forwarding entries" in lines
            found = samples(node)
            assert found['device_up{device="flannel.1"}'] == 1
            assert found['entries{kind="forwarding_entry",state="in_place"}'] == 1
            puts = [found[f'entry_changes_total{{change="put",kind="neighbour",reason="{why}"}}'] for why in
                    ("start", "peer_joined")]  # fmt: skip
            assert sum(puts) == 1

    run(scenario())


def test_how_each_peer_is_reached() -> None:
    """Through the tunnel, with the MAC address to which its packets go, or directly."""

    async def scenario() -> None:
        node = node_on(cluster(DIRECT, s22=lease(MAC22), s33=lease(MAC23, "192.168.33.33")))
        async with node.running():
            await until(lambda: len(objects(node)[2]) == 2, 1)
            near, far = await rows(node, "peers")
            assert (near["way"], near["state"], near["on_link"], near["mac"]) == ("direct", "routed", True, None)
            assert (far["way"], far["state"], far["on_link"]) == ("tunnel", "routed", False)
            assert (far["neighbour"], far["mac"], far["kernel_gateway"]) == ("permanent", MAC23, "172.7.33.0")
            text = peers.as_text([near, far], Paint(sys.stderr)).splitlines()
            assert text[2].split()[:6] == ["172.7.33.0/24", "192.168.33.33", "routed", "via", "172.7.33.0", "tunnel"]
            links = {row["dst"]: row["wanted_link"] for row in await rows(node, "routes")}
            assert links == {"172.7.22.0/24": "eth1", "172.7.33.0/24": "flannel.1"}

    run(scenario())


def test_without_its_device_no_peer_is_called_reached() -> None:
    """The device is told as missing, and so is each route through it."""

    async def scenario() -> None:
        node = node_on(cluster(DIRECT, s22=lease(MAC22), s33=lease(MAC23, "192.168.33.33")))
        node.kernel.refuse("flannel.1", EADDRINUSE, times=1000)
        async with node.running(ready=False):
            await until(lambda: node.log.count("device.failed") == 1, 5)
            await asyncio.sleep(2)
            told = report(node)
            assert told["devices"][0]["state"] == "missing"
            assert "MTU 1450, not there" in status.as_text(told, Paint(sys.stderr))
            assert samples(node)['device_up{device="flannel.1"}'] == 0
            far = next(row for row in await rows(node, "peers") if row["subnet"] == "172.7.33.0/24")
            assert (far["state"], far["route"]) == ("unrouted", "missing")
            wrong = [row for row in await rows(node, "routes") if row["dst"] == "172.7.33.0/24"]
            assert [row["state"] for row in wrong] == ["missing"]
            shown = routes.as_text(wrong, Paint(sys.stderr), diff=True)
            assert "it needs the device flannel.1, which is not there" in shown

    run(scenario())


@pytest.mark.parametrize("what", ["neighbour", "forwarding entry"])
def test_a_peer_without_one_of_its_entries_is_not_reached(what: str) -> None:
    """Its route alone leads nowhere."""

    async def scenario() -> None:
        node = node_on(cluster(s22=lease(MAC22)))
        async with node.running():
            await until(lambda: objects(node) == WHOLE, 1)
            index = device(node).index
            lose(node, index, what)
            await until(lambda: report(node)["peers"]["routed"] == 0, 12)
            told = {one["kind"]: (one["missing"], one["refused"]) for one in report(node)["entries"]}
            assert told[what] == (1, 1)
            assert "0 of 1" in status.as_text(report(node), Paint(sys.stderr))
            (row,) = await rows(node, "peers")
            assert (row["state"], row["route"]) == ("unrouted", "ok")

    run(scenario())


def lose(node: FakeNode, index: int, what: str) -> None:
    if what == "neighbour":
        node.kernel.refuse((index, IPv4Address("172.7.22.0")), ENOBUFS, times=1000)
        node.kernel.forget(index, IPv4Address("172.7.22.0"))
    else:
        node.kernel.refuse((index, MAC22), ENOBUFS, times=1000)
        node.kernel.lose_forwarding(index, MAC22)


def test_host_gw_has_no_device() -> None:
    """Nothing of it is shown, and its metrics are not there."""

    async def scenario() -> None:
        config = b'{"Network":"172.7.0.0/16","Backend":{"Type":"host-gw"}}'
        node = node_on(cluster(config))
        node.kernel.set_link(Link(9, "flannel.1", 1450, True, ()))
        async with node.running():
            await asyncio.sleep(1)
            told = report(node)
            assert (told["devices"], told["entries"]) == ([], [])
            assert "device" not in status.as_text(told, Paint(sys.stderr))
            assert not [name for name in samples(node) if name.startswith(("device_up", "entr"))]

    run(scenario())
