"""The contract of ``ports.Prober``: on the fake, and on real sockets of both forms in network namespaces."""

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from pyflanneld.core.probe.table import ProbeFailure, ProbeReply, ProbeResult
from pyflanneld.ports import Prober
from pyflanneld.system.prober import HostProber
from tests.support.fakes.prober import FakeProber, Way
from tests.support.network.namespaces import Namespace, namespace
from tests.support.polling import eventually

NEAR, GONE, UNROUTED = map(IPv4Address, ("10.9.0.2", "10.9.0.99", "203.0.113.1"))
NARROW, HOLE = map(IPv4Address, ("10.9.1.2", "10.9.2.2"))
NARROW_MTU = 1400


@dataclass
class Bench:
    """A prober, open, with hosts around it: one that answers, one behind a narrower link, one behind a silent one."""

    prober: Prober
    form: str

    async def answers(self, count: int, within_s: float = 5.0) -> list[ProbeResult]:
        """Return the first *count* answers that come."""
        found: list[ProbeResult] = []

        def enough() -> bool:
            found.extend(self.prober.answers())
            return len(found) >= count

        await eventually(enough, within_s)
        return found


def routed(us: Namespace, router: Namespace, far: Namespace) -> None:
    """Put a router between two hosts: behind it a link that takes 1400 bytes, and one that loses what is larger."""
    us.veth("eth0", "10.9.0.1/24", peer="eth0", peer_in=router)
    router.ip(f"address add {NEAR}/24 dev eth0")
    router.veth("eth1", "10.9.1.1/24", peer="eth0", peer_in=far)
    far.ip(f"address add {NARROW}/24 dev eth0")
    router.ip(f"link set eth1 mtu {NARROW_MTU}")
    router.veth("eth2", "10.9.2.1/24", peer="eth1", peer_in=far)
    far.ip(f"address add {HOLE}/24 dev eth1")
    router.run("nft", f"table ip hole {{ chain f {{ type filter hook forward priority 0; "
                      f"ip daddr {HOLE} ip length > {NARROW_MTU} drop; }}; }}")  # fmt: skip
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    for net in ("10.9.1.0/24", "10.9.2.0/24"):
        us.ip(f"route add {net} via {NEAR}")
    far.ip("route add 10.9.0.0/24 via 10.9.1.1")


FORMS = ["fake", *(pytest.param(form, marks=pytest.mark.netns) for form in ("icmp", "udp"))]


@pytest.fixture(params=FORMS)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "fake":
        fake = FakeProber()
        fake.ways = {
            NEAR: Way(),
            NARROW: Way(mtu=NARROW_MTU),
            HOLE: Way(mtu=NARROW_MTU, told=False),
            UNROUTED: Way(routed=False),
        }
        yield Bench(fake, fake.open())
        return
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    with ExitStack() as stack:
        us, router, far = (stack.enter_context(namespace()) for _ in range(3))
        routed(us, router, far)
        if request.param == "icmp":
            us.run("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
        prober = HostProber()
        with us.inside():
            form = prober.open()
        assert form == request.param
        yield Bench(prober, form)
        prober.close()


async def test_who_is_there_answers(bench: Bench) -> None:
    """Small and full-size probes come back with their number, the address, and a round trip that can be."""
    for number, size_bytes in ((7, 60), (65535, 1500)):
        assert bench.prober.send(number, NEAR, size_bytes)
        (answer,) = await bench.answers(1)
        assert isinstance(answer, ProbeReply)
        assert (answer.number, answer.address) == (number, NEAR)
        assert 0.0 <= answer.rtt_s < 5.0


async def test_who_is_not_there_does_not(bench: Bench) -> None:
    """A probe to nobody is lost or refused, never answered, and holds up no other."""
    numbers = range(2, 6)  # a host answers six UDP probes in a row, and then one a second
    assert bench.prober.send(1, GONE, 60)
    for number in numbers:
        assert bench.prober.send(number, NEAR, 60)
    found: list[ProbeResult] = []
    while len([answer for answer in found if isinstance(answer, ProbeReply)]) < len(numbers):
        found += await bench.answers(1)
    assert sorted(answer.number for answer in found if isinstance(answer, ProbeReply)) == list(numbers)


async def test_a_narrow_link_is_told(bench: Bench) -> None:
    """What does not fit is refused with the size that would; what fits comes through."""
    assert bench.prober.send(1, NARROW, 1500)
    assert await bench.answers(1) == [ProbeFailure(1, NARROW_MTU)]
    assert bench.prober.send(2, NARROW, NARROW_MTU)
    (answer,) = await bench.answers(1)
    assert (type(answer), answer.number) == (ProbeReply, 2)


async def test_a_hole_for_large_packets_says_nothing(bench: Bench) -> None:
    """A large probe is lost without a word, a small one after it comes back."""
    assert bench.prober.send(1, HOLE, 1500)
    assert bench.prober.send(2, HOLE, NARROW_MTU)
    (answer,) = await bench.answers(1)
    assert (type(answer), answer.number) == (ProbeReply, 2)


async def test_no_route_is_said_at_once(bench: Bench) -> None:
    """What cannot even leave is told by the call, and the next probe leaves."""
    assert not bench.prober.send(1, UNROUTED, 60)
    assert bench.prober.send(2, NEAR, 60)
    (answer,) = await bench.answers(1)
    assert answer.number == 2


async def test_nothing_is_there_at_first_and_twice(bench: Bench) -> None:
    """No answer before the first probe, and each answer once."""
    assert bench.prober.answers() == []
    assert bench.prober.send(1, NEAR, 60)
    await bench.answers(1)
    assert list(bench.prober.answers()) == []


async def test_closing_is_safe(bench: Bench) -> None:
    """Closed twice is closed once."""
    bench.prober.close()
    bench.prober.close()
