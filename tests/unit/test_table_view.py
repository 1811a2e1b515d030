"""Rows of routes and peers: what is wanted beside what the kernel has. Pure."""

import json
from dataclasses import asdict, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from pyflanneld.core.etcd_types import Put, Record, Snapshot
from pyflanneld.core.families import Address, Network
from pyflanneld.core.lease.codec import LeaseAttrs, encode_value
from pyflanneld.core.link.selection import Link, Neighbour
from pyflanneld.core.peers.table import PeerTable
from pyflanneld.core.peers.validation import FamilyContext, ValidationContext
from pyflanneld.core.routes import KernelRoute, Route
from pyflanneld.core.status.table_view import (
    PEER_STATES,
    ROUTE_STATES,
    PeerFacts,
    PeerRow,
    WantedRoutes,
    peer_rows,
    route_rows,
)

NETWORK, OWN = IPv4Network("172.7.0.0/16"), IPv4Network("172.7.21.0/24")
LINK = Link(2, "eth1", 1500, True, (IPv4Interface("192.168.14.21/24"),))
CONTEXT = ValidationContext("host-gw", FamilyContext(NETWORK, OWN, LINK.addresses))
OURS = 103


def net(third: int) -> IPv4Network:
    return IPv4Network(f"172.7.{third}.0/24")


def wanted(*thirds: int) -> WantedRoutes:
    routes: dict[Network, Route] = {net(n): Route(net(n), IPv4Address(f"192.168.14.{n}"), 2) for n in thirds}
    return WantedRoutes(routes, OURS, (NETWORK,))


def there(third: int, gateway: str = "", *, protocol: int = OURS, metric: int = 0) -> KernelRoute:
    return KernelRoute(net(third), IPv4Address(gateway or f"192.168.14.{third}"), 2, protocol, metric, plain=True)


def test_each_difference_has_its_state() -> None:
    """As wanted, missing, refused, another gateway, a foreign one in the way, and ours that nothing wants."""
    plan = replace(
        wanted(22, 23, 24, 25, 26, 27), failed={net(24): "ENETUNREACH"}, held=frozenset({net(30)}),
        frozen=frozenset({net(31)}),
    )  # fmt: skip
    kernel = [
        there(22), there(27, "192.168.14.9", protocol=4), there(27),
        there(25, "192.168.14.9"), there(26, "192.168.14.9", protocol=4),
        there(30), there(31), there(32), there(33, protocol=4),
        KernelRoute(IPv4Network("10.0.0.0/24"), IPv4Address("192.168.14.1"), 2, OURS, 0, plain=True),
    ]  # fmt: skip
    rows = {row.dst: row for row in route_rows(plan, kernel, [LINK])}
    assert {dst: row.state for dst, row in rows.items()} == {
        "172.7.22.0/24": "ok", "172.7.23.0/24": "missing", "172.7.24.0/24": "refused",
        "172.7.25.0/24": "wrong_gateway", "172.7.26.0/24": "conflict",
        "172.7.27.0/24": "shadowed",
        "172.7.30.0/24": "held", "172.7.31.0/24": "frozen", "172.7.32.0/24": "unwanted",
    }  # fmt: skip
    assert {row.state for row in rows.values()} == set(ROUTE_STATES)
    assert rows["172.7.24.0/24"].detail == "ENETUNREACH"
    conflict = rows["172.7.26.0/24"]
    assert (conflict.wanted_gateway, conflict.kernel_gateway, conflict.protocol) == (
        "192.168.14.26", "192.168.14.9", 4,
    )  # fmt: skip
    assert (conflict.wanted_link, rows["172.7.32.0/24"].wanted_link) == ("eth1", None)


def test_routes_of_another_metric_do_not_count() -> None:
    """To the kernel they are other routes; ours is missing beside one."""
    (row,) = route_rows(wanted(22), [there(22, metric=100)], [LINK])
    assert row.state == "missing"


def test_a_link_that_is_gone_is_named_by_its_index() -> None:
    """The row can be made without the link."""
    (row,) = route_rows(wanted(22), [there(22)], [])
    assert row.kernel_link == "link 2"


def record(name: str, value: bytes, revision: int = 5) -> Record:
    return Record(name.encode(), value, revision, revision, 7)


def host(address: str, backend: str = "host-gw", ipv6: str | None = None) -> bytes:
    return encode_value(LeaseAttrs(IPv4Address(address), backend, IPv6Address(ipv6) if ipv6 else None))


