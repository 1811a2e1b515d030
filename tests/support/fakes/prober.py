"""``ports.Prober`` in memory: hosts that answer after a while, paths that carry no more than so much."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from pyflanneld.core.probe.table import ProbeFailure, ProbeReply, ProbeResult
from pyflanneld.errors import ProbeError


@dataclass
class Way:
    """The way to one address.

    Attributes:
        rtt_s: how long an answer takes; ``None``: nobody answers.
        mtu: what fits through.
        told: whether somebody says so when a packet does not.
        routed: whether the host has a route at all.
    """

    rtt_s: float | None = 0.001
    mtu: int = 1500
    told: bool = True
    routed: bool = True


class FakeProber:
    """The ways by address; an address without one has nobody who answers."""

    def __init__(self) -> None:
        self.ways: dict[IPv4Address, Way] = {}
        self.barred = False
        self.form = ""
        self.sent: list[tuple[float, IPv4Address, int]] = []
        self._coming: list[tuple[float, ProbeResult]] = []

    def open(self) -> str:
        if self.barred:
            raise ProbeError("the kernel allows neither an ICMP nor a UDP socket: Operation not permitted")
        self.form, self._coming = "icmp", []
        return self.form

    def send(self, number: int, address: IPv4Address, size_bytes: int) -> bool:
        assert self.form, "not open"
        now_s = asyncio.get_running_loop().time()
        way = self.ways.get(address, Way(rtt_s=None))
        if not way.routed:
            return False
        self.sent.append((now_s, address, size_bytes))
        if size_bytes > way.mtu:
            if way.told:
                self._coming.append((now_s, ProbeFailure(number, way.mtu)))
        elif way.rtt_s is not None:
            self._coming.append((now_s + way.rtt_s, ProbeReply(number, address, way.rtt_s)))
        return True

    def answers(self) -> Sequence[ProbeResult]:
        assert self.form, "not open"
        now_s = asyncio.get_running_loop().time()
        here = [answer for at_s, answer in self._coming if at_s <= now_s]
        self._coming = [(at_s, answer) for at_s, answer in self._coming if at_s > now_s]
        return here

    def close(self) -> None:
        self.form = ""
