"""From nothing to a cluster: what the daemons make in etcd, on disk, in the kernel and on the health port."""

from ipaddress import IPv4Network

import pytest

from pyflanneld.lab.cluster import Lab
from pyflanneld.lab.etcd import ENDPOINT, PREFIX
from pyflanneld.lab.measure import Ping
from pyflanneld.lab.network import HEALTH_PORT
from pyflanneld.lab.run import until
from tests.bench import proc
from tests.support.lab.testbed import (
    Journal,
    gateways,
    http_answer,
    kernel_state,
    launch,
    lease_key,
    lease_value,
    pid_of,
    store_of,
)

pytestmark = [pytest.mark.etcd, pytest.mark.netns]


def test_three_hosts_become_a_network(cluster: Lab) -> None:
    """Each host gets its subnet, its file, a route to each other host, is alive and ready; pods exchange packets."""
    for node in cluster.nodes:
        assert node.subnet == str(node.bridge_address.network)
        assert gateways(node) == {o.subnet: str(o.address.ip) for o in cluster.nodes if o is not node}
        assert node.get("/healthz")[0] == node.get("/readyz")[0] == 200
    first, *_, last = cluster.nodes
    with Ping(first, last) as ping:
        until(lambda: len(ping.received()) >= 10, "ten packets come back")
        assert ping.result().lost == 0


def test_one_thread(cluster: Lab) -> None:
    """At rest a daemon has one thread; others, for the firewall's programs for example, end with their work."""
    for node in cluster.nodes:
        pid = pid_of(node)
        until(lambda pid=pid: proc.threads(pid) == 1, f"{node.name} is at rest on one thread")


def test_subnet_env_bytes(cluster: Lab) -> None:
    """``subnet.env`` is flannel's, byte for byte, readable for everyone, and no temporary file lies beside it."""
    for node in cluster.nodes:
        assert node.subnet_file.read_bytes() == (
            b"FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
            % str(node.bridge_address).encode()
        )
        assert node.subnet_file.stat().st_mode & 0o777 == 0o644
        assert not list(node.subnet_file.parent.glob(".subnet.env*"))


def test_keys_and_values_in_etcd(cluster: Lab) -> None:
    """Keys and values are flannel's bytes, written once, each on an etcd lease of 24 h of its own; nothing else."""
    store = store_of(cluster)
    kvs = store.kvs()
    assert set(kvs) == {f"{PREFIX}/config", *(f"{PREFIX}/subnets/172.7.{n}.0-24" for n in (21, 22, 23))}
    for node in cluster.nodes:
        kv = kvs[lease_key(node.subnet)]
        address = str(node.address.ip).encode()
        assert kv.value == b'{"PublicIP":"%s","PublicIPv6":null,"BackendType":"host-gw"}' % address
        assert kv.version == 1
        left, granted = store.ttl(kv.lease)
        assert granted == 86400
        assert 86000 < left <= 86400
    leases = store.leases()
    assert sorted(leases.values()) == [(lease_key(node.subnet),) for node in cluster.nodes]