def rows_of(table: PeerTable, kernel: list[KernelRoute], context: ValidationContext = CONTEXT) -> dict[str, PeerRow]:
    """Return the rows by subnet, or by key where there is none."""
    view = table.view(context)
    routes: dict[Network, Route] = {dst: Route(dst, gateway, 2) for dst, gateway in view.peers.items()}
    made = route_rows(replace(wanted(), routes=routes, frozen=view.frozen), kernel, [LINK])
    known: dict[Address, Neighbour] = {
        IPv4Address("192.168.14.22"): Neighbour(IPv4Address("192.168.14.22"), "reachable", "02:00:00:00:00:16")
    }
    facts = PeerFacts(view, {row.dst: row for row in made}, LINK, known, {b"junk": 12.5}, ipv6=context.ipv6 is not None)
    return {row.subnet or row.key: row for row in peer_rows(table.records(), facts)}


def test_each_peer_has_its_state_and_its_reason() -> None:
    """Routed, not routed, quarantined in several ways, of another backend; keys that are no subnet come last."""
    table = PeerTable(b"172.7.21.0-24")
    table.apply(
        Snapshot((
            record("junk", b"x"), record("172.7.99.0-24", b"nonsense"), record("172.7.22.0-24", host("192.168.14.22")),
            record("172.7.23.0-24", host("192.168.14.23")), record("172.7.24.0-24", host("8.8.8.8")),
            record("172.7.25.0-24", host("192.168.14.25", "wireguard")),
        ), 9, 1)
    )  # fmt: skip
    rows = rows_of(table, [there(22)])
    assert {name: row.state for name, row in rows.items()} == {
        "172.7.22.0/24": "routed", "172.7.23.0/24": "unrouted", "172.7.24.0/24": "quarantined",
        "172.7.25.0/24": "other_backend", "172.7.99.0/24": "quarantined", "junk": "quarantined",
    }  # fmt: skip
    assert list(rows)[-1] == "junk"
    assert {row.state for row in rows.values()} <= set(PEER_STATES)
    good = rows["172.7.22.0/24"]
    assert (good.on_link, good.neighbour, good.mac, good.probe) == (True, "reachable", "02:00:00:00:00:16", None)
    assert rows["172.7.23.0/24"].neighbour is None
    assert (rows["172.7.24.0/24"].reason, rows["172.7.24.0/24"].on_link) == ("gateway_off_link", False)
    assert (rows["junk"].reason, rows["junk"].quarantined_s) == ("bad_key", 12.5)


def test_a_peer_that_keeps_its_last_good_route_says_so() -> None:
    """Quarantined, and its route is still there."""
    table = PeerTable(b"172.7.21.0-24")
    table.apply(Snapshot((record("172.7.22.0-24", host("192.168.14.22")),), 9, 1))
    table.view(CONTEXT)
    table.apply(Put(record("172.7.22.0-24", b"{", 10)))
    row = rows_of(table, [there(22)])["172.7.22.0/24"]
    assert (row.state, row.reason, row.route, row.wanted_gateway) == ("quarantined", "not_json", "ok", "192.168.14.22")


def test_a_dual_stack_peer_has_a_row_for_each_subnet() -> None:
    """On a dual-stack node; an IPv4 node shows the subnet that it uses."""
    context6 = FamilyContext(
        IPv6Network("2001:db8:42::/56"), IPv6Network("2001:db8:42:15::/64"), (IPv6Interface("2001:db8:1::15/64"),)
    )
    table = PeerTable(b"172.7.21.0-24")
    name = "172.7.22.0-24&2001:db8:42:16::-64"
    table.apply(Snapshot((record(name, host("192.168.14.22", ipv6="2001:db8:1::16")),), 9, 1))
    assert list(rows_of(table, [], replace(CONTEXT, ipv6=context6))) == ["172.7.22.0/24", "2001:db8:42:16::/64"]
    assert list(rows_of(table, [])) == ["172.7.22.0/24"]


def test_hostile_keys_are_printable_and_json() -> None:
    """Bytes that are no text, and control characters, are escaped."""
    table = PeerTable(b"172.7.21.0-24")
    table.apply(Snapshot((Record(b"\x1b[31m\xff\n", b"\x00", 5, 5, 0),), 9, 1))
    (row,) = rows_of(table, []).values()
    assert row.key == r"\x1b[31m\xff\n"
    assert all(value.isprintable() for value in asdict(row).values() if isinstance(value, str))
    json.dumps(asdict(row))
