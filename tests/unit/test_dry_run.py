"""What the daemon would do, as steps: the words for each decision of the core."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from pyflanneld.commands.read_only_ports import ReadOnlyPort
from pyflanneld.core.lease.codec import SubnetKey
from pyflanneld.core.link.selection import Link
from pyflanneld.core.objects.plan import plan
from pyflanneld.core.routes import BOOT, KernelRoute, Route, RouteKind
from pyflanneld.core.status.dry_run import Action, DryRunStep, file_step, overlap_problems, route_steps, rules_step

NETWORK = IPv4Network("172.7.0.0/16")
ETH1 = Link(2, "eth1", 1500, True, (IPv4Interface("192.168.14.21/24"),))


def net(third: int) -> IPv4Network:
    return IPv4Network(f"172.7.{third}.0/24")


def host(last: int) -> IPv4Address:
    return IPv4Address(f"192.168.14.{last}")


def there(third: int, last: int, protocol: int) -> KernelRoute:
    return KernelRoute(net(third), host(last), 2, protocol, 0, True)


def test_every_route_has_one_step() -> None:
    """Kept, added, adopted, changed, left to a foreign one, removed, held: each destination once, in order."""
    desired = {net(n): Route(net(n), host(n), 2) for n in (22, 23, 24, 25, 26)}
    present = [
        there(22, 22, 103), there(24, 24, BOOT), there(25, 99, 103), there(26, 99, 4), there(30, 30, 103),
        there(31, 31, 103),
    ]  # fmt: skip
    todo = plan(RouteKind(103, (NETWORK,)), desired, present)
    steps = route_steps(todo, desired, present, [ETH1], protocol=103, held={net(31)})
    assert [(step.what.split("/")[0], step.action) for step in steps] == [
        ("172.7.22.0", Action.KEEP), ("172.7.23.0", Action.ADD), ("172.7.24.0", Action.ADOPT),
        ("172.7.25.0", Action.CHANGE), ("172.7.26.0", Action.LEAVE), ("172.7.30.0", Action.REMOVE),
        ("172.7.31.0", Action.HOLD),
    ]  # fmt: skip
    assert steps[3].why == "now via 192.168.14.99 dev eth1"
    assert steps[4].why == "a foreign route is in the way, via 192.168.14.99 dev eth1 proto static"


def test_what_is_one_too_many_is_removed() -> None:
    """Of two routes of ours to one subnet the wrong one goes, and the other stays or is changed."""
    desired = {net(n): Route(net(n), host(n), 2) for n in (22, 23)}
    present = [there(22, 99, 103), there(22, 22, 103), replace(there(23, 23, 103), tos=0x10, plain=False)]
    steps = route_steps(plan(RouteKind(103, (NETWORK,)), desired, present), desired, present, [ETH1], protocol=103)
    why = "ours, and one too many for this destination"
    assert steps[1:] == [
        DryRunStep("route", Action.ADD, "172.7.23.0/24 via 192.168.14.23 dev eth1"),
        DryRunStep("route", Action.REMOVE, "172.7.22.0/24 via 192.168.14.99 dev eth1", why),
        DryRunStep("route", Action.REMOVE, "172.7.23.0/24 via 192.168.14.23 dev eth1 tos 0x10", why),
    ]


def test_what_is_left_alone_is_no_change() -> None:
    """Only what would be another afterwards counts for the exit code; what is held goes later, so it counts."""
    assert {action for action in Action if not action.changes} == {Action.KEEP, Action.LEAVE}


def test_the_file() -> None:
    """Unchanged, new, or with exactly the lines that differ."""
    assert file_step("f", "a=1\n", "a=1\n") == DryRunStep("subnet file", Action.KEEP, "f")
    assert file_step("f", None, "a=1\n").lines == ("+ a=1",)
    assert file_step("f", "a=1\nb=2\n", "a=1\nb=3\n").lines == ("- b=2", "+ b=3")
    assert file_step("f", "a=1", "a=1\n").action is Action.CHANGE


def test_rules() -> None:
    """An empty transaction keeps, one with deletions takes over, another one adds."""
    assert rules_step("x", "iptables", "").action is Action.KEEP
    assert rules_step("x", "iptables", "*filter\n-A A -j B\nCOMMIT\n") == DryRunStep(
        "firewall", Action.ADD, "x in iptables", "", ("*filter", "-A A -j B")
    )
    assert rules_step("x", "iptables", "*filter\n-D A -j B\nCOMMIT\n").action is Action.ADOPT


def test_an_overlap_with_this_host() -> None:
    """A network of this host inside the cluster's is told, but for the bridge on the own subnet."""
    lan = Link(3, "eth2", 1500, True, (IPv4Interface("172.7.200.5/24"),))
    bridge = Link(4, "docker0", 1500, True, (IPv4Interface("172.7.21.1/24"),))
    (problem,) = overlap_problems([NETWORK], SubnetKey(net(21)), [ETH1, lan, bridge])
    assert problem.text.startswith("the cluster's network 172.7.0.0/16 overlaps 172.7.200.0/24 of eth2")


def test_a_read_only_port_cannot_write() -> None:
    """What is not named is not there, so a command that changes nothing cannot write by mistake."""
    port = ReadOnlyPort([3], "index")
    assert port.index(3) == 0
    with pytest.raises(AttributeError, match="append is not allowed in a command that changes nothing"):
        port.append(4)
