"""The benchmark's command line, and what it reads of other programs."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.bench.__main__ import parse, schedule
from tests.bench.contenders import Contender, ours, parse_against, with_names_of_their_own
from tests.bench.leases import ETCD, LAN, MOST_NEWCOMERS, MOST_PEERS, NETWORK, measured_host, newcomer, peer
from tests.bench.observer import Seen
from tests.bench.site import SPARE_HOST
from tests.bench.work import parse_counters, work


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "flanneld"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_against_takes_a_path_and_an_api(program: Path) -> None:
    """``PATH``, ``PATH:2``, ``PATH:3``; a name is looked for as a shell does; a colon may belong to the path."""
    found = parse_against(f"{program}:2")
    assert (found.name, found.command, found.api) == ("flanneld", (str(program),), 2)
    assert parse_against(str(program)).api == 3
    assert parse_against("sh:3").command[0].startswith("/")
    odd = program.rename(program.with_name("a:b"))
    assert parse_against(str(odd)).command == (str(odd),)


@pytest.mark.parametrize("text", ["/no/such/program", "/no/such/program:2", "sh:4", ""])
def test_against_refuses_what_cannot_be_run(text: str) -> None:
    """No such program, no such API."""
    with pytest.raises(ValueError, match=r"no such program|2 or 3"):
        parse_against(text)


def test_contenders_have_names_of_their_own() -> None:
    """Two programs with one name are told apart by API, then by number; none is called like the floor."""
    named = [ours(), *(Contender("flanneld", ("f",), api) for api in (2, 3, 3, 2)), Contender("ip -batch", ("i",))]
    names = [one.name for one in with_names_of_their_own(named)]
    assert names == ["pyflanneld", "flanneld", "flanneld (v3)", "flanneld 2", "flanneld (v2)", "ip -batch (v3)"]


@pytest.mark.parametrize(
    "wrong",
    ["--only no", "--peers x", "--peers 16001", "--against /no/such", "--write --only start", "--report /no/such"],
)
def test_wrong_arguments_are_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a sentence, before anything is made."""
    with pytest.raises(SystemExit) as end:
        parse(wrong.split())
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_the_schedule_goes_from_few_peers_to_many() -> None:
    """Each case with its own numbers of peers, or all chosen ones with the numbers that are asked for."""
    args = parse(["--only", "start,lease", "--only", "idle"])
    planned = [(case.name, peers) for case, peers in schedule(args.only, args.peers)]
    assert planned[:3] == [("start", 0), ("start", 250), ("lease", 250)]
    assert planned[-1] == ("start", 16_000)
    assert [peers for _, peers in planned] == sorted(peers for _, peers in planned)
    args = parse(["--only", "lease", "--peers", "30,20"])
    assert [(case.name, peers) for case, peers in schedule(args.only, args.peers)] == [("lease", 20), ("lease", 30)]
    assert [case.name for case, _ in schedule((), (0,))] == ["start"]  # nothing else makes sense without a peer


def test_addresses_do_not_collide() -> None:
    """Every subnet and every address of the site is there once, and where it belongs."""
    hosts = [measured_host(number) for number in range(SPARE_HOST + 1)]
    leases = [*map(peer, range(MOST_PEERS)), *map(newcomer, range(MOST_NEWCOMERS)), *hosts]
    assert len({lease.subnet for lease in leases}) == len(leases)
    assert len({ETCD, *(lease.gateway for lease in leases)}) == len(leases) + 1
    assert all(lease.subnet.subnet_of(NETWORK) and lease.gateway in LAN for lease in leases)
    assert not NETWORK.overlaps(LAN)


def test_leases_are_flannels() -> None:
    """Keys and values of both APIs, and the route that belongs to them."""
    first = peer(0)
    assert first.name == b"10.1.0.0-24"
    assert first.value(3) == b'{"PublicIP":"172.31.1.0","PublicIPv6":null,"BackendType":"host-gw"}'
    assert first.value(2) == b'{"PublicIP":"172.31.1.0","BackendType":"host-gw"}'
    assert first.route(103) == "route add 10.1.0.0/24 via 172.31.1.0 dev eth1 proto 103"


def route_message(kind: int, dst: str, *, table: int = 254, type_: int = 1) -> bytes:
    network = IPv4Network(dst)
    body = bytes([2, network.prefixlen, 0, 0, table, 103, 0, type_]) + bytes(4)
    body += (8).to_bytes(2, "little") + (15).to_bytes(2, "little") + table.to_bytes(4, "little")
    body += (8).to_bytes(2, "little") + (1).to_bytes(2, "little") + network.network_address.packed
    return (16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little") + bytes(10) + body


def test_the_observer_notes_routes_of_the_network() -> None:
    """When they came first and when they went; other networks' and local ones do not count."""
    subnet = int(IPv4Network("10.1.0.0/24").network_address)
    seen = Seen()
    seen.take(route_message(24, "10.1.0.0/24") + route_message(24, "10.1.1.0/24"), 1.0)
    seen.take(route_message(24, "10.1.0.0/24"), 2.0)
    seen.take(route_message(24, "192.168.0.0/24") + route_message(24, "10.255.0.1/32", type_=2), 2.5)
    assert (seen.added[subnet], len(seen.added), seen.messages) == (1.0, 2, 3)
    seen.take(route_message(25, "10.1.0.0/24"), 3.0)
    assert (seen.gone, len(seen.added)) == ({subnet: 3.0}, 1)
    seen.take(route_message(24, "10.1.0.0/24"), 4.0)
    assert seen.added[subnet] == 4.0


def test_the_observer_notes_when_a_link_is_up() -> None:
    """With a carrier; the loopback does not count."""
    seen = Seen()
    for at_s, flags in enumerate((0x1, 0x10001, 0x10009, 0x10000)):
        body = bytes(8) + flags.to_bytes(4, "little") + bytes(4)
        seen.take((32).to_bytes(4, "little") + (16).to_bytes(2, "little") + bytes(10) + body, float(at_s))
    assert seen.link_up == [1.0]


def test_etcds_counters_are_added_up() -> None:
    """Calls of both APIs, events, watches, bytes; other counters and comments are none of these."""
    text = (
        "# HELP x y\n"
        'grpc_server_started_total{grpc_method="Range",grpc_type="unary"} 12\n'
        'grpc_server_started_total{grpc_method="Watch",grpc_type="bidi_stream"} 1\n'
        'etcd_http_received_total{method="GET"} 3\n'
        "etcd_debugging_mvcc_events_total 1.004e+03\n"
        "etcd_debugging_mvcc_watcher_total 2\n"
        "etcd_network_client_grpc_sent_bytes_total 31337\n"
        "etcd_debugging_mvcc_put_total 5\n"
    )
    before, now = work({}), work(parse_counters(text))
    assert (now.requests, now.events, now.watchers, now.sent_bytes) == (16, 1004, 2, 31337)
    assert now.since(now) == before
