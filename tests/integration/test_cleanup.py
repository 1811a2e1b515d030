"""``pyflanneld cleanup`` in the lab: what is ours goes, all else stays, and it can be said twice."""

import subprocess
from pathlib import Path

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import CONFIG, PREFIX
from pyflanneld.lab.node import LabHost
from tests.support.lab.planted import process_named
from tests.support.lab.testbed import gateways, launch, lease_key, lease_value, store_of
from tests.support.lab.untouched import command, daemon_flags, untouched

pytestmark = [pytest.mark.etcd, pytest.mark.netns]
NOTHING = "there is nothing of ours here\n"


def cleanup(node: LabHost, *more: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return command(node, "cleanup", *daemon_flags(node, **changes), *more)


def ran(site: Lab, *flags: str) -> LabHost:
    """Return a host on which the daemon has run, with two peers, and was stopped."""
    node, store = site.nodes[0], store_of(site)
    for last in (22, 23):
        store.put(lease_key(f"172.7.{last}.0/24"), lease_value(f"192.168.14.{last}"))
    launch(node, *flags)
    node.wait_ready()
    node.stop()
    return node


def test_what_was_saved_for_a_boot_without_etcd_goes_too(site: Lab, tmp_path: Path) -> None:
    """When its directory is named; the directory itself stays."""
    saved = tmp_path / "last-good.json"
    node = ran(site, f"--state-dir={tmp_path}")
    assert saved.exists()
    dry = cleanup(node, "--dry-run", f"--state-dir={tmp_path}")
    assert f"would remove file {saved}\n" in dry.stdout
    assert saved.exists()
    assert f"removed file {saved}\n" in cleanup(node, f"--state-dir={tmp_path}").stdout
    assert list(tmp_path.iterdir()) == []
    assert cleanup(node, f"--state-dir={tmp_path}").stdout == NOTHING


def foreign(node: LabHost) -> str:
    """Return what is not ours: routes and rules."""
    routes = node.exec("ip", "-N", "-4", "route")
    return "\n".join(line for line in routes.splitlines() if "proto 103" not in line)


def test_everything_of_ours_and_nothing_else(site: Lab) -> None:
    """Routes, blackhole and rules go; routes and rules of others, the lease and the file stay; then nothing is left."""
    node = ran(site, "--ip-masq", "--ip-blackhole-route")
    store = store_of(site)
    node.exec("iptables", "-A", "FORWARD", "-s", "10.1.2.3", "-j", "ACCEPT")
    node.exec("ip", "route", "add", "172.7.30.0/24", "via", "192.168.14.30", "proto", "static")
    node.exec("ip", "route", "add", "10.7.0.0/24", "via", "192.168.14.30", "proto", "103")
    before, keys, file = foreign(node), store.kvs(), node.subnet_file.read_bytes()
    try:
        with untouched(site, node):
            dry = cleanup(node, "--dry-run")
        assert dry.returncode == 0
        done = cleanup(node)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == dry.stdout.replace("would remove", "removed")
        lines = done.stdout.splitlines()
        assert "removed route 172.7.22.0/24 via 192.168.14.22 dev eth1" in lines
        assert "removed route blackhole 172.7.21.0/24" in lines
        assert "removed rules filter FLANNEL-FWD in iptables (ipv4)" in lines
        assert "removed rules nat FLANNEL-POSTRTG in iptables (ipv4)" in lines
        assert "left route 10.7.0.0/24 via 192.168.14.30 dev eth1: outside 172.7.0.0/16, another daemon's" in lines
        assert gateways(node) == {"10.7.0.0/24": "192.168.14.30"}
        assert foreign(node) == before
        rules = node.exec("iptables-save")
        assert "FLANNEL" not in rules
        assert "-A FORWARD -s 10.1.2.3/32 -j ACCEPT" in rules
        assert (store.kvs(), node.subnet_file.read_bytes()) == (keys, file)
        again = cleanup(node)
        assert again.returncode == 0
        assert "removed" not in again.stdout
    finally:
        node.exec("ip", "route", "flush", "proto", "static", "root", "172.7.0.0/16")
    node.exec("ip", "route", "del", "10.7.0.0/24")
    assert cleanup(node).stdout == NOTHING


def test_release(site: Lab) -> None:
    """With --release the own lease goes, and then the file; other leases stay; a second time nothing is left."""
    node, store = ran(site), store_of(site)
    with untouched(site, node):
        assert "would remove lease 172.7.21.0/24" in cleanup(node, "--release", "--dry-run").stdout
    done = cleanup(node, "--release")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-2:] == ["removed lease 172.7.21.0/24", f"removed file {node.subnet_file}"]
    assert set(store.kvs()) == {
        f"{PREFIX}/config", lease_key("172.7.22.0/24"), lease_key("172.7.23.0/24")
    }  # fmt: skip
    assert not node.subnet_file.exists()
    again = cleanup(node, "--release")
    assert again.returncode == 0
    assert again.stdout == f"no lease: 192.168.14.21 has none\n{NOTHING}"
    store.put(lease_key("172.7.40.0/24"), lease_value("192.168.14.21"), lease=store.grant(600))
    assert "no subnet file proves that it is this host's" in cleanup(node, "--release").stdout
    assert lease_key("172.7.40.0/24") in store.kvs()


