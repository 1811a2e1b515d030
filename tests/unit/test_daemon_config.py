"""A network configuration that changes under a daemon that runs: row F44."""

from dataclasses import replace
from ipaddress import IPv6Interface

import pytest

from pyflanneld.errors import RegistryUnavailable
from tests.support.fakes.node import CONFIG, FakeNode, lan, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

UNFIT = {
    "network": CONFIG.replace(b"172.7.", b"10.7."),
    "backend": CONFIG.replace(b"host-gw", b"vxlan"),
    "length": CONFIG.replace(b"{", b'{"SubnetLen":25,', 1),
    "bounds": CONFIG.replace(b"{", b'{"SubnetMin":"172.7.100.0",', 1),
    "family": CONFIG.replace(b"{", b'{"EnableIPv6":true,"IPv6Network":"fd00::/48",', 1),
    "broken": b"{",
}
FITS = {
    "bounds": CONFIG.replace(b"{", b'{"SubnetMax":"172.7.250.0",', 1),
    "spelling": b' {"network":"172.7.0.0/16", "Backend":{"type":"host-gw"}}',
    "firewall": CONFIG.replace(b"{", b'{"EnableNFTables":true,', 1),
}


def a_node() -> tuple[FakeEtcd, FakeNode]:
    etcd = FakeEtcd()
    etcd.put_config(CONFIG)
    return etcd, FakeNode(etcd, env="FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.21.1/24\n")


@pytest.mark.parametrize("changed", [*UNFIT.values(), None], ids=[*UNFIT, "gone"])
def test_what_does_not_fit_is_told_and_held_out(changed: bytes | None) -> None:
    """Within seconds; the node keeps what it has, and is ready when the configuration fits again."""

    async def scenario() -> None:
        etcd, node = a_node()
        async with node.running():
            held, text = etcd.records(), node.file.text
            etcd.delete_key(b"config") if changed is None else etcd.put_config(changed)
            await until(lambda: not node.ready, 5)
            assert "does not fit this node any more" in node.why_not
            assert node.daemon is not None
            assert node.daemon.health().live
            assert (etcd.records(), node.file.text) == (held, text)
            etcd.put_config(CONFIG)
            await until(lambda: node.ready, 5)

    run(scenario())


@pytest.mark.parametrize("changed", FITS.values(), ids=FITS)
def test_what_fits_disturbs_nobody(changed: bytes) -> None:
    """It is taken note of."""

    async def scenario() -> None:
        etcd, node = a_node()
        async with node.running():
            etcd.put_config(changed)
            await until(lambda: any(event == "config.fits" for _, event, _ in node.log.events), 5)
            assert node.ready

    run(scenario())


def test_a_network_that_has_grown_is_taken_up() -> None:
    """Peers in its new part get routes, rules and file name it, and the lease stays; the node is ready throughout."""

    async def scenario() -> None:
        etcd, node = a_node()
        node.configure(ip_masq=True)
        beyond = etcd.put(b"172.6.9.0-24", value("192.168.14.22"))
        async with node.running():
            held = etcd.records()
            assert not node.kernel.gateways()
            etcd.put_config(CONFIG.replace(b"172.7.0.0/16", b"172.6.0.0/15"))
            await until(lambda: node.kernel.gateways() == {"172.6.9.0/24": "192.168.14.22"} or not node.ready, 5)
            await until(lambda: "FLANNEL_NETWORK=172.6.0.0/15" in (node.file.text or "") or not node.ready, 5)
            rules = [node.firewall.rules(*chain) for chain in (("nat", "FLANNEL-POSTRTG"), ("filter", "FLANNEL-FWD"))]
            assert all("172.6.0.0/15" in str(some) and "172.7.0.0/16" not in str(some) for some in rules)
            assert etcd.records() == held
            assert beyond in held
            assert node.ready
            etcd.put_config(CONFIG)
            await until(lambda: "Network: 172.6.0.0/15 -> 172.7.0.0/16" in node.why_not, 5)

    run(scenario())


def test_each_family_can_grow() -> None:
    """A peer whose IPv6 half is in the new part gets its IPv6 route too."""
    dual = CONFIG.replace(b"{", b'{"EnableIPv6":true,"IPv6Network":"2001:cafe:42::/56",', 1)

    async def scenario() -> None:
        etcd, node = a_node()
        etcd.put_config(dual)
        node.kernel.set_link(replace(lan(21), addresses6=(IPv6Interface("2001:db8::21/64"),)))
        text = b'{"PublicIP":"192.168.14.22","PublicIPv6":"2001:db8::22","BackendType":"host-gw"}'
        etcd.put(b"172.7.22.0-24&2001:cafe:42:100::-64", text)
        async with node.running():
            assert "2001:cafe:42:100::/64" not in node.kernel.gateways()
            etcd.put_config(dual.replace(b"42::/56", b"42::/55"))
            both = {"172.7.22.0/24": "192.168.14.22", "2001:cafe:42:100::/64": "2001:db8::22"}
            await until(lambda: node.kernel.gateways() == both or not node.ready, 5)
            assert node.ready

    run(scenario())


def test_a_change_during_an_outage_is_found_after_it() -> None:
    """And the outage itself says nothing about the configuration."""

    async def scenario() -> None:
        etcd, node = a_node()
        async with node.running():
            node.registry.down = RegistryUnavailable("etcd is away")
            etcd.put_config(UNFIT["backend"])
            await until(lambda: "etcd:peers" in node.conditions.open(), 60)
            assert "config_change" not in node.conditions.open()
            node.registry.down = None
            await until(lambda: "Backend: host-gw -> vxlan" in node.why_not, 60)

    run(scenario())
