"""Every errno on every change of a route, row F71 of the fault matrix: the real loops on a kernel in memory."""

import asyncio
import errno
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from pyflanneld.core.lease.codec import LeaseAttrs, encode_value
from pyflanneld.core.objects.plan import Drop
from tests.faults.conftest import Measured
from tests.support.fakes.node import CONFIG, PROTOCOL, FakeNode, value
from tests.support.fakes.registry import FakeEtcd
from tests.support.fakes.virtual_time import run, until

ERRNOS = [
    errno.EBUSY, errno.EEXIST, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENODEV, errno.ENETDOWN, errno.EINVAL,
    errno.ENOBUFS, errno.ENOMEM, errno.EPERM,
]
VICTIM, OTHER = b"172.7.30.0-24", b"172.7.31.0-24"
STEADY = {f"172.7.{third}.0/24": f"192.168.14.{third}" for third in range(40, 44)}


def net(name: bytes) -> IPv4Network:
    return IPv4Network(name.decode().replace("-", "/"))


def change(etcd: FakeEtcd, operation: str) -> str | None:
    """Let two peers come, move or go, the victim first; return the gateway that both have then."""
    for name in (VICTIM, OTHER):
        if operation == "drop":
            etcd.delete(name)
        else:
            etcd.put(name, value("192.168.14.50" if operation == "create" else "192.168.14.51"))
    return {"create": "192.168.14.50", "replace": "192.168.14.51", "drop": None}[operation]


@pytest.mark.parametrize("number", ERRNOS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("operation", ["create", "replace", "drop"])
def test_f71_each_errno_on_each_change(operation: str, number: int, measured: Measured) -> None:
    """A change that is refused three times is tried again until it is done; meanwhile the route stays as it was, the
    others have theirs in the same round, nothing foreign is touched, and the trouble is told."""

    async def scenario() -> float:
        etcd = FakeEtcd()
        etcd.put_config(CONFIG)
        for third in range(40, 44):
            etcd.put(b"172.7.%d.0-24" % third, value(f"192.168.14.{third}"))
        if operation != "create":
            change(etcd, "create")
        node = FakeNode(etcd, env="FLANNEL_SUBNET=172.7.21.1/24\n")
        async with node.running():
            before = node.kernel.gateways(PROTOCOL)
            node.kernel.applied.clear()
            node.kernel.refuse(net(VICTIM), number, times=3)
            gateway = change(etcd, operation)
            took = await until(lambda: node.kernel.gateways(PROTOCOL).get(str(net(OTHER))) == gateway, 1)
            assert took < 0.1
            assert node.kernel.gateways(PROTOCOL).get(str(net(VICTIM))) == before.get(str(net(VICTIM)))
            assert not node.ready
            assert errno.errorcode[number] in node.why_not
            took = await until(lambda: node.kernel.gateways(PROTOCOL).get(str(net(VICTIM))) == gateway, 10)
            await until(lambda: node.ready, 2)
            now = STEADY if gateway is None else STEADY | {str(net(name)): gateway for name in (VICTIM, OTHER)}
            assert node.kernel.gateways(PROTOCOL) == now
            assert [applied.object.dst for applied in node.kernel.applied] == [net(OTHER), net(VICTIM)]
            assert all(isinstance(applied, Drop) == (operation == "drop") for applied in node.kernel.applied)
            assert node.log.count("route.failed") == 1
            return took

    measured(f"done {run(scenario()):.1f} s after the first refusal (virtual time); the others at once")


@pytest.mark.parametrize("call", ["links", "routes", "apply"])
@pytest.mark.parametrize("times", [1, 2])
def test_f71_lists_and_batches_that_fail(call: str, times: int, measured: Measured) -> None:
    """A list that cannot be had, or a batch that fails as a whole, takes no route away; it is asked for anew."""

    async def scenario() -> float:
        etcd = FakeEtcd()
        etcd.put_config(CONFIG)
        for third in range(40, 44):
            etcd.put(b"172.7.%d.0-24" % third, value(f"192.168.14.{third}"))
        node = FakeNode(etcd, env="FLANNEL_SUBNET=172.7.21.1/24\n")
        async with node.running():
            node.kernel.applied.clear()
            node.kernel.fail_calls(times, only=call)
            node.kernel.delete_route(IPv4Network("172.7.40.0/24"))
            took = await until(lambda: node.kernel.gateways(PROTOCOL) == STEADY, 10.2)
            await asyncio.sleep(30)
            assert node.ready
            assert [str(applied.object.dst) for applied in node.kernel.applied] == ["172.7.40.0/24"]
            return took

    measured(f"{times} times: the deleted route was back after {run(scenario()):.1f} s (virtual time)")


@pytest.mark.parametrize("number", ERRNOS, ids=lambda number: errno.errorcode[number])
@pytest.mark.parametrize("what", ["neighbour", "forwarding", "route", "device", "address"])
def test_f71_vxlan_each_errno_on_each_object(what: str, number: int, measured: Measured) -> None:
    """Whatever of the tunnel is refused three times is told, tried again until it is done, and all is whole then."""

    async def scenario() -> float:
        etcd = FakeEtcd()
        etcd.put_config(b'{"Network":"172.7.0.0/16","Backend":{"Type":"vxlan"}}')
        data = '{"VNI":1,"VtepMAC":"02:00:00:00:00:30"}'
        etcd.put(VICTIM, encode_value(LeaseAttrs(IPv4Address("192.168.14.30"), "vxlan", data=data)))
        node = FakeNode(etcd, env="FLANNEL_SUBNET=172.7.21.1/24\n")
        identities: dict[str, object] = {
            "neighbour": (3, IPv4Address("172.7.30.0")), "forwarding": (3, "02:00:00:00:00:30"), "route": net(VICTIM),
            "device": "flannel.1", "address": (3, IPv4Interface("172.7.21.0/32")),
        }  # fmt: skip
        node.kernel.refuse(identities[what], number, times=3)
        async with node.running(ready=False):
            events = [f"{what}.failed", "device.failed"]
            await until(lambda: any(node.log.count(event) for event in events), 5)
            assert errno.errorcode[number] in str(node.log.events)
            took_s = await until(lambda: node.ready, 30)
            assert node.kernel.forwardings_of(3) == {"02:00:00:00:00:30": "192.168.14.30"}
            assert [one.mac for one in node.kernel.neighbours_of(3)] == ["02:00:00:00:00:30"]
            assert node.kernel.gateways() == {str(net(VICTIM)): "172.7.30.0"}
            return took_s

    measured(f"with vxlan, {what}: ready {run(scenario()):.1f} s after it was told (virtual time)")