def test_healthz_answer(cluster: Lab) -> None:
    """``/healthz`` answers with flannel's status, content type and body, and names no software."""
    answer = http_answer(cluster.nodes[0].namespace, HEALTH_PORT, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert status == "HTTP/1.1 200 OK"
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    assert headers["Content-Length"] == "19"
    assert "Server" not in headers
    assert body == b"flanneld is running"


def test_a_command_line_as_the_go_daemons_take_it(site: Lab) -> None:
    """Empty items, bare and IPv4-mapped addresses, a path, ``//`` and ``/./``, a comment in the file: same network."""
    node, etcd = site.nodes[0], ENDPOINT.removeprefix("http://").removesuffix(":2379")
    node.request_subnet()
    text = node.subnet_file.read_text()
    node.subnet_file.write_text(text.replace("/24\n", "/24 # since May\n"))
    launch(
        node, iface=f"::ffff:{node.address.ip}", public_ip=f"::ffff:{node.address.ip}",
        etcd_endpoints=f",[::ffff:{etcd}]:2379/v3?x,{etcd}:2379,", etcd_prefix=f"/{PREFIX}/./", healthz_ip="",
    )  # fmt: skip
    node.wait_ready()
    assert node.subnet == str(node.bridge_address.network)
    assert set(store_of(site).kvs(f"{PREFIX}/subnets")) == {lease_key(node.subnet)}
    assert node.exec("ss", "-Hltn", f"sport = :{HEALTH_PORT}").split()[3] == f"*:{HEALTH_PORT}"


def test_health_port_offers_nothing_else(cluster: Lab) -> None:
    """Other paths are refused, other methods answered; ``/readyz`` names no address, key or reason unless asked."""
    node = cluster.nodes[0]
    assert http_answer(node.namespace, HEALTH_PORT, b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 404")
    assert http_answer(node.namespace, HEALTH_PORT, b"POST /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")
    assert node.get("/readyz") == (200, "flanneld is ready")


def test_ready_comes_last(cluster: Lab) -> None:
    """Readiness is announced once, after the lease, the file and the routes."""
    for node in cluster.nodes:
        names = [event["event"] for event in Journal.whole(node).events()]
        assert names.count("daemon.ready") == 1
        at = names.index("daemon.ready")
        assert {"lease.acquired", "link.chosen"} <= set(names[:at])


def test_nothing_but_routes_in_the_kernel(site: Lab) -> None:
    """A daemon that no firewall rules are asked of adds its marked routes: no address, rule, neighbour or sysctl."""
    node, other, _ = site.nodes
    before = kernel_state(node)
    for each in (node, other):
        launch(each, iptables_forward_rules="false")
    for each in (node, other):
        each.wait_ready()
    node.wait_routes({other.subnet: str(other.address.ip)})
    assert node.exec("ip", "-N", "-4", "route", "show", other.subnet).split() == [
        other.subnet, "via", str(other.address.ip), "dev", "eth1", "proto", "103",
    ]
    assert kernel_state(node) == before
    assert node.stop() == 0
    assert kernel_state(node) == before


def test_other_protocol_number(site: Lab) -> None:
    """``--route-protocol`` changes the mark of the routes, and routes with the usual mark are then not ours."""
    node = site.nodes[0]
    node.exec("ip", "route", "add", "172.7.98.0/24", "via", "192.168.14.98", "proto", "103")
    store_of(site).put(lease_key("172.7.99.0/24"), lease_value("192.168.14.99"))
    launch(node, route_protocol=77)
    node.wait_ready()
    assert [route.dst for route in node.routes(77)] == ["172.7.99.0/24"]
    assert [route.dst for route in node.routes(103)] == ["172.7.98.0/24"]


def test_same_subnet_without_the_file(site: Lab) -> None:
    """Without ``subnet.env`` a host finds its lease by its public address: same subnet, same key, same etcd lease."""
    node, store = site.nodes[0], store_of(site)
    launch(node)
    node.wait_ready()
    key, text = lease_key(node.subnet), node.subnet_file.read_bytes()
    held = store.kv(key)
    assert node.stop() == 0
    node.subnet_file.unlink()
    launch(node)
    node.wait_ready()
    assert store.kv(key) == held
    assert node.subnet_file.read_bytes() == text
    assert len(store.leases()) == 1


def test_subnet_without_a_wish(site: Lab) -> None:
    """A host without file and lease gets one of the first 100 free subnets, never the network's first."""
    node = site.nodes[0]
    store_of(site).put(lease_key("172.7.1.0/24"), lease_value("192.168.14.99"))
    node.subnet_file.unlink()
    launch(node)
    node.wait_ready()
    subnet = IPv4Network(node.subnet)
    assert subnet.prefixlen == 24
    assert IPv4Network("172.7.2.0/24") <= subnet <= IPv4Network("172.7.101.0/24")


def test_interface_by_address_or_default_route(site: Lab) -> None:
    """The interface may be named by its address, or be that of the default route; its address is then published."""
    first, second, _ = site.nodes
    second.exec("ip", "route", "add", "default", "via", "192.168.14.1")
    launch(first, iface="192.168.14.21", public_ip=None)
    launch(second, iface=None, public_ip=None)
    for node in (first, second):
        node.wait_ready()
        kv = store_of(site).kv(lease_key(node.subnet))
        assert kv is not None
        assert kv.value == lease_value(node.address.ip).encode()
    assert gateways(second) == {first.subnet: "192.168.14.21"}
    second.exec("ip", "route", "del", "default")


def test_environment_and_command_line(site: Lab) -> None:
    """Each flag has its ``FLANNELD_*`` twin; the command line wins, and an empty variable is no value."""
    node = site.nodes[0]
    variables = {
        "FLANNELD_IFACE": "eth1",
        "FLANNELD_PUBLIC_IP": "",
        "FLANNELD_ETCD_ENDPOINTS": "http://192.168.14.12:2379",
        "FLANNELD_HEALTHZ_PORT": "2499",
        "FLANNELD_LOG_FORMAT": "json",
    }
    launch(node, iface=None, public_ip=None, etcd_endpoints=None, log_format=None, env=variables)
    node.wait_ready()
    assert node.subnet == str(node.bridge_address.network)
