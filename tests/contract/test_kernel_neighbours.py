"""What every ``Kernel`` promises about neighbours, on the fake and on a real one."""

from collections.abc import AsyncIterator
from errno import EEXIST, ENODEV
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, ip_address
from socket import AF_BRIDGE

import pytest
from pyroute2.netlink.rtnl.ndmsg import NUD_REACHABLE, ndmsg

from pyflanneld.core.link.selection import NEIGHBOUR_STATES, Link, Neighbour
from pyflanneld.core.neighbours import Entry, EntryListing, KernelEntry
from pyflanneld.core.objects.plan import Create, Drop, Replace
from pyflanneld.netlink import neighbours
from pyflanneld.netlink.frames import Malformed
from pyflanneld.netlink.kernel import NetlinkKernel
from pyflanneld.netlink.messages import encode
from pyflanneld.ports import Kernel
from tests.contract.in_memory import KERNELS, MakeKernel
from tests.support.fakes.kernel import FakeKernel
from tests.support.network.namespaces import Namespace, namespace

NEAR, FAR, MAC = "192.168.77.2", "fd00:77::2", "02:00:00:00:00:02"
SUBNET = IPv4Network("192.168.77.0/24")


class Bed:
    """A kernel with two cables, ``eth0`` and ``eth1``, and the hand of an administrator."""

    def __init__(self, inside: Namespace | None, make: MakeKernel = FakeKernel) -> None:
        self._inside = inside
        self.kernel: Kernel
        if inside is not None:
            self.kernel = NetlinkKernel(protocol=103)
            inside.veth("eth0", "192.168.77.1/24", "fd00:77::1/64", peer="peer0")
            inside.veth("eth1", "192.168.78.1/24", peer="peer1")
            return
        both = (IPv4Interface("192.168.77.1/24"),), frozenset[IPv4Address](), (IPv6Interface("fd00:77::1/64"),)
        eth0 = Link(3, "eth0", 1500, True, *both)
        self.kernel = self.fake = make(eth0, Link(5, "eth1", 1500, True, (IPv4Interface("192.168.78.1/24"),)))

    async def index(self, name: str) -> int:
        return next(link.index for link in await self.kernel.links() if link.name == name)

    async def add(self, link: str, address: str, state: str, mac: str | None) -> None:
        if self._inside is not None:
            lladdr = f"lladdr {mac}" if mac else ""
            self._inside.ip(f"neighbour replace {address} {lladdr} dev {link} nud {state}")
            return
        parsed = IPv6Address(address) if ":" in address else IPv4Address(address)
        self.fake.meet(await self.index(link), Neighbour(parsed, state, mac))


@pytest.fixture(params=[*KERNELS, pytest.param("real", marks=pytest.mark.netns)])
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    if request.param in KERNELS:
        yield Bed(None, KERNELS[request.param])
        return
    with namespace() as made, made.inside():
        real = Bed(made)
        yield real
        await real.kernel.close()


async def test_neighbours_of_one_link_in_both_families(bed: Bed) -> None:
    """Address, state and hardware address; those of other links are not among them."""
    await bed.add("eth0", NEAR, "permanent", MAC)
    await bed.add("eth0", FAR, "stale", MAC)
    await bed.add("eth1", "192.168.78.2", "permanent", MAC)
    found = {one.address: one for one in await bed.kernel.neighbours(await bed.index("eth0"))}
    assert found[IPv4Address(NEAR)] == Neighbour(IPv4Address(NEAR), "permanent", MAC)
    assert found[IPv6Address(FAR)] == Neighbour(IPv6Address(FAR), "stale", MAC)
    assert IPv4Address("192.168.78.2") not in found
    assert {one.state for one in found.values()} <= set(NEIGHBOUR_STATES)


async def test_a_neighbour_without_a_hardware_address(bed: Bed) -> None:
    """One that does not answer is there, with nothing to send to."""
    await bed.add("eth0", NEAR, "failed", None)
    (one,) = [one for one in await bed.kernel.neighbours(await bed.index("eth0")) if one.address == IPv4Address(NEAR)]
    assert (one.state, one.mac) == ("failed", None)


async def test_no_link_has_no_neighbours(bed: Bed) -> None:
    """Of a link that is not there, there are none, and the kernel can be asked on."""
    assert await bed.kernel.neighbours(9999) == ()
    assert await bed.kernel.links()


def test_malformed_messages_are_refused() -> None:
    """A short message is an error; one without an IP address is none of ours."""
    with pytest.raises(Malformed):
        neighbours.decode_neighbour(bytes(4))
    only_mac = encode(ndmsg, {"family": AF_BRIDGE, "ifindex": 3, "state": NUD_REACHABLE}, [("NDA_LLADDR", MAC)])
    assert neighbours.decode_neighbour(only_mac) is None


async def entries(bed: Bed, link: str = "eth0") -> dict[str, str | None]:
    found = await bed.kernel.objects(EntryListing(await bed.index(link)))
    return {str(one.address): one.mac for one in found if one.permanent}


@pytest.mark.parametrize("address", [NEAR, FAR])
async def test_an_entry_is_put_replaced_and_dropped(bed: Bed, address: str) -> None:
    """Permanent, in both families; a second creation is refused, and dropping what is gone is no failure."""
    wanted = Entry(SUBNET, await bed.index("eth0"), ip_address(address), MAC)
    assert await bed.kernel.apply([Create(wanted)]) == {}
    assert await entries(bed) == {address: MAC}
    assert await bed.kernel.apply([Create(wanted)]) == {Create(wanted): EEXIST}
    other = Entry(SUBNET, wanted.link_index, wanted.address, "02:00:00:00:00:03")
    assert await bed.kernel.apply([Replace(other)]) == {}
    assert await entries(bed) == {address: other.mac}
    drop = Drop(KernelEntry(other.link_index, other.address, other.mac, permanent=True))
    assert await bed.kernel.apply([drop]) == {}
    assert await entries(bed) == {}
    assert await bed.kernel.apply([drop]) == {}


async def test_an_entry_that_was_learned_is_there_until_it_is_replaced(bed: Bed) -> None:
    """It refuses a creation, is listed as not permanent, and a replacement makes it ours."""
    await bed.add("eth0", NEAR, "stale", "02:00:00:00:00:09")
    wanted = Entry(SUBNET, await bed.index("eth0"), ip_address(NEAR), MAC)
    assert await bed.kernel.apply([Create(wanted)]) == {Create(wanted): EEXIST}
    (there,) = [
        one
        for one in await bed.kernel.objects(EntryListing(wanted.link_index))
        if one.identity == wanted.identity
    ]  # fmt: skip
    assert not there.permanent
    assert await bed.kernel.apply([Replace(wanted)]) == {}
    assert await entries(bed) == {NEAR: MAC}


async def test_one_refused_entry_of_many(bed: Bed) -> None:
    """An entry on a link that is not there is refused, and the others are put."""
    index = await bed.index("eth0")
    good = [Create(Entry(SUBNET, index, ip_address(f"192.168.77.{last}"), MAC)) for last in range(10, 30)]
    bad = Create(Entry(SUBNET, 9999, ip_address(NEAR), MAC))
    assert await bed.kernel.apply([*good[:10], bad, *good[10:]]) == {bad: ENODEV}
    assert len(await entries(bed)) == len(good)
