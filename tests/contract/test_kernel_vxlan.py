"""What every ``Kernel`` promises about vxlan devices, their addresses and entries, on the fake and on a real one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from errno import EEXIST, ENODEV
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network

import pytest

from pyflanneld.core.families import Address, Network
from pyflanneld.core.link.selection import Link
from pyflanneld.core.link.vxlan import Vxlan
from pyflanneld.core.neighbours import Entry
from pyflanneld.core.objects.plan import Create, Drop, Replace
from pyflanneld.core.routes import KernelRoute, Route, RouteListing
from pyflanneld.core.vxlan.device import Device, LinkAddress, Tunnel
from pyflanneld.core.vxlan.forwardings import Forwarding, ForwardingListing, KernelForwarding
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.ports import Kernel
from tests.contract.in_memory import KERNELS
from tests.support.network.namespaces import namespace

OURS, THEIRS = "02:00:00:00:00:21", "02:00:00:00:00:22"
NETWORK, NETWORK6 = ip_network("172.7.0.0/16"), ip_network("fd00:7::/48")
SUBNET, SUBNET6 = ip_network("172.7.22.0/24"), ip_network("fd00:7:0:22::/64")
LOCAL, LOCAL6 = ip_address("192.168.77.1"), ip_address("fd00:77::1")
FAR, FAR6 = ip_address("192.168.77.2"), ip_address("fd00:77::2")


@pytest.fixture(params=[*KERNELS, pytest.param("real", marks=pytest.mark.netns)])
async def kernel(request: pytest.FixtureRequest) -> AsyncIterator[Kernel]:
    """A kernel with one cable, ``eth0``, and both families."""
    if request.param in KERNELS:
        own = (IPv4Interface("192.168.77.1/24"),), frozenset[Address](), (IPv6Interface("fd00:77::1/64"),)
        yield KERNELS[request.param](Link(3, "eth0", 1500, True, *own), protocol=103)
        return
    with namespace() as made, made.inside():
        made.veth("eth0", "192.168.77.1/24", "fd00:77::1/64", peer="peer0")
        real = NetlinkKernel(protocol=103)
        yield real
        await real.close()


async def link(kernel: Kernel, name: str) -> Link | None:
    return next((one for one in await kernel.links() if one.name == name), None)


async def wanted(kernel: Kernel, version: int = 4) -> Device:
    lower = await link(kernel, "eth0")
    assert lower is not None
    local = LOCAL if version == 4 else LOCAL6
    parameters = Vxlan(OURS, vni=1, port=8472, lower_index=lower.index, local=local, version=version)
    if version == 4:
        return Device("flannel.1", parameters, 1450, ip_interface("172.7.21.0/32"), NETWORK)
    return Device("flannel-v6.1", parameters, 1430, ip_interface("fd00:7:0:21::/128"), NETWORK6)


@asynccontextmanager
async def made(kernel: Kernel, version: int = 4) -> AsyncIterator[Link]:
    """Have a device with its address."""
    device = await wanted(kernel, version)
    assert await kernel.apply([Create(device)]) == {}
    there = await link(kernel, device.name)
    assert there is not None
    assert await kernel.apply([Create(LinkAddress(there.index, device.address))]) == {}
    yield there


@pytest.mark.parametrize("version", [4, 6])
async def test_a_device_is_made_as_wanted(kernel: Kernel, version: int) -> None:
    """It is up, and reads back as what was asked for; one with its name, or its VNI and port, is refused."""
    device = await wanted(kernel, version)
    async with made(kernel, version) as there:
        assert (there.vxlan, there.mtu, there.up) == (device.vxlan, device.mtu, True)
        again = await link(kernel, device.name)
        assert again is not None
        assert device.address in again.interfaces(version)
        for other in (device, replace(device, name="other.1")):
            assert await kernel.apply([Create(other)]) == {Create(other): EEXIST}
    drop = Drop(there)
    assert await kernel.apply([drop, drop]) == {}, "it is gone, and that it is gone is no failure"
    assert await link(kernel, device.name) is None


@pytest.mark.netns
async def test_no_router_advertisements() -> None:
    """Other hosts do not configure the device."""
    with namespace() as host, host.inside():
        host.veth("eth0", "192.168.77.1/24", peer="peer0")
        real = NetlinkKernel(protocol=103)
        async with made(real) as there:
            setting = host.run("cat", f"/proc/sys/net/ipv6/conf/{there.name}/accept_ra")
            assert setting.strip() == "0"
        await real.close()


async def test_two_families_have_a_device_each(kernel: Kernel) -> None:
    """With one VNI and one port."""
    async with made(kernel, 4), made(kernel, 6):
        names = {one.name for one in await kernel.links() if one.vxlan is not None}
        assert names == {"flannel.1", "flannel-v6.1"}


def tunnel(device: Device) -> Tunnel:
    return Tunnel(device.name, device.vxlan, device.subnet)


async def test_group_policies_and_learning(kernel: Kernel) -> None:
    """They are asked for when the device is made; learning can be changed later."""
    plain = await wanted(kernel)
    device = replace(plain, vxlan=replace(plain.vxlan, gbp=True, learning=True, vni=7, port=4789))
    assert await kernel.apply([Create(device)]) == {}
    there = await link(kernel, device.name)
    assert there is not None
    assert there.vxlan == device.vxlan
    other = replace(device, vxlan=replace(device.vxlan, learning=False))
    assert await kernel.apply([Replace(tunnel(other))]) == {}
    there = await link(kernel, device.name)
    assert there is not None
    assert there.vxlan == other.vxlan


async def test_what_can_be_changed_in_place(kernel: Kernel) -> None:
    """MAC address, MTU and local address: index, address and forwarding entries stay."""
    device = await wanted(kernel)
    async with made(kernel) as there:
        entry = Forwarding(SUBNET, there.index, THEIRS, FAR)
        assert await kernel.apply([Create(entry)]) == {}
        local = ip_address("192.168.77.9")
        other = replace(device, mtu=1400, vxlan=replace(device.vxlan, mac="02:00:00:00:00:99", local=local))
        assert await kernel.apply([Replace(other), Replace(tunnel(other))]) == {}
        now = await link(kernel, device.name)
        assert now is not None
        assert (now.vxlan, now.mtu, now.index, now.addresses) == (
            other.vxlan, 1400, there.index, (IPv4Interface("172.7.21.0/32"),)
        )  # fmt: skip
        assert await forwardings(kernel, there.index) == {THEIRS: FAR}
    assert await kernel.apply([Drop(there)]) == {}
    assert await kernel.apply([Replace(device)]) == {Replace(device): ENODEV}


@pytest.mark.parametrize("version", [4, 6])
async def test_addresses_come_and_go(kernel: Kernel, version: int) -> None:
    """A second creation is refused; what is gone is dropped without a failure."""
    async with made(kernel, version) as there:
        own = LinkAddress(there.index, (await wanted(kernel, version)).address)
        assert await kernel.apply([Create(own)]) == {Create(own): EEXIST}
        assert await kernel.apply([Drop(own), Drop(own)]) == {}
        now = await link(kernel, there.name)
        assert now is not None
        assert now.interfaces(version) == ()


@pytest.mark.parametrize("what", ["mac", "address"])
async def test_what_takes_the_neighbours_along(kernel: Kernel, what: str) -> None:
    """Another MAC address, or the loss of the last address: permanent ones go too, forwarding entries stay."""
    device = await wanted(kernel)
    async with made(kernel) as there:
        entry = Entry(SUBNET, there.index, ip_address("172.7.22.0"), THEIRS)
        assert await kernel.apply([Create(entry), Create(Forwarding(SUBNET, there.index, THEIRS, FAR))]) == {}
        assert [one.mac for one in await kernel.neighbours(there.index) if one.state == "permanent"] == [THEIRS]
        other = replace(device, vxlan=replace(device.vxlan, mac="02:00:00:00:00:99"))
        change = Replace(other) if what == "mac" else Drop(LinkAddress(there.index, device.address))
        assert await kernel.apply([change]) == {}
        assert [one.mac for one in await kernel.neighbours(there.index) if one.state == "permanent"] == []
        assert await forwardings(kernel, there.index) == {THEIRS: FAR}


async def forwardings(kernel: Kernel, index: int) -> dict[str, Address | None]:
    found: tuple[KernelForwarding, ...] = await kernel.objects(ForwardingListing(index))
    return {one.mac: one.destination for one in found if one.permanent}


@pytest.mark.parametrize("version", [4, 6])
async def test_a_forwarding_entry_is_put_moved_and_dropped(kernel: Kernel, version: int) -> None:
    """A MAC address has one destination; a replacement moves it; a drop that names another one leaves it."""
    subnet, far = (SUBNET, FAR) if version == 4 else (SUBNET6, FAR6)
    async with made(kernel, version) as there:
        entry = Forwarding(subnet, there.index, THEIRS, far)
        assert await kernel.apply([Create(entry)]) == {}
        assert await kernel.apply([Create(entry)]) == {Create(entry): EEXIST}
        assert await forwardings(kernel, there.index) == {THEIRS: far}
        moved = replace(entry, destination=far + 1)
        assert await kernel.apply([Replace(moved)]) == {}
        assert await forwardings(kernel, there.index) == {THEIRS: far + 1}
        old, now = (KernelForwarding(there.index, THEIRS, one, permanent=True) for one in (far, far + 1))
        assert await kernel.apply([Drop(old)]) == {}
        assert await forwardings(kernel, there.index) == {THEIRS: far + 1}
        assert await kernel.apply([Drop(now), Drop(now)]) == {}
        assert await forwardings(kernel, there.index) == {}
        assert await kernel.objects(ForwardingListing(9999)) == ()


@pytest.mark.parametrize("version", [4, 6])
async def test_a_route_through_a_device(kernel: Kernel, version: int) -> None:
    """Its gateway need not be on any network; it reads back as it was put, and goes by what it is."""
    subnet: Network = SUBNET if version == 4 else SUBNET6
    async with made(kernel, version) as there:
        route = Route(subnet, subnet.network_address, there.index, onlink=True)
        assert await kernel.apply([Create(route)]) == {}
        metric = 0 if version == 4 else 1024
        held = KernelRoute(subnet, subnet.network_address, there.index, 103, metric, plain=True, onlink=True)
        listing = RouteListing(version, None, (subnet,))
        assert await kernel.objects(listing) == (held,)
        assert await kernel.apply([Drop(held)]) == {}
        assert await kernel.objects(listing) == ()