@pytest.mark.parametrize(
    ("value", "ttl_s", "why"),
    [
        (lease_value("192.168.14.77"), 600, "is 192.168.14.77's, and this host is 192.168.14.21"),
        (lease_value("192.168.14.21"), 0, "is a reservation; to delete it"),
        ("junk", 600, "cannot be read"),
    ],
)
def test_a_lease_that_is_not_ours_to_delete(site: Lab, value: str, ttl_s: int, why: str) -> None:
    """Another host's, a reservation, junk: it stays, and so does the file; exit code 1."""
    node, store = site.nodes[0], store_of(site)
    store.put(lease_key("172.7.21.0/24"), value, lease=store.grant(ttl_s) if ttl_s else 0)
    with untouched(site, node):
        done = cleanup(node, "--release")
    assert done.returncode == 1
    assert why in done.stdout


def test_under_a_running_daemon_nothing_is_touched(cluster: Lab) -> None:
    """Exit code 73, and who it is; with --dry-run as well."""
    node = cluster.nodes[0]
    for flags in ((), ("--dry-run",), ("--release",)):
        with untouched(cluster, node):
            done = cleanup(node, *flags)
        assert done.returncode == 73
        assert "stop it first" in done.stderr
        assert done.stdout == ""


def test_without_etcd(site: Lab) -> None:
    """The subnet file knows the network; without it the routes are left and told, unless the operator says which."""
    node, nobody = ran(site), "http://192.168.14.12:1"
    file = node.subnet_file.read_bytes()
    node.subnet_file.unlink()
    done = cleanup(node, etcd_endpoints=nobody)
    assert done.returncode == 1
    assert "not removed 2 routes of protocol 103: etcd cannot be read" in done.stdout
    assert len(gateways(node)) == 2
    done = cleanup(node, "--network=172.7.22.0/24", etcd_endpoints=nobody)
    assert (done.returncode, gateways(node)) == (0, {"172.7.23.0/24": "192.168.14.23"})
    node.subnet_file.write_bytes(file)
    done = cleanup(node, etcd_endpoints=nobody)
    assert (done.returncode, gateways(node)) == (0, {})
    done = cleanup(node, "--release", etcd_endpoints=nobody)
    assert done.returncode == 1
    assert "not removed the lease: http://192.168.14.12:1" in done.stdout
    assert node.subnet_file.exists()


def test_rules_that_a_go_flanneld_keeps_too(site: Lab) -> None:
    """They stay while it runs: it would only put them back."""
    node = ran(site)
    with process_named(node, "flanneld") as pid:
        done = cleanup(node)
    assert done.returncode == 0
    rules = "left rules filter FLANNEL-FWD in iptables (ipv4)"
    assert f"{rules}: a Go flanneld maintains them too, flanneld (pid {pid})" in done.stdout
    assert "FLANNEL-FWD" in node.exec("iptables-save")


def test_the_table_of_nft(site: Lab) -> None:
    """Where the network is kept by nft, our table goes."""
    node, store = site.nodes[0], store_of(site)
    store.put(f"{PREFIX}/config", CONFIG.replace("{", '{"EnableNFTables":true,', 1))
    launch(node)
    node.wait_ready()
    node.stop()
    assert "removed rules flannel-ipv4 in nft (ipv4)" in cleanup(node).stdout
    assert "flannel" not in node.exec("nft", "list", "tables")


def test_wrong_usage(site: Lab) -> None:
    """A network that is none is exit code 2, before anything is touched."""
    with untouched(site, site.nodes[0]):
        done = cleanup(site.nodes[0], "--network=172.7.0.1/16")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
