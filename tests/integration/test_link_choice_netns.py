"""The daemon as a process in a namespace with several links: which one it takes, and what it says about it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.network.namespaces import Namespace, namespace

pytestmark = pytest.mark.netns
MATCH, WAY = "first match of --iface-regex=", "is on the kernel's route to --iface-can-reach="


@pytest.fixture
def host() -> Iterator[Namespace]:
    """eth0 10.0.2.15 with the default route; eth1 192.168.14.21, 192.168.15.21; eth2 without an address."""
    with namespace() as made:
        made.veth("eth0", "10.0.2.15/24", peer="peer0")
        made.veth("eth1", "192.168.14.21/24", "192.168.15.21/24", peer="peer1")
        made.veth("eth2", peer="peer2")
        made.ip("address add 172.16.0.1/24 dev eth0 preferred_lft 0 valid_lft 1000")
        made.ip("route add default via 10.0.2.2 metric 100")
        made.ip("route add 10.99.0.0/16 via 192.168.15.1")
        made.ip("rule add to 10.98.0.0/16 lookup 77")
        made.ip("route add default via 192.168.14.1 table 77")
        yield made


def start(host: Namespace, folder: Path, *flags: str) -> subprocess.Popen[str]:
    """Start the daemon; there is no etcd, which it needs only after it has chosen its link."""
    daemon = (sys.executable, "-m", "pyflanneld", "--log-format=json", "--healthz-port=0")
    command = host.command(*daemon, f"--subnet-file={folder}/subnet.env", *flags)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FLANNELD_")}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)


def first(process: subprocess.Popen[str], event: str) -> dict[str, object]:
    """Return the first log line about *event*; the test's time limit ends the wait."""
    assert process.stderr is not None
    for line in process.stderr:
        told: dict[str, object] = json.loads(line)
        if told["event"] == event:
            return told
    raise AssertionError(f"the daemon ended without {event}")


@pytest.mark.parametrize(
    ("flags", "link", "address", "why"),
    [
        ("", "eth0", "10.0.2.15", "has the default route"),
        ("--iface-regex=^192[.]168[.]15[.]", "eth1", "192.168.15.21", MATCH + "^192[.]168[.]15[.]"),
        ("--iface=eth2 --iface-regex=^wl --iface-regex=^eth[12]$", "eth1", "192.168.14.21", MATCH + "^eth[12]$"),
        ("--iface=eth9 --iface-can-reach=10.99.1.1", "eth1", "192.168.15.21", WAY + "10.99.1.1"),
        ("--iface-can-reach=10.98.1.1", "eth1", "192.168.14.21", WAY + "10.98.1.1"),
        ("--public-ip=192.168.15.21", "eth1", "192.168.15.21", "carries --public-ip=192.168.15.21"),
        ("--iface=eth1 --public-ip=192.168.15.21", "eth1", "192.168.15.21", "matches --iface=eth1"),
    ],
)
def test_the_choice(host: Namespace, tmp_path: Path, flags: str, link: str, address: str, why: str) -> None:
    """The link and the address that flannel would take, with the reason in the log."""
    with start(host, tmp_path, *flags.split()) as process:
        try:
            told = first(process, "link.chosen")
        finally:
            process.kill()
    assert (told["link"], told["address"], told["why"]) == (link, address, why)


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (("--iface-regex=^enp",), 1, "there is no interface matching ^enp; this host has: peer0 (no IPv4 address), "),
        (("--iface-can-reach=192.168.14.21",), 1, "there is no interface on the route to 192.168.14.21"),
        (("--public-ip=10.9.9.9",), 2, "--public-ip=10.9.9.9 is not an address of any interface"),
    ],
)
def test_nothing_fits(host: Namespace, tmp_path: Path, flags: tuple[str, ...], code: int, text: str) -> None:
    """What was asked for and is not there ends the start at once, with what there is instead."""
    with start(host, tmp_path, *flags) as process:
        assert text in str(first(process, "daemon.failed")["error"])
    assert process.returncode == code


@pytest.mark.parametrize(
    ("how", "link", "shared"),
    [
        ("nexthop via 192.168.14.1 nexthop via 192.168.15.1", "eth1", ""),
        ("nhid 10", "eth1", ""),
        ("nexthop via 192.168.14.1 nexthop via 10.0.2.2", "eth1", "the default route goes through eth0 as well"),
        ("nexthop via 10.0.2.2 nexthop via 192.168.14.1", "eth0", "the default route goes through eth1 as well"),
        ("nhid 20", "eth0", "the default route goes through eth1 as well"),
    ],
)
def test_a_default_route_with_several_next_hops(
    host: Namespace, tmp_path: Path, how: str, link: str, shared: str
) -> None:
    """Its link is chosen, whether the next hops are the route's own or objects; of several the first, which is told."""
    for number, hop in enumerate(("192.168.14.1 dev eth1", "192.168.15.1 dev eth1", "10.0.2.2 dev eth0"), start=1):
        host.ip(f"nexthop add id {number} via {hop}")
    host.ip("nexthop add id 10 group 1/2")
    host.ip("nexthop add id 20 group 3/1")
    host.ip(f"route add default {how}")
    with start(host, tmp_path) as process:
        try:
            told = first(process, "link.chosen")
            warned = first(process, "link.default_route_shared") if shared else {"link": link, "warning": ""}
        finally:
            process.kill()
    assert (told["link"], told["why"]) == (link, "has the default route")
    assert warned["link"] == link
    assert str(warned["warning"]).startswith(shared)


@pytest.mark.parametrize(
    "flags", ["--iface=192.168.16.21", "--public-ip=192.168.16.21", "--iface=eth2 --public-ip=192.168.16.21"]
)
def test_a_deprecated_address_that_is_named(host: Namespace, tmp_path: Path, flags: str) -> None:
    """It counts, be it the only one of its link."""
    host.ip("address add 192.168.16.21/24 dev eth2 preferred_lft 0 valid_lft 1000")
    with start(host, tmp_path, *flags.split()) as process:
        try:
            told = first(process, "link.chosen")
        finally:
            process.kill()
    assert (told["link"], told["address"]) == ("eth2", "192.168.16.21")


def test_a_deprecated_address_that_is_not_named(host: Namespace, tmp_path: Path) -> None:
    """Nobody is told that there is none, and then which one there is."""
    host.ip("address add 192.168.16.21/24 dev eth2 preferred_lft 0 valid_lft 1000")
    with start(host, tmp_path, "--iface=eth2") as process:
        error = str(first(process, "daemon.failed")["error"])
    assert "no interface eth2 with an IPv4 address to publish (eth2 has only 192.168.16.21 (deprecated)); " in error
    assert "eth0 (10.0.2.15/24, 172.16.0.1/24 deprecated)" in error
